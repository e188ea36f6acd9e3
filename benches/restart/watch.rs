//! Two clients that watch a restart from outside, and are a light load for it.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::client::{Answer, Failures, Load, Policy};
use crate::figures::Figure;

/// What each of the clients does with its connections.
pub(crate) const POLICIES: [Policy; 2] = [Policy::NewConnection, Policy::KeepAlive];

/// How long a client waits after an answer.
const PAUSE: Duration = Duration::from_micros(250);

/// Answers that each client must have before a restart is asked for.
const WARM: usize = 50;

/// How long clients are waited for, which get some thousand answers a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// The clients, and what they have told.
pub(crate) struct Watch {
    load: Load,
    told: Receiver<(Policy, Answer)>,
    known: Vec<(Policy, Answer)>,
}

/// The longest silence a client met.
pub(crate) struct Silence {
    pub(crate) restart: Duration,
    pub(crate) otherwise: Duration,
}

/// The longest silences of many restarts.
#[derive(Default)]
pub(crate) struct Silences {
    pub(crate) restart: Figure,
    pub(crate) otherwise: Figure,
}

impl Silences {
    pub(crate) fn add(&mut self, silence: Silence) {
        self.restart.add(silence.restart);
        self.otherwise.add(silence.otherwise);
    }
}

impl Watch {
    /// Lets the clients begin, and waits until they are warm.
    pub(crate) fn begin(address: SocketAddr) -> Fallible<Self> {
        let mut load = Load::new();
        let (tell, told) = channel();
        for policy in POLICIES {
            let tell = tell.clone();
            load.add(address, policy, PAUSE, move |policy, answer| {
                // Whoever does not listen any more has failed already.
                let _ = tell.send((policy, answer));
            })?;
        }
        let mut watch = Watch {
            load,
            told,
            known: Vec::new(),
        };
        watch.wait("answers before the restart", |watch| {
            POLICIES
                .into_iter()
                .all(|policy| watch.by(policy).count() >= WARM)
        })?;
        Ok(watch)
    }

    /// What a restart between these moments was for each client, in the order
    /// of [`POLICIES`], beside the window of the same length that followed.
    pub(crate) fn silences(
        &mut self,
        asked: Instant,
        gone: Instant,
    ) -> Fallible<[Silence; POLICIES.len()]> {
        let end = gone + gone.duration_since(asked);
        self.wait("the end of the window after the restart", |watch| {
            POLICIES.into_iter().all(|policy| {
                let last = watch.by(policy).next_back();
                last.is_some_and(|last| last.at >= end)
            })
        })?;
        Ok(POLICIES.map(|policy| {
            let before = self.by(policy).rfind(|answer| answer.at <= asked);
            let from = before.map_or(asked, |answer| answer.at);
            Silence {
                restart: self.longest_silence(policy, from, gone),
                otherwise: self.longest_silence(policy, gone, end),
            }
        }))
    }

    /// Ends the clients; returns how many requests they made, and what failed.
    pub(crate) fn end(self) -> Fallible<(u64, Failures)> {
        let mut failures = Failures::default();
        let mut requests = 0;
        for tally in self.load.end()? {
            requests += tally.answers + tally.failures.total();
            failures.absorb(tally.failures);
        }
        Ok((requests, failures))
    }

    /// Waits until what is known is enough.
    fn wait(&mut self, what: &str, enough: impl Fn(&Self) -> bool) -> Fallible<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // All that has been told, before the question is asked again.
            self.known.extend(self.told.try_iter());
            if enough(self) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.told.recv_timeout(left) {
                Ok(answer) => self.known.push(answer),
                Err(_) => return Err(format!("no sign of {what} in {PATIENCE:?}").into()),
            }
        }
    }

    /// The answers that a client got, in their order.
    pub(crate) fn by(&self, policy: Policy) -> impl DoubleEndedIterator<Item = Answer> {
        self.known
            .iter()
            .filter(move |(by, _)| *by == policy)
            .map(|(_, answer)| *answer)
    }

    /// The longest time without an answer that began in this window.
    fn longest_silence(&self, policy: Policy, from: Instant, to: Instant) -> Duration {
        self.by(policy)
            .zip(self.by(policy).skip(1))
            .filter(|(before, _)| (from..to).contains(&before.at))
            .map(|(before, after)| after.at.duration_since(before.at))
            .max()
            .unwrap_or_default()
    }
}
