//! No HTTP: a service that sends back what it gets, over connections that live
//! through restarts.
//!
//! ```text
//! $ cargo run --release --example tcp_echo
//! listening on 127.0.0.1:7000 as 1234; restart: kill -HUP 1234; stop: kill -TERM 1234
//!
//! $ # In another terminal; type something, restart the service, type on.
//! $ nc 127.0.0.1 7000
//! ```
//!
//! Each line is answered with the pid in front of it, so that it can be seen
//! which process answers. What has come of a line that is not complete goes
//! along when the connection moves.

use std::io::Write;
use std::process::ExitCode;

use heirloom::{Connection, Phase, Rest, Served, Server, Transition};
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The longest line that is waited for.
const LONGEST: usize = 4096;

fn main() -> heirloom::Result<ExitCode> {
    heirloom::run(|generation| {
        let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7000".into());
        Server::raw(echo)
            .generation(generation)
            .listen(&address)
            .on_transition(announce)
            .serve()
    })
}

async fn echo(mut connection: Connection) -> Served {
    // The beginning of a line that the predecessor has read.
    let mut line = connection.take_luggage().into_vec();
    let mut bytes = [0; LONGEST];
    loop {
        connection = match connection.rest(&line).await {
            Rest::Readable(connection) => connection,
            // The successor goes on with it.
            Rest::Moved => return Ok(()),
            // It cannot move, and its peer owes us nothing that we would have
            // to wait for.
            Rest::Draining(mut connection) => return Ok(connection.close().await?),
        };
        let count = connection.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        line.extend_from_slice(&bytes[..count]);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let rest = line.split_off(end + 1);
            let mut answer = format!("{}: ", std::process::id()).into_bytes();
            answer.append(&mut line);
            connection.write_all(&answer).await?;
            line = rest;
        }
        if line.len() > LONGEST {
            return Err("the line is too long".into());
        }
    }
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
