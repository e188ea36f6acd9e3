//! What all parts share: the CPUs, the peers, the tools, a directory.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

use crate::arguments::{Arguments, Generator};
use crate::peer::{self, Peer};

/// Descriptors that a process needs besides its connections.
const SPARE_DESCRIPTORS: usize = 200;

pub struct Bench {
    pub arguments: Arguments,
    pub server_cpu: usize,
    pub client_cpu: usize,
    pub peers: Vec<Peer>,
    /// Where Cargo puts programs.
    programs: PathBuf,
    /// `None` if our own generator makes the load.
    pub wrk: Option<PathBuf>,
    /// Where results and scratch files go, under Cargo's target directory.
    pub directory: PathBuf,
    /// How many connections one process can have.
    pub most_connections: usize,
    /// What cannot be measured here, in words.
    pub skipped: Vec<String>,
}

impl Bench {
    /// Builds the peers, pins this process, and looks for the tools.
    pub fn prepare(arguments: Arguments) -> anyhow::Result<Self> {
        let executable = env::current_exe().context("could not find the driver's executable")?;
        let programs = executable.parent().context("the driver has no directory")?;
        let directory = programs.with_file_name("http-bench");
        fs::create_dir_all(&directory)
            .with_context(|| format!("could not make {}", directory.display()))?;

        let mut skipped = Vec::new();
        // Before this process is pinned, so that the compilers are not.
        let peers = peer::build(&arguments.peers, programs, &directory, &mut skipped)?;
        ensure!(!peers.is_empty(), "there is no peer to measure");

        let wrk = match arguments.generator {
            Some(Generator::Own) => None,
            Some(Generator::Wrk) => Some(on_path("wrk").context("wrk is not installed")?),
            None => on_path("wrk"),
        };
        let allowed = allowed_cpus()?;
        let client_cpu = arguments.client_cpu.unwrap_or(allowed[0]);
        let server_cpu = arguments
            .server_cpu
            .unwrap_or(*allowed.get(1).unwrap_or(&allowed[0]));
        if client_cpu == server_cpu {
            skipped.push("a core of its own for the client: both share one".to_owned());
        }
        pin(client_cpu)?;

        let bench = Bench {
            server_cpu,
            client_cpu,
            peers,
            programs: programs.to_owned(),
            wrk,
            directory,
            most_connections: raise_descriptor_limit()?.saturating_sub(SPARE_DESCRIPTORS),
            skipped,
            arguments,
        };
        for line in &bench.skipped {
            eprintln!("skipped: {line}");
        }
        Ok(bench)
    }

    /// A program of this crate.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
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

fn allowed_cpus() -> anyhow::Result<Vec<usize>> {
    let cpus =
        rustix::thread::sched_getaffinity(None).context("could not read the allowed CPUs")?;
    let allowed: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| cpus.is_set(cpu))
        .collect();
    ensure!(!allowed.is_empty(), "this process may use no CPU");
    Ok(allowed)
}

/// Makes the soft limit of open files the hard one, for this process and all
/// that it starts; returns it.
fn raise_descriptor_limit() -> anyhow::Result<usize> {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, raised)
        .context("could not raise the limit of open files")?;
    Ok(maximum.map_or(usize::MAX, |maximum| maximum as usize))
}

/// Finds an installed program. Servers may be where only root's path leads.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The first line that a program prints, on either stream, if it can be run.
pub fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&text)
        .lines()
        .next()?
        .trim()
        .to_owned();
    (!line.is_empty()).then_some(line)
}
