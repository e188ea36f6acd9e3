//! Taking connections over: the successor's end.
//!
//! The other end is [`super::handover`]. A batch is taken in the order in
//! which it was sent, up to the first connection that cannot be had: what
//! comes after that stays with the predecessor, which is told.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_io::Timer;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};
use smol::future::FutureExt as _;

use super::accept::Attend;
use crate::error::legible;
use crate::handoff::message::ConnectionRecord;
use crate::handoff::successor::{Delivery, free_descriptors};
use crate::ledger::Notes;
use crate::parcel::{Parcel, Past};
use crate::roster::{Peer, Roster};

/// Descriptors that adopted connections leave to everything else.
const RESERVE: u64 = 16;

/// How long places are kept for connections none of which come. A predecessor
/// that is stopped or hangs must not keep us from accepting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections on their way from the predecessor.
#[derive(Default)]
pub(super) struct Adoption {
    /// Where it is noted what is done with them, as long as the predecessor
    /// can take them back.
    notes: Option<Rc<Notes>>,
    /// How many connections this process can have.
    capacity: usize,
    /// How many may yet come.
    expected: usize,
    /// Set while some may.
    patience: Option<Timer>,
    adopted: usize,
}

impl Adoption {
    /// Finds out how many connections there can be.
    pub(super) fn prepare(max_connections: usize) -> Self {
        let free = free_descriptors().saturating_sub(RESERVE);
        Adoption {
            notes: None,
            expected: 0,
            patience: None,
            capacity: max_connections.min(usize::try_from(free).unwrap_or(usize::MAX)),
            adopted: 0,
        }
    }

    /// How many connections there can be before the first.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many have been adopted.
    pub(super) fn adopted(&self) -> usize {
        self.adopted
    }

    /// Hears that so many connections may come, and where to note what is done
    /// with them.
    pub(super) fn expect(&mut self, connections: usize, ledger: Option<OwnedFd>) -> io::Result<()> {
        self.notes = ledger.map(Notes::open).transpose()?;
        self.keep_places(connections.min(self.capacity));
        Ok(())
    }

    /// How many connections may yet come.
    pub(super) fn expected(&self) -> usize {
        self.expected
    }

    /// Hears that no more connections will come.
    pub(super) fn expect_no_more(&mut self) {
        self.keep_places(0);
    }

    /// Expects no more once none have come for too long.
    pub(super) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(patience) = &mut self.patience else {
            return Poll::Pending;
        };
        ready!(patience.poll(cx));
        log::debug!(
            "none of the {} connections that may come have come in {PATIENCE:?}; their places are \
             given to others",
            self.expected
        );
        self.expect_no_more();
        Poll::Ready(())
    }

    fn keep_places(&mut self, places: usize) {
        self.expected = places;
        self.patience = (places > 0).then(|| Timer::after(PATIENCE));
    }

    /// The predecessor takes nothing back any more.
    pub(super) fn retire_notes(&mut self) {
        if let Some(notes) = self.notes.take() {
            notes.retire();
        }
    }

    /// Takes what can be taken of a batch into service; returns how many those
    /// are, and for how many more there is room.
    pub(super) fn adopt(
        &mut self,
        delivery: Delivery,
        roster: &Rc<Roster>,
        attend: &Attend,
    ) -> (usize, usize) {
        let Delivery {
            connections,
            descriptors,
            bytes,
            ..
        } = delivery;
        let announced = connections.len();
        let mut bytes = bytes.as_slice();
        let mut taken = 0;
        for (record, socket) in connections.into_iter().zip(descriptors) {
            let verified = bytes
                .split_at_checked(record.bytes)
                .ok_or_else(|| wrong("bytes that were read from it are missing"))
                .and_then(|luggage| Ok((verify(&record, &socket)?, luggage)));
            let (peer, (luggage, rest)) = match verified {
                Ok(verified) => verified,
                Err(error) => {
                    let peer = legible(&record.peer);
                    log::error!("could not adopt the connection of {peer}: {error}");
                    break;
                }
            };
            bytes = rest;
            let waited = Duration::from_millis(record.waited_ms);
            let now = Instant::now();
            let mut ticket = roster.admit(peer, &record.listener);
            if let Some(notes) = &self.notes {
                ticket = ticket.noted_in(notes.slot(record.slot));
            }
            attend(Parcel {
                socket,
                ticket,
                past: Past {
                    served: record.served,
                    since: now.checked_sub(waited).unwrap_or(now),
                    bytes: luggage.into(),
                },
            });
            taken += 1;
        }
        self.adopted += taken;
        self.keep_places(self.expected.saturating_sub(announced));
        roster.reserve(self.expected);
        if taken < announced {
            // There are no more descriptors, or something is amiss. Either way
            // it is better not to ask for more.
            log::warn!("only {taken} of {announced} connections could be adopted");
            self.capacity = roster.len();
        }
        (taken, self.capacity.saturating_sub(roster.len()))
    }
}

