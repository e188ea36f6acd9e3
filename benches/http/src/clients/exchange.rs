//! What is asked, and what has to come back.

use heirloom_bench_http::BODY;

use crate::address::Address;

/// What a client sends at once, and the answer to it.
#[derive(Clone)]
pub struct Exchange {
    pub(super) request: Vec<u8>,
    /// How many requests, and so responses, these are.
    pub(super) depth: u64,
    pub(super) framing: Framing,
    pub(super) body: Vec<u8>,
    /// Whether the response is the last of its connection.
    pub(super) closes: bool,
}

/// How a response says where it ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length,
    Chunks,
}

/// The head of a request.
pub fn get(address: &Address, path: &str) -> String {
    let host = match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) => "localhost".to_owned(),
    };
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

impl Exchange {
    /// What every server answers to every request.
    pub fn constant(address: &Address) -> Self {
        Exchange {
            request: get(address, "/").into_bytes(),
            depth: 1,
            framing: Framing::Length,
            body: BODY.into(),
            closes: false,
        }
    }

    /// The same, `depth` times at once.
    pub fn pipelined(address: &Address, depth: u64) -> Self {
        let constant = Exchange::constant(address);
        Exchange {
            request: constant.request.repeat(depth as usize),
            depth,
            ..constant
        }
    }

    /// A body that comes back.
    pub fn echo(address: &Address, path: &str, length: usize) -> Self {
        let body = vec![b'x'; length];
        let head = get(address, path).replacen("GET", "POST", 1).replacen(
            "\r\n\r\n",
            &format!("\r\nContent-Length: {length}\r\n\r\n"),
            1,
        );
        Exchange {
            request: [head.into_bytes(), body.clone()].concat(),
            body,
            ..Exchange::constant(address)
        }
    }

    /// A response that comes in chunks.
    pub fn stream(address: &Address, path: &str, length: usize) -> Self {
        Exchange {
            request: get(address, path).into_bytes(),
            framing: Framing::Chunks,
            body: vec![b'x'; length],
            ..Exchange::constant(address)
        }
    }

    /// The constant, on a connection of its own.
    pub fn closing(address: &Address) -> Self {
        let head = get(address, "/").replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        Exchange {
            request: head.into_bytes(),
            closes: true,
            ..Exchange::constant(address)
        }
    }

    /// Whether `bytes` are the whole right answer; `None` if they cannot
    /// become it.
    pub(super) fn is_answered_by(&self, mut bytes: &[u8]) -> Option<bool> {
        for _ in 0..self.depth {
            match self.response(bytes)? {
                Some(length) => bytes = &bytes[length..],
                None => return Some(false),
            }
        }
        bytes.is_empty().then_some(true)
    }

    /// The length of the right response at the beginning of `bytes`; `Some(None)`
    /// if it is not there completely.
    fn response(&self, bytes: &[u8]) -> Option<Option<usize>> {
        // The chunks of a large response would be gone through at every read.
        if self.framing == Framing::Chunks && !bytes.ends_with(b"\r\n0\r\n\r\n") {
            return (bytes.len() < 2 * self.body.len()).then_some(None);
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let head = match response.parse(bytes).ok()? {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial => return Some(None),
        };
        if response.code != Some(200) || response.version != Some(1) {
            return None;
        }
        let values = |name: &'static str| {
            let headers = response.headers.iter();
            headers
                .filter(move |header| header.name.eq_ignore_ascii_case(name))
                .map(|header| header.value)
        };
        let is_closing = values("connection").any(|value| value.eq_ignore_ascii_case(b"close"));
        if is_closing != self.closes {
            return None;
        }
        let mut lengths = values("content-length");
        let mut codings = values("transfer-encoding");
        match self.framing {
            Framing::Length => {
                let is_announced = lengths.next()? == self.body.len().to_string().as_bytes();
                if !is_announced || lengths.next().is_some() || codings.next().is_some() {
                    return None;
                }
                let arrived = &bytes[head..];
                let arrived = &arrived[..arrived.len().min(self.body.len())];
                self.body
                    .starts_with(arrived)
                    .then(|| (arrived.len() == self.body.len()).then_some(head + arrived.len()))
            }
            Framing::Chunks => {
                if lengths.next().is_some() || codings.next()? != b"chunked" {
                    return None;
                }
                let length = chunked(&bytes[head..], &self.body)?;
                Some(Some(head + length))
            }
        }
    }
}

