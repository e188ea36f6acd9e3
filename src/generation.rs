//! This process as a link in a chain of generations.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Instant;

use async_signal::{Signal, Signals};

use crate::error::{Error, Result};
use crate::handoff::successor::Predecessor;
use crate::invocation::Invocation;
use crate::listener::activation;
use crate::stub::Seat;
use crate::terminal::{Terminal, is_hangup_ignored};

/// This process as a link in a chain: which generation it is, who came before
/// it, and how it was started.
///
/// [`Server::run`](crate::Server::run) begins one by itself. A `main` that has
/// something to do before that, such as reading a configuration, begins it
/// explicitly and first of all, or leaves that to [`run`](crate::run):
///
/// - a `SIGHUP` during the start-up is remembered, not deadly;
/// - standard input is the real one again (until then, a successor finds its
///   channel to the predecessor there);
/// - sockets that systemd passed are not inherited by other programs;
/// - executable, arguments and working directory are recorded before the
///   program changes them;
/// - a successor that gives up can tell its predecessor why
///   ([`Generation::fail`]).
///
/// A process has one generation; a second one begun in the same process is a
/// first generation of its own, without a predecessor.
///
/// # Examples
///
/// ```no_run
/// use heirloom::{Generation, Response, Server};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let generation = Generation::begin()?;
///     let greeting = match std::fs::read_to_string("greeting.txt") {
///         Ok(greeting) => greeting,
///         Err(error) => {
///             generation.fail(&format!("greeting.txt: {error}"));
///             return Err(error.into());
///         }
///     };
///     Server::new(move |_request| {
///         let greeting = greeting.clone();
///         async move { Ok(Response::from(greeting)) }
///     })
///     .generation(generation)
///     .listen("127.0.0.1:8000")
///     .run()?;
///     Ok(())
/// }
/// ```
pub struct Generation {
    pub(crate) number: u64,
    pub(crate) predecessor: Option<Predecessor>,
    pub(crate) invocation: Invocation,
    /// SIGHUP, caught from the beginning.
    pub(crate) reloads: Signals,
    /// When that was.
    pub(crate) begun: Instant,
    /// The terminal with which the service ends.
    pub(crate) terminal: Option<Terminal>,
    /// The line to the first process, if that follows the generations.
    pub(crate) line: Option<OwnedFd>,
    /// Where to leave what this process needs to become the stub, if it can.
    pub(crate) seat: Option<Seat>,
}

impl Generation {
    /// Begins the generation of this process.
    ///
    /// # Errors
    ///
    /// If `SIGHUP` cannot be caught, if it cannot be found out which
    /// executable this is, or if a predecessor started this process but does
    /// not speak the same version of the handoff protocol. In the last case
    /// the process should exit, as by returning the error from `main`; the
    /// predecessor then goes on serving.
    pub fn begin() -> Result<Self> {
        let begun = Instant::now();
        activation::seal();
        let is_detached = is_hangup_ignored();
        let reloads = Signals::new([Signal::Hup]).map_err(Error::signals)?;
        let mut predecessor = Predecessor::find()?;
        let bequest = predecessor.as_mut().map(Predecessor::take_bequest);
        // The first process decides: what was ignored when it was started is
        // not ignored by its successors any more.
        let ends_with_terminal = match &bequest {
            Some(bequest) => bequest.terminal,
            None => !is_detached,
        };
        let invocation =
            Invocation::record().map_err(|cause| Error::invocation("the executable", cause))?;
        Ok(Generation {
            number: predecessor
                .as_ref()
                .map_or(1, |predecessor| predecessor.generation().saturating_add(1)),
            predecessor,
            invocation,
            reloads,
            begun,
            terminal: ends_with_terminal.then(Terminal::find).flatten(),
            line: bequest.and_then(|bequest| bequest.line),
            seat: None,
        })
    }

    /// How many processes there have been, this one included: 1 for the
    /// first, one more for each successor.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The process ID of the predecessor, if there is one that is to be taken
    /// over from.
    pub fn predecessor(&self) -> Option<u32> {
        let predecessor = self.predecessor.as_ref()?;
        u32::try_from(predecessor.pid()).ok()
    }

    /// Tells the predecessor why this process gives up before it serves.
    ///
    /// The reason becomes part of the line that the predecessor logs about the
    /// failed restart. Without a predecessor this does nothing. The process
    /// should exit afterwards; if it serves after all, no harm is done.
    pub fn fail(&self, reason: &str) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.send_failed(reason);
        }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("predecessor", &self.predecessor())
            .field("executable", &self.invocation.executable())
            .finish()
    }
}
