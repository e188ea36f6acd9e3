//! What a restart costs: the service, its operator, its clients, and nothing
//! else needed.
//!
//!     cargo bench --bench restart
//!     cargo bench --bench restart -- --quick
//!
//! This program is the bench, and, when it starts itself with other arguments,
//! the service that is restarted (`--serve`) and a process that does nothing
//! (`--exit`), against which the start of a successor is held.
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `--rounds N` | 15 | how often each figure is measured; 0 leaves the rounds out |
//! | `--restarts N` | 200 | how many restarts under load; 0 leaves them out |
//! | `--ballast-mib N` | 4096 | how much heap the large predecessor touches; 0 leaves it out |
//! | `--probation-ms N` | 50 | the probation of a successor |
//! | `--quick` | | fewer and smaller of everything, to see that it works |
//!
//! # How it measures
//!
//! A round is a number of bare spawns, a restart of a small service, and a
//! restart of one with a large heap, so that all of them see the same weather.
//! Every restart of a round is the first one of a fresh service, for the
//! ballast is touched by the first generation only: see
//! [`service::serve`]. Two clients are at work meanwhile, one that makes a
//! connection for each request and one that keeps its connection until it is
//! told `Connection: close`. Each waits 250 µs after an answer, which is also
//! how exactly the first answer of the successor can be known.
//!
//! The silence of a client is the longest time between two answers, from the
//! `SIGHUP` to the exit of the predecessor, and in the window of the same
//! length that follows.
//!
//! Then clients without a pause ask one service through all the restarts under
//! load. Any request that is not answered as it should be, there or in the
//! rounds, makes the bench fail; a missed aim does not, since it may be the
//! machine's fault.
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
#[path = "restart/figures.rs"]
mod figures;
#[path = "restart/machine.rs"]
mod machine;
#[path = "restart/service.rs"]
mod service;
#[path = "restart/table.rs"]
mod table;
#[path = "restart/watch.rs"]
mod watch;

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::client::{Failures, Load, Policy};
use crate::figures::{Figure, Milliseconds, by_kind};
use crate::machine::Cores;
use crate::service::{Character, Service};
use crate::table::{aim, row, times};
use crate::watch::{POLICIES, Silences, Watch};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The argument that makes this program exit at once.
const EXIT: &str = "--exit";

/// Bare spawns in one round. One alone would be lost in its own noise.
const SPAWNS: usize = 5;

/// Clients of each policy while restarts happen under load.
const CLIENTS: usize = 4;

/// Memory that must be left when the ballast is touched.
const RESERVE_MIB: usize = 512;

fn main() -> ExitCode {
    let arguments = arguments::given();
    let done = match arguments.split_first() {
        Some((first, _)) if first == EXIT => return ExitCode::SUCCESS,
        Some((first, rest)) if first == service::SERVE => {
            Character::parse(rest).and_then(service::serve)
        }
        _ => Options::parse(&arguments).and_then(|options| options.map_or(Ok(()), bench)),
    };
    arguments::conclude("restart", done)
}

struct Options {
    rounds: usize,
    restarts: u64,
    ballast_mib: usize,
    probation: Duration,
}

impl Options {
    const KNOWN: [&str; 4] = ["--rounds", "--restarts", "--ballast-mib", "--probation-ms"];

    /// `None` if this bench is not meant.
    fn parse(arguments: &[String]) -> Fallible<Option<Self>> {
        let Some(arguments) = Arguments::parse(arguments, "restart", &Self::KNOWN)? else {
            return Ok(None);
        };
        Ok(Some(Options {
            rounds: arguments.value("--rounds", 15, 3)?,
            restarts: arguments.value("--restarts", 200, 20)?,
            ballast_mib: arguments.value("--ballast-mib", 4096, 256)?,
            probation: Duration::from_millis(arguments.value("--probation-ms", 50, 50)?),
        }))
    }
}

/// Measures, prints the table, and fails if a request did.
fn bench(options: Options) -> Fallible<()> {
    // Generations lose their parents; as their next of kin we can tell how
    // they ended.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let bench = Bench {
        executable: std::env::current_exe()?,
        cores: Cores::divide()?,
        probation: options.probation,
    };
    let large = large_heap(&options);
    let mut report = Report::default();

    for round in 1..=options.rounds {
        for _ in 0..SPAWNS {
            report.spawn.add(bench.spawn_to_exit()?);
        }
        // Each of them is first as often as second, for whoever touches much
        // memory leaves the machine in another state than it was in before.
        let large_first = round % 2 == 0;
        if large_first && let Some(mib) = large {
            report.large.absorb(bench.restart(mib)?);
        }
        report.small.absorb(bench.restart(0)?);
        if !large_first && let Some(mib) = large {
            report.large.absorb(bench.restart(mib)?);
        }
        eprintln!(
            "round {round} of {}; medians so far: bare spawn {}, first answer {}, with {} MiB {}",
            options.rounds,
            Milliseconds(report.spawn.median()),
            Milliseconds(report.small.first_answer.median()),
            large.unwrap_or(0),
            Milliseconds(report.large.first_answer.median()),
        );
    }
    if options.restarts > 0 {
        report.storm = Some(bench.storm(options.restarts)?);
    }

    println!("{}", report.table(large, &options, &bench.cores));
    report.verdict()
}

