//! The asking side of a takeover: a process that nobody has started to take
//! over, and that wants to.
//!
//! It asks at the control socket like any other client. If it is granted, the
//! answer brings one end of a channel along, on which the handoff goes on as
//! between a predecessor and a successor that it has started ([`crate::handoff`]).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use async_io::{Async, Timer};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recvmsg, send, socket_with, sockopt,
};
use rustix::process::geteuid;
use smol::future::FutureExt as _;

use super::message::{Answer, Request};
use crate::error::{Error, Result, legible};
use crate::handoff::message::VERSION;

/// How long the service may take until it has answered. It does so at once, so
/// this is for one that was stopped or hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause before it is tried again to connect to a service whose queue is
/// full.
const PAUSE: Duration = Duration::from_millis(20);

/// How long an answer may be, in bytes.
const LONGEST_ANSWER: usize = 4096;

/// Asks the service that hears requests at `path` for what it has; `None` if
/// there is none.
///
/// # Errors
///
/// If there is one and it does not grant it, or does not answer, or if it is
/// not a service of this user, or of root.
pub(crate) async fn apply(path: &Path) -> Result<Option<OwnedFd>> {
    let asked = async {
        match dial(path).await? {
            Some(connection) => ask(&connection).await.map(Some),
            None => Ok(None),
        }
    };
    let late = async {
        Timer::after(PATIENCE).await;
        Err(format!("it has not answered in {PATIENCE:?}"))
    };
    let asked = asked.or(late).await;
    asked.map_err(|problem| Error::takeover(path, problem))
}

/// Connects; `None` if nobody listens there.
async fn dial(path: &Path) -> std::result::Result<Option<Async<OwnedFd>>, String> {
    let unreachable = |error: Errno| format!("it cannot be reached: {}", io::Error::from(error));
    let name = SocketAddrUnix::new(path).map_err(unreachable)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connection = loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(unreachable)?;
        match connect(&socket, &name) {
            Ok(()) => break socket,
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(Errno::AGAIN) => drop(Timer::after(PAUSE).await),
            Err(Errno::INTR) => {}
            Err(error) => return Err(unreachable(error)),
        }
    };
    // What it gives us, we serve. Fails if it has no process ID here.
    let Ok(owner) = sockopt::socket_peercred(&connection) else {
        return Err("it is in another PID namespace, so nobody knows whose it is".to_owned());
    };
    if !owner.uid.is_root() && owner.uid != geteuid() {
        return Err("it belongs to another user".to_owned());
    }
    let connection = Async::new_nonblocking(connection);
    connection.map(Some).map_err(|error| error.to_string())
}

/// Asks, and returns the channel that is granted.
async fn ask(connection: &Async<OwnedFd>) -> std::result::Result<OwnedFd, String> {
    let mut line = serde_json::to_vec(&Request::Takeover { version: VERSION })
        .map_err(|error| error.to_string())?;
    line.push(b'\n');
    // The buffer is empty, and this far shorter. That it is not wanted is found
    // out by listening.
    let _ = send(connection.get_ref(), &line, SendFlags::NOSIGNAL);
    let (line, mut descriptors) = hear(connection)
        .await
        .map_err(|error| format!("its answer cannot be read: {error}"))?;
    if line.is_empty() {
        return Err(
            "it hangs up without a word, as it does to other users than its own and \
                    root, and when it is killed"
                .to_owned(),
        );
    }
    match serde_json::from_slice(&line) {
        Ok(Answer::Granted) => match (descriptors.pop(), descriptors.pop()) {
            (Some(channel), None) => Ok(channel),
            _ => Err("it has granted it, but sent no channel along".to_owned()),
        },
        Ok(Answer::Refused { reason }) => Err(format!("it refuses: {}", legible(&reason))),
        Ok(_) | Err(_) => {
            let line = legible(&String::from_utf8_lossy(&line));
            Err(format!("its answer is not understood: {line}"))
        }
    }
}

/// Reads a line, and takes what comes with it.
async fn hear(connection: &Async<OwnedFd>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = vec![0; LONGEST_ANSWER];
    let (mut filled, mut descriptors) = (0, Vec::new());
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            connection.get_ref(),
            &mut [IoSliceMut::new(&mut line[filled..])],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        );
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        match received.map(|received| received.bytes) {
            Ok(0) if filled == LONGEST_ANSWER => {
                return Err(io::Error::other("it is too long"));
            }
            Ok(0) => {
                line.truncate(filled);
                return Ok((line, descriptors));
            }
            Ok(bytes) => {
                let fresh = filled..filled + bytes;
                filled = fresh.end;
                if let Some(end) = memchr::memchr(b'\n', &line[fresh.clone()]) {
                    line.truncate(fresh.start + end);
                    return Ok((line, descriptors));
                }
            }
            Err(Errno::AGAIN) => connection.readable().await?,
            Err(Errno::INTR) => {}
            // It was closed with something of ours unread.
            Err(Errno::CONNRESET) => {
                line.truncate(filled);
                return Ok((line, descriptors));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
