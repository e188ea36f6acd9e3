//! The serving side of a control socket: who is let in, what is read from
//! them, and how they are answered.
//!
//! Nothing here knows what a request means. A connection brings one request,
//! which goes to the [`Inbox`], where the loop of the server finds it; lines
//! for whoever asked come back through their [`Mail`].
//!
//! # Implementation
//!
//! What a client can make us do is bounded, so that a flood of them disturbs
//! nobody who is being served: so many connections are accepted at a time and
//! so few a second ([`BURST`], [`PAUSE`]), so many may be silent
//! ([`MOST_SILENT`]), a request has a length and a deadline, and there is one
//! a connection. A line is written in one piece or not at all, so nothing is
//! ever half-written; whoever does not read loses lines of progress first, and
//! the connection at last.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_io::{Async, Timer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg, sockopt,
};
use rustix::process::{Pid, geteuid};
use smol::future::{self, FutureExt as _};
use smol::{LocalExecutor, Task};

use super::message::{Answer, Request};
use crate::listener::Listener;

/// How many connections are accepted at a time.
const BURST: usize = 8;

/// How long is paused after that, if there may be more.
const PAUSE: Duration = Duration::from_millis(10);

/// The pause when no connection can be accepted, as for want of descriptors.
const TROUBLE: Duration = Duration::from_millis(500);

/// How many connections may be open that have not asked for anything; the one
/// that has been silent for longest makes room.
const MOST_SILENT: usize = 16;

/// How long a request may be, in bytes.
const LONGEST_REQUEST: usize = 4096;

/// How long a client may take to send it.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may take until there is room for its last line.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// How many lines may wait to be written to a client.
const MOST_LINES: usize = 64;

/// The connection of a client.
pub(super) type Connection = Async<OwnedFd>;

/// Requests that have been read and not been heard.
#[derive(Default)]
pub(super) struct Inbox {
    asked: RefCell<VecDeque<(Request, Connection)>>,
    waker: Cell<Option<Waker>>,
    /// Connections that have not asked for anything, the newest last. They are
    /// heard also when nobody is let in any more.
    silent: RefCell<VecDeque<Task<()>>>,
    /// Whether a stranger has been named in the log.
    is_warned: Cell<bool>,
}

