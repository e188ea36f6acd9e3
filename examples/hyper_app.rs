//! hyper on our listeners: the lifecycle without our HTTP.
//!
//! ```text
//! $ cargo run --release --example hyper_app
//! listening on 127.0.0.1:8000 as 1234; restart: kill -HUP 1234; stop: kill -TERM 1234
//!
//! $ curl -i http://127.0.0.1:8000/
//! ```
//!
//! Connections that have not said anything yet move to a successor. hyper keeps
//! what it has read to itself, so a connection that it serves stays where it is,
//! and is shut down gracefully in a restart: what is in flight is answered,
//! with `Connection: close`. Idle ones are closed, which races with a next
//! request; `Server::new` does not have that problem.

use std::convert::Infallible;
use std::io::Write;
use std::pin::pin;
use std::process::ExitCode;

use heirloom::{Connection, Phase, Rest, Served, Server, Transition};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use smol::future::{self, FutureExt as _};
use smol_hyper::rt::FuturesIo;

fn main() -> heirloom::Result<ExitCode> {
    heirloom::run(|generation| {
        let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
        Server::raw(serve)
            .generation(generation)
            .listen(&address)
            .on_transition(announce)
            .serve()
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let pid = std::process::id();
    let path = request.uri().path();
    Ok(Response::new(format!("{path} from process {pid}\n")))
}

async fn serve(connection: Connection) -> Served {
    let connection = match connection.rest(&[]).await {
        Rest::Readable(connection) => connection,
        Rest::Moved | Rest::Draining(_) => return Ok(()),
    };
    let status = connection.status().clone();
    let http =
        http1::Builder::new().serve_connection(FuturesIo::new(connection), service_fn(answer));
    let mut http = pin!(http);
    let over = async { Some(http.as_mut().await) };
    let draining = async {
        status.draining().await;
        None
    };
    match over.or(draining).await {
        Some(served) => served?,
        None => {
            http.as_mut().graceful_shutdown();
            future::poll_fn(|cx| http.as_mut().poll(cx)).await?;
        }
    }
    Ok(())
}

fn announce(transition: &Transition) {
    if let (Phase::Serving, [address, ..]) = (transition.phase(), transition.listeners()) {
        let pid = std::process::id();
        // Not `println!`, which panics once the terminal is gone.
        let _ = writeln!(
            std::io::stdout(),
            "listening on {address} as {pid}; restart: kill -HUP {pid}; stop: kill -TERM {pid}"
        );
    }
}
