//! Restart a service on `SIGHUP` without a refused connection or a lost
//! request.
//!
//! A process that serves with [`Server`] replaces itself when it gets a
//! `SIGHUP`: it starts the executable it was started from, hands its listening
//! sockets and its open connections to that successor, and goes once the
//! successor serves and nothing is in flight any more. The successor has read
//! its configuration anew and may be a new version of the program. If anything
//! goes wrong with it, the process that was there goes on. Clients notice
//! nothing of it: their connections stay open.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use heirloom::{Response, Server};
//!
//! fn main() -> heirloom::Result<ExitCode> {
//!     heirloom::run(|generation| {
//!         Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
//!             .generation(generation)
//!             .listen("127.0.0.1:8000")
//!             .serve()
//!     })
//! }
//! ```
//!
//! From the top, you will meet a function and three types:
//!
//! - [`run`] is the whole of a `main`: it begins the generation, runs what you
//!   make of it, and lets the first process stay where that is needed, as in a
//!   container.
//! - [`Server`] is what you configure and run: a handler, addresses, timeouts.
//! - [`Request`] is what a handler gets; it answers with a [`Response`]. Both
//!   are those of [`http_types`], the request with what a server knows besides.
//!   Instead of them, [`Server::raw`] gives a handler each [`Connection`].
//! - [`Generation`] is this process as one of a chain. A `main` that has an
//!   executor of its own begins it itself, before it reads its configuration.
//!
//! [`Status`] tells handlers and background tasks whether the process is
//! draining, and lets them hold its exit; [`Transition`] tells a callback what
//! happens to it; and from outside, the command `heirloom` asks at a control
//! socket ([`Server::control_socket`]) and comes back when a restart is done.
//!
//! The [`guide`] tells how a restart works, how to deploy in which environment,
//! and what to do about what is in the log.
//!
//! # What happens when
//!
//! | phase | accepts | ends with |
//! |---|---|---|
//! | [`Serving`](Phase::Serving) | yes | `SIGHUP`: a successor is started; `SIGTERM`: draining |
//! | [`Forking`](Phase::Forking) | yes | a check fails; or the successor asks for the listeners, or is lost |
//! | [`Handoff`](Phase::Handoff) | yes | the successor is ready, or is lost |
//! | [`Draining`](Phase::Draining) | no | nothing is in flight any more, the drain's deadline, or, on probation, the loss of the successor |
//!
//! Before a successor is started, it can be checked whether it should be
//! ([`Server::check_command`], [`Server::check`]); that belongs to its start.
//! It is lost when it cannot be started, exits, is killed, hangs up,
//! says what it should not, is not ready in time, or does not take the
//! connections it is given. Until it is ready that has no consequence but a
//! line in the log; during its probation the predecessor accepts again, and
//! serves the connections that the successor has left clean.
//!
//! A `SIGHUP` during a restart is remembered and leads to another restart, so
//! the last one is always followed by a reading of the configuration. A
//! `SIGTERM` or `SIGINT` wins over a restart that is under way.
//!
//! # In the log
//!
//! The library logs through [`log`], with the target of its modules.
//!
//! | line | meaning |
//! |---|---|
//! | `generation N (pid P) serves on …` | this process accepts connections |
//! | `restarting: starting …` | a `SIGHUP` was heard |
//! | `checking first: running …`, `the check has passed, in …` | the command that has to succeed before anything is started ([`Server::check_command`]) |
//! | `the check by the application has passed` | the same of [`Server::check`] |
//! | `a restart would fail: the environment file …` | told at the start of the first process, which needs it only then |
//! | `successor P, which somebody else has started, asks to take over` | the same, but for its start ([`Server::takeover`]); the other side says `taking over the service at …` |
//! | `a takeover is refused: …` | the reason; the process that has asked says it too, and does not start |
//! | `successor P hangs, or cannot be told that it is dismissed: it is killed` | only of one that somebody else has started; others always are |
//! | `successor P has claimed the listeners` | it has read its configuration |
//! | `successor P takes over … after its start; handing over N busy and M idle connections` | from here on it accepts; `draining` if they stay ([`Server::hand_over`]) |
//! | `successor P has what could move: N connections handed over, M kept, K closed, in …` | only those that are busy or cannot move are still here |
//! | `the successor has no room for …` | it may not open as many connections or files; what is left ends here, politely |
//! | `N connections were taken over from the predecessor` | no more will come |
//! | `successor P has passed its probation` | from here on nothing is taken back |
//! | `restart failed: successor P, waiting for its claim: …` | the reason; nothing has changed |
//! | `restart failed: the successor, starting: …` | the same before there was a process: a check has failed, its environment could not be had, or it could not be started |
//! | `restart undone: successor P, serving on probation: …` | it was lost on probation; this process accepts again |
//! | `restart undone: successor P, publishing its process ID: …` | so it was, or could not write its PID file, or took more than five seconds for that, when the time of its probation was over |
//! | `predecessor P has not come to an end in time and seems to hang; it is killed …` | it stood still while this process was on probation, for ten seconds more than its probation and its [`drain_timeout`](Server::drain_timeout) take; requests that it was at work on are lost. Under systemd it is left to the watchdog (`WatchdogSec=`); without one somebody has to kill it |
//! | `took back N of M connections …` | which of those that had been handed over go on here |
//! | `stopping in …; unready from now on` | a `SIGTERM` was heard, and its delay ([`Server::shutdown_delay`]) has begun |
//! | `the drain ends with N connections in flight`, `cut off: …` | the deadline of the drain, or a second `SIGTERM`; who was cut off, doing what, for how long |
//! | `generation N exits … after it stopped accepting` | the end of this process |
//! | `nothing is in flight any more; waiting for …` | only under a supervisor: older generations exit first, see below |
//! | `process P becomes a stub that follows the generations` | the first process stays, see [below](#in-containers-and-on-terminals) |
//! | `the stub exits with status N` | no generation is left |
//! | `process 1 exits, which ends the container …` | its successor serves, but is killed by that |
//! | `the terminal is gone` | a `SIGHUP` that is a stop |
//! | `…, which systemd passed as …, is not asked for` | it stays open, and is there for a successor that asks for it |
//! | `the supervisor could not be told something` | told once, until it works again |
//! | `a control connection of user U is refused …` | somebody else than the user of the service, or root, has found a way to its control socket; told once |
//! | `cannot accept connections on …` | usually too many open files, or that there would be too many for a restart; told once, tried again until it works |
//!
//! # What a successor inherits
//!
//! The path of the executable as it was invoked (a symbolic link is followed
//! anew), the arguments, the working directory, the environment, and standard
//! input, output and error. Nothing else: every descriptor of the library is
//! close-on-exec, and listeners travel over a private socket. Until
//! [`Generation::begin`], standard input of a successor is that socket.
//!
//! Not in its environment is what systemd meant for the first process alone
//! (`LISTEN_PID` and its like, and `WATCHDOG_PID`). What else is to be another
//! one there is up to [`Server::environment_file`] and [`Server::environment`].
//!
//! # Under systemd
//!
//! Nothing has to be switched on: if there is a `NOTIFY_SOCKET`, its owner is
//! told what happens, as `sd_notify(3)` says. `Type=notify` and, from systemd
//! 253 on, `Type=notify-reload` work with the default `NotifyAccess=main`;
//! `examples/heirloom.service` is a unit that explains itself.
//!
//! | when | said by | what |
//! |---|---|---|
//! | the first process accepts | it | `READY=1` |
//! | a restart begins | the predecessor | `RELOADING=1`, `MONOTONIC_USEC` |
//! | the successor has published itself, and is about to be proven | the predecessor | `MAINPID` of the successor, `READY=1` |
//! | a restart has failed or was undone | the predecessor | `READY=1`, and the reason as `STATUS` |
//! | the service stops | the last process, or the predecessor while its successor is on probation | `STOPPING=1` |
//! | a restart or a stop takes long | whoever has announced it | `EXTEND_TIMEOUT_USEC` |
//! | `WATCHDOG_USEC` is set | whoever is the main process, from the thread that serves | `WATCHDOG=1` |
//!
//! `STATUS` is a line such as "handing over 412 connections to successor 4711".
//! Under a supervisor a process waits with its exit for older generations that
//! still answer requests, because systemd ends a service with its main process.
//!
//! Sockets that systemd has opened are listened on by
//! [`listen("systemd:NAME")`](Server::listen), where the name is the
//! `FileDescriptorName=` of the socket unit, or that of the unit itself. They
//! are handed over like all others. A configuration may drop one and come back
//! to it: it is never closed before the last process exits, and its file is
//! never removed. If any process of the service is asked for a name that was
//! not passed to the first one, it does not start.
//!
//! # In containers and on terminals
//!
//! Where the end of the first process would be taken for that of the service,
//! it stays: as process 1 of a container, in the foreground of a terminal, and
//! where [`Server::pid_one_stub`] says so. That takes a `main` that is [`run`].
//!
//! | what | is done by the first process, once its successors serve |
//! |---|---|
//! | `SIGHUP`, `SIGTERM`, `SIGINT` | passed on to the generations that are there, each of which counts a stop once, even if it gets the same signal itself |
//! | `SIGQUIT`, `SIGUSR1`, `SIGUSR2` | passed on to the main one, if it is not the kernel that sends them to the whole job; by the stub only |
//! | an orphan has ended | reaped, by the stub |
//! | the last generation has ended | it exits with the status of the last main one, or with 128 and the number of the signal that has killed that |
//! | the main one has crashed, and older ones drain | they are given five seconds |
//!
//! A `SIGHUP` within five seconds after the controlling terminal has gone away
//! is a stop; any other one is a restart. If `SIGHUP` was ignored when the
//! first process was started, as by nohup(1), it is always a restart.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(not(target_os = "linux"))]
compile_error!("heirloom relies on pidfd, SCM_RIGHTS and SOCK_SEQPACKET as Linux has them");

