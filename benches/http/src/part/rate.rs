//! Requests a second, one core for the server and another for the load.
//!
//! The machine's own pace changes while a bench runs. So the peers take turns,
//! each round begins with another one, and a ratio is the median of the ratios
//! of each round.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::address::Address;
use crate::bench::Bench;
use crate::clients::{Clients, Until, quantile, warm_up_by};
use crate::observed;
use crate::peer::{Peer, Server};
use crate::report::{RateSample, Report};
use crate::workload::Workload;
use crate::wrk::{self, Outcome};

pub fn measure(bench: &Bench, report: &mut Report, workload: Workload) -> anyhow::Result<()> {
    let name = workload.name();
    let peers: Vec<_> = bench
        .peers
        .iter()
        .filter(|peer| workload.is_for(peer.name))
        .collect();
    super::interleave(bench, report, name, &peers, |report, peer, round| {
        // A new process each time: what one load leaves behind in the allocator
        // is no part of the next figure.
        for &connections in workload.connections(&bench.arguments.connections) {
            let server = peer.start_for(bench, workload)?;
            let sample = measure_server(bench, peer, &server, workload, connections, round)?;
            eprint!(" {:.0}/s on {connections}", sample.rate);
            report.rates.push(sample);
        }
        Ok(())
    })
}

/// Measures a server as it is, after it was warmed up.
fn measure_server(
    bench: &Bench,
    peer: &Peer,
    server: &Server,
    workload: Workload,
    connections: usize,
    round: usize,
) -> anyhow::Result<RateSample> {
    let exchange = workload.exchange(&server.address);
    drop(warm_up_by(
        exchange,
        &server.address,
        workload.warming_requests(),
    )?);
    let (load, cost) = load(bench, server, workload, connections)?;
    Ok(RateSample {
        workload: workload.name(),
        peer: peer.name,
        connections,
        round,
        rate: load.rate,
        p99_ms: load.p99.map(|p99| p99.as_secs_f64() * 1e3),
        failures: load.failures,
        server_busy: cost.busy,
        cpu_us: cost.cpu.as_secs_f64() * 1e6 / load.answered as f64,
    })
}

/// What a load took of the server.
pub(super) struct Cost {
    pub cpu: Duration,
    /// The share of a core.
    pub busy: f64,
}

/// Loads the server as hard as `connections` can.
pub(super) fn load(
    bench: &Bench,
    server: &Server,
    workload: Workload,
    connections: usize,
) -> anyhow::Result<(Outcome, Cost)> {
    let seconds = bench.arguments.seconds;
    observe(server, || match (&bench.wrk, &server.address) {
        (Some(program), Address::Tcp(address)) => {
            let script = match workload.script() {
                Some(text) => {
                    let path = bench.directory.join(format!("{}.lua", workload.name()));
                    fs::write(&path, text)
                        .with_context(|| format!("could not write {}", path.display()))?;
                    Some(path)
                }
                None => None,
            };
            let load = wrk::Load {
                url: format!("http://{address}{}", workload.path()),
                script,
                connections,
                seconds,
            };
            let outcome = wrk::run(program, bench.client_cpu, &load)?;
            Ok(Outcome {
                // wrk makes up for what a closed loop leaves out, by a rate
                // that is that of all requests but times them in groups.
                p99: outcome.p99.filter(|_| workload != Workload::Pipelined),
                ..outcome
            })
        }
        (_, address) => {
            let exchange = workload.exchange(address);
            own_load(exchange, address, connections, seconds)
        }
    })
}

/// What `load` takes of the server.
pub(super) fn observe<T>(
    server: &Server,
    load: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Cost)> {
    let pid = server.process.pid();
    let cpu_before = observed::cpu_time(pid)?;
    let started = Instant::now();
    let outcome = load()?;
    let cpu = observed::cpu_time(pid)?.saturating_sub(cpu_before);
    let busy = cpu.as_secs_f64() / started.elapsed().as_secs_f64();
    Ok((outcome, Cost { cpu, busy }))
}

fn own_load(
    exchange: crate::clients::Exchange,
    address: &Address,
    connections: usize,
    seconds: u64,
) -> anyhow::Result<Outcome> {
    let mut clients = Clients::exchanging(exchange, address, connections)?;
    let mut tally = clients.run(Until::Passed(Duration::from_secs(seconds)))?;
    Ok(Outcome {
        answered: tally.answered,
        rate: tally.answered as f64 / tally.took.as_secs_f64(),
        p99: Some(quantile(&mut tally.latencies, 0.99)),
        failures: tally.failures.total(),
    })
}
