//! Sockets that systemd has opened and passed to this process: socket
//! activation, as sd_listen_fds(3) describes it.
//!
//! They are meant for the one process that `LISTEN_PID` names. Successors get
//! them by way of the handoff, like all listeners, with the name by which
//! systemd passed them.

use std::io;
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{SocketType, sockopt};
use rustix::process::Resource;

/// Where the descriptors begin (sd_listen_fds(3)).
const FIRST: usize = 3;

/// What a socket is called that has no name of its own
/// (sd_listen_fds_with_names(3)).
const UNNAMED: &str = "unknown";

/// Set once the descriptors are owned here.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Keeps what systemd has passed to this process from being inherited by its
/// children. Whose it is does not change.
pub(crate) fn seal() {
    for (_, descriptor) in passed().unwrap_or_default() {
        // If it is not open, there is nothing to be inherited.
        let _ = fcntl_setfd(&descriptor, FdFlags::CLOEXEC);
        leave(descriptor);
    }
}

/// Takes the listening stream sockets that systemd has passed to this process,
/// with their names; the second time there is nothing left.
///
/// Of those that are not asked for by name it takes a copy: the application
/// may have uses for them. What is anything else is left to it anyway.
pub(super) fn take(is_asked_for: impl Fn(&str) -> bool) -> io::Result<Vec<(String, OwnedFd)>> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let mut taken = Vec::new();
    for (number, (name, descriptor)) in passed()?.into_iter().enumerate() {
        let name = name.filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| UNNAMED.to_owned());
        if !is_listening_stream(&descriptor) {
            let number = FIRST + number;
            let problem = match fcntl_getfd(&descriptor) {
                Ok(_) => "is not a listening stream socket; it is left alone",
                Err(_) => "is not open",
            };
            log::warn!("descriptor {number}, which systemd passed as `{name}`, {problem}");
            leave(descriptor);
        } else if is_asked_for(&name) {
            taken.push((name, descriptor));
        } else {
            let copy = descriptor.try_clone();
            leave(descriptor);
            taken.push((name, copy?));
        }
    }
    Ok(taken)
}

fn is_listening_stream(descriptor: &OwnedFd) -> bool {
    // An error means that it is no socket, or not even open.
    sockopt::socket_type(descriptor) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(descriptor) == Ok(true)
}

/// What the environment says was passed to this process.
fn passed() -> io::Result<Vec<(Option<String>, OwnedFd)>> {
    let wrong = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
    // Memory is reserved for as many as there are said to be.
    let number = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|number| number.parse::<u64>().ok());
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    if number > Some(limit.unwrap_or(u64::MAX).min(1 << 20)) {
        return Err(wrong("LISTEN_FDS is more than can be open"));
    }
    let passed =
        sd_listen_fds::get().map_err(|_| wrong("LISTEN_PID or LISTEN_FDS is no number"))?;
    let passed = passed.into_iter();
    Ok(passed
        .map(|(name, descriptor)| (name, descriptor.into_std()))
        .collect())
}

/// Gives up a descriptor without closing it.
fn leave(descriptor: OwnedFd) {
    let _ = descriptor.into_raw_fd();
}
