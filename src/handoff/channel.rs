//! One end of the socket pair between predecessor and successor: packets in,
//! packets out, descriptors attached.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use async_io::Async;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::future;

use crate::error::legible;

/// How many descriptors one packet can carry (`SCM_MAX_FD`, unix(7)).
pub(crate) const MOST_DESCRIPTORS: usize = 253;

/// How long the object of a message may be, in bytes.
const LONGEST_MESSAGE: usize = 64 * 1024;

/// How many bytes may follow it.
pub(crate) const LONGEST_PAYLOAD: usize = 64 * 1024;

/// How long a packet may be: both, and what is between them.
const LONGEST_PACKET: usize = LONGEST_MESSAGE + 1 + LONGEST_PAYLOAD;

/// One end of a channel; says `Out`, hears `In`.
///
/// Dropping it closes it, which the other end takes as our death, or as its
/// own dismissal.
pub(crate) struct Channel<Out, In> {
    socket: Async<OwnedFd>,
    /// Memory for the packet that is being received.
    memory: RefCell<Vec<u8>>,
    direction: PhantomData<fn(Out) -> In>,
}

/// A message that came in, with what came with it.
#[derive(Debug)]
pub(crate) struct Packet<In> {
    pub(crate) message: In,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// What followed the object.
    pub(crate) payload: Vec<u8>,
    /// Whether there was no room for some of the descriptors, as when too many
    /// are open; those that are here are the first ones.
    pub(crate) is_cut: bool,
}

impl<In> Packet<In> {
    /// The packet, unless it has lost descriptors.
    pub(crate) fn whole(self) -> Result<Self, Silence> {
        match self.is_cut {
            true => Err(Silence::Nonsense(
                "there was no room for the descriptors of a message".to_owned(),
            )),
            false => Ok(self),
        }
    }
}

/// Why nothing came in.
#[derive(Debug)]
pub(crate) enum Silence {
    /// The other end is closed.
    Closed,
    /// What came is not a message.
    Nonsense(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Silence::Closed => f.write_str("the channel was closed"),
            Silence::Nonsense(what) => write!(f, "the channel carried nonsense: {what}"),
        }
    }
}

impl From<Silence> for io::Error {
    fn from(silence: Silence) -> Self {
        let kind = match silence {
            Silence::Closed => io::ErrorKind::UnexpectedEof,
            Silence::Nonsense(_) => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, silence.to_string())
    }
}

impl<Out: Serialize, In: DeserializeOwned> Channel<Out, In> {
    /// Takes over a socket that is non-blocking already.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Channel {
            socket: Async::new_nonblocking(socket)?,
            memory: RefCell::default(),
            direction: PhantomData,
        })
    }

    /// Sends a message, without waiting.
    ///
    /// The socket's buffer has room for every message that the protocol can
    /// have under way; a peer that does not read until it is full is refused
    /// with `WouldBlock`, rather than waited for.
    pub(crate) fn send(&self, message: &Out, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(message, descriptors, &[])
    }

    /// Sends a message with bytes behind it, without waiting.
    pub(crate) fn send_with(
        &self,
        message: &Out,
        descriptors: &[BorrowedFd<'_>],
        payload: &[u8],
    ) -> io::Result<()> {
        send_packet(self.socket.as_fd(), message, descriptors, payload)
    }

    /// Hears only what has been sent already: from now on the other end cannot
    /// send any more, and after that the channel is closed.
    pub(crate) fn hear_the_last(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(
            self.socket.get_ref(),
            rustix::net::Shutdown::Read,
        )?)
    }

    /// Whether the other end is closed.
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        let mut socket = [PollFd::new(self.socket.get_ref(), PollFlags::empty())];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::io::retry_on_intr(|| poll(&mut socket, Some(&at_once)))?;
        Ok(socket[0].revents().contains(PollFlags::HUP))
    }

    /// Takes the next packet if there is one, otherwise arranges a wake-up.
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Result<Packet<In>, Silence>> {
        loop {
            match self.try_receive() {
                Some(result) => return Poll::Ready(result),
                None => match ready!(self.socket.poll_readable(cx)) {
                    Ok(()) => {}
                    Err(error) => return Poll::Ready(Err(Silence::Nonsense(error.to_string()))),
                },
            }
        }
    }

    /// Waits for the next packet.
    pub(crate) async fn receive(&self) -> Result<Packet<In>, Silence> {
        future::poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// Takes the next packet if there is one.
    pub(crate) fn try_receive(&self) -> Option<Result<Packet<In>, Silence>> {
        // A channel is heard for as long as a handoff lasts, every time the
        // lifecycle looks around, so the memory is kept.
        let mut memory = self.memory.borrow_mut();
        memory.resize(LONGEST_PACKET, 0);
        take_packet(self.socket.as_fd(), &mut memory)
    }
}

