//! A Tide application, served and restarted by heirloom.
//!
//! ```text
//! $ cargo run --release --manifest-path examples/tide_app/Cargo.toml
//! listening on 127.0.0.1:8000 as 1234; restart: kill -HUP 1234; stop: kill -TERM 1234
//!
//! $ curl http://127.0.0.1:8000/hello/world
//! ```
//!
//! Routes and middleware are Tide's; connections, and their life over
//! restarts, are heirloom's. Between them is a request of `http_types`, which
//! both speak.

use std::io::Write;
use std::process::ExitCode;

use heirloom::{Phase, Server, Transition};

fn main() -> heirloom::Result<ExitCode> {
    heirloom::run(|generation| {
        let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
        let app = app();
        Server::new(move |request| {
            let app = app.clone();
            async move { app.respond(request).await }
        })
        .generation(generation)
        .listen(&address)
        .on_transition(announce)
        .serve()
    })
}

fn app() -> tide::Server<()> {
    let mut app = tide::new();
    app.at("/").get(|_| async { Ok("Hello, Tide!\n") });
    app.at("/pid")
        .get(|_| async { Ok(format!("{}\n", std::process::id())) });
    app.at("/hello/:name")
        .get(|request: tide::Request<()>| async move {
            Ok(format!("Hello, {}!\n", request.param("name")?))
        });
    app
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
