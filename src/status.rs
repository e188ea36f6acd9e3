//! Where this process stands, for handlers and background tasks to ask.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::lifecycle::Phase;

/// A cheap handle that tells the phase and the generation of this process.
///
/// It can be cloned and sent to other threads. Handlers get one with every
/// request ([`Request::status`](crate::Request::status)), background tasks
/// from [`Server::status`](crate::Server::status).
#[derive(Clone)]
pub struct Status {
    shared: Arc<Shared>,
}

struct Shared {
    phase: AtomicU8,
    generation: AtomicU64,
}

impl Status {
    pub(crate) fn new(generation: u64) -> Self {
        Status {
            shared: Arc::new(Shared {
                phase: AtomicU8::new(Phase::Serving as u8),
                generation: AtomicU64::new(generation),
            }),
        }
    }

    /// The phase of this process at this moment.
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.shared.phase.load(Ordering::Relaxed)) % Phase::ALL.len()]
    }

    /// Whether the process has stopped accepting connections and only
    /// finishes what is in flight.
    ///
    /// A handler of long requests can use it to come to an end early.
    pub fn is_draining(&self) -> bool {
        self.phase() == Phase::Draining
    }

    /// How many processes there have been, this one included: 1 for the
    /// first, one more for each successor.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Relaxed)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn set_generation(&self, generation: u64) {
        self.shared.generation.store(generation, Ordering::Relaxed);
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status")
            .field("phase", &self.phase())
            .field("generation", &self.generation())
            .finish()
    }
}
