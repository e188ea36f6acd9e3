//! Restarts without end, under load: is the last one like the first?

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::client::Failures;
use crate::figures::by_kind;
use crate::findings::Findings;
use crate::journal::{self, Audit};
use crate::service::{Character, Service};
use crate::traffic::{Traffic, mixed, note_standstill};
use crate::{Bench, Fallible};

/// How many clients there are.
const CLIENTS: usize = 64;

/// Answers before the first restart of a leg, so many that every client has
/// some.
const WARM: u64 = 20 * CLIENTS as u64;

/// Long enough that it is always a part of what is tried.
const PROBATION: Duration = Duration::from_millis(50);

/// How long the service may take to notice that its clients are gone.
const SETTLING: Duration = Duration::from_secs(10);

/// How much more memory the last quarter of the legs may take than the first.
const GROWTH_KIB: usize = 1024;

/// What has come of all legs so far; it is what is written down.
#[derive(Default, Deserialize, Serialize)]
struct Progress {
    restarts: u64,
    requests: u64,
    failed: u64,
    closed: u64,
    twice: u64,
    /// What else is wrong with what was handled.
    amiss: u64,
    seconds: f64,
    /// How often a service was started for it.
    starts: u64,
    legs: Vec<Leg>,
}

/// What the service is like after some restarts, when nobody asks anything of
/// it.
#[derive(Deserialize, Serialize)]
struct Leg {
    generation: u64,
    resident_kib: usize,
    descriptors: usize,
    processes: usize,
}

/// Restarts a service until all of them have been.
pub(crate) fn measure(
    bench: &Bench,
    restarts: u64,
    leg: u64,
    path: &Path,
    findings: &mut Findings,
) -> Fallible<()> {
    let mut progress = match Progress::read(path)? {
        Some(before) if before.restarts < restarts => {
            eprintln!("going on after {} restarts", before.restarts);
            before
        }
        Some(_) | None => Progress::default(),
    };
    progress.starts += 1;
    let journal = journal::file()?;
    let mut service = bench.start(&Character {
        ballast_mib: 0,
        probation: PROBATION,
        hand_over: true,
        journal: Some(journal.path().to_owned()),
        trouble: None,
    })?;
    let mut failures = Failures::default();
    while progress.restarts < restarts {
        let begun = Instant::now();
        let traffic = Traffic::begin(service.address, mixed(CLIENTS))?;
        traffic.warm_up(WARM)?;
        let leg = leg.min(restarts - progress.restarts);
        for _ in 0..leg {
            service.reload()?;
            let predecessor = service.succeed()?;
            service.bury(&predecessor)?;
        }
        let records = traffic.end()?;
        note_standstill(&records, findings);
        let audit = Audit::of(journal.path(), &records)?;
        // Everything in it has been looked at, and nobody writes to it now.
        journal.as_file().set_len(0)?;
        progress.restarts += leg;
        for record in records {
            progress.requests += record.answers.len() as u64;
            progress.closed += record.closed + record.connections.saturating_sub(1);
            progress.failed += record.failures.total();
            failures.absorb(record.failures);
        }
        progress.twice += audit.twice;
        progress.amiss +=
            audit.out_of_order + audit.by_another + audit.unhandled + audit.in_vain.len() as u64;
        progress.seconds += begun.elapsed().as_secs_f64();
        let leg = Leg::of(&service, progress.legs.first())?;
        eprintln!(
            "restart {} of {restarts}: {} requests, {} failed, {} closed, {} twice; {} KiB, {} \
             descriptors, {} processes; {:.0} s",
            progress.restarts,
            progress.requests,
            progress.failed,
            progress.closed,
            progress.twice,
            leg.resident_kib,
            leg.descriptors,
            leg.processes,
            progress.seconds,
        );
        progress.legs.push(leg);
        progress.write(path)?;
    }
    service.stop()?;
    progress.judge(findings);
    if failures.total() > 0 {
        findings.note(format!("Failed requests: {}.", by_kind(&failures)));
    }
    for description in &failures.descriptions {
        eprintln!("failed request: {description}");
    }
    Ok(())
}

impl Leg {
    /// Waits until the clients are gone, as far as the service knows.
    fn of(service: &Service, first: Option<&Leg>) -> Fallible<Self> {
        let current = &service.current;
        let deadline = Instant::now() + SETTLING;
        let (mut last, mut repeats) = (usize::MAX, 0);
        loop {
            let descriptors = current.descriptors()?;
            repeats = if descriptors == last { repeats + 1 } else { 0 };
            let is_settled = match first {
                Some(first) => descriptors <= first.descriptors,
                None => repeats >= 5,
            };
            if is_settled || Instant::now() > deadline {
                return Ok(Leg {
                    generation: current.generation,
                    resident_kib: current.resident_kib()?,
                    descriptors,
                    processes: service.family.processes()?,
                });
            }
            last = descriptors;
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Progress {
    fn read(path: &Path) -> Fallible<Option<Self>> {
        match File::open(path) {
            Ok(file) => serde_json::from_reader(file)
                .map(Some)
                .map_err(|error| format!("{}: {error}", path.display()).into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display()).into()),
        }
    }

    /// Writes it beside, and puts it there as a whole.
    fn write(&self, path: &Path) -> Fallible<()> {
        let beside = path.with_extension("new");
        fs::write(&beside, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&beside, path)?;
        Ok(())
    }

    fn judge(&self, findings: &mut Findings) {
        let title = format!("{} restarts, {CLIENTS} clients", self.restarts);
        let requests = format!("{} requests", self.requests);
        findings.forbid(format!("{title}: failed requests"), self.failed, &requests);
        let connections = self.legs.len() * CLIENTS;
        findings.forbid(
            format!("{title}: closed connections"),
            self.closed,
            format!("{connections} connections"),
        );
        findings.forbid(format!("{title}: handled twice"), self.twice, &requests);
        findings.forbid(
            format!("{title}: handled out of order, by another, in vain, or not at all"),
            self.amiss,
            &requests,
        );
        let quarter = self.legs.len().div_ceil(4);
        let resident = |legs: &[Leg]| {
            let mut resident: Vec<usize> = legs.iter().map(|leg| leg.resident_kib).collect();
            resident.sort_unstable();
            resident.get(resident.len() / 2).copied().unwrap_or(0)
        };
        let first = resident(self.legs.get(..quarter).unwrap_or_default());
        let from = self.legs.len().saturating_sub(quarter);
        let last = resident(self.legs.get(from..).unwrap_or_default());
        findings.hold(
            format!("{title}: resident memory, first and last quarter (median)"),
            format!("{first} and {last} KiB"),
            format!("at most {GROWTH_KIB} KiB more"),
            last <= first + GROWTH_KIB,
        );
        for (what, count) in [
            ("descriptors", Leg::descriptors as fn(&Leg) -> usize),
            ("processes", Leg::processes),
        ] {
            let counts = || self.legs.iter().map(count);
            let (least, most) = (counts().min(), counts().max());
            findings.hold(
                format!("{title}: {what} after a leg"),
                format!("{} to {}", least.unwrap_or(0), most.unwrap_or(0)),
                "the same",
                least == most,
            );
            if least != most {
                findings.fault(format!("{title}: {what} are not flat"));
            }
        }
        findings.note(format!(
            "{title}: {:.0} s, in {} starts of the service.",
            self.seconds, self.starts
        ));
    }
}

impl Leg {
    fn descriptors(&self) -> usize {
        self.descriptors
    }

    fn processes(&self) -> usize {
        self.processes
    }
}
