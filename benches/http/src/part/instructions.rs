//! Instructions a request in user space, counted by callgrind.
//!
//! Each server runs twice and answers a different number of requests; the
//! difference has no start-up in it. With one connection every request is a
//! wake-up of its own; with 64 the figure is closer to what happens under load.
//! Hash maps with random seeds, and threads that race for a reactor, change
//! the figure by a few percent from run to run, hence the median of several.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;

use crate::bench::{Bench, on_path};
use crate::clients::{Clients, Until};
use crate::observed;
use crate::peer::Peer;
use crate::report::{InstructionFigures, Report, median};

const FEW: u64 = 500;
const MANY: u64 = 2_500;

const REPEATS: usize = 3;

const PATIENCE: Duration = Duration::from_secs(30);

pub fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let valgrind = on_path("valgrind").context("valgrind is not installed")?;
    for peer in bench.peers.iter().filter(|peer| peer.is_rust()) {
        for connections in [1, 64] {
            match measure_peer(bench, peer, &valgrind, connections) {
                Ok(figures) => {
                    let median = figures.instructions;
                    eprintln!("instructions: {}: {median:.0} on {connections}", peer.name);
                    report.instructions.push(figures);
                }
                Err(error) => report.skip(format!("instructions of {}: {error:#}", peer.name)),
            }
        }
    }
    Ok(())
}

fn measure_peer(
    bench: &Bench,
    peer: &Peer,
    valgrind: &Path,
    connections: usize,
) -> anyhow::Result<InstructionFigures> {
    let mut repeats = Vec::new();
    for _ in 0..REPEATS {
        let few = count(bench, peer, valgrind, connections, FEW)?;
        let many = count(bench, peer, valgrind, connections, MANY)?;
        repeats.push((many as f64 - few as f64) / (MANY - FEW) as f64);
    }
    Ok(InstructionFigures {
        peer: peer.name,
        connections,
        instructions: median(repeats.iter().copied()).context("no repeats")?,
        repeats,
    })
}

/// The instructions of a whole process that answers `requests`, besides the
/// first one of each connection.
fn count(
    bench: &Bench,
    peer: &Peer,
    valgrind: &Path,
    connections: usize,
    requests: u64,
) -> anyhow::Result<u64> {
    let profile = bench
        .directory
        .join(format!("callgrind-{}-{connections}-{requests}", peer.name));
    let options = [
        "--quiet".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", profile.display()),
    ];
    let mut server = peer.start_under(bench, valgrind, &options)?;
    let mut clients = Clients::connect(&server.address, connections)?;
    clients.run(Until::Answered(requests))?.flawless()?;
    // The profile is written at the end of the process, be it by a signal.
    drop(clients);
    server.process.signal(Signal::TERM)?;
    server.process.wait_within(PATIENCE)?;
    let text = observed::read(&profile)?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("totals:")
                .or(line.strip_prefix("summary:"))
        })
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("no total in {}", profile.display()))
}
