//! Whole connections: a script of what a client does, and what may come back.
//!
//! A script is what the client sends, with five bytes that are not sent but
//! done; none of them occurs in UTF-8. Whatever the script, the client ends
//! its side and reads to the end at last.
//!
//! | byte | what happens there |
//! |---|---|
//! | `FF` | a packet ends, and the server does with it what it can |
//! | `FE` | so it does, and then a drain begins, or is taken back |
//! | `FD` | so it does, and then whatever it waits for takes too long |
//! | `FC` | so it does, and then the client stops reading, or starts again |
//! | `FB` | so it does, and then the connection is called to leave for another process, as soon as it can |

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_types::{Body, Method, Response, StatusCode, Version};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use smol::LocalExecutor;
use smol::future::{self, FutureExt};
use smol::io::{AsyncReadExt, AsyncWriteExt, Cursor};

use super::super::{Parcel, Protocol, serve};
use super::answers::{Fault, Framing, take};
use super::find;
use crate::limits::Limits;
use crate::reactor::Reactor;
use crate::request::Request;
use crate::roster::{Peer, Roster};
use crate::status::Status;

const PACKET: u8 = 0xff;
const DRAIN: u8 = 0xfe;
const EXPIRE: u8 = 0xfd;
const PAUSE: u8 = 0xfc;
/// Public for the tests, which put it between any two bytes.
pub(super) const LEAVE: u8 = 0xfb;

/// How often the executor may run the connection between two acts of the
/// client; more than any script of this size needs.
const MOST_POLLS: u64 = 100_000;

/// How long a connection may take to end that nothing keeps from ending.
const PATIENCE: Duration = Duration::from_secs(20);

/// Statuses by which the server itself answers a request that it does not
/// hand on.
const REFUSALS: [u16; 8] = [400, 408, 413, 414, 417, 431, 501, 505];

/// One call of the handler.
struct Call {
    method: Method,
    path: String,
    is_http10: bool,
    expects_continue: bool,
    /// What the handler has answered, where that is known.
    answer: Option<(u16, Vec<u8>)>,
    returned: bool,
    /// There is a body, which the handler does not read to its end.
    leaves_body: bool,
}

/// All that happened on one connection.
struct Story {
    sent: Vec<u8>,
    received: Vec<u8>,
    calls: Vec<Call>,
    /// The server may have given up waiting for the client.
    gave_up: bool,
}

/// A final response, as far as it must not depend on the packets.
type Summary = (u16, bool, Vec<u8>);

/// Checks everything that must hold of a connection on which a client does
/// what `script` says.
pub(crate) async fn check(script: &[u8]) {
    let story = play(script).await;
    let answers = story.check();
    let is_special = |byte: &u8| matches!(*byte, DRAIN | EXPIRE | PAUSE);
    let is_divided = |byte: &u8| matches!(*byte, PACKET | LEAVE);
    if script.iter().any(is_divided) && !script.iter().any(is_special) {
        let whole = play(&story.sent).await.check();
        for (number, (answer, other)) in answers.iter().zip(&whole).enumerate() {
            // What is malformed may be seen earlier or later.
            if REFUSALS.contains(&answer.0) || REFUSALS.contains(&other.0) {
                return;
            }
            assert_eq!(
                (answer.0, &answer.2),
                (other.0, &other.2),
                "in packets, and in one"
            );
            if answer.1 != other.1 {
                // Whether it is worth it to skip the rest of a body depends on
                // how much of it has come.
                assert!(
                    story.calls[number].leaves_body,
                    "the end depends on the packets"
                );
                return;
            }
        }
        assert_eq!(answers.len(), whole.len(), "in packets, and in one");
    }
}

/// [`check`] for a fuzzer, which calls it again and again.
///
/// All connections are served on one thread that never leaves its executor,
/// because the reactor would change threads otherwise, and with that the order
/// of events.
#[cfg(fuzzing)]
pub(crate) fn check_on_stage(script: &[u8]) {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::sync::{LazyLock, Mutex};

    type Stage = Mutex<(SyncSender<Vec<u8>>, Receiver<()>)>;
    static STAGE: LazyLock<Stage> = LazyLock::new(|| {
        let (scripts, next) = sync_channel::<Vec<u8>>(0);
        let (done, finished) = sync_channel(0);
        std::thread::spawn(move || {
            smol::block_on(async {
                while let Ok(script) = next.recv() {
                    check(&script).await;
                    if done.send(()).is_err() {
                        return;
                    }
                }
            });
        });
        Mutex::new((scripts, finished))
    });
    let stage = STAGE.lock().unwrap();
    stage.0.send(script.to_vec()).unwrap();
    stage.1.recv().unwrap();
}

