//! The socket on which a supervisor listens, and what it has yet to hear.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::{Async, Timer};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};
use smol::future::FutureExt as _;

use super::is_readable;

/// How many datagrams are kept for a supervisor that does not read. A restart
/// takes half a dozen.
const MOST_UNSENT: usize = 64;

/// How long it may take to come to a barrier.
const UNREAD_PATIENCE: Duration = Duration::from_secs(5);

/// Where datagrams are sent to.
///
/// The socket is not connected: the supervisor may be replaced, and its next
/// one listens in the same place.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// The oldest first.
    unsent: VecDeque<Datagram>,
    /// If the last barrier has not been passed.
    barrier: Option<Barrier>,
    /// Whether it has been logged that nothing gets through.
    is_told: bool,
}

#[derive(Debug)]
enum Datagram {
    Text(String),
    Barrier,
}

/// A pipe whose other end the supervisor closes when it comes to it, which is
/// after it has acted on what was sent before (sd_notify_barrier(3)).
#[derive(Debug)]
struct Barrier {
    /// `None` until it is sent.
    pipe: Option<Async<OwnedFd>>,
    patience: Timer,
}

impl NotifySocket {
    /// Understands an absolute path, or `@` and the name of an abstract socket.
    pub(super) fn open(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] if !name.is_empty() => SocketAddrUnix::new_abstract_name(name)?,
            path @ [b'/', ..] => SocketAddrUnix::new(path)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is neither an absolute path nor an abstract socket",
                ));
            }
        };
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok(NotifySocket {
            socket,
            address,
            unsent: VecDeque::new(),
            barrier: None,
            is_told: false,
        })
    }

    /// Sends a datagram, behind those that are still to be sent.
    pub(super) fn send(&mut self, text: String) {
        self.send_next(Datagram::Text(text));
    }

    /// From now on [`poll_barrier`](Self::poll_barrier) waits until the
    /// supervisor has acted on everything that was sent before.
    pub(super) fn send_barrier(&mut self) {
        self.barrier = Some(Barrier {
            pipe: None,
            patience: Timer::after(UNREAD_PATIENCE),
        });
        self.send_next(Datagram::Barrier);
    }

    /// It does not matter any more what the supervisor has acted on.
    pub(super) fn forget_barrier(&mut self) {
        self.barrier = None;
        self.unsent
            .retain(|datagram| matches!(datagram, Datagram::Text(_)));
    }

    /// Waits until the last barrier is passed, if there is one. Not for ever: a
    /// supervisor may hang, and one of another kind keep what it does not know.
    pub(super) fn poll_barrier(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(barrier) = &mut self.barrier else {
            return Poll::Ready(());
        };
        // There is nothing to be read but the end.
        let is_passed = |pipe: &Async<OwnedFd>, cx: &mut Context<'_>| {
            is_readable(pipe.get_ref()) || pipe.poll_readable(cx).is_ready()
        };
        let is_passed = barrier.pipe.as_ref().is_some_and(|it| is_passed(it, cx));
        if !is_passed && barrier.patience.poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.forget_barrier();
        Poll::Ready(())
    }

    fn send_next(&mut self, datagram: Datagram) {
        if self.unsent.len() < MOST_UNSENT {
            self.unsent.push_back(datagram);
            self.send_again();
        } else {
            self.fail("it does not read");
        }
    }

    /// Whether something is still to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what could not be sent before.
    pub(super) fn send_again(&mut self) {
        while let Some(datagram) = self.unsent.front() {
            let sent = match datagram {
                Datagram::Text(text) => self.try_send(text, None),
                Datagram::Barrier => self.try_send_barrier().map(|pipe| {
                    if let Some(barrier) = &mut self.barrier {
                        barrier.pipe = Some(pipe);
                    }
                }),
            };
            match sent.map_err(|error| (Errno::from_io_error(&error), error)) {
                // It is behind; there will be room when it has read something.
                Err((Some(Errno::AGAIN | Errno::NOBUFS), _)) => return,
                // Only a barrier takes descriptors, and it has a deadline.
                Err((Some(Errno::MFILE | Errno::NFILE | Errno::TOOMANYREFS), _)) => return,
                Ok(()) => self.is_told = false,
                Err((_, error)) => self.fail(error),
            }
            self.unsent.pop_front();
        }
    }

    fn try_send_barrier(&self) -> io::Result<Async<OwnedFd>> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let pipe = Async::new_nonblocking(ours)?;
        self.try_send("BARRIER=1", Some(theirs))?;
        Ok(pipe)
    }

    fn try_send(&self, text: &str, descriptor: Option<OwnedFd>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_ref().map(|it| [it.as_fd()]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        rustix::io::retry_on_intr(|| {
            sendmsg_addr(
                &self.socket,
                &self.address,
                &[IoSlice::new(text.as_bytes())],
                &mut control,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            )
        })?;
        Ok(())
    }

    fn fail(&mut self, reason: impl std::fmt::Display) {
        if !std::mem::replace(&mut self.is_told, true) {
            log::warn!("the supervisor could not be told something: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::os::unix::net::UnixDatagram;
    use std::time::Instant;

    #[test]
    fn what_there_is_no_room_for_is_sent_later_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        supervisor.set_nonblocking(true).unwrap();
        let mut socket = NotifySocket::open(path.as_os_str()).unwrap();
        let mut sent = 0;
        while !socket.has_unsent() {
            socket.send(sent.to_string());
            sent += 1;
        }
        for _ in 1..MOST_UNSENT {
            socket.send(sent.to_string());
            sent += 1;
        }
        socket.send("one too many".to_owned());
        assert!(socket.is_told);
        let mut memory = [0; 100];
        for expected in 0..sent {
            let length = supervisor.recv(&mut memory).unwrap();
            assert_eq!(memory[..length], *expected.to_string().as_bytes());
            socket.send_again();
        }
        assert!(!socket.has_unsent() && !socket.is_told);
        assert!(supervisor.recv(&mut memory).is_err(), "there is no more");
    }

    #[test]
    fn a_supervisor_that_is_gone_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let mut socket = NotifySocket::open(path.as_os_str()).unwrap();
        for _ in 0..2 * MOST_UNSENT {
            socket.send("READY=1".to_owned());
            assert!(!socket.has_unsent());
        }
        assert!(socket.is_told);
        let supervisor = UnixDatagram::bind(&path).unwrap();
        socket.send("READY=1".to_owned());
        assert_eq!(supervisor.recv(&mut [0; 100]).unwrap(), 7);
    }

    #[test]
    fn a_barrier_waits_until_it_is_read_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        let mut socket = NotifySocket::open(path.as_os_str()).unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        socket.send("READY=1".to_owned());
        assert!(socket.poll_barrier(&mut cx).is_ready(), "there is none");
        socket.send_barrier();
        assert!(socket.poll_barrier(&mut cx).is_pending());
        let mut memory = [0; 100];
        assert_eq!(supervisor.recv(&mut memory).unwrap(), 7);
        assert!(socket.poll_barrier(&mut cx).is_pending());
        // Whoever takes no descriptors closes them.
        let length = supervisor.recv(&mut memory).unwrap();
        assert_eq!(memory[..length], *b"BARRIER=1");
        assert!(socket.poll_barrier(&mut cx).is_ready());

        // One that is sent, and one for which there is no room.
        for _ in 0..2 {
            let begun = Instant::now();
            socket.send_barrier();
            smol::block_on(poll_fn(|cx| socket.poll_barrier(cx)));
            assert!(begun.elapsed() >= UNREAD_PATIENCE);
            assert!(!socket.has_unsent());
            while !socket.has_unsent() {
                socket.send("READY=1".to_owned());
            }
            socket.unsent.clear();
        }
    }

    #[test]
    fn who_waits_at_a_barrier_is_woken_when_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        let mut socket = NotifySocket::open(path.as_os_str()).unwrap();
        let begun = Instant::now();
        socket.send_barrier();
        let mut is_read = false;
        smol::block_on(poll_fn(|cx| {
            let passed = socket.poll_barrier(cx);
            if !std::mem::replace(&mut is_read, true) {
                assert!(passed.is_pending());
                supervisor.recv(&mut [0; 100]).unwrap();
            }
            passed
        }));
        assert!(begun.elapsed() < UNREAD_PATIENCE);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("/{}", "x".repeat(200));
        for name in ["", "@", "notify", "vsock:2:1", &long] {
            assert!(NotifySocket::open(OsStr::new(name)).is_err(), "{name:?}");
        }
        let strange = OsStr::from_bytes(b"/run/caf\xe9");
        assert!(NotifySocket::open(strange).is_ok());
    }
}
