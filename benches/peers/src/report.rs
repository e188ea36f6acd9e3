//! The figures, and how they are told.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::arguments::Load;
use crate::bench::Bench;
use crate::load::Failure;
use crate::machine::{self, go, on_path};
use crate::server::Fault;
use crate::statistics::{highest, median};

#[derive(Serialize)]
pub struct Report {
    pub circumstances: Vec<(&'static str, String)>,
    pub loads: Vec<LoadFigures>,
    pub latencies: Vec<LatencyFigures>,
    pub resources: Vec<ResourceFigures>,
    pub faults: Vec<FaultFigures>,
    pub crowds: Vec<CrowdFigures>,
    pub skipped: Vec<String>,
}

/// The same figure of several restarts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub count: usize,
    pub median: Option<f64>,
    pub highest: Option<f64>,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<_> = values.into_iter().collect();
        Spread {
            count: values.len(),
            median: median(values.iter().copied()),
            highest: highest(values),
        }
    }
}

/// `1.2 (3.4)`: the median, and the highest.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.median, self.highest) {
            (Some(median), Some(highest)) => {
                write!(f, "{} ({})", number(median), number(highest))
            }
            _ => f.write_str("–"),
        }
    }
}

#[derive(Serialize)]
pub struct LoadFigures {
    pub peer: String,
    pub way: &'static str,
    pub load: String,
    pub restarts: usize,
    pub answered: usize,
    pub failed: usize,
    pub failed_while_steady: usize,
    pub failures: BTreeMap<Failure, usize>,
    pub connections: u64,
    pub closed_announced: usize,
    pub closed_idle: usize,
    pub reset_idle: usize,
    pub until_answered_ms: Spread,
    pub until_ended_ms: Spread,
    /// Restarts that came to nothing, and predecessors that stayed.
    pub not_answered: usize,
    pub not_ended: usize,
    pub steady_silence_ms: f64,
    pub silence_ms: Spread,
    pub notes: Vec<String>,
}

impl LoadFigures {
    /// For whoever watches.
    pub fn summary(&self) -> String {
        format!(
            "{}, {}: {} restarts, {} of {} requests failed, first answer after {} ms",
            self.peer,
            self.load,
            self.restarts,
            self.failed,
            self.answered + self.failed,
            self.until_answered_ms
        )
    }

    fn closed(&self) -> usize {
        self.closed_announced + self.closed_idle + self.reset_idle
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Latencies {
    pub answered: usize,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p999_ms: Option<f64>,
    pub highest_ms: Option<f64>,
}

/// How latencies went over the time around a restart, in steps.
#[derive(Clone, Debug, Serialize)]
pub struct Course {
    pub from_ms: f64,
    pub step_ms: f64,
    /// Over all restarts, the median of what the longest latency was.
    pub median_ms: Vec<Option<f64>>,
    pub highest_ms: Vec<Option<f64>>,
    pub failed: Vec<usize>,
}

#[derive(Serialize)]
pub struct LatencyFigures {
    pub peer: String,
    pub restarts: usize,
    pub rate: f64,
    pub steady: Latencies,
    pub around: Latencies,
    pub failed: usize,
    pub course: Course,
}

impl LatencyFigures {
    pub fn summary(&self) -> String {
        format!(
            "{}: p99.9 {} ms steady, {} ms around {} restarts, {} failed",
            self.peer,
            figure(self.steady.p999_ms),
            figure(self.around.p999_ms),
            self.restarts,
            self.failed
        )
    }
}

#[derive(Serialize)]
pub struct ResourceFigures {
    pub peer: String,
    pub restarts: usize,
    pub cpu_ms: f64,
    pub before_mib: Spread,
    pub peak_mib: Spread,
    pub after_mib: Spread,
}

impl ResourceFigures {
    pub fn summary(&self) -> String {
        format!(
            "{}: {} ms of processor time a restart, {} MiB at most, {} before",
            self.peer,
            number(self.cpu_ms),
            figure(self.peak_mib.highest),
            figure(self.before_mib.median)
        )
    }
}

/// Who answers after a restart with a bad successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Afterwards {
    Predecessor,
    Another,
    Nobody,
}

impl fmt::Display for Afterwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Afterwards::Predecessor => "the predecessor",
            Afterwards::Another => "another process",
            Afterwards::Nobody => "**nobody**",
        })
    }
}

