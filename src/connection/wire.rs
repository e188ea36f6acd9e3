//! The socket, and the bytes read from it that nobody has used yet.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::Async;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};

use super::buffer::Buffer;

/// How much memory a read has at least.
pub(super) const READ_BYTES: usize = 4096;

/// A socket and its read buffer, together for as long as a conversation
/// lasts: bytes read ahead belong to whoever owns the socket.
pub(super) struct Wire {
    pub(super) socket: Async<OwnedFd>,
    pub(super) input: Buffer,
    supply: Supply,
    /// The peer will send no more.
    pub(super) ended: bool,
}

impl Wire {
    pub(super) fn new(socket: Async<OwnedFd>, input: Buffer) -> Self {
        Wire {
            socket,
            input,
            supply: Supply::Unknown,
            ended: false,
        }
    }

    /// Waits until there is something to read, be it the end or an error,
    /// without reading it.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Why the reactor is not relied on: `poll_receive`.
        while !is_readable(&self.socket) {
            if std::task::ready!(self.socket.poll_readable(cx)).is_err() {
                // The read that follows tells it.
                break;
            }
        }
        Poll::Ready(())
    }

    /// Reads into the input buffer; 0 is the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(READ_BYTES);
        let room = self.input.room();
        let received = std::task::ready!(poll_receive(&self.socket, room, &mut self.supply, cx))?;
        self.input.commit(received);
        self.ended |= received == 0;
        Poll::Ready(Ok(received))
    }

    /// Reads past the input buffer, which must be empty; 0 is the end of the
    /// stream.
    pub(super) fn poll_bypass(
        &mut self,
        into: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let received = std::task::ready!(poll_receive(&self.socket, into, &mut self.supply, cx))?;
        self.ended |= received == 0;
        Poll::Ready(Ok(received))
    }
}

/// What is known of the bytes that a socket has for us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Supply {
    Unknown,
    /// The last read left nothing behind, so that a next one would be in vain
    /// until the reactor says otherwise.
    Dry,
    /// The same, and the reactor has been told whom to wake.
    Awaited,
}

/// Reads what there is into `into`, which is not empty; 0 is the end.
pub(super) fn poll_receive(
    socket: &Async<OwnedFd>,
    into: &mut [u8],
    supply: &mut Supply,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        let was = *supply;
        let registered = was != Supply::Unknown && socket.poll_readable(cx)?.is_pending();
        if registered {
            *supply = Supply::Awaited;
            // The reactor does not count an event that it has delivered in the
            // round in which it was asked, although it has woken us for it. If
            // its thread is quicker than ours this can happen every time, so
            // whoever has been woken looks for himself.
            if was != Supply::Awaited {
                return Poll::Pending;
            }
        }
        match receive(socket, into)? {
            Some(received) => {
                *supply = match 0 < received && received < into.len() {
                    true => Supply::Dry,
                    false => Supply::Unknown,
                };
                return Poll::Ready(Ok(received));
            }
            None if registered => return Poll::Pending,
            None => *supply = Supply::Dry,
        }
    }
}

/// Whether a read would give something, be it the end or an error.
pub(super) fn is_readable(socket: &Async<OwnedFd>) -> bool {
    let mut byte = [0; 1];
    let peeked = net::recv(socket.get_ref(), &mut byte[..], RecvFlags::PEEK);
    !matches!(peeked, Err(Errno::AGAIN | Errno::INTR))
}

/// Reads what there is; `None`: nothing yet.
fn receive(socket: &Async<OwnedFd>, into: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        return match net::recv(socket.get_ref(), &mut *into, RecvFlags::empty()) {
            Ok((received, _)) => Ok(Some(received)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Whether there is something to read, without reading it; the end of the
/// stream or an error is nothing.
pub(super) fn has_bytes(socket: &Async<OwnedFd>) -> bool {
    let mut byte = [0; 1];
    matches!(
        net::recv(socket.get_ref(), &mut byte[..], RecvFlags::PEEK),
        Ok((1.., _))
    )
}

/// Sends all of `output`. What has been sent is taken off, so that a caller
/// sees progress even while the result is pending.
pub(super) fn poll_send(
    socket: &Async<OwnedFd>,
    output: &mut Buffer,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !output.is_empty() {
        match net::send(socket.get_ref(), output.bytes(), SendFlags::NOSIGNAL) {
            Ok(sent) => output.consume(sent),
            Err(Errno::AGAIN) => std::task::ready!(socket.poll_writable(cx))?,
            Err(Errno::INTR) => {}
            Err(error) => return Poll::Ready(Err(error.into())),
        }
    }
    Poll::Ready(Ok(()))
}

/// Tells the peer that nothing more will come.
pub(super) fn half_close(socket: &Async<OwnedFd>) -> io::Result<()> {
    Ok(net::shutdown(socket.get_ref(), net::Shutdown::Write)?)
}

/// Makes the connection end in a reset if it is closed now, by whatever: also
/// the end of the process. UNIX sockets do not know resets.
pub(super) fn reset_on_close(socket: &Async<OwnedFd>) {
    set_linger(socket, Some(Duration::ZERO));
}

/// Takes [`reset_on_close`] back.
pub(super) fn wait_on_close(socket: &Async<OwnedFd>) {
    set_linger(socket, None);
}

fn set_linger(socket: &Async<OwnedFd>, linger: Option<Duration>) {
    if let Err(error) = net::sockopt::set_socket_linger(socket.get_ref(), linger) {
        log::debug!("could not set SO_LINGER: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, mpsc};
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use super::*;

    struct Bell(mpsc::Sender<()>);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }

    /// The reactor's own thread waits for events while we ask it to wake us,
    /// as it does while the thread that serves is busy.
    #[test]
    fn whoever_is_woken_finds_what_has_come() {
        for _ in 0..100 {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let socket = Async::new(OwnedFd::from(ours)).unwrap();
            let (bell, rung) = mpsc::channel();
            let waker = Waker::from(Arc::new(Bell(bell)));
            let cx = &mut Context::from_waker(&waker);
            let (mut supply, mut into) = (Supply::Dry, [0; 8]);
            assert!(poll_receive(&socket, &mut into, &mut supply, cx).is_pending());
            theirs.write_all(b"x").unwrap();
            rung.recv_timeout(Duration::from_secs(30)).unwrap();
            let received = poll_receive(&socket, &mut into, &mut supply, cx);
            assert!(matches!(received, Poll::Ready(Ok(1))), "{received:?}");
        }
    }
}
