//! Successors that die just after they took over, under load: what is saved?

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::{Failures, Policy};
use crate::crowd::Crowd;
use crate::figures::{Figure, Milliseconds, by_kind};
use crate::findings::Findings;
use crate::inside::{Death, Inside, Role, longest_silence};
use crate::journal::{self, Audit};
use crate::service::Character;
use crate::traffic::{Manner, Record, Traffic, assorted, note_standstill};
use crate::{Bench, Fallible};

/// How long after it took over a successor is killed.
const LIFE: Duration = Duration::from_millis(50);

/// Much longer than that.
const PROBATION: Duration = Duration::from_secs(5);

/// What is left to those who were taken back, before they are asked.
const RECOVERY: Duration = Duration::from_millis(250);

/// How long new connections may be without an answer.
const STANDSTILL: Duration = Duration::from_millis(20);

/// How many idle connections in a thousand may be lost.
const LOST_PERMILLE: u64 = 1;

/// Clients of each manner.
const QUICK: usize = 8;
const SLOW: usize = 8;
const NEW: usize = 2;

/// Restarts a service that has idle connections, and kills each successor.
pub(crate) fn measure(
    bench: &Bench,
    connections: usize,
    deaths: u64,
    findings: &mut Findings,
) -> Fallible<()> {
    let journal = journal::file()?;
    let mut service = bench.start(&Character {
        ballast_mib: 0,
        probation: PROBATION,
        hand_over: true,
        journal: Some(journal.path().to_owned()),
        trouble: None,
    })?;
    let mut crowd = Crowd::gather(service.address, connections)?;
    let traffic = Traffic::begin(service.address, manners())?;
    let mut lost = Failures::default();
    let mut died = Vec::new();
    for death in 1..=deaths {
        let asked = service.reload()?;
        let successor = service.meet_successor()?;
        thread::sleep(LIFE);
        let killed = Instant::now();
        successor.signal(Signal::KILL)?;
        service.undone()?;
        died.push(Death {
            role: Role::Successor,
            pid: successor.pid.as_raw_nonzero().get().unsigned_abs(),
            asked,
            killed,
            undone: Instant::now(),
        });
        thread::sleep(RECOVERY);
        lost.absorb(crowd.ask()?);
        eprintln!(
            "death {death} of {deaths} with {connections} idle connections, of which {} were lost",
            lost.total()
        );
    }
    let records = traffic.end()?;
    note_standstill(&records, findings);
    // A stop waits a grace for connections that are idle.
    drop(crowd);
    service.stop()?;
    let audit = Audit::of(journal.path(), &records)?;

    let title = format!("{deaths} successors killed {LIFE:?} after they took over");
    let all = connections as u64 * deaths;
    findings.hold(
        format!("{title}: idle connections saved"),
        format!("{} of {all}", all - lost.total()),
        "99.9 %",
        lost.total() * 1000 <= all * LOST_PERMILLE,
    );
    let mut failures = Failures::default();
    let mut inside = Inside::default();
    let mut silences = Silences::default();
    let requests: usize = records.iter().map(|record| record.answers.len()).sum();
    let mut closed = 0;
    for ((client, record), manner) in records.into_iter().enumerate().zip(manners()) {
        inside.add(client, &record, manner, &audit, &died);
        if manner.policy == Policy::NewConnection {
            silences.add(&record, &died);
        }
        closed += record.closed;
        failures.absorb(record.failures);
    }
    let outside = inside.outside.len();
    for description in &inside.outside {
        eprintln!("failed request: {description}");
    }
    findings.hold(
        format!("{title}: failed requests"),
        format!(
            "{} of {requests}: {} were being handled, {} came on connections that the killed \
             process had accepted, {} on such as it was just reading from or answering, {outside} \
             were elsewhere",
            failures.total(),
            inside.begun,
            inside.accepted,
            inside.in_use.len(),
        ),
        "only those inside the killed process",
        outside == 0,
    );
    if outside > 0 {
        findings.fault(format!(
            "{title}: failed outside of the killed process: {outside}"
        ));
    }
    findings.forbid(
        format!("{title}: connections closed by a process that lives"),
        closed,
        format!("{QUICK} and {SLOW} connections"),
    );
    findings.forbid(
        format!("{title}: handled twice"),
        audit.twice,
        format!("{requests} requests"),
    );
    let longest = silences.after.most();
    findings.hold(
        format!("{title}: longest silence for new connections"),
        format!(
            "{} (median of the deaths {}; while connections moved {}, median {})",
            Milliseconds(longest),
            Milliseconds(silences.after.median()),
            Milliseconds(silences.before.most()),
            Milliseconds(silences.before.median()),
        ),
        format!("{STANDSTILL:?}"),
        longest.is_some_and(|longest| longest <= STANDSTILL),
    );
    for (count, what) in [
        (audit.out_of_order, "handled out of order"),
        (audit.by_another, "handled by one, answered by another"),
        (audit.unhandled, "answered without being handled"),
    ] {
        if count > 0 {
            findings.fault(format!("{title}: {what}: {count}"));
        }
    }
    findings.note(format!(
        "{title}: active clients: {}; idle ones: {}.",
        by_kind(&failures),
        by_kind(&lost)
    ));
    Ok(())
}

fn manners() -> Vec<Manner> {
    assorted(QUICK, SLOW, NEW)
}

/// The longest times without an answer that clients with new connections met.
#[derive(Default)]
struct Silences {
    /// From the signal to the death.
    before: Figure,
    /// From the death on.
    after: Figure,
}

impl Silences {
    fn add(&mut self, record: &Record, deaths: &[Death]) {
        for death in deaths {
            self.before
                .add(longest_silence(record, death.asked, death.killed));
            let recovered = death.killed + RECOVERY;
            self.after
                .add(longest_silence(record, death.killed, recovered));
        }
    }
}
