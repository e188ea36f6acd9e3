//! Restarts that go wrong in every way there is, one after the other, under
//! load: is the service always there, and does nothing fail but what a killed
//! process was at?

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, WaitOptions, prlimit};
use tempfile::NamedTempFile;

use crate::client::{Failures, Kind, Policy};
use crate::figures::by_kind;
use crate::findings::Findings;
use crate::inside::{Death, Inside, Role, longest_silence};
use crate::journal::{self, Audit};
use crate::service::{Character, Member, Service, Trouble};
use crate::traffic::{Dice, Manner, Record, Traffic, assorted, note_standstill};
use crate::{Bench, Fallible};

/// Longer than any death takes to come: after it, that of a successor would
/// leave nobody.
const PROBATION: Duration = Duration::from_secs(2);

/// How long after it took over a process is killed, at most.
const LIFE: Duration = Duration::from_millis(300);

/// The same for one that does not serve yet.
const CHILDHOOD: Duration = Duration::from_millis(30);

/// How long a client with a new connection may be without an answer. The
/// service may be out of descriptors for a while, and on purpose.
const ABSENCE: Duration = Duration::from_secs(3);

/// How long anything of the service is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// After so much time without a restart there will be none without being
/// asked for.
const PAUSE: Duration = Duration::from_secs(3);

/// How many events there are until the clients are asked.
const LEG: u64 = 20;

/// How many descriptors beside those in use a process has at least when they
/// are few, and how many more there may be.
const FEW: u64 = 4;
const MORE: usize = 40;

/// Clients of each manner.
const QUICK: usize = 16;
const SLOW: usize = 8;
const NEW: usize = 2;

/// What happens in a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Nothing else.
    Plain,
    /// More of them are asked for at once.
    Burst,
    /// The successor is killed before it serves, unless it is quicker.
    Childhood,
    /// The successor is killed on probation.
    Successor,
    /// The predecessor is killed when the successor serves.
    Predecessor,
    Broken,
    Hangs,
    /// The service has next to no descriptors left.
    Tight,
}

impl Event {
    const ALL: [Event; 8] = [
        Event::Plain,
        Event::Burst,
        Event::Childhood,
        Event::Successor,
        Event::Predecessor,
        Event::Broken,
        Event::Hangs,
        Event::Tight,
    ];
}

/// All that has come of it.
#[derive(Default)]
struct Outcome {
    events: BTreeMap<Event, u64>,
    /// How many restarts succeeded.
    succeeded: u64,
    requests: u64,
    inside: Inside,
    failures: Failures,
    /// How many of those outside have been described.
    described: usize,
    refused: u64,
    twice: u64,
    amiss: u64,
    longest: Duration,
}

/// The service in the middle of it.
struct Ordeal {
    service: Service,
    dice: Dice,
    trouble: NamedTempFile,
    /// Who was killed since the clients were asked.
    deaths: Vec<Death>,
    limit: Rlimit,
}

pub(crate) fn measure(
    bench: &Bench,
    extent: Duration,
    seed: u64,
    findings: &mut Findings,
) -> Fallible<()> {
    let journal = journal::file()?;
    let trouble = NamedTempFile::new()?;
    let service = bench.start(&Character {
        ballast_mib: 0,
        probation: PROBATION,
        hand_over: true,
        journal: Some(journal.path().to_owned()),
        trouble: Some(trouble.path().to_owned()),
    })?;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let mut ordeal = Ordeal {
        service,
        dice: Dice(seed),
        trouble,
        deaths: Vec::new(),
        limit,
    };
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    while begun.elapsed() < extent {
        let traffic = Traffic::begin(ordeal.service.address, manners())?;
        traffic.warm_up(10 * manners().len() as u64)?;
        let from = Instant::now();
        for _ in 0..LEG {
            let event = Event::ALL[ordeal.dice.up_to(Event::ALL.len()) - 1];
            let succeeded = ordeal
                .suffer(event)
                .map_err(|error| format!("after {:?}, {event:?}: {error}", outcome.events))?;
            *outcome.events.entry(event).or_default() += 1;
            outcome.succeeded += succeeded;
        }
        let to = Instant::now();
        let records = traffic.end()?;
        note_standstill(&records, findings);
        let audit = Audit::of(journal.path(), &records)?;
        // Everything in it has been looked at, and nobody writes to it now.
        journal.as_file().set_len(0)?;
        let deaths = std::mem::take(&mut ordeal.deaths);
        outcome.add(records, &audit, &deaths, from, to);
        eprintln!(
            "{:.0} of {:.0} s: {:?}; {} requests, {} failed, {} of them outside of killed \
             processes, {} refused; longest silence {:.0?}",
            begun.elapsed().as_secs_f64(),
            extent.as_secs_f64(),
            outcome.events,
            outcome.requests,
            outcome.failures.total(),
            outcome.inside.outside.len(),
            outcome.refused,
            outcome.longest,
        );
    }
    let service = &ordeal.service;
    service.current.signal(Signal::TERM)?;
    service.current.await_exit()?;
    service.family.reap_fallen(WaitOptions::NOHANG);
    let left = service.family.processes()?;
    if left > 0 {
        findings.fault(format!("{left} processes are left in the end"));
    }
    outcome.judge(seed, service.current.generation, findings);
    Ok(())
}

