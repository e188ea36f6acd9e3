//! hyper 1 with the restarts of the crate ecdysis: `SIGHUP` starts a successor
//! that inherits the listening socket, and its readiness ends this process.

use std::pin::pin;

use anyhow::anyhow;
use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use heirloom_bench_peer_servers::{BACKLOG, DRAIN, Peer, http};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

fn main() -> anyhow::Result<()> {
    let peer = Peer::from_environment()?;
    http::run(serve(peer))
}

async fn serve(peer: Peer) -> anyhow::Result<()> {
    let mut builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    builder.stop_on_signal(SignalKind::terminate())?;
    let mut sockets =
        builder.build_listen_tcp(StopOnShutdown::Yes, peer.address, |socket, address| {
            // Called only if there is nothing to inherit.
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })?;
    // Nothing is accepted earlier: the predecessor may still kill this process.
    let (_ecdysis, over) = builder.ready()?;
    peer.serving();

    let graceful = GracefulShutdown::new();
    let mut over = pin!(over);
    loop {
        tokio::select! {
            over = &mut over => {
                over.map_err(|reason| anyhow!(reason))?;
                break;
            }
            Some(socket) = sockets.next() => {
                // A client that is gone before it was accepted is no failure.
                if let Ok(socket) = socket {
                    tokio::spawn(graceful.watch(http::connection(socket)));
                }
            }
        }
    }
    drop(sockets);
    // What is still open then is cut off, as by the crate's own example.
    let _ = timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}
