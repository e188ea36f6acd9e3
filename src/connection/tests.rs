//! Whole connections, over socket pairs: bytes in, bytes out.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_types::{Body, Method, Response, StatusCode};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use smol::LocalExecutor;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Cursor};

use super::{Conversation, Handler, Parcel, Past, Protocol, serve};
use crate::ledger::{Ledger, Notes, Trace};
use crate::limits::Limits;
use crate::reactor::{Reactor, Socket, TURN};
use crate::request::Request;
use crate::roster::{Peer, Roster};
use crate::status::Status;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of one thread, and its clients.
struct World<H> {
    executor: Rc<LocalExecutor<'static>>,
    roster: Rc<Roster>,
    protocol: Rc<Protocol<H>>,
}

impl<H: Handler> World<H> {
    fn new(limits: Limits, handler: H) -> Self {
        World {
            executor: Rc::new(LocalExecutor::new()),
            roster: Rc::default(),
            protocol: Rc::new(Protocol::new(
                handler,
                limits,
                Status::new(1),
                Reactor::new().unwrap(),
            )),
        }
    }

    fn connect(&self) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.accept(ours.into());
        Client(smol::Async::new(theirs).unwrap())
    }

    /// Unlike other connections it knows resets.
    fn connect_by_tcp(&self) -> smol::Async<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        self.accept(listener.accept().unwrap().0.into());
        smol::Async::new(theirs).unwrap()
    }

    /// A connection on which each of the server's sends is one read here.
    fn connect_by_packets(&self) -> Client {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        self.accept(ours);
        Client(smol::Async::new(theirs.into()).unwrap())
    }

    fn accept(&self, socket: OwnedFd) {
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        let ticket = self.roster.admit(Peer::Unix, "");
        self.executor
            .spawn(serve(
                Parcel::fresh(socket, ticket),
                Rc::clone(&self.protocol),
            ))
            .detach();
    }

    /// A connection from another process, which is noted in the ledger.
    fn adopt(&self, past: Past, notes: &Rc<Notes>) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let parcel = Parcel {
            socket: ours.into(),
            ticket: self.roster.admit(Peer::Unix, "").noted_in(notes.slot(0)),
            past,
        };
        self.executor
            .spawn(serve(parcel, Rc::clone(&self.protocol)))
            .detach();
        Client(smol::Async::new(theirs).unwrap())
    }

    /// Lets the server do what it can do now. async-io would tell it of what has
    /// come in due time; which thread of these tests does so is another matter.
    async fn settle(&self) {
        for _ in 0..20 {
            self.protocol.reactor.look_around();
            while self.executor.try_tick() {}
            smol::future::yield_now().await;
        }
    }

    fn run<T>(&self, story: impl Future<Output = T>) -> T {
        let roster = Rc::clone(&self.roster);
        let sweep = self.executor.spawn(async move { roster.sweep().await });
        let reactor = Arc::clone(&self.protocol.reactor);
        let drive = self.executor.spawn(async move { reactor.drive().await });
        let result = smol::block_on(self.executor.run(smol::future::or(
            async { Some(story.await) },
            async {
                smol::Timer::after(PATIENCE).await;
                None
            },
        )));
        drop((sweep, drive));
        result.expect("the story did not come to its end in time")
    }
}

struct Client(smol::Async<UnixStream>);

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    fn finish(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Everything up to the end of the stream.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Reads until what has been read ends with `end`.
    async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let mut byte = [0];
            assert_ne!(self.0.read(&mut byte).await.unwrap(), 0, "{bytes:?}");
            bytes.push(byte[0]);
        }
        String::from_utf8(bytes).unwrap()
    }
}

/// A response without its Date, which is the only thing that changes.
fn dateless(bytes: &str) -> String {
    bytes
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with("date: "))
        .collect()
}

/// The statuses of the responses in `bytes`.
fn statuses(bytes: &str) -> Vec<u16> {
    bytes
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|response| response.get(..3)?.parse().ok())
        .collect()
}

/// Everything a server with `limits` and `handler` answers to `bytes` and the
/// end of the stream.
fn answer_of<H: Handler>(limits: Limits, handler: H, bytes: impl AsRef<[u8]>) -> String {
    let world = World::new(limits, handler);
    world.run(async {
        let mut client = world.connect();
        client.send(bytes).await;
        client.finish();
        let answer = client.rest().await;
        world.roster.empty().await;
        answer
    })
}

/// An application with a bit of everything.
async fn api(mut request: Request) -> http_types::Result<Response> {
    let path = request.url().path().to_owned();
    Ok(match (request.method(), &*path) {
        (Method::Post, "/echo") => request.body_string().await?.into(),
        (Method::Post, "/stream-echo") => {
            let mut response = Response::new(200);
            response.set_body(request.take_body());
            response
        }
        (Method::Post, "/ignore") => "ignored".into(),
        (_, "/chunks") => {
            let mut response = Response::new(200);
            response.set_body(Body::from_reader(Cursor::new("0123456789"), None));
            response
        }
        (_, "/empty") => {
            let mut response = Response::new(StatusCode::NoContent);
            response.set_body("not for you");
            response
        }
        (_, "/not-modified") => {
            let mut response = Response::new(StatusCode::NotModified);
            response.insert_header("etag", "\"x\"");
            response
        }
        (_, "/short") => {
            let mut response = Response::new(200);
            response.set_body(Body::from_reader(Cursor::new("short"), Some(10)));
            response
        }
        (_, "/long") => {
            let mut response = Response::new(200);
            response.set_body(Body::from_reader(Cursor::new("0123456789"), Some(5)));
            response
        }
        (_, "/split") => {
            let mut response = Response::new(200);
            response.insert_header("x", "a\r\n\r\nHTTP/1.1 200 OK");
            response
        }
        (_, "/bad-name") => {
            let mut response = Response::new(200);
            response.insert_header("a b", "c");
            response
        }
        (_, "/continue") => Response::new(StatusCode::Continue),
        (_, "/switch") => Response::new(StatusCode::SwitchingProtocols),
        (_, "/outdated") => {
            let mut response = Response::new(StatusCode::UpgradeRequired);
            response.insert_header("upgrade", "websocket");
            response
        }
        (_, "/reset") => {
            let mut response = Response::new(StatusCode::ResetContent);
            response.set_body("not for you");
            response
        }
        (_, "/close") => {
            let mut response = Response::from("bye");
            response.insert_header("connection", "close");
            response
        }
        (_, "/panic") => panic!("as asked"),
        (_, "/teapot") => {
            return Err(http_types::Error::from_str(
                StatusCode::ImATeapot,
                "short and stout",
            ));
        }
        (_, "/error") => return Err(http_types::Error::from_str(StatusCode::Ok, "odd")),
        _ => format!("{} {}", request.method(), request.target()).into(),
    })
}

