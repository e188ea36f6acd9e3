//! Tests with real processes: the `api` example is started, restarted, stopped,
//! damaged and asked from outside, as an operator and its clients would.
//!
//! Each module is about one promise of the library, and the name of a test
//! restates a part of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic, and shows what it saw when it does"
)]

mod abuse;
mod activation;
mod bad_predecessor;
mod bad_successor;
mod checks;
mod clients;
mod conformance;
mod control;
mod descriptors;
mod drain;
mod environment;
mod examples;
mod failure;
mod handover;
mod http;
mod inheritance;
mod kill;
mod kit;
mod limits;
mod listeners;
mod load;
mod packets;
mod patience;
mod pid_one;
mod proxy;
mod restart;
mod signals;
mod supervisor;
mod systemd;
mod takeover;
mod terminal;
mod tidy;
mod upgrade;
