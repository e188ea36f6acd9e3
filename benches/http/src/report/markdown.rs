//! The report as tables.

use std::fmt::Write;

use super::{FairnessSample, GrowthSample, LatencySample, Report, SATURATED, median};
use crate::arguments::Part;
use crate::goals;
use crate::workload::Workload;

impl Report {
    /// Judges the goals and renders everything.
    pub fn markdown(&mut self) -> String {
        self.goals = goals::verdicts(self);
        let mut text = String::from("# HTTP bench\n\n");
        for (name, value) in &self.circumstances {
            line(&mut text, format_args!("- {name}: {value}"));
        }
        for part in Part::ALL {
            if let Part::Rate(load) = part {
                self.rate_table(load, &mut text);
            }
        }
        self.doubts(&mut text);
        self.latency_tables(&mut text);
        self.growth_table(&mut text);
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

    fn rate_table(&self, load: Workload, text: &mut String) {
        let rates = || {
            let rates = self.rates.iter();
            rates.filter(|sample| sample.workload == load.name())
        };
        if rates().next().is_none() {
            return;
        }
        heading(text, &load.title());
        line(
            text,
            format_args!(
                "| connections | server | median | lowest – highest | heirloom × | p99 ms | CPU µs a request | heirloom × by CPU | server busy | failures |\n\
                 |---|---|---|---|---|---|---|---|---|---|"
            ),
        );
        let mut groups = Vec::new();
        for sample in rates() {
            if !groups.contains(&(sample.connections, sample.peer)) {
                groups.push((sample.connections, sample.peer));
            }
        }
        groups.sort_by_key(|&(connections, _)| connections);
        for (connections, peer) in groups {
            let samples = self.samples(load, peer, connections);
            let rates = || samples.iter().map(|sample| sample.rate);
            line(
                text,
                format_args!(
                    "| {connections} | {peer} | {:.0} | {:.0} – {:.0} | {} | {} | {} | {} | {} | {} |",
                    median(rates()).unwrap_or_default(),
                    rates().fold(f64::INFINITY, f64::min),
                    rates().fold(0.0, f64::max),
                    figure(self.rate_ratio(load, peer, connections), 2),
                    figure(median(samples.iter().filter_map(|sample| sample.p99_ms)), 2),
                    figure(median(samples.iter().map(|sample| sample.cpu_us)), 2),
                    figure(self.cpu_ratio(load, peer, connections), 2),
                    figure(median(samples.iter().map(|sample| sample.server_busy)), 2),
                    samples.iter().map(|sample| sample.failures).sum::<u64>(),
                ),
            );
        }
    }

    fn latency_tables(&self, text: &mut String) {
        if let Some(first) = self.latencies.first() {
            let title = format!("Latencies at {:.0} requests a second, µs", first.rate);
            heading(text, &title);
            line(
                text,
                format_args!(
                    "| server | p50 | p99 | p99.9 | longest | heirloom × p99.9 | generator late, p99.9 | server busy | failures |\n\
                     |---|---|---|---|---|---|---|---|---|"
                ),
            );
        }
        for peer in peers(self.latencies.iter().map(|sample| sample.peer)) {
            let middle = |value: fn(&LatencySample) -> f64| {
                figure(median(self.latencies_of(peer).map(value)), 0)
            };
            let busy = median(self.latencies_of(peer).map(|sample| sample.server_busy));
            line(
                text,
                format_args!(
                    "| {peer} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    middle(|sample| sample.p50_us),
                    middle(|sample| sample.p99_us),
                    middle(|sample| sample.p999_us),
                    middle(|sample| sample.longest_us),
                    figure(self.latency_ratio(peer), 2),
                    middle(|sample| sample.late_p999_us),
                    figure(busy, 2),
                    self.latencies_of(peer)
                        .map(|sample| sample.failures)
                        .sum::<u64>(),
                ),
            );
        }
        if !self.fairness.is_empty() {
            heading(text, "Beside a client that pipelines without end, µs");
            line(
                text,
                format_args!(
                    "| server | p99.9 alone | p50 | p99.9 | longest | requests a second of the greedy one | failures |\n\
                     |---|---|---|---|---|---|---|"
                ),
            );
        }
        for peer in peers(self.fairness.iter().map(|sample| sample.peer)) {
            let samples = || self.fairness.iter().filter(|sample| sample.peer == peer);
            let middle =
                |value: fn(&FairnessSample) -> f64| figure(median(samples().map(value)), 0);
            line(
                text,
                format_args!(
                    "| {peer} | {} | {} | {} | {} | {} | {} |",
                    middle(|sample| sample.alone_p999_us),
                    middle(|sample| sample.beside_p50_us),
                    middle(|sample| sample.beside_p999_us),
                    middle(|sample| sample.beside_longest_us),
                    middle(|sample| sample.greedy_rate),
                    samples().map(|sample| sample.failures).sum::<u64>(),
                ),
            );
        }
    }

    fn growth_table(&self, text: &mut String) {
        if self.growth.is_empty() {
            return;
        }
        heading(text, "64 busy connections beside idle ones");
        line(
            text,
            format_args!(
                "| server | idle | requests a second | p99 ms | CPU µs a request | × without idle ones | bytes each | server busy | failures |\n\
                 |---|---|---|---|---|---|---|---|---|"
            ),
        );
        let mut steps: Vec<_> = self.growth.iter().map(|sample| sample.idle).collect();
        steps.sort_unstable();
        steps.dedup();
        for peer in peers(self.growth.iter().map(|sample| sample.peer)) {
            for &idle in &steps {
                let middle = |value: fn(&GrowthSample) -> f64, digits| {
                    figure(median(self.growth_of(peer, idle).map(value)), digits)
                };
                let p99 = self.growth_of(peer, idle);
                let p99 = median(p99.filter_map(|sample| sample.p99_ms));
                let bytes = self.growth_of(peer, idle);
                let bytes = median(bytes.filter_map(|sample| sample.bytes_each));
                line(
                    text,
                    format_args!(
                        "| {peer} | {idle} | {} | {} | {} | {} | {} | {} | {} |",
                        middle(|sample| sample.rate, 0),
                        figure(p99, 2),
                        middle(|sample| sample.cpu_us, 2),
                        figure(self.growth_of_cost(peer, idle), 2),
                        figure(bytes, 0),
                        middle(|sample| sample.server_busy, 2),
                        self.growth_of(peer, idle)
                            .map(|sample| sample.failures)
                            .sum::<u64>(),
                    ),
                );
            }
        }
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
            let connections = match figures.connections {
                0 => "–".to_owned(),
                connections => connections.to_string(),
            };
            line(
                text,
                format_args!(
                    "| {} | {} | {:.0} | {} |",
                    figures.peer,
                    connections,
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

/// Each once, in the order of the first round.
fn peers(of_samples: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut peers = Vec::new();
    for peer in of_samples {
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    peers
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