impl Ordeal {
    /// Lets it happen, and returns how many restarts have succeeded.
    fn suffer(&mut self, event: Event) -> Fallible<u64> {
        let trouble = match event {
            Event::Broken => Trouble::Broken,
            Event::Hangs => Trouble::Hangs,
            _ => Trouble::None,
        };
        fs::write(self.trouble.path(), trouble.word())?;
        if event == Event::Tight {
            let few = self.service.current.descriptors()? as u64 + FEW;
            let more = self.dice.up_to(MORE) as u64;
            self.allow(&self.service.current, few + more)?;
        }
        let asked = self.service.reload()?;
        if event == Event::Burst {
            for _ in 0..self.dice.up_to(100) {
                self.service.reload()?;
            }
        }
        if event == Event::Childhood {
            thread::sleep(CHILDHOOD.mul_f64(self.dice.share()));
            let children = self.service.current.children()?;
            // Nobody is there yet if the machine is busy.
            if let Some(child) = children.first()
                && let Ok(child) = Member::open(*child, self.service.current.generation + 1)
            {
                self.kill(&child, Role::Successor, asked)?;
            }
        }
        let mut succeeded = 0;
        if let Some(successor) = self.outcome()? {
            match event {
                Event::Successor => {
                    thread::sleep(LIFE.mul_f64(self.dice.share()));
                    self.kill(&successor, Role::Successor, asked)?;
                    self.undo()?;
                }
                // It was killed as it began to serve.
                Event::Childhood if self.deaths.iter().any(|it| it.asked == asked) => {
                    self.undo()?;
                }
                Event::Predecessor => {
                    thread::sleep(LIFE.mul_f64(self.dice.share()));
                    let predecessor = std::mem::replace(&mut self.service.current, successor);
                    self.kill(&predecessor, Role::Predecessor, asked)?;
                    predecessor.await_exit()?;
                    self.note_recovery();
                    succeeded += 1;
                }
                Event::Plain
                | Event::Burst
                | Event::Broken
                | Event::Hangs
                | Event::Childhood
                | Event::Tight => {
                    succeeded += 1;
                    if event == Event::Tight {
                        self.allow_all(&successor)?;
                    }
                    let predecessor = std::mem::replace(&mut self.service.current, successor);
                    predecessor.await_exit()?;
                    if event == Event::Burst {
                        succeeded += self.rest_of_a_burst()?;
                    }
                }
            }
        }
        let current = &self.service.current;
        if event == Event::Tight {
            self.allow_all(current)?;
        }
        if current.has_exited()? {
            return Err(format!("{current} is gone").into());
        }
        self.service.family.reap_fallen(WaitOptions::NOHANG);
        Ok(succeeded)
    }

    /// Waits until a successor serves, or it is said that none will.
    fn outcome(&mut self) -> Fallible<Option<Member>> {
        match self.outcome_within(PATIENCE)? {
            Some(outcome) => Ok(outcome),
            None => Err(format!("nothing has come of a restart in {PATIENCE:?}").into()),
        }
    }

    fn outcome_within(&mut self, patience: Duration) -> Fallible<Option<Option<Member>>> {
        let words = ["serves ", "undone "];
        match self.service.family.hear_either(words, patience)? {
            Some((0, line)) => self.service.successor(&line).map(Some).map(Some),
            Some(_) => Ok(Some(None)),
            None => Ok(None),
        }
    }

