//! A reader of responses that takes nothing but what RFC 9112 allows.

use super::{find, is_token};

/// A response, interim or final.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The server says that it closes the connection.
    pub(super) closes: bool,
    pub(super) body: Vec<u8>,
    pub(super) framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(usize),
    Chunked,
    /// The end of the connection is the end of the body.
    ToTheEnd,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes end before it does.
    CutShort,
    /// It is not one.
    Malformed(String),
}

fn malformed<T>(what: &str, bytes: &[u8]) -> Result<T, Fault> {
    Err(Fault::Malformed(format!(
        "{what}: {}",
        bytes.escape_ascii()
    )))
}

/// Takes a response off `rest`; `to_head` says whether it answers a HEAD.
pub(super) fn take(rest: &mut &[u8], to_head: bool) -> Result<Answer, Fault> {
    let head_end = find(rest, b"\r\n\r\n").ok_or(Fault::CutShort)?;
    let (head, body) = (&rest[..head_end + 2], &rest[head_end + 4..]);
    let mut lines = Vec::new();
    for line in head.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(line) if !line.iter().any(u8::is_ascii_control) => lines.push(line),
            Some(_) | None => return malformed("line", line),
        }
    }
    let status = match lines[0] {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'1',
            b' ',
            code @ ..,
        ] => match code {
            [
                a @ b'1'..=b'5',
                b @ b'0'..=b'9',
                c @ b'0'..=b'9',
                b' ',
                _,
                ..,
            ] => [a, b, c]
                .into_iter()
                .fold(0, |status, digit| status * 10 + u16::from(digit - b'0')),
            _ => return malformed("status", lines[0]),
        },
        line => return malformed("status line", line),
    };
    let mut fields = Vec::new();
    for line in &lines[1..] {
        let Some(colon) = find(line, b": ") else {
            return malformed("field", line);
        };
        if !is_token(&line[..colon]) {
            return malformed("field name", line);
        }
        fields.push((line[..colon].to_ascii_lowercase(), &line[colon + 2..]));
    }
    let only = |name: &[u8]| {
        let mut values = fields
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| *value);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => malformed("repeated field", name),
        }
    };
    let length = match only(b"content-length")? {
        None => None,
        Some(digits) => match std::str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse().ok())
        {
            Some(length) if digits.iter().all(u8::is_ascii_digit) => Some(length),
            Some(_) | None => return malformed("length", digits),
        },
    };
    let chunked = match only(b"transfer-encoding")? {
        None => false,
        Some(b"chunked") => true,
        Some(coding) => return malformed("coding", coding),
    };
    let closes = only(b"connection")?.is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    let is_interim = status < 200;
    match only(b"date")? {
        Some(date) if date.len() == 29 && date.ends_with(b" GMT") => {}
        None if is_interim => {}
        date => return malformed("date", date.unwrap_or_default()),
    }
    if chunked && length.is_some() {
        return malformed("double framing", head);
    }
    if (is_interim || status == 204) && (chunked || length.is_some()) {
        return malformed("framing of a response that has no body", head);
    }
    let framing = if is_interim || to_head || matches!(status, 204 | 304) {
        Framing::None
    } else if chunked {
        Framing::Chunked
    } else if let Some(length) = length {
        Framing::Length(length)
    } else if closes {
        Framing::ToTheEnd
    } else {
        return malformed("response without an end", head);
    };
    let body = match framing {
        Framing::None => {
            *rest = body;
            Vec::new()
        }
        Framing::Length(length) => {
            let (content, after) = body.split_at_checked(length).ok_or(Fault::CutShort)?;
            *rest = after;
            content.to_vec()
        }
        Framing::Chunked => {
            let (content, after) = take_chunks(body)?;
            *rest = after;
            content
        }
        Framing::ToTheEnd => {
            *rest = &[];
            body.to_vec()
        }
    };
    Ok(Answer {
        status,
        closes,
        body,
        framing,
    })
}

/// The content of chunks, and what comes after them.
fn take_chunks(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), Fault> {
    let mut content = Vec::new();
    loop {
        let end = find(rest, b"\r\n").ok_or(Fault::CutShort)?;
        let digits = &rest[..end];
        let size = std::str::from_utf8(digits)
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(size) = size else {
            return malformed("chunk size", digits);
        };
        let chunk = &rest[end + 2..];
        if chunk.len() < size + 2 {
            return Err(Fault::CutShort);
        }
        content.extend(&chunk[..size]);
        if chunk[size..size + 2] != *b"\r\n" {
            return malformed("end of a chunk", &chunk[size..size + 2]);
        }
        rest = &chunk[size + 2..];
        if size == 0 {
            return Ok((content, rest));
        }
    }
}
