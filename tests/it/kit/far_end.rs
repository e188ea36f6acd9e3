//! The far end of a handoff: the channel in the hands of a test, which says
//! what a peer that follows the protocol never would.
//!
//! It knows the protocol from its description only and shares no code with the
//! library.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde_json::Value;

use super::PATIENCE;

/// One end of the channel between a predecessor and a successor.
pub(crate) struct FarEnd {
    socket: OwnedFd,
}

/// A packet that came in.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) message: Value,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl FarEnd {
    /// A channel: our end, and the one that is somebody's standard input.
    pub(crate) fn pair() -> (Self, OwnedFd) {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        (FarEnd::new(ours), theirs)
    }

    pub(super) fn new(socket: OwnedFd) -> Self {
        FarEnd { socket }
    }

    pub(crate) fn say(&self, message: &Value) {
        self.say_with(message, &[]);
    }

    pub(crate) fn say_with(&self, message: &Value, descriptors: &[BorrowedFd<'_>]) {
        self.say_bytes(message.to_string().as_bytes(), descriptors);
    }

    /// Sends any bytes, which need not be a message.
    pub(crate) fn say_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let said = self.try_say(bytes, descriptors);
        said.unwrap_or_else(|error| panic!("the other end does not listen: {error}"));
    }

    /// As [`FarEnd::say_bytes`], to one that may be gone.
    pub(crate) fn try_say(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => {
                    assert!(Instant::now() < deadline, "the other end does not read");
                    thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Hears the next message; `None`: the other end is closed.
    pub(crate) fn hear(&self) -> Option<Heard> {
        let (bytes, descriptors) = receive(self.socket.as_fd())?;
        // Bytes may follow the message.
        let object = bytes.split(|byte| *byte == b'\n').next().unwrap();
        let message = serde_json::from_slice(object)
            .unwrap_or_else(|error| panic!("{error}: {}", object.escape_ascii()));
        Some(Heard {
            message,
            descriptors,
        })
    }

    /// Hears the next message, which must be this one.
    pub(crate) fn expect(&self, name: &str) -> Heard {
        let heard = self.hear();
        let heard = heard.unwrap_or_else(|| panic!("the channel was closed before `{name}`"));
        assert_eq!(heard.message["message"], name, "{:?}", heard.message);
        heard
    }

    /// Hears everything until the other end is closed.
    pub(crate) fn hear_to_the_end(&self) -> Vec<Value> {
        let mut said = Vec::new();
        while let Some(heard) = self.hear() {
            said.push(heard.message);
        }
        said
    }
}

/// Receives a packet, or what there is of a stream; `None`: the other end is
/// closed.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    loop {
        wait_until_readable(socket);
        let mut bytes = vec![0; 256 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        let received = match recvmsg(socket, slices, &mut control, flags) {
            Ok(received) => received,
            // It left something of ours unread. That is told once, before what
            // it has said.
            Err(Errno::CONNRESET) => continue,
            Err(error) => panic!("nothing can be received: {error}"),
        };
        let is_cut = received.flags.contains(ReturnFlags::CTRUNC);
        assert!(!is_cut, "this process is out of descriptors");
        let length = received.bytes;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        bytes.truncate(length);
        return (length > 0).then_some((bytes, descriptors));
    }
}

pub(super) fn wait_until_readable(socket: impl AsFd) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&patience)).unwrap();
    assert!(ready > 0, "the other end says nothing");
}
