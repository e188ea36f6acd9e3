//! The parts of the bench: each takes its figures and puts them into the
//! report. A peer that fails is skipped, and said to be.

pub mod allocations;
pub mod fairness;
pub mod growth;
pub mod idle;
pub mod instructions;
pub mod latency;
pub mod rate;
pub mod syscalls;

use crate::bench::Bench;
use crate::peer::{OURS, Peer};
use crate::report::Report;

/// Lets the peers take turns, where each round begins with another one.
fn interleave(
    bench: &Bench,
    report: &mut Report,
    what: &str,
    peers: &[&Peer],
    mut measure: impl FnMut(&mut Report, &Peer, usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let rounds = bench.arguments.rounds;
    for round in 0..rounds {
        for turn in 0..peers.len() {
            let peer = peers[(round + turn) % peers.len()];
            eprint!("{what}: round {} of {rounds}, {}:", round + 1, peer.name);
            let outcome = measure(report, peer, round);
            eprintln!();
            if let Err(error) = outcome {
                report.skip(format!(
                    "{what} of {}, round {}: {error:#}",
                    peer.name,
                    round + 1
                ));
            }
        }
    }
    Ok(())
}

/// The two that are compared where a part takes long: we, and the peer that is
/// closest.
fn rivals(bench: &Bench) -> Vec<&Peer> {
    let peers = bench.peers.iter();
    peers
        .filter(|peer| [OURS, "hyper"].contains(&peer.name))
        .collect()
}
