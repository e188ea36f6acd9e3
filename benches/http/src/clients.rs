//! Keep-alive clients on one thread: the load where a part must know exactly
//! what was asked and when, and everywhere if wrk is missing.
//!
//! Closed loop: each connection asks again as soon as it is answered. Every
//! response is read as HTTP and compared with what it has to be; nothing is
//! retried, and each way of failing is counted.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use heirloom_bench_http::BODY;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// A server that says nothing for so long has failed. Under valgrind 64
/// requests take a good part of a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// More than this is not noise, and the figures would mean nothing.
const MOST_FAILURES: u64 = 1_000;

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
    /// Microseconds from asking to the last byte, in no order.
    pub latencies: Vec<u32>,
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
    address: SocketAddr,
    request: Vec<u8>,
    epoll: OwnedFd,
    connections: Vec<Connection>,
}

struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
    /// When the request was sent that is not answered yet.
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
    pub fn connect(address: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let mut clients = Clients {
            address,
            request: format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("could not make an epoll")?,
            connections: Vec::new(),
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

    /// A connection that has been answered once.
    fn open(&self, index: usize) -> anyhow::Result<Connection> {
        let socket = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut connection = Connection {
            socket,
            received: Vec::with_capacity(256),
            asked: None,
        };
        connection.ask(&self.request)?;
        let asked = Instant::now();
        loop {
            match connection.receive() {
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
        connection.socket.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &connection.socket, data, epoll::EventFlags::IN)?;
        Ok(connection)
    }

    /// Asks on all connections at once, again and again.
    pub fn run(&mut self, until: Until) -> anyhow::Result<Tally> {
        let started = Instant::now();
        let mut asked = 0;
        let mut may_ask = |now: Instant| {
            let more = match until {
                Until::Answered(most) => asked < most,
                Until::Passed(most) => now - started < most,
            };
            asked += u64::from(more);
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
                self.ask(index)?;
                waiting += 1;
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
                match connection.receive() {
                    Ok(false) => continue,
                    Ok(true) => {
                        tally.answered += 1;
                        tally.latencies.extend(connection.answered());
                    }
                    Err(failure) => {
                        match failure {
                            Failure::Closed => tally.failures.closed += 1,
                            Failure::Broken => tally.failures.broken += 1,
                            Failure::Wrong => tally.failures.wrong += 1,
                        }
                        if tally.failures.total() > MOST_FAILURES {
                            bail!("too many requests failed: {}", tally.failures);
                        }
                        // The old socket leaves the epoll when it is dropped.
                        self.connections[index] = self.open(index)?;
                    }
                }
                waiting -= u64::from(was_waiting);
                if may_ask(Instant::now()) {
                    self.ask(index)?;
                    waiting += 1;
                }
            }
        }
        tally.took = started.elapsed();
        Ok(tally)
    }

    fn ask(&mut self, index: usize) -> anyhow::Result<()> {
        match self.connections[index].ask(&self.request) {
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
    fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.asked = Some(Instant::now());
        // An empty send buffer always takes a request this small.
        self.socket.write_all(request)
    }

    /// Reads what has come; `true` when it is the whole right response.
    fn receive(&mut self) -> Result<bool, Failure> {
        let mut bytes = [0; 2048];
        let read = match self.socket.read(&mut bytes) {
            Ok(0) => return Err(Failure::Closed),
            Ok(read) => read,
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) =>
            {
                return Ok(false);
            }
            Err(_) => return Err(Failure::Broken),
        };
        self.received.extend_from_slice(&bytes[..read]);
        if self.asked.is_none() {
            return Err(Failure::Wrong);
        }
        is_right_response(&self.received).ok_or(Failure::Wrong)
    }

    /// Makes ready for the next request; returns how long this one took.
    fn answered(&mut self) -> Option<u32> {
        self.received.clear();
        let took = self.asked.take()?.elapsed();
        Some(u32::try_from(took.as_micros()).unwrap_or(u32::MAX))
    }
}

/// Whether `bytes` are the response that every server has to give; `None` if
/// they cannot become it.
fn is_right_response(bytes: &[u8]) -> Option<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).ok()? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Some(false),
    };
    if response.code != Some(200) || response.version != Some(1) {
        return None;
    }
    let mut lengths = response
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("content-length"));
    let is_announced = lengths.next()?.value == BODY.len().to_string().as_bytes();
    let is_closing = response.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("connection")
            && header.value.eq_ignore_ascii_case(b"close")
    });
    if !is_announced || lengths.next().is_some() || is_closing {
        return None;
    }
    let body = &bytes[head..];
    BODY.as_bytes()
        .starts_with(body)
        .then_some(body.len() == BODY.len())
}

/// Warms a server up, and makes sure that it is worth measuring: 64 clients,
/// every response checked.
pub fn warm_up(address: SocketAddr) -> anyhow::Result<Clients> {
    let mut clients = Clients::connect(address, 64)?;
    clients
        .run(Until::Answered(4_000))?
        .flawless()
        .context("while the server was warmed up")?;
    Ok(clients)
}

#[cfg(test)]
mod tests {
    use super::is_right_response;

    fn verdict(head: &str, body: &str) -> Option<bool> {
        is_right_response(format!("{head}\r\n\r\n{body}").as_bytes())
    }

    #[test]
    fn the_response_is_right_only_when_it_is_whole() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 14";
        assert_eq!(verdict(head, "Hello, world!\n"), Some(true));
        assert_eq!(verdict(head, "Hello, wor"), Some(false));
        assert_eq!(is_right_response(head.as_bytes()), Some(false));
    }

    #[test]
    fn anything_else_is_wrong() {
        let right = "Hello, world!\n";
        for (head, body) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 14", "Hello, wolrd!\n"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 14",
                "Hello, world!\nHTTP",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 15", right),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 14\r\ncontent-length: 14",
                right,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close",
                right,
            ),
            ("HTTP/1.1 200 OK", right),
            (
                "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 14",
                right,
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 14", right),
            ("nonsense", right),
        ] {
            assert_eq!(verdict(head, body), None, "{head:?} {body:?}");
        }
    }
}
