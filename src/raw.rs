//! Connections that the application serves itself: any protocol over TCP or
//! UNIX streams, with the same life as those of HTTP.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use smol::future;
use smol::io::{AsyncRead, AsyncWrite};

use crate::parcel::{LUGGAGE_BYTES, Parcel, Past};
use crate::reactor::{Reactor, Socket, Way};
use crate::roster::{Activity, Notice, Peer, Ticket};
use crate::status::Status;

/// How the handler of a [`Connection`] comes to its end: an error is logged at
/// the level `debug`, with the peer.
pub type Served = Result<(), Box<dyn StdError + Send + Sync>>;

/// What all connections of a server without HTTP share.
pub(crate) struct Shared<H> {
    pub(crate) handler: H,
    pub(crate) status: Status,
    pub(crate) reactor: Arc<Reactor>,
    /// Where connections go that leave.
    pub(crate) leave: Rc<dyn Fn(Parcel)>,
}

/// Serves one connection until its handler is done with it.
pub(crate) async fn serve<H, Fut>(parcel: Parcel, shared: Rc<Shared<H>>)
where
    H: Fn(Connection) -> Fut,
    Fut: Future<Output = Served>,
{
    let Parcel {
        socket,
        ticket,
        past,
    } = parcel;
    let peer = ticket.peer();
    let socket = match Socket::new(&shared.reactor, socket) {
        Ok(socket) => socket,
        Err(error) => {
            log::error!("could not watch the connection of {peer}: {error}");
            return;
        }
    };
    ticket.set_activity(Activity::Busy, Instant::now());
    let connection = Connection {
        socket,
        ticket,
        luggage: past.bytes,
        known_drain: None,
        status: shared.status.clone(),
        leave: Rc::clone(&shared.leave),
    };
    let panicked = |_| log::error!("the handler panicked at the connection of {peer}");
    let Ok(handling) =
        catch_unwind(AssertUnwindSafe(|| (shared.handler)(connection))).map_err(panicked)
    else {
        return;
    };
    let mut handling = pin!(handling);
    let served =
        future::poll_fn(
            |cx| match catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(cx))) {
                Ok(poll) => poll.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            },
        );
    match served.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("the connection of {peer} failed: {error}"),
        Err(panic) => panicked(panic),
    }
}

/// A connection that the application serves itself, from
/// [`Server::raw`](crate::Server::raw).
///
/// It is read and written with the traits of `futures-io`, which smol's are.
/// Where there is always something to read, or always room to write, others have
/// their turn now and then: a read or write is pending although it need not wait.
/// It counts as in flight until it is dropped, which closes it: a drain waits
/// for it, up to its deadline. Whether it can go on in a successor is for the
/// application to say, with [`Connection::rest`].
pub struct Connection {
    socket: Socket,
    ticket: Ticket,
    luggage: Box<[u8]>,
    /// Which drain the application has been told of.
    known_drain: Option<u32>,
    status: Status,
    leave: Rc<dyn Fn(Parcel)>,
}

/// How the rest of a [`Connection`] ended.
#[derive(Debug)]
pub enum Rest {
    /// There is something to read, be it the end of the stream.
    Readable(Connection),
    /// It goes on in the successor; here there is nothing left to do.
    Moved,
    /// The process comes to its end and the connection cannot move. The
    /// application may close it in whatever way its protocol has for that, or
    /// go on until the deadline of the drain; this is told once.
    Draining(Connection),
}