    /// Waits until the predecessor says that it serves without the successor.
    fn undo(&mut self) -> Fallible<()> {
        match self.outcome()? {
            None => {
                self.note_recovery();
                Ok(())
            }
            Some(unexpected) => Err(format!("{unexpected} serves").into()),
        }
    }

    fn note_recovery(&mut self) {
        if let Some(death) = self.deaths.last_mut() {
            death.undone = Instant::now();
        }
    }

    /// A `SIGHUP` that came during a restart leads to another one. How many
    /// did, nobody can say.
    fn rest_of_a_burst(&mut self) -> Fallible<u64> {
        let mut succeeded = 0;
        while let Some(outcome) = self.outcome_within(PAUSE)? {
            let successor = outcome.ok_or("a restart of a burst has failed")?;
            let predecessor = std::mem::replace(&mut self.service.current, successor);
            predecessor.await_exit()?;
            succeeded += 1;
        }
        Ok(succeeded)
    }

    fn kill(&mut self, member: &Member, role: Role, asked: Instant) -> Fallible<()> {
        let killed = Instant::now();
        // It may have ended by itself.
        let _ = member.signal(Signal::KILL);
        self.deaths.push(Death {
            pid: member.pid.as_raw_nonzero().get().unsigned_abs(),
            role,
            asked,
            killed,
            // Until more is known.
            undone: killed,
        });
        Ok(())
    }

    fn allow_all(&self, member: &Member) -> Fallible<()> {
        self.allow(member, self.limit.current.unwrap_or(u64::MAX))
    }

    fn allow(&self, member: &Member, descriptors: u64) -> Fallible<()> {
        let limit = Rlimit {
            current: Some(descriptors),
            ..self.limit
        };
        prlimit(Some(member.pid), Resource::Nofile, limit)?;
        Ok(())
    }
}

impl Outcome {
    fn add(
        &mut self,
        records: Vec<Record>,
        audit: &Audit,
        deaths: &[Death],
        from: Instant,
        to: Instant,
    ) {
        for ((client, record), manner) in records.into_iter().enumerate().zip(manners()) {
            self.requests += record.answers.len() as u64;
            self.inside.add(client, &record, manner, audit, deaths);
            if manner.policy == Policy::NewConnection {
                self.longest = self.longest.max(longest_silence(&record, from, to));
            }
            self.refused += record.failures.of(Kind::Refused);
            self.failures.absorb(record.failures);
        }
        self.twice += audit.twice;
        self.amiss += audit.out_of_order + audit.by_another + audit.unhandled;
        for description in self.inside.outside.iter().skip(self.described) {
            eprintln!("failed request: {description}");
        }
        self.described = self.inside.outside.len();
    }

    fn judge(&self, seed: u64, generation: u64, findings: &mut Findings) {
        let restarts: u64 = self.events.values().sum();
        let title = format!("{restarts} restarts with faults, seed {seed}");
        let requests = format!("{} requests", self.requests);
        findings.report(
            format!("{title}: what happened"),
            format!(
                "{:?}; {} restarts succeeded, the last generation was {generation}",
                self.events, self.succeeded
            ),
        );
        findings.forbid(
            format!("{title}: failed requests outside of killed processes"),
            self.inside.outside.len() as u64,
            &requests,
        );
        findings.report(
            format!("{title}: failed requests inside of them"),
            format!(
                "{}: {} were being handled, {} came on connections that the killed process had \
                 accepted, {} on such as it had not handed over, {} on such as it was just reading \
                 from or answering",
                self.failures.total() - self.inside.outside.len() as u64,
                self.inside.begun,
                self.inside.accepted,
                self.inside.kept,
                self.inside.in_use.len(),
            ),
        );
        findings.forbid(
            format!("{title}: refused connections"),
            self.refused,
            &requests,
        );
        findings.forbid(format!("{title}: handled twice"), self.twice, &requests);
        findings.forbid(
            format!("{title}: handled out of order, by another, or not at all"),
            self.amiss,
            &requests,
        );
        findings.hold(
            format!("{title}: longest silence for new connections"),
            format!("{:.1?}", self.longest),
            format!("{ABSENCE:?}"),
            self.longest <= ABSENCE,
        );
        findings.note(format!("{title}: failures: {}.", by_kind(&self.failures)));
    }
}

fn manners() -> Vec<Manner> {
    assorted(QUICK, SLOW, NEW)
}
