//! heirloom, as a user would write it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use heirloom::http_types::{self, Body, StatusCode};
use heirloom::{Limits, Request, Response, Server};
use smol::io::{AsyncBufRead, AsyncRead};

use super::{address, announce};
use crate::{BODY, CHUNK, ECHO, LARGE, LARGE_BYTES};

/// Serves until the process is stopped.
pub fn run() -> heirloom::Result<()> {
    let mut announced = false;
    Server::new(answer)
        .listen(address())
        // The others have no limit but that of open files.
        .limits(Limits::default().max_connections(usize::MAX))
        .on_transition(move |transition| {
            for address in transition.listeners().iter().filter(|_| !announced) {
                // Without its line the driver stops this process in due time.
                let _ = announce(address);
            }
            announced = true;
        })
        .run()
}

async fn answer(mut request: Request) -> http_types::Result<Response> {
    let body = match request.target() {
        ECHO => request.take_body(),
        LARGE => Body::from_reader(Large { sent: 0 }, None),
        // A string body has the media type of the others without being told.
        _ => return Ok(Response::from(BODY)),
    };
    let mut response = Response::new(StatusCode::Ok);
    response.set_body(body);
    Ok(response)
}

/// A source that does not say how much it has.
struct Large {
    sent: usize,
}

impl AsyncBufRead for Large {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let rest = &CHUNK[self.sent % CHUNK.len()..];
        Poll::Ready(Ok(&rest[..rest.len().min(LARGE_BYTES - self.sent)]))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.sent += amount;
    }
}

impl AsyncRead for Large {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(ready) = self.as_mut().poll_fill_buf(context)? else {
            return Poll::Pending;
        };
        let read = ready.len().min(buffer.len());
        buffer[..read].copy_from_slice(&ready[..read]);
        self.consume(read);
        Poll::Ready(Ok(read))
    }
}