/// Whether the socket is what it was said to be; returns the peer.
fn verify(record: &ConnectionRecord, socket: &OwnedFd) -> io::Result<Peer> {
    if sockopt::socket_type(socket)? != SocketType::STREAM || sockopt::socket_acceptconn(socket)? {
        return Err(wrong("it is not a stream"));
    }
    if !rustix::fs::fcntl_getfl(socket)?.contains(OFlags::NONBLOCK) {
        // Not set here: the flag is shared with whoever else has the socket.
        return Err(wrong("it is in blocking mode"));
    }
    let family = sockopt::socket_domain(socket)?;
    // The predecessor's word for the peer counts, because the kernel does not
    // know that of a connection which has been reset meanwhile.
    match record.peer.as_str() {
        "unix" if family == AddressFamily::UNIX => Ok(Peer::Unix),
        peer if family == AddressFamily::INET || family == AddressFamily::INET6 => peer
            .parse::<SocketAddr>()
            .map(Peer::Tcp)
            .map_err(|_| wrong("its peer is not an address")),
        _ => Err(wrong("it is of another family than its peer")),
    }
}

fn wrong(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::ledger::{Ledger, Trace};
    use crate::seeds::Chance;

    fn record(peer: &str, slot: usize, bytes: usize) -> ConnectionRecord {
        ConnectionRecord {
            peer: peer.to_owned(),
            listener: "web".to_owned(),
            slot: slot as u32,
            served: true,
            waited_ms: u64::MAX,
            bytes,
        }
    }

    /// A socket, and whether it is one to be adopted.
    fn socket(chance: &mut Chance) -> (OwnedFd, bool) {
        let (stream, _) = UnixStream::pair().unwrap();
        match chance.below(12) {
            0 => (stream.into(), false),
            1 => (File::open("/dev/null").unwrap().into(), false),
            2 => {
                let dir = tempfile::tempdir().unwrap();
                let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
                listener.set_nonblocking(true).unwrap();
                (listener.into(), false)
            }
            _ => {
                stream.set_nonblocking(true).unwrap();
                (stream.into(), true)
            }
        }
    }

    /// Of any delivery, the first connections are taken, up to the first that
    /// cannot be had, each with its own bytes; and no other.
    #[test]
    fn whatever_is_delivered_what_is_taken_is_a_beginning_of_it() {
        let mut chance = Chance::default();
        for _ in 0..500 {
            let announced = chance.below(6);
            let payload: Vec<u8> = (0..chance.below(30) as u8).collect();
            let mut connections = Vec::new();
            let mut descriptors = Vec::new();
            let mut expected = Vec::new();
            let (mut at, mut is_over) = (0, false);
            for slot in 0..announced {
                let peer = ["unix", "unix", "unix", "127.0.0.1:9"][chance.below(4)];
                let bytes = [0, 0, chance.below(9), usize::MAX][chance.below(4)];
                connections.push(record(peer, slot, bytes));
                // Some are lost on the way.
                let is_sound = match chance.below(10) {
                    0 => false,
                    _ if descriptors.len() < slot => false,
                    _ => {
                        let (socket, is_sound) = socket(&mut chance);
                        descriptors.push(socket);
                        is_sound
                    }
                };
                let luggage = payload[at..].get(..bytes);
                is_over |= !is_sound || peer != "unix" || luggage.is_none();
                if let Some(luggage) = luggage.filter(|_| !is_over) {
                    expected.push(luggage.to_vec());
                    at += luggage.len();
                }
            }
            let ledger = Ledger::create().unwrap();
            let copy = ledger.as_fd().try_clone_to_owned().unwrap();
            let mut adoption = Adoption::prepare(100);
            adoption.expect(announced, Some(copy)).unwrap();
            let (roster, attended) = (Rc::new(Roster::default()), Rc::default());
            let attending: Rc<RefCell<Vec<Parcel>>> = Rc::clone(&attended);
            let attend: Attend = Rc::new(move |parcel| attending.borrow_mut().push(parcel));
            let delivery = Delivery {
                batch: 0,
                connections,
                descriptors,
                bytes: payload,
            };
            let (taken, room) = adoption.adopt(delivery, &roster, &attend);
            let attended = attended.take();
            assert_eq!(taken, expected.len());
            assert_eq!(adoption.adopted(), taken);
            assert_eq!(adoption.expected(), 0);
            assert_eq!(roster.len(), taken);
            let luggage: Vec<Vec<u8>> = attended.iter().map(|it| it.past.bytes.to_vec()).collect();
            assert_eq!(luggage, expected);
            assert_eq!(room > 0, taken == announced);
            drop(attended);
            let traces = ledger.read(announced);
            assert!(traces[..taken].iter().all(|it| *it == Trace::Closed));
            assert!(traces[taken..].iter().all(|it| *it == Trace::Untouched));
        }
    }
}
