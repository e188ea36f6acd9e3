//! Request heads: where one ends, whether it is valid, and what it means.
//!
//! Bytes come in any pieces. [`Scan`] looks at each byte once, finds the end
//! of the head, and refuses early what can no longer become a valid one;
//! [`Scan::parse`] then turns the whole head into a [`Head`]. Both are as
//! strict as RFC 9112 allows a server to be, because whatever two readers of
//! the same bytes understand differently can be used against one of them.
//!
//! This file knows no sockets.

use std::cell::RefCell;
use std::net::Ipv6Addr;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use http_types::headers::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION,
    CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderName, IF_NONE_MATCH, ORIGIN, REFERER,
    TRANSFER_ENCODING, USER_AGENT,
};
use http_types::{Method, StatusCode, Url, Version};

use crate::limits::Limits;
use crate::request::RawHeaders;

/// A valid request head.
#[derive(Debug)]
pub(super) struct Head {
    /// The request without its body.
    pub(super) request: Box<http_types::Request>,
    pub(super) target: Arc<str>,
    pub(super) raw: RawHeaders,
    pub(super) version: Protocol,
    pub(super) framing: Framing,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    /// The client does not object to another request on the connection.
    pub(super) persistent: bool,
    /// The client offers to change the protocol.
    pub(super) offers_upgrade: bool,
}

/// The versions of HTTP that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http10,
    Http11,
}

/// Where a request body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    /// After so many bytes, at least one.
    Fixed(u64),
    Chunked,
}

/// Why a request is not served, and the status that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// For the client and for the log.
    pub(super) reason: &'static str,
}

impl Refusal {
    pub(super) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Refusal { status, reason }
    }

    const fn bad(reason: &'static str) -> Self {
        Refusal::new(StatusCode::BadRequest, reason)
    }
}

/// How far a head has been looked at.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// So many bytes have been looked at.
    position: usize,
    /// Where the present line begins.
    line_start: usize,
    /// How many whole lines there are.
    lines: usize,
    request_line: Option<RequestLine>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RequestLine {
    method: Method,
    target: Range<usize>,
    version: Protocol,
    /// The length of the line with its end.
    length: usize,
}

