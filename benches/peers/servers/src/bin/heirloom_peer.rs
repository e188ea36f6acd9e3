//! heirloom, as a user would write it: `SIGHUP` starts a successor, which gets
//! the listening socket and the open connections.

use std::process::ExitCode;
use std::time::Duration;

use heirloom::{Request, Response, Server};
use heirloom_bench_peer_servers::{DRAIN, Peer, answer};

/// How long a successor may take to become ready: what ecdysis, which has no
/// setting for it, allows, instead of our default of 30 seconds.
const READY: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<ExitCode> {
    let peer = Peer::from_environment()?;
    let exit = heirloom::run(|generation| {
        let address = peer.address;
        Server::new(respond)
            .generation(generation)
            .listen(address)
            .ready_timeout(READY)
            .drain_timeout(DRAIN)
            .on_transition(move |transition| {
                // The first one is that this process begins to serve.
                if transition.from().is_none() {
                    peer.serving();
                }
            })
            .serve()
    })?;
    Ok(exit)
}

async fn respond(mut request: Request) -> http_types::Result<Response> {
    request.body_bytes().await?;
    let query = request.target().split_once('?').map(|(_, query)| query);
    let mut response = Response::from(answer(query));
    response.insert_header("content-type", "text/plain");
    Ok(response)
}
