//! The figures, and how they are told.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

use serde::Serialize;

use crate::bench::{Bench, first_line, on_path};
use crate::goals::{self, Verdict};
use crate::observed::read;
use crate::peer::{OURS, go};

/// A server that is busy for a smaller share of the time is not the slowest
/// part of the measurement.
const SATURATED: f64 = 0.9;

#[derive(Serialize)]
pub struct Report {
    /// Name and value, in the order in which they are told.
    pub circumstances: Vec<(&'static str, String)>,
    pub rates: Vec<RateSample>,
    pub syscalls: Vec<SyscallFigures>,
    pub idle: Vec<IdleFigures>,
    pub instructions: Vec<InstructionFigures>,
    pub allocations: Vec<AllocationFigures>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
    /// Filled in at the end.
    pub goals: Vec<Verdict>,
}

/// One measurement of one round.
#[derive(Serialize)]
pub struct RateSample {
    pub peer: &'static str,
    pub connections: usize,
    pub round: usize,
    pub rate: f64,
    pub p99_ms: f64,
    pub failures: u64,
    /// The share of its core that the server used. Clearly below one, the
    /// generator was the slower side and the rate is not the server's.
    pub server_busy: f64,
    /// What a request costs the server's core, in user and system time. This
    /// holds also where the machine is busy with something else.
    pub cpu_us: f64,
}

#[derive(Serialize)]
pub struct SyscallFigures {
    pub peer: &'static str,
    /// perf or strace.
    pub counted_by: &'static str,
    pub calls: f64,
    pub sends: f64,
    pub by_call: BTreeMap<String, f64>,
}

#[derive(Serialize)]
pub struct IdleFigures {
    pub peer: &'static str,
    pub connections: usize,
    pub bytes_each: f64,
    pub wakeups_per_second: f64,
}

#[derive(Serialize)]
pub struct InstructionFigures {
    pub peer: &'static str,
    pub connections: usize,
    pub instructions: f64,
    pub repeats: Vec<f64>,
}

#[derive(Serialize)]
pub struct AllocationFigures {
    pub peer: &'static str,
    pub allocations: f64,
}

impl Report {
    /// An empty report that knows where and how it is taken.
    pub fn new(bench: &Bench) -> anyhow::Result<Self> {
        Ok(Report {
            circumstances: circumstances(bench)?,
            rates: Vec::new(),
            syscalls: Vec::new(),
            idle: Vec::new(),
            instructions: Vec::new(),
            allocations: Vec::new(),
            skipped: bench.skipped.clone(),
            goals: Vec::new(),
        })
    }

    /// Notes, and says at once, that something was not measured.
    pub fn skip(&mut self, what: String) {
        eprintln!("skipped: {what}");
        self.skipped.push(what);
    }

    /// How our rate compares with that of `peer`.
    pub fn rate_ratio(&self, peer: &str, connections: usize) -> Option<f64> {
        self.ratio(peer, connections, |ours, theirs| ours.rate / theirs.rate)
    }

    /// The same, had both had their core for themselves: the ratio of what
    /// they could answer in a second of CPU time.
    fn cpu_ratio(&self, peer: &str, connections: usize) -> Option<f64> {
        self.ratio(peer, connections, |ours, theirs| {
            theirs.cpu_us / ours.cpu_us
        })
    }

    /// The median over all rounds in which both we and `peer` were measured.
    fn ratio(
        &self,
        peer: &str,
        connections: usize,
        compare: impl Fn(&RateSample, &RateSample) -> f64,
    ) -> Option<f64> {
        let ours = self.samples(OURS, connections);
        median(ours.filter_map(|ours| {
            let theirs = self
                .samples(peer, connections)
                .find(|theirs| theirs.round == ours.round)?;
            Some(compare(ours, theirs))
        }))
    }

    /// Whether the rate of `peer` is what that server can do: it was the
    /// slowest part, and nothing failed.
    pub fn is_sound(&self, peer: &str, connections: usize) -> bool {
        let samples = || self.samples(peer, connections);
        samples().all(|sample| sample.failures == 0)
            && median(samples().map(|sample| sample.server_busy)).is_some_and(|b| b >= SATURATED)
    }