impl Scan {
    /// Looks at what has come; `bytes` begin where the head begins and grow
    /// from call to call.
    ///
    /// Returns the length of the head once it is whole.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, Refusal> {
        const URI_TOO_LONG: Refusal =
            Refusal::new(StatusCode::UriTooLong, "the request line is too long");
        const HEAD_TOO_LARGE: Refusal = Refusal::new(
            StatusCode::RequestHeaderFieldsTooLarge,
            "the request head is too large",
        );
        // A client that speaks TLS or another protocol may wait for an answer
        // before it sends a line end.
        if bytes.first().is_some_and(|&first| !is_tchar(first)) {
            return Err(Refusal::bad("this is not an HTTP request"));
        }
        while let Some(offset) = memchr::memchr(b'\n', &bytes[self.position..]) {
            let newline = self.position + offset;
            let line = match bytes[self.line_start..newline].split_last() {
                Some((b'\r', line)) => line,
                // RFC 9112 section 2.2 lets a recipient take a bare LF for a
                // line end; those that do and those that do not disagree about
                // where the head ends.
                _ => return Err(Refusal::bad("a line does not end in CR LF")),
            };
            if newline >= limits.max_head_bytes {
                return Err(match self.lines {
                    0 => URI_TOO_LONG,
                    _ => HEAD_TOO_LARGE,
                });
            }
            if self.lines == 0 {
                if newline >= limits.max_request_line_bytes {
                    return Err(URI_TOO_LONG);
                }
                self.request_line = Some(parse_request_line(line)?);
            } else if line.is_empty() {
                return Ok(Some(newline + 1));
            } else if self.lines > limits.max_headers {
                return Err(Refusal::new(
                    StatusCode::RequestHeaderFieldsTooLarge,
                    "there are too many header fields",
                ));
            }
            self.lines += 1;
            self.line_start = newline + 1;
            self.position = newline + 1;
        }
        self.position = bytes.len();
        if self.lines == 0
            && bytes.len() >= limits.max_request_line_bytes.min(limits.max_head_bytes)
        {
            return Err(URI_TOO_LONG);
        }
        if bytes.len() >= limits.max_head_bytes {
            return Err(HEAD_TOO_LARGE);
        }
        Ok(None)
    }

    /// Whether any byte has been looked at.
    pub(super) fn has_begun(&self) -> bool {
        self.position > 0
    }

    /// The method, if the head has got that far.
    pub(super) fn method(&self) -> Option<Method> {
        self.request_line.as_ref().map(|line| line.method)
    }

    /// Gives a whole head its meaning; `bytes` are the head and nothing else.
    pub(super) fn parse(
        &self,
        bytes: &[u8],
        limits: &Limits,
        locations: &Locations,
    ) -> Result<Head, Refusal> {
        let Some(line) = &self.request_line else {
            return Err(Refusal::bad("there is no request line"));
        };
        // Enough for most without the heap.
        let mut few = [httparse::EMPTY_HEADER; 24];
        let mut many;
        let headers = if self.lines <= few.len() {
            &mut few[..]
        } else {
            many = vec![httparse::EMPTY_HEADER; self.lines];
            &mut many[..]
        };
        let headers = match httparse::parse_headers(&bytes[line.length..], headers) {
            Ok(httparse::Status::Complete((_, headers))) => headers,
            Ok(httparse::Status::Partial) => {
                return Err(Refusal::bad("the request head is cut short"));
            }
            Err(httparse::Error::HeaderName) => {
                return Err(Refusal::bad("a field name is malformed"));
            }
            Err(_) => return Err(Refusal::bad("a field value is malformed")),
        };
        let target = std::str::from_utf8(&bytes[line.target.clone()])
            .map_err(|_| Refusal::bad("the request target is not UTF-8"))?;
        // Targets go to logs and terminals, which act on some characters
        // beyond ASCII, too.
        if !target.is_ascii() && target.chars().any(char::is_control) {
            return Err(Refusal::bad("the request target is malformed"));
        }
        let fields = Fields::gather(headers, line.version)?;
        let framing = fields.framing(line.version, limits)?;
        let (mut request, target) = locations.begin(line.method, target, fields.host)?;
        request.set_version(Some(match line.version {
            Protocol::Http10 => Version::Http1_0,
            Protocol::Http11 => Version::Http1_1,
        }));
        let mut raw = RawHeaders::new();
        for (index, header) in headers.iter().enumerate() {
            // The request begins with it.
            if header.name.eq_ignore_ascii_case("host") {
                continue;
            }
            let encoded;
            let value = match std::str::from_utf8(header.value) {
                Ok(value) if value.is_ascii() => value,
                _ => {
                    encoded = percent_encode(header.value);
                    let name = header.name.to_ascii_lowercase();
                    if !raw.iter().any(|(known, _)| **known == *name) {
                        raw.extend(
                            headers
                                .iter()
                                .filter(|other| other.name.eq_ignore_ascii_case(&name))
                                .map(|other| (name.as_str().into(), other.value.into())),
                        );
                    }
                    &encoded
                }
            };
            let name = field_name(header.name);
            let known = |other: &httparse::Header<'_>| other.name.eq_ignore_ascii_case(header.name);
            if headers[..index].iter().any(known) {
                request.append_header(name, value);
            } else {
                // It looks the name up once, and appending twice.
                request.insert_header(name, value);
            }
        }
        Ok(Head {
            request,
            target,
            raw,
            version: line.version,
            framing,
            expects_continue: fields.expects_continue,
            persistent: !fields.close && (line.version == Protocol::Http11 || fields.keep_alive),
            offers_upgrade: fields.upgrade
                && fields.connection_upgrade
                && line.version == Protocol::Http11,
        })
    }
}

/// The fields that decide how the message is read.
#[derive(Default)]
struct Fields<'a> {
    /// Not checked yet: what is asked for again and again is known to be well.
    host: Option<&'a [u8]>,
    content_length: Option<u64>,
    /// Codings, in order.
    transfer_encoding: Option<Coding>,
    expects_continue: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    connection_upgrade: bool,
}

/// What the Transfer-Encoding fields have named so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    Repeated,
    Unknown,
}

impl<'a> Fields<'a> {
    fn gather(headers: &[httparse::Header<'a>], version: Protocol) -> Result<Self, Refusal> {
        let mut fields = Fields::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            // Most fields are none of these; the length tells without looking.
            match header.name.len() {
                4 if is("host") => {
                    if fields.host.is_some() {
                        return Err(Refusal::bad("there are several Host fields"));
                    }
                    fields.host = Some(header.value);
                }
                6 if is("expect") => match header.value.eq_ignore_ascii_case(b"100-continue") {
                    // RFC 9110 section 10.1.1: an HTTP/1.0 client cannot have
                    // meant it.
                    true => fields.expects_continue = version == Protocol::Http11,
                    false => {
                        return Err(Refusal::new(
                            StatusCode::ExpectationFailed,
                            "only 100-continue can be expected",
                        ));
                    }
                },
                7 if is("upgrade") => fields.upgrade = true,
                10 if is("connection") => {
                    for option in list(header.value) {
                        fields.close |= option.eq_ignore_ascii_case(b"close");
                        fields.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                        fields.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                    }
                }
                14 if is("content-length") => {
                    if fields.content_length.is_some() {
                        return Err(Refusal::bad("there are several Content-Length fields"));
                    }
                    fields.content_length = Some(
                        parse_content_length(header.value)
                            .ok_or(Refusal::bad("Content-Length is malformed"))?,
                    );
                }
                17 if is("transfer-encoding") => {
                    let mut named = false;
                    for coding in list(header.value) {
                        named = true;
                        fields.transfer_encoding = Some(fields.coding(coding)?);
                    }
                    if !named {
                        return Err(Refusal::bad("Transfer-Encoding is empty"));
                    }
                }
                _ => {}
            }
        }
        if fields.host.is_none() && version == Protocol::Http11 {
            return Err(Refusal::bad("the Host field is missing"));
        }
        Ok(fields)
    }

