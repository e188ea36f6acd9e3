//! What heirloom has set itself, and whether a run shows it.

use serde::Serialize;

use crate::peer::OURS;
use crate::report::{Report, median};
use crate::workload::Workload;

/// How long a client that pipelines without end may delay others, in
/// microseconds: some turns of 32 requests each.
const DELAY: f64 = 2_000.0;

/// A bound on one figure.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A goal beside what was measured.
#[derive(Serialize)]
pub struct Verdict {
    pub figure: String,
    pub goal: String,
    /// `None` if this run did not measure it.
    pub measured: Option<f64>,
    /// `None` also if the figure is not to be trusted.
    pub is_met: Option<bool>,
}

pub fn verdicts(report: &Report) -> Vec<Verdict> {
    use Bound::{AtLeast, AtMost};
    let mut verdicts = Vec::new();
    let mut judge = |figure: String, bound, measured: Option<f64>, is_sound: bool| {
        verdicts.push(Verdict {
            figure,
            goal: match bound {
                AtLeast(least) => format!("≥ {least}"),
                AtMost(most) => format!("≤ {most}"),
            },
            measured,
            is_met: measured.filter(|_| is_sound).map(|measured| match bound {
                AtLeast(least) => measured >= least,
                AtMost(most) => measured <= most,
            }),
        });
    };
    for (load, peer, connections, least) in [
        (Workload::KeepAlive, "hyper", 64, 0.95),
        (Workload::KeepAlive, "hyper", 512, 1.0),
        (Workload::KeepAlive, "go", 64, 1.9),
        (Workload::KeepAlive, "go", 512, 1.9),
        (Workload::KeepAlive, "nginx", 64, 1.0),
        (Workload::KeepAlive, "nginx", 512, 1.0),
        (Workload::KeepAlive, "epoll", 64, 0.85),
        (Workload::KeepAlive, "epoll", 512, 0.85),
        (Workload::Pipelined, "hyper", 64, 1.0),
        (Workload::Echo, "hyper", 64, 0.95),
        (Workload::Stream, "hyper", 16, 0.95),
        (Workload::Connect, "hyper", 64, 0.95),
        (Workload::Unix, "hyper", 64, 0.95),
    ] {
        judge(
            format!("{} on {connections} connections, × {peer}", load.name()),
            AtLeast(least),
            report.rate_ratio(load, peer, connections),
            report.is_sound(load, OURS, connections) && report.is_sound(load, peer, connections),
        );
    }
    judge(
        "p99.9 at half load, × hyper".to_owned(),
        AtMost(1.0),
        report.latency_ratio("hyper"),
        report.is_punctual(OURS) && report.is_punctual("hyper"),
    );
    let fairness = || report.fairness.iter().filter(|sample| sample.peer == OURS);
    judge(
        "p99.9 beside a greedy client, µs".to_owned(),
        AtMost(DELAY),
        median(fairness().map(|sample| sample.beside_p999_us)),
        // Where a modest client waits for longer than that without the greedy
        // one, something else delays it.
        fairness().all(|sample| sample.failures == 0)
            && median(fairness().map(|sample| sample.alone_p999_us)).is_some_and(|t| t < DELAY),
    );
    let growth = || report.growth.iter().filter(|sample| sample.peer == OURS);
    let most = growth().map(|sample| sample.idle).max().filter(|&n| n > 0);
    judge(
        match most {
            Some(most) => format!("CPU time a request beside {most} idle, × without"),
            None => "CPU time a request beside idle connections, × without".to_owned(),
        },
        AtMost(1.05),
        most.and_then(|most| report.growth_of_cost(OURS, most)),
        growth().all(|sample| sample.failures == 0),
    );
    let syscalls = report.syscalls.iter().find(|figures| figures.peer == OURS);
    // strace changes how often a server has to wait, and so the number.
    let is_sound = syscalls.is_some_and(|figures| figures.counted_by == "perf");
    let calls = syscalls.map(|figures| figures.calls);
    judge(
        "system calls a request".to_owned(),
        AtMost(2.2),
        calls,
        is_sound,
    );
    let sends = syscalls.map(|figures| figures.sends);
    // One, and the odd wake-up that is a `write` as well.
    judge("sends a request".to_owned(), AtMost(1.01), sends, true);
    let instructions = report
        .instructions
        .iter()
        .find(|figures| figures.peer == OURS && figures.connections == 64);
    judge(
        "instructions a request, on 64 connections".to_owned(),
        AtMost(14_000.0),
        instructions.map(|figures| figures.instructions),
        true,
    );
    let allocations = report
        .allocations
        .iter()
        .find(|figures| figures.peer == OURS);
    judge(
        "allocations a request".to_owned(),
        AtMost(14.0),
        allocations.map(|figures| figures.allocations),
        true,
    );
    let idle = report.idle.iter().find(|figures| figures.peer == OURS);
    let bytes = idle.map(|figures| figures.bytes_each);
    judge(
        "bytes an idle connection".to_owned(),
        AtMost(700.0),
        bytes,
        true,
    );
    let wakeups = idle.map(|figures| figures.wakeups_per_second);
    judge(
        "wake-ups a second while idle".to_owned(),
        AtMost(0.0),
        wakeups,
        true,
    );
    verdicts
}
