//! Chunked bodies: the decoder against a reference.

use super::super::body::{Decoded, Decoder, Failure};
use super::super::buffer::Buffer;
use super::super::head::Framing;
use super::is_token;

/// Small, so that it is met.
const MAX_BODY_BYTES: u64 = 100;

/// Lines of more bytes, and more of them around the chunks, are refused; the
/// reference knows nothing of these limits.
const MAX_INPUT_BYTES: usize = 4000;

/// What became of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is complete, and so many bytes are left over.
    Complete(usize),
    /// More has to come.
    Open,
    Malformed,
    TooLarge,
}

/// Checks that the decoder reads `bytes` as the reference does, in whatever
/// pieces they come and into however little room their content goes.
pub(crate) fn check(bytes: &[u8]) {
    if bytes.len() > MAX_INPUT_BYTES {
        return;
    }
    let expected = refer(bytes);
    for (piece, room) in [(MAX_INPUT_BYTES, 64), (1, 64), (2, 1), (3, 7), (17, 5)] {
        let decoded = decode(bytes, piece, room);
        assert_eq!(decoded, expected, "in pieces of {piece} into {room} bytes");
    }
}

fn decode(bytes: &[u8], piece: usize, room: usize) -> (Vec<u8>, End) {
    let mut decoder = Decoder::new(Framing::Chunked, MAX_BODY_BYTES);
    let mut input = Buffer::default();
    let mut content = Vec::new();
    let mut pieces = bytes.chunks(piece);
    loop {
        let mut into = vec![0; room];
        let decoded = decoder.decode(&mut input, &mut into);
        assert_eq!(decoder.is_done(), decoded == Ok(Decoded::End));
        let end = match decoded {
            Ok(Decoded::Content(count)) => {
                assert!((1..=room).contains(&count));
                content.extend(&into[..count]);
                continue;
            }
            Ok(Decoded::Starved) => match pieces.next() {
                Some(piece) => {
                    input.append(piece);
                    continue;
                }
                None => End::Open,
            },
            Ok(Decoded::End) => End::Complete(input.len() + pieces.map(<[u8]>::len).sum::<usize>()),
            Err(Failure::TooLarge) => End::TooLarge,
            Err(Failure::Malformed(_)) => End::Malformed,
            Err(failure @ (Failure::Truncated | Failure::Stalled | Failure::Broken(_))) => {
                panic!("a decoder has no socket, but {failure:?}")
            }
        };
        return (content, end);
    }
}

/// RFC 9112 section 7.1, one production after the other.
fn refer(bytes: &[u8]) -> (Vec<u8>, End) {
    let mut content = Vec::new();
    let mut rest = bytes;
    let end = loop {
        let size = match line(&mut rest).map(|line| line.and_then(chunk_size)) {
            None => break End::Open,
            Some(None) => break End::Malformed,
            Some(Some(0)) => break trailers(rest),
            Some(Some(size)) => size,
        };
        if size + content.len() as u128 > u128::from(MAX_BODY_BYTES) {
            break End::TooLarge;
        }
        let size = size as usize;
        content.extend(&rest[..size.min(rest.len())]);
        match rest.get(size..) {
            None | Some([] | [b'\r']) => break End::Open,
            Some([b'\r', b'\n', after @ ..]) => rest = after,
            Some([..]) => break End::Malformed,
        }
    };
    (content, end)
}

fn trailers(mut rest: &[u8]) -> End {
    loop {
        match line(&mut rest) {
            None => return End::Open,
            Some(Some(b"")) => return End::Complete(rest.len()),
            Some(Some(line)) if is_field(line) => {}
            Some(_) => return End::Malformed,
        }
    }
}

/// Takes a line off; `None`: it has no end, `Some(None)`: it has a wrong one.
fn line<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    let (line, after) = (&rest[..end], &rest[end + 1..]);
    *rest = after;
    Some(line.strip_suffix(b"\r"))
}

fn chunk_size(line: &[u8]) -> Option<u128> {
    let text = line.escape_ascii().to_string();
    let digits = text.bytes().take_while(u8::is_ascii_hexdigit).count();
    // A longer one means a size that nobody has.
    if !(1..=16).contains(&digits) {
        return None;
    }
    let after = &line[digits..];
    let extensions = after.iter().find(|byte| !b" \t".contains(byte));
    let is_sound = matches!(extensions, None | Some(b';')) && after.iter().all(is_text);
    is_sound.then(|| u128::from_str_radix(&text[..digits], 16).unwrap())
}

fn is_field(line: &[u8]) -> bool {
    let mut parts = line.splitn(2, |&byte| byte == b':');
    let name = parts.next().unwrap_or_default();
    is_token(name) && parts.next().is_some_and(|value| value.iter().all(is_text))
}

/// RFC 9110 section 5.5: what may stand in a field value.
fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || *byte >= b' ' && *byte != 0x7f
}
