//! Allocations a request, counted by the servers' own allocator.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::bench::Bench;
use crate::clients::{Until, warm_up};
use crate::peer::{Peer, Server};
use crate::report::{AllocationFigures, Report};

const REQUESTS: u64 = 20_000;

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

/// What the server has counted so far.
fn ask(server: &mut Server) -> anyhow::Result<u64> {
    server.process.stdin()?.write_all(b"\n")?;
    let answer = server
        .lines
        .next_by(Instant::now() + Duration::from_secs(5))?;
    answer
        .parse()
        .with_context(|| format!("{answer:?} is not a count"))
}
