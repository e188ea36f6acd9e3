//! Responses on their way out: which framing, which bytes.
//!
//! [`async_h1::server::Encoder`] encodes what it encodes rightly, that is
//! responses with a body, of known length or chunked. What has no body
//! (answers to `HEAD`, `101`, `204`, `304`, RFC 9112 section 6.3) or ends with
//! the connection (a body of unknown length for HTTP/1.0) is encoded here. So
//! is decided here what goes into `Connection`, and what handlers may not send.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_h1::server::Encoder;
use http_types::headers::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderValue, HeaderValues, TRANSFER_ENCODING,
};
use http_types::{Body, Method, Response, StatusCode};
use smol::io::AsyncRead;

use super::body::is_forbidden_in_value;
use super::buffer::Buffer;
use super::head::{Protocol, is_tchar};

/// How much room encoding takes at least. The Encoder panics below six bytes.
pub(super) const ROOM_BYTES: usize = 1024;

/// Up to how much memory a large response is gathered for one send.
const LARGE_BYTES: usize = 64 * 1024;

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
    /// The Encoder is writing the head, and has to write so many bytes of
    /// body after it; `None`: chunks.
    Head(Box<Encoder>, Option<u64>),
    Fixed(Box<Encoder>, u64),
    Chunked(Box<Encoder>),
    /// The head is complete, and all there is.
    HeadOnly(Vec<u8>),
    /// The end of the connection is the end of the body.
    ToTheEnd(Vec<u8>, Box<Body>),
    Done,
}

/// How far encoding has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
}

impl Reply {
    /// Decides how `response` is sent.
    ///
    /// # Errors
    ///
    /// If it cannot be sent: why not.
    pub(super) fn new(
        mut response: Response,
        exchange: &Exchange,
        date: Option<HeaderValue>,
    ) -> Result<Self, &'static str> {
        check_headers(&response)?;
        let switching = is_switching(&response, exchange);
        let status = response.status();
        if status == StatusCode::SwitchingProtocols && !switching {
            return Err("it switches protocols without an upgrade that the client has offered");
        }
        if matches!(status, StatusCode::Continue | StatusCode::EarlyHints) {
            return Err("an interim response is not a response");
        }
        let persistent = exchange.persistent && !switching && !asks_to_close(&response);
        let announced = response.remove_header(&CONTENT_LENGTH);
        let upgrade = response.remove_header(&CONNECTION).filter(|_| switching);
        response.remove_header(&TRANSFER_ENCODING);
        if status == StatusCode::ResetContent {
            replace_body(&mut response, Body::empty());
        }
        let length = response.len();
        let bodyless = switching
            || exchange.method == Method::Head
            || matches!(status, StatusCode::NoContent | StatusCode::NotModified);
        let to_the_end = !bodyless && length.is_none() && exchange.version == Protocol::Http10;
        let persistent = persistent && !to_the_end;

        if response.header(&DATE).is_none()
            && let Some(date) = date
        {
            response.insert_header(&DATE, date);
        }
        if switching {
            match upgrade {
                Some(options) if status == StatusCode::SwitchingProtocols => {
                    response.insert_header(&CONNECTION, &options);
                }
                None if status == StatusCode::SwitchingProtocols => {
                    response.insert_header(&CONNECTION, "upgrade");
                }
                Some(_) | None => {}
            }
        } else if !persistent {
            response.insert_header(&CONNECTION, "close");
        } else if exchange.version == Protocol::Http10 {
            response.insert_header(&CONNECTION, "keep-alive");
        }

