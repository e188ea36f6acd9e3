//! Connections that are open and idle: very many of them, and what a restart
//! costs with them.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::client::{Failure, Failures, PATIENCE, Policy, ask, connect, receive};
use crate::figures::{Figure, Milliseconds, by_kind};
use crate::findings::Findings;
use crate::process::Moved;
use crate::service::{Character, Service};
use crate::watch::{POLICIES, Silences, Watch};
use crate::{Bench, Fallible};

/// How many connections are asked at a time.
const TURN: usize = 256;

/// A pause as short as this is none.
const UNFELT: Duration = Duration::from_millis(15);

/// How much longer than without a restart a pause may be.
const STRETCH: f64 = 1.5;

/// What a connection may cost the predecessor.
const COST: Duration = Duration::from_micros(20);

/// Idle connections of one service.
pub(crate) struct Crowd {
    address: SocketAddr,
    connections: Vec<TcpStream>,
}

impl Crowd {
    /// Opens connections, and asks on each of them once.
    pub(crate) fn gather(address: SocketAddr, count: usize) -> Fallible<Self> {
        let mut crowd = Crowd {
            address,
            connections: Vec::new(),
        };
        for _ in 0..count {
            let connection = crowd.join();
            crowd
                .connections
                .push(connection.map_err(|failure| failure.to_string())?);
        }
        Ok(crowd)
    }

    /// Asks on each connection; a new one takes the place of one that fails.
    pub(crate) fn ask(&mut self) -> Fallible<Failures> {
        let begun = Instant::now();
        let mut failures = Failures::default();
        let mut lost = Vec::new();
        for (turn, connections) in self.connections.chunks_mut(TURN).enumerate() {
            let asked: Vec<Result<(), Failure>> = connections
                .iter_mut()
                .map(|connection| ask(connection, Policy::KeepAlive))
                .collect();
            for ((place, connection), asked) in connections.iter_mut().enumerate().zip(asked) {
                let deadline = Instant::now() + PATIENCE;
                let answer = asked.and_then(|()| receive(connection, deadline));
                let answer = answer.and_then(|answer| match answer.closes {
                    true => Err(Failure::wrong("the end of an idle connection")),
                    false => Ok(()),
                });
                if let Err(failure) = answer {
                    failures.add(failure, begun.elapsed());
                    lost.push(turn * TURN + place);
                }
            }
        }
        for place in lost {
            let connection = self.join().map_err(|failure| failure.to_string())?;
            if let Some(lost) = self.connections.get_mut(place) {
                *lost = connection;
            }
        }
        Ok(failures)
    }

    fn join(&self) -> Result<TcpStream, Failure> {
        let mut connection = connect(self.address)?;
        ask(&mut connection, Policy::KeepAlive)?;
        receive(&mut connection, Instant::now() + PATIENCE)?;
        Ok(connection)
    }
}

/// What one restart has shown.
struct Restart {
    silences: [crate::watch::Silence; POLICIES.len()],
    moved: Moved,
    /// The predecessor's, from the signal to its end.
    cpu: Duration,
    requests: u64,
    failures: Failures,
}

