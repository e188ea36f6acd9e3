//! Bare async-h1 on smol, without restarts: whoever restarts the service stops
//! it with `SIGTERM`, waits for its end and starts it again.

use std::cell::Cell;
use std::rc::Rc;

use async_h1::server::{ConnectionStatus, Server};
use async_net::{TcpListener, TcpStream};
use async_signal::{Signal, Signals};
use heirloom_bench_peer_servers::{DRAIN, Peer, answer};
use http_types::headers::{CONNECTION, CONTENT_TYPE};
use http_types::{Request, Response};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{self, FutureExt as _};
use smol::stream::StreamExt as _;
use smol::{LocalExecutor, Timer};

fn main() -> anyhow::Result<()> {
    let peer = Peer::from_environment()?;
    let executor = Rc::new(LocalExecutor::new());
    // That of async-io, which waits for events on this thread. With the one of
    // `smol::future` they would all come from a second one.
    smol::block_on(executor.run(serve(&executor, peer)))
}

async fn serve(executor: &Rc<LocalExecutor<'static>>, peer: Peer) -> anyhow::Result<()> {
    let mut signals = Signals::new([Signal::Term])?;
    let listener = TcpListener::try_from(peer.bind()?)?;
    peer.serving();

    // Nothing is ever sent on these: the first one is closed when the server
    // stops, the second one when its last connection has ended.
    let (serving, stop) = bounded(1);
    let (open, all_closed) = bounded(1);
    let accept = async {
        loop {
            // A client that is gone before it was accepted is no failure.
            if let Ok((socket, _)) = listener.accept().await {
                let conversation = converse(socket, stop.clone(), open.clone());
                executor.spawn(conversation).detach();
            }
        }
    };
    let stopped = async {
        signals.next().await;
    };
    stopped.or(accept).await;
    drop((listener, serving, open));
    let closed = async {
        let _ = all_closed.recv().await;
    };
    let late = async {
        Timer::after(DRAIN).await;
    };
    closed.or(late).await;
    Ok(())
}

/// Serves a connection to its end, or to the end of the request it is at when
/// the server stops. async-h1 has no way of its own to end one early, but it
/// has one to serve a single request.
async fn converse(socket: TcpStream, stop: Receiver<()>, _open: Sender<()>) {
    let _ = socket.set_nodelay(true);
    let busy = Cell::new(false);
    let mut server = Server::new(socket, |request| {
        busy.set(true);
        respond(request, &stop)
    });
    while !stop.is_closed() {
        busy.set(false);
        let idle_at_the_stop = async {
            let _ = stop.recv().await;
            if busy.get() {
                future::pending::<()>().await;
            }
            Ok(ConnectionStatus::Close)
        };
        // A client that goes away is no failure of the server.
        let Ok(ConnectionStatus::KeepAlive) = server.accept_one().or(idle_at_the_stop).await else {
            return;
        };
    }
}

async fn respond(mut request: Request, stop: &Receiver<()>) -> http_types::Result<Response> {
    request.body_bytes().await?;
    let mut response = Response::from(answer(request.url().query()));
    response.insert_header(CONTENT_TYPE, "text/plain");
    if stop.is_closed() {
        response.insert_header(CONNECTION, "close");
    }
    Ok(response)
}
