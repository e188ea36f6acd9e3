//! What idle connections do to the busy ones: rate and p99 of 64, beside more
//! and more that only exist, and the memory these take.

use anyhow::Context;

use super::rate::load;
use crate::bench::Bench;
use crate::clients::{Clients, Until, warm_up};
use crate::observed::resident_bytes;
use crate::report::{GrowthSample, Report};
use crate::workload::Workload;

const BUSY: usize = 64;

pub fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let most = bench.most_connections.saturating_sub(BUSY);
    let mut steps: Vec<_> = bench.arguments.growth.clone();
    if let Some(&wanted) = steps.iter().max().filter(|&&wanted| wanted > most) {
        report.skip(format!(
            "growth: {wanted} connections; the limit of open files allows {most}"
        ));
    }
    for step in &mut steps {
        *step = most.min(*step);
    }
    steps.sort_unstable();
    steps.dedup();
    let peers = super::rivals(bench);
    super::interleave(bench, report, "growth", &peers, |report, peer, round| {
        let server = peer.start(bench)?;
        let pid = server.process.pid();
        drop(warm_up(&server.address)?);
        let mut idle = Clients::connect(&server.address, 0)?;
        // What was in memory before there were any, and the load before that.
        let mut before = None;
        for &step in &steps {
            idle.grow(step)?;
            let bytes = resident_bytes(pid)? as f64;
            let (outcome, cost) = load(bench, &server, Workload::KeepAlive, BUSY)?;
            if step == 0 {
                before = Some(resident_bytes(pid)? as f64);
            }
            eprint!(" {:.0}/s beside {step}", outcome.rate);
            report.growth.push(GrowthSample {
                peer: peer.name,
                round,
                idle: step,
                rate: outcome.rate,
                p99_ms: outcome.p99.map(|p99| p99.as_secs_f64() * 1e3),
                failures: outcome.failures,
                server_busy: cost.busy,
                cpu_us: cost.cpu.as_secs_f64() * 1e6 / outcome.answered as f64,
                bytes_each: before
                    .filter(|_| step > 0)
                    .map(|before| (bytes - before) / step as f64),
            });
        }
        // Or they were not idle, but gone.
        idle.run(Until::Answered(idle.count() as u64))?
            .flawless()
            .context("when the idle connections were used again")?;
        Ok(())
    })
}
