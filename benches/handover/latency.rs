//! The latency of requests that come when they come, restart or not.
//!
//! Requests are scheduled at a fixed rate, and the latency of each is measured
//! from the moment for which it was scheduled. So one that had to wait because
//! the service stood still counts with that wait, and a standstill counts for
//! every request that fell into it, not only for the first (coordinated
//! omission).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use smol::LocalExecutor;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{Failure, Failures, KEEP_ALIVE, PATIENCE, parse};
use crate::figures::{Figure, Milliseconds, by_kind};
use crate::findings::Findings;
use crate::service::{Character, signature};
use crate::{Bench, Fallible};

/// Over how many connections the requests are spread.
const CONNECTIONS: usize = 64;

/// How long latencies are looked at, from the signal on and otherwise.
const WINDOW: Duration = Duration::from_millis(500);

/// How much later than otherwise the 99.9th percentile may be.
const STRETCH: f64 = 1.5;

/// A request that was answered.
#[derive(Clone, Copy)]
struct Sample {
    /// When it was to be sent.
    due: Instant,
    took: Duration,
}

/// Restarts a service again and again under requests at this rate a second.
pub(crate) fn measure(
    bench: &Bench,
    rate: u32,
    restarts: u64,
    findings: &mut Findings,
) -> Fallible<()> {
    let mut service = bench.start(&Character {
        ballast_mib: 0,
        probation: bench.probation,
        hand_over: true,
        journal: None,
        trouble: None,
    })?;
    let clock = Clockwork::begin(service.address, rate)?;
    let mut steady = Vec::new();
    let mut restarted = Vec::new();
    for restart in 1..=restarts {
        steady.push(Instant::now());
        thread::sleep(WINDOW);
        let asked = service.reload()?;
        restarted.push(asked);
        let predecessor = service.succeed()?;
        let gone = service.bury(&predecessor)?;
        thread::sleep((asked + WINDOW).saturating_duration_since(gone));
        if restart % 10 == 0 {
            eprintln!("restart {restart} of {restarts} at {rate} requests a second");
        }
    }
    let (samples, failures) = clock.end()?;
    service.stop()?;

    let steady: Vec<Latencies> = steady
        .iter()
        .map(|begin| Latencies::of(&samples, *begin))
        .collect();
    let restarted: Vec<Latencies> = restarted
        .iter()
        .map(|begin| Latencies::of(&samples, *begin))
        .collect();
    let title = format!(
        "latency in the {} ms after `SIGHUP`, {rate} requests a second, {restarts} restarts",
        WINDOW.as_millis()
    );
    // A machine that stands still once, for whatever reason, is in the tail of
    // all samples; it is not in that of most windows.
    let tails = |windows: &[Latencies]| {
        let mut tails = Figure::default();
        windows
            .iter()
            .filter_map(|window| window.quantile(999))
            .for_each(|tail| tails.add(tail));
        tails.median()
    };
    let window_tails = tails(&restarted).zip(tails(&steady));
    let (restarted, steady) = (Latencies::pool(restarted), Latencies::pool(steady));
    for (permille, name) in [(500, "median"), (990, "p99")] {
        findings.report(
            format!("{title}: {name}"),
            format!(
                "{}; steady {}",
                Milliseconds(restarted.quantile(permille)),
                Milliseconds(steady.quantile(permille))
            ),
        );
    }
    for (name, both) in [
        (
            format!(
                "p99.9 of {} samples, steady of {}",
                restarted.0.len(),
                steady.0.len()
            ),
            restarted.quantile(999).zip(steady.quantile(999)),
        ),
        (
            "p99.9 of each window, median of the windows".to_owned(),
            window_tails,
        ),
    ] {
        let Some((tail, usual)) = both else { continue };
        let stretch = tail.as_secs_f64() / usual.as_secs_f64();
        findings.hold(
            format!("{title}: {name}"),
            format!(
                "{}, {stretch:.2} × steady ({})",
                Milliseconds(Some(tail)),
                Milliseconds(Some(usual)),
            ),
            format!("{STRETCH} × steady"),
            stretch <= STRETCH,
        );
    }
    findings.report(
        format!("{title}: longest"),
        format!(
            "{}; steady {}",
            Milliseconds(restarted.quantile(1000)),
            Milliseconds(steady.quantile(1000))
        ),
    );
    findings.forbid(
        format!("{title}: failed requests"),
        failures.total(),
        format!("{} requests", samples.len()),
    );
    findings.note(format!("{title}: {}.", by_kind(&failures)));
    for description in &failures.descriptions {
        eprintln!("failed request: {description}");
    }
    Ok(())
}

/// Latencies, the shortest first.
struct Latencies(Vec<Duration>);

impl Latencies {
    /// Those of the window that begins there; `samples` are in the order in
    /// which they were due.
    fn of(samples: &[Sample], begin: Instant) -> Self {
        let from = samples.partition_point(|sample| sample.due < begin);
        let inside = samples.iter().skip(from);
        let inside = inside.take_while(|sample| sample.due < begin + WINDOW);
        Latencies::sorted(inside.map(|sample| sample.took).collect())
    }

