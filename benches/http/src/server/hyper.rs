//! hyper 1 on tokio's current-thread runtime.

use std::convert::Infallible;
use std::env;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::{UNIX, address, announce};
use crate::{BODY, CHUNK, ECHO, LARGE, LARGE_BYTES, MEDIA_TYPE, PIPELINING};

/// Serves until the process is stopped.
pub fn run() -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(serve())
}

async fn serve() -> io::Result<()> {
    let address = address();
    // Without it each response to a pipelined request is a send of its own;
    // with it, a client that pipelines without end is never answered, as long
    // as there is memory for its responses.
    let is_pipelining = env::var_os(PIPELINING).is_some();
    if let Some(path) = address.strip_prefix(UNIX) {
        let listener = UnixListener::bind(path)?;
        announce(&address)?;
        loop {
            let (socket, _) = listener.accept().await?;
            tokio::spawn(connection(socket, is_pipelining));
        }
    }
    let listener = TcpListener::bind(address).await?;
    announce(listener.local_addr()?)?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(connection(socket, is_pipelining));
    }
}

async fn connection(socket: impl AsyncRead + AsyncWrite + Unpin, is_pipelining: bool) {
    // A client that goes away is no failure of the server.
    let _ = http1::Builder::new()
        .pipeline_flush(is_pipelining)
        .serve_connection(TokioIo::new(socket), service_fn(answer))
        .await;
}

/// The constant, and what the two paths answer.
type Answer = Either<Full<Bytes>, Either<Incoming, Large>>;

async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    Ok(match request.uri().path() {
        ECHO => Response::new(Either::Right(Either::Left(request.into_body()))),
        LARGE => Response::new(Either::Right(Either::Right(Large { left: LARGE_BYTES }))),
        _ => {
            let body = Full::new(Bytes::from_static(BODY.as_bytes()));
            let mut response = Response::new(Either::Left(body));
            let media_type = HeaderValue::from_static(MEDIA_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, media_type);
            response
        }
    })
}

/// A source that does not say how much it has.
struct Large {
    left: usize,
}

impl Body for Large {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.left.min(CHUNK.len());
        self.left -= length;
        let chunk = Bytes::from_static(&CHUNK[..length]);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(chunk))))
    }
}
