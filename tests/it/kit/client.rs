//! An HTTP/1.1 client that hides nothing: it never retries, and each way in
//! which a request can fail has a name.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{RecvFlags, recv};

use super::PATIENCE;

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Address::Unix(path.into())),
            None => text.parse().map(Address::Tcp),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How a request failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// Nobody listens.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection was closed before the first byte of the response.
    Closed,
    /// The connection was closed within the response.
    Truncated,
    /// What came is not the response of an HTTP/1.1 server.
    Malformed(String),
    /// Nothing came for as long as a test waits.
    Silence,
    /// The response has another status than 200.
    Status(u16),
    /// The response is not the one to this request.
    Mismatch(String),
    /// Anything else.
    Other(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Failure::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Failure::Reset,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::Silence,
            _ => Failure::Other(error.to_string()),
        }
    }
}

/// A response.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The process that answered.
    pub(crate) fn pid(&self) -> i32 {
        self.number("x-pid")
    }

    /// The generation that answered.
    pub(crate) fn generation(&self) -> u64 {
        self.number("x-generation")
    }

    fn number<T: FromStr>(&self, name: &str) -> T {
        let value = self.header(name).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("{name} is no number: {self:?}"))
    }

    /// Whether the server announces that it closes the connection.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Stream,
    /// What has been read and belongs to the next response.
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// One with a request of which the end is still to come. What happened
    /// before this returns is known to the process that serves, and done with.
    pub(crate) fn with_request_in_flight(connect: impl Fn() -> Client) -> Self {
        let mut client = connect();
        client.get("/").unwrap();
        client.begin_post("/echo", 5).unwrap();
        // What happened before a question is known to the process when it has
        // read it, and done with when it reads the next one.
        let mut other = connect();
        for _ in 0..3 {
            other.get("/").unwrap();
        }
        client
    }

    /// Sends that end; says which generation answered.
    pub(crate) fn finish_request(&mut self) -> u64 {
        self.send("hello").unwrap();
        let answer = self.answer().unwrap();
        assert_eq!(answer.text(), "hello");
        answer.generation()
    }

    pub(crate) fn connect(address: &Address) -> Result<Self, Failure> {
        let stream = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Unix(stream)
            }
        };
        Ok(Client {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Our end of the connection as the server names its peer.
    pub(crate) fn name(&self) -> String {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().unwrap().to_string(),
            Stream::Unix(_) => "unix".to_owned(),
        }
    }

    /// Makes the kernel hold little of what we have not read.
    pub(crate) fn shrink_window(&self) {
        // Still a full packet of the loopback, or else it would crawl.
        const SMALL: usize = 64 * 1024;
        match &self.stream {
            Stream::Tcp(stream) => set_socket_recv_buffer_size(stream, SMALL),
            Stream::Unix(stream) => set_socket_recv_buffer_size(stream, SMALL),
        }
        .unwrap();
    }

    pub(crate) fn get(&mut self, target: &str) -> Result<Answer, Failure> {
        self.request("GET", target)
    }

    pub(crate) fn request(&mut self, method: &str, target: &str) -> Result<Answer, Failure> {
        self.send(&head(method, target, ""))?;
        self.answer_to(method)
    }

    pub(crate) fn post(&mut self, target: &str, body: &str) -> Result<Answer, Failure> {
        self.begin_post(target, body.len())?;
        self.send(body)?;
        self.answer()
    }

    /// Sends the head of a request and keeps back its body: the request is in
    /// flight for as long as the test wants.
    pub(crate) fn begin_post(&mut self, target: &str, length: usize) -> Result<(), Failure> {
        self.send(&head(
            "POST",
            target,
            &format!("content-length: {length}\r\n"),
        ))
    }

    pub(crate) fn send(&mut self, text: &str) -> Result<(), Failure> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(text.as_bytes())?,
            Stream::Unix(stream) => stream.write_all(text.as_bytes())?,
        }
        Ok(())
    }

    /// Reads the next response.
    pub(crate) fn answer(&mut self) -> Result<Answer, Failure> {
        self.answer_to("GET")
    }

    /// Reads the next response, which answers a request of this method.
    pub(crate) fn answer_to(&mut self, method: &str) -> Result<Answer, Failure> {
        let mut answer = self.answer_head()?;
        let bodiless = method == "HEAD" || answer.status == 204 || answer.status == 304;
        if !bodiless {
            answer.body = self.body(&answer)?;
        }
        Ok(answer)
    }

    /// Reads the head of the next response and leaves its body unread.
    pub(crate) fn answer_head(&mut self) -> Result<Answer, Failure> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.read_more()? == 0 {
                let nothing = self.buffer.is_empty();
                return Err(if nothing {
                    Failure::Closed
                } else {
                    Failure::Truncated
                });
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        parse_head(&head)
    }

    pub(crate) fn body(&mut self, answer: &Answer) -> Result<Vec<u8>, Failure> {
        if let Some(length) = answer.header("content-length") {
            let length = length
                .parse()
                .map_err(|_| malformed("content-length", length))?;
            return self.take(length);
        }
        match answer.header("transfer-encoding") {
            Some("chunked") => self.chunks(),
            _ => Err(malformed("framing", "neither a length nor chunks")),
        }
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line()?;
            let size = usize::from_str_radix(&line, 16).map_err(|_| malformed("chunk", &line))?;
            body.extend(self.take(size)?);
            let end = self.take_line()?;
            if !end.is_empty() {
                return Err(malformed("end of a chunk", &end));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take_line(&mut self) -> Result<String, Failure> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                break at;
            }
            self.read_more_or_fail()?;
        };
        let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 2);
        Ok(line)
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        while self.buffer.len() < length {
            self.read_more_or_fail()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn read_more_or_fail(&mut self) -> Result<(), Failure> {
        match self.read_more()? {
            0 => Err(Failure::Truncated),
            _ => Ok(()),
        }
    }

    fn read_more(&mut self) -> Result<usize, Failure> {
        let mut bytes = [0; 16 * 1024];
        let amount = loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut bytes),
                Stream::Unix(stream) => stream.read(&mut bytes),
            };
            match read {
                // A read with a timeout is not taken up again by the kernel
                // when the machine has stood still (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.buffer.extend_from_slice(&bytes[..amount]);
        Ok(amount)
    }

    /// Says that nothing more will be asked.
    pub(crate) fn shut_down(&self) {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
        .unwrap();
    }

    /// Waits until the server closes the connection, and fails if it sends
    /// anything or resets the connection instead.
    pub(crate) fn wait_for_close(&mut self) -> Result<(), Failure> {
        match self.read_more()? {
            0 if self.buffer.is_empty() => Ok(()),
            _ => Err(malformed("end", &String::from_utf8_lossy(&self.buffer))),
        }
    }

    /// Whether nothing has come that was not read yet.
    pub(crate) fn is_silent(&self) -> bool {
        let mut byte = [0; 1];
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match &self.stream {
            Stream::Tcp(stream) => recv(stream, &mut byte[..], peek),
            Stream::Unix(stream) => recv(stream, &mut byte[..], peek),
        };
        self.buffer.is_empty() && matches!(peeked, Err(Errno::AGAIN))
    }

    /// Waits until the connection is gone, politely or not.
    pub(crate) fn wait_for_end(&mut self) {
        loop {
            match self.read_more() {
                Ok(0) | Err(Failure::Reset) => return,
                Ok(_) => {}
                Err(failure) => panic!("the connection did not end: {failure:?}"),
            }
        }
    }
}

/// A request head with the one header that every request needs.
pub(crate) fn head(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nhost: test\r\n{more}\r\n")
}

fn parse_head(head: &[u8]) -> Result<Answer, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let shown = String::from_utf8_lossy(head);
    let parsed = response
        .parse(head)
        .map_err(|error| malformed(&error.to_string(), &shown))?;
    if !parsed.is_complete() || response.version != Some(1) {
        return Err(malformed("head", &shown));
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(Answer {
        status: response.code.unwrap_or_default(),
        headers: response
            .headers
            .iter()
            .map(|header| (header.name.to_owned(), text(header.value)))
            .collect(),
        body: Vec::new(),
    })
}

fn malformed(what: &str, text: &str) -> Failure {
    Failure::Malformed(format!("{what}: {text}"))
}

fn find(bytes: &[u8], sought: &[u8]) -> Option<usize> {
    bytes
        .windows(sought.len())
        .position(|window| window == sought)
}
