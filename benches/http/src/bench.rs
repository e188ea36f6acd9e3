//! What all parts share: the CPUs, the peers, the tools, a directory.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::arguments::{Arguments, Generator};
use crate::machine::{Cpus, on_path, pin, raise_descriptor_limit};
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

        let cpus = Cpus::choose(arguments.server_cpu, arguments.client_cpu)?;
        let mut skipped = Vec::new();
        // Before this process is pinned, so that the compilers are not.
        let peers = peer::build(&arguments.peers, programs, &directory, &mut skipped)?;
        ensure!(!peers.is_empty(), "there is no peer to measure");

        let wrk = match arguments.generator {
            Some(Generator::Own) => None,
            Some(Generator::Wrk) => Some(on_path("wrk").context("wrk is not installed")?),
            None => on_path("wrk"),
        };
        if cpus.client == cpus.server {
            skipped.push("a core of its own for the client: both share one".to_owned());
        }
        pin(cpus.client)?;

        let bench = Bench {
            server_cpu: cpus.server,
            client_cpu: cpus.client,
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