/// Restarts a service with idle connections and one without, in turns.
pub(crate) fn measure(
    bench: &Bench,
    connections: usize,
    restarts: u64,
    findings: &mut Findings,
) -> Fallible<()> {
    let character = Character {
        ballast_mib: 0,
        probation: bench.probation,
        hand_over: true,
        journal: None,
        trouble: None,
    };
    let mut crowded = bench.start(&character)?;
    let mut empty = bench.start(&character)?;
    let mut crowd = Crowd::gather(crowded.address, connections)?;
    let mut silences: [Silences; POLICIES.len()] = Default::default();
    let mut unfelt = [0; POLICIES.len()];
    let mut took = Figure::default();
    let mut pace = Figure::default();
    let mut cpu = Duration::ZERO;
    let mut cpu_without = Duration::ZERO;
    let mut requests = 0;
    let mut failures = Failures::default();
    let mut lost = Failures::default();
    let mut left = 0;
    for restart in 1..=restarts {
        let mut with = None;
        // Each of them is first as often as second.
        for is_crowded in [restart % 2 == 0, restart % 2 != 0] {
            let one = observe(if is_crowded { &mut crowded } else { &mut empty })?;
            requests += one.requests;
            if is_crowded {
                cpu += one.cpu;
                with = Some(one);
            } else {
                cpu_without += one.cpu;
                failures.absorb(one.failures);
            }
        }
        let Some(with) = with else { continue };
        for ((all, unfelt), one) in silences.iter_mut().zip(&mut unfelt).zip(with.silences) {
            *unfelt += u64::from(one.restart <= one.otherwise.mul_f64(STRETCH).max(UNFELT));
            all.add(one);
        }
        took.add(with.moved.took);
        pace.add(with.moved.took / u32::try_from(connections.max(1))?);
        left += connections.saturating_sub(with.moved.handed_over) as u64;
        failures.absorb(with.failures);
        lost.absorb(crowd.ask()?);
        eprintln!(
            "restart {restart} of {restarts} with {connections} idle connections: handed over in \
             {}, median so far; {} of them lost",
            Milliseconds(took.median()),
            lost.total(),
        );
    }
    // A stop waits a grace for connections that are idle.
    drop(crowd);
    crowded.stop()?;
    empty.stop()?;

    let title = format!("{connections} idle connections, {restarts} restarts");
    findings.forbid(
        format!("{title}: not open or not answering afterwards"),
        lost.total(),
        format!("{} answers", connections as u64 * restarts),
    );
    findings.forbid(
        format!("{title}: not handed over"),
        left,
        connections as u64 * restarts,
    );
    for ((policy, silences), unfelt) in POLICIES.iter().zip(&silences).zip(unfelt) {
        let (Some(pause), Some(otherwise)) =
            (silences.restart.median(), silences.otherwise.median())
        else {
            continue;
        };
        findings.hold(
            format!("{title}: longest pause of an active client, {policy}"),
            format!(
                "{} (at most {}, {unfelt} of {restarts} as aimed at); without a restart {}",
                Milliseconds(Some(pause)),
                Milliseconds(silences.restart.most()),
                Milliseconds(Some(otherwise)),
            ),
            format!("{STRETCH} × without, or {UNFELT:?}"),
            pause <= otherwise.mul_f64(STRETCH).max(UNFELT),
        );
    }
    let all = u32::try_from(connections.max(1) as u64 * restarts)?;
    let share = cpu.saturating_sub(cpu_without) / all;
    findings.hold(
        format!("{title}: CPU of the predecessor, a connection"),
        format!(
            "{share:.1?} ({} a restart, without connections {})",
            Milliseconds(Some(cpu / u32::try_from(restarts)?)),
            Milliseconds(Some(cpu_without / u32::try_from(restarts)?)),
        ),
        format!("{COST:?}"),
        share <= COST,
    );
    findings.report(
        format!("{title}: from taking over until all had moved"),
        format!(
            "{} ({} to {}); {:.1?} a connection",
            Milliseconds(took.median()),
            Milliseconds(took.least()),
            Milliseconds(took.most()),
            pace.median().unwrap_or_default(),
        ),
    );
    findings.forbid(
        format!("{title}: failed requests of active clients"),
        failures.total(),
        format!("{requests} requests"),
    );
    findings.note(format!(
        "{title}: active clients: {}; idle ones: {}.",
        by_kind(&failures),
        by_kind(&lost)
    ));
    for description in failures.descriptions.iter().chain(&lost.descriptions) {
        eprintln!("failed request: {description}");
    }
    Ok(())
}

/// Restarts a service under light load.
fn observe(service: &mut Service) -> Fallible<Restart> {
    let mut watch = Watch::begin(service.address)?;
    let before = service.current.cpu()?;
    let asked = service.reload()?;
    let predecessor = service.succeed()?;
    let moved = service.moved()?;
    predecessor.await_exit()?;
    let gone = Instant::now();
    let cpu = predecessor.cpu()?.saturating_sub(before);
    service.bury(&predecessor)?;
    let silences = watch.silences(asked, gone)?;
    let (requests, failures) = watch.end()?;
    Ok(Restart {
        silences,
        moved,
        cpu,
        requests,
        failures,
    })
}