impl Inbox {
    /// Takes the next request; arranges a wake-up if there is none.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<(Request, Connection)> {
        match self.asked.borrow_mut().pop_front() {
            Some(asked) => Poll::Ready(asked),
            None => {
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    fn push(&self, request: Request, connection: Connection) {
        self.asked.borrow_mut().push_back((request, connection));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits until nobody is silent any more.
    pub(super) fn poll_silence(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut silent = self.silent.borrow_mut();
        silent.retain_mut(|task| task.poll(cx).is_pending());
        match silent.is_empty() && self.asked.borrow().is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn attend(&self, task: Task<()>) {
        let mut silent = self.silent.borrow_mut();
        silent.retain(|task| !task.is_finished());
        if silent.len() >= MOST_SILENT {
            silent.pop_front();
        }
        silent.push_back(task);
    }
}

/// Lets clients in until it is dropped.
pub(super) async fn accept(
    listener: Rc<Listener>,
    inbox: Rc<Inbox>,
    executor: Weak<LocalExecutor<'static>>,
) {
    loop {
        let waited = match accept_some(&listener, &inbox, &executor) {
            Ok(true) => {
                Timer::after(PAUSE).await;
                Ok(())
            }
            Ok(false) => listener.readable().await,
            Err(error) => Err(error),
        };
        if let Err(error) = waited {
            log::debug!(
                "cannot accept control connections on {}: {error}",
                listener.bound()
            );
            Timer::after(TROUBLE).await;
        }
    }
}

/// Tells whether there may be more.
fn accept_some(
    listener: &Listener,
    inbox: &Rc<Inbox>,
    executor: &Weak<LocalExecutor<'static>>,
) -> io::Result<bool> {
    for _ in 0..BURST {
        let Some((socket, _)) = listener.accept()? else {
            return Ok(false);
        };
        // Strangers get nothing, not even memory.
        if !is_ours(&socket, inbox) {
            continue;
        }
        let connection = Async::new_nonblocking(socket)?;
        // The executor is gone only when nothing is served any more.
        let Some(executor) = executor.upgrade() else {
            return Ok(false);
        };
        inbox.attend(executor.spawn(read(connection, Rc::clone(inbox))));
    }
    Ok(true)
}

/// Whether the client is the user that the service runs as, or root.
fn is_ours(socket: &OwnedFd, inbox: &Inbox) -> bool {
    // Fails for one in a PID namespace outside of ours, which has no process
    // ID here.
    let Ok(peer) = sockopt::socket_peercred(socket) else {
        log::debug!("a control connection is refused: nobody knows whose it is");
        return false;
    };
    let is_ours = peer.uid.is_root() || peer.uid == geteuid();
    if !is_ours && !inbox.is_warned.replace(true) {
        log::warn!(
            "a control connection of user {} is refused, and so will be others",
            peer.uid.as_raw()
        );
    }
    is_ours
}

/// Reads a request and passes it on.
async fn read(connection: Connection, inbox: Rc<Inbox>) {
    let deadline = async {
        Timer::after(REQUEST_PATIENCE).await;
        Err(Some(format!("no request came in {REQUEST_PATIENCE:?}")))
    };
    let request = read_request(&connection).or(deadline).await;
    match request {
        Ok(request) => inbox.push(request, connection),
        Err(Some(reason)) => {
            log::debug!("a control connection is refused: {reason}");
            write_last(&connection, &line(&Answer::Refused { reason })).await;
        }
        Err(None) => {}
    }
}

/// Reads a request; the error is what to answer instead, if anything.
async fn read_request(connection: &Connection) -> Result<Request, Option<String>> {
    let mut bytes = vec![0; LONGEST_REQUEST];
    let mut filled = 0;
    let end = loop {
        let received = recv(
            connection.get_ref(),
            &mut bytes[filled..],
            RecvFlags::DONTWAIT,
        );
        match received {
            // A shell may leave out the last newline.
            Ok((0, _)) if filled > 0 => break filled,
            Ok((0, _)) => return Err(None),
            Ok((received, _)) => {
                let fresh = filled..filled + received;
                filled = fresh.end;
                if let Some(at) = memchr::memchr(b'\n', &bytes[fresh.clone()]) {
                    break fresh.start + at;
                }
                if filled == LONGEST_REQUEST {
                    let reason = format!("the request is longer than {LONGEST_REQUEST} bytes");
                    return Err(Some(reason));
                }
            }
            Err(Errno::AGAIN) => connection.readable().await.map_err(|_| None)?,
            Err(Errno::INTR) => {}
            Err(_) => return Err(None),
        }
    };
    if filled > end + 1 {
        return Err(Some("one connection is for one request".to_owned()));
    }
    serde_json::from_slice(&bytes[..end])
        .map_err(|error| Some(format!("the request is not understood: {error}")))
}

/// Lines on their way to a client that waits.
#[derive(Default)]
pub(super) struct Mail {
    lines: RefCell<VecDeque<Vec<u8>>>,
    last: RefCell<Option<Vec<u8>>>,
    waker: Cell<Option<Waker>>,
}

impl Mail {
    /// Sends a line that may get lost on its way to one who does not read.
    pub(super) fn send(&self, answer: &Answer) {
        if self.lines.borrow().len() < MOST_LINES {
            self.lines.borrow_mut().push_back(line(answer));
            self.wake();
        }
    }

    /// Sends the last line.
    pub(super) fn send_last(&self, answer: &Answer) {
        self.last.replace(Some(line(answer)));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn news(&self) {
        future::poll_fn(|cx| {
            if !self.lines.borrow().is_empty() || self.last.borrow().is_some() {
                return Poll::Ready(());
            }
            self.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Writes what comes for a client, until the last line or until it has gone.
pub(super) async fn deliver(connection: Connection, mail: Rc<Mail>) {
    loop {
        while let Some(line) = { mail.lines.borrow_mut().pop_front() } {
            match write_now(&connection, &line) {
                Written::Whole | Written::NoRoom => {}
                Written::Broken => return,
            }
        }
        if let Some(line) = mail.last.take() {
            write_last(&connection, &line).await;
            return;
        }
        let news = async {
            mail.news().await;
            true
        };
        let gone = async {
            hung_up(&connection).await;
            false
        };
        if !news.or(gone).await {
            return;
        }
    }
}

/// Waits until the client has closed the connection, or says more than it may.
async fn hung_up(connection: &Connection) {
    loop {
        match recv(connection.get_ref(), &mut [0; 1][..], RecvFlags::DONTWAIT) {
            // It says no more, and may listen: a shell that pipes its request
            // in closes that end. Whether it has closed the other one too is
            // found out by writing.
            Ok((0, _)) if !is_closed(connection) => future::pending().await,
            Err(Errno::AGAIN) => {
                if connection.readable().await.is_err() {
                    return;
                }
            }
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Whether both directions are closed (poll(2), unix(7)).
fn is_closed(connection: &Connection) -> bool {
    let now = Timespec::default();
    let mut fds = [PollFd::new(connection.get_ref(), PollFlags::empty())];
    let polled = poll(&mut fds, Some(&now));
    polled.is_err() || fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

enum Written {
    Whole,
    /// The client does not read.
    NoRoom,
    Broken,
}

/// Writes a line without waiting.
///
/// One that is far shorter than the socket's buffer goes in as a whole or not
/// at all (unix(7) does not say so, `unix_stream_sendmsg` does it in one
/// piece); should it ever go in part, the connection is of no use any more.
fn write_now(connection: &Connection, line: &[u8]) -> Written {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match rustix::io::retry_on_intr(|| send(connection.get_ref(), line, flags)) {
        Ok(sent) if sent == line.len() => Written::Whole,
        Err(Errno::AGAIN) => Written::NoRoom,
        Ok(_) | Err(_) => Written::Broken,
    }
}

/// Writes a line that must arrive, in as many pieces as it takes.
async fn write_last(connection: &Connection, line: &[u8]) {
    let written = async {
        let mut rest = line;
        while !rest.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(connection.get_ref(), rest, flags) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::AGAIN) => {
                    if connection.writable().await.is_err() {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    };
    let deadline = async {
        Timer::after(ANSWER_PATIENCE).await;
        log::debug!("a control connection is closed: its client does not read");
    };
    written.or(deadline).await;
}

/// Writes a line, and with it a descriptor, in one piece.
pub(super) fn send_along(
    connection: &Connection,
    answer: &Answer,
    descriptor: &OwnedFd,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let line = line(answer);
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(
            connection.get_ref(),
            &[IoSlice::new(&line)],
            &mut control,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )
    })?;
    match sent == line.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// The process at the other end.
pub(super) fn peer(connection: &Connection) -> io::Result<Pid> {
    Ok(sockopt::socket_peercred(connection.get_ref())?.pid)
}

/// Whether the other end is closed, or says more than it may.
pub(super) fn has_hung_up(connection: &Connection) -> bool {
    let received = recv(connection.get_ref(), &mut [0; 1][..], RecvFlags::DONTWAIT);
    !matches!(received, Err(Errno::AGAIN | Errno::INTR))
}

fn line(answer: &Answer) -> Vec<u8> {
    // It consists of numbers, strings and lists of them, which cannot fail.
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixStream;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
    use smol::future::poll_once;

    use super::*;

    /// A connection that holds little, and the client's end of it.
    fn narrow_pair() -> (Connection, UnixStream) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        sockopt::set_socket_send_buffer_size(&ours, 4096).unwrap();
        let theirs = UnixStream::from(theirs);
        theirs.set_nonblocking(false).unwrap();
        (Async::new_nonblocking(ours).unwrap(), theirs)
    }

    fn refused(reason: &str) -> Answer {
        let reason = reason.to_owned();
        Answer::Refused { reason }
    }

    #[test]
    fn who_does_not_read_loses_progress_and_not_the_result() {
        let (connection, client) = narrow_pair();
        let mail = Rc::new(Mail::default());
        let mut delivery = std::pin::pin!(deliver(connection, Rc::clone(&mail)));
        for number in 0..1_000 {
            mail.send(&refused(&number.to_string()));
            assert!(smol::block_on(poll_once(&mut delivery)).is_none());
        }
        mail.send_last(&refused("the last"));
        // There is no room for it yet.
        assert!(smol::block_on(poll_once(&mut delivery)).is_none());
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(client).lines();
            lines.map(Result::unwrap).collect::<Vec<String>>()
        });
        smol::block_on(delivery);
        drop(mail);
        let lines = reader.join().unwrap();
        assert!(lines.len() > 2 && lines.len() < 1_000, "{}", lines.len());
        assert!(lines.iter().all(|line| line.ends_with('}')), "a torn line");
        assert!(lines.last().unwrap().contains("the last"));
    }

    #[test]
    fn lines_that_nobody_takes_do_not_pile_up() {
        let mail = Mail::default();
        for _ in 0..10 * MOST_LINES {
            mail.send(&refused("progress"));
        }
        assert_eq!(mail.lines.borrow().len(), MOST_LINES);
    }

    #[test]
    fn a_client_that_closes_ends_the_wait_and_one_that_falls_silent_does_not() {
        let (connection, client) = narrow_pair();
        let mut delivery = std::pin::pin!(deliver(connection, Rc::default()));
        client.shutdown(std::net::Shutdown::Write).unwrap();
        for _ in 0..3 {
            assert!(smol::block_on(poll_once(&mut delivery)).is_none());
        }
        let (connection, client) = narrow_pair();
        drop(client);
        smol::block_on(deliver(connection, Rc::default()));
    }
}
