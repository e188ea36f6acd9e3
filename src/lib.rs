//! Restart a service on `SIGHUP` without a refused connection or a lost
//! request.
//!
//! A process that serves with [`Server`] replaces itself when it gets a
//! `SIGHUP`: it starts the executable it was started from, hands its listening
//! sockets to that successor, and goes once the successor serves and nothing is
//! in flight any more. The successor has read its configuration anew and may be
//! a new version of the program. If anything goes wrong with it, the process
//! that was there goes on.
//!
//! ```no_run
//! use heirloom::{Response, Server};
//!
//! fn main() -> heirloom::Result<()> {
//!     Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
//!         .listen("127.0.0.1:8000")
//!         .run()
//! }
//! ```
//!
//! From the top, you will meet three types:
//!
//! - [`Server`] is what you configure and run: a handler, addresses, timeouts.
//! - [`Request`] is what a handler gets; it answers with a [`Response`]. Both
//!   are those of [`http_types`], the request with what a server knows besides.
//! - [`Generation`] is this process as one of a chain. A `main` that does
//!   something before it makes a server, such as reading a configuration,
//!   begins its generation first.
//!
//! [`Status`] tells handlers and background tasks whether the process is
//! draining; [`Transition`] tells a callback what happens to it; and from
//! outside, the command `heirloom` asks at a control socket
//! ([`Server::control_socket`]) and comes back when a restart is done.
//!
//! # What happens when
//!
//! | phase | accepts | ends with |
//! |---|---|---|
//! | [`Serving`](Phase::Serving) | yes | `SIGHUP`: a successor is started; `SIGTERM`: draining |
//! | [`Forking`](Phase::Forking) | yes | the successor asks for the listeners, or is lost |
//! | [`Handoff`](Phase::Handoff) | yes | the successor is ready, or is lost |
//! | [`Draining`](Phase::Draining) | no | nothing is in flight any more, the drain's deadline, or, on probation, the loss of the successor |
//!
//! A successor is lost when it cannot be started, exits, is killed, hangs up,
//! says what it should not, or is not ready in time. Until it is ready that has
//! no consequence but a line in the log; during its probation the predecessor
//! accepts again.
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
//! | `successor P has claimed the listeners` | it has read its configuration |
//! | `successor P takes over … after its start; draining N busy and M idle connections` | from here on it accepts |
//! | `successor P has passed its probation` | from here on nothing is taken back |
//! | `restart failed: successor P, waiting for its claim: …` | the reason; nothing has changed |
//! | `restart undone: successor P, serving on probation: …` | it was lost on probation; this process accepts again |
//! | `the drain ends with N connections in flight`, `cut off: …` | the deadline of the drain, or a second `SIGTERM`; who was cut off, doing what, for how long |
//! | `generation N exits … after it stopped accepting` | the end of this process |
//! | `a control connection of user U is refused …` | somebody else than the user of the service, or root, has found a way to its control socket; told once |
//! | `cannot accept connections on …` | usually too many open files; told once, tried again until it works |
//!
//! # What a successor inherits
//!
//! The path of the executable as it was invoked (a symbolic link is followed
//! anew), the arguments, the working directory, the environment, and standard
//! input, output and error. Nothing else: every descriptor of the library is
//! close-on-exec, and listeners travel over a private socket. Until
//! [`Generation::begin`], standard input of a successor is that socket.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(not(target_os = "linux"))]
compile_error!("heirloom relies on pidfd, SCM_RIGHTS and SOCK_SEQPACKET as Linux has them");

mod connection;
mod control;
mod error;
mod generation;
mod handoff;
mod invocation;
mod ledger;
mod lifecycle;
mod limits;
mod listener;
mod pid_file;
mod request;
mod roster;
mod server;
mod status;
mod transition;

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

    /// Whole connections.
    pub fn connection(script: &[u8]) {
        crate::connection::oracle::exchange(script);
    }
}

pub use connection::Handler;
pub use error::{Error, Result};
pub use generation::Generation;
pub use http_types;
pub use http_types::{Body, Response, StatusCode};
pub use lifecycle::Phase;
pub use limits::Limits;
pub use request::Request;
pub use server::Server;
pub use status::Status;
pub use transition::{HandoverSummary, Transition};
