//! Latencies around a restart, next to those of a steady service, at a fixed
//! rate of requests; and how they go over time, for the picture.

use std::thread;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::load::{Group, Manner, Pace, Record, Traffic};
use crate::part::loads::SUCCESSION;
use crate::part::restart;
use crate::peer::Peer;
use crate::report::{Course, Latencies, LatencyFigures, Report};
use crate::server::Server;
use crate::statistics::{median, quantile};

/// What counts as around a restart, from the signal on.
const AROUND: u64 = 500_000;

/// The picture: from when to when, and in which steps, in microseconds.
const BEFORE: u64 = 150_000;
const AFTER: u64 = 1_350_000;
const STEP: u64 = 15_000;

pub fn measure(bench: &Bench, report: &mut Report) {
    for peer in &bench.peers {
        match measure_peer(bench, peer) {
            Ok(figures) => {
                eprintln!("latency: {}", figures.summary());
                report.latencies.push(figures);
            }
            Err(error) => report.skip(format!("latency: {}: {error:#}", peer.name)),
        }
    }
}

fn measure_peer(bench: &Bench, peer: &Peer) -> anyhow::Result<LatencyFigures> {
    let arguments = &bench.arguments;
    let beginning = Instant::now();
    let mut server = Server::start(bench, peer)?;
    let group = Group {
        clients: arguments.connections,
        manner: Manner::GET,
        pace: Pace::Open,
    };
    let traffic = Traffic::begin(server.address, &[group], beginning, arguments.patience)?;
    traffic.order(0, u64::MAX, arguments.rate);
    let warm = (arguments.rate / 2.0) as u64;
    traffic.wait_for(warm, SUCCESSION)?;
    let since = |at: Instant| {
        let since = at.saturating_duration_since(beginning).as_micros();
        u64::try_from(since).unwrap_or(u64::MAX)
    };
    let steady_from = since(Instant::now());
    // Time has to pass: what is measured is what happens in it.
    thread::sleep(arguments.steady);
    let steady_to = since(Instant::now());
    // The picture of a restart has nothing of the next one in it.
    let apart = Duration::from_micros(BEFORE + AFTER);
    let rest = arguments.spacing.max(Duration::from_micros(BEFORE));
    let mut restarts = Vec::new();
    while restarts.len() < arguments.restarts {
        let it = restart(&mut server, &traffic, SUCCESSION, |_| Ok(()))?;
        let is_missed = it.answered.is_none();
        let next = (it.begun + apart).max(Instant::now() + rest);
        thread::sleep(next.saturating_duration_since(Instant::now()));
        restarts.push(since(it.begun));
        if is_missed {
            break;
        }
    }
    let record = traffic.end()?;
    server.stop()?;
    let around = |at: u64| {
        restarts
            .iter()
            .any(|&begun| (begun..begun + AROUND).contains(&at))
    };
    Ok(LatencyFigures {
        peer: peer.name.clone(),
        restarts: restarts.len(),
        rate: arguments.rate,
        steady: latencies(&record, |due| (steady_from..steady_to).contains(&due)),
        around: latencies(&record, around),
        failed: record.failures.len(),
        course: course(&record, &restarts),
    })
}

fn latencies(record: &Record, is_meant: impl Fn(u64) -> bool) -> Latencies {
    let meant = record.answers.iter().filter(|it| is_meant(it.due));
    let mut took: Vec<u32> = meant.map(|it| it.took).collect();
    took.sort_unstable();
    let at = |share: f64| quantile(&took, share).map(|it| f64::from(it) / 1000.0);
    Latencies {
        answered: took.len(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        highest_ms: at(1.0),
    }
}

/// For each step of the time around a restart the longest latency of the
/// requests that were due in it, and how many of them failed.
fn course(record: &Record, restarts: &[u64]) -> Course {
    let steps = ((BEFORE + AFTER) / STEP) as usize;
    let mut longest = vec![vec![None; steps]; restarts.len()];
    let mut failed = vec![0; steps];
    let place = |due: u64| {
        restarts.iter().enumerate().find_map(|(number, &begun)| {
            let since = (due + BEFORE).checked_sub(begun)?;
            let step = usize::try_from(since / STEP).ok()?;
            (step < steps).then_some((number, step))
        })
    };
    for answer in &record.answers {
        if let Some((restart, step)) = place(answer.due) {
            let longest: &mut Option<u32> = &mut longest[restart][step];
            *longest = (*longest).max(Some(answer.took));
        }
    }
    for failure in &record.failures {
        if let Some((_, step)) = place(failure.due) {
            failed[step] += 1;
        }
    }
    let column = |step: usize| {
        longest
            .iter()
            .filter_map(move |restart| restart[step])
            .map(|took| f64::from(took) / 1000.0)
    };
    Course {
        from_ms: -(BEFORE as f64) / 1000.0,
        step_ms: STEP as f64 / 1000.0,
        median_ms: (0..steps).map(|step| median(column(step))).collect(),
        highest_ms: (0..steps)
            .map(|step| crate::statistics::highest(column(step)))
            .collect(),
        failed,
    }
}