    fn samples(&self, peer: &str, connections: usize) -> impl Iterator<Item = &RateSample> {
        self.rates
            .iter()
            .filter(move |sample| sample.peer == peer && sample.connections == connections)
    }

    /// Judges the goals and renders everything.
    pub fn markdown(&mut self) -> String {
        self.goals = goals::verdicts(self);
        let mut text = String::from("# HTTP bench\n\n");
        for (name, value) in &self.circumstances {
            line(&mut text, format_args!("- {name}: {value}"));
        }
        self.rate_table(&mut text);
        self.other_tables(&mut text);
        self.goal_table(&mut text);
        if !self.skipped.is_empty() {
            heading(&mut text, "Skipped");
            for what in &self.skipped {
                line(&mut text, format_args!("- {what}"));
            }
        }
        text
    }

    fn rate_table(&self, text: &mut String) {
        if self.rates.is_empty() {
            return;
        }
        heading(text, "Requests a second");
        line(
            text,
            format_args!(
                "| connections | server | median | lowest – highest | heirloom × | p99 ms | CPU µs a request | heirloom × by CPU | server busy | failures |\n\
                 |---|---|---|---|---|---|---|---|---|---|"
            ),
        );
        let mut groups = Vec::new();
        for sample in &self.rates {
            if !groups.contains(&(sample.connections, sample.peer)) {
                groups.push((sample.connections, sample.peer));
            }
        }
        groups.sort_by_key(|&(connections, _)| connections);
        for (connections, peer) in groups {
            let samples: Vec<_> = self.samples(peer, connections).collect();
            let rates = || samples.iter().map(|sample| sample.rate);
            line(
                text,
                format_args!(
                    "| {connections} | {peer} | {:.0} | {:.0} – {:.0} | {} | {} | {} | {} | {} | {} |",
                    median(rates()).unwrap_or_default(),
                    rates().fold(f64::INFINITY, f64::min),
                    rates().fold(0.0, f64::max),
                    figure(self.rate_ratio(peer, connections), 2),
                    figure(median(samples.iter().map(|sample| sample.p99_ms)), 2),
                    figure(median(samples.iter().map(|sample| sample.cpu_us)), 2),
                    figure(self.cpu_ratio(peer, connections), 2),
                    figure(median(samples.iter().map(|sample| sample.server_busy)), 2),
                    samples.iter().map(|sample| sample.failures).sum::<u64>(),
                ),
            );
        }
        self.doubts(text);
    }

    /// Says when the rates are those of something else than the servers.
    fn doubts(&self, text: &mut String) {
        let least = self.rates.iter().map(|sample| sample.server_busy);
        let least = least.fold(f64::INFINITY, f64::min);
        if least < SATURATED {
            line(
                text,
                format_args!(
                    "\nA server was busy for only {least:.2} of the time: the load was too slow, or \
                     other programs had a part of the cores. The CPU time a request holds all the \
                     same, the rates and their ratios do not."
                ),
            );
        }
    }

