//! The table in which the figures of restarts end.

use crate::figures::{Figure, Milliseconds};

/// How many times the median of `other` the median of `figure` is.
pub(crate) fn times(figure: &Figure, other: &Figure) -> Option<f64> {
    let other = other.median()?.as_secs_f64();
    Some(figure.median()?.as_secs_f64() / other)
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
