//! What a service is told about its own lifecycle.

use std::fmt;
use std::time::Duration;

use crate::lifecycle::Phase;

/// A change in the lifecycle of this process, as
/// [`Server::on_transition`](crate::Server::on_transition) reports it.
#[derive(Clone, Debug)]
pub struct Transition {
    pub(crate) from: Option<Phase>,
    pub(crate) phase: Phase,
    pub(crate) generation: u64,
    pub(crate) listeners: Vec<String>,
    pub(crate) successor: Option<u32>,
    pub(crate) failure: Option<String>,
    pub(crate) handover: Option<HandoverSummary>,
}

/// What has become of the connections that were open when a successor took
/// over, or that came to this process later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoverSummary {
    pub(crate) handed_over: usize,
    pub(crate) kept: usize,
    pub(crate) closed: usize,
    pub(crate) took: Duration,
}

impl HandoverSummary {
    /// How many connections the successor has taken.
    pub fn handed_over(&self) -> usize {
        self.handed_over
    }

    /// How many are still here: those that are busy, which may follow, and
    /// those that cannot move.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// How many have been closed, by either side.
    pub fn closed(&self) -> usize {
        self.closed
    }

    /// How long it has taken since the successor took over.
    pub fn took(&self) -> Duration {
        self.took
    }
}

impl fmt::Display for HandoverSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections handed over, {} kept, {} closed, in {:.1?}",
            self.handed_over, self.kept, self.closed, self.took
        )
    }
}

impl Transition {
    /// The phase before; `None` for the first transition, with which the
    /// process begins to serve.
    pub fn from(&self) -> Option<Phase> {
        self.from
    }

    /// The phase from now on. It can be the same as before: when a restart
    /// failed and another one had been asked for meanwhile, that one begins at
    /// once; and when the connections that could move have moved to the
    /// successor ([`Transition::handover`]).
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The generation of this process.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where the process listens: `127.0.0.1:8000`, `[::1]:8000` or
    /// `unix:/path`, with the real port where port 0 was asked for. Empty once
    /// the listeners are closed.
    pub fn listeners(&self) -> &[String] {
        &self.listeners
    }

    /// The process ID of the successor, if there is one.
    pub fn successor(&self) -> Option<u32> {
        self.successor
    }

    /// Why a restart failed, if this transition is the way back from one: the
    /// process, the step and the reason, as in the line that is logged about it.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// What has become of the connections, if that is what is being told: once
    /// in a restart, as soon as all connections that wait for a request have
    /// moved to the successor.
    pub fn handover(&self) -> Option<HandoverSummary> {
        self.handover
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} is {}", self.generation, self.phase)?;
        if let Some(from) = self.from {
            write!(f, ", was {from}")?;
        }
        if let Some(failure) = &self.failure {
            write!(f, ": {failure}")?;
        }
        if let Some(handover) = &self.handover {
            write!(f, ": {handover}")?;
        }
        Ok(())
    }
}
