//! Restarts under four loads: which requests fail, which connections end, and
//! how long everything takes.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::arguments::Load;
use crate::bench::Bench;
use crate::load::{Closure, Group, Manner, Pace, Record, Traffic};
use crate::part::{Restart, restart};
use crate::peer::Peer;
use crate::report::{LoadFigures, Report, Spread};
use crate::server::{DRAIN, Server};
use crate::statistics::longest_gap;

/// Until then a server is not measured.
const WARM_UP: u64 = 500;

/// So long a restart may take until a successor answers.
pub const SUCCESSION: Duration = Duration::from_secs(10);

/// After so many that come to nothing there is no use in more.
const MOST_MISSES: usize = 3;

pub fn measure(bench: &Bench, report: &mut Report) {
    for peer in &bench.peers {
        for &load in &bench.arguments.loads {
            match measure_peer(bench, peer, load) {
                Ok(figures) => {
                    eprintln!("loads: {}", figures.summary());
                    report.loads.push(figures);
                }
                Err(error) => report.skip(format!("loads: {} under {load}: {error:#}", peer.name)),
            }
        }
    }
}

/// Who asks.
fn groups(load: Load, connections: usize) -> Vec<Group> {
    let group = |clients, manner| Group {
        clients,
        manner,
        pace: Pace::Closed,
    };
    let post = Manner {
        body: Some(1024),
        pieces: 4,
        over: Duration::from_millis(2),
        ..Manner::GET
    };
    match load {
        Load::KeepAlive => vec![group(connections, Manner::GET)],
        // Fewer, so that the listen queue of no server is what is measured.
        Load::NewConnection => vec![group(connections.div_ceil(4), Manner::ALONE)],
        Load::MixedSlow => {
            let slow = Manner {
                pieces: 6,
                over: Duration::from_millis(300),
                ..post
            };
            let few = connections / 4;
            vec![group(connections - few, Manner::GET), group(few, slow)]
        }
        Load::Post => vec![group(connections, post)],
    }
}

fn measure_peer(bench: &Bench, peer: &Peer, load: Load) -> anyhow::Result<LoadFigures> {
    let arguments = &bench.arguments;
    let beginning = Instant::now();
    let mut server = Server::start(bench, peer)?;
    let groups = groups(load, arguments.connections);
    let traffic = Traffic::begin(server.address, &groups, beginning, arguments.patience)?;
    traffic.wait_for(WARM_UP, SUCCESSION)?;
    let since = |at: Instant| {
        let since = at.saturating_duration_since(beginning).as_micros();
        u64::try_from(since).unwrap_or(u64::MAX)
    };
    let steady_from = since(Instant::now());
    // Time has to pass: what is measured is what happens in it.
    thread::sleep(arguments.steady);
    let steady_to = since(Instant::now());
    let mut restarts = Vec::new();
    let mut misses = 0;
    while restarts.len() < arguments.restarts && misses < MOST_MISSES {
        let it = restart(&mut server, &traffic, SUCCESSION, |_| Ok(()))?;
        misses = if it.answered.is_some() { 0 } else { misses + 1 };
        thread::sleep(arguments.spacing);
        restarts.push((it, since(Instant::now())));
    }
    let record = traffic.end()?;
    server.stop()?;
    Ok(figures(
        peer,
        load,
        &record,
        (steady_from, steady_to),
        &restarts,
        since,
    ))
}

fn figures(
    peer: &Peer,
    load: Load,
    record: &Record,
    (steady_from, steady_to): (u64, u64),
    restarts: &[(Restart, u64)],
    since: impl Fn(Instant) -> u64,
) -> LoadFigures {
    let mut failures = BTreeMap::new();
    for failed in &record.failures {
        *failures.entry(failed.failure).or_default() += 1;
    }
    // In a closed loop these are nearly sorted, and so is the silence found
    // in one pass.
    let mut times: Vec<u64> = record.answers.iter().map(|it| it.at()).collect();
    times.sort_unstable();
    let silence = |from: u64, to: u64| {
        let first = times.partition_point(|&at| at < from).saturating_sub(1);
        let last = times.partition_point(|&at| at <= to) + 1;
        let near = &times[first..last.min(times.len())];
        longest_gap(near.iter().copied(), from, to) as f64 / 1000.0
    };
    let ended = |closure: Closure| {
        record
            .closures
            .iter()
            .filter(|it| it.closure == closure)
            .count()
    };
    let mut notes: Vec<String> = Vec::new();
    for (restart, _) in restarts {
        for note in restart
            .complaint
            .iter()
            .cloned()
            .chain(
                restart
                    .answered
                    .is_none()
                    .then(|| format!("no answer of a successor within {SUCCESSION:?}")),
            )
            .chain(
                restart
                    .ended
                    .is_none()
                    .then(|| format!("the predecessor did not end within {DRAIN:?}")),
            )
        {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    LoadFigures {
        peer: peer.name.clone(),
        way: peer.way.name(),
        load: load.to_string(),
        restarts: restarts.len(),
        answered: record.answers.len(),
        failed: record.failures.len(),
        failed_while_steady: record
            .failures
            .iter()
            .filter(|it| (steady_from..steady_to).contains(&it.at))
            .count(),
        failures,
        connections: record.connections,
        closed_announced: ended(Closure::Announced),
        closed_idle: ended(Closure::Idle),
        reset_idle: ended(Closure::IdleReset),
        until_answered_ms: Spread::of(restarts.iter().filter_map(|(it, _)| it.until_answered())),
        until_ended_ms: Spread::of(restarts.iter().filter_map(|(it, _)| it.until_ended())),
        not_answered: restarts
            .iter()
            .filter(|(it, _)| it.answered.is_none())
            .count(),
        not_ended: restarts.iter().filter(|(it, _)| it.ended.is_none()).count(),
        steady_silence_ms: silence(steady_from, steady_to),
        silence_ms: Spread::of(
            restarts
                .iter()
                .map(|(it, until)| silence(since(it.begun), *until)),
        ),
        notes,
    }
}
