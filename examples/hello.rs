//! The smallest service that replaces itself on SIGHUP.
// How to try it: cargo run --release --example hello, and type what it says.

use std::{io::Write, process::ExitCode};

use heirloom::{Phase, Response, Server};

fn main() -> heirloom::Result<ExitCode> {
    heirloom::run(|generation| {
        let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
        Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
            .generation(generation)
            .listen(&address)
            .on_transition(|transition| {
                if let (Phase::Serving, [at, ..]) = (transition.phase(), transition.listeners()) {
                    let pid = std::process::id();
                    let how = format!("restart: kill -HUP {pid}; stop: kill -TERM {pid}");
                    // Not `println!`, which panics once the terminal is gone.
                    let _ = writeln!(std::io::stdout(), "listening on {at} as {pid}; {how}");
                }
            })
            .serve()
    })
}
