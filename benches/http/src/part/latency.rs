//! How long requests take at half the load that the slower rival can bear,
//! asked on a schedule: the same one for both.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::rate::observe;
use crate::bench::Bench;
use crate::clients::{Until, quantile, warm_up};
use crate::peer::Peer;
use crate::report::{LatencySample, Report};

const SHARE: f64 = 0.5;

pub fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let peers = super::rivals(bench);
    let mut slowest = f64::INFINITY;
    for peer in &peers {
        let most = most(bench, peer).with_context(|| format!("the most of {}", peer.name))?;
        eprintln!("latency: {} can do {most:.0}/s", peer.name);
        slowest = slowest.min(most);
    }
    ensure!(slowest.is_finite(), "neither heirloom nor hyper is wanted");
    let rate = SHARE * slowest;
    super::interleave(bench, report, "latency", &peers, |report, peer, round| {
        let server = peer.start(bench)?;
        let mut clients = warm_up(&server.address)?;
        let length = Duration::from_secs(bench.arguments.seconds);
        let (mut outcome, cost) = observe(&server, || clients.run_on_schedule(rate, length, None))?;
        let mut at = |share| quantile(&mut outcome.latencies, share).as_secs_f64() * 1e6;
        let sample = LatencySample {
            peer: peer.name,
            round,
            rate,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            longest_us: at(1.0),
            late_p999_us: quantile(&mut outcome.lateness, 0.999).as_secs_f64() * 1e6,
            failures: outcome.failures.total(),
            server_busy: cost.busy,
        };
        eprint!(" p99.9 {:.0} µs at {rate:.0}/s", sample.p999_us);
        report.latencies.push(sample);
        Ok(())
    })
}

/// The rate of a closed loop, from the same generator.
fn most(bench: &Bench, peer: &Peer) -> anyhow::Result<f64> {
    let server = peer.start(bench)?;
    let mut clients = warm_up(&server.address)?;
    let length = Duration::from_secs(bench.arguments.seconds);
    let tally = clients.run(Until::Passed(length))?.flawless()?;
    Ok(tally.answered as f64 / tally.took.as_secs_f64())
}
