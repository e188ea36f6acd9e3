//! The list behind `kill.md`: every moment of a handoff at which one of the two
//! processes may be killed.
//!
//! It is made from the messages of the protocol and from the table of the
//! lifecycle, so that a new message or effect cannot be forgotten. What happens
//! at each moment is found out by `tests/it/kill`, with real processes; these
//! tests fill in and check the cells, the one here their headings.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

use super::message::{FromPredecessor, FromSuccessor};
use crate::lifecycle::tests::EVENTS;
use crate::lifecycle::{Effect, Event, State, step};

const ABOUT: &str = "\
# When a process is killed

One of the two processes is killed (`SIGKILL`) in the middle of a restart:
before or after it sends a message, or when it has received one and does not yet
act on it; before or after an effect of the [lifecycle](crate::lifecycle). This
is what is seen then. The rows are generated from the protocol and from the
table of the lifecycle; a test with real processes goes through all of it and
compares.

A cell names the process that serves in the end, and what was lost:
*connections* are those that were idle when the restart began, *a request* is
one that has been in flight in the predecessor since then. *The next one* is a
successor of the other two, where another `SIGHUP` belongs to the scenario. After
every kill, whatever the cell says:

- one process serves, and no other, unless the one that did is the one that was
  killed or the service was being stopped;
- no request fails but inside the killed process, and none is handled twice;
- nothing is left over: no process, no zombie, no descriptor;
- the next `SIGHUP` leads to a new generation.

Until `proven` is sent, the death of the successor has no consequence but for
the requests that it was handling: the predecessor goes on, also with the
connections that it had handed over. From then on the successor is the service,
and its death is that of any process that serves alone. Which of the two it is
right behind `published` depends on whether the predecessor hears that of a
process that still lives.
The death of the predecessor costs what it has not handed over yet.
";

/// Whom a process has to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Company {
    Successor,
    Predecessor,
    /// Nobody who could be killed.
    Nobody,
}

