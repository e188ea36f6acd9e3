//! Responses on their way out: which framing, which bytes.
//!
//! [`async_h1::server::Encoder`] encodes streams, that is bodies of unknown
//! length, which leave in chunks. It encodes whole messages only, and gets
//! there by way of the header map and a buffer of its own, which costs more
//! than all else that is done for a small response; so a body of known length,
//! which needs no encoding, follows a head that is written here. So do
//! responses that the Encoder would frame wrongly: those without a body
//! (answers to `HEAD`, `101`, `204`, `304`, RFC 9112 section 6.3) and those
//! that end with the connection (a stream for HTTP/1.0). What goes into
//! `Connection`, and what handlers may not send, is decided here for all.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_h1::server::Encoder;
use http_types::headers::{CONNECTION, CONTENT_LENGTH, DATE, HeaderValues, TRANSFER_ENCODING};
use http_types::{Body, Method, Response, StatusCode};
use smol::io::AsyncRead;

use super::body::is_forbidden_in_value;
use super::buffer::Buffer;
use super::head::{Protocol, is_tchar};

/// How much room encoding takes at least. The Encoder panics below six bytes.
pub(super) const ROOM_BYTES: usize = 1024;

/// Up to how much memory a large response is gathered for one send. With 256 KiB,
/// responses of 1 MB in chunks took a quarter less CPU time; but so much is held
/// for each client that does not read.
pub(super) const LARGE_BYTES: usize = 64 * 1024;

/// What a response answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    pub(super) method: Method,
    pub(super) version: Protocol,
    /// The client has offered to change the protocol.
    pub(super) offers_upgrade: bool,
    /// Neither side has a reason yet to close after this response.
    pub(super) persistent: bool,
}

/// A response that is being encoded.
pub(super) struct Reply {
    coding: Coding,
    /// Whether the connection can be kept after this response.
    pub(super) persistent: bool,
}

enum Coding {
    /// So many bytes of the body are to come, at least one. The whole response
    /// is kept because http-types, to give a body away, looks its header up.
    Fixed(Box<Response>, u64),
    /// The Encoder has written nothing yet but the head, or not even that.
    Chunked(Box<Encoder>),
    /// The end of the connection is the end of the body.
    ToTheEnd(Box<Response>),
    Done,
}

/// How far encoding has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
}

impl Reply {
    /// Decides how `response` is sent, and writes its head to `output` unless
    /// that is left to the Encoder.
    ///
    /// # Errors
    ///
    /// If it cannot be sent: why not. Nothing has been written then.
    pub(super) fn new(
        mut response: Box<Response>,
        exchange: &Exchange,
        date: &str,
        output: &mut Buffer,
    ) -> Result<Self, &'static str> {
        let given = Given::new(&response)?;
        let switching = is_switching(&response, exchange);
        let status = response.status();
        if status == StatusCode::SwitchingProtocols && !switching {
            return Err("it switches protocols without an upgrade that the client has offered");
        }
        if matches!(status, StatusCode::Continue | StatusCode::EarlyHints) {
            return Err("an interim response is not a response");
        }
        if status == StatusCode::ResetContent {
            replace_body(&mut response, Body::empty());
        }
        let length = response.len().map(|length| length as u64);
        let bodyless = switching
            || exchange.method == Method::Head
            || matches!(status, StatusCode::NoContent | StatusCode::NotModified);
        let to_the_end = !bodyless && length.is_none() && exchange.version == Protocol::Http10;
        let persistent = exchange.persistent && !switching && !given.close && !to_the_end;

