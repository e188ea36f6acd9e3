//! Successors that crash, hang, or die right after they took over: what the
//! clients notice, who serves afterwards, and whether the next restart works.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bench::Bench;
use crate::load::{GLANCE, Group, Manner, Pace, Traffic};
use crate::part::loads::SUCCESSION;
use crate::part::restart;
use crate::peer::Peer;
use crate::report::{Afterwards, FaultFigures, Report};
use crate::server::{Fault, Server, Watch};
use crate::statistics::longest_gap;

/// Requests a second on connections that are kept, and on new ones.
const KEPT: f64 = 400.0;
const NEW: f64 = 100.0;

/// How long a successor lives that dies.
const LIFE: Duration = Duration::from_millis(50);

/// Who has answered in this last part of the fault serves.
const RECENT: Duration = Duration::from_millis(500);

pub fn measure(bench: &Bench, report: &mut Report) {
    for peer in &bench.peers {
        for fault in Fault::ALL {
            match measure_peer(bench, peer, fault) {
                Ok(Some(figures)) => {
                    eprintln!("faults: {}", figures.summary());
                    report.faults.push(figures);
                }
                Ok(None) => report.skip(format!(
                    "faults: {} cannot have a successor that does this: {}",
                    peer.name,
                    fault.word()
                )),
                Err(error) => {
                    report.skip(format!(
                        "faults: {}, {}: {error:#}",
                        peer.name,
                        fault.word()
                    ));
                }
            }
        }
    }
}

/// How long a bad successor is watched.
fn watch(bench: &Bench, fault: Fault) -> Duration {
    match (bench.arguments.is_smoke, fault) {
        (true, _) => Duration::from_secs(1),
        // Longer than a drain, after which a predecessor may think to be
        // replaced.
        (false, Fault::Hang) => Duration::from_secs(8),
        (false, _) => Duration::from_secs(3),
    }
}

/// How long the next restart may take. It may have to wait until a successor
/// that hangs is given up, which the servers do after five seconds.
fn succession(bench: &Bench) -> Duration {
    match bench.arguments.is_smoke {
        true => Duration::from_secs(6),
        false => SUCCESSION,
    }
}

fn measure_peer(bench: &Bench, peer: &Peer, fault: Fault) -> anyhow::Result<Option<FaultFigures>> {
    let beginning = Instant::now();
    let mut server = Server::start(bench, peer)?;
    let groups = [(16, Manner::GET), (16, Manner::ALONE)].map(|(clients, manner)| Group {
        clients,
        manner,
        pace: Pace::Open,
    });
    let patience = bench.arguments.patience;
    let traffic = Traffic::begin(server.address, &groups, beginning, patience)?;
    traffic.order(0, u64::MAX, KEPT);
    traffic.order(1, u64::MAX, NEW);
    traffic.wait_for(200, SUCCESSION)?;
    if !server.make_bad(fault)? {
        return Ok(None);
    }
    let watched = watch(bench, fault);
    let main = traffic.last_pid();
    let asked = server.restart(main)?;
    let until = (asked.at + watched).max(Instant::now() + 2 * RECENT);
    if server.needs_killing(fault)
        && let Some((successor, _)) = traffic.wait_for_other(&[main], until)
    {
        thread::sleep(LIFE);
        // It may have gone on its own.
        let _ = Watch::begin(successor).and_then(|it| it.signal(Signal::KILL));
    }
    while Instant::now() < until {
        server.reap()?;
        thread::sleep(GLANCE * 10);
    }
    let since = |at: Instant| {
        let since = at.saturating_duration_since(beginning).as_micros();
        u64::try_from(since).unwrap_or(u64::MAX)
    };
    let (from, to) = (since(asked.at), since(Instant::now()));
    server.make_good()?;
    // A process that still hangs is part of what the next restart meets.
    let next = restart(&mut server, &traffic, succession(bench), |server| {
        server.reap()
    })?;
    let record = traffic.end()?;
    server.stop()?;

    let recent = to - u64::try_from(RECENT.as_micros())?;
    let last = record
        .answers
        .iter()
        .rfind(|it| (recent..to).contains(&it.at()));
    let afterwards = match last {
        None => Afterwards::Nobody,
        Some(answer) if answer.pid == main => Afterwards::Predecessor,
        Some(_) => Afterwards::Another,
    };
    let times = record.answers.iter().map(|it| it.at());
    Ok(Some(FaultFigures {
        peer: peer.name.clone(),
        fault: fault.word(),
        watched_ms: (to - from) as f64 / 1000.0,
        failed: record
            .failures
            .iter()
            .filter(|it| (from..to).contains(&it.due))
            .count(),
        silence_ms: longest_gap(times, from, to) as f64 / 1000.0,
        afterwards,
        next_restart_ms: next.until_answered(),
        complaint: asked.complaint,
    }))
}
