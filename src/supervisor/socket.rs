//! The socket on which a supervisor listens, and what it has yet to hear.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};

/// How many datagrams are kept for a supervisor that does not read. A restart
/// takes half a dozen.
const MOST_UNSENT: usize = 64;

/// Where datagrams are sent to.
///
/// The socket is not connected: the supervisor may be replaced, and its next
/// one listens in the same place.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// The oldest first.
    unsent: VecDeque<String>,
    /// Whether it has been logged that nothing gets through.
    is_told: bool,
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
            is_told: false,
        })
    }

    /// Sends a datagram, behind those that are still to be sent.
    pub(super) fn send(&mut self, datagram: String) {
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
            let sent = rustix::io::retry_on_intr(|| {
                sendto(
                    &self.socket,
                    datagram.as_bytes(),
                    SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                    &self.address,
                )
            });
            match sent {
                // It is behind; there will be room when it has read something.
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Ok(_) => self.is_told = false,
                Err(error) => self.fail(error),
            }
            self.unsent.pop_front();
        }
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
    use std::os::unix::net::UnixDatagram;

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
    fn what_is_no_address_is_refused() {
        let long = format!("/{}", "x".repeat(200));
        for name in ["", "@", "notify", "vsock:2:1", &long] {
            assert!(NotifySocket::open(OsStr::new(name)).is_err(), "{name:?}");
        }
        let strange = OsStr::from_bytes(b"/run/caf\xe9");
        assert!(NotifySocket::open(strange).is_ok());
    }
}
