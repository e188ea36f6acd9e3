//! Restart a service on `SIGHUP` without a refused connection or a lost request.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(not(target_os = "linux"))]
compile_error!("heirloom relies on pidfd, SCM_RIGHTS and SOCK_SEQPACKET as Linux has them");

mod roster;
mod status;

pub use http_types;
pub use http_types::{Body, Response, StatusCode};
pub use status::{Phase, Status};
