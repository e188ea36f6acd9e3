//! The smallest service that replaces itself on SIGHUP.
// How to try it: cargo run --release --example hello, and type what it says.

use std::io::Write;

use heirloom::{Phase, Response, Server};

fn main() -> heirloom::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
    Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
        .listen(&address)
        .on_transition(|transition| {
            if let (Phase::Serving, [address, ..]) = (transition.phase(), transition.listeners()) {
                let pid = std::process::id();
                // Not `println!`, which panics once the terminal is gone.
                let _ = writeln!(
                    std::io::stdout(),
                    "listening on {address} as {pid}; restart: kill -HUP {pid}; stop: kill -TERM {pid}"
                );
            }
        })
        .run()
}
