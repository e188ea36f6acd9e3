//! What must hold whatever a client sends, for the fuzzers and for
//! `cargo test`.
//!
//! Each check takes the bytes of a client and panics if the code under test
//! breaks a promise. `tests/fuzz` feeds the checks with what libFuzzer comes up
//! with; the tests here feed them with the seeds in `tests/seeds` and with
//! mutations of these, the same in every run.
//!
//! Whatever judges an answer is written here a second time, from the RFCs and
//! without a look at the code under test: two programs that share a function
//! share its mistakes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a check that does not hold panics"
)]

mod answers;
mod chunks;
mod exchange;
mod head;

pub(crate) use self::chunks::check as chunks;
#[cfg(fuzzing)]
pub(crate) use self::exchange::check_on_stage as exchange;
pub(crate) use self::head::check as head;

/// RFC 9110 section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Where `sought` begins in `bytes`.
fn find(bytes: &[u8], sought: &[u8]) -> Option<usize> {
    bytes
        .windows(sought.len())
        .position(|window| window == sought)
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use smol::future::FutureExt;

    use super::{chunks, exchange, head};
    use crate::seeds::{check_all, inputs, report, seeds};

    /// What a byte-wise mutation would hardly come up with.
    const WORDS: &[&[u8]] = &[
        b"\xfb",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"ffffffffffffffff",
        b"GET / HTTP/1.1\r\n",
        b"POST /echo HTTP/1.1\r\n",
        b"POST /stream HTTP/1.1\r\n",
        b"HEAD /chunks HTTP/1.0\r\n",
        b"GET /large HTTP/1.1\r\n",
        b"POST /some HTTP/1.1\r\n",
        b"POST /keep HTTP/1.1\r\n",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"Host: a\r\n",
        b"Host: a\r\n\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 18446744073709551616\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"\xc3\xa9",
        b"%2e%2e/",
        b"[::1]",
        b"\xff",
        b"\xfe",
        b"\xfd",
        b"\xfc",
    ];

    #[test]
    fn heads_mean_the_same_in_pieces_and_what_the_rfc_says() {
        check_all("head", WORDS, 15_000, head);
    }

    #[test]
    fn chunks_are_decoded_as_the_reference_does() {
        check_all("chunks", WORDS, 15_000, chunks);
    }

    #[test]
    fn connections_may_leave_between_any_two_bytes() {
        smol::block_on(async {
            for (name, bytes) in seeds("connection") {
                let mut scripts: Vec<Vec<u8>> = (0..bytes.len())
                    .step_by(3)
                    .map(|at| {
                        let mut script = bytes.clone();
                        script.insert(at, exchange::LEAVE);
                        script
                    })
                    .collect();
                scripts.push(
                    bytes
                        .iter()
                        .flat_map(|byte| [*byte, exchange::LEAVE])
                        .collect(),
                );
                for script in scripts {
                    let check = AssertUnwindSafe(exchange::check(&script));
                    if check.catch_unwind().await.is_err() {
                        report(&name, &script);
                    }
                }
            }
        });
    }

    #[test]
    fn connections_keep_their_promises_whatever_comes() {
        smol::block_on(async {
            for (name, bytes) in inputs("connection", WORDS, 1_500) {
                let check = AssertUnwindSafe(exchange::check(&bytes));
                if check.catch_unwind().await.is_err() {
                    report(&name, &bytes);
                }
            }
        });
    }
}