/// Whether what could not be sent can be sent a little later.
pub(crate) fn passes(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        // Too many descriptors of this user are under way, in whatever channels
        // (unix(7)), this one is full, or there is no memory.
        Some(Errno::TOOMANYREFS | Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM)
    )
}

impl<Out, In> fmt::Debug for Channel<Out, In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.socket).finish()
    }
}

/// Sends a message with bytes behind it through a socket that needs no
/// reactor, without waiting.
pub(crate) fn send_packet(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
    payload: &[u8],
) -> io::Result<()> {
    let object = serde_json::to_vec(message)?;
    if object.len() > LONGEST_MESSAGE
        || payload.len() > LONGEST_PAYLOAD
        || descriptors.len() > MOST_DESCRIPTORS
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the message is too long for one packet",
        ));
    }
    let separator: &[u8] = if payload.is_empty() { b"" } else { b"\n" };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            socket,
            &[object.as_slice(), separator, payload].map(IoSlice::new),
            &mut control,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )
    })?;
    Ok(())
}

/// Takes the next packet from a socket that needs no reactor, if there is one.
/// What is longer than the memory is nonsense.
pub(crate) fn take_packet<In: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    memory: &mut [u8],
) -> Option<Result<Packet<In>, Silence>> {
    let received = match receive_packet(socket, memory) {
        // The peer is gone and left something of ours unread. That is told
        // once, and before what the peer has said, which may be why it
        // is gone.
        Err(Errno::CONNRESET) => receive_packet(socket, memory),
        received => received,
    };
    match received {
        Ok(Received { bytes: 0, .. }) => Some(Err(Silence::Closed)),
        Ok(Received {
            bytes,
            descriptors,
            is_cut,
        }) => {
            let packet = &memory[..bytes];
            let (object, payload) = match memchr::memchr(b'\n', packet) {
                Some(end) => (&packet[..end], &packet[end + 1..]),
                None => (packet, &[][..]),
            };
            if object.len() > LONGEST_MESSAGE || payload.len() > LONGEST_PAYLOAD {
                return Some(Err(Silence::Nonsense("a message is too long".to_owned())));
            }
            Some(
                serde_json::from_slice(object)
                    .map(|message| Packet {
                        message,
                        descriptors,
                        payload: payload.to_vec(),
                        is_cut,
                    })
                    .map_err(|error| Silence::Nonsense(legible(&error.to_string()))),
            )
        }
        Err(Errno::WOULDBLOCK) => None,
        Err(Errno::CONNRESET) => Some(Err(Silence::Closed)),
        Err(error) => Some(Err(Silence::Nonsense(error.to_string()))),
    }
}

/// What one call has received.
struct Received {
    /// None at all: the other end is closed.
    bytes: usize,
    descriptors: Vec<OwnedFd>,
    /// Whether there was no room for some of the descriptors.
    is_cut: bool,
}

