//! Which failed requests were inside a killed process, and which were not.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::client::Policy;
use crate::journal::Audit;
use crate::traffic::{Manner, Record};

/// A process that was killed.
pub(crate) struct Death {
    pub(crate) pid: u32,
    pub(crate) role: Role,
    /// When the restart was asked for.
    pub(crate) asked: Instant,
    /// When the signal was sent.
    pub(crate) killed: Instant,
    /// When the other process was known to serve without it.
    pub(crate) undone: Instant,
}

/// What a killed process was to the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Successor,
    Predecessor,
}

/// Where the requests were that failed.
#[derive(Default)]
pub(crate) struct Inside {
    /// In a handler of a killed process.
    pub(crate) begun: u64,
    /// On a connection that a killed process had accepted, so that it ended
    /// with it.
    pub(crate) accepted: u64,
    /// On one that a killed process had noted as being in use: in which
    /// processes. Each had just read from it, or just answered, and can have
    /// been at that with one connection at a time.
    pub(crate) in_use: HashSet<u32>,
    /// On one that a killed predecessor had not handed over.
    pub(crate) kept: u64,
    /// Elsewhere: which ones.
    pub(crate) outside: Vec<String>,
}

impl Inside {
    pub(crate) fn add(
        &mut self,
        client: usize,
        record: &Record,
        manner: Manner,
        audit: &Audit,
        deaths: &[Death],
    ) {
        for failed in &record.failed {
            let handled_by = audit.in_vain.get(&(client, failed.number)).copied();
            let answered_first = failed.answered_first.map(|author| author.pid);
            let answered_before = failed.answered_before.map(|author| author.pid);
            let died = || deaths.iter().filter(|death| death.killed < failed.to);
            let at_death = died().rfind(|death| failed.from < death.undone);
            // A client that is slow to see an answer asks again when its
            // connection has long been lost with whoever gave the answer.
            let in_use_at = died()
                .find(|death| Some(death.pid) == answered_before)
                .or(at_death);
            match (handled_by, manner.policy) {
                (Some(pid), _) if died().any(|death| death.pid == pid) => self.begun += 1,
                (None, Policy::KeepAlive)
                    if died().any(|death| {
                        death.role == Role::Predecessor && Some(death.pid) == answered_before
                    }) =>
                {
                    self.kept += 1;
                }
                (None, Policy::NewConnection) if at_death.is_some() => self.accepted += 1,
                // Who has lost a connection before makes one, which is the next
                // successor's then.
                (None, Policy::KeepAlive)
                    if died().any(|death| {
                        death.role == Role::Successor && Some(death.pid) == answered_first
                    }) =>
                {
                    self.accepted += 1;
                }
                (None, Policy::KeepAlive)
                    if in_use_at.is_some_and(|death| self.in_use.insert(death.pid)) => {}
                _ => {
                    let last = deaths.iter().rfind(|death| death.asked < failed.to);
                    let since =
                        |at: Instant| last.map(|it| at.saturating_duration_since(it.killed));
                    self.outside.push(format!(
                        "request {} of client {client}, {}, {}; begun {:.1?}, failed {:.1?} after \
                         process {:?} was killed, which was told after {:.1?}; handled by \
                         {handled_by:?}; before it, {answered_first:?} was the first and \
                         {answered_before:?} the last to answer on its connection",
                        failed.number,
                        manner.policy,
                        failed.failure,
                        since(failed.from),
                        since(failed.to),
                        last.map(|it| it.pid),
                        last.map(|it| it.undone.duration_since(it.killed)),
                    ));
                }
            }
        }
    }
}

/// The longest time without an answer of those that end or begin in this time.
pub(crate) fn longest_silence(record: &Record, from: Instant, to: Instant) -> Duration {
    let answers = || record.answers.iter().flatten().map(|answered| answered.at);
    answers()
        .zip(answers().skip(1))
        .filter(|(before, after)| *after > from && *before < to)
        .map(|(before, after)| after.duration_since(before))
        .max()
        .unwrap_or_default()
}