/// The size of the large heap, unless this machine has no room for it.
fn large_heap(options: &Options) -> Option<usize> {
    let mib = options.ballast_mib;
    if mib == 0 {
        return None;
    }
    let available = available_mib();
    // The ballast of one round is gone before the next one is touched.
    if available.is_some_and(|available| available >= mib + RESERVE_MIB) {
        return Some(mib);
    }
    eprintln!(
        "SKIPPED: restarts with {mib} MiB touched; available are {} MiB",
        available.map_or("unknown".to_owned(), |mib| mib.to_string())
    );
    None
}

/// How much memory can be had without swapping; `None` if nobody knows.
fn available_mib() -> Option<usize> {
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    let available = machine::field(&memory, "MemAvailable")?;
    Some(available.trim_end_matches(" kB").parse::<usize>().ok()? >> 10)
}

/// What every measurement needs.
struct Bench {
    executable: PathBuf,
    cores: Cores,
    probation: Duration,
}

impl Bench {
    fn command(&self) -> Command {
        Command::new(&self.executable)
    }

    /// How long it takes to start this program and see it end, when it does
    /// nothing: no restart could be faster.
    fn spawn_to_exit(&self) -> Fallible<Duration> {
        let mut command = self.command();
        command.arg(EXIT).stdin(Stdio::null()).stdout(Stdio::null());
        let (status, took) = self.cores.beside_service(|| {
            let begun = Instant::now();
            // The child has nothing to wait for, so this cannot hang.
            let status = command.status();
            (status, begun.elapsed())
        })?;
        match status?.success() {
            true => Ok(took),
            false => Err("a process that was to do nothing failed in it".into()),
        }
    }

    fn start(&self, ballast_mib: usize) -> Fallible<Service> {
        let character = Character {
            ballast_mib,
            probation: self.probation,
            hand_over: true,
            journal: None,
            trouble: None,
        };
        self.cores
            .beside_service(|| Service::start(self.command(), &character))?
    }

    /// Restarts a fresh service under light load.
    fn restart(&self, ballast_mib: usize) -> Fallible<Restart> {
        let mut service = self.start(ballast_mib)?;
        let mut watch = Watch::begin(service.address)?;
        let asked = service.reload()?;
        let predecessor = service.succeed()?;
        let gone = service.bury(&predecessor)?;
        let silences = watch.silences(asked, gone)?;
        let first_answer = watch
            .by(Policy::NewConnection)
            .find(|answer| answer.generation > predecessor.generation)
            .ok_or("the successor has not answered")?
            .at
            .duration_since(asked);
        let (requests, failures) = watch.end()?;
        service.stop()?;
        Ok(Restart {
            first_answer,
            gone: gone.duration_since(asked),
            silences,
            requests,
            failures,
        })
    }

    /// Restarts one service again and again, under as much load as the cores
    /// of the clients give.
    fn storm(&self, restarts: u64) -> Fallible<Storm> {
        let mut service = self.start(0)?;
        let mut load = Load::new();
        for _ in 0..CLIENTS {
            for policy in POLICIES {
                load.add(service.address, policy, Duration::ZERO, |_, _| {})?;
            }
        }
        let begun = Instant::now();
        let mut storm = Storm::default();
        for restart in 1..=restarts {
            let asked = service.reload()?;
            let predecessor = service.succeed()?;
            storm.serving.add(asked.elapsed());
            // It exits only when its successor is proven, so the next restart
            // is never one that had to wait for the end of a probation.
            service.bury(&predecessor)?;
            if restart % 50 == 0 || restart == restarts {
                eprintln!(
                    "restart {restart} of {restarts} under load; {} to serve, median so far",
                    Milliseconds(storm.serving.median())
                );
            }
        }
        let tallies = load.end()?;
        storm.took = begun.elapsed();
        service.stop()?;
        for tally in tallies {
            storm.requests += tally.answers + tally.failures.total();
            storm.connections += tally.connections;
            storm.longest_silence = storm.longest_silence.max(tally.longest_silence);
            storm.left_behind += u64::from(tally.generation != restarts + 1);
            storm.failures.absorb(tally.failures);
        }
        Ok(storm)
    }
}

/// What one restart of a round has shown.
struct Restart {
    first_answer: Duration,
    /// Until the predecessor had exited.
    gone: Duration,
    /// In the order of [`POLICIES`].
    silences: [watch::Silence; POLICIES.len()],
    requests: u64,
    failures: Failures,
}

