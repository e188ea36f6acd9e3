//! What becomes of open connections in a restart: the service, its operator,
//! its clients, and nothing else needed.
//!
//!     cargo bench --bench handover
//!     cargo bench --bench handover -- --quick
//!     cargo bench --bench handover -- --only latency --rate 10000
//!
//! This program is the bench, and, when it starts itself with other arguments
//! (`--serve`), the service that is restarted.
//!
//! | part | what it asks |
//! |---|---|
//! | `storm` | does any client notice a restart under full load? |
//! | `crowd` | what does a restart cost with very many idle connections, and whom? |
//! | `latency` | how much longer do requests take in the half second after a `SIGHUP`? |
//! | `deaths` | what is lost when successors are killed just after they took over? |
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `--only PART` | all | one of the parts |
//! | `--restarts N` | 500 | `storm`: at least so many restarts |
//! | `--requests N` | 1000000 | `storm`: and at least so many requests |
//! | `--polite-restarts N` | 200 | `storm`: restarts without handover |
//! | `--idle N` | 10000 | `crowd`: so many idle connections |
//! | `--crowd-restarts N` | 20 | `crowd`: so many restarts with, and as many without them |
//! | `--rate N` | 5000 | `latency`: so many requests a second |
//! | `--latency-restarts N` | 100 | `latency`: so many restarts |
//! | `--deaths N` | 20 | `deaths`: so many successors |
//! | `--deaths-idle N` | 4000 | `deaths`: so many idle connections |
//! | `--probation-ms N` | 50 | the probation of a successor that is not killed |
//! | `--quick` | | fewer and smaller of everything, to see that it works |
//!
//! A part with no restarts, or no deaths, is left out.
//!
//! # How it measures
//!
//! The service has a core to itself, predecessor and successor together; the
//! clients are in a few threads on the others. No client ever asks again for
//! what has failed, and each answer is checked to be that to its request. A
//! request that fails, is handled twice, or whose connection is closed, makes
//! the bench fail; a missed aim does not, since it may be the machine's fault.
//!
//! That a request is handled twice cannot be seen by its client. So each
//! request has a number, each process notes in one file what it handles before
//! it does, and in the end the file is held against what the clients know
//! ([`journal`]).
//!
//! Whatever is compared is measured in turns in the same run: restarts with
//! idle connections and without, windows with a restart and windows without.
//!
//! Without `--bench`, which `cargo bench` passes, and `cargo test` does not,
//! a quick pass is all that happens.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program, and its output is what it is for"
)]

#[path = "restart/arguments.rs"]
mod arguments;
#[path = "restart/client.rs"]
mod client;
#[path = "handover/crowd.rs"]
mod crowd;
#[path = "handover/deaths.rs"]
mod deaths;
#[path = "restart/figures.rs"]
mod figures;
#[path = "handover/findings.rs"]
mod findings;
#[path = "handover/inside.rs"]
mod inside;
#[path = "handover/journal.rs"]
mod journal;
#[path = "handover/latency.rs"]
mod latency;
#[path = "restart/machine.rs"]
mod machine;
#[path = "handover/process.rs"]
mod process;
#[path = "restart/service.rs"]
mod service;
#[path = "handover/storm.rs"]
mod storm;
#[path = "handover/traffic.rs"]
mod traffic;
#[path = "restart/watch.rs"]
mod watch;

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::arguments::Arguments;
use crate::findings::Findings;
use crate::machine::Cores;
use crate::service::{Character, Service};
use crate::storm::Extent;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Descriptors that a process needs beside those of idle connections.
const OTHER_DESCRIPTORS: u64 = 256;

fn main() -> ExitCode {
    let arguments = arguments::given();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == service::SERVE => {
            Character::parse(rest).and_then(service::serve)
        }
        _ => Options::parse(&arguments).and_then(|options| options.map_or(Ok(()), bench)),
    };
    arguments::conclude("handover", done)
}

struct Options {
    only: Option<Part>,
    storm: Extent,
    polite_restarts: u64,
    idle: usize,
    crowd_restarts: u64,
    rate: u32,
    latency_restarts: u64,
    deaths: u64,
    deaths_idle: usize,
    probation: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Storm,
    Crowd,
    Latency,
    Deaths,
}

