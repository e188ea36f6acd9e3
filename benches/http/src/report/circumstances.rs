//! Where and how the figures were taken.

use std::process::Command;

use crate::bench::{Bench, first_line, on_path};
use crate::observed::read;
use crate::peer::go;

/// Everything that a reader of the figures has to know about their origin.
pub(super) fn circumstances(bench: &Bench) -> anyhow::Result<Vec<(&'static str, String)>> {
    let arguments = &bench.arguments;
    let processors = read("/proc/cpuinfo")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let mut list = vec![
        ("processor", model.to_owned()),
        (
            "cores",
            format!(
                "{} for the server, {} for the load",
                bench.server_cpu, bench.client_cpu
            ),
        ),
        (
            "kernel",
            read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        ),
        (
            "load average before",
            read("/proc/loadavg")?.trim().to_owned(),
        ),
        (
            "rounds",
            format!("{} of {} s", arguments.rounds, arguments.seconds),
        ),
    ];
    let generator = match &bench.wrk {
        Some(wrk) => first_line(Command::new(wrk).arg("-v")).unwrap_or_default(),
        None => "our own".to_owned(),
    };
    list.push(("load from", generator));
    let heirloom = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args(["describe", "--always", "--dirty", "--abbrev=10"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    list.push(("heirloom", heirloom.unwrap_or_else(|| locked("heirloom"))));
    for package in ["hyper", "tokio", "async-h1", "smol"] {
        list.push((package, locked(package)));
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    list.extend(first_line(Command::new(rustc).arg("-V")).map(|line| ("Rust", line)));
    if bench.peers.iter().any(|peer| peer.name == "go") {
        let version = go().and_then(|go| first_line(Command::new(go).arg("version")));
        list.extend(version.map(|line| ("Go", line)));
    }
    if bench.peers.iter().any(|peer| peer.name == "nginx") {
        let version = on_path("nginx").and_then(|nginx| first_line(Command::new(nginx).arg("-v")));
        list.extend(version.map(|line| ("nginx", line)));
    }
    Ok(list)
}

/// The version of a package that this was built with.
fn locked(package: &str) -> String {
    let entry = format!("name = \"{package}\"\nversion = \"");
    include_str!("../../Cargo.lock")
        .split_once(&entry)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("unknown", |(version, _)| version)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::locked;

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(locked("hyper").starts_with("1."));
        assert!(locked("async-h1").starts_with("2."));
    }
}