    fn coding(&self, coding: &[u8]) -> Result<Coding, Refusal> {
        let name = coding
            .split(|&byte| byte == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii_end();
        if name.is_empty() || !name.iter().copied().all(is_tchar) {
            return Err(Refusal::bad("Transfer-Encoding is malformed"));
        }
        Ok(match self.transfer_encoding {
            None if coding.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
            Some(Coding::Chunked | Coding::Repeated) if name.eq_ignore_ascii_case(b"chunked") => {
                Coding::Repeated
            }
            None | Some(Coding::Chunked | Coding::Repeated | Coding::Unknown) => Coding::Unknown,
        })
    }

    fn framing(&self, version: Protocol, limits: &Limits) -> Result<Framing, Refusal> {
        match (self.transfer_encoding, self.content_length) {
            (None, None | Some(0)) => Ok(Framing::Empty),
            (None, Some(length)) if length > limits.max_body_bytes => Err(Refusal::new(
                StatusCode::PayloadTooLarge,
                "the request body is too large",
            )),
            (None, Some(length)) => Ok(Framing::Fixed(length)),
            // RFC 9112 section 6.1: this ought to be handled as an error.
            (Some(_), Some(_)) => Err(Refusal::bad(
                "there are both Content-Length and Transfer-Encoding",
            )),
            (Some(_), None) if version == Protocol::Http10 => {
                Err(Refusal::bad("HTTP/1.0 has no Transfer-Encoding"))
            }
            (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
            (Some(Coding::Repeated), None) => Err(Refusal::bad("chunked is applied twice")),
            (Some(Coding::Unknown), None) => Err(Refusal::new(
                StatusCode::NotImplemented,
                "the only transfer coding is chunked",
            )),
        }
    }
}

/// Takes a request line apart (RFC 9112 section 3); `line` is without its end.
fn parse_request_line(line: &[u8]) -> Result<RequestLine, Refusal> {
    let mut parts = line.splitn(3, |&byte| byte == b' ');
    let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::bad("the request line is malformed"));
    };
    if method.is_empty() || !method.iter().copied().all(is_tchar) {
        return Err(Refusal::bad("the method is malformed"));
    }
    let version = match version {
        b"HTTP/1.1" => Protocol::Http11,
        b"HTTP/1.0" => Protocol::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Refusal::new(
                StatusCode::HttpVersionNotSupported,
                "only HTTP/1.1 and HTTP/1.0 are spoken here",
            ));
        }
        _ => return Err(Refusal::bad("the protocol version is malformed")),
    };
    // Bytes beyond ASCII are no part of a URI, but clients send UTF-8 there,
    // and other servers take it; that it is UTF-8 is checked later. A fragment
    // is never sent.
    if target.is_empty()
        || target
            .iter()
            .any(|byte| matches!(byte, 0..=b' ' | b'#' | 0x7f))
    {
        return Err(Refusal::bad("the request target is malformed"));
    }
    Ok(RequestLine {
        method: parse_method(method).ok_or(Refusal::new(
            StatusCode::NotImplemented,
            "the method is unknown",
        ))?,
        target: method.len() + 1..method.len() + 1 + target.len(),
        version,
        length: line.len() + 2,
    })
}

/// Methods are case-sensitive (RFC 9110 section 9.1).
fn parse_method(method: &[u8]) -> Option<Method> {
    match method {
        b"GET" => Some(Method::Get),
        b"HEAD" => Some(Method::Head),
        b"POST" => Some(Method::Post),
        // The first word of HTTP/2, not a method.
        b"PRI" => None,
        // Parsed by http-types it could be in lower case.
        _ if method.iter().any(u8::is_ascii_lowercase) => None,
        _ => Method::from_str(std::str::from_utf8(method).ok()?).ok(),
    }
}