impl Story {
    /// Checks what came back, and gives the final responses.
    fn check(&self) -> Vec<Summary> {
        let heads = windows(&self.sent, b"\r\n\r\n");
        assert!(self.calls.len() <= heads, "more requests than heads");
        let mut rest = &self.received[..];
        let mut answers: Vec<Summary> = Vec::new();
        let mut is_cut = false;
        let mut is_over = false;
        let mut is_continued = false;
        while !rest.is_empty() {
            assert!(
                !is_over,
                "after the last response came \"{}\"",
                rest.escape_ascii()
            );
            let call = self.calls.get(answers.len());
            let to_head = match call {
                Some(call) => call.method == Method::Head,
                // A refusal without its body answers a HEAD, and a refusal is
                // the last response.
                None => rest.ends_with(b"\r\n\r\n") && find(&self.sent, b"HEAD ").is_some(),
            };
            let answer = match take(&mut rest, to_head) {
                Ok(answer) => answer,
                Err(Fault::Malformed(what)) => panic!("{what}"),
                Err(Fault::CutShort) => {
                    is_cut = true;
                    break;
                }
            };
            match (answer.status, call) {
                (100, Some(call)) => {
                    assert!(call.expects_continue, "a 100 that nobody expects");
                    assert!(!is_continued, "a second 100");
                    is_continued = true;
                    continue;
                }
                (101, Some(call)) => {
                    assert_eq!(call.path, "/switch");
                    assert!(
                        self.sent.ends_with(rest) || self.gave_up,
                        "an upgraded connection does not echo what it gets"
                    );
                    rest = &[];
                }
                (100..200, _) => panic!("{} is not expected", answer.status),
                (status, None) => {
                    assert!(REFUSALS.contains(&status), "{status} without a request");
                    assert!(answer.closes, "{status} without a close");
                    assert!(!is_continued, "a 100 before a refusal");
                }
                (_, Some(call)) => {
                    if call.is_http10 {
                        assert_ne!(answer.framing, Framing::Chunked, "chunks for HTTP/1.0");
                    } else {
                        assert_ne!(answer.framing, Framing::ToTheEnd, "a body without an end");
                    }
                    if let Some((status, body)) = &call.answer {
                        assert_eq!(answer.status, *status);
                        if call.method != Method::Head {
                            assert_eq!(answer.body, *body);
                        }
                    }
                }
            }
            is_continued = false;
            is_over = answer.closes || answer.status == 101;
            answers.push((answer.status, answer.closes, answer.body));
        }
        let missing = &self.calls[answers.len().min(self.calls.len())..];
        match missing {
            [] => assert!(!is_cut || self.gave_up, "a refusal is cut short"),
            [call] if is_cut => assert!(
                self.gave_up || matches!(&*call.path, "/short" | "/stream"),
                "the response to {} is cut short",
                call.path
            ),
            // A body that fails before a byte of the response was sent.
            [call] if call.path == "/stream" || call.path == "/short" => {}
            [call, ..] => assert!(
                self.gave_up || !call.returned,
                "there is no response to {}",
                call.path
            ),
        }
        answers
    }
}

fn windows(bytes: &[u8], sought: &[u8]) -> usize {
    bytes
        .windows(sought.len())
        .filter(|window| *window == sought)
        .count()
}

/// What of the server and its client the parts of a play share.
struct Stage {
    executor: LocalExecutor<'static>,
    /// How often a task of the server has run.
    polls: Rc<Cell<u64>>,
    calls: RefCell<Vec<Call>>,
}

impl Stage {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) -> smol::Task<()> {
        let polls = Rc::clone(&self.polls);
        self.executor.spawn(async move {
            let mut task = pin!(task);
            future::poll_fn(|cx| {
                polls.set(polls.get() + 1);
                task.as_mut().poll(cx)
            })
            .await;
        })
    }

    /// Lets the server do what it can.
    async fn settle(&self) {
        let before = self.polls.get();
        let mut last = before;
        let mut quiet = 0;
        // Each turn includes a look at the sockets.
        while quiet < 3 {
            future::yield_now().await;
            let polls = self.polls.get();
            quiet = if polls == last { quiet + 1 } else { 0 };
            last = polls;
            assert!(
                last - before < MOST_POLLS,
                "the server does not come to rest"
            );
        }
    }
}

async fn play(script: &[u8]) -> Story {
    let stage = Rc::new(Stage {
        executor: LocalExecutor::new(),
        polls: Rc::default(),
        calls: RefCell::default(),
    });
    let story = stage.executor.run(perform(Rc::clone(&stage), script));
    let (sent, received, gave_up) = story.await;
    Story {
        sent,
        received,
        gave_up,
        calls: stage.calls.take(),
    }
}

