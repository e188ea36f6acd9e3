//! What a service is told about its own lifecycle.

use std::fmt;

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
}

impl Transition {
    /// The phase before; `None` for the first transition, with which the
    /// process begins to serve.
    pub fn from(&self) -> Option<Phase> {
        self.from
    }

    /// The phase from now on. It can be the same as before: when a restart
    /// failed and another one had been asked for meanwhile, that one begins at
    /// once.
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
        Ok(())
    }
}
