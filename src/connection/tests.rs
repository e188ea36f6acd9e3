//! Whole connections, over socket pairs: bytes in, bytes out.

use std::future::Future;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use http_types::{Body, Method, Response, StatusCode};
use smol::LocalExecutor;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::{Handler, Protocol, serve};
use crate::limits::Limits;
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
            protocol: Rc::new(Protocol::new(handler, limits, Status::new(1))),
        }
    }

    fn connect(&self) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ticket = self.roster.admit(Peer::Unix);
        self.executor
            .spawn(serve(
                OwnedFd::from(ours),
                ticket,
                Rc::clone(&self.protocol),
            ))
            .detach();
        Client(smol::Async::new(theirs).unwrap())
    }

    fn run<T>(&self, story: impl Future<Output = T>) -> T {
        let roster = Rc::clone(&self.roster);
        let sweep = self.executor.spawn(async move { roster.sweep().await });
        let result = smol::block_on(self.executor.run(smol::future::or(
            async { Some(story.await) },
            async {
                smol::Timer::after(PATIENCE).await;
                None
            },
        )));
        drop(sweep);
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

async fn hello(_: Request) -> http_types::Result<Response> {
    Ok("hello".into())
}

#[test]
fn requests_are_answered_one_after_the_other_on_one_connection() {
    let world = World::new(Limits::default(), hello);
    world.run(async {
        let mut client = world.connect();
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = client.until("hello").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
        client.finish();
        assert_eq!(client.rest().await, "");
    });
}
