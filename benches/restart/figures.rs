//! What was measured, and the table it ends in.

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

    /// How many times the median of `other` the median of this is.
    pub(crate) fn times(&self, other: &Figure) -> Option<f64> {
        let other = other.median()?.as_secs_f64();
        Some(self.median()?.as_secs_f64() / other)
    }

    fn least(&self) -> Option<Duration> {
        self.samples.iter().min().copied()
    }

    fn most(&self) -> Option<Duration> {
        self.samples.iter().max().copied()
    }
}

/// A row of the table; what could not be measured is a dash.
pub(crate) fn row(what: &str, figure: &Figure, remark: &str) -> String {
    format!(
        "| {what} | {} | {} | {} | {remark} |",
        Milliseconds(figure.median()),
        Milliseconds(figure.least()),
        Milliseconds(figure.most()),
    )
}

/// A remark that holds a ratio against what we aim at.
pub(crate) fn aim(ratio: Option<f64>, most: f64, of: &str) -> String {
    match ratio {
        Some(ratio) if ratio <= most => format!("{ratio:.2} × {of}; aim: at most {most}"),
        Some(ratio) => format!("{ratio:.2} × {of}; **missed** the aim of at most {most}"),
        None => String::new(),
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