    fn other_tables(&self, text: &mut String) {
        if !self.syscalls.is_empty() {
            heading(text, "System calls a request");
            line(
                text,
                format_args!(
                    "| server | all | sends | by call | counted by |\n|---|---|---|---|---|"
                ),
            );
        }
        for figures in &self.syscalls {
            // Those that happen once in a hundred requests or less are told by
            // the JSON.
            let mut by_call: Vec<_> = figures.by_call.iter().filter(|(_, n)| **n > 0.01).collect();
            by_call.sort_by(|a, b| b.1.total_cmp(a.1));
            let by_call: Vec<_> = by_call
                .iter()
                .map(|(name, count)| format!("{name} {count:.2}"))
                .collect();
            line(
                text,
                format_args!(
                    "| {} | {:.2} | {:.2} | {} | {} |",
                    figures.peer,
                    figures.calls,
                    figures.sends,
                    by_call.join(", "),
                    figures.counted_by
                ),
            );
        }
        if !self.idle.is_empty() {
            heading(text, "Idle keep-alive connections");
            line(
                text,
                format_args!(
                    "| server | connections | bytes each | wake-ups a second |\n|---|---|---|---|"
                ),
            );
        }
        for figures in &self.idle {
            line(
                text,
                format_args!(
                    "| {} | {} | {:.0} | {:.1} |",
                    figures.peer,
                    figures.connections,
                    figures.bytes_each,
                    figures.wakeups_per_second
                ),
            );
        }
        if !self.instructions.is_empty() {
            heading(text, "Instructions a request, in user space");
            line(
                text,
                format_args!("| server | connections | median | repeats |\n|---|---|---|---|"),
            );
        }
        for figures in &self.instructions {
            let repeats: Vec<_> = figures.repeats.iter().map(|n| format!("{n:.0}")).collect();
            line(
                text,
                format_args!(
                    "| {} | {} | {:.0} | {} |",
                    figures.peer,
                    figures.connections,
                    figures.instructions,
                    repeats.join(", ")
                ),
            );
        }
        if !self.allocations.is_empty() {
            heading(text, "Allocations a request");
            line(text, format_args!("| server | allocations |\n|---|---|"));
        }
        for figures in &self.allocations {
            line(
                text,
                format_args!("| {} | {:.2} |", figures.peer, figures.allocations),
            );
        }
    }

    fn goal_table(&self, text: &mut String) {
        heading(text, "Goals");
        line(
            text,
            format_args!("| figure | goal | measured | met |\n|---|---|---|---|"),
        );
        for verdict in &self.goals {
            line(
                text,
                format_args!(
                    "| {} | {} | {} | {} |",
                    verdict.figure,
                    verdict.goal,
                    figure(verdict.measured, 2),
                    match verdict.is_met {
                        Some(true) => "yes",
                        Some(false) => "**no**",
                        None if verdict.measured.is_some() => "not judged",
                        None => "not measured",
                    }
                ),
            );
        }
    }
}

fn heading(text: &mut String, title: &str) {
    line(text, format_args!("\n## {title}\n"));
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Everything that a reader of the figures has to know about their origin.
fn circumstances(bench: &Bench) -> anyhow::Result<Vec<(&'static str, String)>> {
    let arguments = &bench.arguments;
    let processors = read("/proc/cpuinfo")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let mut list = vec![
        ("processor", model.to_owned()),
        (
            "cores",
            format!(
                "{} for the server, {} for the load",
                bench.server_cpu, bench.client_cpu
            ),
        ),
        (
            "kernel",
            read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        ),
        (
            "load average before",
            read("/proc/loadavg")?.trim().to_owned(),
        ),
        (
            "rounds",
            format!("{} of {} s", arguments.rounds, arguments.seconds),
        ),
    ];
    let generator = match &bench.wrk {
        Some(wrk) => first_line(Command::new(wrk).arg("-v")).unwrap_or_default(),
        None => "our own".to_owned(),
    };
    list.push(("load from", generator));
    let heirloom = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args(["describe", "--always", "--dirty", "--abbrev=10"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    list.push(("heirloom", heirloom.unwrap_or_else(|| locked("heirloom"))));
    for package in ["hyper", "tokio", "async-h1", "smol"] {
        list.push((package, locked(package)));
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    list.extend(first_line(Command::new(rustc).arg("-V")).map(|line| ("Rust", line)));
    if bench.peers.iter().any(|peer| peer.name == "go") {
        let version = go().and_then(|go| first_line(Command::new(go).arg("version")));
        list.extend(version.map(|line| ("Go", line)));
    }
    if bench.peers.iter().any(|peer| peer.name == "nginx") {
        let version = on_path("nginx").and_then(|nginx| first_line(Command::new(nginx).arg("-v")));
        list.extend(version.map(|line| ("nginx", line)));
    }
    Ok(list)
}

/// The version of a package that this was built with.
fn locked(package: &str) -> String {
    let entry = format!("name = \"{package}\"\nversion = \"");
    include_str!("../Cargo.lock")
        .split_once(&entry)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("unknown", |(version, _)| version)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
    }

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(locked("hyper").starts_with("1."));
        assert!(locked("async-h1").starts_with("2."));
    }
}