/// Finds what the request is about (RFC 9112 section 3.3): its URL, and its
/// authority where that does not come from the Host field.
///
/// `host` and the authority of `target` are checked to hold nothing but an
/// authority, so that the URL, although parsed as a whole, has its parts where
/// they were put.
fn locate<'a>(
    method: Method,
    target: &'a str,
    host: &'a str,
) -> Result<(Url, Option<&'a str>), Refusal> {
    let (scheme, own_authority, path) = if method == Method::Connect {
        let authority = authority(target.as_bytes(), Empty::Refused)?;
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        if port.is_empty() || port.ends_with(']') {
            return Err(Refusal::bad("the target of CONNECT has no port"));
        }
        ("http", Some(authority), "/")
    } else if target.starts_with('/') {
        ("http", None, target)
    } else if target == "*" {
        if method != Method::Options {
            return Err(Refusal::bad("only OPTIONS can be asked of *"));
        }
        ("http", None, "/")
    } else {
        let (scheme, rest) = target
            .split_once("://")
            .ok_or(Refusal::bad("the request target is malformed"))?;
        let scheme = ["http", "https"]
            .into_iter()
            .find(|known| scheme.eq_ignore_ascii_case(known))
            .ok_or(Refusal::bad("the request target has an unknown scheme"))?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let authority = authority(&rest.as_bytes()[..end], Empty::Refused)?;
        (scheme, Some(authority), &rest[end..])
    };
    let authority = match own_authority.unwrap_or(host) {
        "" => "localhost",
        authority => authority,
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    // URL parsers take a backslash for a slash, which HTTP does not.
    let url = match path.contains('\\') {
        false => format!("{scheme}://{authority}{slash}{path}"),
        true => format!("{scheme}://{authority}{slash}{}", path.replace('\\', "%5C")),
    };
    let url = Url::parse(&url).map_err(|_| Refusal::bad("the host is malformed"))?;
    Ok((url, own_authority))
}

/// What was found lately, because clients ask for few things again and again,
/// and parsing a URL costs more than the rest of the head.
pub(super) struct Locations {
    /// What all requests are clones of: unlike what is made anew, a clone has no
    /// channel for trailers, which nobody uses here, and which takes more time
    /// to make than the fields take to parse.
    blank: Box<http_types::Request>,
    /// The place of a location follows from its host and target. Whatever was
    /// there before gives way.
    slots: RefCell<[Option<Location>; LOCATIONS]>,
}

/// A host and a target in origin-form, and what they mean together.
struct Location {
    host: Box<str>,
    target: Arc<str>,
    /// What a request for it begins with: URL and Host.
    request: Box<http_types::Request>,
}

/// How many locations are known at a time.
const LOCATIONS: usize = 32;

/// How long host and target of a known location are at most, together, so that
/// clients cannot fill the memory with them.
const LOCATION_BYTES: usize = 256;

impl Default for Locations {
    fn default() -> Self {
        Locations {
            // It takes what Url::parse takes, and this is a URL.
            blank: Box::new(http_types::Request::new(Method::Get, "http://localhost/")),
            slots: RefCell::default(),
        }
    }
}

impl Locations {
    /// The beginning of a request, with its URL and, if there is one, its Host,
    /// as [`locate`] finds them; `host` is what the field says, unchecked. The
    /// target comes along because it need not be copied.
    fn begin(
        &self,
        method: Method,
        target: &str,
        host: Option<&[u8]>,
    ) -> Result<(Box<http_types::Request>, Arc<str>), Refusal> {
        let field = host;
        let host = field.unwrap_or_default();
        // FNV-1a. Who makes things collide on purpose gains nothing but that
        // they are parsed.
        let hash = target
            .bytes()
            .chain(host.iter().copied())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let place = (hash >> 32) as usize % LOCATIONS;
        let plain = method != Method::Connect && target.starts_with('/') && !host.is_empty();
        if plain
            && let Some(known) = &self.slots.borrow()[place]
            && *known.target == *target
            && known.host.as_bytes() == host
        {
            let mut request = known.request.clone();
            request.set_method(method);
            return Ok((request, Arc::clone(&known.target)));
        }
        let host = authority(host, Empty::Allowed)?;
        let (url, authority) = locate(method, target, host)?;
        let mut request = self.blank.clone();
        request.set_method(method);
        *request.url_mut() = url;
        // RFC 9112 section 3.2.2: the authority of an absolute-form target
        // takes the place of whatever Host says.
        if let Some(host) = authority.or(field.map(|_| host)) {
            request.insert_header(&HOST, host);
        }
        let target: Arc<str> = target.into();
        if plain && host.len() + target.len() <= LOCATION_BYTES {
            self.slots.borrow_mut()[place] = Some(Location {
                host: host.into(),
                target: Arc::clone(&target),
                request: request.clone(),
            });
        }
        Ok((request, target))
    }
}

/// Whether an authority may be empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Allowed,
    Refused,
}

/// Checks `host [":" port]` (RFC 9110 section 7.2, RFC 3986 section 3.2).
fn authority(bytes: &[u8], empty: Empty) -> Result<&str, Refusal> {
    const MALFORMED: Refusal = Refusal::bad("the host is malformed");
    let authority = std::str::from_utf8(bytes).map_err(|_| MALFORMED)?;
    if authority.is_empty() && empty == Empty::Allowed {
        return Ok(authority);
    }
    let (host_is_valid, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or(MALFORMED)?;
            (Ipv6Addr::from_str(address).is_ok(), rest)
        }
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (is_registered_name(host.as_bytes()), port)
        }
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some("") => true,
        Some(digits) => {
            digits.bytes().all(|byte| byte.is_ascii_digit()) && u16::from_str(digits).is_ok()
        }
        None => port.is_empty(),
    };
    match host_is_valid && port_is_valid {
        true => Ok(authority),
        false => Err(MALFORMED),
    }
}

