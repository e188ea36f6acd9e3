//! Does it hold out? Thousands of restarts under load, and half an hour of
//! everything that can go wrong with a restart.
//!
//!     cargo bench --bench soak
//!     cargo bench --bench soak -- --quick
//!     cargo bench --bench soak -- --only faults --minutes 5 --seed 7
//!
//! This program is the bench, and, when it starts itself with other arguments
//! (`--serve`), the service that is restarted.
//!
//! | part | what it asks |
//! |---|---|
//! | `restarts` | does the ten-thousandth restart differ from the first: in requests, descriptors, memory, processes? |
//! | `faults` | is the service always there, and does nothing fail but what a killed process was at, while successors and predecessors are killed, hang, have broken configurations or too few descriptors? |
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `--only PART` | both | one of the parts |
//! | `--restarts N` | 10000 | so many restarts |
//! | `--leg N` | 200 | after so many the clients are asked what they have met, and the service is looked at |
//! | `--progress PATH` | `target/tmp/soak.json` | where it is written how far `restarts` has got; what is there already is gone on with, unless it is complete |
//! | `--minutes N` | 30 | `faults`: for so long |
//! | `--seed N` | 1 | `faults`: which faults come when |
//! | `--quick` | | fewer of everything, to see that it works |
//!
//! The clients are those of the bench `handover`: they never ask again for what
//! has failed, each answer is checked to be that to its request, and what was
//! handled is held against what was answered. Whatever fails makes the bench
//! fail.
//!
//! Without `--bench`, which `cargo bench` passes, and `cargo test` does not,
//! a quick pass is all that happens.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program, and its output is what it is for"
)]
#![allow(
    dead_code,
    reason = "what it shares with the other benches is not all needed here"
)]

#[path = "restart/arguments.rs"]
mod arguments;
#[path = "restart/client.rs"]
mod client;
#[path = "soak/endurance.rs"]
mod endurance;
#[path = "soak/faults.rs"]
mod faults;
#[path = "restart/figures.rs"]
mod figures;
#[path = "handover/findings.rs"]
mod findings;
#[path = "handover/inside.rs"]
mod inside;
#[path = "handover/journal.rs"]
mod journal;
#[path = "restart/machine.rs"]
mod machine;
#[path = "soak/process.rs"]
mod process;
#[path = "restart/service.rs"]
mod service;
#[path = "handover/traffic.rs"]
mod traffic;

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::arguments::Arguments;
use crate::findings::Findings;
use crate::machine::Cores;
use crate::service::{Character, Service};

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments = arguments::given();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == service::SERVE => {
            Character::parse(rest).and_then(service::serve)
        }
        _ => Options::parse(&arguments).and_then(|options| options.map_or(Ok(()), bench)),
    };
    arguments::conclude("soak", done)
}

struct Options {
    only: Option<Part>,
    restarts: u64,
    leg: u64,
    progress: PathBuf,
    faults: Duration,
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Restarts,
    Faults,
}

impl Options {
    const KNOWN: [&str; 6] = [
        "--only",
        "--restarts",
        "--leg",
        "--progress",
        "--minutes",
        "--seed",
    ];

    /// `None` if this bench is not meant.
    fn parse(arguments: &[String]) -> Fallible<Option<Self>> {
        let Some(arguments) = Arguments::parse(arguments, "soak", &Self::KNOWN)? else {
            return Ok(None);
        };
        let all = String::new;
        let only = match arguments.value("--only", all(), all())?.as_str() {
            "" => None,
            "restarts" => Some(Part::Restarts),
            "faults" => Some(Part::Faults),
            unknown => return Err(format!("there is no part {unknown}").into()),
        };
        let minutes: f64 = arguments.value("--minutes", 30.0, 0.1)?;
        let leg = arguments.value("--leg", 200, 5)?;
        if leg == 0 {
            return Err("a leg has at least one restart".into());
        }
        // A quick pass is no part of a long one.
        let kept = concat!(env!("CARGO_TARGET_TMPDIR"), "/soak.json").to_owned();
        let dropped = concat!(env!("CARGO_TARGET_TMPDIR"), "/soak-quick.json").to_owned();
        Ok(Some(Options {
            only,
            restarts: arguments.value("--restarts", 10_000, 10)?,
            leg,
            progress: arguments.value("--progress", kept, dropped)?.into(),
            faults: Duration::try_from_secs_f64(60.0 * minutes)?,
            seed: arguments.value("--seed", 1, 1)?,
        }))
    }

    fn includes(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

/// Runs the parts, prints the table, and fails if anything failed.
fn bench(options: Options) -> Fallible<()> {
    // Generations lose their parents; as their next of kin we can tell how
    // they ended.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let bench = Bench {
        executable: std::env::current_exe()?,
        cores: Cores::divide()?,
    };
    let mut findings = Findings::default();
    if options.includes(Part::Restarts) && options.restarts > 0 {
        let (restarts, leg) = (options.restarts, options.leg);
        endurance::measure(&bench, restarts, leg, &options.progress, &mut findings)?;
    }
    if options.includes(Part::Faults) && !options.faults.is_zero() {
        faults::measure(&bench, options.faults, options.seed, &mut findings)?;
    }
    findings.note(format!("{}.", machine::describe(&bench.cores)));
    println!("{findings}");
    match findings.faults() {
        [] => Ok(()),
        faults => Err(faults.join("; ").into()),
    }
}

/// What every part needs.
struct Bench {
    executable: PathBuf,
    cores: Cores,
}

impl Bench {
    fn start(&self, character: &Character) -> Fallible<Service> {
        let command = Command::new(&self.executable);
        self.cores
            .beside_service(|| Service::start(command, character))?
    }
}
