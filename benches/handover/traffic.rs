//! Clients that ask one request after the other, without a pause, and never
//! ask again for what has failed: many of them in one thread.
//!
//! Each request has a number of its own, which comes back in its response
//! together with its body, so that no other response can be taken for it, and
//! which the service notes when it handles the request ([`crate::journal`]).
//! The bodies are made of something that looks like a request: if a piece of
//! one is ever taken for a head, the service answers what nobody has asked.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use smol::future;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use smol::{LocalExecutor, Task};

use crate::Fallible;
use crate::client::{Failure, Failures, PATIENCE, Policy, parse};
use crate::findings::Findings;
use crate::service::{Author, SLOW, signature};

/// How long a body may be.
const LONGEST_BODY: usize = 2000;

/// In how many pieces requests are sent that are sent together, at most.
const MOST_PIECES: usize = 4;

/// How long the longest pause between two of them is.
const LONGEST_PAUSE: Duration = Duration::from_micros(300);

/// In so many parts a client is patient. Each begins when the one before it was
/// noticed, so that what the clients stand still with their machine counts for
/// no more than a part: nobody can answer what they do not send, or read.
const PARTS: u32 = 5;

/// A client that is so late to notice is said to have stood still.
const STANDSTILL: Duration = Duration::from_secs(1);

/// The pause after a failure. Failing is fast, and a client that does nothing
/// else takes the machine from those who try.
const BREATH: Duration = Duration::from_millis(1);

/// What a client does again and again.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) policy: Policy,
    /// How many requests it sends, at most, before it has an answer.
    pub(crate) depth: usize,
    /// Whether they are cut anywhere and sent in pieces.
    pub(crate) is_cut: bool,
    /// Whether the service takes its time to answer.
    pub(crate) is_slow: bool,
}

/// How many requests a client that pipelines sends at once, at most.
const DEPTH: usize = 8;

/// So many clients that keep their connections, of all manners but slow ones.
pub(crate) fn mixed(clients: usize) -> Vec<Manner> {
    (0..clients)
        .map(|number| Manner {
            policy: Policy::KeepAlive,
            depth: if number % 2 == 0 { 1 } else { DEPTH },
            // Not all, for what is cut arrives more slowly.
            is_cut: number % 4 < 2,
            is_slow: false,
        })
        .collect()
}

/// So many clients that keep their connections and ask for what is quick, for
/// what is slow, and that make a new connection each time.
pub(crate) fn assorted(quick: usize, slow: usize, new: usize) -> Vec<Manner> {
    let usual = Manner {
        policy: Policy::KeepAlive,
        depth: 1,
        is_cut: false,
        is_slow: false,
    };
    let patient = Manner {
        is_slow: true,
        ..usual
    };
    let single = Manner {
        policy: Policy::NewConnection,
        ..usual
    };
    [vec![usual; quick], vec![patient; slow], vec![single; new]].concat()
}

/// What one client has met.
#[derive(Default)]
pub(crate) struct Record {
    /// By the number of the request; `None`: it failed.
    pub(crate) answers: Vec<Option<Answered>>,
    pub(crate) connections: u64,
    /// How often the service said that it closes a connection which the client
    /// wanted to keep.
    pub(crate) closed: u64,
    /// How many requests had been sent behind one whose answer said so. That
    /// tells that nobody handles them (RFC 9112 section 9.6), so they are
    /// asked on the next connection.
    pub(crate) asked_anew: u64,
    pub(crate) failures: Failures,
    /// Where those are in time.
    pub(crate) failed: Vec<Failed>,
    /// For how long the clients stood still, at most, if they ever did.
    pub(crate) stood_still: Duration,
}

/// A request that failed.
pub(crate) struct Failed {
    pub(crate) number: usize,
    pub(crate) failure: Failure,
    /// Who gave the first answer on the same connection, and who the last, if
    /// there was one.
    pub(crate) answered_first: Option<Author>,
    pub(crate) answered_before: Option<Author>,
    /// When it was sent, at the earliest.
    pub(crate) from: Instant,
    /// When its client knew.
    pub(crate) to: Instant,
}

