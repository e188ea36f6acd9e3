//! Clients as strict as one can be: they never retry, and whatever is not a
//! complete and correct answer is a failure of a kind.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Fallible;

/// How long one request may take, from its connection to the last byte of its
/// answer. Nothing here takes long, so whoever waits for this waits for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How many failures of one client are described; the others are counted.
const DESCRIBED: usize = 3;

/// What a client does with a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Every request has a connection of its own, and says so.
    NewConnection,
    /// A connection is kept until an answer says `Connection: close`.
    KeepAlive,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::NewConnection => "new connection for each request",
            Policy::KeepAlive => "keep-alive",
        })
    }
}

/// An answer of the service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// When its last byte was read.
    pub(crate) at: Instant,
    pub(crate) generation: u64,
    pub(crate) closes: bool,
}

/// How a request can fail, seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The connection was refused.
    Refused,
    /// The connection was reset, at any time.
    Reset,
    /// The connection ended before the first byte of the answer.
    NoAnswer,
    /// The connection ended inside the answer.
    CutAnswer,
    /// The answer is not what this service answers.
    WrongAnswer,
    TimedOut,
    /// Most likely the fault of the client's machine; a failure nevertheless.
    Other,
}

pub(crate) const KINDS: [Kind; 7] = [
    Kind::Refused,
    Kind::Reset,
    Kind::NoAnswer,
    Kind::CutAnswer,
    Kind::WrongAnswer,
    Kind::TimedOut,
    Kind::Other,
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Refused => "refused",
            Kind::Reset => "reset",
            Kind::NoAnswer => "EOF before an answer",
            Kind::CutAnswer => "EOF inside an answer",
            Kind::WrongAnswer => "wrong answer",
            Kind::TimedOut => "timeout",
            Kind::Other => "other",
        })
    }
}

/// A request that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: Kind,
    what: String,
}

impl Failure {
    pub(crate) fn wrong(what: impl fmt::Debug) -> Self {
        Failure {
            kind: Kind::WrongAnswer,
            what: format!("{what:?}"),
        }
    }

    /// The end of a connection, of which that much had been received.
    pub(crate) fn ended(received: &[u8]) -> Self {
        let kind = match received.is_empty() {
            true => Kind::NoAnswer,
            false => Kind::CutAnswer,
        };
        let what = format!("after {:?}", String::from_utf8_lossy(received));
        Failure { kind, what }
    }

    /// An answer that has not come in time.
    pub(crate) fn late(what: impl fmt::Display) -> Self {
        Failure {
            kind: Kind::TimedOut,
            what: what.to_string(),
        }
    }

    pub(crate) fn of(error: &io::Error, step: &str) -> Self {
        // A socket's timeout is told as EAGAIN. That a connection is reset
        // while we write is told as EPIPE if it had been closed before. What
        // remains says nothing about the service, such as a lack of ports.
        #[expect(clippy::wildcard_enum_match_arm, reason = "the list is not ours")]
        let kind = match error.kind() {
            ErrorKind::ConnectionRefused => Kind::Refused,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected => Kind::Reset,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Kind::TimedOut,
            _ => Kind::Other,
        };
        Failure {
            kind,
            what: format!("{step}: {error}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.what)
    }
}

/// Failures by kind.
#[derive(Default)]
pub(crate) struct Failures {
    counts: [u64; KINDS.len()],
    pub(crate) descriptions: Vec<String>,
}

impl Failures {
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        KINDS
            .iter()
            .zip(self.counts)
            .filter(|(candidate, _)| **candidate == kind)
            .map(|(_, count)| count)
            .sum()
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn absorb(&mut self, other: Failures) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.descriptions.extend(other.descriptions);
    }

    pub(crate) fn add(&mut self, failure: Failure, when: Duration) {
        for (kind, count) in KINDS.iter().zip(&mut self.counts) {
            *count += u64::from(*kind == failure.kind);
        }
        if self.descriptions.len() < DESCRIBED {
            self.descriptions
                .push(format!("{failure} (after {when:.3?})"));
        }
    }
}

/// What one client has seen.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) answers: u64,
    pub(crate) connections: u64,
    pub(crate) failures: Failures,
    pub(crate) longest_silence: Duration,
    /// The generation that answered last.
    pub(crate) generation: u64,
}

