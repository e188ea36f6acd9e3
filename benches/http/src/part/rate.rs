//! Requests a second, one core for the server and another for the load.
//!
//! The machine's own pace changes while a bench runs. So the peers take turns,
//! each round begins with another one, and a ratio is the median of the ratios
//! of each round.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::clients::{Clients, Until, warm_up};
use crate::observed;
use crate::peer::Peer;
use crate::report::{RateSample, Report};
use crate::wrk;

pub fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let rounds = bench.arguments.rounds;
    for round in 0..rounds {
        for turn in 0..bench.peers.len() {
            let peer = &bench.peers[(round + turn) % bench.peers.len()];
            eprint!("rate: round {} of {rounds}, {}:", round + 1, peer.name);
            if let Err(error) = measure_peer(bench, peer, round, report) {
                eprintln!();
                report.skip(format!(
                    "rate of {}, round {}: {error:#}",
                    peer.name,
                    round + 1
                ));
                continue;
            }
            eprintln!();
        }
    }
    Ok(())
}

fn measure_peer(
    bench: &Bench,
    peer: &Peer,
    round: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    // A new process each time: what one load leaves behind in the allocator is
    // no part of the next figure.
    for &connections in &bench.arguments.connections {
        let server = peer.start(bench)?;
        drop(warm_up(server.address)?);
        let pid = server.process.pid();
        let cpu_before = observed::cpu_time(pid)?;
        let started = Instant::now();
        let load = match &bench.wrk {
            Some(wrk) => wrk::run(
                wrk,
                bench.client_cpu,
                server.address,
                connections,
                bench.arguments.seconds,
            )?,
            None => own_load(bench, &server.address, connections)?,
        };
        let cpu = observed::cpu_time(pid)?.saturating_sub(cpu_before);
        let busy = cpu.as_secs_f64() / started.elapsed().as_secs_f64();
        eprint!(" {:.0}/s on {connections}", load.rate);
        report.rates.push(RateSample {
            peer: peer.name,
            connections,
            round,
            rate: load.rate,
            p99_ms: load.p99.as_secs_f64() * 1e3,
            failures: load.failures,
            server_busy: busy,
            cpu_us: cpu.as_secs_f64() * 1e6 / load.answered as f64,
        });
    }
    Ok(())
}

fn own_load(
    bench: &Bench,
    address: &std::net::SocketAddr,
    connections: usize,
) -> anyhow::Result<wrk::Outcome> {
    let mut clients = Clients::connect(*address, connections)?;
    let mut tally = clients.run(Until::Passed(Duration::from_secs(bench.arguments.seconds)))?;
    tally.latencies.sort_unstable();
    let p99 = tally.latencies.get(tally.latencies.len() * 99 / 100);
    Ok(wrk::Outcome {
        answered: tally.answered,
        rate: tally.answered as f64 / tally.took.as_secs_f64(),
        p99: Duration::from_micros(p99.copied().unwrap_or(0).into()),
        failures: tally.failures.total(),
    })
}
