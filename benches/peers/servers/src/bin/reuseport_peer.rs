//! hyper 1 with what `SO_REUSEPORT` alone offers: whoever restarts the service
//! starts a second process beside the first one, and stops that with `SIGTERM`
//! as soon as the second one accepts.

use heirloom_bench_peer_servers::{BACKLOG, DRAIN, Peer, http};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

fn main() -> anyhow::Result<()> {
    let peer = Peer::from_environment()?;
    http::run(serve(peer))
}

async fn serve(peer: Peer) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = bind(&peer)?;
    peer.serving();

    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            accepted = listener.accept() => {
                // A client that is gone before it was accepted is no failure.
                if let Ok((socket, _)) = accepted {
                    tokio::spawn(graceful.watch(http::connection(socket)));
                }
            }
        }
    }
    // Every socket on the port has a queue of its own, and what waits in this
    // one is reset when it is closed. Asking the system until it has nothing
    // more leaves as little time for that as there can be without changes to
    // the kernel's settings (`net.ipv4.tcp_migrate_req`); tokio's listener
    // would only know what had come before its last look.
    let listener = listener.into_std()?;
    while let Ok((socket, _)) = listener.accept() {
        socket.set_nonblocking(true)?;
        let socket = TcpStream::from_std(socket)?;
        tokio::spawn(graceful.watch(http::connection(socket)));
    }
    drop(listener);
    let _ = timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}

fn bind(peer: &Peer) -> anyhow::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(peer.address)?;
    Ok(socket.listen(BACKLOG as u32)?)
}
