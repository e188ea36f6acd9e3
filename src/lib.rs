//! Restart a service on `SIGHUP` without a refused connection or a lost request.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(not(target_os = "linux"))]
compile_error!("heirloom relies on pidfd, SCM_RIGHTS and SOCK_SEQPACKET as Linux has them");

#[cfg_attr(not(test), expect(dead_code, reason = "the server will call it"))]
mod connection;
mod limits;
mod request;
#[allow(dead_code, reason = "the server will call it")]
mod roster;
#[allow(dead_code, reason = "the server will call it")]
mod status;

pub use connection::Handler;

pub use http_types;
pub use http_types::{Body, Response, StatusCode};
pub use limits::Limits;
pub use request::Request;
pub use status::{Phase, Status};
