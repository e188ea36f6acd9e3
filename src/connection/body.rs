//! Request bodies: taking the framing off, and reading one from a handler.
//!
//! While a request with a body is being answered, the wire is lent to a
//! [`Loan`] that the connection and the [`BodyReader`] in the handler's
//! request share. When the response has been written the connection takes the
//! wire back; a reader that a handler has kept gets an error from then on, not
//! the bytes of the next request.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use http_types::StatusCode;
use smol::io::{AsyncBufRead, AsyncRead};

use super::buffer::Buffer;
use super::head::{Framing, Refusal, is_tchar};
use super::wire::{READ_BYTES, Wire};
use crate::limits::due;
use crate::reactor::Way;

/// How long a chunk-size line, or a trailer line, may be.
const MAX_LINE_BYTES: usize = 4096;

/// How many bytes chunk extensions and trailers may take up in all.
const MAX_OVERHEAD_BYTES: usize = 16 * 1024;

/// Why a body could not be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The chunked framing is wrong, and how.
    Malformed(&'static str),
    /// The body exceeds its limit.
    TooLarge,
    /// The client closed before the end.
    Truncated,
    /// The client sent nothing for too long.
    Stalled,
    /// The socket failed.
    Broken(io::ErrorKind),
}

impl Failure {
    /// The answer to a request whose body failed so.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Failure::Malformed(reason) => Refusal::new(StatusCode::BadRequest, reason),
            Failure::TooLarge => {
                Refusal::new(StatusCode::PayloadTooLarge, "the request body is too large")
            }
            Failure::Truncated | Failure::Broken(_) => {
                Refusal::new(StatusCode::BadRequest, "the request body is cut short")
            }
            Failure::Stalled => Refusal::new(
                StatusCode::RequestTimeout,
                "the request body did not come in time",
            ),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure {
            Failure::Malformed(_) | Failure::TooLarge => io::ErrorKind::InvalidData,
            Failure::Truncated => io::ErrorKind::UnexpectedEof,
            Failure::Stalled => io::ErrorKind::TimedOut,
            Failure::Broken(kind) => kind,
        };
        io::Error::new(kind, failure.refusal().reason)
    }
}

/// Takes the framing off a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    state: State,
    /// How many more bytes of content are allowed.
    allowance: u64,
    /// How many more bytes of extensions and trailers are allowed.
    overhead: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes to come, at least one.
    Fixed(u64),
    /// A chunk-size line.
    Size,
    /// So many bytes of this chunk to come, at least one.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// Trailer lines, up to an empty one.
    Trailers,
    Done,
}

/// What became of a call to [`Decoder::decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// So many bytes of content, at least one.
    Content(usize),
    /// The input is used up.
    Starved,
    /// The body is complete.
    End,
}