impl Options {
    const KNOWN: [&str; 11] = [
        "--only",
        "--restarts",
        "--requests",
        "--polite-restarts",
        "--idle",
        "--crowd-restarts",
        "--rate",
        "--latency-restarts",
        "--deaths",
        "--deaths-idle",
        "--probation-ms",
    ];

    /// `None` if this bench is not meant.
    fn parse(arguments: &[String]) -> Fallible<Option<Self>> {
        let Some(arguments) = Arguments::parse(arguments, "handover", &Self::KNOWN)? else {
            return Ok(None);
        };
        let all = String::new;
        let only = match arguments.value("--only", all(), all())?.as_str() {
            "" => None,
            "storm" => Some(Part::Storm),
            "crowd" => Some(Part::Crowd),
            "latency" => Some(Part::Latency),
            "deaths" => Some(Part::Deaths),
            unknown => return Err(format!("there is no part {unknown}").into()),
        };
        Ok(Some(Options {
            only,
            storm: Extent {
                restarts: arguments.value("--restarts", 500, 10)?,
                requests: arguments.value("--requests", 1_000_000, 1000)?,
            },
            polite_restarts: arguments.value("--polite-restarts", 200, 5)?,
            idle: arguments.value("--idle", 10_000, 500)?,
            crowd_restarts: arguments.value("--crowd-restarts", 20, 2)?,
            rate: arguments.value("--rate", 5000, 1000)?,
            latency_restarts: arguments.value("--latency-restarts", 100, 2)?,
            deaths: arguments.value("--deaths", 20, 2)?,
            deaths_idle: arguments.value("--deaths-idle", 4000, 200)?,
            probation: Duration::from_millis(arguments.value("--probation-ms", 50, 50)?),
        }))
    }

    /// Whether a part is asked for that is to be measured so many times.
    fn includes(&self, part: Part, times: u64) -> bool {
        times > 0 && self.only.is_none_or(|only| only == part)
    }
}

/// Measures, prints the table, and fails if anything failed.
fn bench(options: Options) -> Fallible<()> {
    // Generations lose their parents; as their next of kin we can tell how
    // they ended.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let descriptors = raise_limit()?;
    let possible = |wanted: usize| {
        let most = descriptors.saturating_sub(OTHER_DESCRIPTORS);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if wanted > most {
            eprintln!(
                "REDUCED: {most} idle connections instead of {wanted}; {descriptors} descriptors can be had"
            );
        }
        wanted.min(most)
    };
    let bench = Bench {
        executable: std::env::current_exe()?,
        cores: Cores::divide()?,
        probation: options.probation,
    };
    let mut findings = Findings::default();
    if options.includes(Part::Storm, options.storm.restarts) {
        let polite = Extent {
            restarts: options.polite_restarts,
            requests: 0,
        };
        storm::measure(&bench, &options.storm, &polite, &mut findings)?;
    }
    if options.includes(Part::Crowd, options.crowd_restarts) {
        let idle = possible(options.idle);
        crowd::measure(&bench, idle, options.crowd_restarts, &mut findings)?;
    }
    if options.includes(Part::Latency, options.latency_restarts) {
        latency::measure(
            &bench,
            options.rate,
            options.latency_restarts,
            &mut findings,
        )?;
    }
    if options.includes(Part::Deaths, options.deaths) {
        let idle = possible(options.deaths_idle);
        deaths::measure(&bench, idle, options.deaths, &mut findings)?;
    }
    findings.note(format!(
        "Probation {:?}. {}.",
        options.probation,
        machine::describe(&bench.cores)
    ));
    println!("{findings}");
    match findings.faults() {
        [] => Ok(()),
        faults => Err(faults.join("; ").into()),
    }
}

/// Lets us, and what we start, have as many descriptors as possible; returns
/// how many.
fn raise_limit() -> Fallible<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// What every measurement needs.
struct Bench {
    executable: PathBuf,
    cores: Cores,
    probation: Duration,
}

impl Bench {
    fn start(&self, character: &Character) -> Fallible<Service> {
        let command = Command::new(&self.executable);
        self.cores
            .beside_service(|| Service::start(command, character))?
    }
}
