//! Instructions a request in user space, counted by callgrind.
//!
//! Each server runs twice and answers a different number of requests; the
//! difference has no start-up in it. With one connection every request is a
//! wake-up of its own; with 64 the figure is closer to what happens under load.
//! Hash maps with random seeds, and threads that race for a reactor, change
//! the figure by a few percent from run to run, hence the median of several.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::bench::Bench;
use crate::clients::{Clients, Until};
use crate::launch;
use crate::machine::on_path;
use crate::observed;
use crate::peer::{OURS, Peer, TYPES};
use crate::process::Process;
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
    if bench.peers.iter().any(|peer| peer.name == OURS) {
        match measure_types(bench, &valgrind) {
            Ok(figures) => {
                eprintln!("instructions: {TYPES}: {:.0}", figures.instructions);
                report.instructions.push(figures);
            }
            Err(error) => report.skip(format!("instructions of {TYPES}: {error:#}")),
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
    compare(peer.name, connections, |requests| {
        count(bench, peer, valgrind, connections, requests)
    })
}

/// What http-types takes of a request.
fn measure_types(bench: &Bench, valgrind: &Path) -> anyhow::Result<InstructionFigures> {
    compare(TYPES, 0, |requests| {
        let profile = profile(bench, TYPES, 0, requests);
        let mut command = launch::command(valgrind, bench.server_cpu)?;
        command
            .args(options(&profile))
            .arg(bench.program("types"))
            .arg(requests.to_string())
            .stdout(Stdio::null());
        let status = Process::start(&mut command)?.wait_within(PATIENCE)?;
        ensure!(status.success(), "it ended with {status}");
        total(&profile)
    })
}

/// What each further request takes, where `count` tells what a whole process
/// does.
fn compare(
    peer: &'static str,
    connections: usize,
    count: impl Fn(u64) -> anyhow::Result<u64>,
) -> anyhow::Result<InstructionFigures> {
    let mut repeats = Vec::new();
    for _ in 0..REPEATS {
        let (few, many) = (count(FEW)?, count(MANY)?);
        repeats.push((many as f64 - few as f64) / (MANY - FEW) as f64);
    }
    Ok(InstructionFigures {
        peer,
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
    let profile = profile(bench, peer.name, connections, requests);
    let mut server = peer.start_under(bench, valgrind, &options(&profile))?;
    let mut clients = Clients::connect(&server.address, connections)?;
    clients.run(Until::Answered(requests))?.flawless()?;
    // The profile is written at the end of the process, be it by a signal.
    drop(clients);
    server.process.signal(Signal::TERM)?;
    server.process.wait_within(PATIENCE)?;
    total(&profile)
}

/// Where callgrind is to write.
fn profile(bench: &Bench, name: &str, connections: usize, requests: u64) -> PathBuf {
    bench
        .directory
        .join(format!("callgrind-{name}-{connections}-{requests}").replace(' ', "-"))
}

fn options(profile: &Path) -> [String; 3] {
    [
        "--quiet".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", profile.display()),
    ]
}

/// All instructions of a process.
fn total(profile: &Path) -> anyhow::Result<u64> {
    let text = observed::read(profile)?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("totals:")
                .or(line.strip_prefix("summary:"))
        })
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("no total in {}", profile.display()))
}