/// RFC 3986 section 3.2.2, `reg-name`, but not empty.
fn is_registered_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((&first, after)) = rest.split_first() {
        rest = match first {
            b'%' => match after {
                [high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    after
                }
                _ => return false,
            },
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+'
            | b',' | b';' | b'=' => after,
            _ if first.is_ascii_alphanumeric() => after,
            _ => return false,
        };
    }
    !name.is_empty()
}

/// One or more digits, and nothing else (RFC 9110 section 8.6).
fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The members of a comma-separated list that are not empty (RFC 9110 section
/// 5.6.1).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// The name of a field; those that most requests have need no memory.
fn field_name(name: &str) -> HeaderName {
    const USUAL: [&HeaderName; 14] = [
        &ACCEPT,
        &USER_AGENT,
        &CONNECTION,
        &ACCEPT_ENCODING,
        &ACCEPT_LANGUAGE,
        &COOKIE,
        &CONTENT_LENGTH,
        &CONTENT_TYPE,
        &AUTHORIZATION,
        &REFERER,
        &ORIGIN,
        &CACHE_CONTROL,
        &IF_NONE_MATCH,
        &TRANSFER_ENCODING,
    ];
    USUAL
        .into_iter()
        .find(|usual| usual.as_str().eq_ignore_ascii_case(name))
        .map_or_else(|| HeaderName::from(name), HeaderName::clone)
}

/// Writes bytes beyond ASCII as `%XX`.
fn percent_encode(value: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let mut encoded = String::with_capacity(value.len() * 3);
    for &byte in value {
        if byte.is_ascii() {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(DIGITS[usize::from(byte >> 4)]);
            encoded.push(DIGITS[usize::from(byte & 15)]);
        }
    }
    encoded
}

/// RFC 9110 section 5.6.2: what tokens, such as methods and field names, are
/// made of.
pub(super) const fn is_tchar(byte: u8) -> bool {
    matches!(byte,
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
        | b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: impl AsRef<[u8]>) -> Result<Head, Refusal> {
        parse_within(head, &Limits::default())
    }

    fn parse_within(head: impl AsRef<[u8]>, limits: &Limits) -> Result<Head, Refusal> {
        let mut scan = Scan::default();
        match scan.advance(head.as_ref(), limits)? {
            Some(length) => scan.parse(&head.as_ref()[..length], limits, &Locations::default()),
            None => panic!("{:?} is not whole", String::from_utf8_lossy(head.as_ref())),
        }
    }

    fn status(head: impl AsRef<[u8]>) -> u16 {
        match parse(head) {
            Ok(_) => 200,
            Err(refusal) => refusal.status.into(),
        }
    }

    #[test]
    fn request_lines_are_taken_or_refused() {
        for (line, expected) in [
            ("GET / HTTP/1.1", 200),
            ("GET / HTTP/1.0", 200),
            ("OPTIONS * HTTP/1.1", 200),
            ("OPTIONS http://a HTTP/1.1", 200),
            ("CONNECT a:443 HTTP/1.1", 200),
            ("CONNECT [::1]:443 HTTP/1.1", 200),
            ("GET http://b/x?y HTTP/1.1", 200),
            ("GET HTTPS://b:8443/ HTTP/1.1", 200),
            ("GET http://b?q HTTP/1.1", 200),
            ("GET //b/x HTTP/1.1", 200),
            ("GET /%zz HTTP/1.1", 200),
            ("GET /?a|b{c}\"d HTTP/1.1", 200),
            ("GET /café HTTP/1.1", 200),
            ("PROPFIND / HTTP/1.1", 200),
            ("VERSION-CONTROL / HTTP/1.1", 200),
            // RFC 9110 section 9.1: methods are case-sensitive, and unknown
            // ones are 501.
            ("get / HTTP/1.1", 501),
            ("Get / HTTP/1.1", 501),
            ("BREW / HTTP/1.1", 501),
            ("PRI / HTTP/1.1", 501),
            ("G!T / HTTP/1.1", 501),
            ("G@T / HTTP/1.1", 400),
            ("G\tT / HTTP/1.1", 400),
            // RFC 9112 section 3: exactly one space between three parts.
            ("GET /", 400),
            ("GET", 400),
            ("GET  / HTTP/1.1", 400),
            ("GET /  HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            ("GET\t/\tHTTP/1.1", 400),
            ("GET / x HTTP/1.1", 400),
            // RFC 9112 section 2.3, RFC 9110 section 15.6.6.
            ("PRI * HTTP/2.0", 505),
            ("GET / HTTP/2.0", 505),
            ("GET / HTTP/0.9", 505),
            ("GET / HTTP/1.2", 505),
            ("GET / HTTP/3.0", 505),
            ("GET / http/1.1", 400),
            ("GET / HTTP/1", 400),
            ("GET / HTTP/1.10", 400),
            ("GET / HTTP/11.1", 400),
            ("GET / HTTP/1,1", 400),
            ("GET / HTPP/1.1", 400),
            ("GET / ", 400),
            // RFC 9112 section 3.2: which method goes with which form.
            ("GET * HTTP/1.1", 400),
            ("OPTIONS ** HTTP/1.1", 400),
            ("GET a:80 HTTP/1.1", 400),
            ("GET a HTTP/1.1", 400),
            ("CONNECT / HTTP/1.1", 400),
            ("CONNECT a HTTP/1.1", 400),
            ("CONNECT a: HTTP/1.1", 400),
            ("CONNECT :443 HTTP/1.1", 400),
            ("CONNECT [::1] HTTP/1.1", 400),
            ("CONNECT http://a:80 HTTP/1.1", 400),
            ("GET ftp://a/ HTTP/1.1", 400),
            ("GET http:///x HTTP/1.1", 400),
            ("GET http://u@a/ HTTP/1.1", 400),
            ("GET http://a:b/ HTTP/1.1", 400),
            ("GET http://a:65536/ HTTP/1.1", 400),
            ("GET http:/a HTTP/1.1", 400),
            ("GET /#f HTTP/1.1", 400),
            ("GET /\0 HTTP/1.1", 400),
            ("GET /\x7f HTTP/1.1", 400),
            ("GET /\r HTTP/1.1", 400),
            ("GET /\u{9b} HTTP/1.1", 400),
        ] {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            assert_eq!(status(head), expected, "{line}");
        }
        assert_eq!(status(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    }

    #[test]
    fn fields_are_taken_or_refused() {
        for (fields, expected) in [
            // RFC 9112 section 3.2 and RFC 9110 section 7.2.
            ("", 400),
            ("Host: a\r\nHost: a\r\n", 400),
            ("Host: a\r\nHOST: b\r\n", 400),
            ("Host:\r\n", 200),
            ("Host: a:80\r\n", 200),
            ("Host: a:\r\n", 200),
            ("Host: [::1]:80\r\n", 200),
            ("Host: [::1]\r\n", 200),
            ("Host: a_b.example\r\n", 200),
            ("Host: a/b\r\n", 400),
            ("Host: a?b\r\n", 400),
            ("Host: a#b\r\n", 400),
            ("Host: u@a\r\n", 400),
            ("Host: a b\r\n", 400),
            ("Host: a,b:c\r\n", 400),
            ("Host: a\\b\r\n", 400),
            ("Host: :80\r\n", 400),
            ("Host: a:80:80\r\n", 400),
            ("Host: a:+80\r\n", 400),
            ("Host: a:99999\r\n", 400),
            ("Host: [::1\r\n", 400),
            ("Host: [v1.x]\r\n", 400),
            ("Host: [::1]x\r\n", 400),
            ("Host: ::1\r\n", 400),
            ("Host: a%zz\r\n", 400),
            ("Host: café\r\n", 400),
            ("Host: 999.999.999.999\r\n", 400),
            // RFC 9112 section 5.
            ("Host: a\r\nA:b\r\n", 200),
            ("Host: a\r\nA:\r\n", 200),
            ("Host: a\r\nA:\t b \t\r\n", 200),
            ("Host: a\r\nA: b\u{e9}\r\n", 200),
            ("Host: a\r\nA : b\r\n", 400),
            ("Host: a\r\nA\t: b\r\n", 400),
            ("Host: a\r\n: b\r\n", 400),
            ("Host: a\r\nA\r\n", 400),
            ("Host: a\r\nA b: c\r\n", 400),
            ("Host: a\r\nA(b): c\r\n", 400),
            ("Host: a\r\n\u{e9}: c\r\n", 400),
            ("Host: a\r\nA: b\r\n c\r\n", 400),
            ("Host: a\r\nA: b\r\n\tc\r\n", 400),
            (" Host: a\r\n", 400),
            ("Host: a\r\nA: b\0c\r\n", 400),
            ("Host: a\r\nA: b\rc\r\n", 400),
            ("Host: a\r\nA: b\x01\r\n", 400),
            ("Host: a\r\nA: b\x7f\r\n", 400),
            ("Host: a\r\nA: b\nB: c\r\n", 400),
            ("Host: a\r\n\rA: b\r\n", 400),
            // RFC 9110 section 8.6.
            ("Host: a\r\nContent-Length: 0\r\n", 200),
            ("Host: a\r\nContent-Length: 007\r\n", 200),
            ("Host: a\r\nContent-Length:\r\n", 400),
            ("Host: a\r\nContent-Length: +7\r\n", 400),
            ("Host: a\r\nContent-Length: -7\r\n", 400),
            ("Host: a\r\nContent-Length: 7a\r\n", 400),
            ("Host: a\r\nContent-Length: 0x7\r\n", 400),
            ("Host: a\r\nContent-Length: 7 7\r\n", 400),
            ("Host: a\r\nContent-Length: 7, 7\r\n", 400),
            ("Host: a\r\nContent-Length: 7\r\nContent-Length: 7\r\n", 400),
            ("Host: a\r\nContent-Length: 7\r\nContent-Length: 8\r\n", 400),
            ("Host: a\r\nContent-Length: 18446744073709551616\r\n", 400),
            ("Host: a\r\nContent-Length: 18446744073709551615\r\n", 413),
            ("Host: a\r\nContent-Length: 16777217\r\n", 413),
            ("Host: a\r\nContent-Length: 16777216\r\n", 200),
            // RFC 9112 section 6.1.
            ("Host: a\r\nTransfer-Encoding: chunked\r\n", 200),
            ("Host: a\r\nTransfer-Encoding: CHUNKED\r\n", 200),
            ("Host: a\r\nTransfer-Encoding:\r\n", 400),
            ("Host: a\r\nTransfer-Encoding: ,\r\n", 400),
            ("Host: a\r\nTransfer-Encoding: gzip\r\n", 501),
            ("Host: a\r\nTransfer-Encoding: identity\r\n", 501),
            ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
            ("Host: a\r\nTransfer-Encoding: chunked, gzip\r\n", 501),
            ("Host: a\r\nTransfer-Encoding: chunked;q=1\r\n", 501),
            ("Host: a\r\nTransfer-Encoding: xchunked\r\n", 501),
            ("Host: a\r\nTransfer-Encoding: \"chunked\"\r\n", 400),
            ("Host: a\r\nTransfer-Encoding: chunked, chunked\r\n", 400),
            (
                "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                400,
            ),
            (
                "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                501,
            ),
            (
                "Host: a\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n",
                400,
            ),
            (
                "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n",
                400,
            ),
            // RFC 9110 section 10.1.1.
            ("Host: a\r\nExpect: 100-continue\r\n", 200),
            ("Host: a\r\nExpect: 100-Continue\r\n", 200),
            ("Host: a\r\nExpect: 200-ok\r\n", 417),
            ("Host: a\r\nExpect: 100-continue, x\r\n", 417),
            ("Host: a\r\nExpect:\r\n", 417),
        ] {
            let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(status(&head), expected, "{head:?}");
        }
    }

    #[test]
    fn http_1_0_needs_no_host_and_has_no_chunks() {
        let head = parse("GET /x HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(head.request.url().as_str(), "http://localhost/x");
        assert!(head.request.header("host").is_none());
        assert!(!head.persistent);
        let head = parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap();
        assert!(head.persistent);
        let head = parse("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").unwrap();
        assert!(!head.expects_continue);
        assert_eq!(
            status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            400
        );
        assert_eq!(status("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
    }

    #[test]
    fn the_url_has_its_parts_where_the_request_put_them() {
        for (line, host, url, field) in [
            ("GET /x?y=1", "a:80", "http://a/x?y=1", "a:80"),
            ("GET /x?y=1", "a:8080", "http://a:8080/x?y=1", "a:8080"),
            ("GET //b/x", "a", "http://a//b/x", "a"),
            ("GET /\\b", "a", "http://a/%5Cb", "a"),
            ("GET /@b", "a", "http://a/@b", "a"),
            ("GET /x", "", "http://localhost/x", ""),
            ("GET /x", "[::1]:8000", "http://[::1]:8000/x", "[::1]:8000"),
            ("GET http://b/x", "a", "http://b/x", "b"),
            ("GET https://b:444?q", "a", "https://b:444/?q", "b:444"),
            ("OPTIONS *", "a", "http://a/", "a"),
            ("OPTIONS http://b", "a", "http://b/", "b"),
            ("CONNECT b:443", "a", "http://b:443/", "b:443"),
            ("GET /caf\u{e9}", "a", "http://a/caf%C3%A9", "a"),
        ] {
            let head = parse(format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
            assert_eq!(head.request.url().as_str(), url, "{line} {host}");
            assert_eq!(*head.target, line[line.find(' ').unwrap() + 1..]);
            assert_eq!(head.request["host"], *field, "{line} {host}");
        }
    }

    #[test]
    fn connection_options_are_understood_in_any_case_and_place() {
        let head =
            |fields: &str| parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).unwrap();
        assert!(head("").persistent);
        assert!(!head("Connection: close\r\n").persistent);
        assert!(!head("Connection: foo, CLOSE\r\n").persistent);
        assert!(!head("Connection: keep-alive\r\nConnection: close\r\n").persistent);
        assert!(head("Connection: closed\r\n").persistent);
        assert!(head("Connection: Upgrade\r\nUpgrade: x\r\n").offers_upgrade);
        assert!(!head("Upgrade: x\r\n").offers_upgrade);
        assert!(!head("Connection: Upgrade\r\n").offers_upgrade);
    }

    #[test]
    fn values_beyond_ascii_are_encoded_and_kept_raw() {
        let head =
            parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: plain\r\nY: z\r\nx: \xff\xe9!\r\nx: q\r\n\r\n")
                .unwrap();
        let values: Vec<_> = head.request.header("x").unwrap().iter().collect();
        assert_eq!(values, ["plain", "%FF%E9!", "q"]);
        let raw: Vec<_> = head
            .raw
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(
            raw,
            [("x", &b"plain"[..]), ("x", b"\xff\xe9!"), ("x", b"q")]
        );
    }

    #[test]
    fn what_is_known_is_no_different_from_what_is_new() {
        let limits = Limits::default();
        let known = Locations::default();
        let parse = |head: &[u8], locations: &Locations| {
            let mut scan = Scan::default();
            let length = scan.advance(head, &limits).unwrap().unwrap();
            let head = scan.parse(&head[..length], &limits, locations)?;
            let request = head.request;
            let mut fields: Vec<_> = request.iter().map(|it| format!("{it:?}")).collect();
            fields.sort();
            Ok::<_, Refusal>((request.method(), request.url().clone(), fields, head.target))
        };
        let long = format!("/{}", "x".repeat(LOCATION_BYTES));
        for _ in 0..2 {
            for target in ["/", "/a?b", "/a%3fb", "*", "http://b/", "http:///", &long] {
                for (method, fields) in [
                    ("GET", "1.1\r\nHost: a\r\nCookie: b\r\n"),
                    ("POST", "1.1\r\nHost: a\r\n"),
                    ("GET", "1.1\r\nhost:A\r\nX: y\r\n"),
                    ("OPTIONS", "1.1\r\nHost: b:1\r\n"),
                    ("OPTIONS", "1.0\r\nHost: b:1\r\n"),
                    ("OPTIONS", "1.1\r\nHost: \r\n"),
                    ("GET", "1.0\r\n"),
                ] {
                    for number in 0..2 * LOCATIONS {
                        let number = match target.starts_with("/a") {
                            true => number.to_string(),
                            false => String::new(),
                        };
                        let head = format!("{method} {target}{number} HTTP/{fields}\r\n");
                        assert_eq!(
                            parse(head.as_bytes(), &known),
                            parse(head.as_bytes(), &Locations::default()),
                            "{head}"
                        );
                    }
                }
            }
        }
        for location in known.slots.borrow().iter().flatten() {
            assert!(location.host.len() + location.target.len() <= LOCATION_BYTES);
        }
    }

    #[test]
    fn heads_beyond_a_limit_are_refused_as_soon_as_they_are() {
        let limits = Limits::default()
            .max_request_line_bytes(32)
            .max_head_bytes(64)
            .max_headers(3);
        let advance = |bytes: &str| {
            Scan::default()
                .advance(bytes.as_bytes(), &limits)
                .map_err(|refusal| u16::from(refusal.status))
        };
        let line = "GET /aaaaaaaaaaaaaaaaa HTTP/1.1\r";
        assert_eq!(line.len(), 32);
        assert_eq!(advance(&line[..31]), Ok(None));
        assert_eq!(advance(line), Err(414));
        assert_eq!(advance("GET /aaaaaaaaaaaaaaaa HTTP/1.1\r\n"), Ok(None));
        assert_eq!(advance("G / HTTP/1.1\r\n"), Err(501));
        let head = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(41));
        assert_eq!(head.len(), 64);
        assert_eq!(advance(&head), Ok(Some(64)));
        let head = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(42));
        assert_eq!(advance(&head), Err(431));
        assert_eq!(advance(&head[..63]), Ok(None));
        assert_eq!(advance(&head[..64]), Err(431));
        assert_eq!(
            advance("GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\n\r\n"),
            Ok(Some(30))
        );
        assert_eq!(
            advance("GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\nD:\r\n"),
            Err(431)
        );
        assert_eq!(advance("\x16\x03\x01"), Err(400));
    }

    #[test]
    fn a_head_means_the_same_in_pieces() {
        let head = b"POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: \xe9\r\n\r\nabc";
        let limits = Limits::default();
        let mut scan = Scan::default();
        for end in 1..head.len() - 3 {
            assert_eq!(scan.advance(&head[..end], &limits), Ok(None), "{end}");
        }
        let length = scan.advance(head, &limits).unwrap().unwrap();
        assert_eq!(&head[length..], b"abc");
        let head = scan
            .parse(&head[..length], &limits, &Locations::default())
            .unwrap();
        assert_eq!(head.framing, Framing::Fixed(3));
    }
}
