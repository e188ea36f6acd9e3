//! The socket, and the bytes read from it that nobody has used yet.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net;

use super::buffer::Buffer;
use crate::reactor::Socket;

/// How much memory a read has at least.
pub(super) const READ_BYTES: usize = 4096;

/// A socket and its read buffer, together for as long as a conversation
/// lasts: bytes read ahead belong to whoever owns the socket.
pub(super) struct Wire {
    pub(super) socket: Socket,
    pub(super) input: Buffer,
    /// The peer will send no more.
    pub(super) ended: bool,
}

impl Wire {
    pub(super) fn new(socket: Socket, input: Buffer) -> Self {
        Wire {
            socket,
            input,
            ended: false,
        }
    }

    /// Reads into the input buffer; 0 is the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(READ_BYTES);
        let room = self.input.room();
        let received = ready!(self.socket.poll_receive(room, cx))?;
        self.input.commit(received);
        self.ended |= received == 0;
        Poll::Ready(Ok(received))
    }

    /// Reads past the input buffer, which must be empty; 0 is the end of the
    /// stream.
    pub(super) fn poll_bypass(
        &mut self,
        into: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.socket.poll_receive(into, cx))?;
        self.ended |= received == 0;
        Poll::Ready(Ok(received))
    }
}

/// Sends all of `output`. What has been sent is taken off, so that a caller
/// sees progress even while the result is pending.
pub(super) fn poll_send(
    socket: &Socket,
    output: &mut Buffer,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !output.is_empty() {
        let sent = ready!(socket.poll_send(output.bytes(), cx))?;
        output.consume(sent);
    }
    Poll::Ready(Ok(()))
}

/// Makes the connection end in a reset if it is closed now, by whatever: also
/// the end of the process. UNIX sockets do not know resets.
pub(super) fn reset_on_close(socket: &Socket) {
    set_linger(socket, Some(Duration::ZERO));
}

/// Takes [`reset_on_close`] back.
pub(super) fn wait_on_close(socket: &Socket) {
    set_linger(socket, None);
}

fn set_linger(socket: &Socket, linger: Option<Duration>) {
    if let Err(error) = net::sockopt::set_socket_linger(socket.get_ref(), linger) {
        log::debug!("could not set SO_LINGER: {error}");
    }
}