#[derive(Serialize)]
pub struct FaultFigures {
    pub peer: String,
    pub fault: &'static str,
    pub watched_ms: f64,
    pub failed: usize,
    pub silence_ms: f64,
    pub afterwards: Afterwards,
    /// Until the successor of the next, good restart answered.
    pub next_restart_ms: Option<f64>,
    pub complaint: Option<String>,
}

impl FaultFigures {
    pub fn summary(&self) -> String {
        format!(
            "{}, {}: {} failed, then {} answers, next restart {}",
            self.peer,
            self.fault,
            self.failed,
            self.afterwards,
            self.next()
        )
    }

    fn next(&self) -> String {
        match self.next_restart_ms {
            Some(after) => format!("works ({} ms)", number(after)),
            None => "**does not work**".to_owned(),
        }
    }
}

#[derive(Serialize)]
pub struct CrowdFigures {
    pub peer: String,
    pub connections: usize,
    pub closed_idle: usize,
    pub closed_announced: usize,
    pub failed: usize,
    pub failed_probes: usize,
    pub until_answered_ms: Option<f64>,
    pub until_ended_ms: Option<f64>,
    pub complaint: Option<String>,
}

impl CrowdFigures {
    pub fn summary(&self) -> String {
        format!(
            "{}: of {} idle connections {} were closed, {} requests failed",
            self.peer,
            self.connections,
            self.closed_idle + self.closed_announced,
            self.failed
        )
    }
}

impl Report {
    pub fn new(bench: &Bench) -> anyhow::Result<Self> {
        Ok(Report {
            circumstances: circumstances(bench)?,
            loads: Vec::new(),
            latencies: Vec::new(),
            resources: Vec::new(),
            faults: Vec::new(),
            crowds: Vec::new(),
            skipped: bench.skipped.clone(),
        })
    }

    /// Notes, and says at once, what could not be measured.
    pub fn skip(&mut self, what: String) {
        eprintln!("skipped: {what}");
        self.skipped.push(what);
    }

    pub fn markdown(&self) -> String {
        let mut text = String::from("# Restarts of heirloom and its peers\n\n");
        for (name, value) in &self.circumstances {
            line(&mut text, format_args!("- {name}: {value}"));
        }
        self.failure_table(&mut text);
        self.time_tables(&mut text);
        self.cost_table(&mut text);
        self.fault_table(&mut text);
        self.crowd_table(&mut text);
        self.kind_table(&mut text);
        let notes: Vec<_> = self.notes().collect();
        if !notes.is_empty() {
            heading(&mut text, "Notes");
            for note in notes {
                line(&mut text, format_args!("- {note}"));
            }
        }
        if !self.skipped.is_empty() {
            heading(&mut text, "Skipped");
            for what in &self.skipped {
                line(&mut text, format_args!("- {what}"));
            }
        }
        text
    }

    /// The peers of the load tables, in order.
    fn peers(&self) -> Vec<&str> {
        let mut peers: Vec<&str> = Vec::new();
        for figures in &self.loads {
            if !peers.contains(&figures.peer.as_str()) {
                peers.push(&figures.peer);
            }
        }
        peers
    }

    fn load(&self, peer: &str, load: Load) -> Option<&LoadFigures> {
        let name = load.to_string();
        let mut all = self.loads.iter();
        all.find(|it| it.peer == peer && it.load == name)
    }

    /// A table with a row for each peer and a column for each load.
    fn by_load(&self, text: &mut String, cell: impl Fn(&LoadFigures) -> String) {
        let loads = Load::ALL.into_iter().filter(|load| {
            let name = load.to_string();
            self.loads.iter().any(|figures| figures.load == name)
        });
        let loads: Vec<_> = loads.collect();
        let names: Vec<_> = loads.iter().map(ToString::to_string).collect();
        line(text, format_args!("| peer | {} |", names.join(" | ")));
        line(text, format_args!("|---|{}", "---|".repeat(names.len())));
        for peer in self.peers() {
            let cells: Vec<_> = loads
                .iter()
                .map(|&load| self.load(peer, load).map_or("–".to_owned(), &cell))
                .collect();
            line(text, format_args!("| {peer} | {} |", cells.join(" | ")));
        }
    }