/// What the restarts of all rounds have shown.
#[derive(Default)]
struct Restarts {
    first_answer: Figure,
    gone: Figure,
    silences: [Silences; POLICIES.len()],
    requests: u64,
    failures: Failures,
}

impl Restarts {
    fn absorb(&mut self, restart: Restart) {
        self.first_answer.add(restart.first_answer);
        self.gone.add(restart.gone);
        for (all, one) in self.silences.iter_mut().zip(restart.silences) {
            all.add(one);
        }
        self.requests += restart.requests;
        self.failures.absorb(restart.failures);
    }
}

/// What many restarts under load have shown.
#[derive(Default)]
struct Storm {
    took: Duration,
    /// From the signal until the successor says that it serves.
    serving: Figure,
    requests: u64,
    connections: u64,
    longest_silence: Duration,
    /// Clients that the last generation has not answered in the end.
    left_behind: u64,
    failures: Failures,
}

#[derive(Default)]
struct Report {
    spawn: Figure,
    small: Restarts,
    large: Restarts,
    storm: Option<Storm>,
}

impl Report {
    fn table(&self, large: Option<usize>, options: &Options, cores: &Cores) -> String {
        let mut lines = vec![
            "| | median | min | max | |".to_owned(),
            "|---|---|---|---|---|".to_owned(),
        ];
        if self.spawn.len() > 0 {
            let spawns = format!("{} of them", self.spawn.len());
            lines.push(row(
                "bare spawn to exit of the same binary",
                &self.spawn,
                &spawns,
            ));
            let ratio = times(&self.small.first_answer, &self.spawn);
            lines.extend(self.small.rows("", &aim(ratio, 4.0, "bare spawn")));
        }
        if let Some(mib) = large.filter(|_| self.large.first_answer.len() > 0) {
            let ratio = times(&self.large.first_answer, &self.small.first_answer);
            let heap = format!(", predecessor with {mib} MiB touched");
            lines.extend(
                self.large
                    .rows(&heap, &aim(ratio, 1.3, "with a small heap")),
            );
        }
        if let Some(storm) = &self.storm {
            lines.push(row(
                "`SIGHUP` to a serving successor, under full load",
                &storm.serving,
                &format!(
                    "longest silence of any client {}",
                    Milliseconds(Some(storm.longest_silence))
                ),
            ));
        }
        lines.push(String::new());
        if let Some(storm) = &self.storm {
            lines.push(format!(
                "{} restarts under load in {:.1?}: {} requests over {} connections of {CLIENTS} \
                 clients with new connections and {CLIENTS} with kept ones, **{} failures** ({}).",
                storm.serving.len(),
                storm.took,
                storm.requests,
                storm.connections,
                storm.failures.total(),
                by_kind(&storm.failures),
            ));
        }
        if options.rounds > 0 {
            let mut failures = 0;
            let mut requests = 0;
            for restarts in [&self.small, &self.large] {
                failures += restarts.failures.total();
                requests += restarts.requests;
            }
            lines.push(format!(
                "{} interleaved rounds: {requests} requests, {failures} failures.",
                options.rounds
            ));
        }
        lines.push(format!(
            "Probation {:?}. {}.",
            options.probation,
            machine::describe(cores)
        ));
        lines.join("\n")
    }

    /// An error if anything was not as a client may expect it.
    fn verdict(self) -> Fallible<()> {
        let mut failures = Failures::default();
        failures.absorb(self.small.failures);
        failures.absorb(self.large.failures);
        let mut left_behind = 0;
        if let Some(storm) = self.storm {
            failures.absorb(storm.failures);
            left_behind = storm.left_behind;
        }
        for description in &failures.descriptions {
            eprintln!("failed request: {description}");
        }
        if failures.total() > 0 {
            return Err(format!("{} requests failed", failures.total()).into());
        }
        if left_behind > 0 {
            return Err(format!("{left_behind} clients have not met the last generation").into());
        }
        Ok(())
    }
}

impl Restarts {
    fn rows(&self, heap: &str, aim: &str) -> Vec<String> {
        let mut rows = vec![
            row(
                &format!("`SIGHUP` to the successor's first answer{heap}"),
                &self.first_answer,
                aim,
            ),
            row(
                &format!("`SIGHUP` to the predecessor's exit{heap}"),
                &self.gone,
                "probation included",
            ),
        ];
        for (policy, silences) in POLICIES.iter().zip(&self.silences) {
            rows.push(row(
                &format!("longest silence of a client, {policy}{heap}"),
                &silences.restart,
                &format!(
                    "without a restart {}",
                    Milliseconds(silences.otherwise.median())
                ),
            ));
        }
        rows
    }
}
