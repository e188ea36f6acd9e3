//! What was found: the rows of the table, and what must not be.

use std::fmt;

/// All figures, in the order of the table.
#[derive(Default)]
pub(crate) struct Findings {
    rows: Vec<Row>,
    /// What is to be known beside the table.
    notes: Vec<String>,
    /// What no machine is an excuse for.
    faults: Vec<String>,
}

struct Row {
    figure: String,
    measured: String,
    /// What we aim at, and whether that was reached.
    aim: Option<(String, bool)>,
}

impl Findings {
    /// A figure that is reported.
    pub(crate) fn report(&mut self, figure: impl Into<String>, measured: impl Into<String>) {
        self.rows.push(Row {
            figure: figure.into(),
            measured: measured.into(),
            aim: None,
        });
    }

    /// A figure that is held against an aim.
    pub(crate) fn hold(
        &mut self,
        figure: impl Into<String>,
        measured: impl Into<String>,
        aim: impl Into<String>,
        is_reached: bool,
    ) {
        self.rows.push(Row {
            figure: figure.into(),
            measured: measured.into(),
            aim: Some((aim.into(), is_reached)),
        });
    }

    /// A count of something that must not happen at all.
    pub(crate) fn forbid(&mut self, figure: impl Into<String>, count: u64, of: impl fmt::Display) {
        let figure = figure.into();
        if count > 0 {
            self.faults.push(format!("{figure}: {count}"));
        }
        self.hold(figure, format!("{count} of {of}"), "0", count == 0);
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }
}

/// The table, and the notes below it.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | measured | aim | |")?;
        writeln!(f, "|---|---|---|---|")?;
        for row in &self.rows {
            let Row {
                figure, measured, ..
            } = row;
            match &row.aim {
                Some((aim, true)) => writeln!(f, "| {figure} | {measured} | {aim} | reached |")?,
                Some((aim, false)) => {
                    writeln!(f, "| {figure} | {measured} | {aim} | **missed** |")?
                }
                None => writeln!(f, "| {figure} | {measured} | – | |")?,
            }
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}
