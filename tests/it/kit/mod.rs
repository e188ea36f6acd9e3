//! The test kit: it starts real services, talks to them, and watches them, in
//! the words of the domain, so that a test reads as a short story.
//!
//! # Two rules
//!
//! - **Nothing sleeps.** Whatever a test waits for is a fact that the kernel
//!   reports: a line in the log, the end of a pipe, a pidfd, bytes on a socket.
//!   Each wait has the deadline [`PATIENCE`], which only a failure reaches.
//! - **Nothing leaks.** A [`Service`] is a process group, killed and reaped as a
//!   whole when the service is dropped, also when the test has failed, and by a
//!   [`Tether`] when the tests are killed. A failed test prints the log of its
//!   services.

mod binary;
mod chance;
mod client;
mod config;
mod container;
mod control;
mod descriptors;
mod fake;
mod false_predecessor;
mod false_successor;
mod far_end;
mod load;
mod log;
mod notify;
mod page;
mod process;
mod program;
mod service;
mod systemd;
mod terminal;
mod tether;

use std::time::Duration;

use smol::future::FutureExt as _;

pub(crate) use self::binary::{Binary, copy_command, example, rust_files};
pub(crate) use self::chance::Chance;
pub(crate) use self::client::{Address, Answer, Client, Failure};
pub(crate) use self::config::{Config, Whom};
pub(crate) use self::container::Container;
pub(crate) use self::control::{Asked, ControlClient, Outcome};
pub(crate) use self::descriptors::{can_open, possible_descriptors};
pub(crate) use self::fake::Fake;
pub(crate) use self::false_predecessor::{FalsePredecessor, Guest};
pub(crate) use self::false_successor::{Batch, FalseSuccessor};
pub(crate) use self::far_end::FarEnd;
pub(crate) use self::load::{Connections, Load, Tally};
pub(crate) use self::log::Log;
pub(crate) use self::notify::NotifySocket;
pub(crate) use self::page::Page;
pub(crate) use self::process::{End, ON_THE_WAY, Process};
pub(crate) use self::program::{Program, Running, say_skipped};
pub(crate) use self::service::{BLESS, FailedRestart, Held, Launch, Service, pid_in};
pub(crate) use self::systemd::Systemd;
pub(crate) use self::terminal::Shell;
pub(crate) use self::tether::Tether;

/// How long a test waits for a fact before it gives up.
///
/// Generous, because a machine that builds at the same time can be slow, and
/// because a test that passes never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The part of [`PATIENCE`] that is spent at a time.
///
/// A virtual machine can stand still as a whole, for longer than any deadline.
/// Where a wait goes on in slices, that costs it one of them.
const SLICE: Duration = Duration::from_secs(1);

/// Waits for the end of a story that is told in futures.
pub(crate) fn within<T>(story: impl Future<Output = T>) -> T {
    smol::block_on(story.or(async {
        smol::Timer::after(PATIENCE).await;
        panic!("the peer let us wait for too long");
    }))
}
