//! hyper 1 with the restarts of the crate shellflip: `SIGHUP` starts a
//! successor, and its readiness ends this process.
//!
//! The crate passes no listening sockets. Its example binds another one in
//! every process, with a port of its own; but it passes on what systemd has
//! said about sockets that come with the process, corrected to the PID of the
//! successor. So this peer gives its successor the socket as systemd would:
//! nothing is bound twice, and one queue of connections serves all generations.

use std::os::fd::AsRawFd as _;
use std::pin::pin;

use heirloom_bench_peer_servers::{DRAIN, Peer, http};
use hyper_util::server::graceful::GracefulConnection as _;
use listenfd::ListenFd;
use shellflip::{RestartConfig, ShutdownCoordinator, ShutdownSignal};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<()> {
    // It changes the environment, so it comes before there is a second thread.
    shellflip::fixup_systemd_env();
    let peer = Peer::from_environment()?;
    http::run(serve(peer))
}

async fn serve(peer: Peer) -> anyhow::Result<()> {
    let listener = match ListenFd::from_env().take_tcp_listener(0)? {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            listener
        }
        None => peer.bind()?,
    };
    // A duplicate is inherited by every child, and the successor is the only
    // one that this process has.
    let bequest = rustix::io::dup(&listener)?;
    let config = RestartConfig {
        environment: vec![
            ("LISTEN_FDS".into(), "1".into()),
            (
                "LISTEN_FDS_FIRST_FD".into(),
                bequest.as_raw_fd().to_string().into(),
            ),
        ],
        // By default a successor that fails takes its predecessor with it.
        exit_on_error: false,
        restart_signal: SignalKind::hangup(),
        ..RestartConfig::default()
    };
    let mut restarted = pin!(config.try_into_restart_task()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::from_std(listener)?;
    let coordinator = ShutdownCoordinator::new();
    peer.serving();

    loop {
        tokio::select! {
            // The first poll of this tells the predecessor that we are ready.
            successor = &mut restarted => {
                successor?;
                break;
            }
            _ = terminate.recv() => break,
            accepted = listener.accept() => {
                // A client that is gone before it was accepted is no failure.
                let Ok((socket, _)) = accepted else { continue };
                let handle = coordinator.handle();
                tokio::spawn(async move {
                    let mut shutdown = ShutdownSignal::from(&*handle);
                    let mut connection = pin!(http::connection(socket));
                    loop {
                        tokio::select! {
                            _ = connection.as_mut() => break,
                            _ = shutdown.on_shutdown() => {
                                connection.as_mut().graceful_shutdown();
                            }
                        }
                    }
                });
            }
        }
    }
    drop((listener, bequest));
    coordinator.shutdown_with_timeout(DRAIN.as_secs()).await;
    Ok(())
}
