//! Restarts under as much traffic as there can be: does a client notice?

use std::time::Instant;

use crate::client::Failures;
use crate::figures::{Figure, Milliseconds, by_kind};
use crate::findings::Findings;
use crate::journal::{self, Audit};
use crate::service::Character;
use crate::traffic::{Record, Traffic, mixed, note_standstill};
use crate::{Bench, Fallible};

/// How many clients there are.
const CLIENTS: usize = 64;

/// Answers before the first restart, so many that every client has some.
const WARM: u64 = 100 * CLIENTS as u64;

/// How much is to be done, at least.
pub(crate) struct Extent {
    pub(crate) restarts: u64,
    pub(crate) requests: u64,
}

/// What came of it.
struct Storm {
    /// From the signal until the successor says that it serves.
    serving: Figure,
    requests: u64,
    connections: u64,
    closed: u64,
    asked_anew: u64,
    /// Clients that the last generation has not answered in the end.
    left_behind: u64,
    failures: Failures,
    audit: Audit,
}

/// With connections that move, and then with such that do not.
pub(crate) fn measure(
    bench: &Bench,
    moving: &Extent,
    staying: &Extent,
    findings: &mut Findings,
) -> Fallible<()> {
    let storm = run(bench, moving, true, findings)?;
    let title = format!("{CLIENTS} clients, {} restarts", storm.serving.len());
    let requests = format!("{} requests", storm.requests);
    findings.forbid(
        format!("{title}: failed requests"),
        storm.failures.total(),
        &requests,
    );
    findings.forbid(
        format!("{title}: closed connections"),
        storm.closed + storm.connections.saturating_sub(CLIENTS as u64),
        format!("{CLIENTS} connections"),
    );
    storm.verify(&title, &requests, findings);

    let storm = run(bench, staying, false, findings)?;
    let title = format!(
        "the same without handover, {} restarts",
        storm.serving.len()
    );
    let requests = format!("{} requests", storm.requests);
    findings.forbid(
        format!("{title}: failed requests"),
        storm.failures.total(),
        &requests,
    );
    let ended = storm.connections.saturating_sub(CLIENTS as u64);
    findings.hold(
        format!("{title}: connections whose end was announced"),
        format!("{} of {ended}", storm.closed),
        "all that ended",
        storm.closed == ended,
    );
    storm.verify(&title, &requests, findings);
    findings.note(format!(
        "Without handover {} requests had been sent behind one whose answer announced the end of \
         the connection, and were asked on the next one.",
        storm.asked_anew
    ));
    Ok(())
}

impl Storm {
    /// What holds for both kinds.
    fn verify(&self, title: &str, requests: &str, findings: &mut Findings) {
        findings.forbid(
            format!("{title}: handled twice"),
            self.audit.twice,
            requests,
        );
        for (count, what) in [
            (self.audit.out_of_order, "handled out of order"),
            (self.audit.by_another, "handled by one, answered by another"),
            (self.audit.in_vain.len() as u64, "handled without an answer"),
            (self.audit.unhandled, "answered without being handled"),
            (
                self.left_behind,
                "clients that have not met the last generation",
            ),
        ] {
            if count > 0 {
                findings.fault(format!("{title}: {what}: {count}"));
            }
        }
        findings.note(format!(
            "{title}: {}; `SIGHUP` to a serving successor: {} (median).",
            by_kind(&self.failures),
            Milliseconds(self.serving.median()),
        ));
        for description in &self.failures.descriptions {
            eprintln!("failed request: {description}");
        }
    }
}

fn run(
    bench: &Bench,
    extent: &Extent,
    hand_over: bool,
    findings: &mut Findings,
) -> Fallible<Storm> {
    let journal = journal::file()?;
    let mut service = bench.start(&Character {
        ballast_mib: 0,
        probation: bench.probation,
        hand_over,
        journal: Some(journal.path().to_owned()),
        trouble: None,
    })?;
    let traffic = Traffic::begin(service.address, mixed(CLIENTS))?;
    traffic.warm_up(WARM)?;
    let begun = Instant::now();
    let mut serving = Figure::default();
    while (serving.len() as u64) < extent.restarts || traffic.answered() < extent.requests {
        let asked = service.reload()?;
        let predecessor = service.succeed()?;
        serving.add(asked.elapsed());
        service.bury(&predecessor)?;
        if serving.len() % 50 == 0 {
            eprintln!(
                "restart {} of at least {} {} handover: {} requests in {:.1?}",
                serving.len(),
                extent.restarts,
                if hand_over { "with" } else { "without" },
                traffic.answered(),
                begun.elapsed(),
            );
        }
    }
    let records = traffic.end()?;
    note_standstill(&records, findings);
    let current = service.current.generation;
    service.stop()?;
    let audit = Audit::of(journal.path(), &records)?;
    let mut storm = Storm {
        serving,
        requests: 0,
        connections: 0,
        closed: 0,
        asked_anew: 0,
        left_behind: 0,
        failures: Failures::default(),
        audit,
    };
    for record in records {
        storm.left_behind += u64::from(last_generation(&record) != Some(current));
        storm.requests += record.answers.len() as u64;
        storm.connections += record.connections;
        storm.closed += record.closed;
        storm.asked_anew += record.asked_anew;
        storm.failures.absorb(record.failures);
    }
    Ok(storm)
}

fn last_generation(record: &Record) -> Option<u64> {
    let answers = record.answers.iter().rev();
    answers
        .flatten()
        .next()
        .map(|answered| answered.by.generation)
}
