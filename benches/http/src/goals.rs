//! What heirloom has set itself, and whether a run shows it.

use serde::Serialize;

use crate::peer::OURS;
use crate::report::Report;

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
    for connections in [64, 512] {
        for (peer, least) in [("hyper", 0.7), ("go", 1.3), ("async-h1", 3.0)] {
            judge(
                format!("rate on {connections} connections, × {peer}"),
                AtLeast(least),
                report.rate_ratio(peer, connections),
                report.is_sound(OURS, connections) && report.is_sound(peer, connections),
            );
        }
    }
    let syscalls = report.syscalls.iter().find(|figures| figures.peer == OURS);
    // strace changes how often a server has to wait, and so the number.
    let is_sound = syscalls.is_some_and(|figures| figures.counted_by == "perf");
    let calls = syscalls.map(|figures| figures.calls);
    judge(
        "system calls a request".to_owned(),
        AtMost(3.3),
        calls,
        is_sound,
    );
    let sends = syscalls.map(|figures| figures.sends);
    // One, and the odd wake-up that is a `write` as well.
    judge("sends a request".to_owned(), AtMost(1.01), sends, true);
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
