//! Restart a service on `SIGHUP` without a refused connection or a lost request.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(not(target_os = "linux"))]
compile_error!("heirloom relies on pidfd, SCM_RIGHTS and SOCK_SEQPACKET as Linux has them");

mod connection;
mod error;
mod generation;
mod handoff;
mod invocation;
mod lifecycle;
mod listener;
mod pid_file;
mod request;
mod roster;
mod server;
mod status;
mod transition;

pub use connection::Limits;
pub use error::{Error, Result};
pub use generation::Generation;
pub use http_types;
pub use http_types::{Body, Response, StatusCode};
pub use lifecycle::Phase;
pub use request::Request;
pub use server::Server;
pub use status::Status;
pub use transition::Transition;
