//! A connection between two requests, off the reactor: what comes to be served,
//! and what goes to the successor.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::reactor::Socket;
use crate::roster::Ticket;

/// How many bytes that have been read may go along with a connection that
/// leaves.
pub(crate) const LUGGAGE_BYTES: usize = 64 * 1024;

/// A connection that is between two owners.
///
/// It is made when a connection is accepted, and when one leaves.
pub(crate) struct Parcel {
    /// A TCP or UNIX stream, in non-blocking mode.
    pub(crate) socket: OwnedFd,
    pub(crate) ticket: Ticket,
    pub(crate) past: Past,
}

/// What has happened on a connection, as far as it matters to what comes.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    /// Whether a request has been answered.
    pub(crate) served: bool,
    /// Since when it has been waiting for a request, or for the rest of one.
    pub(crate) since: Instant,
    /// What has been read that belongs to a next request.
    pub(crate) bytes: Box<[u8]>,
}

impl Parcel {
    /// A connection that has just been accepted.
    pub(crate) fn fresh(socket: OwnedFd, ticket: Ticket) -> Self {
        let past = Past {
            served: false,
            since: Instant::now(),
            bytes: Box::default(),
        };
        Parcel {
            socket,
            ticket,
            past,
        }
    }

    /// Takes a connection off the reactor.
    pub(crate) fn take_off(socket: Socket, ticket: Ticket, past: Past) -> io::Result<Self> {
        Ok(Parcel {
            socket: socket.into_inner()?,
            ticket,
            past,
        })
    }
}