    fn pool(windows: Vec<Latencies>) -> Self {
        Latencies::sorted(windows.into_iter().flat_map(|window| window.0).collect())
    }

    fn sorted(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Latencies(latencies)
    }

    /// How long so many in a thousand took at most.
    fn quantile(&self, permille: usize) -> Option<Duration> {
        let rank = (self.0.len() * permille).div_ceil(1000);
        self.0.get(rank.checked_sub(1)?).copied()
    }
}

/// A client that keeps to its timetable.
struct Clockwork {
    over: Arc<AtomicBool>,
    client: JoinHandle<Result<(Vec<Sample>, Failures), Failure>>,
}

impl Clockwork {
    fn begin(address: SocketAddr, rate: u32) -> Fallible<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let client = thread::Builder::new()
            .name("clockwork".to_owned())
            .spawn(move || {
                let executor = Rc::new(LocalExecutor::new());
                smol::block_on(executor.run(ask(&executor, address, rate, &told)))
            })?;
        Ok(Clockwork { over, client })
    }

    /// What it has met, in the order in which requests were due.
    fn end(self) -> Fallible<(Vec<Sample>, Failures)> {
        self.over.store(true, Ordering::Release);
        let met = self.client.join().map_err(|_| "the clockwork panicked")?;
        let (mut samples, failures) = met.map_err(|failure| failure.to_string())?;
        samples.sort_unstable_by_key(|sample| sample.due);
        Ok((samples, failures))
    }
}

/// A connection, and when the requests were due that are to be answered on it.
struct Lane {
    stream: Async<TcpStream>,
    due: RefCell<VecDeque<Instant>>,
}

/// What all lanes have met.
#[derive(Default)]
struct Met {
    samples: RefCell<Vec<Sample>>,
    failures: RefCell<Failures>,
    /// Whether there is a lane on which nothing more can be asked.
    is_broken: Cell<bool>,
}

impl Met {
    /// Requests that were on their way fail with their connection.
    fn fail(&self, lane: &Lane, failure: &Failure) {
        self.is_broken.set(true);
        for due in lane.due.take() {
            self.failures
                .borrow_mut()
                .add(failure.clone(), due.elapsed());
        }
    }
}

async fn ask(
    executor: &LocalExecutor<'_>,
    address: SocketAddr,
    rate: u32,
    over: &AtomicBool,
) -> Result<(Vec<Sample>, Failures), Failure> {
    let met = Rc::new(Met::default());
    let mut lanes = Vec::new();
    let mut readers = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = crate::client::connect(address)?;
        let lane = Rc::new(Lane {
            stream: Async::new(stream).map_err(|error| Failure::of(&error, "connecting"))?,
            due: RefCell::default(),
        });
        lanes.push(Rc::clone(&lane));
        readers.push(executor.spawn(listen(lane, Rc::clone(&met))));
    }
    let begun = Instant::now();
    for (number, lane) in (0..).zip(lanes.iter().cycle()) {
        // A lost connection makes all of this pointless.
        if over.load(Ordering::Acquire) || met.is_broken.get() {
            break;
        }
        let due = begun + Duration::from_secs(number) / rate;
        Timer::at(due).await;
        lane.due.borrow_mut().push_back(due);
        if let Err(error) = (&lane.stream).write_all(KEEP_ALIVE).await {
            met.fail(lane, &Failure::of(&error, "sending the request"));
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while lanes.iter().any(|lane| !lane.due.borrow().is_empty()) {
        Timer::after(Duration::from_millis(1)).await;
        if Instant::now() > deadline {
            for lane in &lanes {
                met.fail(lane, &Failure::late("the last requests"));
            }
        }
    }
    drop(readers);
    Ok((met.samples.take(), met.failures.take()))
}

/// Hears the answers on one connection.
async fn listen(lane: Rc<Lane>, met: Rc<Met>) {
    let mut received = Vec::new();
    let failure = loop {
        let mut chunk = [0; 1024];
        match (&lane.stream).read(&mut chunk).await {
            Ok(0) => break Failure::ended(&received),
            Ok(length) => received.extend(chunk.iter().take(length)),
            Err(error) => break Failure::of(&error, "reading an answer"),
        }
        let now = Instant::now();
        match hear(&received, &lane, &met, now) {
            Ok(length) => drop(received.drain(..length)),
            Err(failure) => break failure,
        }
    };
    met.fail(&lane, &failure);
}

/// Understands the answers that are complete; returns how long they are.
fn hear(received: &[u8], lane: &Lane, met: &Met, now: Instant) -> Result<usize, Failure> {
    let mut heard = 0;
    while let Some(rest) = received.get(heard..)
        && let Some(response) = parse(rest)?
    {
        let wrong = || Failure::wrong(String::from_utf8_lossy(rest));
        if response.closes || !signature(response.body).is_some_and(|(_, rest)| rest.is_empty()) {
            return Err(wrong());
        }
        let due = lane.due.borrow_mut().pop_front().ok_or_else(wrong)?;
        let took = now.saturating_duration_since(due);
        met.samples.borrow_mut().push(Sample { due, took });
        heard += response.length;
    }
    Ok(heard)
}
