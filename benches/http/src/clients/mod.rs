//! Keep-alive clients on one thread: the load where a part must know exactly
//! what was asked and when, and everywhere if wrk is missing.
//!
//! Closed loop: each connection asks again as soon as it is answered. Every
//! response is read as HTTP and compared with what it has to be; nothing is
//! retried, and each way of failing is counted.

mod exchange;
mod greedy;
mod schedule;

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

pub use self::exchange::{Exchange, get};
pub use self::greedy::Greedy;
pub use self::schedule::Punctual;
use crate::address::{Address, Socket};

/// A server that says nothing for so long has failed. Under valgrind 64
/// requests take a good part of a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// More than this is not noise, and the figures would mean nothing.
const MOST_FAILURES: u64 = 1_000;

/// How much is read at once: all that comes, but for a large response.
const READ_BYTES: usize = 64 * 1024;

/// When a run stops asking.
#[derive(Clone, Copy)]
pub enum Until {
    Answered(u64),
    Passed(Duration),
}

/// Requests that failed, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// The connection ended before the response was complete.
    pub closed: u64,
    /// Any other error of the socket.
    pub broken: u64,
    /// A response, but not the right one.
    pub wrong: u64,
    /// No response in time.
    pub silent: u64,
}

impl Failures {
    pub fn total(&self) -> u64 {
        self.closed + self.broken + self.wrong + self.silent
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} closed, {} broken, {} wrong, {} without an answer",
            self.closed, self.broken, self.wrong, self.silent
        )
    }
}

/// What came of a run.
pub struct Tally {
    pub answered: u64,
    pub took: Duration,
    pub failures: Failures,
    /// Microseconds from asking to the last byte, in no order; of pipelined
    /// requests, to the last byte of all that were sent at once.
    pub latencies: Vec<u32>,
}

/// What `share` of the latencies are not above.
pub fn quantile(latencies: &mut [u32], share: f64) -> Duration {
    if latencies.is_empty() {
        return Duration::ZERO;
    }
    let index = (latencies.len() as f64 * share) as usize;
    let index = index.min(latencies.len() - 1);
    let (_, &mut latency, _) = latencies.select_nth_unstable(index);
    Duration::from_micros(latency.into())
}

impl Tally {
    /// An error if anything failed.
    pub fn flawless(self) -> anyhow::Result<Self> {
        ensure!(
            self.failures == Failures::default(),
            "of {} requests some failed: {}",
            self.answered + self.failures.total(),
            self.failures
        );
        Ok(self)
    }
}

/// Open connections to one server.
pub struct Clients {
    address: Address,
    exchange: Exchange,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// For what is read at once.
    buffer: Vec<u8>,
}

struct Connection {
    socket: Socket,
    received: Vec<u8>,
    /// When the request was due that is not answered yet.
    asked: Option<Instant>,
}

/// How a request failed.
#[derive(Debug)]
enum Failure {
    Closed,
    Broken,
    Wrong,
}

impl Clients {
    /// Opens `count` connections, one after the other, and makes one request
    /// on each, so that the server has met every one of them.
    pub fn connect(address: &Address, count: usize) -> anyhow::Result<Self> {
        Clients::exchanging(Exchange::constant(address), address, count)
    }

    /// As [`Clients::connect`], for other requests.
    pub fn exchanging(exchange: Exchange, address: &Address, count: usize) -> anyhow::Result<Self> {
        let mut clients = Clients {
            address: address.clone(),
            exchange,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("could not make an epoll")?,
            connections: Vec::new(),
            buffer: vec![0; READ_BYTES],
        };
        clients.grow(count)?;
        Ok(clients)
    }

    /// As [`Clients::connect`], until there are `count` in all.
    pub fn grow(&mut self, count: usize) -> anyhow::Result<()> {
        for index in self.connections.len()..count {
            let connection = self
                .open(index)
                .with_context(|| format!("connection {} of {count}", index + 1))?;
            self.connections.push(connection);
        }
        Ok(())
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.connections.len()
    }