    fn failure_table(&self, text: &mut String) {
        if self.loads.is_empty() {
            return;
        }
        heading(text, "Failed requests, of all, in so many restarts");
        self.by_load(text, |it| {
            let all = it.answered + it.failed;
            let failed = match it.failed {
                0 => "0".to_owned(),
                failed => format!("**{failed}**"),
            };
            format!("{failed} of {all} in {}", it.restarts)
        });
        heading(
            text,
            "Connections closed by a restart that their clients wanted to keep",
        );
        line(
            text,
            format_args!(
                "In a restart, on average: announced by a response + without a word while idle. \
                 Connections that a failed request was on are not counted again.\n"
            ),
        );
        self.by_load(text, |it| {
            let restarts = it.restarts.max(1) as f64;
            if it.closed() == 0 {
                return "0".to_owned();
            }
            format!(
                "{} + {}",
                number(it.closed_announced as f64 / restarts),
                number((it.closed_idle + it.reset_idle) as f64 / restarts)
            )
        });
    }

    fn time_tables(&self, text: &mut String) {
        if !self.loads.is_empty() {
            heading(
                text,
                "From the signal to the first answer of the successor, ms: median (longest)",
            );
            self.by_load(text, |it| {
                missing(it.until_answered_ms, it.not_answered, "never")
            });
            heading(
                text,
                "From the signal to the predecessor's exit, ms: median (longest)",
            );
            self.by_load(text, |it| {
                missing(it.until_ended_ms, it.not_ended, "stayed")
            });
            heading(
                text,
                "Longest time without an answer, ms: around a restart, median (longest), and steady",
            );
            self.by_load(text, |it| {
                format!("{}; {}", it.silence_ms, number(it.steady_silence_ms))
            });
        }
        if self.latencies.is_empty() {
            return;
        }
        heading(
            text,
            "Latency of answered requests, ms: steady → in the half second after the signal",
        );
        line(
            text,
            format_args!(
                "| peer | restarts | p50 | p99 | p99.9 | longest | failed |\n|---|---|---|---|---|---|---|"
            ),
        );
        for figures in &self.latencies {
            let (steady, around) = (&figures.steady, &figures.around);
            let pair = |steady, around| format!("{} → {}", figure(steady), figure(around));
            line(
                text,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} | {} |",
                    figures.peer,
                    figures.restarts,
                    pair(steady.p50_ms, around.p50_ms),
                    pair(steady.p99_ms, around.p99_ms),
                    pair(steady.p999_ms, around.p999_ms),
                    pair(steady.highest_ms, around.highest_ms),
                    figures.failed
                ),
            );
        }
    }

    fn cost_table(&self, text: &mut String) {
        if self.resources.is_empty() {
            return;
        }
        heading(text, "What a restart costs");
        line(
            text,
            format_args!(
                "| peer | restarts | processor time, ms | memory before, MiB | at most | afterwards |\n\
                 |---|---|---|---|---|---|"
            ),
        );
        for it in &self.resources {
            line(
                text,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} |",
                    it.peer,
                    it.restarts,
                    number(it.cpu_ms),
                    figure(it.before_mib.median),
                    figure(it.peak_mib.highest),
                    figure(it.after_mib.median)
                ),
            );
        }
    }

    fn fault_table(&self, text: &mut String) {
        if self.faults.is_empty() {
            return;
        }
        heading(text, "Bad successors");
        line(
            text,
            format_args!(
                "| peer | successor | failed requests | longest silence, ms | then answers | next restart |\n\
                 |---|---|---|---|---|---|"
            ),
        );
        for fault in Fault::ALL {
            for it in self.faults.iter().filter(|it| it.fault == fault.word()) {
                let does = match fault {
                    Fault::Crash => "crashes",
                    Fault::Hang => "hangs",
                    Fault::Die => "dies after 50 ms",
                };
                line(
                    text,
                    format_args!(
                        "| {} | {does} | {} in {} s | {} | {} | {} |",
                        it.peer,
                        it.failed,
                        number(it.watched_ms / 1000.0),
                        number(it.silence_ms),
                        it.afterwards,
                        it.next()
                    ),
                );
            }
        }
    }

    fn crowd_table(&self, text: &mut String) {
        if self.crowds.is_empty() {
            return;
        }
        heading(text, "Idle connections across a restart");
        line(
            text,
            format_args!(
                "| peer | connections | closed while idle | closed with the next response | failed requests | first answer, ms | predecessor's exit, ms |\n\
                 |---|---|---|---|---|---|---|"
            ),
        );
        for it in &self.crowds {
            line(
                text,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} | {} |",
                    it.peer,
                    it.connections,
                    it.closed_idle,
                    it.closed_announced,
                    it.failed + it.failed_probes,
                    figure(it.until_answered_ms),
                    figure(it.until_ended_ms)
                ),
            );
        }
    }

    /// How requests failed, all loads together.
    fn kind_table(&self, text: &mut String) {
        let kinds = Failure::ALL.into_iter().filter(|kind| {
            let mut all = self.loads.iter();
            all.any(|figures| figures.failures.contains_key(kind))
        });
        let kinds: Vec<_> = kinds.collect();
        if kinds.is_empty() {
            return;
        }
        heading(text, "How requests failed, all loads together");
        let names: Vec<_> = kinds.iter().map(ToString::to_string).collect();
        line(text, format_args!("| peer | {} |", names.join(" | ")));
        line(text, format_args!("|---|{}", "---|".repeat(names.len())));
        for peer in self.peers() {
            let cells: Vec<_> = kinds
                .iter()
                .map(|kind| {
                    let of_peer = self.loads.iter().filter(|it| it.peer == peer);
                    let count: usize = of_peer.filter_map(|it| it.failures.get(kind)).sum();
                    count.to_string()
                })
                .collect();
            line(text, format_args!("| {peer} | {} |", cells.join(" | ")));
        }
    }

    fn notes(&self) -> impl Iterator<Item = String> {
        let loads = self.loads.iter().flat_map(|it| {
            let steady = (it.failed_while_steady > 0).then(|| {
                format!(
                    "{} requests failed without a restart",
                    it.failed_while_steady
                )
            });
            let notes = it.notes.iter().cloned().chain(steady);
            notes.map(|note| format!("{}, {}: {note}", it.peer, it.load))
        });
        let faults = self.faults.iter().filter_map(|it| {
            let complaint = it.complaint.as_ref()?;
            Some(format!("{}, {}: {complaint}", it.peer, it.fault))
        });
        let crowds = self.crowds.iter().filter_map(|it| {
            let complaint = it.complaint.as_ref()?;
            Some(format!("{}, crowd: {complaint}", it.peer))
        });
        loads.chain(faults).chain(crowds)
    }
}