        let connection = match (switching, exchange.version) {
            (true, _) if status != StatusCode::SwitchingProtocols => None,
            (true, _) if given.connection => None,
            (true, _) => Some("upgrade"),
            // RFC 9110 section 7.8: Upgrade does not come without its option.
            (false, Protocol::Http11) if given.upgrade => match persistent {
                true => Some("upgrade"),
                false => Some("close, upgrade"),
            },
            (false, Protocol::Http11 | Protocol::Http10) if !persistent => Some("close"),
            (false, Protocol::Http10) => Some("keep-alive"),
            (false, Protocol::Http11) => None,
        };
        let mut fields = Fields {
            length: None,
            connection,
            connection_as_given: switching && status == StatusCode::SwitchingProtocols,
            date: (!given.date).then_some(date),
        };
        let coding = if bodyless {
            // A response to HEAD announces what GET would have got; so may a
            // 304 (RFC 9110 section 8.6).
            fields.length = if switching || status == StatusCode::NoContent {
                None
            } else if status == StatusCode::NotModified {
                given.length
            } else {
                length
                    .filter(|&length| length > 0)
                    .or(given.length)
                    .or(length)
            };
            write_head(output, &response, &fields);
            Coding::Done
        } else if let Some(length) = length {
            fields.length = Some(length);
            write_head(output, &response, &fields);
            let large = usize::try_from(length).unwrap_or(usize::MAX);
            output.reserve(large.min(LARGE_BYTES));
            match length {
                0 => Coding::Done,
                _ => Coding::Fixed(response, length),
            }
        } else if to_the_end {
            write_head(output, &response, &fields);
            Coding::ToTheEnd(response)
        } else {
            response.remove_header(&CONTENT_LENGTH);
            response.remove_header(&TRANSFER_ENCODING);
            response.remove_header(&CONNECTION);
            if let Some(connection) = fields.connection {
                response.insert_header(&CONNECTION, connection);
            }
            if let Some(date) = fields.date {
                response.insert_header(&DATE, date);
            }
            Coding::Chunked(Box::new(Encoder::new(*response, exchange.method)))
        };
        Ok(Reply { coding, persistent })
    }

    /// Whether the end of the connection is the end of the body.
    pub(super) fn is_to_the_end(&self) -> bool {
        matches!(self.coding, Coding::ToTheEnd(_))
    }

    /// Encodes some more into `output`, which has [`ROOM_BYTES`] of room.
    ///
    /// # Errors
    ///
    /// If the body fails, panics, or ends before its announced length. The
    /// response cannot be completed then, and only closing the connection
    /// tells the client.
    pub(super) fn poll_encode(
        &mut self,
        output: &mut Buffer,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Progress>> {
        // The body is code of the application.
        panic::catch_unwind(AssertUnwindSafe(|| self.poll_encode_body(output, cx)))
            .unwrap_or_else(|_| Poll::Ready(Err(io::Error::other("the response body panicked"))))
    }

    fn poll_encode_body(
        &mut self,
        output: &mut Buffer,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Progress>> {
        let done = match &mut self.coding {
            Coding::Fixed(response, left) => {
                let count = ready!(poll_into(response, output, *left, cx))?;
                if count == 0 {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("the response body ends {left} bytes before its announced length"),
                    )));
                }
                *left = left.saturating_sub(count as u64);
                *left == 0
            }
            Coding::Chunked(encoder) => ready!(poll_into(encoder, output, u64::MAX, cx))? == 0,
            Coding::ToTheEnd(response) => ready!(poll_into(response, output, u64::MAX, cx))? == 0,
            Coding::Done => true,
        };
        Poll::Ready(Ok(match done {
            true => {
                self.coding = Coding::Done;
                Progress::Done
            }
            false => Progress::More,
        }))
    }
}

/// Whether the connection changes its protocol with this response.
pub(super) fn is_switching(response: &Response, exchange: &Exchange) -> bool {
    let accepted = if exchange.method == Method::Connect {
        response.status().is_success()
    } else {
        exchange.offers_upgrade && response.status() == StatusCode::SwitchingProtocols
    };
    accepted && response.has_upgrade()
}

/// A response without the content type that http-types gives to any body.
pub(super) fn replace_body(response: &mut Response, body: Body) {
    let typed = response
        .header(&http_types::headers::CONTENT_TYPE)
        .is_some();
    response.set_body(body);
    if !typed {
        response.remove_header(&http_types::headers::CONTENT_TYPE);
    }
}

/// Whether `response` would have a client of `CONNECT` believe in a tunnel that
/// there is not (RFC 9110 section 9.3.6).
pub(super) fn is_false_tunnel(response: &Response, exchange: &Exchange) -> bool {
    exchange.method == Method::Connect
        && response.status().is_success()
        && !is_switching(response, exchange)
}

/// Reads at most `most` bytes.
fn poll_into(
    reader: &mut (impl AsyncRead + Unpin),
    output: &mut Buffer,
    most: u64,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let room = output.room();
    let available = room.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    let count = ready!(Pin::new(reader).poll_read(cx, &mut room[..available]))?;
    if count > available {
        return Poll::Ready(Err(io::Error::other(
            "the response body claims more bytes than it had room for",
        )));
    }
    output.commit(count);
    Poll::Ready(Ok(count))
}