/// Rows of the document: what, when, and whether the predecessor and whether
/// the successor can be killed then.
struct Section {
    title: &'static str,
    rows: Vec<(String, &'static str, [bool; 2])>,
}

fn sections() -> Vec<Section> {
    let mut sections = vec![
        messages("Messages of the predecessor", FromPredecessor::NAMES),
        messages("Messages of the successor", FromSuccessor::NAMES),
    ];
    let effects = effects();
    let titles = [
        (Company::Successor, "Effects in the predecessor"),
        (Company::Predecessor, "Effects in the successor"),
        (Company::Nobody, "Effects in a process on its own"),
    ];
    for (company, title) in titles {
        let mut rows = Vec::new();
        for (&(_, effect, of), after) in &effects {
            if of != company {
                continue;
            }
            // One that is on its own counts as a predecessor without a
            // successor.
            let victims = |company| match company {
                Company::Successor | Company::Predecessor => [true, true],
                Company::Nobody => [of != Company::Predecessor, of == Company::Predecessor],
            };
            let with = |company: &Company| *company != Company::Nobody;
            let after = match after.iter().any(with) {
                true => company,
                false => Company::Nobody,
            };
            let name = format!("`{effect}`");
            rows.push((name.clone(), "before", victims(company)));
            rows.push((name, "after", victims(after)));
        }
        sections.push(Section { title, rows });
    }
    sections
}

fn messages(title: &'static str, names: &[&str]) -> Section {
    let mut rows = Vec::new();
    for name in names {
        // It is sent before there is a successor.
        let both = [true, *name != "welcome"];
        let name = format!("`{name}`");
        rows.push((name.clone(), "before it is sent", both));
        rows.push((name.clone(), "after it is sent", both));
        rows.push((name, "on receipt", [true, true]));
    }
    Section { title, rows }
}

/// Each effect, in its place, by whom the process that performs it has to do
/// with before; and with whom after.
type Effects = BTreeMap<(usize, &'static str, Company), BTreeSet<Company>>;

/// Goes everywhere that events can lead to.
fn effects() -> Effects {
    let mut effects = Effects::new();
    let mut fresh = vec![
        (State::Serving, Company::Nobody),
        (State::Proving, Company::Predecessor),
    ];
    let mut seen: HashSet<_> = fresh.iter().copied().collect();
    while let Some((state, company)) = fresh.pop() {
        for event in EVENTS {
            let from_a_successor = matches!(
                event,
                Event::Claimed | Event::Ready | Event::Lost | Event::Published | Event::Leaving
            );
            if from_a_successor && company != Company::Successor {
                continue;
            }
            let Some((next, performed)) = step(state, event) else {
                continue;
            };
            let mut present = company;
            if event == Event::Lost {
                present = Company::Nobody;
            }
            let mut spawned = false;
            for effect in performed {
                let before = present;
                match effect {
                    // It has no process yet that could be killed.
                    Effect::Spawn => {
                        spawned = true;
                        present = Company::Nobody;
                    }
                    Effect::Kill | Effect::Bury | Effect::Release | Effect::Fence => {
                        present = Company::Nobody;
                    }
                    _ => {}
                }
                let place = (*effect as usize, name(*effect), before);
                effects.entry(place).or_default().insert(present);
            }
            let was_proven = event == Event::Proven && company == Company::Predecessor;
            let company = match (spawned, was_proven) {
                (true, _) => Company::Successor,
                (false, true) => Company::Nobody,
                // What follows is the same as after any other end of it.
                (false, false) if performed.contains(&Effect::Fence) => company,
                (false, false) => present,
            };
            if seen.insert((next, company)) {
                fresh.push((next, company));
            }
        }
    }
    effects
}

fn name(effect: Effect) -> &'static str {
    Box::leak(format!("{effect:?}").into_boxed_str())
}

/// The document, with what is known of the outcomes.
fn render(known: &BTreeMap<[String; 3], Vec<String>>) -> String {
    let mut text = String::from(ABOUT);
    for Section { title, rows } in sections() {
        let both = rows.iter().any(|(.., victims)| *victims == [true, true]);
        let (what, columns): (_, &[&str]) = match (title.starts_with("Messages"), both) {
            (true, _) => (
                "message",
                &["the predecessor is killed", "the successor is killed"],
            ),
            (false, true) => (
                "effect",
                &["the predecessor is killed", "the successor is killed"],
            ),
            (false, false) => ("effect", &["it is killed"]),
        };
        writeln!(text, "\n## {title}\n").unwrap();
        writeln!(text, "| {what} | when | {} |", columns.join(" | ")).unwrap();
        writeln!(text, "|---|---{}|", "|---".repeat(columns.len())).unwrap();
        for (what, when, victims) in rows {
            let key = [title.to_owned(), what.clone(), when.to_owned()];
            let cells = known.get(&key);
            write!(text, "| {what} | {when} |").unwrap();
            for (at, _) in columns.iter().enumerate() {
                let cell = match victims[at] {
                    true => cells
                        .and_then(|cells| cells.get(at))
                        .map_or("?", String::as_str),
                    false => "—",
                };
                write!(text, " {cell} |").unwrap();
            }
            text.push('\n');
        }
    }
    text
}

/// The cells of a document, by the title of the section, and by what and when.
fn outcomes(document: &str) -> BTreeMap<[String; 3], Vec<String>> {
    let mut title = "";
    let mut outcomes = BTreeMap::new();
    for line in document.lines() {
        if let Some(next) = line.strip_prefix("## ") {
            title = next;
        }
        let Some(row) = line.strip_prefix("| ").and_then(|it| it.strip_suffix(" |")) else {
            continue;
        };
        let mut cells = row.split(" | ").map(str::to_owned);
        if let (Some(what), Some(when)) = (cells.next(), cells.next()) {
            outcomes.insert([title.to_owned(), what, when], cells.collect());
        }
    }
    outcomes
}

#[test]
fn the_document_has_a_cell_for_everyone_who_can_be_killed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/handoff/kill.md");
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let rendered = render(&outcomes(&found));
    if std::env::var_os("HEIRLOOM_BLESS").is_some() {
        std::fs::write(path, &rendered).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == rendered,
        "src/handoff/kill.md is out of date; write it anew with \
         HEIRLOOM_BLESS=1 cargo test --lib a_cell_for_everyone, and what happens with \
         HEIRLOOM_BLESS=1 cargo test --test it kill::"
    );
}
