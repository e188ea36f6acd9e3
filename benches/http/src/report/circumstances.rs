//! Where and how the figures were taken.

use crate::bench::Bench;
use crate::machine::{self, go, on_path, version};

/// Everything that a reader of the figures has to know about their origin.
pub(super) fn circumstances(bench: &Bench) -> anyhow::Result<Vec<(&'static str, String)>> {
    let arguments = &bench.arguments;
    let mut list = machine::facts()?;
    list.push((
        "cores",
        format!(
            "{} for the server, {} for the load",
            bench.server_cpu, bench.client_cpu
        ),
    ));
    list.push((
        "rounds",
        format!("{} of {} s", arguments.rounds, arguments.seconds),
    ));
    let generator = match &bench.wrk {
        Some(wrk) => version(wrk, "-v").unwrap_or_default(),
        None => "our own".to_owned(),
    };
    list.push(("load from", generator));
    let heirloom = machine::revision().or_else(|| locked("heirloom"));
    list.extend(heirloom.map(|version| ("heirloom", version)));
    for package in ["hyper", "tokio", "async-h1", "smol"] {
        list.extend(locked(package).map(|version| (package, version)));
    }
    list.extend(machine::compiler().map(|line| ("Rust", line)));
    let programs = [
        ("Go", "go", go(), "version"),
        ("nginx", "nginx", on_path("nginx"), "-v"),
    ];
    for (name, peer, program, option) in programs {
        if bench.peers.iter().any(|measured| measured.name == peer) {
            let version = program.and_then(|program| version(&program, option));
            list.extend(version.map(|line| (name, line)));
        }
    }
    Ok(list)
}

/// The version of a package that this was built with.
fn locked(package: &str) -> Option<String> {
    machine::locked(include_str!("../../Cargo.lock"), package)
}

#[cfg(test)]
mod tests {
    use super::locked;

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(locked("hyper").unwrap().starts_with("1."));
        assert!(locked("async-h1").unwrap().starts_with("2."));
        assert_eq!(locked("hyper-not"), None);
    }
}