#[test]
fn requests_are_answered_one_after_the_other_on_one_connection() {
    let world = World::new(Limits::default(), api);
    world.run(async {
        let mut client = world.connect();
        for _ in 0..3 {
            client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = client.until("GET /x").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("\r\ndate: "), "{answer}");
        }
        client.finish();
        assert_eq!(client.rest().await, "");
    });
}

#[test]
fn any_split_gives_the_same_responses() {
    let bytes = concat!(
        "\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n",
        "POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "\r\nPOST /stream-echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "HEAD /chunks HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /empty HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /z HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    // Chunks of a streamed echo may differ, so contents are compared.
    let content = |answer: &str| {
        let answer = dateless(answer);
        assert_eq!(statuses(&answer), [200, 200, 200, 200, 200, 200, 204, 200]);
        answer
            .replace("5\r\nhello\r\n0\r\n\r\n", "{hello}")
            .replace("1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", "{hello}")
            .replace("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "{hello}")
            .replace("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "{hello}")
            .replace("4\r\nhell\r\n1\r\no\r\n0\r\n\r\n", "{hello}")
    };
    let whole = content(&answer_of(Limits::default(), api, bytes));
    assert!(whole.contains("hello!"), "{whole}");
    for split in 1..bytes.len() {
        let world = World::new(Limits::default(), api);
        let answer = world.run(async {
            let mut client = world.connect();
            client.send(&bytes[..split]).await;
            // The server has seen these bytes once it waits for more of them.
            for _ in 0..20 {
                smol::future::yield_now().await;
            }
            client.send(&bytes[split..]).await;
            client.rest().await
        });
        assert_eq!(content(&answer), whole, "split at {split}");
    }
}

#[test]
fn single_bytes_give_the_same_responses() {
    let bytes = concat!(
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n",
        "GET /z HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let whole = dateless(&answer_of(Limits::default(), api, bytes));
    let world = World::new(Limits::default(), api);
    let answer = world.run(async {
        let mut client = world.connect();
        for byte in bytes.bytes() {
            client.send([byte]).await;
            for _ in 0..5 {
                smol::future::yield_now().await;
            }
        }
        client.rest().await
    });
    assert_eq!(dateless(&answer), whole);
}

#[test]
fn pipelined_requests_are_answered_in_order_to_any_depth() {
    let mut bytes = String::new();
    let mut paths = Vec::new();
    for number in 0..2000 {
        bytes.push_str(&format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
        paths.push(format!("GET /{number}"));
    }
    let world = World::new(Limits::default(), api);
    let answer = world.run(async {
        let mut client = world.connect();
        let reader = smol::Async::new(client.0.get_ref().try_clone().unwrap()).unwrap();
        let mut reader = Client(reader);
        let send = async {
            client.send(&bytes).await;
            client.finish();
        };
        smol::future::zip(send, reader.rest()).await.1
    });
    let bodies: Vec<_> = answer
        .split("\r\n\r\n")
        .skip(1)
        .map(|body| body.split("HTTP/1.1").next().unwrap())
        .collect();
    assert_eq!(bodies, paths);
}

/// One request to [`api`], and what must and must not be in the answer.
struct Case {
    request: &'static str,
    status: u16,
    has: &'static [&'static str],
    lacks: &'static [&'static str],
    ends: &'static str,
}

#[test]
fn responses_are_framed_as_rfc_9112_says() {
    for case in [
        Case {
            request: "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 200,
            has: &["\r\ncontent-length: 6\r\n"],
            lacks: &["\r\nconnection:", "transfer-encoding"],
            ends: "\r\n\r\nGET /x",
        },
        Case {
            request: "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            status: 200,
            has: &["\r\nconnection: close\r\n"],
            lacks: &[],
            ends: "\r\n\r\nGET /x",
        },
        Case {
            request: "GET /close HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 200,
            has: &["\r\nconnection: close\r\n"],
            lacks: &[],
            ends: "\r\n\r\nbye",
        },
        Case {
            request: "GET /x HTTP/1.0\r\n\r\n",
            status: 200,
            has: &["\r\nconnection: close\r\n", "\r\ncontent-length: 6\r\n"],
            lacks: &[],
            ends: "\r\n\r\nGET /x",
        },
        Case {
            request: "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            status: 200,
            has: &[
                "\r\nconnection: keep-alive\r\n",
                "\r\ncontent-length: 6\r\n",
            ],
            lacks: &[],
            ends: "\r\n\r\nGET /x",
        },
        Case {
            request: "GET /chunks HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 200,
            has: &["\r\ntransfer-encoding: chunked\r\n"],
            lacks: &["content-length", "\r\nconnection:"],
            ends: "\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        },
        Case {
            request: "GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            status: 200,
            has: &["\r\nconnection: close\r\n"],
            lacks: &["content-length", "transfer-encoding"],
            ends: "\r\n\r\n0123456789",
        },
        Case {
            request: "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 200,
            has: &["\r\ncontent-length: 7\r\n"],
            lacks: &["transfer-encoding"],
            ends: "\r\n\r\n",
        },
        Case {
            request: "HEAD /chunks HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 200,
            has: &[],
            lacks: &["content-length", "transfer-encoding"],
            ends: "\r\n\r\n",
        },
        Case {
            request: "HEAD /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            status: 200,
            has: &["\r\nconnection: keep-alive\r\n"],
            lacks: &["content-length", "transfer-encoding"],
            ends: "\r\n\r\n",
        },
        Case {
            request: "GET /empty HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 204,
            has: &["HTTP/1.1 204 No Content\r\n"],
            lacks: &["content-length", "transfer-encoding"],
            ends: "\r\n\r\n",
        },
        Case {
            request: "GET /not-modified HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 304,
            has: &["HTTP/1.1 304 Not Modified\r\n", "\r\netag: \"x\"\r\n"],
            lacks: &["content-length", "transfer-encoding"],
            ends: "\r\n\r\n",
        },
        Case {
            request: "GET /reset HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 205,
            has: &["\r\ncontent-length: 0\r\n"],
            lacks: &["transfer-encoding"],
            ends: "\r\n\r\n",
        },
        Case {
            request: "GET /short HTTP/1.1\r\nHost: a\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 200,
            has: &["\r\ncontent-length: 10\r\n"],
            lacks: &["never"],
            ends: "\r\n\r\nshort",
        },
        Case {
            request: "GET /long HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 200,
            has: &["\r\ncontent-length: 5\r\n"],
            lacks: &[],
            ends: "\r\n\r\n01234",
        },
        Case {
            request: "GET /split HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 500,
            has: &[],
            lacks: &["\r\nx:"],
            ends: "\r\n\r\nInternal Server Error\n",
        },
        Case {
            request: "GET /bad-name HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 500,
            has: &[],
            lacks: &["a b"],
            ends: "\r\n\r\nInternal Server Error\n",
        },
        Case {
            request: "GET /continue HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 500,
            has: &[],
            lacks: &[],
            ends: "Error\n",
        },
        Case {
            request: "GET /switch HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            status: 500,
            has: &[],
            lacks: &[],
            ends: "Error\n",
        },
        Case {
            request: "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 501,
            has: &[],
            lacks: &[],
            ends: "there are no tunnels here\n",
        },
        Case {
            request: "GET /outdated HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 426,
            has: &["\r\nconnection: upgrade\r\n", "\r\nupgrade: websocket\r\n"],
            lacks: &[],
            ends: "\r\n\r\n",
        },
        Case {
            request: "GET /outdated HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            status: 426,
            has: &["\r\nconnection: close, upgrade\r\n"],
            lacks: &[],
            ends: "\r\n\r\n",
        },
        Case {
            request: "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 500,
            has: &[],
            lacks: &["as asked", "\r\nconnection:"],
            ends: "Error\n",
        },
        Case {
            request: "GET /teapot HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 418,
            has: &[],
            lacks: &["stout", "\r\nconnection:"],
            ends: "I'm a teapot\n",
        },
        Case {
            request: "GET /error HTTP/1.1\r\nHost: a\r\n\r\n",
            status: 500,
            has: &[],
            lacks: &["odd", "\r\nconnection:"],
            ends: "Error\n",
        },
    ] {
        let answer = answer_of(Limits::default(), api, case.request);
        let request = case.request;
        assert_eq!(statuses(&answer), [case.status], "{request}\n{answer}");
        for part in case.has {
            assert!(answer.contains(part), "{request}\n{answer}");
        }
        for part in case.lacks {
            assert!(!answer.contains(part), "{request}\n{answer}");
        }
        assert!(answer.ends_with(case.ends), "{request}\n{answer}");
    }
}

#[test]
fn a_refused_request_gets_its_status_and_the_connection_closes() {
    let limits = Limits::default().max_body_bytes(10);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n",
            413,
        ),
        ("GET / HTTP/1.1\r\nHost: a", 400),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            400,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n",
            413,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhello",
            400,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
            400,
        ),
    ] {
        let bytes = format!("{request}GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
        let bytes = match request.ends_with("\r\n") {
            true => &*bytes,
            false => request,
        };
        let answer = answer_of(limits.clone(), api, bytes);
        assert_eq!(statuses(&answer), [status], "{request}\n{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

#[test]
fn a_client_that_sends_nothing_is_closed_without_a_word() {
    assert_eq!(answer_of(Limits::default(), api, ""), "");
    assert_eq!(answer_of(Limits::default(), api, "\r\n"), "");
}

#[test]
fn a_continue_is_sent_when_the_handler_reads_and_not_otherwise() {
    let world = World::new(Limits::default(), api);
    let expecting = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    world.run(async {
        for path in ["/echo", "/stream-echo"] {
            let mut client = world.connect();
            // Behind another one, so that the order of the responses shows.
            client
                .send(format!(
                    "GET /x HTTP/1.1\r\nHost: a\r\n\r\n{}",
                    expecting(path)
                ))
                .await;
            let first = client.until("100 Continue\r\n\r\n").await;
            assert_eq!(statuses(&first), [200, 100]);
            client.send("hello").await;
            let answer = client.until("hello").await;
            assert_eq!(statuses(&answer), [200], "{answer}");
            client.finish();
            client.rest().await;
        }
        let mut client = world.connect();
        client.send(expecting("/ignore")).await;
        let answer = client.rest().await;
        assert_eq!(statuses(&answer), [200]);
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        // One that does not wait needs no `100`.
        let mut client = world.connect();
        client.send(format!("{}hello", expecting("/echo"))).await;
        let answer = client.until("hello").await;
        assert_eq!(statuses(&answer), [200]);
        client.finish();
        assert_eq!(client.rest().await, "");
    });
}

#[test]
fn an_unread_body_is_dropped_up_to_a_limit() {
    let limits = Limits::default().max_unread_body_bytes(1000);
    for (length, responses) in [(1000, 2), (10_000, 1)] {
        let world = World::new(limits.clone(), api);
        let answer = world.run(async {
            let mut client = world.connect();
            client
                .send(format!(
                    "POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
                ))
                .await;
            client.until("ignored").await;
            client.send("x".repeat(length)).await;
            client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
            client.finish();
            client.rest().await
        });
        assert_eq!(statuses(&answer).len() + 1, responses, "{answer}");
    }
}

#[test]
fn a_body_kept_beyond_its_response_is_an_error_and_not_the_next_request() {
    thread_local!(static KEPT: RefCell<Option<Body>> = const { RefCell::new(None) });
    let world = World::new(Limits::default(), |mut request: Request| async move {
        if request.method() == Method::Post {
            KEPT.set(Some(request.take_body()));
        }
        Ok(Response::from("."))
    });
    world.run(async {
        let mut client = world.connect();
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        client.until(".").await;
        let kept = KEPT.take().unwrap();
        assert!(kept.into_string().await.is_err());
        client.until(".").await;
    });
}

#[test]
fn a_large_body_goes_both_ways_with_back_pressure() {
    let world = World::new(Limits::default(), api);
    let body: String = (0..1_000_000)
        .map(|number| char::from(b'a' + (number % 26) as u8))
        .collect();
    for path in ["/echo", "/stream-echo"] {
        world.run(async {
            let mut client = world.connect();
            let reader = smol::Async::new(client.0.get_ref().try_clone().unwrap()).unwrap();
            let mut reader = Client(reader);
            let send = async {
                client
                    .send(format!(
                        "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    ))
                    .await;
                client.send(&body).await;
            };
            let ((), answer) = smol::future::zip(send, reader.rest()).await;
            assert_eq!(statuses(&answer), [200]);
            assert!(answer.ends_with(&body), "{}", answer.len());
        });
    }
}

#[test]
fn each_deadline_ends_what_it_is_for() {
    let tiny = Duration::from_millis(10);
    let never = Duration::from_secs(3600);
    let limits = || {
        Limits::default()
            .head_timeout(never)
            .body_timeout(never)
            .write_timeout(never)
            .keep_alive_timeout(never)
            .linger_timeout(tiny)
    };
    let get = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel";
    for (limits, bytes, expected) in [
        (limits().head_timeout(tiny), "", &[][..]),
        (limits().head_timeout(tiny), "GET /", &[408]),
        (
            limits().head_timeout(tiny).keep_alive_timeout(never),
            &*format!("{get}GET /"),
            &[200, 408],
        ),
        (limits().keep_alive_timeout(tiny), get, &[200]),
        (limits().body_timeout(tiny), post, &[408]),
        (limits().handler_timeout(tiny), post, &[503]),
    ] {
        let world = World::new(limits, api);
        world.run(async {
            let mut client = world.connect();
            client.send(bytes).await;
            let answer = client.rest().await;
            assert_eq!(statuses(&answer), expected, "{bytes:?}\n{answer}");
            world.roster.empty().await;
        });
    }
    // A client that takes nothing of a large response.
    let world = World::new(limits().write_timeout(tiny), |_| async {
        Ok(Response::from("x".repeat(10_000_000)))
    });
    world.run(async {
        let mut client = world.connect();
        client.send(get).await;
        world.roster.empty().await;
    });
}

#[test]
fn a_drain_closes_idle_connections_after_a_grace_and_answers_requests_until_then() {
    let limits = Limits::default()
        .drain_grace(Duration::from_millis(1))
        .linger_timeout(Duration::from_millis(1));
    let world = World::new(limits, api);
    world.run(async {
        let get = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut fresh = world.connect();
        let mut idle = world.connect();
        idle.send(get).await;
        idle.until("GET /x").await;
        let mut half = world.connect();
        half.send(&get[..10]).await;
        let mut busy = world.connect();
        busy.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
            .await;
        while world.roster.census().busy < 2 {
            smol::future::yield_now().await;
        }
        world.roster.start_drain();
        assert_eq!(fresh.rest().await, "");
        assert_eq!(idle.rest().await, "");
        world.roster.place(3).await;
        half.send(&get[10..]).await;
        busy.send("hello").await;
        for client in [&mut half, &mut busy] {
            let answer = client.rest().await;
            assert_eq!(statuses(&answer), [200]);
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        }
        world.roster.empty().await;
    });
}

#[test]
fn a_request_within_the_grace_is_answered_and_the_last() {
    let world = World::new(Limits::default().drain_grace(PATIENCE), api);
    world.run(async {
        let get = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = world.connect();
        client.send(get).await;
        client.until("GET /x").await;
        world.roster.start_drain();
        client.send(get).await;
        let answer = client.rest().await;
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.ends_with("GET /x"), "{answer}");
    });
}

#[test]
fn a_drain_that_is_taken_back_leaves_no_trace() {
    let world = World::new(
        Limits::default().drain_grace(Duration::from_millis(200)),
        api,
    );
    world.run(async {
        let get = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = world.connect();
        client.send(get).await;
        client.until("GET /x").await;
        world.roster.start_drain();
        world.settle().await;
        world.roster.end_drain();
        world.settle().await;
        // The grace would be over by then.
        world
            .roster
            .expire(Instant::now() + Duration::from_millis(600));
        client.send(get).await;
        let answer = client.until("GET /x").await;
        assert!(!answer.contains("connection: close"), "{answer}");
        assert_eq!(world.roster.len(), 1);
    });
}

/// What is fed by somebody who first waits for an upgrade.
struct Fallback(Option<http_types::upgrade::Receiver>, &'static [u8]);

impl AsyncRead for Fallback {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        if let Some(receiver) = &mut self.0 {
            let stream = std::task::ready!(Pin::new(receiver).poll(cx));
            assert!(stream.is_none());
            self.0 = None;
        }
        Pin::new(&mut self.1).poll_read(cx, into)
    }
}

#[test]
fn whoever_waits_for_an_upgrade_that_will_not_be_hears_of_it() {
    let world = World::new(Limits::default(), |request: Request| async move {
        let mut response = Response::new(StatusCode::Ok);
        let receiver = response.recv_upgrade().await;
        let length = (request.target() == "/fixed").then_some(5);
        let body = BufReader::new(Fallback(Some(receiver), b"plain"));
        response.set_body(Body::from_reader(body, length));
        Ok(response)
    });
    world.run(async {
        for target in ["/fixed", "/chunked"] {
            let mut client = world.connect();
            client
                .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            client.finish();
            let answer = client.rest().await;
            assert!(answer.contains("plain"), "{answer}");
        }
    });
}

#[test]
fn an_upgraded_connection_speaks_on_and_stays_on_the_roster() {
    let executor = Rc::new(LocalExecutor::new());
    let tasks = Rc::clone(&executor);
    let mut world = World::new(Limits::default(), move |_: Request| {
        let tasks = Rc::clone(&tasks);
        async move {
            let mut response = Response::new(StatusCode::SwitchingProtocols);
            response.insert_header("upgrade", "echo");
            let stream = response.recv_upgrade().await;
            tasks
                .spawn(async move {
                    let mut stream = stream.await.unwrap();
                    let mut bytes = [0; 16];
                    loop {
                        match stream.read(&mut bytes).await.unwrap() {
                            0 => break,
                            count => stream.write_all(&bytes[..count]).await.unwrap(),
                        }
                    }
                })
                .detach();
            Ok(response)
        }
    });
    world.executor = executor;
    world.run(async {
        let mut client = world.connect();
        // The first bytes of the other protocol are read ahead.
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\nearly")
            .await;
        let answer = client.until("early").await;
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
        assert!(answer.contains("\r\nconnection: upgrade\r\n"), "{answer}");
        assert!(answer.contains("\r\nupgrade: echo\r\n"), "{answer}");
        assert!(!answer.contains("content-length"), "{answer}");
        world.roster.start_drain();
        client.send("late").await;
        client.until("late").await;
        assert_eq!(world.roster.census().busy, 1);
        client.finish();
        assert_eq!(client.rest().await, "");
        world.roster.empty().await;
    });
}

#[test]
fn empty_lines_do_not_keep_a_connection() {
    let get = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    for (first, draining) in [(get, false), ("\r\n", false), (get, true)] {
        let world = World::new(Limits::default(), api);
        world.run(async {
            let mut client = world.connect();
            client.send(first).await;
            if first == get {
                client.until("GET /x").await;
            }
            if draining {
                world.roster.start_drain();
            }
            world.settle().await;
            let deadlines = world.roster.deadlines();
            assert!(matches!(deadlines[..], [Some(_)]), "{deadlines:?}");
            for _ in 0..3 {
                client.send("\r\n").await;
                world.settle().await;
                assert_eq!(world.roster.deadlines(), deadlines);
            }
            let last = deadlines[0].unwrap();
            world.roster.expire(last);
            client.rest().await;
            drop(client);
            world.roster.empty().await;
        });
    }
}

/// The end of the connection is the end of the body, for HTTP/1.0.
#[test]
fn a_stream_to_the_end_that_breaks_off_does_not_look_complete() {
    let limits = Limits::default()
        .write_timeout(Duration::from_millis(50))
        .linger_timeout(Duration::from_secs(3600));
    let world = World::new(limits, |request: Request| async move {
        let mut response = Response::new(200);
        let body = match request.url().path() {
            "/whole" => Body::from_reader(Cursor::new("all of it"), None),
            path => Body::from_reader(
                BufReader::new(Source {
                    produced: Arc::default(),
                    limit: match path {
                        "/panic" => 10_000,
                        _ => usize::MAX,
                    },
                }),
                None,
            ),
        };
        response.set_body(body);
        Ok(response)
    });
    world.run(async {
        for (path, delay) in [
            ("/whole", Duration::ZERO),
            ("/panic", Duration::ZERO),
            ("/endless", Duration::from_millis(500)),
        ] {
            let mut client = world.connect_by_tcp();
            let request = format!("GET {path} HTTP/1.0\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            // Whoever does not read is given up.
            smol::Timer::after(delay).await;
            let mut bytes = Vec::new();
            let end = client.read_to_end(&mut bytes).await;
            if path == "/whole" {
                end.unwrap();
                assert!(bytes.ends_with(b"all of it"));
            } else {
                let error = end.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{path}");
            }
        }
    });
}

#[test]
fn a_few_bytes_do_not_make_the_server_gather_megabytes() {
    let handled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&handled);
    let limits = Limits::default().write_timeout(Duration::from_millis(50));
    let world = World::new(limits, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Ok(Response::from("x".repeat(64 * 1024))) }
    });
    world.run(async {
        let mut client = world.connect();
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(get.repeat(200)).await;
        world.roster.empty().await;
    });
    // What fits a socket, and a little more.
    let handled = handled.load(Ordering::Relaxed);
    assert!(handled < 20, "{handled}");
}

/// Others have their turn beside a client that sends such bytes again and again.
#[track_caller]
fn assert_modesty(flood: String) {
    let handled = Rc::new(Cell::new(0));
    let (counter, waited) = (Rc::clone(&handled), Rc::new(Cell::new(None)));
    let wait = Rc::clone(&waited);
    let world = World::new(Limits::default(), move |mut request: Request| {
        match request.target() {
            "/x" => wait.set(Some(counter.get())),
            _ => counter.set(counter.get() + 1),
        }
        // A handler that computes, so that the client is the faster one.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(20) {}
        async move {
            request.body_bytes().await?;
            Ok(Response::new(200))
        }
    });
    world.run(async {
        let mut modest = world.connect();
        modest.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        modest.until("content-length: 0").await;
        // In threads of its own, so that its socket is always full; and by TCP,
        // which has more on its way than UNIX sockets.
        let greedy = world.connect_by_tcp().into_inner().unwrap();
        greedy.set_nonblocking(false).unwrap();
        let (mut sender, mut reader) = (greedy.try_clone().unwrap(), greedy.try_clone().unwrap());
        let sending = std::thread::spawn(move || {
            // If nobody else has a turn, somebody has to end it.
            let begun = Instant::now();
            let flood = flood.repeat(100_000_usize.div_ceil(flood.len()));
            while begun.elapsed() < PATIENCE / 2 && sender.write_all(flood.as_bytes()).is_ok() {}
        });
        let reading = std::thread::spawn(move || {
            let mut bytes = vec![0; 65536];
            while reader.read(&mut bytes).is_ok_and(|count| count > 0) {}
        });
        for _ in 0..5 {
            waited.set(None);
            let before = handled.get();
            modest.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
            while waited.get().is_none() {
                smol::future::yield_now().await;
            }
            // Its own turn may have begun, and there is one more before the
            // reactor has looked.
            let turns = (waited.get().unwrap() - before) / u32::from(TURN);
            assert!(turns <= 4, "it has waited for {turns} turns");
            assert!(!sending.is_finished(), "it has waited for the end");
        }
        greedy.shutdown(Shutdown::Both).unwrap();
        sending.join().unwrap();
        reading.join().unwrap();
    });
}

/// Requests of which a buffer holds a part, or only whole ones.
#[test]
fn a_client_that_pipelines_without_end_lets_others_have_their_turn() {
    assert_modesty("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned());
    for length in [512, 4096] {
        let padding = "x".repeat(length - "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len());
        assert_modesty(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {padding}\r\n\r\n"));
    }
}

#[test]
fn a_client_that_posts_without_end_lets_others_have_their_turn() {
    let body = "x".repeat(20_000);
    let length = body.len();
    assert_modesty(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
}

/// The body of a response that looks whether there is something of the request,
/// and goes on either way.
struct Duplex {
    request: Body,
    begun: Instant,
    is_over: Arc<AtomicBool>,
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        // If nobody else has a turn, somebody has to end it.
        if self.begun.elapsed() >= PATIENCE / 2 {
            self.is_over.store(true, Ordering::Relaxed);
            return Poll::Ready(Ok(0));
        }
        let polled = Pin::new(&mut self.request).poll_read(cx, &mut [0]);
        assert!(polled.is_pending(), "{polled:?}");
        // It computes, so that the client is the faster one.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(100) {}
        into.fill(b'x');
        Poll::Ready(Ok(into.len()))
    }
}

/// To look for something in vain is no turn for others.
#[test]
fn a_response_that_looks_at_its_request_lets_others_have_their_turn() {
    let is_over = Arc::<AtomicBool>::default();
    let over = Arc::clone(&is_over);
    let world = World::new(Limits::default(), move |mut request: Request| {
        let is_over = Arc::clone(&over);
        async move {
            let mut response = Response::new(200);
            if request.target() == "/duplex" {
                response.set_body(Body::from_reader(
                    BufReader::new(Duplex {
                        request: request.take_body(),
                        begun: Instant::now(),
                        is_over,
                    }),
                    None,
                ));
            }
            Ok(response)
        }
    });
    world.run(async {
        let mut modest = world.connect();
        let mut greedy = world.connect_by_tcp().into_inner().unwrap();
        greedy.set_nonblocking(false).unwrap();
        let post = "POST /duplex HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
        greedy.write_all(post.as_bytes()).unwrap();
        let mut reader = greedy.try_clone().unwrap();
        let (begins, begun) = smol::channel::bounded(1);
        let reading = std::thread::spawn(move || {
            let mut bytes = vec![0; 65536];
            while reader.read(&mut bytes).is_ok_and(|count| count > 0) {
                let _ = begins.try_send(());
            }
        });
        begun.recv().await.unwrap();
        modest.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        modest.until("\r\n\r\n").await;
        assert!(
            !is_over.load(Ordering::Relaxed),
            "it has waited for the end"
        );
        greedy.shutdown(Shutdown::Both).unwrap();
        reading.join().unwrap();
    });
}

/// A request that comes in the moment in which the patience is over, so that
/// nobody has told the server of it yet, is answered.
#[test]
fn a_request_that_comes_when_the_patience_is_over_is_answered() {
    let world = World::new(Limits::default().head_timeout(Duration::ZERO), api);
    // The reactor is not driven.
    let run = || while world.executor.try_tick() {};
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    // The second one fills the first read with empty lines.
    for request in [get.to_owned(), "\r\n".repeat(4096) + get] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        world.accept(ours.into());
        run();
        theirs.write_all(request.as_bytes()).unwrap();
        world.roster.expire(Instant::now());
        run();
        theirs.set_nonblocking(true).unwrap();
        let mut answer = [0; 4096];
        let length = theirs.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 "));
    }
}

/// They are read faster than they come, so they are there before the server is.
#[test]
fn a_client_that_sends_empty_lines_only_lets_others_have_their_turn() {
    let world = World::new(Limits::default(), api);
    let reactor = Arc::clone(&world.protocol.reactor);
    let _drive = world.executor.spawn(async move { reactor.drive().await });
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let left = || rustix::io::ioctl_fionread(&ours).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 212_992).unwrap();
    theirs.set_nonblocking(true).unwrap();
    while theirs.write(&b"\r\n".repeat(100_000)).is_ok() {}
    // A read is one of 8 KiB.
    let most = u64::from(TURN) * 8192;
    assert!(left() > most, "{} bytes", left());
    world.accept(ours.try_clone().unwrap().into());
    let begun = Instant::now();
    while left() > 0 {
        assert!(begun.elapsed() < PATIENCE, "{} bytes are left", left());
        let before = left();
        if !world.executor.try_tick() {
            std::thread::yield_now();
        }
        let read = before - left();
        assert!(read <= most, "{read} bytes in a turn");
    }
}

/// Although there is always something to read when the patience is over.
#[test]
fn a_client_that_sends_empty_lines_without_end_is_not_kept() {
    let tiny = Duration::from_millis(10);
    let world = World::new(
        Limits::default().head_timeout(tiny).linger_timeout(tiny),
        api,
    );
    world.run(async {
        let mut greedy = world.connect_by_tcp().into_inner().unwrap();
        greedy.set_nonblocking(false).unwrap();
        let sending = std::thread::spawn(move || {
            let begun = Instant::now();
            while begun.elapsed() < PATIENCE / 2 {
                if greedy.write_all("\r\n".repeat(50_000).as_bytes()).is_err() {
                    return true;
                }
            }
            false
        });
        world.roster.empty().await;
        assert!(sending.join().unwrap(), "it was kept");
    });
}

/// A ledger and what is noted in it.
fn ledger() -> (Ledger, Rc<Notes>) {
    let ledger = Ledger::create().unwrap();
    let notes = Notes::open(ledger.as_fd().try_clone_to_owned().unwrap()).unwrap();
    (ledger, notes)
}

fn past(bytes: &str, waited: Duration) -> Past {
    Past {
        served: true,
        since: Instant::now() - waited,
        bytes: bytes.as_bytes().into(),
    }
}

#[test]
fn the_ledger_tells_whether_a_request_may_have_been_read() {
    let world = World::new(Limits::default(), api);
    world.run(async {
        for begun in ["", "GET / HT"] {
            let (ledger, notes) = ledger();
            let rest = &"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[begun.len()..];
            let mut client = world.adopt(past(begun, Duration::ZERO), &notes);
            world.settle().await;
            assert_eq!(ledger.read(1), [Trace::Untouched], "{begun:?}");
            client.send(&rest[..rest.len() - 1]).await;
            while ledger.read(1) == [Trace::Untouched] {
                smol::future::yield_now().await;
            }
            assert_eq!(ledger.read(1), [Trace::InUse]);
            client.send("\n").await;
            client.until("GET /").await;
            while ledger.read(1) == [Trace::InUse] {
                smol::future::yield_now().await;
            }
            assert_eq!(ledger.read(1), [Trace::Clean]);
            client.finish();
            assert_eq!(client.rest().await, "");
            world.roster.empty().await;
            assert_eq!(ledger.read(1), [Trace::Closed]);
        }
    });
}

#[test]
fn a_request_that_came_along_whole_is_noted_before_it_is_handled() {
    let (ledger, notes) = ledger();
    let traces = Rc::new(RefCell::new(Vec::new()));
    let (seen, ledger) = (Rc::clone(&traces), Rc::new(ledger));
    let handler = move |_| {
        seen.borrow_mut().extend(ledger.read(1));
        async { Ok(Response::new(200)) }
    };
    let world = World::new(Limits::default(), handler);
    world.run(async {
        let whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = world.adopt(past(whole, Duration::ZERO), &notes);
        client.until("\r\n\r\n").await;
        assert_eq!(*traces.borrow(), [Trace::InUse]);
    });
}

#[test]
fn time_spent_waiting_in_another_process_counts() {
    let world = World::new(Limits::default(), api);
    world.run(async {
        let (_ledger, notes) = ledger();
        let hour = Duration::from_secs(3600);
        let mut client = world.adopt(past("GET / HT", hour), &notes);
        assert_eq!(statuses(&client.rest().await), [408]);
        let mut client = world.adopt(past("", hour), &notes);
        assert_eq!(client.rest().await, "");
    });
}

/// What the request before it has taken is not held against a head.
#[test]
fn a_head_that_came_along_behind_a_request_begins_when_that_is_answered() {
    let world = World::new(Limits::default(), api);
    world.run(async {
        let (_ledger, notes) = ledger();
        let hour = Duration::from_secs(3600);
        let whole = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = world.adopt(past(&format!("{whole}GET /b HT"), hour), &notes);
        client.until("GET /a").await;
        world.settle().await;
        client.send("TP/1.1\r\nHost: a\r\n\r\n").await;
        client.finish();
        let answer = client.rest().await;
        assert_eq!(statuses(&answer), [200], "{answer}");
    });
}

#[test]
fn the_future_of_an_idle_connection_is_small() {
    let world = World::new(Limits::default(), api);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let parcel = Parcel::fresh(ours.into(), world.roster.admit(Peer::Unix, ""));
    let future = serve(parcel, Rc::clone(&world.protocol));
    assert!(size_of_val(&future) <= 176, "{}", size_of_val(&future));
    // One that is larger than 1,032 bytes does not come out of the fast lists
    // of malloc(3); the rest is for the future of a handler that does more.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let handler = Protocol::new(
        |request: Request| async move { Ok(Response::from(request.target())) },
        Limits::default(),
        Status::new(1),
        Reactor::new().unwrap(),
    );
    let ours = Socket::new(&handler.reactor, ours.into()).unwrap();
    let ticket = world.roster.admit(Peer::Unix, "");
    let conversation = Conversation::new(ours, ticket, &handler).run();
    let size = size_of_val(&conversation);
    assert!(size <= 720, "{size}");
}

#[test]
fn a_body_can_be_read_by_another_thread() {
    let handler = |mut request: Request| async move {
        let body = request.take_body();
        let read = std::thread::spawn(|| smol::block_on(body.into_string()));
        let text = smol::unblock(|| read.join().unwrap()).await?;
        Ok(Response::from(text))
    };
    let world = World::new(Limits::default(), handler);
    let expecting =
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    world.run(async {
        let mut client = world.connect();
        client.send(expecting).await;
        client.until("100 Continue\r\n\r\n").await;
        client.send("hello").await;
        client.until("hello").await;
    });
    let limits = Limits::default().body_timeout(Duration::from_millis(10));
    let world = World::new(limits, handler);
    world.run(async {
        let mut client = world.connect();
        client.send(expecting).await;
        let answer = client.rest().await;
        assert_eq!(statuses(&answer), [100, 408], "{answer}");
    });
}

/// The handler looks at the body, and then does something else for longer than
/// a client may let it wait. What the client has sent meanwhile is not late.
#[test]
fn a_body_that_nobody_asks_for_is_not_late() {
    let tiny = Duration::from_millis(10);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = theirs.try_clone().unwrap();
    let limits = Limits::default().body_timeout(tiny);
    let world = World::new(limits, move |mut request: Request| {
        let client = client.try_clone();
        async move {
            let nothing = smol::future::poll_once(request.read(&mut [0])).await;
            assert!(nothing.is_none());
            // Here, so that it comes in time also on a busy machine.
            client?.write_all(b"hello")?;
            smol::Timer::after(tiny * 5).await;
            Ok(Response::from(request.body_string().await?))
        }
    });
    world.run(async {
        world.accept(ours.into());
        let mut client = Client(smol::Async::new(theirs).unwrap());
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        client.send(head).await;
        let answer = client.until("\r\n\r\n").await;
        assert_eq!(statuses(&answer), [200], "{answer}");
    });
}

#[test]
fn a_panic_ends_neither_the_connection_nor_the_server() {
    let answer = answer_of(
        Limits::default(),
        api,
        "GET /panic HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(statuses(&answer), [500, 200], "{answer}");
    // Outside of the future, too.
    let panics = |_| -> std::future::Ready<http_types::Result<Response>> { panic!("as asked") };
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = answer_of(Limits::default(), panics, get.repeat(2));
    assert_eq!(statuses(&answer), [500, 500], "{answer}");
}

#[test]
fn a_panic_while_a_handler_is_dropped_ends_its_connection_only() {
    struct Explosive;
    impl Drop for Explosive {
        fn drop(&mut self) {
            panic!("as asked");
        }
    }
    let limits = Limits::default().handler_timeout(Duration::from_millis(10));
    let world = World::new(limits, |request: Request| async move {
        if request.url().path() == "/late" {
            let _explosive = Explosive;
            std::future::pending::<()>().await;
        }
        Ok(Response::from("fine"))
    });
    world.run(async {
        let mut client = world.connect();
        client.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.rest().await;
        world.roster.empty().await;
        let mut client = world.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.until("fine").await;
    });
}

/// Whatever comes in whatever pieces: no panic, no hang, and never more final
/// responses than there are line ends that could end a request line.
#[test]
fn noise_is_answered_within_bounds() {
    const PIECES: [&str; 24] = [
        "GET / HTTP/1.1\r\n",
        "POST /echo HTTP/1.1\r\n",
        "POST /stream-echo HTTP/1.1\r\n",
        "POST /ignore HTTP/1.0\r\n",
        "HEAD /chunks HTTP/1.1\r\n",
        "GET /short HTTP/1.1\r\n",
        "GET /panic HTTP/1.1\r\n",
        "Host: a\r\n",
        "Host: a\r\n\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "Connection: keep-alive\r\n",
        "Connection: close\r\n",
        "X: \u{e9}\r\n",
        "\r\n",
        "\r",
        "\n",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "hello",
        ":",
        "\0",
        " ",
    ];
    let limits = Limits::default()
        .head_timeout(Duration::ZERO)
        .body_timeout(Duration::ZERO)
        .linger_timeout(Duration::ZERO);
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move |below: usize| {
        // Xorshift: the same noise in every run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let world = World::new(limits, api);
    world.run(async {
        for _ in 0..1000 {
            let mut bytes = String::new();
            let mut client = world.connect();
            for _ in 0..=random(12) {
                // Mostly what can follow a request line, so that some are valid.
                let piece = match bytes.is_empty() {
                    true => PIECES[random(7)],
                    false => PIECES[random(PIECES.len())],
                };
                bytes.push_str(piece);
                // The server may have closed.
                if client.0.write_all(piece.as_bytes()).await.is_err() {
                    break;
                }
                if random(3) == 0 {
                    smol::future::yield_now().await;
                }
            }
            let _ = client.0.get_ref().shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            // A reset is an end, too.
            let _ = client.0.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer);
            let finals = statuses(&answer)
                .iter()
                .filter(|&&status| status != 100)
                .count();
            assert!(
                finals <= bytes.matches('\n').count() + 1,
                "{bytes:?}\n{answer}"
            );
            world.roster.empty().await;
        }
    });
}

#[test]
fn head_and_body_leave_in_one_send_and_so_do_pipelined_responses() {
    let world = World::new(Limits::default(), api);
    world.run(async {
        let mut client = world.connect_by_packets();
        let get = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        for count in [1, 20] {
            client.send(get.repeat(count)).await;
            let mut packet = vec![0; 65536];
            let length = client.0.read(&mut packet).await.unwrap();
            let answer = String::from_utf8_lossy(&packet[..length]);
            assert_eq!(statuses(&answer), vec![200; count]);
            assert!(answer.ends_with("\r\n\r\nGET /x"), "{answer}");
        }
    });
}

#[test]
fn earlier_responses_do_not_wait_for_a_slow_handler() {
    let world = World::new(Limits::default(), |request: Request| async move {
        if request.target() == "/never" {
            std::future::pending::<()>().await;
        }
        Ok(Response::from("."))
    });
    world.run(async {
        let mut client = world.connect();
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        client.until(".").await;
    });
}

#[test]
fn a_streamed_response_leaves_as_it_comes() {
    thread_local!(static SOURCE: RefCell<Option<UnixStream>> = const { RefCell::new(None) });
    let world = World::new(Limits::default(), |_: Request| async {
        let (source, sink) = UnixStream::pair()?;
        SOURCE.set(Some(source));
        let reader = BufReader::new(smol::Async::new(sink)?);
        let mut response = Response::new(200);
        response.set_body(Body::from_reader(reader, None));
        Ok(response)
    });
    world.run(async {
        let mut client = world.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.until("\r\n\r\n").await;
        assert!(
            head.contains("\r\ntransfer-encoding: chunked\r\n"),
            "{head}"
        );
        let source = SOURCE.take().unwrap();
        for (piece, chunk) in [("a", "1\r\na\r\n"), ("bcd", "3\r\nbcd\r\n")] {
            (&source).write_all(piece.as_bytes()).unwrap();
            assert_eq!(client.until(chunk).await, chunk);
        }
        drop(source);
        client.until("0\r\n\r\n").await;
    });
}

/// Produces bytes for ever, or panics.
struct Source {
    produced: Arc<AtomicUsize>,
    limit: usize,
}

impl AsyncRead for Source {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let produced = self.produced.fetch_add(into.len(), Ordering::Relaxed);
        assert!(produced < self.limit, "as asked");
        into.fill(b'.');
        Poll::Ready(Ok(into.len()))
    }
}

#[test]
fn a_streamed_response_waits_for_its_reader() {
    let produced = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&produced);
    let limits = Limits::default().write_timeout(Duration::from_millis(50));
    let world = World::new(limits, move |_: Request| {
        let produced = Arc::clone(&counter);
        async {
            let limit = usize::MAX;
            let mut response = Response::new(200);
            let source = BufReader::new(Source { produced, limit });
            response.set_body(Body::from_reader(source, None));
            Ok(response)
        }
    });
    world.run(async {
        let mut client = world.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        world.roster.empty().await;
    });
    // What the socket and the buffers hold, not gigabytes.
    let produced = produced.load(Ordering::Relaxed);
    assert!(produced < 4_000_000, "{produced}");
}

#[test]
fn a_body_that_panics_ends_its_connection_only() {
    let world = World::new(Limits::default(), |_: Request| async {
        let source = Source {
            produced: Arc::default(),
            limit: 100_000,
        };
        let mut response = Response::new(200);
        response.set_body(Body::from_reader(BufReader::new(source), None));
        Ok(response)
    });
    world.run(async {
        for _ in 0..2 {
            let mut client = world.connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = client.rest().await;
            assert_eq!(statuses(&answer), [200]);
            assert!(!answer.ends_with("0\r\n\r\n"));
        }
    });
}

/// A parcel has its limit. Who waits with more than that cannot follow a call,
/// and is not to be called again and again.
#[test]
fn who_has_read_too_much_to_leave_is_not_left_behind() {
    for (length, is_left) in [(100, true), (70_000, false)] {
        let limits = Limits::default().max_head_bytes(128 * 1024);
        let world = World::new(limits, api);
        world.run(async {
            let mut client = world.connect();
            world.settle().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\nLong: ").await;
            client.send("x".repeat(length)).await;
            world.settle().await;
            let waiting = world.roster.waiting();
            assert_eq!(waiting.len(), 1);
            assert!(world.roster.call(waiting[0]));
            world.settle().await;
            assert!(!world.roster.is_calling());
            assert_eq!(world.roster.has_left_behind(), is_left, "{length}");
            client.send("\r\n\r\n").await;
            client.finish();
            assert_eq!(statuses(&client.rest().await), [200]);
        });
    }
}
