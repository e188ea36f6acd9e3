//! Writes requests, and says where they are cut.

use std::io::Write;
use std::time::Duration;

use super::Manner;

/// What bodies are made of: if a piece of one is ever taken for a head, the
/// server answers what nobody has asked.
const BODY: &[u8] = b"GET /?id=0 HTTP/1.1\r\nHost: body\r\n\r\n";

/// A request on its way.
#[derive(Debug, Default)]
pub struct Request {
    pub id: u64,
    pub bytes: Vec<u8>,
    /// Where the pieces end that are still to be sent, in order.
    cuts: Vec<usize>,
    /// How long to wait after each.
    pub pause: Duration,
}

impl Request {
    /// Becomes request `id`.
    pub fn compose(&mut self, id: u64, host: &str, manner: Manner) {
        self.id = id;
        self.bytes.clear();
        self.cuts.clear();
        let method = if manner.body.is_some() { "POST" } else { "GET" };
        // Writing to a vector cannot fail.
        let _ = write!(
            self.bytes,
            "{method} /?id={id} HTTP/1.1\r\nHost: {host}\r\n"
        );
        if !manner.keeps {
            self.bytes.extend(b"Connection: close\r\n");
        }
        if let Some(length) = manner.body {
            let _ = write!(
                self.bytes,
                "Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n"
            );
        }
        self.bytes.extend(b"\r\n");
        let head = self.bytes.len();
        if let Some(length) = manner.body {
            self.bytes.extend(BODY.iter().cycle().take(length));
        }
        // Half of the pieces for the head, which is much shorter, and none
        // that ends where it does.
        let all = self.bytes.len();
        let of_head = match manner.body {
            Some(_) => manner.pieces / 2,
            None => manner.pieces,
        };
        let of_body = manner.pieces - of_head;
        let cuts = (1..=of_head)
            .map(|piece| head * piece / (of_head + 1))
            .chain((1..of_body).map(|piece| head + (all - head) * piece / of_body));
        match of_body {
            0 => self
                .cuts
                .extend((1..of_head).map(|piece| head * piece / of_head)),
            _ => self.cuts.extend(cuts),
        }
        self.cuts.push(all);
        self.cuts.dedup();
        let pauses = u32::try_from(self.cuts.len() - 1).unwrap_or(u32::MAX);
        self.pause = manner.over.checked_div(pauses).unwrap_or_default();
    }

    /// Where the piece ends that byte `sent` is in; `None` if all is sent.
    pub fn piece_end(&self, sent: usize) -> Option<usize> {
        self.cuts.iter().copied().find(|&end| end > sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(manner: Manner) -> Vec<String> {
        let mut request = Request::default();
        request.compose(7, "host", manner);
        let mut sent = 0;
        let mut pieces = Vec::new();
        while let Some(end) = request.piece_end(sent) {
            pieces.push(String::from_utf8(request.bytes[sent..end].to_vec()).unwrap());
            sent = end;
        }
        pieces
    }

    #[test]
    fn a_request_in_one_piece_is_whole() {
        let get = pieces(Manner::GET);
        assert_eq!(get, ["GET /?id=7 HTTP/1.1\r\nHost: host\r\n\r\n"]);
        let alone = pieces(Manner::ALONE);
        assert!(alone[0].ends_with("\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn a_body_has_the_length_that_is_announced() {
        let manner = Manner {
            body: Some(1024),
            ..Manner::GET
        };
        let post = pieces(manner).concat();
        let (head, body) = post.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with("Content-Length: 1024"));
        assert_eq!(body.len(), 1024);
    }

    #[test]
    fn cuts_are_in_the_head_and_in_the_body() {
        let manner = Manner {
            body: Some(1024),
            pieces: 6,
            over: Duration::from_millis(300),
            ..Manner::GET
        };
        let slow = pieces(manner);
        assert_eq!(slow.len(), 6);
        assert!(!slow[..3].concat().contains("\r\n\r\n"));
        assert!(slow[3].contains("\r\n\r\nGET"), "{slow:?}");
        let whole = Manner {
            pieces: 1,
            ..manner
        };
        assert_eq!(slow.concat(), pieces(whole).concat());
        let mut request = Request::default();
        request.compose(7, "host", manner);
        assert_eq!(request.pause, Duration::from_millis(60));
    }

    #[test]
    fn a_head_alone_is_cut_too() {
        let manner = Manner {
            pieces: 3,
            ..Manner::GET
        };
        assert_eq!(pieces(manner).len(), 3);
    }
}
