//! Where this process stands, for handlers and background tasks to ask.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener};
use slab::Slab;

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
    /// Whether a stop has been announced.
    retiring: AtomicBool,
    generation: AtomicU64,
    /// Notified after each change of the phase.
    changed: Event,
    /// What keeps the process from exiting, and since when.
    holds: Mutex<Slab<(String, Instant)>>,
    /// Notified when one of them has gone.
    released: Event,
}

impl Shared {
    fn holds(&self) -> MutexGuard<'_, Slab<(String, Instant)>> {
        // Nothing that can panic happens under the lock.
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the process from exiting until it is dropped; see [`Status::hold`].
#[must_use = "dropping it releases the process"]
pub struct Hold {
    shared: Arc<Shared>,
    key: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.holds().try_remove(self.key);
        self.shared.released.notify(usize::MAX);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = self.shared.holds();
        let what = holds.get(self.key).map(|(what, _)| what.as_str());
        f.debug_tuple("Hold").field(&what).finish()
    }
}

impl Status {
    pub(crate) fn new(generation: u64) -> Self {
        Status {
            shared: Arc::new(Shared {
                phase: AtomicU8::new(Phase::Serving as u8),
                retiring: AtomicBool::new(false),
                generation: AtomicU64::new(generation),
                changed: Event::new(),
                holds: Mutex::default(),
                released: Event::new(),
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

    /// Whether clients should be sent to this process: not while it drains, nor
    /// in the [`shutdown_delay`](crate::Server::shutdown_delay) before that.
    ///
    /// For a health check, on which a load balancer relies.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && !self.shared.retiring.load(Ordering::Relaxed)
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

    /// Keeps the process from exiting until the guard is dropped, or until the
    /// deadline of the drain: for work that goes on when the response to a
    /// request has been sent.
    ///
    /// `what` names the work in the report on what held up a drain.
    ///
    /// # Examples
    ///
    /// ```
    /// # use heirloom::Status;
    /// fn write_audit_log(status: &Status) {
    ///     let hold = status.hold("writing the audit log");
    ///     std::thread::spawn(move || {
    ///         // … write it …
    ///         drop(hold);
    ///     });
    /// }
    /// ```
    pub fn hold(&self, what: impl Into<String>) -> Hold {
        let key = self.shared.holds().insert((what.into(), Instant::now()));
        Hold {
            shared: Arc::clone(&self.shared),
            key,
        }
    }

    /// What keeps the process from exiting, and for how long it has.
    pub(crate) fn holds(&self) -> Vec<(String, Duration)> {
        let holds = self.shared.holds();
        holds
            .iter()
            .map(|(_, (what, since))| (what.clone(), since.elapsed()))
            .collect()
    }

    /// Waits until nothing keeps the process from exiting; `released` is the
    /// caller's to keep between two calls.
    pub(crate) fn poll_released(
        &self,
        released: &mut Option<EventListener>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            if self.shared.holds().is_empty() {
                return Poll::Ready(());
            }
            let listener = released.get_or_insert_with(|| self.shared.released.listen());
            // It may have been released before we listened.
            if self.shared.holds().is_empty() {
                return Poll::Ready(());
            }
            ready!(Pin::new(listener).poll(cx));
            *released = None;
        }
    }

    pub(crate) fn retire(&self) {
        self.shared.retiring.store(true, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn a_process_is_held_until_the_last_guard_is_dropped() {
        let status = Status::new(1);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut listener = None;
        assert!(status.poll_released(&mut listener, cx).is_ready());
        let one = status.hold("one");
        let other = status.clone().hold("other");
        assert!(status.poll_released(&mut listener, cx).is_pending());
        let names = |status: &Status| -> Vec<String> {
            status.holds().into_iter().map(|(what, _)| what).collect()
        };
        assert_eq!(names(&status), ["one", "other"]);
        drop(one);
        assert!(status.poll_released(&mut listener, cx).is_pending());
        assert_eq!(names(&status), ["other"]);
        drop(other);
        assert!(status.poll_released(&mut listener, cx).is_ready());
    }

    #[test]
    fn whoever_waits_for_the_release_is_woken_by_another_thread() {
        let status = Status::new(1);
        let hold = status.hold("a thread");
        let releasing = std::thread::spawn(move || drop(hold));
        let mut listener = None;
        smol::block_on(smol::future::poll_fn(|cx| {
            status.poll_released(&mut listener, cx)
        }));
        releasing.join().unwrap();
    }
}
