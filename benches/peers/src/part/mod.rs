//! The parts of the bench: each takes its figures and puts them into the
//! report. A peer that fails is skipped, and said to be.

pub mod crowd;
pub mod faults;
pub mod latency;
pub mod loads;
pub mod resources;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::load::{GLANCE, Traffic};
use crate::server::{DRAIN, Server, Watch};

/// A restart that has taken place.
pub struct Restart {
    pub begun: Instant,
    /// When the first answer of a process came that had never answered before.
    pub answered: Option<Instant>,
    /// When the process ended that answered before.
    pub ended: Option<Instant>,
    /// Why whoever restarts the service has given up.
    pub complaint: Option<String>,
}

impl Restart {
    pub fn until_answered(&self) -> Option<f64> {
        self.milliseconds_until(self.answered)
    }

    pub fn until_ended(&self) -> Option<f64> {
        self.milliseconds_until(self.ended)
    }

    fn milliseconds_until(&self, at: Option<Instant>) -> Option<f64> {
        let took = at?.saturating_duration_since(self.begun);
        Some(took.as_secs_f64() * 1000.0)
    }
}

/// Restarts a server under traffic, and waits until the predecessor is gone
/// and somebody else has answered; not longer than `patience` and a drain.
/// Calls `look` now and then.
pub fn restart(
    server: &mut Server<'_>,
    traffic: &Traffic,
    patience: Duration,
    mut look: impl FnMut(&Server<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Restart> {
    let (main, predecessor) = serving(traffic)?;
    let known: Vec<u32> = traffic.generations().iter().map(|(pid, _)| *pid).collect();
    let asked = server.restart(main)?;
    let mut restart = Restart {
        begun: asked.at,
        answered: None,
        ended: asked.ended,
        complaint: asked.complaint,
    };
    loop {
        let now = Instant::now();
        if restart.answered.is_none() {
            restart.answered = traffic.wait_for_other(&known, now).map(|(_, at)| at);
        }
        if let (Some(predecessor), None) = (&predecessor, restart.ended) {
            if predecessor.wait(GLANCE)? {
                restart.ended = Some(Instant::now());
            }
        } else {
            thread::sleep(GLANCE);
        }
        let is_answered = restart.answered.is_some() || now > asked.at + patience;
        let is_ended = restart.ended.is_some()
            || predecessor.is_none()
            || now > asked.at + DRAIN.max(patience)
            // Whoever has not been replaced has no reason to end.
            || restart.answered.is_none() && now > asked.at + patience;
        look(server)?;
        if is_answered && is_ended {
            break;
        }
    }
    server.reap()?;
    Ok(restart)
}

/// Who has answered last and is still there: the last answer that was read may
/// be one of a process that has ended since. Where nobody serves any more, it
/// is the one that did, and there is nothing to watch.
fn serving(traffic: &Traffic) -> anyhow::Result<(u32, Option<Watch>)> {
    let deadline = Instant::now() + GLANCE * 200;
    loop {
        let main = traffic.last_pid();
        ensure!(main != 0, "nobody has answered yet");
        if let Ok(process) = Watch::begin(main)
            && !process.wait(Duration::ZERO)?
        {
            return Ok((main, Some(process)));
        }
        if Instant::now() > deadline {
            return Ok((main, None));
        }
        thread::sleep(GLANCE);
    }
}
