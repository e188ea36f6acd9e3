//! The figures, and how they are told.

mod circumstances;
mod markdown;

use std::collections::BTreeMap;

use serde::Serialize;

use self::circumstances::circumstances;
use crate::bench::Bench;
use crate::goals::Verdict;
use crate::peer::OURS;
use crate::workload::Workload;

/// A server that is busy for a smaller share of the time is not the slowest
/// part of the measurement.
const SATURATED: f64 = 0.9;

#[derive(Serialize)]
pub struct Report {
    /// Name and value, in the order in which they are told.
    pub circumstances: Vec<(&'static str, String)>,
    pub rates: Vec<RateSample>,
    pub latencies: Vec<LatencySample>,
    pub fairness: Vec<FairnessSample>,
    pub growth: Vec<GrowthSample>,
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
    /// The part that measured it.
    pub workload: &'static str,
    pub peer: &'static str,
    pub connections: usize,
    pub round: usize,
    pub rate: f64,
    pub p99_ms: Option<f64>,
    pub failures: u64,
    /// The share of its core that the server used. Clearly below one, the
    /// generator was the slower side and the rate is not the server's.
    pub server_busy: f64,
    /// What a request costs the server's core, in user and system time. This
    /// holds also where the machine is busy with something else.
    pub cpu_us: f64,
}

/// One measurement of one round, on a schedule that was the same for all.
#[derive(Serialize)]
pub struct LatencySample {
    pub peer: &'static str,
    pub round: usize,
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub longest_us: f64,
    /// By how much the generator itself was late.
    pub late_p999_us: f64,
    pub failures: u64,
    pub server_busy: f64,
}

/// Modest clients, without and with a greedy one.
#[derive(Serialize)]
pub struct FairnessSample {
    pub peer: &'static str,
    pub round: usize,
    pub alone_p999_us: f64,
    pub beside_p50_us: f64,
    pub beside_p999_us: f64,
    pub beside_longest_us: f64,
    /// What the greedy one got.
    pub greedy_rate: f64,
    pub failures: u64,
}

/// Busy connections beside idle ones.
#[derive(Serialize)]
pub struct GrowthSample {
    pub peer: &'static str,
    pub round: usize,
    /// How many idle ones there were.
    pub idle: usize,
    pub rate: f64,
    pub p99_ms: Option<f64>,
    pub failures: u64,
    pub server_busy: f64,
    pub cpu_us: f64,
    /// `None` where there were none.
    pub bytes_each: Option<f64>,
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
    /// 0 for what is no server.
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
            latencies: Vec::new(),
            fairness: Vec::new(),
            growth: Vec::new(),
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
    pub fn rate_ratio(&self, load: Workload, peer: &str, connections: usize) -> Option<f64> {
        let samples = |peer| self.samples(load, peer, connections);
        let round = |sample: &RateSample| sample.round;
        paired(samples(OURS), samples(peer), round, |ours, theirs| {
            ours.rate / theirs.rate
        })
    }

    /// The same, had both had their core for themselves: the ratio of what
    /// they could answer in a second of CPU time.
    fn cpu_ratio(&self, load: Workload, peer: &str, connections: usize) -> Option<f64> {
        let samples = |peer| self.samples(load, peer, connections);
        let round = |sample: &RateSample| sample.round;
        paired(samples(OURS), samples(peer), round, |ours, theirs| {
            theirs.cpu_us / ours.cpu_us
        })
    }

    /// Whether the rate of `peer` is what that server can do: it was the
    /// slowest part, and nothing failed.
    pub fn is_sound(&self, load: Workload, peer: &str, connections: usize) -> bool {
        let samples = self.samples(load, peer, connections);
        samples.iter().all(|sample| sample.failures == 0)
            && median(samples.iter().map(|sample| sample.server_busy))
                .is_some_and(|busy| busy >= SATURATED)
    }

    fn samples(&self, load: Workload, peer: &str, connections: usize) -> Vec<&RateSample> {
        let is_asked_for = |sample: &&RateSample| {
            (sample.workload, sample.peer, sample.connections) == (load.name(), peer, connections)
        };
        self.rates.iter().filter(is_asked_for).collect()
    }

    /// Our p99.9 on the schedule, as a multiple of that of `peer`.
    pub fn latency_ratio(&self, peer: &str) -> Option<f64> {
        let samples = |peer| self.latencies_of(peer).collect();
        let round = |sample: &LatencySample| sample.round;
        paired(samples(OURS), samples(peer), round, |ours, theirs| {
            ours.p999_us / theirs.p999_us
        })
    }

    /// Whether the latencies of `peer` are its own: nothing failed, and the
    /// generator was not so late itself that this is what was measured.
    pub fn is_punctual(&self, peer: &str) -> bool {
        let late = median(self.latencies_of(peer).map(|sample| sample.late_p999_us));
        let p999 = median(self.latencies_of(peer).map(|sample| sample.p999_us));
        self.latencies_of(peer).all(|sample| sample.failures == 0)
            && late
                .zip(p999)
                .is_some_and(|(late, p999)| late <= p999 / 2.0)
    }

    fn latencies_of(&self, peer: &str) -> impl Iterator<Item = &LatencySample> {
        self.latencies
            .iter()
            .filter(move |sample| sample.peer == peer)
    }

    /// What a request costs `peer` beside `idle` connections, as a multiple of
    /// what it costs without.
    pub fn growth_of_cost(&self, peer: &str, idle: usize) -> Option<f64> {
        let samples = |idle| self.growth_of(peer, idle).collect();
        let round = |sample: &GrowthSample| sample.round;
        paired(samples(idle), samples(0), round, |beside, without| {
            beside.cpu_us / without.cpu_us
        })
    }

    fn growth_of(&self, peer: &str, idle: usize) -> impl Iterator<Item = &GrowthSample> {
        self.growth
            .iter()
            .filter(move |sample| sample.peer == peer && sample.idle == idle)
    }
}

/// The median of how two samples compare, over the rounds that have both.
fn paired<S>(
    these: Vec<&S>,
    those: Vec<&S>,
    round: impl Fn(&S) -> usize,
    compare: impl Fn(&S, &S) -> f64,
) -> Option<f64> {
    median(these.iter().filter_map(|this| {
        let that = those.iter().find(|that| round(that) == round(this))?;
        Some(compare(this, that))
    }))
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

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
    }
}