impl Connection {
    /// The client's address; `None` for a client on a UNIX socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self.ticket.peer() {
            Peer::Tcp(address) => Some(address),
            Peer::Unix => None,
        }
    }

    /// Through which listener it came, by the name that was given to
    /// [`Server::listen_as`](crate::Server::listen_as), else by the address as
    /// it was asked for.
    pub fn listener(&self) -> Arc<str> {
        self.ticket.listener()
    }

    /// Where this process stands.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Takes what the predecessor's handler left with the connection when it
    /// rested; empty if this process has accepted it.
    pub fn take_luggage(&mut self) -> Box<[u8]> {
        std::mem::take(&mut self.luggage)
    }

    /// Waits until there is something to read, and lets the connection go to a
    /// successor meanwhile.
    ///
    /// Call it where nothing is owed to the peer and all that is known of it is
    /// in `luggage`: bytes that have been read and not been used, or whatever
    /// else the successor's handler needs, up to 64 KiB; a connection with more
    /// does not move. That handler is called anew, with the connection, and
    /// finds the bytes with [`Connection::take_luggage`].
    ///
    /// A successor that is lost on probation gives back connections that rest
    /// without luggage, or that it has not touched.
    ///
    /// # Examples
    ///
    /// An echo whose clients do not notice a restart:
    ///
    /// ```no_run
    /// use heirloom::{Connection, Rest, Server};
    /// use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
    ///
    /// Server::raw(|mut connection: Connection| async move {
    ///     let mut bytes = [0; 4096];
    ///     loop {
    ///         connection = match connection.rest(&[]).await {
    ///             Rest::Readable(connection) => connection,
    ///             Rest::Moved | Rest::Draining(_) => return Ok(()),
    ///         };
    ///         let count = connection.read(&mut bytes).await?;
    ///         if count == 0 {
    ///             return Ok(());
    ///         }
    ///         connection.write_all(&bytes[..count]).await?;
    ///     }
    /// })
    /// .listen("127.0.0.1:7000")
    /// .run()?;
    /// # Ok::<(), heirloom::Error>(())
    /// ```
    pub async fn rest(mut self, luggage: &[u8]) -> Rest {
        let since = Instant::now();
        if luggage.is_empty() && !self.ticket.is_untouched() {
            self.ticket.clean();
        }
        self.ticket.set_activity(Activity::Idle, since);
        let may_leave = luggage.len() <= LUGGAGE_BYTES;
        let end = if may_leave && self.ticket.board() {
            End::Leaving
        } else {
            future::poll_fn(|cx| self.poll_rest(may_leave, cx)).await
        };
        match end {
            End::Readable => {
                self.ticket.touch();
                self.ticket.set_activity(Activity::Busy, Instant::now());
                Rest::Readable(self)
            }
            End::Leaving => {
                let past = Past {
                    served: true,
                    since,
                    bytes: luggage.into(),
                };
                let Connection {
                    socket,
                    ticket,
                    leave,
                    ..
                } = self;
                let peer = ticket.peer();
                match Parcel::take_off(socket, ticket, past) {
                    Ok(parcel) => leave(parcel),
                    Err(error) => log::error!(
                        "could not take the connection of {peer} off the reactor: {error}"
                    ),
                }
                Rest::Moved
            }
            End::Draining => {
                self.ticket.set_activity(Activity::Busy, Instant::now());
                Rest::Draining(self)
            }
        }
    }

    fn poll_rest(&mut self, may_leave: bool, cx: &mut Context<'_>) -> Poll<End> {
        if self.socket.poll_peek(cx).is_ready() {
            return Poll::Ready(End::Readable);
        }
        loop {
            let drain = self.ticket.drain();
            if drain.is_some() && drain != self.known_drain {
                self.known_drain = drain;
                return Poll::Ready(End::Draining);
            }
            match self.ticket.poll_notice(cx) {
                Poll::Ready(Notice::Called) if may_leave && self.ticket.board() => {
                    return Poll::Ready(End::Leaving);
                }
                Poll::Ready(Notice::Called | Notice::Drain | Notice::Expired) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

enum End {
    Readable,
    Leaving,
    Draining,
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.ticket.touch();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.socket.poll_turn(Way::In, cx));
        self.socket.poll_receive(bytes, cx)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ticket.touch();
        ready!(self.socket.poll_turn(Way::Out, cx));
        self.socket.poll_send(bytes, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Tells the peer that nothing more will come; what it sends can still be
    /// read.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ticket.touch();
        Poll::Ready(match self.socket.half_close() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            closed => closed,
        })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer())
            .field("listener", &self.listener())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::net::UnixStream;
    use std::task::Waker;

    use super::*;
    use crate::reactor::tests::assert_takes_turns;
    use crate::roster::Roster;

    fn connection(
        socket: Socket,
        roster: &Rc<Roster>,
        leave: impl Fn(Parcel) + 'static,
    ) -> Connection {
        Connection {
            socket,
            ticket: roster.admit(Peer::Unix, ""),
            luggage: Box::default(),
            known_drain: None,
            status: Status::new(1),
            leave: Rc::new(leave),
        }
    }

    /// A socket of a reactor that nobody drives, and its other end.
    fn socket() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = Socket::new(&Reactor::new().unwrap(), ours.into()).unwrap();
        (socket, theirs)
    }

    /// A connection rests with so many bytes, without a berth, and is called when
    /// there is one. Returns whether it was known to wait for that, and with how
    /// many bytes it left.
    fn rest(bytes: usize) -> (bool, Option<usize>) {
        let (socket, _theirs) = socket();
        let (roster, left) = (
            Rc::<Roster>::default(),
            Rc::<Cell<Option<Parcel>>>::default(),
        );
        let leaving = Rc::clone(&left);
        let connection = connection(socket, &roster, move |parcel| leaving.set(Some(parcel)));
        let luggage = vec![b'x'; bytes];
        let mut rest = pin!(connection.rest(&luggage));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(rest.as_mut().poll(cx).is_pending());
        let waits = roster.has_left_behind();
        // The first call is for a berth that another one takes.
        assert!(roster.call(roster.waiting()[0]));
        assert!(rest.as_mut().poll(cx).is_pending());
        assert_eq!(roster.has_left_behind(), waits);
        roster.set_berths(1);
        assert!(roster.call(roster.waiting()[0]));
        let moved = matches!(rest.as_mut().poll(cx), Poll::Ready(Rest::Moved));
        assert!(!roster.is_calling() && !roster.has_left_behind());
        let parcel = left.take();
        assert_eq!(parcel.is_some(), moved);
        (waits, parcel.map(|parcel| parcel.past.bytes.len()))
    }

    #[test]
    fn a_connection_that_never_has_to_wait_lets_others_have_their_turn() {
        let roster = Rc::default();
        assert_takes_turns(|socket| connection(socket, &roster, drop));
    }

    /// Also of one that begins after another was taken back, and of both if the
    /// connection did not rest in between.
    #[test]
    fn each_drain_is_told_once() {
        let (socket, _theirs) = socket();
        let roster = Rc::<Roster>::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut connection = connection(socket, &roster, drop);
        for rests_between in [true, false, true] {
            roster.start_drain();
            let told = pin!(connection.rest(&[])).poll(cx);
            let Poll::Ready(Rest::Draining(draining)) = told else {
                panic!("it is told {told:?}");
            };
            connection = draining;
            if rests_between {
                let mut rest = pin!(connection.rest(&[]));
                assert!(rest.as_mut().poll(cx).is_pending(), "it is told twice");
                roster.end_drain();
                assert!(
                    rest.as_mut().poll(cx).is_pending(),
                    "it is told of no drain"
                );
                roster.start_drain();
                let Poll::Ready(Rest::Draining(draining)) = rest.poll(cx) else {
                    panic!("it is not told of the next one");
                };
                connection = draining;
            }
            roster.end_drain();
        }
    }

    #[test]
    fn who_rests_without_a_berth_is_known_to_wait_for_one() {
        assert_eq!(rest(0), (true, Some(0)));
        assert_eq!(rest(LUGGAGE_BYTES), (true, Some(LUGGAGE_BYTES)));
    }

    #[test]
    fn who_has_too_much_luggage_waits_for_none_and_stays_if_called() {
        assert_eq!(rest(LUGGAGE_BYTES + 1), (false, None));
    }
}