mod connection;
mod control;
mod environment;
mod error;
mod generation;
mod handoff;
mod invocation;
mod ledger;
mod lifecycle;
mod limits;
mod listener;
mod parcel;
mod pid_file;
mod raw;
mod reactor;
mod request;
mod roster;
#[cfg(test)]
mod seeds;
mod server;
mod status;
mod stub;
mod supervisor;
mod terminal;
mod transition;

#[doc = include_str!("guide.md")]
pub mod guide {}

/// What the fuzzers in `tests/fuzz` call; no part of the library.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    /// Request heads.
    pub fn head(bytes: &[u8]) {
        crate::connection::oracle::head(bytes);
    }

    /// Chunked bodies.
    pub fn chunks(bytes: &[u8]) {
        crate::connection::oracle::chunks(bytes);
    }

    /// What the ends of a handoff say to each other.
    pub fn handoff(script: &[u8]) {
        crate::handoff::oracle::check(script);
    }

    /// Whole connections.
    pub fn connection(script: &[u8]) {
        crate::connection::oracle::exchange(script);
    }
}

pub use connection::Handler;
pub use environment::Environment;
pub use error::{Error, Result};
pub use generation::Generation;
pub use http_types;
pub use http_types::{Body, Response, StatusCode};
pub use lifecycle::Phase;
pub use limits::Limits;
pub use raw::{Connection, Rest, Served};
pub use request::Request;
pub use server::Server;
pub use status::{Hold, Status};
pub use stub::run;
pub use transition::{HandoverSummary, Transition};
