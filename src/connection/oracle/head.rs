//! Request heads: the same meaning in any pieces, and the one that the RFCs
//! give them.

use std::sync::Arc;

use http_types::Method;

use super::super::head::{Framing, Locations, Protocol, Refusal, Scan};
use super::{find, is_token};
use crate::limits::Limits;

/// Small, so that they are met.
const MAX_REQUEST_LINE_BYTES: usize = 200;
const MAX_HEAD_BYTES: usize = 600;
const MAX_HEADERS: usize = 12;

/// All that a head says.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    length: usize,
    method: Method,
    target: Arc<str>,
    scheme: String,
    authority: String,
    path: String,
    query: Option<String>,
    is_http11: bool,
    framing: Framing,
    expects_continue: bool,
    persistent: bool,
    offers_upgrade: bool,
    host: Option<String>,
}

/// Checks that `bytes` are refused, or mean one thing in whatever pieces they
/// come, and that it is what the RFCs say.
pub(crate) fn check(bytes: &[u8]) {
    let limits = Limits::default()
        .max_request_line_bytes(MAX_REQUEST_LINE_BYTES)
        .max_head_bytes(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    let mut bytes = bytes;
    // The connection takes empty lines off before it looks for a head.
    while let Some(after) = bytes.strip_prefix(b"\r\n") {
        bytes = after;
    }
    // What the first one has found is known to the others.
    let locations = Locations::default();
    let whole = read(bytes, usize::MAX, &limits, &locations);
    for piece in [1, 2, 7, 64] {
        let in_pieces = read(bytes, piece, &limits, &locations);
        match (&whole, &in_pieces) {
            (Ok(whole), Ok(in_pieces)) => assert_eq!(whole, in_pieces, "in pieces of {piece}"),
            // Which of several faults is seen first may differ.
            (Err(_), Err(_)) => {}
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => {
                panic!("{whole:?}, but in pieces of {piece} {in_pieces:?}")
            }
        }
    }
    match whole {
        Ok(Some(meaning)) => {
            check_meaning(&bytes[..meaning.length], &meaning);
            check_host(&bytes[..meaning.length], &meaning, &locations);
        }
        Ok(None) | Err(_) => assert!(!is_plain(bytes), "a plain request gives {whole:?}"),
    }
}

fn read(
    bytes: &[u8],
    piece: usize,
    limits: &Limits,
    locations: &Locations,
) -> Result<Option<Meaning>, Refusal> {
    let mut scan = Scan::default();
    let mut end = 0;
    while end < bytes.len() {
        end = end.saturating_add(piece).min(bytes.len());
        // It could be the first half of an empty line.
        if bytes[..end] == *b"\r" {
            continue;
        }
        if let Some(length) = scan.advance(&bytes[..end], limits)? {
            let head = scan.parse(&bytes[..length], limits, locations)?;
            let url = head.request.url();
            let host = head.request.header("host");
            return Ok(Some(Meaning {
                length,
                method: head.request.method(),
                scheme: url.scheme().to_owned(),
                authority: url.authority().to_owned(),
                path: url.path().to_owned(),
                query: url.query().map(ToOwned::to_owned),
                host: host.map(|values| values.last().as_str().to_owned()),
                target: head.target,
                is_http11: head.version == Protocol::Http11,
                framing: head.framing,
                expects_continue: head.expects_continue,
                persistent: head.persistent,
                offers_upgrade: head.offers_upgrade,
            }));
        }
    }
    Ok(None)
}

/// Reads `head` once more, by the letter of the RFCs, and compares.
fn check_meaning(head: &[u8], meaning: &Meaning) {
    assert!(head.len() <= MAX_HEAD_BYTES);
    assert_eq!(find(head, b"\r\n\r\n"), Some(head.len() - 4));
    // A character for each byte, whatever that means.
    let text: String = head.iter().copied().map(char::from).collect();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let request_line = lines.next().unwrap();
    assert!(request_line.chars().count() + 1 < MAX_REQUEST_LINE_BYTES);
    let words: Vec<&str> = request_line.split(' ').collect();
    let [method, target, version] = words[..] else {
        panic!("a request line of {} words was taken", words.len());
    };
    assert_eq!(method, meaning.method.as_ref());
    assert!(is_token(method.as_bytes()));
    assert!(!target.is_empty() && !target.contains(|letter: char| letter.is_ascii_control()));
    assert_eq!(version == "HTTP/1.1", meaning.is_http11);
    assert!(matches!(version, "HTTP/1.1" | "HTTP/1.0"));

    let fields: Vec<(String, &str)> = lines
        .map(|line| {
            assert!(
                !line.contains(|letter: char| letter.is_ascii_control() && letter != '\t'),
                "a control character was taken"
            );
            let (name, value) = line.split_once(':').expect("a field has a colon");
            assert!(is_token(name.as_bytes()), "the name {name:?} was taken");
            (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']))
        })
        .collect();
    assert!(fields.len() <= MAX_HEADERS);
    let values = |name: &str| -> Vec<&str> {
        let fields = fields.iter().filter(|(known, _)| known == name);
        fields.map(|(_, value)| *value).collect()
    };
    let options = |name: &str| -> Vec<String> {
        let values = values(name).join(",").to_ascii_lowercase();
        let options = values
            .split(',')
            .map(|option| option.trim_matches([' ', '\t']));
        options
            .filter(|option| !option.is_empty())
            .map(ToOwned::to_owned)
            .collect()
    };

    match values("host")[..] {
        [_] => {}
        [] => assert!(!meaning.is_http11, "a head without Host was taken"),
        [..] => panic!("several Hosts were taken"),
    }
    let framing = match (
        &values("transfer-encoding")[..],
        &values("content-length")[..],
    ) {
        ([], []) => Framing::Empty,
        ([], [length]) => {
            assert!(!length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()));
            match length.parse().expect("a length that fits") {
                0 => Framing::Empty,
                length => Framing::Fixed(length),
            }
        }
        ([_, ..], []) if meaning.is_http11 && options("transfer-encoding") == ["chunked"] => {
            Framing::Chunked
        }
        framing => panic!("{framing:?} was taken"),
    };
    assert_eq!(meaning.framing, framing);
    let connection = options("connection");
    let has = |option: &str| connection.iter().any(|known| known == option);
    assert_eq!(
        meaning.persistent,
        !has("close") && (meaning.is_http11 || has("keep-alive"))
    );
    assert_eq!(
        meaning.offers_upgrade,
        meaning.is_http11 && has("upgrade") && !values("upgrade").is_empty()
    );
    let expectations = values("expect");
    assert!(
        expectations
            .iter()
            .all(|value| value.eq_ignore_ascii_case("100-continue"))
    );
    assert_eq!(
        meaning.expects_continue,
        meaning.is_http11 && !expectations.is_empty()
    );

    // What no URL parser changes must have come through.
    let unchanged = |letter: char| letter.is_ascii_alphanumeric() || "/?=&_-".contains(letter);
    if target.starts_with('/') && target.chars().all(unchanged) {
        let query = meaning.query.as_ref().map(|query| format!("?{query}"));
        assert_eq!(meaning.path.clone() + &query.unwrap_or_default(), target);
    }
    assert!(meaning.path.starts_with('/'));
}

/// Checks that the Host field has no influence on anything else: with another
/// one, everything else is as it was.
fn check_host(head: &[u8], meaning: &Meaning, locations: &Locations) {
    let lines = head.split_inclusive(|&byte| byte == b'\n');
    let is_host = |line: &[u8]| line.len() > 5 && line[..5].eq_ignore_ascii_case(b"host:");
    let changed: Vec<u8> = lines
        .flat_map(|line| match is_host(line) {
            true => b"Host: other\r\n",
            false => line,
        })
        .copied()
        .collect();
    let limits = Limits::default();
    let unheard_of = read(&changed, usize::MAX, &limits, &Locations::default());
    let other = read(&changed, usize::MAX, &limits, locations)
        .expect("another Host is taken, too")
        .expect("the head is whole");
    assert_eq!(Some(&other), unheard_of.unwrap().as_ref());
    let is_absolute = !meaning.target.starts_with('/') && meaning.target.contains("://");
    let is_own = is_absolute || meaning.method == Method::Connect;
    if is_own {
        assert_eq!(other.host, meaning.host, "the target names the authority");
        assert_eq!(other.authority, meaning.authority);
    } else if meaning.host.is_some() {
        assert_eq!(other.authority, "other");
    }
    let meaning = Meaning {
        length: changed.len(),
        host: other.host.clone(),
        target: Arc::clone(&meaning.target),
        scheme: meaning.scheme.clone(),
        authority: other.authority.clone(),
        path: meaning.path.clone(),
        query: meaning.query.clone(),
        ..*meaning
    };
    assert_eq!(other, meaning);
}

/// Whether `bytes` begin with a request that nobody could object to.
fn is_plain(bytes: &[u8]) -> bool {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return false;
    };
    let Ok(text) = std::str::from_utf8(&bytes[..end]) else {
        return false;
    };
    let mut lines = text.split("\r\n");
    let is_word = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let request_line = lines.next().unwrap_or_default();
    let target = request_line
        .strip_prefix("GET /")
        .and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let mut hosts = 0;
    let mut fields = 0;
    let fields_are_plain = lines.all(|line| {
        fields += 1;
        match line.split_once(": ") {
            Some(("Host", value)) => {
                hosts += 1;
                value.bytes().all(|byte| byte.is_ascii_lowercase())
            }
            Some((name, value)) => name.starts_with("X") && is_word(name) && is_word(value),
            None => false,
        }
    });
    target.is_some_and(is_word)
        && fields_are_plain
        && hosts == 1
        && fields <= MAX_HEADERS
        && request_line.len() + 2 < MAX_REQUEST_LINE_BYTES
        && end + 4 < MAX_HEAD_BYTES
}
