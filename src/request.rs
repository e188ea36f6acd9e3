//! The request as handlers get it.

use std::fmt;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::roster::Peer;
use crate::status::Status;

/// A request: an [`http_types::Request`] and what that type has no room for.
///
/// It dereferences to [`http_types::Request`], so that everything that can be
/// done with one can be done with this, and converts into one for code that
/// asks for it, such as [`tide::Server::respond`].
///
/// The [`url`](http_types::Request::url) is built from the parts of the
/// request as RFC 9112 section 3.3 says: its authority comes from an
/// absolute-form target, else from the `Host` field, else it is `localhost`;
/// its path and query come from the target alone, normalised as
/// [`http_types::Url`] does it. For `OPTIONS *` and for `CONNECT` the path is
/// `/`. [`target`](Self::target) is what the client sent.
///
/// Header values with bytes beyond ASCII, which [`http_types`] cannot hold,
/// have these bytes percent-encoded there; [`raw_header`](Self::raw_header)
/// gives them as they came.
///
/// Trailers (RFC 9110 section 6.5) are read and dropped, so there is nothing to
/// wait for: [`recv_trailers`](http_types::Request::recv_trailers) and
/// [`send_trailers`](http_types::Request::send_trailers) panic, as they otherwise
/// do when they are called for the second time.
///
/// [`tide::Server::respond`]: https://docs.rs/tide/latest/tide/struct.Server.html#method.respond
///
/// # Examples
///
/// ```
/// use heirloom::{Request, Response};
///
/// async fn greet(request: Request) -> heirloom::http_types::Result<Response> {
///     Ok(format!("{} {}\n", request.method(), request.target()).into())
/// }
/// ```
pub struct Request {
    // It is large, and goes through many hands on its way to the handler.
    inner: Box<http_types::Request>,
    target: Arc<str>,
    /// Every value of each field that has a value beyond ASCII, in the order
    /// of arrival.
    raw: RawHeaders,
    peer: Peer,
    listener: Arc<str>,
    status: Status,
}

/// Names in lower case, and values as they came.
pub(crate) type RawHeaders = Vec<(Box<str>, Box<[u8]>)>;

impl Request {
    pub(crate) fn new(
        inner: Box<http_types::Request>,
        target: Arc<str>,
        raw: RawHeaders,
        peer: Peer,
        listener: Arc<str>,
        status: Status,
    ) -> Self {
        Request {
            inner,
            target,
            raw,
            peer,
            listener,
            status,
        }
    }

    /// The request target as the client sent it (RFC 9112 section 3.2), such
    /// as `/search?q=1`, `http://example.org/` or `*`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The client's address; `None` for a client on a UNIX socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self.peer {
            Peer::Tcp(address) => Some(address),
            Peer::Unix => None,
        }
    }

    /// Through which listener it came, by the name that was given to
    /// [`Server::listen_as`](crate::Server::listen_as), else by the address as
    /// it was asked for.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    /// Where this process stands, for a handler that wants to come to an end
    /// early while the server drains.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The values of a header field as the client sent them, in order, one for
    /// each field line (RFC 9110 section 5.3), white space around it taken
    /// off.
    ///
    /// They differ from those in [`http_types::Request::header`] only where a
    /// value has bytes beyond ASCII (`obs-text`), which are percent-encoded
    /// there, and only as long as the handler has not changed the header.
    pub fn raw_header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let raw = self
            .raw
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value);
        // A name beyond ASCII would panic in http-types, and no field has one.
        let plain = (name.is_ascii()
            && !self
                .raw
                .iter()
                .any(|(known, _)| known.eq_ignore_ascii_case(name)))
        .then(|| self.inner.header(name))
        .flatten();
        raw.chain(
            plain
                .into_iter()
                .flat_map(|values| values.iter().map(|value| value.as_str().as_bytes())),
        )
    }
}

impl Deref for Request {
    type Target = http_types::Request;

    fn deref(&self) -> &http_types::Request {
        &self.inner
    }
}

impl DerefMut for Request {
    fn deref_mut(&mut self) -> &mut http_types::Request {
        &mut self.inner
    }
}

impl From<Request> for http_types::Request {
    fn from(request: Request) -> Self {
        let peer = request.peer();
        let mut inner = request.inner;
        inner.set_peer_addr(peer);
        *inner
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.inner.method())
            .field("target", &self.target)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_types::Method;

    use super::*;

    fn request() -> Request {
        let mut inner = http_types::Request::new(Method::Get, "http://a/b");
        inner.insert_header("x-plain", "1");
        inner.append_header("x-plain", "2");
        inner.insert_header("x-name", "caf%C3%A9");
        Request::new(
            Box::new(inner),
            "/b".into(),
            vec![("x-name".into(), (*"café".as_bytes()).into())],
            Peer::Tcp(([127, 0, 0, 1], 4711).into()),
            "main".into(),
            Status::new(1),
        )
    }

    #[test]
    fn raw_headers_are_as_they_came_whether_ascii_or_not() {
        let request = request();
        let values = |name| request.raw_header(name).collect::<Vec<_>>();
        assert_eq!(values("X-Plain"), [b"1", b"2"]);
        assert_eq!(values("X-Name"), ["café".as_bytes()]);
        assert!(values("absent").is_empty());
        assert!(values("é").is_empty());
    }

    #[test]
    fn the_peer_goes_along_into_the_plain_request() {
        let plain = http_types::Request::from(request());
        assert_eq!(plain.peer_addr(), Some("127.0.0.1:4711"));
    }
}