    /// A connection that has been answered once, if it can be used again.
    fn open(&mut self, index: usize) -> anyhow::Result<Connection> {
        let mut connection = Connection {
            socket: self.address.connect(index, PATIENCE)?,
            received: Vec::with_capacity(256),
            asked: None,
        };
        if !self.exchange.closes {
            self.meet(&mut connection)?;
        }
        connection.socket.stop_blocking()?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &connection.socket, data, epoll::EventFlags::IN)?;
        Ok(connection)
    }

    /// Asks once, and waits for the answer.
    fn meet(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        let asked = Instant::now();
        connection.ask(&self.exchange.request, asked)?;
        loop {
            match connection.receive(&mut self.buffer, &self.exchange) {
                Ok(true) => break,
                // A read that has waited for too long ends like this, too.
                Ok(false) => ensure!(asked.elapsed() < PATIENCE, "no response in time"),
                Err(failure) => {
                    let received = String::from_utf8_lossy(&connection.received);
                    bail!("{failure:?} after {received:?}");
                }
            }
        }
        connection.answered();
        Ok(())
    }

    /// Asks on all connections at once, again and again.
    pub fn run(&mut self, until: Until) -> anyhow::Result<Tally> {
        let started = Instant::now();
        let depth = self.exchange.depth;
        let mut asked = 0;
        let mut may_ask = |now: Instant| {
            let more = match until {
                Until::Answered(most) => asked < most,
                Until::Passed(most) => now - started < most,
            };
            if more {
                asked += depth;
            }
            more
        };
        let mut tally = Tally {
            answered: 0,
            took: Duration::ZERO,
            failures: Failures::default(),
            latencies: Vec::new(),
        };
        let mut waiting = 0_u64;
        for index in 0..self.connections.len() {
            if may_ask(Instant::now()) {
                self.ask(index, Instant::now())?;
                waiting += depth;
            }
        }
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        let patience = Timespec::try_from(PATIENCE)?;
        while waiting > 0 {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&patience)) {
                Ok(0) => {
                    tally.failures.silent += waiting;
                    break;
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("could not wait for responses"),
            }
            for event in &events {
                let index = usize::try_from(event.data.u64())?;
                let connection = &mut self.connections[index];
                let was_waiting = connection.asked.is_some();
                match connection.receive(&mut self.buffer, &self.exchange) {
                    Ok(false) => continue,
                    Ok(true) => {
                        tally.answered += depth;
                        tally.latencies.extend(connection.answered());
                        if self.exchange.closes {
                            self.connections[index] = self.open(index)?;
                        }
                    }
                    Err(failure) => self.replace(index, failure, &mut tally.failures)?,
                }
                if was_waiting {
                    waiting -= depth;
                }
                let now = Instant::now();
                if may_ask(now) {
                    self.ask(index, now)?;
                    waiting += depth;
                }
            }
        }
        tally.took = started.elapsed();
        Ok(tally)
    }

    /// Counts a failure, and opens the connection anew.
    fn replace(
        &mut self,
        index: usize,
        failure: Failure,
        failures: &mut Failures,
    ) -> anyhow::Result<()> {
        match failure {
            Failure::Closed => failures.closed += 1,
            Failure::Broken => failures.broken += 1,
            Failure::Wrong => failures.wrong += 1,
        }
        if failures.total() > MOST_FAILURES {
            bail!("too many requests failed: {failures}");
        }
        // The old socket leaves the epoll when it is dropped.
        self.connections[index] = self.open(index)?;
        Ok(())
    }

    /// Sends the request that was `due` then.
    fn ask(&mut self, index: usize, due: Instant) -> anyhow::Result<()> {
        match self.connections[index].ask(&self.exchange.request, due) {
            Ok(()) => Ok(()),
            // That the server has closed is seen, and counted, in the place of
            // the response.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error).context("could not send a request"),
        }
    }
}

impl Connection {
    fn ask(&mut self, request: &[u8], due: Instant) -> io::Result<()> {
        self.asked = Some(due);
        // An empty send buffer always takes a request this small.
        self.socket.write_all(request)
    }

    /// Reads what has come; `true` when it is the whole right answer.
    fn receive(&mut self, buffer: &mut [u8], exchange: &Exchange) -> Result<bool, Failure> {
        let read = match self.socket.read(buffer) {
            Ok(0) => return Err(Failure::Closed),
            Ok(read) => read,
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) =>
            {
                return Ok(false);
            }
            Err(_) => return Err(Failure::Broken),
        };
        self.received.extend_from_slice(&buffer[..read]);
        if self.asked.is_none() {
            return Err(Failure::Wrong);
        }
        exchange
            .is_answered_by(&self.received)
            .ok_or(Failure::Wrong)
    }

    /// Makes ready for the next request; returns how long this one took.
    fn answered(&mut self) -> Option<u32> {
        self.received.clear();
        let took = self.asked.take()?.elapsed();
        Some(u32::try_from(took.as_micros()).unwrap_or(u32::MAX))
    }
}

/// Warms a server up, and makes sure that it is worth measuring: 64 clients,
/// every response checked.
pub fn warm_up(address: &Address) -> anyhow::Result<Clients> {
    warm_up_by(Exchange::constant(address), address, 4_000)
}

/// As [`warm_up`], for other requests.
pub fn warm_up_by(exchange: Exchange, address: &Address, requests: u64) -> anyhow::Result<Clients> {
    let mut clients = Clients::exchanging(exchange, address, 64)?;
    clients
        .run(Until::Answered(requests))?
        .flawless()
        .context("while the server was warmed up")?;
    Ok(clients)
}
