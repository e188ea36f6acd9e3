//! What a request takes of http-types, without a server around it: the floor of
//! every server whose handlers speak http-types.

use std::env;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Waker};

use anyhow::Context as _;
use heirloom::http_types::{Method, Request, Response};
use smol::io::AsyncRead;

use crate::BODY;

/// Makes, reads and drops a request and its response, as often as the first
/// argument says.
pub fn run() -> anyhow::Result<()> {
    let count: u64 = env::args()
        .nth(1)
        .context("how many requests?")?
        .parse()
        .context("the number of requests is none")?;
    let mut known = Request::new(Method::Get, "http://localhost/");
    known.insert_header("host", "localhost");
    // A copy has no channel for trailers: the cheapest way to a request.
    let known = known.clone();
    for _ in 0..count {
        exchange(&known);
    }
    Ok(())
}

fn exchange(known: &Request) {
    let request = black_box(known.clone());
    let mut response = black_box(Response::from(BODY));
    for (name, values) in &response {
        black_box((name.as_str(), values.as_str()));
    }
    let mut bytes = [0; 64];
    let polled =
        Pin::new(&mut response).poll_read(&mut Context::from_waker(Waker::noop()), &mut bytes);
    black_box((polled.is_ready(), bytes));
    drop((request, response));
}
