//! Reads a response, and tells whether it answers the request it came for.
//!
//! Every request has a number of its own in its target (`?id=7`), and every
//! server answers with its process and that number, `1234 7`: so one response
//! can be taken for no other.

/// The response to a request, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The process that has handled the request.
    pub pid: u32,
    /// Head and body, in bytes.
    pub length: usize,
    /// Whether it announces that the connection ends.
    pub closes: bool,
}

/// Why bytes are not, and cannot become, the response to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// They are no response at all, or one that no request should have.
    Wrong,
    /// They answer another request.
    OfAnother,
}

/// Reads what `bytes` begin with; `None` while it is incomplete.
pub fn read(bytes: &[u8], id: u64) -> Result<Option<Answer>, Misfit> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|_| Misfit::Wrong)? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    if response.code != Some(200) || response.version != Some(1) {
        return Err(Misfit::Wrong);
    }
    let mut length = None;
    let mut closes = false;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let value = std::str::from_utf8(header.value).map_err(|_| Misfit::Wrong)?;
            let value = value.trim().parse::<usize>().map_err(|_| Misfit::Wrong)?;
            // Two lengths are one too many, whatever they say.
            if length.replace(value).is_some() {
                return Err(Misfit::Wrong);
            }
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes |= header
                .value
                .split(|&byte| byte == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
    }
    let length = head + length.ok_or(Misfit::Wrong)?;
    let Some(body) = bytes.get(head..length) else {
        return Ok(None);
    };
    let body = std::str::from_utf8(body).map_err(|_| Misfit::Wrong)?;
    let (pid, echo) = body
        .strip_suffix('\n')
        .and_then(|line| line.split_once(' '))
        .ok_or(Misfit::Wrong)?;
    let pid = pid.parse().map_err(|_| Misfit::Wrong)?;
    match echo.parse::<u64>() {
        Ok(echo) if echo == id => Ok(Some(Answer {
            pid,
            length,
            closes,
        })),
        Ok(_) => Err(Misfit::OfAnother),
        Err(_) => Err(Misfit::Wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(headers: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes()
    }

    #[test]
    fn a_response_is_read_once_it_is_whole() {
        let whole = response("", "1234 7\n");
        let answer = Answer {
            pid: 1234,
            length: whole.len(),
            closes: false,
        };
        assert_eq!(read(&whole, 7), Ok(Some(answer)));
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end], 7), Ok(None), "{end}");
        }
    }

    #[test]
    fn what_follows_is_not_part_of_it() {
        let mut two = response("", "1234 7\n");
        let one = two.len();
        two.extend(response("", "1234 8\n"));
        assert_eq!(
            read(&two, 7).map(|it| it.map(|it| it.length)),
            Ok(Some(one))
        );
    }

    #[test]
    fn an_announced_end_is_seen_in_any_spelling() {
        for (headers, closes) in [
            ("Connection: close\r\n", true),
            ("connection: Keep-Alive, Close\r\n", true),
            ("Connection: keep-alive\r\nConnection: close\r\n", true),
            ("Connection: keep-alive\r\n", false),
            ("X-Connection: close\r\n", false),
        ] {
            let answer = read(&response(headers, "1 1\n"), 1).unwrap().unwrap();
            assert_eq!(answer.closes, closes, "{headers}");
        }
    }

    #[test]
    fn a_response_to_another_request_is_told_from_nonsense() {
        assert_eq!(read(&response("", "1234 8\n"), 7), Err(Misfit::OfAnother));
        for body in ["", "\n", "1234 7", "1234\n", "1234 7 7\n", "x 7\n", "1 x\n"] {
            assert_eq!(read(&response("", body), 7), Err(Misfit::Wrong), "{body:?}");
        }
    }

    #[test]
    fn a_head_that_no_server_should_send_is_wrong() {
        for head in [
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 7",
            "HTTP/1.0 200 OK\r\nContent-Length: 7",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 7",
            "HTTP/1.1 200 OK\r\nContent-Length: -7",
            "GET / HTTP/1.1",
        ] {
            let bytes = format!("{head}\r\n\r\n1234 7\n");
            assert_eq!(read(bytes.as_bytes(), 7), Err(Misfit::Wrong), "{head}");
        }
    }
}