        let coding = if bodyless {
            // A response to HEAD announces what GET would have got; so may a
            // 304 (RFC 9110 section 8.6).
            let announced = announced.and_then(valid_length);
            let of_body = length
                .filter(|&length| length > 0)
                .map(|length| length as u64);
            let length = if switching || status == StatusCode::NoContent {
                None
            } else if status == StatusCode::NotModified {
                announced
            } else {
                of_body.or(announced).or(length.map(|length| length as u64))
            };
            if let Some(length) = length {
                response.insert_header(&CONTENT_LENGTH, length.to_string());
            }
            Coding::HeadOnly(encode_head(&response))
        } else if to_the_end {
            let head = encode_head(&response);
            Coding::ToTheEnd(head, Box::new(response.take_body()))
        } else {
            let length = length.map(|length| length as u64);
            Coding::Head(Box::new(Encoder::new(response, exchange.method)), length)
        };
        Ok(Reply { coding, persistent })
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
        match &mut self.coding {
            Coding::Head(encoder, length) => {
                let count = ready!(poll_into(encoder, output, cx))?;
                // Headers have no empty line, so the first one is the end of
                // the head. The Encoder does not mix head and body in a read.
                if count > 0 && !output.bytes().ends_with(b"\r\n\r\n") {
                    return Poll::Ready(Ok(Progress::More));
                }
                let length = *length;
                let Coding::Head(encoder, _) = std::mem::replace(&mut self.coding, Coding::Done)
                else {
                    return Poll::Ready(Ok(Progress::Done));
                };
                self.coding = match length {
                    Some(0) => Coding::Done,
                    Some(length) => {
                        let large = usize::try_from(length).unwrap_or(usize::MAX);
                        output.reserve(large.min(LARGE_BYTES));
                        Coding::Fixed(encoder, length)
                    }
                    None => Coding::Chunked(encoder),
                };
            }
            Coding::Fixed(encoder, left) => {
                let count = ready!(poll_into(encoder, output, cx))?;
                if count == 0 {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("the response body ends {left} bytes before its announced length"),
                    )));
                }
                *left = left.saturating_sub(count as u64);
                if *left == 0 {
                    self.coding = Coding::Done;
                }
            }
            Coding::Chunked(encoder) => {
                if ready!(poll_into(encoder, output, cx))? == 0 {
                    self.coding = Coding::Done;
                }
            }
            Coding::HeadOnly(head) => {
                output.append(head);
                self.coding = Coding::Done;
            }
            Coding::ToTheEnd(head, body) => {
                if !head.is_empty() {
                    output.append(head);
                    head.clear();
                } else if ready!(poll_into(body, output, cx))? == 0 {
                    self.coding = Coding::Done;
                }
            }
            Coding::Done => {}
        }
        Poll::Ready(Ok(match &self.coding {
            Coding::Done => Progress::Done,
            Coding::Head(..)
            | Coding::Fixed(..)
            | Coding::Chunked(_)
            | Coding::HeadOnly(_)
            | Coding::ToTheEnd(..) => Progress::More,
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

fn poll_into(
    reader: &mut (impl AsyncRead + Unpin),
    output: &mut Buffer,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let room = output.room();
    let available = room.len();
    let count = ready!(Pin::new(reader).poll_read(cx, room))?;
    if count > available {
        return Poll::Ready(Err(io::Error::other(
            "the response body claims more bytes than it had room for",
        )));
    }
    output.commit(count);
    Poll::Ready(Ok(count))
}

/// http-types lets almost anything into names and values; with a line end in
/// one, a client could be made to see a response that was never sent.
fn check_headers(response: &Response) -> Result<(), &'static str> {
    for (name, values) in response.iter() {
        let name = name.as_str();
        if name.is_empty() || !name.bytes().all(is_tchar) {
            return Err("a header name is malformed");
        }
        for value in values {
            if value.as_str().bytes().any(is_forbidden_in_value) {
                return Err("a header value contains a control character");
            }
        }
    }
    Ok(())
}

fn asks_to_close(response: &Response) -> bool {
    response.header(&CONNECTION).is_some_and(|values| {
        values
            .iter()
            .flat_map(|value| value.as_str().split(','))
            .any(|option| option.trim().eq_ignore_ascii_case("close"))
    })
}

fn valid_length(values: HeaderValues) -> Option<u64> {
    let value = values.last().as_str();
    match value.bytes().all(|byte| byte.is_ascii_digit()) {
        true => value.parse().ok(),
        false => None,
    }
}

fn encode_head(response: &Response) -> Vec<u8> {
    let status = response.status();
    let phrase = if status == StatusCode::NotModified {
        // http-types says "Modified".
        "Not Modified"
    } else {
        status.canonical_reason()
    };
    let mut head = format!("HTTP/1.1 {} {phrase}\r\n", u16::from(status));
    let mut headers: Vec<_> = response.iter().collect();
    headers.sort_unstable_by_key(|(name, _)| name.as_str());
    for (name, values) in headers {
        for value in values {
            head.push_str(name.as_str());
            head.push_str(": ");
            head.push_str(value.as_str());
            head.push_str("\r\n");
        }
    }
    head.push_str("\r\n");
    head.into_bytes()
}
