//! What a client may ask of the server, and for how long.

use std::time::{Duration, Instant};

/// Bounds on what one client can make the server hold, and for how long.
///
/// Every bound has a safe default; setters change one at a time.
///
/// | bound | default | what happens beyond it |
/// |---|---|---|
/// | [`max_connections`](Self::max_connections) | 16,384 | the server stops accepting until one closes |
/// | [`max_request_line_bytes`](Self::max_request_line_bytes) | 16 KiB | `414`, close |
/// | [`max_head_bytes`](Self::max_head_bytes) | 64 KiB | `431`, close |
/// | [`max_headers`](Self::max_headers) | 100 | `431`, close |
/// | [`max_body_bytes`](Self::max_body_bytes) | 16 MiB | `413`, close; an error for a handler that is reading |
/// | [`max_unread_body_bytes`](Self::max_unread_body_bytes) | 256 KiB | close instead of reading what the handler left unread |
/// | [`head_timeout`](Self::head_timeout) | 30 s | `408` once a request has begun, else a plain close |
/// | [`body_timeout`](Self::body_timeout) | 30 s without a byte | an error for the handler, `408`, close |
/// | [`write_timeout`](Self::write_timeout) | 30 s without a byte taken | close |
/// | [`keep_alive_timeout`](Self::keep_alive_timeout) | 60 s | close |
/// | [`handler_timeout`](Self::handler_timeout) | none | the handler is dropped, `503` |
/// | [`linger_timeout`](Self::linger_timeout) | 2 s | close, whether the client has closed or not |
/// | [`drain_grace`](Self::drain_grace) | 1 s | an idle connection is closed when the server drains |
///
/// Timeouts are noticed up to 100 ms late, never early. A timeout too large
/// for the clock ([`Duration::MAX`]) is none.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// let limits = heirloom::Limits::default()
///     .max_body_bytes(1 << 20)
///     .handler_timeout(Duration::from_secs(10));
/// ```
#[derive(Clone, Debug)]
pub struct Limits {
    pub(crate) max_connections: usize,
    pub(crate) max_request_line_bytes: usize,
    pub(crate) max_head_bytes: usize,
    pub(crate) max_headers: usize,
    pub(crate) max_body_bytes: u64,
    pub(crate) max_unread_body_bytes: u64,
    pub(crate) head_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) handler_timeout: Option<Duration>,
    pub(crate) linger_timeout: Duration,
    pub(crate) drain_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 16 * 1024,
            max_request_line_bytes: 16 * 1024,
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            max_body_bytes: 16 * 1024 * 1024,
            max_unread_body_bytes: 256 * 1024,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(60),
            handler_timeout: None,
            linger_timeout: Duration::from_secs(2),
            drain_grace: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// How many connections may be open at once.
    ///
    /// At the limit the server stops accepting; further clients wait in the
    /// listener's queue until a connection closes. It does the same before it
    /// runs out of file descriptors: new connections do not get the last eight,
    /// because a restart needs some.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many bytes a request line may have, its line end included
    /// (RFC 9112 section 3; `414 URI Too Long` beyond it).
    #[must_use]
    pub fn max_request_line_bytes(mut self, bytes: usize) -> Self {
        self.max_request_line_bytes = bytes;
        self
    }

    /// How many bytes a request head may have, from its request line to the
    /// empty line at its end (RFC 6585 section 5; `431` beyond it).
    #[must_use]
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.max_head_bytes = bytes;
        self
    }

    /// How many header fields a request may have (RFC 6585 section 5; `431`
    /// beyond it).
    #[must_use]
    pub fn max_headers(mut self, headers: usize) -> Self {
        self.max_headers = headers;
        self
    }

    /// How many bytes a request body may have, with chunked framing taken off
    /// (RFC 9110 section 15.5.14; `413` beyond it).
    ///
    /// A body announced as too long is refused before the handler is called;
    /// a chunked body that grows too long is an error for the handler that
    /// reads it.
    #[must_use]
    pub fn max_body_bytes(mut self, bytes: u64) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// How much of a body that its handler left unread the server reads and
    /// drops in order to keep the connection.
    ///
    /// With more than that outstanding the connection is closed instead.
    #[must_use]
    pub fn max_unread_body_bytes(mut self, bytes: u64) -> Self {
        self.max_unread_body_bytes = bytes;
        self
    }

    /// How long a client may take to send a whole request head, from its
    /// first byte on; also how long a new connection may send nothing.
    #[must_use]
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// How long a handler that reads the request body may wait for the next
    /// byte of it.
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// How long a client may take no byte of a response that is ready.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// How long a connection may be idle between two requests.
    #[must_use]
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.keep_alive_timeout = timeout;
        self
    }

    /// How long a handler may take until it returns its response; `None`, the
    /// default: as long as it likes.
    ///
    /// A handler that takes longer is dropped, and the client gets `503
    /// Service Unavailable`. The time that a streamed response body takes does
    /// not count.
    #[must_use]
    pub fn handler_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.handler_timeout = timeout.into();
        self
    }

    /// How long the server waits, after its last response on a connection, for
    /// the client to close it too; also how long it reads a body that its
    /// handler left unread.
    ///
    /// Closing at once could destroy the response on its way: a socket closed
    /// with unread bytes resets the connection (RFC 9112 section 9.6).
    #[must_use]
    pub fn linger_timeout(mut self, timeout: Duration) -> Self {
        self.linger_timeout = timeout;
        self
    }

    /// How long an idle connection is kept when the server drains, because a
    /// request may be on its way.
    ///
    /// Each connection gets up to half as much again, so that clients do not
    /// all reconnect in the same moment.
    #[must_use]
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.drain_grace = grace;
        self
    }
}

/// The moment at which `timeout` will have passed; `None`: never.
pub(crate) fn due(now: Instant, timeout: Duration) -> Option<Instant> {
    now.checked_add(timeout)
}

/// The earlier of two deadlines, where `None` is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_beyond_the_clock_is_none() {
        let now = Instant::now();
        assert_eq!(due(now, Duration::MAX), None);
        assert_eq!(earlier(None, Some(now)), Some(now));
        assert_eq!(
            earlier(due(now, Duration::from_secs(1)), Some(now)),
            Some(now)
        );
    }
}
