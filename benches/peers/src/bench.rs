//! What all parts share: the CPUs, the peers, a directory.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::arguments::Arguments;
use crate::launch::Keeper;
use crate::machine::{Cpus, pin, raise_descriptor_limit};
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

        let cpus = Cpus::choose(arguments.server_cpu, arguments.client_cpu)?;
        let mut skipped = Vec::new();
        // Before this process is pinned, so that the compilers are not.
        let peers = peer::build(
            &arguments.peers,
            &arguments.servers,
            &directory,
            &mut skipped,
        );
        if cpus.client == cpus.server {
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
        pin(cpus.client)?;
        Ok(Bench {
            server_cpu: cpus.server,
            client_cpu: cpus.client,
            peers,
            keeper: RefCell::new(keeper),
            directory,
            most_connections: raise_descriptor_limit()?.saturating_sub(SPARE_DESCRIPTORS),
            skipped,
            arguments,
        })
    }
}
