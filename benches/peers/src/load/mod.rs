//! The clients: many of them on one thread, and none ever asks again for what
//! has failed.
//!
//! A client in a closed loop asks as soon as it is answered. Those of an open
//! group ask when a request is due, whether or not the ones before are
//! answered, and their latencies count from when they were due: a server that
//! stands still is not asked less, and its silence is not measured once only.

mod clients;
mod record;
mod request;
mod response;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::clients::Clients;
pub use self::record::{Closure, Failure, Record};

/// How often the driver looks whether something has come about. What is
/// measured is when a client has seen it, so this is in no figure.
pub const GLANCE: Duration = Duration::from_millis(1);

/// What the clients of a group send, again and again.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Bytes of the body of a POST; none for a GET.
    pub body: Option<usize>,
    /// Whether the connection is used for more than one request.
    pub keeps: bool,
    /// In how many pieces it is sent.
    pub pieces: usize,
    /// How long all of the pauses between those are.
    pub over: Duration,
}

impl Manner {
    pub const GET: Manner = Manner {
        body: None,
        keeps: true,
        pieces: 1,
        over: Duration::ZERO,
    };

    /// One request on each connection.
    pub const ALONE: Manner = Manner {
        keeps: false,
        ..Manner::GET
    };
}

/// When the clients of a group ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As soon as they are answered.
    Closed,
    /// When a request is due by [`Traffic::order`].
    Open,
}

#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub clients: usize,
    pub manner: Manner,
    pub pace: Pace,
}

/// Requests that are to become due.
#[derive(Clone, Copy, Debug)]
struct Order {
    group: usize,
    count: u64,
    interval: Duration,
}

/// What the clients tell while they are at work.
struct Shared {
    is_over: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    /// Who gave the last answer.
    last_pid: AtomicU32,
    /// Every process that has ever answered, with the time of its first
    /// answer.
    generations: Mutex<Vec<(u32, Instant)>>,
    orders: Mutex<Vec<Order>>,
}

/// Clients at work. Dropping it stops them.
pub struct Traffic {
    shared: Arc<Shared>,
    clients: Option<JoinHandle<anyhow::Result<Record>>>,
    patience: Duration,
}

impl Traffic {
    /// Starts the clients. `beginning` is what all times count from;
    /// `patience` is what a request may take.
    pub fn begin(
        address: SocketAddr,
        groups: &[Group],
        beginning: Instant,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            is_over: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_pid: AtomicU32::new(0),
            generations: Mutex::default(),
            orders: Mutex::default(),
        });
        let clients = Clients::new(address, groups, beginning, patience, Arc::clone(&shared))?;
        let clients = thread::Builder::new()
            .name("clients".to_owned())
            .spawn(move || clients.work())
            .context("could not start a thread")?;
        Ok(Traffic {
            shared,
            clients: Some(clients),
            patience,
        })
    }

    /// Lets `count` requests become due in an open group, `per_second` each
    /// second, instead of those that were to become due there.
    pub fn order(&self, group: usize, count: u64, per_second: f64) {
        let interval = Duration::from_secs_f64(1.0 / per_second);
        lock(&self.shared.orders).push(Order {
            group,
            count,
            interval,
        });
    }

    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Who gave the last answer, 0 if there was none.
    pub fn last_pid(&self) -> u32 {
        self.shared.last_pid.load(Ordering::Relaxed)
    }

    /// Every process that has answered so far, and when it did first.
    pub fn generations(&self) -> Vec<(u32, Instant)> {
        lock(&self.shared.generations).clone()
    }

    /// Waits until so many requests have been answered or have failed.
    pub fn wait_for(&self, requests: u64, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while self.answered() + self.failed() < requests {
            if Instant::now() > deadline || self.is_dead() {
                bail!(
                    "{} of {requests} requests were answered and {} failed within {patience:?}",
                    self.answered(),
                    self.failed()
                );
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Waits for the first answer of a process that is none of `known`.
    pub fn wait_for_other(&self, known: &[u32], deadline: Instant) -> Option<(u32, Instant)> {
        loop {
            let generations = self.generations();
            let other = generations
                .into_iter()
                .find(|(pid, _)| !known.contains(pid));
            if other.is_some() || Instant::now() > deadline || self.is_dead() {
                return other;
            }
            thread::sleep(GLANCE);
        }
    }

    /// Lets what is in flight end, and returns what the clients have met.
    pub fn end(mut self) -> anyhow::Result<Record> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let Some(clients) = self.clients.take() else {
            bail!("the clients have ended already");
        };
        // Each request has a deadline, so this is one, too.
        let deadline = Instant::now() + 3 * self.patience;
        while !clients.is_finished() {
            if Instant::now() > deadline {
                bail!("the clients have not ended in time");
            }
            thread::sleep(GLANCE);
        }
        match clients.join() {
            Ok(record) => record,
            Err(_) => bail!("the clients panicked"),
        }
    }

    /// Whether the clients have ended without being told: the reason comes
    /// with [`Traffic::end`].
    fn is_dead(&self) -> bool {
        self.clients.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

/// No thread leaves these in a state that another could not go on with.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