/// Clients at work, each in a thread of its own, one request after the other.
///
/// Dropping it stops them.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    pub(crate) fn new() -> Self {
        Load {
            over: Arc::new(AtomicBool::new(false)),
            clients: Vec::new(),
        }
    }

    /// Adds a client that pauses for `pause` after each answer and tells
    /// `observe` of it.
    pub(crate) fn add(
        &mut self,
        address: SocketAddr,
        policy: Policy,
        pause: Duration,
        mut observe: impl FnMut(Policy, Answer) + Send + 'static,
    ) -> Fallible<()> {
        let over = Arc::clone(&self.over);
        let mut client = Client {
            address,
            policy,
            kept: None,
            tally: Tally::default(),
        };
        let client = thread::Builder::new()
            .name(policy.to_string())
            .spawn(move || {
                let begun = Instant::now();
                let mut previous = begun;
                loop {
                    // One more request after the end was announced: so the
                    // last answer was surely asked for after the last event of
                    // the bench.
                    let last = over.load(Ordering::Acquire);
                    match client.request() {
                        Ok(answer) => {
                            client.count(answer, &mut previous);
                            observe(policy, answer);
                        }
                        Err(failure) => {
                            client.kept = None;
                            client.tally.failures.add(failure, begun.elapsed());
                            // Failing is fast, and a client that does nothing
                            // else takes the machine from those who try.
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                    if last {
                        return client.tally;
                    }
                    if !pause.is_zero() {
                        thread::sleep(pause);
                    }
                }
            })?;
        self.clients.push(client);
        Ok(())
    }

    /// Lets every client finish its request, and returns what each has seen.
    pub(crate) fn end(mut self) -> Fallible<Vec<Tally>> {
        self.over.store(true, Ordering::Release);
        self.clients
            .drain(..)
            .map(|client| {
                // Each step of a request has its deadline.
                client.join().map_err(|_| "a client panicked".into())
            })
            .collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

struct Client {
    address: SocketAddr,
    policy: Policy,
    kept: Option<TcpStream>,
    tally: Tally,
}

impl Client {
    fn request(&mut self) -> Result<Answer, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut stream = match self.kept.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        ask(&mut stream, self.policy)?;
        let answer = receive(&mut stream, deadline)?;
        // A client asks again only when it has been answered, and at any
        // moment only one generation accepts, so nobody ever goes back.
        if answer.generation < self.tally.generation {
            return Err(Failure::wrong(format_args!(
                "generation {} answered after generation {}",
                answer.generation, self.tally.generation
            )));
        }
        if self.policy == Policy::KeepAlive && !answer.closes {
            self.kept = Some(stream);
        }
        Ok(answer)
    }

    fn connect(&mut self) -> Result<TcpStream, Failure> {
        let stream = connect(self.address)?;
        self.tally.connections += 1;
        Ok(stream)
    }

    fn count(&mut self, answer: Answer, previous: &mut Instant) {
        let silence = answer.at.duration_since(*previous);
        *previous = answer.at;
        self.tally.answers += 1;
        self.tally.longest_silence = self.tally.longest_silence.max(silence);
        self.tally.generation = answer.generation;
    }
}

/// Opens a connection on which nothing takes longer than our patience.
pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let connect = || {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    connect().map_err(|error| Failure::of(&error, "connecting"))
}

/// A request on a connection that is kept.
pub(crate) const KEEP_ALIVE: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";

/// Sends a request.
pub(crate) fn ask(stream: &mut TcpStream, policy: Policy) -> Result<(), Failure> {
    let request: &[u8] = match policy {
        Policy::NewConnection => b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n",
        Policy::KeepAlive => KEEP_ALIVE,
    };
    stream
        .write_all(request)
        .map_err(|error| Failure::of(&error, "sending the request"))
}

/// Reads exactly one answer to a request of [`ask`].
pub(crate) fn receive(stream: &mut TcpStream, deadline: Instant) -> Result<Answer, Failure> {
    let mut received = Vec::with_capacity(512);
    loop {
        let mut chunk = [0; 512];
        let length = stream
            .read(&mut chunk)
            .map_err(|error| Failure::of(&error, "reading the answer"))?;
        received.extend_from_slice(chunk.get(..length).unwrap_or_default());
        if let Some(response) = parse(&received)? {
            // Also what comes after the announced body was not asked for.
            let generation = (response.length == received.len())
                .then(|| crate::service::signature(response.body))
                .flatten()
                .filter(|(_, rest)| rest.is_empty())
                .map(|(by, _)| by.generation)
                .ok_or_else(|| Failure::wrong(String::from_utf8_lossy(&received)))?;
            return Ok(Answer {
                at: Instant::now(),
                generation,
                closes: response.closes,
            });
        }
        if length == 0 {
            return Err(Failure::ended(&received));
        }
        // The timeout of the socket is for one read; trickling is no answer.
        if Instant::now() > deadline {
            return Err(Failure::late(String::from_utf8_lossy(&received)));
        }
    }
}

/// A response at the beginning of what has been received.
pub(crate) struct Response<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) closes: bool,
    /// Of the whole response.
    pub(crate) length: usize,
}

/// Understands the first response; `None` if more of it is to come.
pub(crate) fn parse(received: &[u8]) -> Result<Option<Response<'_>>, Failure> {
    let wrong = || Failure::wrong(String::from_utf8_lossy(received));
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(begin) = head.parse(received).map_err(|_| wrong())? else {
        return Ok(None);
    };
    if head.code != Some(200) {
        return Err(wrong());
    }
    let mut length = None;
    let mut closes = false;
    for header in head.headers {
        let value = std::str::from_utf8(header.value).map_err(|_| wrong())?;
        if header.name.eq_ignore_ascii_case("content-length") {
            length = value.parse::<usize>().ok();
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes = value
                .split(',')
                .any(|option| option.trim().eq_ignore_ascii_case("close"));
        }
    }
    let length = begin.saturating_add(length.ok_or_else(wrong)?);
    Ok(received.get(begin..length).map(|body| Response {
        body,
        closes,
        length,
    }))
}