/// What the handler's header fields say about the message itself.
#[derive(Default)]
struct Given {
    date: bool,
    upgrade: bool,
    connection: bool,
    /// `Connection` has the option `close`.
    close: bool,
    /// `Content-Length`, if it is a number.
    length: Option<u64>,
}

impl Given {
    /// Looks through the header, and checks it: http-types lets almost
    /// anything into names and values; with a line end in one, a client could
    /// be made to see a response that was never sent.
    fn new(response: &Response) -> Result<Self, &'static str> {
        let mut given = Given::default();
        for (name, values) in response.iter() {
            let name = name.as_str();
            if name.is_empty() || !name.bytes().all(is_tchar) {
                return Err("a header name is malformed");
            }
            for value in values {
                // All of them, which the compiler does many at a time.
                let bytes = value.as_str().bytes();
                if bytes.fold(false, |found, byte| found | is_forbidden_in_value(byte)) {
                    return Err("a header value contains a control character");
                }
            }
            match name {
                "date" => given.date = true,
                "upgrade" => given.upgrade = true,
                "connection" => {
                    given.connection = true;
                    given.close = asks_to_close(values);
                }
                "content-length" => given.length = valid_length(values),
                _ => {}
            }
        }
        Ok(given)
    }
}

fn asks_to_close(values: &HeaderValues) -> bool {
    values
        .iter()
        .flat_map(|value| value.as_str().split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("close"))
}

fn valid_length(values: &HeaderValues) -> Option<u64> {
    let value = values.last().as_str();
    match value.bytes().all(|byte| byte.is_ascii_digit()) {
        true => value.parse().ok(),
        false => None,
    }
}

/// The fields that are not for the handler to set.
struct Fields<'a> {
    length: Option<u64>,
    connection: Option<&'static str>,
    /// What the handler says in `Connection` is kept.
    connection_as_given: bool,
    /// `None`: the handler has set it.
    date: Option<&'a str>,
}

/// How many fields are put in order without the heap.
const FEW: usize = 12;

/// Writes a head without the machinery of `format!`, which takes several times
/// as long as the copying, and in few pieces, because most are small.
fn write_head(output: &mut Buffer, response: &Response, fields: &Fields<'_>) {
    write_status_line(output, response.status());
    if let Some(connection) = fields.connection {
        write_field(output, "connection", connection.as_bytes());
    }
    if let Some(length) = fields.length {
        let length = Digits::of(length);
        output.append_all([b"content-length: ", length.as_bytes(), b"\r\n"]);
    }
    if let Some(date) = fields.date {
        output.append_all([b"date: ", date.as_bytes(), b"\r\n"]);
    }
    let mut few = [None; FEW];
    let mut many;
    let count = response.iter().count();
    let headers = match few.get_mut(..count) {
        Some(few) => few,
        None => {
            many = vec![None; count];
            &mut many[..]
        }
    };
    for (place, header) in headers.iter_mut().zip(response) {
        *place = Some(header);
    }
    headers.sort_unstable_by_key(|header| header.map(|(name, _)| name.as_str()));
    for (name, values) in headers.iter().flatten() {
        match name.as_str() {
            "content-length" | "transfer-encoding" => {}
            "connection" if !fields.connection_as_given => {}
            name => {
                for value in *values {
                    write_field(output, name, value.as_str().as_bytes());
                }
            }
        }
    }
    output.append(b"\r\n");
}

fn write_status_line(output: &mut Buffer, status: StatusCode) {
    if status == StatusCode::Ok {
        // Most are.
        return output.append(b"HTTP/1.1 200 OK\r\n");
    }
    let phrase = if status == StatusCode::NotModified {
        // http-types says "Modified".
        "Not Modified"
    } else {
        status.canonical_reason()
    };
    let code = Digits::of(u64::from(u16::from(status)));
    output.append_all([
        b"HTTP/1.1 ",
        code.as_bytes(),
        b" ",
        phrase.as_bytes(),
        b"\r\n",
    ]);
}

fn write_field(output: &mut Buffer, name: &str, value: &[u8]) {
    output.append_all([name.as_bytes(), b": ", value, b"\r\n"]);
}

/// A number as it is written.
struct Digits {
    // A u64 has at most so many.
    digits: [u8; 20],
    start: usize,
}

impl Digits {
    fn of(mut number: u64) -> Self {
        let mut digits = [b'0'; 20];
        let mut start = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            start -= 1;
            if number == 0 {
                break;
            }
        }
        Digits { digits, start }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}
