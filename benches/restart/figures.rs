//! What was measured, and how it is told.

use std::fmt;
use std::time::Duration;

use crate::client::{Failures, KINDS};

/// One quantity, measured once in every round.
#[derive(Default)]
pub(crate) struct Figure {
    samples: Vec<Duration>,
}

impl Figure {
    pub(crate) fn add(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    /// `None` if nothing was measured.
    pub(crate) fn median(&self) -> Option<Duration> {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let upper = *sorted.get(sorted.len() / 2)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        let lower = *sorted.get(sorted.len() / 2 - 1)?;
        Some((lower + upper) / 2)
    }

    pub(crate) fn least(&self) -> Option<Duration> {
        self.samples.iter().min().copied()
    }

    pub(crate) fn most(&self) -> Option<Duration> {
        self.samples.iter().max().copied()
    }
}

/// Every kind by name, also those of which there were none: a zero that is
/// printed is a claim, a kind that is left out is not.
pub(crate) fn by_kind(failures: &Failures) -> String {
    let kinds: Vec<String> = KINDS
        .iter()
        .map(|kind| format!("{kind} {}", failures.of(*kind)))
        .collect();
    kinds.join(", ")
}

/// A duration as it is told on the way, where every digit would be noise.
pub(crate) struct Milliseconds(pub(crate) Option<Duration>);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(duration) => write!(f, "{:.2} ms", duration.as_secs_f64() * 1e3),
            None => f.write_str("–"),
        }
    }
}