fn missing(spread: Spread, missing: usize, how: &str) -> String {
    match missing {
        0 => spread.to_string(),
        _ => format!("{spread}, **{missing} {how}**"),
    }
}

fn heading(text: &mut String, title: &str) {
    line(text, format_args!("\n## {title}\n"));
}

fn line(text: &mut String, arguments: fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 1.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Everything that a reader of the figures has to know about their origin.
fn circumstances(bench: &Bench) -> anyhow::Result<Vec<(&'static str, String)>> {
    let arguments = &bench.arguments;
    let mut list = machine::facts()?;
    list.push((
        "cores",
        format!(
            "{} for the server, {} for the clients",
            bench.server_cpu, bench.client_cpu
        ),
    ));
    list.push((
        "restarts",
        format!(
            "{}, {} ms apart, after {} s without",
            arguments.restarts,
            arguments.spacing.as_millis(),
            arguments.steady.as_secs_f64()
        ),
    ));
    if arguments.is_smoke {
        list.push(("smoke", "a fast run, whose figures mean little".to_owned()));
    }
    list.extend(machine::revision().map(|version| ("heirloom", version)));
    let lock = include_str!("../servers/Cargo.lock");
    for package in ["hyper", "tokio", "ecdysis", "shellflip", "async-h1"] {
        list.extend(machine::locked(lock, package).map(|version| (package, version)));
    }
    list.extend(machine::compiler().map(|line| ("Rust", line)));
    let is_measured = |names: &[&str]| {
        let mut peers = bench.peers.iter();
        peers.any(|peer| names.contains(&peer.name.as_str()))
    };
    let tools = [
        ("Go", &["seed", "nethttp"][..], go(), "version"),
        ("nginx", &["nginx"], on_path("nginx"), "-v"),
        ("HAProxy", &["haproxy"], on_path("haproxy"), "-v"),
    ];
    for (name, peers, program, option) in tools {
        if is_measured(peers)
            && let Some(program) = program
        {
            let version = machine::version(&program, option);
            list.extend(version.map(|line| (name, line)));
        }
    }
    let ways: Vec<_> = bench
        .peers
        .iter()
        .map(|peer| format!("{}: {}", peer.name, peer.way.name()))
        .collect();
    list.push(("how each is restarted", ways.join("; ")));
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_told_with_few_digits() {
        assert_eq!(Spread::of([3.0, 1.0, 250.0]).to_string(), "3.0 (250)");
        assert_eq!(Spread::of([]).to_string(), "–");
        assert_eq!(number(0.123), "0.12");
    }
}