impl Decoder {
    pub(super) fn new(framing: Framing, max_body_bytes: u64) -> Self {
        Decoder {
            state: match framing {
                Framing::Empty | Framing::Fixed(0) => State::Done,
                Framing::Fixed(length) => State::Fixed(length),
                Framing::Chunked => State::Size,
            },
            allowance: max_body_bytes,
            overhead: MAX_OVERHEAD_BYTES,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes are known to come yet; of a chunked body only those of
    /// the present chunk are known.
    pub(super) fn outstanding(&self) -> u64 {
        match self.state {
            State::Fixed(left) | State::Chunk(left) => left,
            State::Size | State::ChunkEnd | State::Trailers | State::Done => 0,
        }
    }

    /// Moves content from `input` to `into`, which is not empty.
    pub(super) fn decode(
        &mut self,
        input: &mut Buffer,
        into: &mut [u8],
    ) -> Result<Decoded, Failure> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                State::Fixed(left) | State::Chunk(left) => {
                    let count = into
                        .len()
                        .min(input.len())
                        .min(usize::try_from(left).unwrap_or(usize::MAX));
                    if count == 0 {
                        return Ok(Decoded::Starved);
                    }
                    into[..count].copy_from_slice(&input.bytes()[..count]);
                    input.consume(count);
                    self.advance(count);
                    return Ok(Decoded::Content(count));
                }
                State::Size => {
                    let Some(line) = take_line(input)? else {
                        return Ok(Decoded::Starved);
                    };
                    let (size, extensions) = parse_chunk_size(line)?;
                    self.spend(extensions)?;
                    let taken = line.len() + 2;
                    input.consume(taken);
                    if size > self.allowance {
                        return Err(Failure::TooLarge);
                    }
                    self.allowance -= size;
                    self.state = match size {
                        0 => State::Trailers,
                        _ => State::Chunk(size),
                    };
                }
                State::ChunkEnd => match input.bytes() {
                    [b'\r', b'\n', ..] => {
                        input.consume(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::Starved),
                    [..] => return Err(Failure::Malformed("a chunk is longer than announced")),
                },
                State::Trailers => {
                    let Some(line) = take_line(input)? else {
                        return Ok(Decoded::Starved);
                    };
                    let last = line.is_empty();
                    if !last {
                        check_trailer(line)?;
                    }
                    let taken = line.len() + 2;
                    self.spend(taken)?;
                    input.consume(taken);
                    if last {
                        self.state = State::Done;
                    }
                }
            }
        }
    }

    /// Notes that `count` bytes of content were read past the input.
    fn advance(&mut self, count: usize) {
        let count = count as u64;
        self.state = match self.state {
            State::Fixed(left) if left <= count => State::Done,
            State::Fixed(left) => State::Fixed(left - count),
            State::Chunk(left) if left <= count => State::ChunkEnd,
            State::Chunk(left) => State::Chunk(left - count),
            other @ (State::Size | State::ChunkEnd | State::Trailers | State::Done) => other,
        };
    }

    fn spend(&mut self, overhead: usize) -> Result<(), Failure> {
        self.overhead = self
            .overhead
            .checked_sub(overhead)
            .ok_or(Failure::Malformed("there is too much around the chunks"))?;
        Ok(())
    }
}

/// What the connection and the reader of a request body share.
pub(super) struct Loan {
    /// `None` once the connection has taken it back.
    wire: Option<Wire>,
    pub(super) decoder: Decoder,
    pub(super) interim: Interim,
    pub(super) failure: Option<Failure>,
    /// Since when the reader has been waiting for bytes.
    waiting_since: Option<Instant>,
    /// The reader, waiting.
    reader: Option<Waker>,
    /// The connection, which watches over deadlines and sends the `100`.
    connection: Option<Waker>,
}

/// What has become of `Expect: 100-continue` (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interim {
    /// The client does not wait for a `100`, or no longer.
    Settled,
    /// The client waits, and the handler has not begun to read.
    Expected,
    /// The handler is reading: the `100` is due.
    Due,
}

