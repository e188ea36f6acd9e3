//! The application's state: bytes that one generation leaves to the next.
//!
//! They go through a stream of their own, so that neither their number nor a
//! reader that is slow holds up the messages of the handoff or the thread that
//! serves.

use std::error::Error as StdError;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use async_io::{Async, Timer};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use smol::future::{self, FutureExt as _};

use crate::error::{Error, Result};
use crate::handoff::successor::Predecessor;

/// What the application does with its state, and how much of it there may be.
pub(super) struct State {
    pub(super) max_bytes: u64,
    pub(super) offer: Option<Offer>,
    pub(super) accept: Option<Accept>,
}

pub(super) type Problem = Box<dyn StdError + Send + Sync>;
pub(super) type Offer = Box<dyn FnMut() -> std::result::Result<Vec<u8>, Problem>>;
pub(super) type Accept = Box<dyn FnOnce(Vec<u8>) -> std::result::Result<(), Problem>>;

impl Default for State {
    fn default() -> Self {
        State {
            max_bytes: 64 << 20,
            offer: None,
            accept: None,
        }
    }
}

/// How long the other side may take for the next bytes.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much is written or read before others get their turn.
const PIECE: usize = 64 * 1024;

/// State on its way to the successor.
pub(super) struct Offered {
    /// The successor's end of the stream.
    pub(super) stream: OwnedFd,
    pub(super) bytes: u64,
    ours: OwnedFd,
    state: Vec<u8>,
}

impl State {
    /// Asks the application for its state; `None`: it has none to leave.
    pub(super) fn offer(&mut self) -> std::result::Result<Option<Offered>, String> {
        let Some(offer) = &mut self.offer else {
            return Ok(None);
        };
        // A panic is a failed restart, too, and not the end of the process that
        // serves.
        let state = catch_unwind(AssertUnwindSafe(offer))
            .map_err(|_| "it panicked".to_owned())?
            .map_err(|problem| problem.to_string())?;
        let bytes = state.len() as u64;
        if bytes > self.max_bytes {
            return Err(too_large(bytes, self.max_bytes));
        }
        let (ours, stream) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| error.to_string())?;
        Ok(Some(Offered {
            stream,
            bytes,
            ours,
            state,
        }))
    }

    /// Reads what the predecessor has left and gives it to the application.
    pub(super) async fn accept(
        &mut self,
        stream: OwnedFd,
        bytes: u64,
        predecessor: &mut Predecessor,
    ) -> Result<()> {
        let Some(accept) = self.accept.take() else {
            log::debug!("the predecessor left {bytes} bytes of state, which nobody wants");
            return Ok(());
        };
        if bytes > self.max_bytes {
            return Err(Error::state(too_large(bytes, self.max_bytes)));
        }
        const STEP: &str = "reading the application's state";
        match read(stream, bytes).await {
            Ok(state) => accept(state).map_err(Error::state),
            // Nobody else would serve, so we do, as if it had died before it
            // sent anything.
            Err(error) if is_end(&error) && predecessor.is_ending(STEP).await? => {
                log::warn!(
                    "predecessor {} died before it handed over the state of the application: {error}",
                    predecessor.pid()
                );
                Ok(())
            }
            Err(error) => Err(Error::state(error)),
        }
    }
}

/// Whether the other end of a stream was closed.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

impl Offered {
    /// Writes the state, as fast as the successor takes it.
    ///
    /// What goes wrong here is found out by the successor, which then gives
    /// up, or has given up already.
    pub(super) async fn deliver(self) {
        let Offered {
            stream,
            ours,
            state,
            bytes,
        } = self;
        // The end of the successor must be the end of the stream.
        drop(stream);
        match write(ours, &state).await {
            Ok(()) => log::debug!("the successor has been given {bytes} bytes of state"),
            // One that gives up, or does not want any, hangs up.
            Err(error) => log::debug!("the application's state was not taken: {error}"),
        }
    }
}

fn too_large(bytes: u64, most: u64) -> String {
    format!("there are {bytes} bytes of it, and at most {most} are allowed")
}

async fn write(stream: OwnedFd, state: &[u8]) -> io::Result<()> {
    let stream = Async::new_nonblocking(stream)?;
    let mut rest = state;
    while !rest.is_empty() {
        let piece = &rest[..rest.len().min(PIECE)];
        match send(stream.get_ref(), piece, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                rest = &rest[sent..];
                future::yield_now().await;
            }
            Err(Errno::AGAIN) => within(stream.writable()).await?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn read(stream: OwnedFd, bytes: u64) -> io::Result<Vec<u8>> {
    let stream = Async::new_nonblocking(stream)?;
    let mut state = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        // Nobody knows in which mode the predecessor has left it.
        match recv(stream.get_ref(), &mut piece[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) if state.len() as u64 == bytes => return Ok(state),
            Ok((0, _)) => {
                let problem = format!("only {} of {bytes} bytes came", state.len());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
            }
            Ok((received, _)) => {
                state.extend_from_slice(&piece[..received]);
                if state.len() as u64 > bytes {
                    let problem = format!("more than {bytes} bytes came");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
                }
            }
            Err(Errno::AGAIN) => within(stream.readable()).await?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn within(ready: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let patience = async {
        Timer::after(PATIENCE).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    ready.or(patience).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offering(state: Vec<u8>) -> State {
        State {
            offer: Some(Box::new(move || Ok(state.clone()))),
            ..State::default()
        }
    }

    #[test]
    fn state_of_any_size_arrives_as_it_is() {
        for size in [0, 1, PIECE, 5 * PIECE + 3, 3 << 20] {
            let state: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let offered = offering(state.clone()).offer().unwrap().unwrap();
            let stream = offered.stream.try_clone().unwrap();
            let bytes = offered.bytes;
            let (_, arrived) = smol::block_on(future::zip(offered.deliver(), read(stream, bytes)));
            assert!(arrived.unwrap() == state, "{size}");
        }
    }

    #[test]
    fn state_that_is_cut_short_is_an_error() {
        let offered = offering(vec![1; 10]).offer().unwrap().unwrap();
        let stream = offered.stream.try_clone().unwrap();
        drop(offered);
        let error = smol::block_on(read(stream, 10)).unwrap_err();
        assert_eq!(error.to_string(), "only 0 of 10 bytes came");
    }

    #[test]
    fn who_panics_over_its_state_has_none_to_offer() {
        let mut state = State {
            offer: Some(Box::new(|| panic!("as asked"))),
            ..State::default()
        };
        let problem = state.offer().map(|_| ()).unwrap_err();
        assert_eq!(problem, "it panicked");
    }

    #[test]
    fn state_beyond_the_limit_is_not_sent() {
        let mut state = offering(vec![1; 11]);
        state.max_bytes = 10;
        let problem = state.offer().map(|_| ()).unwrap_err();
        assert_eq!(
            problem,
            "there are 11 bytes of it, and at most 10 are allowed"
        );
    }
}
