//! Connections that speak another protocol from now on.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use smol::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffer;
use super::wire::Wire;
use crate::reactor::{Socket, Way};

/// The stream that a handler gets in place of the connection.
///
/// Bytes that had been read ahead come first. When it is dropped the socket
/// goes back to the connection, which closes it politely.
pub(super) struct UpgradedStream {
    /// `None` only while being dropped.
    socket: Option<Socket>,
    input: Buffer,
    end: Arc<Mutex<End>>,
}

/// How the connection hears that the stream was dropped.
#[derive(Default)]
pub(super) struct End {
    socket: Option<Socket>,
    over: bool,
    connection: Option<Waker>,
}

impl UpgradedStream {
    pub(super) fn new(wire: Wire) -> (Self, Arc<Mutex<End>>) {
        let end = Arc::new(Mutex::new(End::default()));
        let stream = UpgradedStream {
            socket: Some(wire.socket),
            input: wire.input,
            end: Arc::clone(&end),
        };
        (stream, end)
    }

    fn socket(&self) -> io::Result<&Socket> {
        self.socket
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Waits until the stream has been dropped.
pub(super) fn poll_end(end: &Mutex<End>, cx: &Context<'_>) -> Poll<Option<Socket>> {
    let mut end = end.lock().unwrap_or_else(PoisonError::into_inner);
    if end.over {
        return Poll::Ready(end.socket.take());
    }
    end.connection = Some(cx.waker().clone());
    Poll::Pending
}

impl Drop for UpgradedStream {
    fn drop(&mut self) {
        let connection = {
            let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            end.socket = self.socket.take();
            end.over = true;
            end.connection.take()
        };
        if let Some(connection) = connection {
            connection.wake();
        }
    }
}

impl AsyncRead for UpgradedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if into.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !this.input.is_empty() {
            let count = into.len().min(this.input.len());
            into[..count].copy_from_slice(&this.input.bytes()[..count]);
            this.input.consume(count);
            return Poll::Ready(Ok(count));
        }
        let Some(socket) = &this.socket else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        ready!(socket.poll_turn(Way::In, cx));
        socket.poll_receive(into, cx)
    }
}

impl AsyncWrite for UpgradedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = self.socket()?;
        ready!(socket.poll_turn(Way::Out, cx));
        socket.poll_send(bytes, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket()?.half_close())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::tests::assert_takes_turns;

    #[test]
    fn a_stream_that_never_has_to_wait_lets_others_have_their_turn() {
        assert_takes_turns(|socket| {
            let (stream, _end) = UpgradedStream::new(Wire::new(socket, Buffer::default()));
            stream
        });
    }
}