async fn perform(stage: Rc<Stage>, script: &[u8]) -> (Vec<u8>, Vec<u8>, bool) {
    // Each deadline has passed as soon as it is set, but that is noticed only
    // when the script says so.
    let limits = Limits::default()
        .max_request_line_bytes(300)
        .max_head_bytes(1000)
        .max_headers(12)
        .max_body_bytes(200)
        .max_unread_body_bytes(50)
        .head_timeout(Duration::ZERO)
        .body_timeout(Duration::ZERO)
        .write_timeout(Duration::ZERO)
        .keep_alive_timeout(Duration::ZERO)
        .linger_timeout(Duration::ZERO)
        .drain_grace(Duration::ZERO);
    let handler = {
        // The executor holds the connection, which holds the handler.
        let stage = Rc::downgrade(&stage);
        move |request| {
            let stage = stage.upgrade();
            async move { answer(request, &stage.ok_or(failure(StatusCode::Gone))?).await }
        }
    };
    let reactor = Reactor::new().unwrap();
    let left = Rc::new(RefCell::new(Vec::new()));
    let leaving = Rc::clone(&left);
    let protocol = Protocol::new(handler, limits, Status::new(1), Arc::clone(&reactor))
        .leaving_to(Rc::new(move |parcel| leaving.borrow_mut().push(parcel)));
    let protocol = Rc::new(protocol);
    let roster = Rc::new(Roster::default());
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    // Small, so that responses meet a client that is slow to take them.
    set_socket_send_buffer_size(&theirs, 4096).unwrap();
    let ticket = roster.admit(Peer::Unix, "");
    let mut next = Some(Parcel::fresh(OwnedFd::from(theirs), ticket));
    let _drive = stage.spawn({
        let reactor = Arc::clone(&reactor);
        async move { reactor.drive().await }
    });
    let server = stage.spawn(async move {
        // Wherever it goes, the client sees one connection.
        while let Some(parcel) = next {
            serve(parcel, Rc::clone(&protocol)).await;
            next = left.borrow_mut().pop();
        }
    });
    let mut client = Client {
        socket: ours,
        unsent: Vec::new(),
        received: Vec::new(),
        is_reading: true,
        is_refused: false,
    };
    let mut sent = Vec::new();
    let mut gave_up = false;
    let mut drains = false;
    for act in script.split_inclusive(|&byte| byte >= LEAVE) {
        let (end, bytes) = match act.split_last() {
            Some((&end, bytes)) if end >= LEAVE => (end, bytes),
            Some(_) | None => (PACKET, act),
        };
        sent.extend(bytes);
        client.unsent.extend(bytes);
        client.exchange(&stage).await;
        match end {
            DRAIN => {
                drains = !drains;
                match drains {
                    true => roster.start_drain(),
                    false => roster.end_drain(),
                }
            }
            EXPIRE => {
                gave_up = true;
                roster.expire(Instant::now());
            }
            PAUSE => client.is_reading = !client.is_reading,
            LEAVE => {
                roster.set_berths(1);
                for waiting in roster.waiting() {
                    roster.call(waiting);
                }
            }
            _ => continue,
        }
        client.exchange(&stage).await;
    }
    client.is_reading = true;
    let mut is_finished = false;
    let patience = async {
        smol::Timer::after(PATIENCE).await;
        panic!("the connection does not end");
    };
    let ending = async {
        while !server.is_finished() {
            client.exchange(&stage).await;
            if client.unsent.is_empty() && !is_finished {
                is_finished = true;
                let _ = shutdown(&client.socket, Shutdown::Write);
                continue;
            }
            if is_finished && !server.is_finished() {
                // It can only wait for something that has happened by now and
                // that the reactor has yet to tell.
                future::yield_now().await;
            }
        }
    };
    ending.or(patience).await;
    client.exchange(&stage).await;
    assert_eq!(roster.len(), 0, "the connection is gone but on the roster");
    (sent, client.received, gave_up)
}

struct Client {
    socket: UnixStream,
    unsent: Vec<u8>,
    received: Vec<u8>,
    is_reading: bool,
    /// The server takes no more.
    is_refused: bool,
}

impl Client {
    /// Sends and receives as long as there is progress.
    async fn exchange(&mut self, stage: &Stage) {
        loop {
            let sends = self.send();
            stage.settle().await;
            let receives = self.receive();
            if !sends && !receives {
                return;
            }
        }
    }

