//! What all parts share: the CPUs, the peers, a directory.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

use crate::arguments::Arguments;
use crate::launch::{self, Keeper};
use crate::peer::{self, Peer};

/// Descriptors that a process needs besides its connections.
const SPARE_DESCRIPTORS: usize = 200;

pub struct Bench {
    pub arguments: Arguments,
    pub server_cpu: usize,
    pub client_cpu: usize,
    pub peers: Vec<Peer>,
    pub keeper: RefCell<Keeper>,
    /// Where results and scratch files go, under Cargo's target directory.
    pub directory: PathBuf,
    /// How many connections one process can have.
    pub most_connections: usize,
    /// What cannot be measured here, in words.
    pub skipped: Vec<String>,
}

impl Bench {
    /// Builds the peers and pins this process.
    pub fn prepare(arguments: Arguments) -> anyhow::Result<Self> {
        if cfg!(debug_assertions) {
            eprintln!("this is a debug build: its clients are slow, so are its figures");
        }
        let executable = env::current_exe().context("could not find the driver's executable")?;
        let programs = executable.parent().context("the driver has no directory")?;
        let directory = programs.with_file_name("peers-bench");
        fs::create_dir_all(&directory)
            .with_context(|| format!("could not make {}", directory.display()))?;

        let mut skipped = Vec::new();
        // Before this process is pinned, so that the compilers are not.
        let peers = peer::build(
            &arguments.peers,
            &arguments.servers,
            &directory,
            &mut skipped,
        );
        let allowed = allowed_cpus()?;
        let client_cpu = arguments.client_cpu.unwrap_or(allowed[0]);
        let server_cpu = arguments
            .server_cpu
            .unwrap_or(*allowed.get(1).unwrap_or(&allowed[0]));
        for cpu in [client_cpu, server_cpu] {
            ensure!(
                allowed.contains(&cpu),
                "CPU {cpu} is none of those that this process may use: {allowed:?}"
            );
        }
        if client_cpu == server_cpu {
            skipped.push("a core of its own for the clients: both share one".to_owned());
        }
        for line in &skipped {
            eprintln!("skipped: {line}");
        }
        ensure!(!peers.is_empty(), "there is no peer to measure");
        // Successors whose parent has ended become children of this process,
        // which waits for them: so their processor time is known.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("could not become a subreaper")?;
        let keeper = Keeper::start()?;
        launch::pin(client_cpu)?;
        Ok(Bench {
            server_cpu,
            client_cpu,
            peers,
            keeper: RefCell::new(keeper),
            directory,
            most_connections: raise_descriptor_limit()?.saturating_sub(SPARE_DESCRIPTORS),
            skipped,
            arguments,
        })
    }
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