/// The length of the chunks that `body` has come in, if it has.
fn chunked(bytes: &[u8], mut body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let httparse::Status::Complete((line, size)) =
            httparse::parse_chunk_size(&bytes[at..]).ok()?
        else {
            return None;
        };
        at += line;
        let size = usize::try_from(size).ok()?;
        let chunk = bytes.get(at..at + size)?;
        body = body.strip_prefix(chunk)?;
        at += size;
        bytes[at..].starts_with(b"\r\n").then_some(())?;
        at += 2;
        if size == 0 {
            return body.is_empty().then_some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exchange;
    use crate::address::Address;

    const RIGHT: &str = "Hello, world!\n";

    fn address() -> Address {
        "127.0.0.1:1".parse().unwrap()
    }

    fn verdict(head: &str, body: &str) -> Option<bool> {
        let bytes = format!("{head}\r\n\r\n{body}");
        Exchange::constant(&address()).is_answered_by(bytes.as_bytes())
    }

    #[test]
    fn the_response_is_right_only_when_it_is_whole() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 14";
        assert_eq!(verdict(head, RIGHT), Some(true));
        assert_eq!(verdict(head, "Hello, wor"), Some(false));
        let constant = Exchange::constant(&address());
        assert_eq!(constant.is_answered_by(head.as_bytes()), Some(false));
    }

    #[test]
    fn anything_else_is_wrong() {
        for (head, body) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 14", "Hello, wolrd!\n"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 14",
                "Hello, world!\nHTTP",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 15", RIGHT),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 14\r\ncontent-length: 14",
                RIGHT,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close",
                RIGHT,
            ),
            ("HTTP/1.1 200 OK", RIGHT),
            (
                "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 14",
                RIGHT,
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 14", RIGHT),
            ("nonsense", RIGHT),
        ] {
            assert_eq!(verdict(head, body), None, "{head:?} {body:?}");
        }
    }

    #[test]
    fn pipelined_requests_are_answered_when_all_are() {
        let exchange = Exchange::pipelined(&address(), 2);
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{RIGHT}");
        let answered = |text: String| exchange.is_answered_by(text.as_bytes());
        assert_eq!(answered(response.clone()), Some(false));
        assert_eq!(answered(response.repeat(2)), Some(true));
        assert_eq!(answered(response.repeat(3)), None);
    }

    #[test]
    fn chunks_have_to_make_up_the_body() {
        let exchange = Exchange::stream(&address(), "/", 5_000);
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let (first, second) = ("x".repeat(0x1000), "x".repeat(0x388));
        let answered = |body: &str| exchange.is_answered_by(format!("{head}{body}").as_bytes());
        let whole = format!("1000\r\n{first}\r\n388\r\n{second}\r\n0\r\n\r\n");
        assert_eq!(answered(&whole), Some(true));
        assert_eq!(answered(&whole[..whole.len() - 1]), Some(false));
        assert_eq!(answered(&format!("1000\r\n{first}\r\n0\r\n\r\n")), None);
    }

    #[test]
    fn the_last_response_of_a_connection_says_so() {
        let exchange = Exchange::closing(&address());
        let response =
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 14\r\n\r\n{RIGHT}");
        assert_eq!(exchange.is_answered_by(response.as_bytes()), Some(true));
        assert_eq!(
            verdict("HTTP/1.1 200 OK\r\ncontent-length: 14", RIGHT),
            Some(true)
        );
    }
}
