//! Open loop: requests are due at fixed times, whether or not those before
//! were answered, and are measured from then. A server that stands still is
//! charged for every request that would have been made meanwhile; a closed
//! loop would just ask less (coordinated omission).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::{Clients, Failures, Greedy, PATIENCE};

/// What came of a run on a schedule.
pub struct Punctual {
    pub answered: u64,
    pub took: Duration,
    pub failures: Failures,
    /// Microseconds from when a request was due to its last byte, in no order.
    pub latencies: Vec<u32>,
    /// Microseconds by which requests were sent late although there was a
    /// connection for them: the generator's own part in the latencies.
    pub lateness: Vec<u32>,
}

impl Clients {
    /// Asks `rate` times a second for `length`, on any connection that is not
    /// waiting; with `beside`, a greedy client is kept busy meanwhile.
    ///
    /// Does not sleep in between: to be woken takes longer than what is
    /// measured. So it needs a core of its own.
    pub fn run_on_schedule(
        &mut self,
        rate: f64,
        length: Duration,
        mut beside: Option<&mut Greedy>,
    ) -> anyhow::Result<Punctual> {
        let mut outcome = Punctual {
            answered: 0,
            took: Duration::ZERO,
            failures: Failures::default(),
            latencies: Vec::new(),
            lateness: Vec::new(),
        };
        let all = (rate * length.as_secs_f64()) as u64;
        let started = Instant::now();
        let due_at = |request: u64| started + Duration::from_secs_f64(request as f64 / rate);
        let give_up = started + length + PATIENCE;
        let mut scheduled = 0;
        let mut waiting = 0;
        let mut due = VecDeque::new();
        // The one that was used longest ago is next, so all are in use.
        let mut idle: VecDeque<usize> = (0..self.connections.len()).collect();
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        let at_once = Timespec::try_from(Duration::ZERO)?;
        while scheduled < all || !due.is_empty() || waiting > 0 {
            let now = Instant::now();
            if now > give_up {
                outcome.failures.silent += due.len() as u64 + waiting;
                break;
            }
            while scheduled < all && due_at(scheduled) <= now {
                if idle.len() > due.len() {
                    outcome.lateness.push(micros(now - due_at(scheduled)));
                }
                due.push_back(due_at(scheduled));
                scheduled += 1;
            }
            while !due.is_empty()
                && let Some(index) = idle.pop_front()
            {
                self.ask(index, due.pop_front().unwrap_or(now))?;
                waiting += 1;
            }
            if let Some(greedy) = &mut beside {
                greedy.go_on()?;
            }
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("could not wait for responses"),
            }
            for event in &events {
                let index = usize::try_from(event.data.u64())?;
                let connection = &mut self.connections[index];
                let was_waiting = connection.asked.is_some();
                match connection.receive(&mut self.buffer, &self.exchange) {
                    Ok(false) => continue,
                    Ok(true) => {
                        outcome.answered += 1;
                        outcome.latencies.extend(connection.answered());
                    }
                    Err(failure) => self.replace(index, failure, &mut outcome.failures)?,
                }
                if was_waiting {
                    waiting -= 1;
                    idle.push_back(index);
                }
            }
        }
        outcome.took = started.elapsed();
        Ok(outcome)
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