impl Loan {
    pub(super) fn new(wire: Wire, decoder: Decoder, interim: Interim) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Loan {
            wire: Some(wire),
            decoder,
            interim,
            failure: None,
            waiting_since: None,
            reader: None,
            connection: None,
        }))
    }

    pub(super) fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Ends the loan: the reader gets nothing but an error from now on.
    pub(super) fn take_back(&mut self) -> Option<Wire> {
        self.wake_reader();
        self.connection = None;
        self.wire.take()
    }

    pub(super) fn watch(&mut self, connection: &Waker) {
        if !self
            .connection
            .as_ref()
            .is_some_and(|known| known.will_wake(connection))
        {
            self.connection = Some(connection.clone());
        }
    }

    /// Until when something is to come, if the reader may wait for so long.
    pub(super) fn deadline(&self, patience: Duration) -> Option<Instant> {
        self.waiting_since.and_then(|since| due(since, patience))
    }

    /// If the reader has waited for as long as it may, the body fails, unless
    /// something has come that the reader has not asked for yet.
    pub(super) fn end_wait(&mut self, patience: Duration, now: Instant) {
        if self
            .deadline(patience)
            .is_none_or(|deadline| now < deadline)
        {
            return;
        }
        let wire = self.wire.as_ref();
        if wire.is_some_and(|wire| wire.socket.has_bytes()) {
            self.waiting_since = None;
            self.wake_reader();
        } else {
            self.fail(Failure::Stalled);
        }
    }

    /// Makes the body fail for its reader.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.waiting_since = None;
        self.wake_reader();
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Reads content; the connection calls it too, to drop what is unread.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if into.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Some(failure) = self.failure {
            return Poll::Ready(Err(failure.into()));
        }
        loop {
            let Some(wire) = &mut self.wire else {
                return Poll::Ready(match self.decoder.is_done() {
                    true => Ok(0),
                    false => Err(io::Error::new(
                        io::ErrorKind::NotConnected,
                        "the request body was read after its response",
                    )),
                });
            };
            match self.decoder.decode(&mut wire.input, into) {
                Ok(Decoded::Content(count)) => {
                    self.waiting_since = None;
                    return Poll::Ready(Ok(count));
                }
                Ok(Decoded::End) => {
                    self.waiting_since = None;
                    self.interim = Interim::Settled;
                    return Poll::Ready(Ok(0));
                }
                Ok(Decoded::Starved) => {}
                Err(failure) => {
                    self.fail(failure);
                    return Poll::Ready(Err(failure.into()));
                }
            }
            ready!(wire.socket.poll_turn(Way::In, cx));
            let bypass = usize::try_from(self.decoder.outstanding())
                .unwrap_or(usize::MAX)
                .min(into.len());
            let received = if wire.input.is_empty() && bypass >= READ_BYTES {
                let received = wire.poll_bypass(&mut into[..bypass], cx);
                if let Poll::Ready(Ok(count @ 1..)) = received {
                    self.decoder.advance(count);
                    self.arrived();
                    return Poll::Ready(Ok(count));
                }
                received
            } else {
                wire.poll_fill(cx)
            };
            match received {
                Poll::Ready(Ok(0)) => {
                    self.fail(Failure::Truncated);
                    return Poll::Ready(Err(Failure::Truncated.into()));
                }
                Poll::Ready(Ok(_)) => self.arrived(),
                Poll::Ready(Err(error)) => {
                    let failure = Failure::Broken(error.kind());
                    self.fail(failure);
                    return Poll::Ready(Err(failure.into()));
                }
                Poll::Pending => {
                    self.wait(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// The client has sent some of the body, so it does not wait for a `100`.
    fn arrived(&mut self) {
        self.interim = Interim::Settled;
        self.waiting_since = None;
    }

    fn wait(&mut self, cx: &Context<'_>) {
        self.reader = Some(cx.waker().clone());
        let news = self.waiting_since.is_none() || self.interim == Interim::Expected;
        if self.interim == Interim::Expected {
            self.interim = Interim::Due;
        }
        self.waiting_since.get_or_insert_with(Instant::now);
        // As a rule the reader runs inside the connection's own task, which
        // looks when the handler returns; it may be elsewhere, though.
        if news
            && let Some(connection) = &self.connection
            && !connection.will_wake(cx.waker())
        {
            connection.wake_by_ref();
        }
    }
}

/// Locks a loan. Nothing panics under the lock, so poison means nothing.
pub(super) fn lock(loan: &Mutex<Loan>) -> MutexGuard<'_, Loan> {
    loan.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the body of a request, inside an `http_types::Body`.
pub(super) struct BodyReader {
    loan: Arc<Mutex<Loan>>,
    /// Content read for [`AsyncBufRead`]; no memory until that is used.
    ahead: Buffer,
}

impl BodyReader {
    pub(super) fn new(loan: Arc<Mutex<Loan>>) -> Self {
        BodyReader {
            loan,
            ahead: Buffer::default(),
        }
    }
}

impl AsyncRead for BodyReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.ahead.is_empty() {
            return lock(&self.loan).poll_read(cx, into);
        }
        let count = into.len().min(self.ahead.len());
        into[..count].copy_from_slice(&self.ahead.bytes()[..count]);
        self.ahead.consume(count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncBufRead for BodyReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            this.ahead.reserve(READ_BYTES);
            let count = ready!(lock(&this.loan).poll_read(cx, this.ahead.room()))?;
            this.ahead.commit(count);
        }
        Poll::Ready(Ok(this.ahead.bytes()))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.ahead.consume(count);
    }
}

/// A line without its end, which stays in `input`; `None`: not whole yet.
fn take_line(input: &Buffer) -> Result<Option<&[u8]>, Failure> {
    let bytes = input.bytes();
    let bytes = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    match memchr::memchr(b'\n', bytes) {
        Some(newline) => match bytes[..newline].split_last() {
            Some((b'\r', line)) => Ok(Some(line)),
            Some(_) | None => Err(Failure::Malformed(
                "a line in the chunked body does not end in CR LF",
            )),
        },
        None if bytes.len() == MAX_LINE_BYTES => {
            Err(Failure::Malformed("a line in the chunked body is too long"))
        }
        None => Ok(None),
    }
}

/// RFC 9112 section 7.1: the size, and how many bytes of extensions follow.
fn parse_chunk_size(line: &[u8]) -> Result<(u64, usize), Failure> {
    const MALFORMED: Failure = Failure::Malformed("a chunk size is malformed");
    let end = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    // Sixteen digits fill a u64.
    if digits.is_empty() || digits.len() > 16 {
        return Err(MALFORMED);
    }
    match rest.trim_ascii_start() {
        [] | [b';', ..] => {}
        [..] => return Err(MALFORMED),
    }
    if rest.iter().any(|&byte| is_forbidden_in_value(byte)) {
        return Err(Failure::Malformed("a chunk extension is malformed"));
    }
    let digits = std::str::from_utf8(digits).map_err(|_| MALFORMED)?;
    let size = u64::from_str_radix(digits, 16).map_err(|_| MALFORMED)?;
    Ok((size, rest.len()))
}

/// RFC 9112 section 7.1.2: a trailer is a field line.
fn check_trailer(line: &[u8]) -> Result<(), Failure> {
    const MALFORMED: Failure = Failure::Malformed("a trailer is malformed");
    let colon = memchr::memchr(b':', line).ok_or(MALFORMED)?;
    let (name, value) = line.split_at(colon);
    let name_is_valid = !name.is_empty() && name.iter().copied().all(is_tchar);
    match name_is_valid && !value.iter().any(|&byte| is_forbidden_in_value(byte)) {
        true => Ok(()),
        false => Err(MALFORMED),
    }
}

/// Control characters but the tab (RFC 9110 section 5.5).
pub(super) const fn is_forbidden_in_value(byte: u8) -> bool {
    matches!(byte, 0..=8 | 10..=31 | 127)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `piece` bytes; gives the content, what is
    /// left over, and whether the end was reached.
    fn decode(
        framing: Framing,
        bytes: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, Vec<u8>, bool), Failure> {
        let mut decoder = Decoder::new(framing, 100);
        let mut input = Buffer::default();
        let mut content = Vec::new();
        let mut pieces = bytes.chunks(piece);
        loop {
            let mut into = [0; 7];
            match decoder.decode(&mut input, &mut into)? {
                Decoded::Content(count) => content.extend(&into[..count]),
                Decoded::End => break,
                Decoded::Starved => match pieces.next() {
                    Some(piece) => input.append(piece),
                    None => return Ok((content, input.bytes().to_vec(), false)),
                },
            }
        }
        let mut left = input.bytes().to_vec();
        left.extend(pieces.flatten());
        Ok((content, left, true))
    }

    #[test]
    fn bodies_are_the_same_in_pieces_and_end_where_they_end() {
        for (framing, bytes, content) in [
            (Framing::Empty, "GET", ""),
            (Framing::Fixed(5), "helloGET", "hello"),
            (Framing::Chunked, "0\r\n\r\nGET", ""),
            (Framing::Chunked, "5\r\nhello\r\n0\r\n\r\nGET", "hello"),
            (
                Framing::Chunked,
                "5\r\nhello\r\n1\r\n!\r\n000\r\n\r\nGET",
                "hello!",
            ),
            (
                Framing::Chunked,
                "00A\r\n0123456789\r\n0\r\n\r\nGET",
                "0123456789",
            ),
            (
                Framing::Chunked,
                "a \r\n0123456789\r\n0;x\r\n\r\nGET",
                "0123456789",
            ),
            (
                Framing::Chunked,
                "1;a=b;c=\"d e\"\r\nx\r\n0\r\n\r\nGET",
                "x",
            ),
            (
                Framing::Chunked,
                "1\t; a\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\nGET",
                "x",
            ),
        ] {
            for piece in 1..=bytes.len() {
                let (decoded, left, end) = decode(framing, bytes.as_bytes(), piece).unwrap();
                assert_eq!(decoded, content.as_bytes(), "{bytes:?} by {piece}");
                assert_eq!(left, b"GET", "{bytes:?} by {piece}");
                assert!(end);
            }
        }
    }

    #[test]
    fn no_part_of_a_body_is_a_whole_one() {
        for (framing, bytes) in [
            (Framing::Fixed(5), "hello"),
            (Framing::Chunked, "5;x\r\nhello\r\n0\r\nA: b\r\n\r\n"),
        ] {
            for end in 0..bytes.len() {
                let (_, _, ended) = decode(framing, &bytes.as_bytes()[..end], 3).unwrap();
                assert!(!ended, "{:?}", &bytes[..end]);
            }
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bytes in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 1\r\n",
            "1,\r\n",
            "1\nx\r\n",
            "1\rx\r\n",
            "1;\n\r\n",
            "1;\0\r\n",
            "1;a\rb\r\n",
            "10000000000000000\r\n",
            "00000000000000001\r\n",
            "1\r\nxy\r\n",
            "1\r\nx\n0\r\n\r\n",
            "1\r\nx0\r\n\r\n",
            "0\r\nA\r\n\r\n",
            "0\r\nA : b\r\n\r\n",
            "0\r\n A: b\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: \0\r\n\r\n",
            "0\r\n\n",
        ] {
            for piece in 1..=bytes.len() {
                let result = decode(Framing::Chunked, bytes.as_bytes(), piece);
                assert!(
                    matches!(result, Err(Failure::Malformed(_))),
                    "{bytes:?} {result:?}"
                );
            }
        }
    }

    #[test]
    fn chunked_bodies_have_limits() {
        let too_large = Err(Failure::TooLarge);
        for bytes in ["65\r\n", "64\r\nx", "ffffffffffffffff\r\n"] {
            let result = decode(Framing::Chunked, bytes.as_bytes(), 4);
            assert_eq!(result.is_err(), bytes != "64\r\nx", "{bytes:?}");
            assert!(result.is_ok() || result == too_large);
        }
        let long_line = format!("1;{}\r\n", "x".repeat(MAX_LINE_BYTES));
        let many_extensions = format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(20);
        let many_trailers = format!("0\r\n{}", "A: b\r\n".repeat(MAX_OVERHEAD_BYTES / 6 + 1));
        for bytes in [long_line, many_extensions, many_trailers] {
            assert!(matches!(
                decode(Framing::Chunked, bytes.as_bytes(), 1000),
                Err(Failure::Malformed(_))
            ));
        }
    }
}
