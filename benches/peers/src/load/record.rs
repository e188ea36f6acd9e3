//! What clients have met, with the times. All times are microseconds since
//! the beginning that clients and driver agree on.

use std::fmt;

use serde::{Serialize, Serializer};

/// How a request fails for a client that does not try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listened.
    Refused,
    /// Any other reason not to have a connection.
    Unconnected,
    /// The connection was reset without a byte of a response.
    ResetBefore,
    /// It was reset inside the response.
    ResetInside,
    /// It ended without a byte of a response.
    EndBefore,
    /// It ended inside the response.
    EndInside,
    /// A response, but one that no request should have.
    Wrong,
    /// The response to another request.
    Crossed,
    /// A response, or a piece of one, that nobody had asked for.
    Surplus,
    /// No byte of a response in time.
    LateBefore,
    /// No end of the response in time.
    LateInside,
}

impl Failure {
    pub const ALL: [Failure; 11] = [
        Failure::Refused,
        Failure::Unconnected,
        Failure::ResetBefore,
        Failure::ResetInside,
        Failure::EndBefore,
        Failure::EndInside,
        Failure::Wrong,
        Failure::Crossed,
        Failure::Surplus,
        Failure::LateBefore,
        Failure::LateInside,
    ];
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Refused => "refused",
            Failure::Unconnected => "not connected",
            Failure::ResetBefore => "reset before the response",
            Failure::ResetInside => "reset inside the response",
            Failure::EndBefore => "EOF before the response",
            Failure::EndInside => "EOF inside the response",
            Failure::Wrong => "wrong response",
            Failure::Crossed => "response to another request",
            Failure::Surplus => "response nobody asked for",
            Failure::LateBefore => "no response in time",
            Failure::LateInside => "response not complete in time",
        })
    }
}

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a connection ends that its client wanted to keep, without harm to a
/// request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closure {
    /// A response said `Connection: close`.
    Announced,
    /// It ended while nothing was asked on it.
    Idle,
    /// It was reset while nothing was asked on it.
    IdleReset,
}

#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// When the request was due, which is when it began in a closed loop.
    pub due: u64,
    /// From then to the last byte of the response.
    pub took: u32,
    /// Who has answered.
    pub pid: u32,
}

impl Answered {
    /// When the response was there.
    pub fn at(&self) -> u64 {
        self.due + u64::from(self.took)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Failed {
    pub group: u8,
    pub due: u64,
    /// When the client knew.
    pub at: u64,
    pub failure: Failure,
}

#[derive(Clone, Copy, Debug)]
pub struct Closed {
    pub at: u64,
    pub closure: Closure,
}

/// Everything that the clients of one run have met.
#[derive(Debug, Default)]
pub struct Record {
    /// In the order in which they came.
    pub answers: Vec<Answered>,
    pub failures: Vec<Failed>,
    pub closures: Vec<Closed>,
    pub connections: u64,
}
