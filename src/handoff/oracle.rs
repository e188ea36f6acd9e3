//! What must hold whatever comes through the channel, for the fuzzer and for
//! `cargo test`.
//!
//! A script begins with a letter: `p` puts the end of the predecessor to the
//! test, anything else that of the successor. What follows are the packets that
//! the other end sends, separated by the byte 0xff, which is in no JSON. Each
//! begins with a digit: how many descriptors go with it. When all are sent, the
//! other end is closed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a check that does not hold panics"
)]

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll, Waker};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use smol::future;

use super::channel::LONGEST_PAYLOAD;
use super::predecessor::{Report, Successor};
use super::successor::{Predecessor, Request};
use crate::error::Result;

/// Plays a script.
pub(crate) fn check(script: &[u8]) {
    let Some((end, packets)) = script.split_first() else {
        return;
    };
    match end {
        b'p' => check_predecessor(packets),
        _ => check_successor(packets),
    }
}

/// Sends what fits into the channel; returns how many descriptors that were.
fn send(packets: &[u8], socket: &OwnedFd) -> usize {
    let null = File::open("/dev/null").unwrap();
    let mut sent = 0;
    for packet in packets.split(|byte| *byte == 0xff) {
        let Some((digit, bytes)) = packet.split_first() else {
            continue;
        };
        let number = usize::from(digit.wrapping_sub(b'0')).min(9);
        let descriptors = vec![null.as_fd(); number];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(9))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if number > 0 {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).is_ok() {
            sent += number;
        }
    }
    sent
}

/// A predecessor hears nothing that it does not wait for, and no more after
/// that.
fn check_predecessor(packets: &[u8]) {
    let (mut successor, theirs) = Successor::played().unwrap();
    send(packets, &theirs);
    drop(theirs);
    let cx = &mut Context::from_waker(Waker::noop());
    let (mut has_claimed, mut is_ready, mut is_to_publish, mut is_published) = Default::default();
    // One that says nothing of interest is heard one message at a time.
    for _ in 0..=packets.len() {
        let Poll::Ready(report) = successor.poll_report(1, cx) else {
            if successor.has_hung_up() {
                break;
            }
            continue;
        };
        match report {
            Report::Begins => panic!("it has begun already"),
            Report::Claimed => assert!(!std::mem::replace(&mut has_claimed, true)),
            Report::Ready { .. } => {
                assert!(has_claimed && !std::mem::replace(&mut is_ready, true));
            }
            Report::Adopted(_) | Report::Stopping => {
                assert!(is_ready);
                // It could be later, too.
                if !std::mem::replace(&mut is_to_publish, true) {
                    let _ = successor.send_publish();
                }
            }
            Report::Published => {
                assert!(is_to_publish && !std::mem::replace(&mut is_published, true));
            }
            Report::Lost(loss) => {
                assert!(!loss.to_string().is_empty());
                break;
            }
        }
    }
}

/// A successor comes to an end of what it hears, without waiting, and takes
/// nothing that it should not.
fn check_successor(packets: &[u8]) {
    let (mut predecessor, theirs) = Predecessor::played().unwrap();
    let sent = send(packets, &theirs);
    drop(theirs);
    let prepared = smol::block_on(future::poll_once(prepare(&mut predecessor)));
    let taken = match prepared.expect("it is all there") {
        Ok(taken) => taken,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains(char::is_control), "{line}");
            return;
        }
    };
    assert!(taken <= sent);
    let cx = &mut Context::from_waker(Waker::noop());
    let mut is_handed_over = false;
    loop {
        let Poll::Ready(request) = predecessor.poll_request(cx) else {
            // It was gone before.
            assert!(predecessor.is_gone());
            return;
        };
        match request {
            Request::Adopt(delivery) => {
                assert!(!is_handed_over);
                assert!(delivery.descriptors.len() <= sent - taken);
                assert!(delivery.bytes.len() <= LONGEST_PAYLOAD);
            }
            Request::HandedOver => is_handed_over = true,
            Request::Publish
            | Request::Proven
            | Request::Reload
            | Request::Stop
            | Request::Dismissed => {}
            Request::Gone => {
                assert!(predecessor.is_gone());
                assert!(predecessor.poll_request(cx).is_pending());
                return;
            }
        }
        assert_eq!(predecessor.hands_over(), !is_handed_over);
    }
}

/// Everything up to the word to serve; returns how many descriptors came.
async fn prepare(predecessor: &mut Predecessor) -> Result<usize> {
    let inheritance = predecessor.claim(2).await?.unwrap_or_default();
    let commit = predecessor.await_serve(Vec::new(), 100, None).await?;
    Ok(inheritance.listeners.len()
        + usize::from(inheritance.state.is_some())
        + usize::from(commit.ledger.is_some()))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::seeds::check_all;

    const WORDS: &[&[u8]] = &[
        b"\xff",
        b"\xff0",
        b"\xff1",
        b"\xff2",
        b"\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"null",
        b"true",
        b"-1",
        b"2",
        b"0.5",
        b"1e99",
        b"4294967295",
        b"18446744073709551615",
        b"18446744073709551616",
        b"\"message\"",
        b"\"version\":2",
        b"\"fd\":0",
        b"\"fd\":1",
        b"\"more\":true",
        b"\"ledger\":true",
        b"\xff0{\"message\":\"failed\",\"reason\":\"x\"}",
        b"\xff0{\"message\":\"stopping\"}",
        b"\xff0{\"message\":\"published\"}",
        b"\xff0{\"message\":\"handed_over\"}",
        b"\xff0{\"message\":\"proven\"}",
        b"\xff0{\"message\":\"dismissed\"}",
        b"\\u0000",
        b"\xc3\xa9",
        b"\0",
    ];

    #[test]
    fn neither_end_hears_what_it_should_not() {
        check_all("handoff", WORDS, 3_000, check);
    }
}
