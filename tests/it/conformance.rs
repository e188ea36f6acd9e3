//! What an HTTP/1.1 server must answer, byte for byte, as a table.
//!
//! [`check`] plays every case against a server with the routes of the example
//! `api`, in one piece, in pieces of seven bytes and byte by byte, and reads
//! the answers with a parser that shares nothing with the server.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// One exchange with a server, and the section that asks for it.
struct Case {
    rfc: &'static str,
    bytes: &'static [u8],
    /// The final responses, in order; see [`ACCEPTED`].
    statuses: &'static [u16],
    end: End,
}

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Another request is answered.
    Open,
    /// The server closes.
    Closed,
    /// The server closes, but the client has ended its side first.
    ClosedBothWays,
}

use End::{Closed, ClosedBothWays, Open};

/// Any status by which an application, not the server, answers.
const ACCEPTED: u16 = 0;

/// The statuses by which a server refuses what is not HTTP.
const REFUSALS: [u16; 8] = [400, 408, 413, 414, 417, 431, 501, 505];

const PROBE: &[u8] = b"GET /pid HTTP/1.1\r\nHost: probe\r\n\r\n";

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plays every case against the server at `address`.
///
/// # Panics
///
/// If any has another outcome; the message names all of those.
pub(crate) fn check(address: SocketAddr) {
    let mut report = String::new();
    for case in CASES {
        for piece in [usize::MAX, 7, 1] {
            if let Err(outcome) = play(address, case, piece) {
                let bytes = case.bytes.escape_ascii();
                let _ = writeln!(
                    report,
                    "{}: {bytes} in pieces of {piece}: {outcome}, not {:?}",
                    case.rfc, case.statuses,
                );
            }
        }
    }
    for (name, bytes, status) in oversized() {
        let outcome = exchange(address, &bytes, usize::MAX, Closed);
        match outcome {
            Ok(statuses) if statuses == [status] => {}
            other => {
                let _ = writeln!(report, "{name}: {other:?}, not {status}");
            }
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

/// Requests beyond the default limits.
fn oversized() -> Vec<(&'static str, Vec<u8>, u16)> {
    let long = |length: usize| "x".repeat(length);
    vec![
        (
            "RFC 9110 15.5.15: request line",
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(20_000)).into(),
            414,
        ),
        (
            "RFC 9110 15.5.15: request line without an end",
            format!("GET /{}", long(100_000)).into(),
            414,
        ),
        (
            "RFC 6585 5: one field",
            format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", long(100_000)).into(),
            431,
        ),
        (
            "RFC 6585 5: fields without an end",
            format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(50))
                .into_bytes()
                .into_iter()
                .chain(long(100_000).into_bytes())
                .collect(),
            431,
        ),
        (
            "RFC 6585 5: many fields",
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
                "A: b\r\n".repeat(200)
            )
            .into(),
            431,
        ),
        (
            "RFC 9112 7.1.1: a long extension",
            format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;{}\r\n",
                long(20_000)
            )
            .into(),
            400,
        ),
    ]
}

fn play(address: SocketAddr, case: &Case, piece: usize) -> Result<(), String> {
    let statuses = exchange(address, case.bytes, piece, case.end)
        .map_err(|(error, statuses)| format!("{error} after {statuses:?}"))?;
    let fits = statuses.len() == case.statuses.len()
        && statuses
            .iter()
            .zip(case.statuses)
            .all(|(status, expected)| {
                *expected == *status || *expected == ACCEPTED && !REFUSALS.contains(status)
            });
    match fits {
        true => Ok(()),
        false => Err(format!("{statuses:?}")),
    }
}

/// Sends `bytes` and gives the statuses of what comes back, once the
/// connection has come to the given end.
fn exchange(
    address: SocketAddr,
    bytes: &[u8],
    piece: usize,
    end: End,
) -> Result<Vec<u16>, (io::Error, Vec<u16>)> {
    let mut statuses = Vec::new();
    match try_exchange(address, bytes, piece, end, &mut statuses) {
        Ok(()) => Ok(statuses),
        Err(error) => Err((error, statuses)),
    }
}

fn try_exchange(
    address: SocketAddr,
    bytes: &[u8],
    piece: usize,
    end: End,
    statuses: &mut Vec<u16>,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let sent: io::Result<()> = bytes
        .chunks(piece)
        .try_for_each(|piece| stream.write_all(piece));
    // A server that has refused already may have closed, too.
    if end == Open {
        sent?;
        stream.write_all(PROBE)?;
    }
    if end == ClosedBothWays {
        stream.shutdown(Shutdown::Write)?;
    }
    let to_head = bytes.starts_with(b"HEAD ");
    let expected = expected_answers(bytes);
    let mut reader = BufReader::new(stream);
    // The last answer is the one to the probe.
    while let Some(answer) = read_answer(&mut reader, to_head && statuses.len() < expected)? {
        if answer.status == 100 {
            continue;
        }
        if end == Open && answer.closes {
            return Err(io::Error::other("it closes"));
        }
        if end == Open && statuses.len() == expected {
            return match answer.status {
                200 => Ok(()),
                status => Err(io::Error::other(format!("{status} to the next request"))),
            };
        }
        statuses.push(answer.status);
    }
    match end {
        Open => Err(io::ErrorKind::UnexpectedEof.into()),
        Closed | ClosedBothWays => Ok(()),
    }
}

