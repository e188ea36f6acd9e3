//! What many idle keep-alive connections cost: memory each, and wake-ups.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::bench::Bench;
use crate::clients::{Until, warm_up};
use crate::observed::{resident_bytes, sleeps};
use crate::peer::Peer;
use crate::report::{IdleFigures, Report};

pub fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let wanted = bench.arguments.idle;
    let count = wanted.min(bench.most_connections);
    if count < wanted {
        report.skip(format!(
            "idle: {wanted} connections; the limit of open files allows {count}"
        ));
    }
    for peer in &bench.peers {
        match measure_peer(bench, peer, count) {
            Ok(figures) => {
                eprintln!(
                    "idle: {}: {:.0} bytes a connection, {:.1} wake-ups a second",
                    peer.name, figures.bytes_each, figures.wakeups_per_second
                );
                report.idle.push(figures);
            }
            Err(error) => report.skip(format!("idle connections of {}: {error:#}", peer.name)),
        }
    }
    Ok(())
}

fn measure_peer(bench: &Bench, peer: &Peer, count: usize) -> anyhow::Result<IdleFigures> {
    let server = peer.start(bench)?;
    let pid = server.process.pid();
    // The first connections stay open: what they brought into memory is code
    // and buffers that all later ones share.
    let mut clients = warm_up(&server.address)?;
    let few = clients.count();
    ensure!(count > few, "{count} connections are too few to measure");
    let before = resident_bytes(pid)?;
    clients.grow(count)?;

    rest(pid)?;
    // Time has to pass: what is measured is that nothing happens in it.
    let sleeps_before = sleeps(pid)?;
    thread::sleep(bench.arguments.idle_watch);
    let wakeups = sleeps(pid)? - sleeps_before;
    let after = resident_bytes(pid)?;

    clients
        .run(Until::Answered(count as u64))?
        .flawless()
        .context("when the idle connections were used again")?;
    Ok(IdleFigures {
        peer: peer.name,
        connections: count,
        bytes_each: (after as f64 - before as f64) / (count - few) as f64,
        wakeups_per_second: wakeups as f64 / bench.arguments.idle_watch.as_secs_f64(),
    })
}

/// Waits until the server has come to rest after its last response, but not
/// for ever: one that never rests shows in the figure.
fn rest(pid: u32) -> anyhow::Result<()> {
    const QUIET: Duration = Duration::from_millis(250);
    let deadline = Instant::now() + 8 * QUIET;
    let mut before = sleeps(pid)?;
    while Instant::now() < deadline {
        thread::sleep(QUIET);
        let now = sleeps(pid)?;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(())
}
