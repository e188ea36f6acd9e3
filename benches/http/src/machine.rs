//! The machine: its CPUs, its limits, the programs that are installed, and what
//! is to be said about it beside figures.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

/// Which CPU is for whom.
pub struct Cpus {
    pub server: usize,
    /// The same where there is only one.
    pub client: usize,
}

impl Cpus {
    /// Those that were asked for, else the first two that this process may use.
    pub fn choose(server: Option<usize>, client: Option<usize>) -> anyhow::Result<Self> {
        let set =
            rustix::thread::sched_getaffinity(None).context("could not read the allowed CPUs")?;
        let allowed: Vec<_> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect();
        let first = *allowed.first().context("this process may use no CPU")?;
        let cpus = Cpus {
            server: server.unwrap_or(*allowed.get(1).unwrap_or(&first)),
            client: client.unwrap_or(first),
        };
        for cpu in [cpus.server, cpus.client] {
            ensure!(
                allowed.contains(&cpu),
                "CPU {cpu} is none of those that this process may use: {allowed:?}"
            );
        }
        Ok(cpus)
    }
}

/// Keeps this thread, and what it starts, on one CPU.
pub fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut cpus = CpuSet::new();
    ensure!(cpu < CpuSet::MAX_CPU, "there is no CPU {cpu}");
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus)
        .with_context(|| format!("could not keep to CPU {cpu}"))
}

/// Makes the soft limit of open files the hard one, for this process and all
/// that it starts; returns it.
pub fn raise_descriptor_limit() -> anyhow::Result<usize> {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, raised)
        .context("could not raise the limit of open files")?;
    Ok(maximum.map_or(usize::MAX, |maximum| {
        usize::try_from(maximum).unwrap_or(usize::MAX)
    }))
}

/// Finds an installed program. Servers may be where only root's path leads.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The Go tool.
pub fn go() -> Option<PathBuf> {
    env::var_os("GO")
        .map(PathBuf::from)
        .or_else(|| on_path("go"))
}

/// What a reader of figures has to know about where they are from.
pub fn facts() -> anyhow::Result<Vec<(&'static str, String)>> {
    let read =
        |path: &str| fs::read_to_string(path).with_context(|| format!("could not read {path}"));
    let processors = read("/proc/cpuinfo")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let release = read("/proc/sys/kernel/osrelease")?;
    let load = read("/proc/loadavg")?;
    Ok(vec![
        ("processor", model.to_owned()),
        ("kernel", release.trim().to_owned()),
        ("load average before", load.trim().to_owned()),
    ])
}

/// The compiler, as far as it can be asked.
pub fn compiler() -> Option<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    first_line(Command::new(rustc).arg("-V"))
}

/// What git calls the commit that is checked out, if there is one.
pub fn revision() -> Option<String> {
    let output = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args(["describe", "--always", "--dirty", "--abbrev=10"])
        .output()
        .ok()?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// The version of a package, according to a lock file.
pub fn locked(lock: &str, package: &str) -> Option<String> {
    let entry = format!("name = \"{package}\"\nversion = \"");
    let (_, rest) = lock.split_once(&entry)?;
    let (version, _) = rest.split_once('"')?;
    Some(version.to_owned())
}

/// How a program calls its version: the first line that it prints, on either
/// stream, if it can be run.
pub fn version(program: &Path, option: &str) -> Option<String> {
    first_line(Command::new(program).arg(option))
}

fn first_line(command: &mut Command) -> Option<String> {
    // Not all succeed that are asked for their version.
    let output = command.output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&text)
        .lines()
        .next()?
        .trim()
        .to_owned();
    (!line.is_empty()).then_some(line)
}
