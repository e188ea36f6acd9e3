//! What a client that pipelines without end does to the others: modest ones,
//! which ask on a schedule, first alone and then beside it.

use std::time::Duration;

use anyhow::ensure;

use crate::bench::Bench;
use crate::clients::{Clients, Greedy, Punctual, Until, quantile};
use crate::report::{FairnessSample, Report};

/// The modest clients, and how often they ask, in all: so little that the
/// server has nothing to do without the greedy one.
const MODEST: usize = 16;
const RATE: f64 = 2_000.0;

pub fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let peers = super::rivals(bench);
    super::interleave(bench, report, "fairness", &peers, |report, peer, round| {
        let server = peer.start(bench)?;
        let mut modest = Clients::connect(&server.address, MODEST)?;
        modest.run(Until::Answered(4_000))?.flawless()?;
        let length = Duration::from_secs(bench.arguments.seconds);
        let mut alone = modest.run_on_schedule(RATE, length, None)?;
        let mut greedy = Greedy::connect(&server.address)?;
        let mut beside = modest.run_on_schedule(RATE, length, Some(&mut greedy))?;
        ensure!(greedy.answered() > 0, "the greedy client got nothing");
        let at = |outcome: &mut Punctual, share| {
            quantile(&mut outcome.latencies, share).as_secs_f64() * 1e6
        };
        let sample = FairnessSample {
            peer: peer.name,
            round,
            alone_p999_us: at(&mut alone, 0.999),
            beside_p50_us: at(&mut beside, 0.5),
            beside_p999_us: at(&mut beside, 0.999),
            beside_longest_us: at(&mut beside, 1.0),
            greedy_rate: greedy.answered() as f64 / beside.took.as_secs_f64(),
            failures: alone.failures.total() + beside.failures.total(),
        };
        eprint!(
            " p99.9 {:.0} µs, beside the greedy client {:.0}",
            sample.alone_p999_us, sample.beside_p999_us
        );
        report.fairness.push(sample);
        Ok(())
    })
}
