//! The moments at which a process is killed, as `src/handoff/kill.md` lists
//! them, and what it says happens then.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// One of the two processes at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) section: Section,
    /// The name of a message or of an effect.
    pub(super) what: String,
    pub(super) moment: Moment,
    pub(super) victim: Role,
    /// What the document says.
    pub(super) outcome: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    FromPredecessor,
    FromSuccessor,
    InPredecessor,
    InSuccessor,
    OnItsOwn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Before,
    After,
    OnReceipt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Predecessor,
    Successor,
}

/// No process can be killed there.
const NONE: &str = "—";

impl Point {
    /// All there are.
    pub(super) fn all() -> Vec<Point> {
        let mut section = None;
        let mut points = Vec::new();
        for line in document().lines() {
            if let Some(title) = line.strip_prefix("## ") {
                section = Some(Section::of(title));
            } else if let Some(row) = Row::of(line) {
                let section = section.expect("the rows are in a section");
                for (victim, outcome) in row.outcomes {
                    points.push(Point {
                        section,
                        what: row.what.to_owned(),
                        moment: row.moment,
                        victim,
                        outcome: outcome.to_owned(),
                    });
                }
            }
        }
        points
    }

    /// Whose log has the record of the moment.
    pub(super) fn witness(&self) -> Role {
        match (self.section, self.moment) {
            (Section::FromPredecessor, Moment::OnReceipt) | (Section::InSuccessor, _) => {
                Role::Successor
            }
            (Section::FromSuccessor, Moment::Before | Moment::After) => Role::Successor,
            (
                Section::FromPredecessor
                | Section::FromSuccessor
                | Section::InPredecessor
                | Section::OnItsOwn,
                _,
            ) => Role::Predecessor,
        }
    }

    /// The record, without the process that it is a matter of.
    pub(super) fn record(&self) -> String {
        let what = &self.what;
        match (self.section, self.moment) {
            (Section::FromPredecessor | Section::FromSuccessor, moment) => match moment {
                Moment::Before => format!("sending `{what}`"),
                Moment::After => format!("sent `{what}`"),
                Moment::OnReceipt => format!("received `{what}`"),
            },
            (_, Moment::Before) => format!("performing {what}"),
            (_, Moment::After | Moment::OnReceipt) => format!("performed {what}"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} killed at: {:?}, {}",
            self.victim,
            self.section,
            self.record()
        )
    }
}

impl Section {
    fn of(title: &str) -> Self {
        match title {
            "Messages of the predecessor" => Section::FromPredecessor,
            "Messages of the successor" => Section::FromSuccessor,
            "Effects in the predecessor" => Section::InPredecessor,
            "Effects in the successor" => Section::InSuccessor,
            "Effects in a process on its own" => Section::OnItsOwn,
            _ => panic!("nobody knows the section {title:?}"),
        }
    }
}

/// A row of the document.
struct Row<'a> {
    what: &'a str,
    moment: Moment,
    outcomes: Vec<(Role, &'a str)>,
}

impl<'a> Row<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let row = line.strip_prefix("| `")?.strip_suffix(" |")?;
        let mut cells = row.split(" | ");
        let what = cells.next()?.strip_suffix('`')?;
        let moment = match cells.next()? {
            "before" | "before it is sent" => Moment::Before,
            "after" | "after it is sent" => Moment::After,
            "on receipt" => Moment::OnReceipt,
            when => panic!("nobody knows the moment {when:?}"),
        };
        let outcomes = [Role::Predecessor, Role::Successor].into_iter().zip(cells);
        let outcomes = outcomes.filter(|(_, cell)| *cell != NONE).collect();
        Some(Row {
            what,
            moment,
            outcomes,
        })
    }
}

fn path() -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), PathBuf::from);
    root.join("src/handoff/kill.md")
}

fn document() -> String {
    fs::read_to_string(path()).unwrap()
}

/// Writes what has been seen into the document.
pub(super) fn bless(seen: &[(&Point, String)]) {
    // Several tests do this, each with its own rows.
    static WRITING: Mutex<()> = Mutex::new(());
    let _lock = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut section = None;
    let mut text = String::new();
    for line in document().lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = Some(Section::of(title));
        }
        match (section, Row::of(line)) {
            (Some(section), Some(row)) => {
                let outcome = |(victim, outcome)| {
                    let seen = seen.iter().find(|(point, _)| {
                        let place = (point.section, point.moment, point.victim);
                        place == (section, row.moment, victim) && point.what == row.what
                    });
                    (victim, seen.map_or(outcome, |(_, seen)| seen.as_str()))
                };
                let outcomes: Vec<_> = row.outcomes.iter().copied().map(outcome).collect();
                let mut cells: Vec<&str> = line.split(" | ").collect();
                for (at, cell) in cells.iter_mut().enumerate().skip(2) {
                    let role = [Role::Predecessor, Role::Successor][at - 2];
                    if let Some((_, outcome)) = outcomes.iter().find(|(it, _)| *it == role) {
                        *cell = outcome;
                    }
                }
                text.push_str(cells.join(" | ").trim_end_matches(" |"));
                text.push_str(" |");
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    fs::write(path(), text).unwrap();
}
