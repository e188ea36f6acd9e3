//! What a restart costs: processor time, and memory while it goes on.

use std::thread;
use std::time::Instant;

use anyhow::ensure;

use crate::bench::Bench;
use crate::load::{Group, Manner, Pace, Traffic};
use crate::part::loads::SUCCESSION;
use crate::part::restart;
use crate::peer::Peer;
use crate::report::{Report, ResourceFigures, Spread};
use crate::server::Server;
use crate::sessions;

/// Connections that the service has, and that nothing is asked on.
const IDLE: usize = 64;

/// How many requests a second look for the successor.
const PROBES: f64 = 100.0;

pub fn measure(bench: &Bench, report: &mut Report) {
    for peer in &bench.peers {
        match measure_peer(bench, peer) {
            Ok(figures) => {
                eprintln!("resources: {}", figures.summary());
                report.resources.push(figures);
            }
            Err(error) => report.skip(format!("resources: {}: {error:#}", peer.name)),
        }
    }
}

fn measure_peer(bench: &Bench, peer: &Peer) -> anyhow::Result<ResourceFigures> {
    let restarts = bench.arguments.restarts;
    let (without, _) = live(bench, peer, 0)?;
    let (with, memory) = live(bench, peer, restarts)?;
    let mebibytes = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    Ok(ResourceFigures {
        peer: peer.name.clone(),
        restarts,
        cpu_ms: (with - without) * 1000.0 / restarts as f64,
        before_mib: Spread::of(memory.iter().map(|it| mebibytes(it.before))),
        peak_mib: Spread::of(memory.iter().map(|it| mebibytes(it.peak))),
        after_mib: Spread::of(memory.iter().map(|it| mebibytes(it.after))),
    })
}

/// Proportional set sizes, all processes of the peer together.
struct Memory {
    before: u64,
    peak: u64,
    after: u64,
}

/// Lets the server live with so many restarts, from its start to its end, and
/// returns the seconds of processor time that all of its processes have taken.
/// Two lives that differ by the restarts tell what those cost, with what the
/// kernel does for the end of a process, and without that of a load.
fn live(bench: &Bench, peer: &Peer, restarts: usize) -> anyhow::Result<(f64, Vec<Memory>)> {
    let before = sessions::time_of_the_dead()?;
    let mut server = Server::start(bench, peer)?;
    let groups = [(IDLE, Manner::GET), (4, Manner::ALONE)].map(|(clients, manner)| Group {
        clients,
        manner,
        pace: Pace::Open,
    });
    let patience = bench.arguments.patience;
    let traffic = Traffic::begin(server.address, &groups, Instant::now(), patience)?;
    traffic.order(0, IDLE as u64, 1000.0);
    traffic.wait_for(IDLE as u64, SUCCESSION)?;
    let mut memory = Vec::new();
    for _ in 0..restarts {
        let mut taken = Memory {
            before: sessions::memory(&server.sessions)?,
            peak: 0,
            after: 0,
        };
        traffic.order(1, u64::MAX, PROBES);
        let generations = traffic.generations().len();
        let it = restart(&mut server, &traffic, SUCCESSION, |server| {
            if traffic.generations().len() > generations {
                // Found; no more requests than needed.
                traffic.order(1, 0, PROBES);
            }
            let now = sessions::memory(&server.sessions)?;
            taken.peak = taken.peak.max(now);
            Ok(())
        })?;
        ensure!(it.answered.is_some(), "a restart came to nothing");
        thread::sleep(bench.arguments.spacing);
        taken.after = sessions::memory(&server.sessions)?;
        taken.peak = taken.peak.max(taken.before);
        memory.push(taken);
    }
    traffic.end()?;
    server.stop()?;
    Ok((sessions::time_of_the_dead()? - before, memory))
}
