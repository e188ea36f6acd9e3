//! One end of the socket pair between predecessor and successor: packets in,
//! packets out, descriptors attached.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use async_io::Async;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use smol::future;

/// How many descriptors one packet can carry (`SCM_MAX_FD`, unix(7)).
pub(crate) const MOST_DESCRIPTORS: usize = 253;

/// How long a message may be, in bytes.
const LONGEST_MESSAGE: usize = 64 * 1024;

/// One end of a channel; says `Out`, hears `In`.
///
/// Dropping it closes it, which the other end takes as our death, or as its
/// own dismissal.
pub(crate) struct Channel<Out, In> {
    socket: Async<OwnedFd>,
    direction: PhantomData<fn(Out) -> In>,
}

/// A message that came in, with what came with it.
#[derive(Debug)]
pub(crate) struct Packet<In> {
    pub(crate) message: In,
    pub(crate) descriptors: Vec<OwnedFd>,
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
            direction: PhantomData,
        })
    }

    /// Sends a message, without waiting.
    ///
    /// The socket's buffer has room for every message that the protocol can
    /// have under way; a peer that does not read until it is full is refused
    /// with `WouldBlock`, rather than waited for.
    pub(crate) fn send(&self, message: &Out, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > LONGEST_MESSAGE || descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the message is too long for one packet",
            ));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(
                self.socket.get_ref(),
                &[IoSlice::new(&bytes)],
                &mut control,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            )
        })?;
        Ok(())
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
        let received = match receive_packet(self.socket.as_fd()) {
            // The peer is gone and left something of ours unread. That is told
            // once, and before what the peer has said, which may be why it
            // is gone.
            Err(rustix::io::Errno::CONNRESET) => receive_packet(self.socket.as_fd()),
            received => received,
        };
        match received {
            Ok(Some((bytes, descriptors))) => Some(
                serde_json::from_slice(&bytes)
                    .map(|message| Packet {
                        message,
                        descriptors,
                    })
                    .map_err(|error| Silence::Nonsense(error.to_string())),
            ),
            Ok(None) => Some(Err(Silence::Closed)),
            Err(rustix::io::Errno::WOULDBLOCK) => None,
            Err(rustix::io::Errno::CONNRESET) => Some(Err(Silence::Closed)),
            Err(error) => Some(Err(Silence::Nonsense(error.to_string()))),
        }
    }
}

impl<Out, In> fmt::Debug for Channel<Out, In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.socket).finish()
    }
}

/// Receives one packet, every descriptor of it close-on-exec; `None`: closed.
///
/// A packet that does not fit is an error, and its descriptors are closed.
fn receive_packet(socket: BorrowedFd<'_>) -> rustix::io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
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
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(rustix::io::Errno::MSGSIZE);
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, descriptors)))
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
        ours.send(&FromPredecessor::Serve, &[file.as_fd(), file.as_fd()])
            .unwrap();
        let packet = theirs.try_receive().unwrap().unwrap();
        assert_eq!(packet.message, FromPredecessor::Serve);
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
        ours.send(&FromPredecessor::Serve, &[]).unwrap();
        rustix::net::send(&theirs, br#"{"message":"published"}"#, SendFlags::empty()).unwrap();
        drop(theirs);
        let packet = ours.try_receive().unwrap().unwrap();
        assert_eq!(packet.message, FromSuccessor::Published);
        assert!(matches!(ours.try_receive(), Some(Err(Silence::Closed))));
    }

    #[test]
    fn a_packet_too_long_is_nonsense_and_the_next_one_is_read_whole() {
        let (ours, theirs) = pair();
        let long = vec![b' '; LONGEST_MESSAGE + 1];
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