    fn send(&mut self) -> bool {
        if self.is_refused {
            self.unsent.clear();
        }
        if self.unsent.is_empty() {
            return false;
        }
        match send(&self.socket, &self.unsent, SendFlags::NOSIGNAL) {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(Errno::AGAIN) => return false,
            Err(Errno::PIPE | Errno::CONNRESET) => self.is_refused = true,
            Err(error) => panic!("the client cannot send: {error}"),
        }
        true
    }

    fn receive(&mut self) -> bool {
        let mut bytes = [0; 4096];
        if !self.is_reading {
            return false;
        }
        match recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
            Ok((count, _)) => {
                self.received.extend(&bytes[..count]);
                count > 0
            }
            Err(Errno::AGAIN | Errno::CONNRESET) => false,
            Err(error) => panic!("the client cannot receive: {error}"),
        }
    }
}

/// Something of everything that a handler can do, by path; but no panic, which
/// libFuzzer takes for a finding wherever it is.
async fn answer(mut request: Request, stage: &Rc<Stage>) -> http_types::Result<Response> {
    let number = stage.calls.borrow().len();
    let path = request.url().path().to_owned();
    stage.calls.borrow_mut().push(Call {
        method: request.method(),
        path: path.clone(),
        is_http10: request.version() == Some(Version::Http1_0),
        expects_continue: request.header("expect").is_some(),
        answer: None,
        returned: false,
        leaves_body: request.is_empty() != Some(true) && !matches!(&*path, "/echo" | "/stream"),
    });
    let result = route(&mut request, &path, stage).await;
    let call = &mut stage.calls.borrow_mut()[number];
    call.returned = true;
    result.map(|(response, body)| {
        call.answer = body.map(|body| (u16::from(response.status()), body));
        response
    })
}

/// A response, and the body that the client must get, if that is known.
async fn route(
    request: &mut Request,
    path: &str,
    stage: &Rc<Stage>,
) -> http_types::Result<(Response, Option<Vec<u8>>)> {
    let mut response = Response::new(StatusCode::Ok);
    let body: Vec<u8> = match path {
        "/echo" => request.body_bytes().await?,
        "/stream" => {
            response.set_body(request.take_body());
            return Ok((response, None));
        }
        "/some" => {
            let mut first = Vec::new();
            let body = request.take_body();
            body.take(3).read_to_end(&mut first).await?;
            first
        }
        "/keep" => {
            let mut body = request.take_body();
            // It gets an error if it is later than the response.
            stage
                .spawn(async move { drop(body.read_to_end(&mut Vec::new()).await) })
                .detach();
            b"kept".to_vec()
        }
        "/later" => {
            for _ in 0..3 {
                future::yield_now().await;
            }
            b"later".to_vec()
        }
        "/chunks" => {
            let body = b"0123456789".repeat(30);
            response.set_body(Body::from_reader(Cursor::new(body.clone()), None));
            return Ok((response, Some(body)));
        }
        "/large" => b"0123456789abcdef".repeat(1024),
        "/short" => {
            response.set_body(Body::from_reader(Cursor::new("short"), Some(10)));
            return Ok((response, None));
        }
        "/long" => {
            response.set_body(Body::from_reader(Cursor::new("0123456789"), Some(5)));
            return Ok((response, Some(b"01234".to_vec())));
        }
        "/empty" | "/reset" | "/unchanged" => {
            response.set_status(match path {
                "/empty" => StatusCode::NoContent,
                "/reset" => StatusCode::ResetContent,
                _ => StatusCode::NotModified,
            });
            response.set_body("not for you");
            return Ok((response, Some(Vec::new())));
        }
        "/close" => {
            response.insert_header("connection", "close");
            b"bye".to_vec()
        }
        "/split" => {
            response.insert_header("x", "a\r\n\r\nHTTP/1.1 200 OK");
            return Ok((response, None));
        }
        "/interim" => return Ok((Response::new(StatusCode::Continue), None)),
        "/switch" => {
            response.set_status(StatusCode::SwitchingProtocols);
            let upgrade = response.recv_upgrade().await;
            stage.spawn(echo(upgrade)).detach();
            return Ok((response, None));
        }
        "/error" => return Err(failure(StatusCode::ImATeapot)),
        // Not read, whatever body there is.
        _ => request.target().as_bytes().to_vec(),
    };
    response.set_body(&*body);
    // There are no tunnels here, and the server says so.
    let is_known = request.method() != Method::Connect;
    Ok((response, is_known.then_some(body)))
}

/// Sends back what comes until the other side ends.
async fn echo(upgrade: http_types::upgrade::Receiver) {
    let Some(mut stream) = upgrade.await else {
        return;
    };
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

fn failure(status: StatusCode) -> http_types::Error {
    http_types::Error::from_str(status, "as asked")
}
