//! Many idle connections across a restart: which are still there, and whether
//! a request on each is answered.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::bench::Bench;
use crate::load::{Closure, Group, Manner, Pace, Traffic};
use crate::part::loads::SUCCESSION;
use crate::part::restart;
use crate::peer::Peer;
use crate::report::{CrowdFigures, Report};
use crate::server::Server;

/// How many connections are opened, or asked on, in a second.
const RATE: f64 = 5000.0;

/// How many requests a second look for the successor.
const PROBES: f64 = 100.0;

/// How long clients hear what a restart does to their connections, before
/// they ask again.
const REST: Duration = Duration::from_millis(300);

/// Clients that do that.
const PROBERS: usize = 8;

pub fn measure(bench: &Bench, report: &mut Report) {
    let wanted = bench.arguments.crowd;
    for peer in &bench.peers {
        let count = wanted.min(peer.most_connections(bench.most_connections));
        if count < wanted {
            report.skip(format!(
                "crowd: {wanted} connections to {}; the limit of open files allows {count}",
                peer.name
            ));
        }
        match measure_peer(bench, peer, count) {
            Ok(figures) => {
                eprintln!("crowd: {}", figures.summary());
                report.crowds.push(figures);
            }
            Err(error) => report.skip(format!("crowd: {}: {error:#}", peer.name)),
        }
    }
}

fn measure_peer(bench: &Bench, peer: &Peer, count: usize) -> anyhow::Result<CrowdFigures> {
    let patience = bench.arguments.patience;
    let mut server = Server::start(bench, peer)?;
    let groups = [(count, Manner::GET), (PROBERS, Manner::ALONE)].map(|(clients, manner)| Group {
        clients,
        manner,
        pace: Pace::Open,
    });
    let beginning = Instant::now();
    let traffic = Traffic::begin(server.address, &groups, beginning, patience)?;
    let asked = count as u64;
    let all = Duration::from_secs_f64(count as f64 / RATE) + SUCCESSION;
    traffic.order(0, asked, RATE);
    traffic.wait_for(asked, all)?;
    ensure!(
        traffic.failed() == 0,
        "{} of {count} connections could not be used before the restart",
        traffic.failed()
    );
    let begun = u64::try_from(beginning.elapsed().as_micros())?;
    traffic.order(1, u64::MAX, PROBES);
    let it = restart(&mut server, &traffic, SUCCESSION, |_| Ok(()))?;
    traffic.order(1, 0, PROBES);
    // What was closed has to be seen as such before anything is sent into it.
    thread::sleep(REST);
    let before = traffic.answered() + traffic.failed();
    // Those that are still connected are first asked on in the order in which
    // they were before.
    let again = u64::try_from(beginning.elapsed().as_micros())?;
    traffic.order(0, asked, RATE);
    traffic.wait_for(before + asked, all)?;
    let record = traffic.end()?;
    server.stop()?;
    let closed = |closure: Closure| {
        let since = |at: u64| at >= begun && (at < again || closure == Closure::Announced);
        let closures = record.closures.iter();
        closures
            .filter(|it| it.closure == closure && since(it.at))
            .count()
    };
    let of = |group: u8| {
        record
            .failures
            .iter()
            .filter(move |it| it.group == group)
            .count()
    };
    Ok(CrowdFigures {
        peer: peer.name.clone(),
        connections: count,
        closed_idle: closed(Closure::Idle) + closed(Closure::IdleReset),
        closed_announced: closed(Closure::Announced),
        failed: of(0),
        failed_probes: of(1),
        until_answered_ms: it.until_answered(),
        until_ended_ms: it.until_ended(),
        complaint: it.complaint,
    })
}
