//! System calls and sends a request while 64 connections ask.
//!
//! The counter comes when the connections are open and goes before they are
//! closed, so neither is in the count. perf counts in the kernel and disturbs
//! little; strace stops the server at each call, which changes who waits for
//! whom, so it is used only where perf cannot be.

mod perf;
mod strace;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

use crate::bench::Bench;
use crate::clients::{Until, warm_up};
use crate::machine::on_path;
use crate::peer::Peer;
use crate::report::{Report, SyscallFigures};

const REQUESTS: u64 = 20_000;

/// How long a counter may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The calls that can put a response on its way. `write` may also be a wake-up
/// of an eventfd; the figures by call tell.
const SENDS: [&str; 4] = ["sendto", "sendmsg", "write", "writev"];

/// The calls of a process while it was watched, by name.
type Calls = BTreeMap<String, u64>;

/// What counts.
enum Counter {
    Perf(perf::Perf),
    Strace(strace::Strace),
}

impl Counter {
    fn find() -> anyhow::Result<Self> {
        if let Some(perf) = on_path("perf").map(perf::Perf::new)
            && perf.can_count()
        {
            return Ok(Counter::Perf(perf));
        }
        on_path("strace")
            .map(|program| Counter::Strace(strace::Strace::new(program)))
            .context("perf cannot count them here, and strace is not installed")
    }

    fn name(&self) -> &'static str {
        match self {
            Counter::Perf(_) => "perf",
            Counter::Strace(_) => "strace",
        }
    }
}

pub fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let counter = Counter::find()?;
    for peer in &bench.peers {
        match measure_peer(bench, peer, &counter) {
            Ok(figures) => {
                eprintln!("syscalls: {}: {:.2} a request", peer.name, figures.calls);
                report.syscalls.push(figures);
            }
            Err(error) => report.skip(format!("syscalls of {}: {error:#}", peer.name)),
        }
    }
    Ok(())
}

fn measure_peer(bench: &Bench, peer: &Peer, counter: &Counter) -> anyhow::Result<SyscallFigures> {
    let server = peer.start(bench)?;
    let mut clients = warm_up(&server.address)?;
    let pid = server.process.pid();
    let load = || -> anyhow::Result<()> {
        clients.run(Until::Answered(REQUESTS))?.flawless()?;
        Ok(())
    };
    let calls = match counter {
        Counter::Perf(perf) => perf.count(bench, pid, load),
        Counter::Strace(strace) => strace.count(bench, pid, load),
    }?;
    let by_call: BTreeMap<_, _> = calls
        .into_iter()
        .map(|(name, calls)| (name, calls as f64 / REQUESTS as f64))
        .collect();
    Ok(SyscallFigures {
        peer: peer.name,
        counted_by: counter.name(),
        calls: by_call.values().sum(),
        sends: SENDS.iter().filter_map(|name| by_call.get(*name)).sum(),
        by_call,
    })
}