/// How many requests there are in the bytes of a case that leaves the
/// connection open.
fn expected_answers(bytes: &[u8]) -> usize {
    bytes
        .windows(9)
        .filter(|window| window == b" HTTP/1.1" || window == b" HTTP/1.0")
        .count()
}

struct Answer {
    status: u16,
    closes: bool,
}

/// Reads one response; `None`: the end of the stream instead.
fn read_answer(reader: &mut impl BufRead, to_head: bool) -> io::Result<Option<Answer>> {
    let Some(line) = read_line(reader)? else {
        return Ok(None);
    };
    let malformed = |what: &str| io::Error::other(format!("malformed {what}"));
    let rest = line
        .strip_prefix("HTTP/1.1 ")
        .ok_or(malformed("status line"))?;
    let (code, phrase) = rest.split_once(' ').ok_or(malformed("status line"))?;
    let status: u16 = code.parse().map_err(|_| malformed("status"))?;
    if code.len() != 3 || phrase.is_empty() {
        return Err(malformed("status line"));
    }
    let (mut length, mut chunked, mut closes, mut dated) = (None, false, false, false);
    loop {
        let line = read_line(reader)?.ok_or(malformed("head"))?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").ok_or(malformed("field"))?;
        match &*name.to_ascii_lowercase() {
            "content-length" if length.is_some() => return Err(malformed("length")),
            "content-length" => length = Some(value.parse().map_err(|_| malformed("length"))?),
            "transfer-encoding" => chunked = value == "chunked",
            "connection" => closes = value.eq_ignore_ascii_case("close"),
            "date" => dated = value.len() == 29,
            _ => {}
        }
    }
    if chunked && length.is_some() {
        return Err(malformed("framing"));
    }
    if matches!(status, 100..200 | 204) && (chunked || length.is_some()) {
        return Err(malformed("framing of a response without a body"));
    }
    if status >= 200 && !dated {
        return Err(malformed("date"));
    }
    if to_head || matches!(status, 100..200 | 204 | 304) {
        return Ok(Some(Answer { status, closes }));
    }
    if chunked {
        loop {
            let line = read_line(reader)?.ok_or(malformed("chunk"))?;
            let size = u64::from_str_radix(&line, 16).map_err(|_| malformed("chunk size"))?;
            skip(reader, size)?;
            if read_line(reader)?.is_none_or(|line| !line.is_empty()) {
                return Err(malformed("chunk end"));
            }
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        skip(reader, length)?;
    } else if closes {
        io::copy(reader, &mut io::sink())?;
    } else {
        return Err(malformed("framing"));
    }
    Ok(Some(Answer { status, closes }))
}

fn skip(reader: &mut impl BufRead, length: u64) -> io::Result<()> {
    match io::copy(&mut reader.take(length), &mut io::sink())? {
        skipped if skipped == length => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A line without its end, which must be CR LF; `None` at the end.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(Some(line.to_owned())),
        None => Err(io::Error::other(format!("a line without an end: {line:?}"))),
    }
}

const CASES: &[Case] = &[
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET /?q HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET /?a|b{c} HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET /absent HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[404],
        end: Open,
    },
    Case {
        rfc: "RFC 9110 15.5.6",
        bytes: b"DELETE /pid HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[405],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2.1",
        bytes: b"GET //a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[404],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2.1",
        bytes: b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2.2",
        bytes: b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2.2",
        bytes: b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2.2",
        bytes: b"GET HTTP://b:8/pid HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2.2",
        bytes: b"GET https://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2.4",
        bytes: b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[ACCEPTED],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2.4",
        bytes: b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[ACCEPTED],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET /\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3",
        bytes: b"GET / \r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"CONNECT :1 HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET http://a:65536/ HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET /#f HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2",
        bytes: b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 9.1",
        bytes: b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 9.1",
        bytes: b"Get / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 9.1",
        bytes: b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 9.1",
        bytes: b"G!T / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 9.1",
        bytes: b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 9.1",
        bytes: b"G\tT / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 9.1",
        bytes: b"(GET) / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 15.6.6",
        bytes: b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n",
        statuses: &[505],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 15.6.6",
        bytes: b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        statuses: &[505],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 15.6.6",
        bytes: b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        statuses: &[505],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 15.6.6",
        bytes: b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        statuses: &[505],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 15.6.6",
        bytes: b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
        statuses: &[505],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.3",
        bytes: b"GET / http/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.3",
        bytes: b"GET / HTTP/1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.3",
        bytes: b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.3",
        bytes: b"GET / HTTP/11.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.3",
        bytes: b"GET / HTTP/1,1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.3",
        bytes: b"GET / HTPP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: caf\xc3\xa9\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a:80\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a_b.example\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost:a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 3.2, RFC 9110 7.2",
        bytes: b"GET / HTTP/1.1\r\nHost: \t a \t\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA:b\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA:\t b \t\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA: \xe9\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA: caf\xc3\xa9\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~9: x\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA\t: b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA(b): c\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n\xe9: c\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA: b\x01\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA: b\x7f\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5, RFC 9110 5.5",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n\rA: b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 5.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.2",
        bytes: b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nA: b\nB: c\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.2",
        bytes: b"GET / HTTP/1.1\nHost: a\n\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.2",
        bytes: b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 2.2",
        bytes: b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 2.2",
        bytes: b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 2.2",
        bytes: b"\x16\x03\x01\x02\x00",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 3, HTTP/0.9",
        bytes: b"GET /\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 15.5.14",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n",
        statuses: &[413],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:005\r\n\r\nhello",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9110 8.6, RFC 9112 6.3",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200, 200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 8",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhello",
        statuses: &[400],
        end: ClosedBothWays,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        statuses: &[501],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 6.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n005\r\nhello\r\n000\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y;z=\"a b\"\r\nhello\r\n0;last\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 ; x\r\nhello\r\n0\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1.2",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1.2",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\nC:\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200, 200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1.2",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 9\r\nHost: b\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200, 200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 1\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1,\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\0\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx0\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1.2",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1.2",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1.2",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n A: b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 7.1.2",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 15.5.14",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        statuses: &[413],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 8",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        statuses: &[400],
        end: ClosedBothWays,
    },
    Case {
        rfc: "RFC 9112 8",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
        statuses: &[400],
        end: ClosedBothWays,
    },
    Case {
        rfc: "RFC 9112 8",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        statuses: &[400],
        end: ClosedBothWays,
    },
    Case {
        rfc: "RFC 9112 8",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        statuses: &[400],
        end: ClosedBothWays,
    },
    Case {
        rfc: "RFC 9112 8",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        statuses: &[400],
        end: ClosedBothWays,
    },
    Case {
        rfc: "RFC 9110 10.1.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: x\r\nContent-Length: 5\r\n\r\n",
        statuses: &[417],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 10.1.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 5\r\n\r\n",
        statuses: &[417],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 10.1.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\nContent-Length: 5\r\n\r\n",
        statuses: &[417],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 10.1.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: \r\nContent-Length: 5\r\n\r\n",
        statuses: &[417],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 10.1.1",
        bytes: b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\nhello",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9110 10.1.1",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9110 10.1.1",
        bytes: b"POST /absent HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        statuses: &[404],
        end: Closed,
    },
    Case {
        rfc: "RFC 9110 10.1.1",
        bytes: b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        statuses: &[200],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 9.3",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        statuses: &[200],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 9.3",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 9.3",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 9.3",
        bytes: b"GET / HTTP/1.0\r\n\r\n",
        statuses: &[200],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 9.3",
        bytes: b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 9.3",
        bytes: b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        statuses: &[200],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 9.3",
        bytes: b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        statuses: &[400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 9.3",
        bytes: b"GET /stream?n=3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        statuses: &[200],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 9.3.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200, 200, 200, 200, 200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 9.3.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /absent HTTP/1.1\r\nHost: a\r\n\r\nGET /empty HTTP/1.1\r\nHost: a\r\n\r\nGET /stream?n=3 HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200, 404, 204, 200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 9.3.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n\r\nBAD\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200, 400],
        end: Closed,
    },
    Case {
        rfc: "RFC 9112 9.3.2",
        bytes: b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200, 200],
        end: ClosedBothWays,
    },
    Case {
        rfc: "RFC 9112 9.6",
        bytes: b"",
        statuses: &[],
        end: ClosedBothWays,
    },
    Case {
        rfc: "RFC 9112 8",
        bytes: b"GET / HT",
        statuses: &[400],
        end: ClosedBothWays,
    },
    Case {
        rfc: "RFC 9112 6.3",
        bytes: b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 6.3",
        bytes: b"HEAD /pid HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 6.3",
        bytes: b"HEAD /stream?n=3 HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 6.3",
        bytes: b"HEAD /absent HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[404],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 6.3",
        bytes: b"HEAD /empty HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[204],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 6.3",
        bytes: b"GET /empty HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[204, 200],
        end: Open,
    },
    Case {
        rfc: "RFC 9112 6.3",
        bytes: b"GET /stream?n=100 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        statuses: &[200, 200],
        end: Open,
    },
];
