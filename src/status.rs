//! Where this process stands, for handlers and background tasks to ask.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use event_listener::Event;

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
    /// Notified after each change of the phase.
    changed: Event,
}

impl Status {
    pub(crate) fn new(generation: u64) -> Self {
        Status {
            shared: Arc::new(Shared {
                phase: AtomicU8::new(Phase::Serving as u8),
                generation: AtomicU64::new(generation),
                changed: Event::new(),
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

    /// Waits until the process is draining; returns at once if it is.
    ///
    /// For whatever would otherwise go on without end, such as a WebSocket: a
    /// drain waits for it until its deadline, and then cuts it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use heirloom::Status;
    /// use smol::future::FutureExt as _;
    ///
    /// async fn tick(status: Status) {
    ///     let ticking = async {
    ///         loop {
    ///             smol::Timer::after(std::time::Duration::from_secs(1)).await;
    ///         }
    ///     };
    ///     ticking.or(status.draining()).await
    /// }
    /// ```
    pub async fn draining(&self) {
        while !self.is_draining() {
            let changed = self.shared.changed.listen();
            // It may have changed before we listened.
            if !self.is_draining() {
                changed.await;
            }
        }
    }

    /// How many processes there have been, this one included: 1 for the
    /// first, one more for each successor.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Relaxed)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Ordering::Relaxed);
        self.shared.changed.notify(usize::MAX);
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