#[derive(Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) by: Author,
    pub(crate) at: Instant,
}

/// Clients at work. Dropping it stops them.
pub(crate) struct Traffic {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Option<JoinHandle<Vec<Record>>>,
}

impl Traffic {
    /// Starts a client for each manner; they are numbered in this order.
    pub(crate) fn begin(address: SocketAddr, manners: Vec<Manner>) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let (told, counter) = (Arc::clone(&over), Arc::clone(&answered));
        let clients = thread::Builder::new()
            .name("traffic".to_owned())
            .spawn(move || {
                let executor = LocalExecutor::new();
                let clients: Vec<Task<Record>> = (0..)
                    .zip(manners)
                    .map(|(number, manner)| {
                        let client = Client {
                            number,
                            address,
                            manner,
                            dice: Dice(number.into()),
                            kept: None,
                            first: 0,
                            record: Record::default(),
                        };
                        executor.spawn(client.work(Arc::clone(&told), Arc::clone(&counter)))
                    })
                    .collect();
                smol::block_on(executor.run(async {
                    let mut records = Vec::with_capacity(clients.len());
                    for client in clients {
                        records.push(client.await);
                    }
                    records
                }))
            })?;
        Ok(Traffic {
            over,
            answered,
            clients: Some(clients),
        })
    }

    /// Waits until so many requests have been answered.
    pub(crate) fn warm_up(&self, enough: u64) -> Fallible<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.answered() < enough {
            if Instant::now() > deadline {
                return Err(format!("only {} answers in {PATIENCE:?}", self.answered()).into());
            }
            thread::sleep(BREATH);
        }
        Ok(())
    }

    /// How many requests have been answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets every client ask once more, and returns what each has met.
    pub(crate) fn end(mut self) -> Fallible<Vec<Record>> {
        self.over.store(true, Ordering::Release);
        let clients = self.clients.take().map(JoinHandle::join);
        // Whatever a client waits for has a deadline.
        match clients {
            Some(Ok(records)) => Ok(records),
            _ => Err("a client panicked".into()),
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

struct Client {
    number: u32,
    address: SocketAddr,
    manner: Manner,
    dice: Dice,
    kept: Option<Async<TcpStream>>,
    /// The number of the first request on that connection.
    first: usize,
    record: Record,
}

/// Requests that are sent together.
struct Burst {
    bytes: Vec<u8>,
    /// Behind the signature, the body of each answer.
    expected: Vec<Vec<u8>>,
    /// Where a piece ends, and how long to wait there; zero: until others had
    /// their turn.
    cuts: Vec<(usize, Duration)>,
}

/// What a burst comes to if it does not fail.
enum End {
    /// All of it is answered.
    Answered,
    /// An answer said that the connection closes.
    Announced,
}

impl Client {
    async fn work(mut self, over: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Record {
        loop {
            // Once more after the end was announced: so the last answer was
            // surely asked for after the last event of the bench.
            let last = over.load(Ordering::Acquire);
            let begun = Instant::now();
            let before = self.record.answers.len();
            let is_kept = self.kept.is_some();
            let burst = self.compose();
            let stood_still = Cell::new(Duration::ZERO);
            let ended = future::or(self.exchange(&burst), async {
                lose_patience(&stood_still).await;
                Err(Failure::late(format_args!(
                    "{} requests",
                    burst.expected.len()
                )))
            });
            let ended = ended.await;
            self.record.stood_still = self.record.stood_still.max(stood_still.get());
            let after = self.record.answers.len();
            answered.fetch_add((after - before) as u64, Ordering::Relaxed);
            let unanswered = before + burst.expected.len() - after;
            match ended {
                Ok(End::Answered) => {}
                Ok(End::Announced) => {
                    self.record.closed += u64::from(self.manner.policy == Policy::KeepAlive);
                    self.record.asked_anew += unanswered as u64;
                }
                Err(failure) => {
                    let last = self.record.answers.last().copied().flatten();
                    let answered_before = last.filter(|_| is_kept || after > before);
                    let first = self.record.answers.get(self.first).copied().flatten();
                    let answered_first = first.filter(|_| answered_before.is_some());
                    // What was sent behind the one that failed has failed, too.
                    for number in after..after + unanswered {
                        self.record.failures.add(failure.clone(), begun.elapsed());
                        self.record.answers.push(None);
                        self.record.failed.push(Failed {
                            number,
                            failure: failure.clone(),
                            answered_first: answered_first.map(|it| it.by),
                            answered_before: answered_before.map(|it| it.by),
                            from: begun,
                            to: Instant::now(),
                        });
                    }
                    Timer::after(BREATH).await;
                }
            }
            if last {
                return self.record;
            }
        }
    }

    /// Makes the next requests.
    fn compose(&mut self) -> Burst {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        let first = self.record.answers.len();
        for number in first..first + self.dice.up_to(self.manner.depth) {
            let begin = if self.manner.is_slow { SLOW } else { "" };
            let target = format!("{begin}/{}/{number}", self.number);
            let length = match self.dice.up_to(2) {
                1 => None,
                _ => Some(self.dice.up_to(LONGEST_BODY)),
            };
            let body = body(self.number, number, length.unwrap_or_default());
            expected.push([target.as_bytes(), b"\n", &body].concat());
            let method = if length.is_some() { "POST" } else { "GET" };
            bytes.extend(format!("{method} {target} HTTP/1.1\r\nhost: bench\r\n").bytes());
            if self.manner.policy == Policy::NewConnection {
                bytes.extend(b"connection: close\r\n");
            }
            match length {
                None => bytes.extend(b"\r\n"),
                Some(_) if self.dice.up_to(2) == 1 => {
                    bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
                    let mut rest = body.as_slice();
                    while let Some((chunk, others)) =
                        rest.split_at_checked(self.dice.up_to(rest.len().max(1)))
                    {
                        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                        bytes.extend(chunk);
                        bytes.extend(b"\r\n");
                        rest = others;
                    }
                    bytes.extend(b"0\r\n\r\n");
                }
                Some(length) => {
                    bytes.extend(format!("content-length: {length}\r\n\r\n").bytes());
                    bytes.extend(body);
                }
            }
        }
        let pieces = if self.manner.is_cut { MOST_PIECES } else { 1 };
        let mut cuts: Vec<(usize, Duration)> = (1..self.dice.up_to(pieces))
            .map(|_| {
                let pause = match self.dice.up_to(8) {
                    1 => LONGEST_PAUSE.mul_f64(self.dice.share()),
                    _ => Duration::ZERO,
                };
                (self.dice.up_to(bytes.len()), pause)
            })
            .collect();
        cuts.push((bytes.len(), Duration::ZERO));
        cuts.sort_unstable();
        Burst {
            bytes,
            expected,
            cuts,
        }
    }

    /// Sends requests and receives their answers, both at the same time.
    async fn exchange(&mut self, burst: &Burst) -> Result<End, Failure> {
        let stream = match self.kept.take() {
            Some(stream) => stream,
            None => {
                let stream = connect(self.address)
                    .await
                    .map_err(|error| Failure::of(&error, "connecting"))?;
                self.record.connections += 1;
                self.first = self.record.answers.len();
                stream
            }
        };
        let unsent = Cell::new(None);
        let sending = async {
            unsent.set(send(&stream, burst).await.err());
            // What ends the exchange is the last answer. One that announces
            // the end of the connection may come before all is sent.
            future::pending().await
        };
        let receiving = async {
            let received = receive(&stream, burst, &mut self.record.answers).await;
            // That it could not be sent is why there is no answer.
            received.map_err(|failure| match unsent.take() {
                Some(error) => Failure::of(&error, "sending requests"),
                None => failure,
            })
        };
        let end = future::or(sending, receiving).await?;
        if matches!(end, End::Answered) {
            self.kept = Some(stream);
        }
        Ok(end)
    }
}

/// Waits for [`PATIENCE`].
async fn lose_patience(stood_still: &Cell<Duration>) {
    for _ in 0..PARTS {
        let due = Instant::now() + PATIENCE / PARTS;
        Timer::at(due).await;
        let late = due.elapsed();
        if late >= STANDSTILL {
            stood_still.set(stood_still.get().max(late));
        }
    }
}

/// Says for how long clients stood still, if they did.
pub(crate) fn note_standstill(records: &[Record], findings: &mut Findings) {
    let longest = records.iter().map(|record| record.stood_still).max();
    if let Some(longest) = longest.filter(|longest| !longest.is_zero()) {
        findings.note(format!(
            "The clients themselves stood still for up to {longest:.1?}."
        ));
    }
}

async fn connect(address: SocketAddr) -> io::Result<Async<TcpStream>> {
    let stream = Async::<TcpStream>::connect(address).await?;
    // What is sent in pieces is to arrive in pieces.
    stream.get_ref().set_nodelay(true)?;
    Ok(stream)
}

async fn send(mut stream: &Async<TcpStream>, burst: &Burst) -> io::Result<()> {
    let mut sent = 0;
    for (end, pause) in &burst.cuts {
        let piece = burst.bytes.get(sent..*end).unwrap_or_default();
        stream.write_all(piece).await?;
        sent = *end;
        match pause.is_zero() {
            true => future::yield_now().await,
            false => drop(Timer::after(*pause).await),
        }
    }
    Ok(())
}

/// Receives the answers to all requests that were sent together, each of
/// which can be the answer to no other.
async fn receive(
    mut stream: &Async<TcpStream>,
    burst: &Burst,
    answers: &mut Vec<Option<Answered>>,
) -> Result<End, Failure> {
    let mut received = Vec::with_capacity(4096);
    let mut end = End::Answered;
    for body in &burst.expected {
        let response = loop {
            if let Some(response) = parse(&received)? {
                break response;
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).await {
                Ok(0) => return Err(Failure::ended(&received)),
                Ok(length) => received.extend(chunk.iter().take(length)),
                Err(error) => return Err(Failure::of(&error, "reading an answer")),
            }
        };
        match signature(response.body) {
            Some((by, rest)) if rest == body => {
                let at = Instant::now();
                answers.push(Some(Answered { by, at }));
            }
            _ => return Err(Failure::wrong(String::from_utf8_lossy(response.body))),
        }
        let (length, closes) = (response.length, response.closes);
        received.drain(..length);
        if closes {
            end = End::Announced;
            break;
        }
    }
    // Nobody has asked for what may be there now.
    match received.is_empty() {
        true => Ok(end),
        false => Err(Failure::wrong(String::from_utf8_lossy(&received))),
    }
}

fn body(client: u32, number: usize, length: usize) -> Vec<u8> {
    let decoy = format!("GET /{client}/{number} HTTP/1.1\r\nhost: decoy\r\n\r\n");
    decoy
        .into_bytes()
        .into_iter()
        .cycle()
        .take(length)
        .collect()
}

/// Random numbers, the same in each run (Steele, Lea, Flood: Fast splittable
/// pseudorandom number generators).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From one to `most`, which is not zero.
    pub(crate) fn up_to(&mut self, most: usize) -> usize {
        let most = most as u64;
        usize::try_from(1 + self.roll() % most).unwrap_or(1)
    }

    /// From zero to one.
    pub(crate) fn share(&mut self) -> f64 {
        self.roll() as f64 / u64::MAX as f64
    }
}
