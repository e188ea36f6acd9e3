//! A client that pipelines without end.

use std::io::{self, ErrorKind, Read, Write};

use anyhow::{Context, bail};

use super::{PATIENCE, READ_BYTES, get};
use crate::address::{Address, Socket};

/// How many requests are sent at once, if the socket takes them.
const REQUESTS: usize = 1_000;

/// How long a request is: so that the reads of a server hold whole ones, and one
/// that waits only for the rest of a request does not.
const REQUEST_BYTES: usize = 512;

/// It asks as fast as its socket takes requests, and reads its responses away,
/// so that nothing but the server's own fairness holds it back.
pub struct Greedy {
    socket: Socket,
    requests: Vec<u8>,
    /// How much of the requests the socket has taken this time.
    sent: usize,
    /// The length of a response; all of a server are alike.
    response: u64,
    received: u64,
    buffer: Vec<u8>,
}

impl Greedy {
    pub fn connect(address: &Address) -> anyhow::Result<Self> {
        let short = get(address, "/");
        let (fields, end) = short.split_at(short.len() - "\r\n".len());
        let left = REQUEST_BYTES.saturating_sub(short.len() + "X: \r\n".len());
        let request = format!("{fields}X: {}\r\n{end}", "x".repeat(left));
        let mut socket = address.connect(0, PATIENCE)?;
        let mut buffer = vec![0; READ_BYTES];
        socket.write_all(request.as_bytes())?;
        // A response to a single request leaves in one send.
        let response = socket.read(&mut buffer).context("no first response")? as u64;
        socket.stop_blocking()?;
        Ok(Greedy {
            socket,
            requests: request.repeat(REQUESTS).into_bytes(),
            sent: 0,
            response,
            received: 0,
            buffer,
        })
    }

    /// How many of its requests were answered.
    pub fn answered(&self) -> u64 {
        self.received / self.response.max(1)
    }

    /// Sends what can be sent, and reads what has come, once each.
    pub(super) fn go_on(&mut self) -> anyhow::Result<()> {
        if let Some(sent) = unless_blocked(self.socket.write(&self.requests[self.sent..]))? {
            self.sent = (self.sent + sent) % self.requests.len();
        }
        match unless_blocked(self.socket.read(&mut self.buffer))? {
            Some(0) => bail!("the greedy client was refused"),
            Some(received) => self.received += received as u64,
            None => {}
        }
        Ok(())
    }
}

fn unless_blocked(outcome: io::Result<usize>) -> anyhow::Result<Option<usize>> {
    match outcome {
        Ok(amount) => Ok(Some(amount)),
        Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {
            Ok(None)
        }
        Err(error) => Err(error).context("the greedy client"),
    }
}
