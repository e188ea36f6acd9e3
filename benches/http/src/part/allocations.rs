//! Allocations a request, counted by the servers' own allocator.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::bench::Bench;
use crate::clients::{Until, warm_up};
use crate::launch;
use crate::peer::{OURS, Peer, Server, TYPES};
use crate::process::Process;
use crate::report::{AllocationFigures, Report};

const REQUESTS: u64 = 20_000;

const PATIENCE: Duration = Duration::from_secs(5);

pub fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    for peer in bench.peers.iter().filter(|peer| peer.counted.is_some()) {
        match measure_peer(bench, peer) {
            Ok(figures) => {
                eprintln!(
                    "allocations: {}: {:.2} a request",
                    peer.name, figures.allocations
                );
                report.allocations.push(figures);
            }
            Err(error) => report.skip(format!("allocations of {}: {error:#}", peer.name)),
        }
    }
    if bench.peers.iter().any(|peer| peer.name == OURS) {
        match measure_types(bench) {
            Ok(figures) => {
                eprintln!("allocations: {TYPES}: {:.2} a request", figures.allocations);
                report.allocations.push(figures);
            }
            Err(error) => report.skip(format!("allocations of {TYPES}: {error:#}")),
        }
    }
    Ok(())
}

fn measure_peer(bench: &Bench, peer: &Peer) -> anyhow::Result<AllocationFigures> {
    let mut server = peer.start_counted(bench)?;
    let mut clients = warm_up(&server.address)?;
    let before = ask(&mut server)?;
    clients.run(Until::Answered(REQUESTS))?.flawless()?;
    let after = ask(&mut server)?;
    Ok(AllocationFigures {
        peer: peer.name,
        allocations: (after - before) as f64 / REQUESTS as f64,
    })
}

/// What http-types takes of a request.
fn measure_types(bench: &Bench) -> anyhow::Result<AllocationFigures> {
    let count = |requests: u64| {
        let mut command = launch::command(bench.program("counted_types"), bench.server_cpu)?;
        command.arg(requests.to_string()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let deadline = Instant::now() + PATIENCE;
        parse(&process.stdout_lines()?.next_by(deadline)?)
    };
    let allocated = count(2 * REQUESTS)? - count(REQUESTS)?;
    Ok(AllocationFigures {
        peer: TYPES,
        allocations: allocated as f64 / REQUESTS as f64,
    })
}

/// What the server has counted so far.
fn ask(server: &mut Server) -> anyhow::Result<u64> {
    server.process.stdin()?.write_all(b"\n")?;
    parse(&server.lines.next_by(Instant::now() + PATIENCE)?)
}

fn parse(line: &str) -> anyhow::Result<u64> {
    line.parse()
        .with_context(|| format!("{line:?} is not a count"))
}