/// Receives one packet, every descriptor of it close-on-exec.
///
/// A packet that does not fit is an error, and its descriptors are closed.
fn receive_packet(socket: BorrowedFd<'_>, memory: &mut [u8]) -> rustix::io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(memory)],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    Ok(Received {
        bytes: received.bytes,
        descriptors,
        is_cut: received.flags.contains(ReturnFlags::CTRUNC),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::message::{FromPredecessor, FromSuccessor};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    type PredecessorEnd = Channel<FromPredecessor, FromSuccessor>;
    type SuccessorEnd = Channel<FromSuccessor, FromPredecessor>;

    fn pair() -> (PredecessorEnd, OwnedFd) {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        (Channel::new(ours).unwrap(), theirs)
    }

    #[test]
    fn a_message_arrives_with_its_descriptors_close_on_exec() {
        let (ours, theirs) = pair();
        let theirs = SuccessorEnd::new(theirs).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        ours.send(&FromPredecessor::Proven, &[file.as_fd(), file.as_fd()])
            .unwrap();
        let packet = theirs.try_receive().unwrap().unwrap();
        assert_eq!(packet.message, FromPredecessor::Proven);
        assert_eq!(packet.descriptors.len(), 2);
        for descriptor in &packet.descriptors {
            let flags = rustix::io::fcntl_getfd(descriptor).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        assert!(theirs.try_receive().is_none());
    }

    #[test]
    fn a_closed_end_is_told_apart_from_silence_and_from_nonsense() {
        let (ours, theirs) = pair();
        assert!(ours.try_receive().is_none());
        rustix::net::send(&theirs, b"{}", SendFlags::empty()).unwrap();
        assert!(matches!(
            ours.try_receive(),
            Some(Err(Silence::Nonsense(_)))
        ));
        drop(theirs);
        assert!(matches!(ours.try_receive(), Some(Err(Silence::Closed))));
    }

    #[test]
    fn the_last_words_of_one_that_did_not_listen_are_heard() {
        let (ours, theirs) = pair();
        ours.send(&FromPredecessor::Proven, &[]).unwrap();
        rustix::net::send(&theirs, br#"{"message":"published"}"#, SendFlags::empty()).unwrap();
        drop(theirs);
        let packet = ours.try_receive().unwrap().unwrap();
        assert_eq!(packet.message, FromSuccessor::Published);
        assert!(matches!(ours.try_receive(), Some(Err(Silence::Closed))));
    }

    #[test]
    fn bytes_behind_a_message_arrive_as_they_are() {
        let (ours, theirs) = pair();
        let theirs = SuccessorEnd::new(theirs).unwrap();
        let payload = b"GET / HTTP/1.1\r\n\n{}";
        ours.send_with(&FromPredecessor::Proven, &[], payload)
            .unwrap();
        ours.send(&FromPredecessor::Proven, &[]).unwrap();
        assert_eq!(theirs.try_receive().unwrap().unwrap().payload, payload);
        assert_eq!(theirs.try_receive().unwrap().unwrap().payload, b"");
        let long = vec![b'x'; LONGEST_PAYLOAD + 1];
        assert!(
            ours.send_with(&FromPredecessor::Proven, &[], &long)
                .is_err()
        );
    }

    #[test]
    fn what_was_sent_before_the_last_is_heard_and_nothing_can_be_sent_after_it() {
        let (ours, theirs) = pair();
        let theirs = SuccessorEnd::new(theirs).unwrap();
        ours.send(&FromPredecessor::Proven, &[]).unwrap();
        theirs.hear_the_last().unwrap();
        assert!(ours.send(&FromPredecessor::Reload, &[]).is_err());
        let packet = theirs.try_receive().unwrap().unwrap();
        assert_eq!(packet.message, FromPredecessor::Proven);
        assert!(matches!(theirs.try_receive(), Some(Err(Silence::Closed))));
        theirs.send(&FromSuccessor::Stopping, &[]).unwrap();
        assert_eq!(
            ours.try_receive().unwrap().unwrap().message,
            FromSuccessor::Stopping
        );
    }

    #[test]
    fn a_packet_too_long_is_nonsense_and_the_next_one_is_read_whole() {
        let (ours, theirs) = pair();
        let long = vec![b' '; LONGEST_PACKET + 1];
        rustix::net::send(&theirs, &long, SendFlags::empty()).unwrap();
        rustix::net::send(&theirs, br#"{"message":"published"}"#, SendFlags::empty()).unwrap();
        assert!(matches!(
            ours.try_receive(),
            Some(Err(Silence::Nonsense(_)))
        ));
        let packet = ours.try_receive().unwrap().unwrap();
        assert_eq!(packet.message, FromSuccessor::Published);
    }
}
