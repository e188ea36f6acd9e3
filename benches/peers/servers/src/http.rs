//! hyper 1 on one thread of tokio, for the peers that leave HTTP to others.

use std::future::Future;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::TcpStream;

use crate::answer;

/// Runs a server to its end.
pub fn run(server: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(server)
}

/// A connection that is served, and that can be shut down gracefully.
pub fn connection(
    socket: TcpStream,
) -> impl GracefulConnection<Error = hyper::Error> + Send + 'static {
    // A connection on which this fails has gone, which hyper finds out.
    let _ = socket.set_nodelay(true);
    http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(respond))
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    body.collect().await?;
    let mut response = Response::new(Full::from(answer(head.uri.query())));
    let media_type = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}
