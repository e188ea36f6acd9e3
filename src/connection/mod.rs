//! The life of one connection: idle → head → busy → idle … → handed over, or
//! closed politely.
//!
//! [`serve`] is the future of a connection. While the connection is idle that
//! future is all there is: a socket, a ticket, no buffer. When bytes arrive it
//! boxes a [`Conversation`], which owns socket and read buffer until the
//! connection is idle again.
//!
//! # Implementation
//!
//! - *Requests* are read by [`head`] and [`body`], responses written by
//!   [`response`]; this file knows when, and by when.
//! - *Pipelining*: while the read buffer holds another whole head, responses
//!   are gathered and leave in one send. They leave before anything is waited
//!   for.
//! - *Deadlines*: a connection waits for one thing at a time and has one
//!   deadline, in its ticket.
//! - *Leaving*: whenever nothing of a response is outstanding the connection can
//!   go on in another process: while it is idle, between two requests, with
//!   what has been read of a head. If there is a berth for it
//!   ([`crate::roster`]), [`serve`] ends with the connection instead of with
//!   its end. The other process calls [`serve`] with what comes out here.
//! - *Draining*: what cannot leave comes to an end. What is in flight is finished and answered with `Connection:
//!   close`. An idle connection is kept for a grace, because a request may be
//!   on its way, and then half-closed, so that the client sees an orderly end.
//!   A drain that is taken back leaves no trace.
//! - *Closing*: the last response must not be destroyed by a reset, so the
//!   socket is half-closed and read to its end, for a bounded time.
//! - A client that closes while its request is being handled is noticed when
//!   the response is written; a handler is never cancelled for it, because a
//!   client may close its half of the connection and wait.

mod body;
mod buffer;
mod head;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracle;
mod protocol;
mod response;
#[cfg(test)]
mod tests;
mod upgrade;
mod wire;

use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http_types::{Body, Method, Response, StatusCode};
use smol::future;

use self::body::{BodyReader, Decoder, Failure, Interim, Loan, lock};
use self::buffer::Buffer;
use self::head::{Framing, Head, Refusal, Scan};
use self::response::{
    Exchange, LARGE_BYTES, Progress, ROOM_BYTES, Reply, is_false_tunnel, is_switching, replace_body,
};
use self::upgrade::{UpgradedStream, poll_end};
use self::wire::{READ_BYTES, Wire, poll_send, reset_on_close, wait_on_close};
use crate::limits::{Limits, due, earlier};
use crate::parcel::{LUGGAGE_BYTES, Parcel, Past};
use crate::reactor::{Socket, Way};
use crate::request::Request;
use crate::roster::{Activity, Notice, Ticket};

pub use self::protocol::Handler;
pub(crate) use self::protocol::Protocol;

/// How many bytes of responses to pipelined requests are gathered for one
/// send.
const GATHERED_BYTES: usize = 32 * 1024;

/// Serves one connection until it is closed, and off the roster, or leaves
/// ([`Protocol::leaving_to`]).
///
/// Not an `async fn`: that would keep the parcel twice.
pub(crate) fn serve<H: Handler>(
    parcel: Parcel,
    protocol: Rc<Protocol<H>>,
) -> impl Future<Output = ()> {
    let Parcel {
        socket,
        mut ticket,
        past,
    } = parcel;
    let socket = Socket::new(&protocol.reactor, socket)
        .inspect_err(|error| {
            log::error!(
                "could not watch the connection of {}: {error}",
                ticket.peer()
            );
        })
        .ok();
    let mut stay = Stay {
        served: past.served,
        since: past.since,
        draining: false,
        is_last: false,
    };
    let mut bytes = past.bytes;
    async move {
        let Some(mut socket) = socket else { return };
        // The futures behind the boxes are large; idle connections have none.
        loop {
            if bytes.is_empty() {
                match idle(&socket, &ticket, &protocol.limits, &mut stay).await {
                    Idle::Readable => {}
                    // The grace or the patience is over, but a request may have
                    // come in the same moment.
                    Idle::Expired if socket.has_bytes() => {}
                    Idle::Expired => {
                        return Box::pin(close(socket, ticket, &protocol)).await;
                    }
                    Idle::Leaving => {
                        let past = Past {
                            served: stay.served,
                            since: stay.since,
                            bytes: Box::default(),
                        };
                        return protocol.leave(socket, ticket, past);
                    }
                }
            }
            let conversation = Conversation::new(socket, ticket, &protocol);
            let conversation = conversation
                .beginning_with(std::mem::take(&mut bytes), stay.since)
                .run();
            let answered;
            (socket, ticket, answered) = match Box::pin(conversation).await {
                Outcome::Idle(socket, ticket, answered) => (socket, ticket, answered),
                Outcome::Leaving(socket, ticket, past) => {
                    let served = past.served || stay.served;
                    return protocol.leave(socket, ticket, Past { served, ..past });
                }
                Outcome::Closed => return,
            };
            ticket.clean();
            if answered {
                stay.renew();
            } else if stay.ends(&protocol.limits, &socket) {
                return Box::pin(close(socket, ticket, &protocol)).await;
            }
            // It may be readable at once, whatever it sends.
            future::poll_fn(|cx| socket.poll_turn(Way::In, cx)).await;
        }
    }
}

/// How long an idle connection is kept.
struct Stay {
    /// Whether it has made a request.
    served: bool,
    /// Since when it has been waiting; in a drain, since that began.
    since: Instant,
    /// Whether it is kept for the grace of a drain only.
    draining: bool,
    /// Whether it is over, and what has come in time is looked at.
    is_last: bool,
}

impl Stay {
    /// After a request has been answered. Nothing else renews it: empty lines
    /// come before a request and are none.
    fn renew(&mut self) {
        *self = Stay {
            served: true,
            since: Instant::now(),
            draining: false,
            is_last: false,
        };
    }

    /// Begins anew if a drain has begun or was taken back.
    fn follow_drain(&mut self, ticket: &Ticket) {
        if self.draining != ticket.draining() {
            self.draining = ticket.draining();
            self.since = Instant::now();
            self.is_last = false;
        }
    }

    fn deadline(&self, limits: &Limits, socket: &Socket) -> Option<Instant> {
        let patience = match (self.draining, self.served) {
            (true, _) => spread(limits.drain_grace, socket),
            (false, true) => limits.keep_alive_timeout,
            (false, false) => limits.head_timeout,
        };
        due(self.since, patience)
    }

    /// Whether a connection that has sent nothing but empty lines was kept for as
    /// long as it may be. The request may be right behind them, but once only.
    fn ends(&mut self, limits: &Limits, socket: &Socket) -> bool {
        let deadline = self.deadline(limits, socket);
        let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
        is_over && (std::mem::replace(&mut self.is_last, true) || !socket.has_bytes())
    }
}

/// What ended the wait of an idle connection.
enum Idle {
    /// There are bytes, or the end of the stream.
    Readable,
    Expired,
    /// It has a berth.
    Leaving,
}

/// Waits for a request until the end of `stay`, or until it may leave.
///
/// Not an `async fn`: that would keep everything twice, and this is most of
/// what an idle connection is made of.
fn idle<'a>(
    socket: &'a Socket,
    ticket: &'a Ticket,
    limits: &'a Limits,
    stay: &'a mut Stay,
) -> impl Future<Output = Idle> + 'a {
    stay.follow_drain(ticket);
    ticket.set_activity(Activity::Idle, stay.since);
    ticket.set_request(None);
    let mut leaving = ticket.board();
    if !leaving {
        ticket.set_deadline(stay.deadline(limits, socket));
    }
    future::poll_fn(move |cx| {
        if leaving {
            return Poll::Ready(Idle::Leaving);
        }
        if socket.poll_readable(cx).is_ready() {
            return Poll::Ready(Idle::Readable);
        }
        loop {
            match ticket.poll_notice(cx) {
                Poll::Ready(Notice::Expired) => return Poll::Ready(Idle::Expired),
                Poll::Ready(Notice::Drain) => {
                    stay.follow_drain(ticket);
                    ticket.set_deadline(stay.deadline(limits, socket));
                }
                Poll::Ready(Notice::Called) => {
                    leaving = ticket.board();
                    if leaving {
                        return Poll::Ready(Idle::Leaving);
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
}

/// Up to half as much again, different for connections that are open at the
/// same time, so that their clients do not reconnect all at once.
fn spread(grace: Duration, socket: &Socket) -> Duration {
    let share = socket.get_ref().as_raw_fd().unsigned_abs() % 64;
    grace.saturating_add(grace / 128 * share)
}

/// Ends a connection so that the client gets all that was sent to it.
async fn close<H>(socket: Socket, ticket: Ticket, protocol: &Protocol<H>) {
    let now = Instant::now();
    ticket.touch();
    ticket.set_activity(Activity::Closing, now);
    ticket.set_deadline(due(now, protocol.limits.linger_timeout));
    if socket.half_close().is_err() {
        return;
    }
    future::poll_fn(|cx| {
        loop {
            if poll_expired(&ticket, cx).is_ready() {
                return Poll::Ready(());
            }
            // On the stack: all connections may be closing at once. As a rule
            // there is nothing but the end.
            match socket.poll_receive(&mut [0; 256], cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => ready!(socket.poll_turn(Way::In, cx)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

/// Waits for the deadline of a connection that is not idle; to that, a drain or
/// a call matters only when it next looks.
fn poll_expired(ticket: &Ticket, cx: &Context<'_>) -> Poll<()> {
    loop {
        match ticket.poll_notice(cx) {
            Poll::Ready(Notice::Expired) => return Poll::Ready(()),
            Poll::Ready(Notice::Drain | Notice::Called) => {}
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// A connection that is not idle.
struct Conversation<'p, H> {
    protocol: &'p Protocol<H>,
    ticket: Ticket,
    seat: Seat,
    /// Responses, or pieces of one, that have not been sent.
    output: Buffer,
    /// Whether there has been a request.
    answered: bool,
    /// Since when a head has been on its way that began in another process.
    head_since: Option<Instant>,
}

/// How a conversation ends.
enum Outcome {
    /// There is nothing to say for now; and whether there was a request.
    Idle(Socket, Ticket, bool),
    /// It has a berth.
    Leaving(Socket, Ticket, Past),
    Closed,
}

/// Who has the wire.
enum Seat {
    Here(Wire),
    /// A request body is being read.
    Lent(Arc<Mutex<Loan>>),
    /// An upgraded stream has it, or nobody.
    Gone,
}

/// What a client wants that does not make a request.
enum Otherwise {
    /// Nothing for now.
    Nothing,
    Refused(Refusal, Option<Method>),
    /// It is in the middle of a head, and has a berth.
    Leaving,
    /// It has closed, or the socket failed.
    Gone,
}

/// What ends the wait for more of a request head.
enum More {
    Bytes(io::Result<usize>),
    Expired,
    Called,
}

/// What comes after a response.
enum After {
    /// Another request.
    Next,
    /// A polite close.
    Close,
    /// The end; there is no one to be polite to.
    Gone,
    Upgraded(http_types::upgrade::Sender),
}

/// The peer is gone or takes nothing any more.
struct Gone;

impl<'p, H: Handler> Conversation<'p, H> {
    fn new(socket: Socket, ticket: Ticket, protocol: &'p Protocol<H>) -> Self {
        Conversation {
            protocol,
            ticket,
            seat: Seat::Here(Wire::new(socket, Buffer::new(protocol.take_memory()))),
            // Whoever is slow to send a head takes up no memory for responses.
            output: Buffer::default(),
            answered: false,
            head_since: None,
        }
    }

    /// Puts in front what another process has read of a request that it has
    /// been waiting for since then.
    fn beginning_with(mut self, bytes: Box<[u8]>, since: Instant) -> Self {
        if let Seat::Here(wire) = &mut self.seat
            && !bytes.is_empty()
        {
            wire.input.append(&bytes);
            self.head_since = Some(since);
        }
        self
    }

    /// Answers what has arrived, until there is nothing more to answer.
    ///
    /// This future is made for each request that finds its connection idle, and
    /// one of more than 1,032 bytes is not quickly reused by malloc(3).
    #[expect(clippy::manual_async_fn, reason = "that would keep `self` twice")]
    fn run(mut self) -> impl Future<Output = Outcome> + use<'p, H> {
        async move {
            if self.head_since.is_none() {
                self.ticket.touch();
                match self.arrival().await {
                    Ok(0) => return Outcome::Closed,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.rest(),
                    Err(error) => {
                        log::debug!("the connection of {} failed: {error}", self.ticket.peer());
                        return Outcome::Closed;
                    }
                }
            }
            loop {
                let after = match self.next().await {
                    Ok(head) => {
                        self.answered = true;
                        self.exchange(head).await
                    }
                    Err(Otherwise::Refused(refusal, method)) => self.refuse(refusal, method).await,
                    Err(Otherwise::Nothing) => return self.rest(),
                    Err(Otherwise::Leaving) => {
                        let since = self.ticket.since();
                        return self.leave(since);
                    }
                    Err(Otherwise::Gone) => After::Gone,
                };
                match after {
                    // What has been asked already goes along, so that the order of
                    // the requests is kept.
                    After::Next if self.could_leave() => {
                        if self.flush().await.is_err() {
                            return Outcome::Closed;
                        }
                        if self.ticket.board() {
                            return self.leave(Instant::now());
                        }
                    }
                    // A few bytes of pipelined requests can ask for megabytes.
                    After::Next if self.output.len() >= GATHERED_BYTES => {
                        if self.flush().await.is_err() {
                            return Outcome::Closed;
                        }
                    }
                    After::Next => {}
                    After::Gone => return Outcome::Closed,
                    After::Close => {
                        let flushed = self.flush().await.is_ok();
                        if let Seat::Here(wire) = std::mem::replace(&mut self.seat, Seat::Gone)
                            && flushed
                            && !wire.ended
                        {
                            self.protocol.give_back(wire.input.into_memory());
                            self.protocol.give_back(self.output.into_memory());
                            close(wire.socket, self.ticket, self.protocol).await;
                        }
                        return Outcome::Closed;
                    }
                    After::Upgraded(sender) => {
                        // It is large, and rare.
                        Box::pin(self.hand_out(sender)).await;
                        return Outcome::Closed;
                    }
                }
                self.turn().await;
            }
        }
    }

    /// Gives up the buffers, which are empty.
    fn rest(self) -> Outcome {
        let Seat::Here(wire) = self.seat else {
            return Outcome::Closed;
        };
        self.protocol.give_back(wire.input.into_memory());
        self.protocol.give_back(self.output.into_memory());
        Outcome::Idle(wire.socket, self.ticket, self.answered)
    }

    /// Lets others have their turn, if it is time for that.
    fn turn(&self) -> impl Future<Output = ()> {
        future::poll_fn(|cx| {
            with_socket(&self.seat, |socket| socket.poll_turn(Way::In, cx))
                .unwrap_or(Poll::Ready(()))
        })
    }

    /// Whether the connection could leave, were all responses sent.
    fn could_leave(&self) -> bool {
        self.ticket.may_board() && self.is_portable()
    }

    /// Whether what has been read of it can go along.
    fn is_portable(&self) -> bool {
        matches!(&self.seat, Seat::Here(wire) if wire.input.len() <= LUGGAGE_BYTES)
    }

    /// Gives the connection up to another process, with what has been read.
    fn leave(self, since: Instant) -> Outcome {
        let Seat::Here(wire) = self.seat else {
            return Outcome::Closed;
        };
        let past = Past {
            served: self.answered,
            since,
            bytes: wire.input.bytes().into(),
        };
        self.protocol.give_back(wire.input.into_memory());
        self.protocol.give_back(self.output.into_memory());
        Outcome::Leaving(wire.socket, self.ticket, past)
    }

    /// Reads what woke the idle connection; the reactor may wake it without a
    /// cause, and then it is idle again.
    async fn arrival(&mut self) -> io::Result<usize> {
        let Seat::Here(wire) = &mut self.seat else {
            return Ok(0);
        };
        future::poll_fn(|cx| match wire.poll_fill(cx) {
            Poll::Pending => Poll::Ready(Err(io::ErrorKind::WouldBlock.into())),
            ready @ Poll::Ready(_) => ready,
        })
        .await
    }

    /// Reads the next request head.
    async fn next(&mut self) -> Result<Head, Otherwise> {
        let limits = &self.protocol.limits;
        let mut scan = Scan::default();
        let mut begun = false;
        loop {
            let Seat::Here(wire) = &mut self.seat else {
                return Err(Otherwise::Gone);
            };
            if !scan.has_begun() {
                // RFC 9112 section 2.2: empty lines before a request are
                // ignored. Old clients send one after a body.
                while wire.input.bytes().starts_with(b"\r\n") {
                    wire.input.consume(2);
                }
            }
            let bytes = wire.input.bytes();
            if !matches!(bytes, [] | [b'\r']) {
                match scan.advance(bytes, limits) {
                    Ok(Some(length)) => {
                        let head = scan.parse(&bytes[..length], limits, &self.protocol.locations);
                        wire.input.consume(length);
                        // Another one begins when it does.
                        self.head_since = None;
                        return head.map_err(|it| Otherwise::Refused(it, scan.method()));
                    }
                    Ok(None) => {}
                    Err(refusal) => return Err(Otherwise::Refused(refusal, scan.method())),
                }
            }
            if bytes.is_empty() {
                return match self.flush().await {
                    Ok(()) => Err(Otherwise::Nothing),
                    Err(Gone) => Err(Otherwise::Gone),
                };
            }
            if !begun {
                begun = true;
                if self.flush().await.is_err() {
                    return Err(Otherwise::Gone);
                }
                let since = self.head_since.take().unwrap_or_else(Instant::now);
                self.ticket.set_activity(Activity::Head, since);
                self.ticket.set_deadline(due(since, limits.head_timeout));
                if self.is_portable() && self.ticket.board() {
                    return Err(Otherwise::Leaving);
                }
            }
            let refusal = match self.more_of_the_head().await {
                More::Bytes(Ok(1..)) => {
                    self.turn().await;
                    continue;
                }
                More::Bytes(Ok(0)) => {
                    Refusal::new(StatusCode::BadRequest, "the request head is cut short")
                }
                More::Expired => Refusal::new(
                    StatusCode::RequestTimeout,
                    "the request head did not come in time",
                ),
                More::Bytes(Err(error)) => {
                    log::debug!("the connection of {} failed: {error}", self.ticket.peer());
                    return Err(Otherwise::Gone);
                }
                More::Called if self.is_portable() && self.ticket.board() => {
                    return Err(Otherwise::Leaving);
                }
                More::Called => continue,
            };
            return Err(Otherwise::Refused(refusal, scan.method()));
        }
    }

    /// Waits for more of a request head.
    async fn more_of_the_head(&mut self) -> More {
        let Conversation { seat, ticket, .. } = self;
        let Seat::Here(wire) = seat else {
            return More::Bytes(Err(io::ErrorKind::NotConnected.into()));
        };
        future::poll_fn(|cx| {
            // The ledger has to say that something was read before it is.
            let is_there = !ticket.is_untouched() || wire.socket.poll_peek(cx).is_ready();
            if is_there {
                ticket.touch();
                if let Poll::Ready(received) = wire.poll_fill(cx) {
                    return Poll::Ready(More::Bytes(received));
                }
            }
            loop {
                match ticket.poll_notice(cx) {
                    Poll::Ready(Notice::Expired) => return Poll::Ready(More::Expired),
                    Poll::Ready(Notice::Called) => return Poll::Ready(More::Called),
                    Poll::Ready(Notice::Drain) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Answers one request.
    ///
    /// What is large is in functions that are not `async`, because it would
    /// stay in this future, and so in that of [`run`](Self::run), to the end.
    /// Nor is this one, which would keep the head twice.
    fn exchange<'c>(&'c mut self, head: Head) -> impl Future<Output = After> + use<'c, 'p, H> {
        self.ticket.touch();
        let asked = Asked {
            method: head.request.method(),
            target: Arc::clone(&head.target),
            version: head.version,
            offers_upgrade: head.offers_upgrade,
            persistent: head.persistent,
        };
        async move {
            let outcome = {
                let handling = pin!(self.call(head));
                self.handle(handling).await
            };
            let Some(Settled {
                mut reply,
                beginning,
                upgrade,
            }) = self.settle(outcome, &asked)
            else {
                return After::Gone;
            };
            let persistent = reply.persistent;
            let to_the_end = reply.is_to_the_end();
            if to_the_end {
                // The end of the connection is the end of the body; if it comes
                // early, whatever the cause, it must not look like that.
                with_socket(&self.seat, reset_on_close);
            }
            let sent = self.transmit(&mut reply, beginning).await;
            // The reply may hold the body of the request.
            drop(reply);
            match sent {
                Ok(()) => {}
                Err(Untransmitted::Unencodable(error)) => {
                    self.report(&asked, &error);
                    self.take_back();
                    if to_the_end {
                        return After::Gone;
                    }
                    return After::Close;
                }
                Err(Untransmitted::Gone) => return After::Gone,
            }
            if to_the_end {
                if self.flush().await.is_err() {
                    return After::Gone;
                }
                with_socket(&self.seat, wait_on_close);
            }
            if let Some(sender) = upgrade {
                self.take_back();
                return match self.flush().await {
                    Ok(()) => After::Upgraded(sender),
                    Err(Gone) => After::Gone,
                };
            }
            match self.finish_body(persistent).await {
                Ok(true) if persistent => After::Next,
                Ok(_) => After::Close,
                Err(Gone) => After::Gone,
            }
        }
    }

    /// Calls the handler; `None`: it panicked before it had a future.
    fn call(
        &mut self,
        head: Head,
    ) -> Option<impl Future<Output = http_types::Result<Response>> + use<'p, H>> {
        let Head {
            mut request,
            target,
            raw,
            framing,
            expects_continue,
            ..
        } = head;
        self.ticket.set_activity(Activity::Busy, Instant::now());
        self.ticket
            .set_request(Some((request.method(), Arc::clone(&target))));
        if let Some(body) = self.lend(framing, expects_continue) {
            let typed = request.header(&http_types::headers::CONTENT_TYPE).is_some();
            if !typed {
                // Otherwise http-types writes one, which takes longer than all
                // else that is done for a small body.
                request.insert_header(&http_types::headers::CONTENT_TYPE, "");
            }
            request.set_body(body);
            if !typed {
                request.remove_header(&http_types::headers::CONTENT_TYPE);
            }
        }
        let protocol = self.protocol;
        let status = protocol.status.clone();
        let request = Request::new(
            request,
            target,
            raw,
            self.ticket.peer(),
            self.ticket.listener(),
            status,
        );
        catch_unwind(AssertUnwindSafe(|| protocol.handler.call(request))).ok()
    }

    /// Makes of what the handler did a response that can be sent, and begins
    /// it; `None`: there is no such response.
    fn settle(
        &mut self,
        outcome: Result<Box<Response>, Unanswered>,
        asked: &Asked,
    ) -> Option<Settled> {
        let Asked { method, target, .. } = asked;
        let peer = self.ticket.peer();
        let mut response = match (outcome, self.body_failure()) {
            (Ok(mut response), Some(failure))
                if response.status() == StatusCode::UnprocessableEntity =>
            {
                // http-types gives this status to the error of any body that
                // cannot be read, and some applications turn errors into
                // responses themselves.
                response.set_status(failure.refusal().status);
                response
            }
            (Ok(response), _) => response,
            // Whatever the handler made of it, the client is at fault.
            (Err(Unanswered::Error(_)), Some(failure)) => Box::new(failure.refusal().into()),
            (Err(Unanswered::Error(error)), None) => {
                let status = match error.status() {
                    status if status.is_client_error() || status.is_server_error() => status,
                    _ => StatusCode::InternalServerError,
                };
                match status.is_server_error() {
                    true => log::error!("{method} {target} of {peer} failed: {error}"),
                    false => log::warn!("{method} {target} of {peer} failed: {error}"),
                }
                Box::new(plain(status, status.canonical_reason()))
            }
            (Err(Unanswered::Panic), _) => {
                log::error!("the handler panicked at {method} {target} of {peer}");
                Box::new(internal_error())
            }
            (Err(Unanswered::Overdue), _) => {
                log::warn!("the handler took too long for {method} {target} of {peer}");
                Box::new(plain(
                    StatusCode::ServiceUnavailable,
                    "the request took too long to answer",
                ))
            }
        };

        let mut exchange = Exchange {
            method: *method,
            version: asked.version,
            offers_upgrade: asked.offers_upgrade,
            persistent: asked.persistent && self.body_allows_another() && !self.ticket.draining(),
        };
        if is_false_tunnel(&response, &exchange) {
            // Applications that answer any method alike mean no tunnel.
            *response = plain(StatusCode::NotImplemented, "there are no tunnels here");
        }
        // It panics if the handler has taken the sending half itself.
        let take_sender = |response: &mut Response| {
            catch_unwind(AssertUnwindSafe(|| response.send_upgrade())).ok()
        };
        let mut upgrade = None;
        if is_switching(&response, &exchange) {
            let complete = match &self.seat {
                Seat::Here(_) => true,
                Seat::Lent(loan) => lock(loan).decoder.is_done(),
                Seat::Gone => false,
            };
            if complete {
                upgrade = take_sender(&mut response);
            }
            if upgrade.is_none() {
                log::error!(
                    "{method} {target} of {peer} cannot be upgraded: its body is unread, or the \
                     handler has called send_upgrade"
                );
                *response = internal_error();
                exchange.persistent = false;
            }
        } else if response.has_upgrade() {
            // Whoever waits for a stream hears at once that there will be none,
            // even if that is who feeds the body.
            drop(take_sender(&mut response));
        }
        let beginning = self.output.len();
        let reply = match self.reply(response, &exchange) {
            Ok(reply) => reply,
            Err(reason) => {
                log::error!("the response to {method} {target} cannot be sent: {reason}");
                upgrade = None;
                self.reply(Box::new(internal_error()), &exchange).ok()?
            }
        };
        Some(Settled {
            reply,
            beginning,
            upgrade,
        })
    }

    /// Says why a response was not sent to its end.
    fn report(&self, asked: &Asked, error: &io::Error) {
        let Asked { method, target, .. } = asked;
        // A response made of the request body fails with it, and that is the
        // client's doing.
        match self.body_failure() {
            None => log::error!("the response to {method} {target} is cut short: {error}"),
            Some(_) => log::debug!("{} gave up {method} {target}: {error}", self.ticket.peer()),
        }
    }

    /// Says what is wrong with a request; the connection closes after it,
    /// because nobody knows where the next request would begin.
    async fn refuse(&mut self, refusal: Refusal, method: Option<Method>) -> After {
        log::debug!(
            "refused a request of {} with {}: {}",
            self.ticket.peer(),
            u16::from(refusal.status),
            refusal.reason
        );
        let exchange = Exchange {
            method: method.unwrap_or(Method::Get),
            version: head::Protocol::Http11,
            offers_upgrade: false,
            persistent: false,
        };
        self.ticket.touch();
        let beginning = self.output.len();
        let Ok(mut reply) = self.reply(Box::new(refusal.into()), &exchange) else {
            return After::Gone;
        };
        self.ticket.set_activity(Activity::Busy, Instant::now());
        match self.transmit(&mut reply, beginning).await {
            Ok(()) => After::Close,
            Err(_) => After::Gone,
        }
    }

    /// Lends the wire to the body of a request, if it has one.
    fn lend(&mut self, framing: Framing, expects_continue: bool) -> Option<Body> {
        let length = match framing {
            Framing::Empty => return None,
            // A length beyond the address space is beyond any limit, too.
            Framing::Fixed(length) => usize::try_from(length).ok(),
            Framing::Chunked => None,
        };
        match std::mem::replace(&mut self.seat, Seat::Gone) {
            Seat::Here(wire) => {
                let decoder = Decoder::new(framing, self.protocol.limits.max_body_bytes);
                let interim = match expects_continue {
                    true => Interim::Expected,
                    false => Interim::Settled,
                };
                let loan = Loan::new(wire, decoder, interim);
                self.seat = Seat::Lent(Arc::clone(&loan));
                Some(Body::from_reader(BodyReader::new(loan), length))
            }
            other @ (Seat::Lent(_) | Seat::Gone) => {
                self.seat = other;
                None
            }
        }
    }

    /// Takes the wire back from the body of the request.
    fn take_back(&mut self) {
        if let Seat::Lent(loan) = &self.seat {
            let wire = lock(loan).take_back();
            self.seat = wire.map_or(Seat::Gone, Seat::Here);
        }
    }

    /// Why the request body could not be read to its end, if it could not.
    fn body_failure(&self) -> Option<Failure> {
        match &self.seat {
            Seat::Lent(loan) => lock(loan).failure,
            Seat::Here(_) | Seat::Gone => None,
        }
    }

    /// Whether the connection can be kept as far as the request body is
    /// concerned; asked before the response is encoded, because it has to say.
    fn body_allows_another(&self) -> bool {
        let Seat::Lent(shared) = &self.seat else {
            return true;
        };
        let loan = lock(shared);
        if loan.decoder.is_done() {
            return true;
        }
        // Without a `100`, the client may send the body or leave it.
        if loan.failure.is_some() || loan.interim != Interim::Settled {
            return false;
        }
        // Someone may still read it: the response body, for one.
        if Arc::strong_count(shared) > 1 {
            return true;
        }
        let read_ahead = loan.wire().map_or(0, |wire| wire.input.len()) as u64;
        let outstanding = loan.decoder.outstanding().saturating_sub(read_ahead);
        outstanding <= self.protocol.limits.max_unread_body_bytes
    }

    /// Runs the handler, while looking after deadlines and after what the
    /// client is owed in the meantime.
    async fn handle<F>(
        &mut self,
        mut handling: Pin<&mut Option<F>>,
    ) -> Result<Box<Response>, Unanswered>
    where
        F: Future<Output = http_types::Result<Response>>,
    {
        let Conversation {
            protocol,
            ticket,
            seat,
            output,
            ..
        } = self;
        let limits = &protocol.limits;
        let timeout = limits
            .handler_timeout
            .and_then(|timeout| due(Instant::now(), timeout));
        ticket.set_deadline(timeout);
        let mut deadline = timeout;
        let mut failed = false;
        future::poll_fn(|cx| {
            loop {
                if let Seat::Lent(loan) = &*seat {
                    lock(loan).watch(cx.waker());
                }
                let Some(handler) = handling.as_mut().as_pin_mut() else {
                    return Poll::Ready(Err(Unanswered::Panic));
                };
                // A response is large, and goes through many hands from here.
                let poll = || handler.poll(cx).map_ok(Box::new);
                match catch_unwind(AssertUnwindSafe(poll)) {
                    Ok(Poll::Ready(Ok(response))) => return Poll::Ready(Ok(response)),
                    Ok(Poll::Ready(Err(error))) => {
                        return Poll::Ready(Err(Unanswered::Error(error)));
                    }
                    Ok(Poll::Pending) => {}
                    Err(_) => return Poll::Ready(Err(Unanswered::Panic)),
                }
                let mut stalled = None;
                if let Seat::Lent(loan) = &*seat {
                    let mut loan = lock(loan);
                    if loan.interim == Interim::Due {
                        loan.interim = Interim::Settled;
                        output.append(CONTINUE);
                    }
                    stalled = loan.deadline(limits.body_timeout);
                }
                // Earlier responses do not wait for this one. Failure shows
                // again when the response is sent; until then the handler,
                // which may have begun something, goes on.
                if !output.is_empty() && !failed {
                    failed = matches!(
                        with_socket(seat, |socket| poll_send(socket, output, cx)),
                        None | Some(Poll::Ready(Err(_)))
                    );
                }
                if earlier(timeout, stalled) != deadline {
                    deadline = earlier(timeout, stalled);
                    ticket.set_deadline(deadline);
                }
                if poll_expired(ticket, cx).is_pending() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                if timeout.is_some_and(|timeout| timeout <= now) {
                    return Poll::Ready(Err(Unanswered::Overdue));
                }
                if let Seat::Lent(loan) = &*seat {
                    lock(loan).end_wait(limits.body_timeout, now);
                }
                deadline = None;
            }
        })
        .await
    }

    /// Begins a response.
    fn reply(
        &mut self,
        response: Box<Response>,
        exchange: &Exchange,
    ) -> Result<Reply, &'static str> {
        if self.output.has_no_memory() {
            self.output = Buffer::new(self.protocol.take_memory());
        }
        Reply::new(response, exchange, &self.protocol.date(), &mut self.output)
    }

    /// Encodes the rest of a response, which begins at `beginning` of the
    /// output buffer, and sends it as far as it does not fit there. What is
    /// left there leaves with the next response or flush.
    async fn transmit(&mut self, reply: &mut Reply, beginning: usize) -> Result<(), Untransmitted> {
        let Conversation {
            protocol,
            ticket,
            seat,
            output,
            ..
        } = self;
        let limits = &protocol.limits;
        // As long as nothing has been sent.
        let mut beginning = Some(beginning);
        let mut blocked_since: Option<Instant> = None;
        let mut deadline = None;
        ticket.set_deadline(None);
        future::poll_fn(|cx| {
            loop {
                if let Seat::Lent(loan) = &*seat {
                    lock(loan).watch(cx.waker());
                }
                let mut starved = false;
                if beginning.is_some() {
                    output.reserve(ROOM_BYTES);
                }
                while !starved && output.finds_room(ROOM_BYTES, LARGE_BYTES) {
                    match reply.poll_encode(output, cx) {
                        Poll::Ready(Ok(Progress::More)) => {}
                        Poll::Ready(Ok(Progress::Done)) => return Poll::Ready(Ok(())),
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(Err(Untransmitted::Unencodable(error)));
                        }
                        Poll::Pending => starved = true,
                    }
                }
                let mut stalled = None;
                if let Seat::Lent(loan) = &*seat {
                    let mut loan = lock(loan);
                    if loan.interim == Interim::Due {
                        // The response body is the request body. The `100` must
                        // precede the response, or it would be taken for it.
                        loan.interim = Interim::Settled;
                        if let Some(beginning) = beginning {
                            output.insert(beginning, CONTINUE);
                        }
                    }
                    stalled = loan.deadline(limits.body_timeout);
                }
                beginning = None;
                let before = output.len();
                let sent = with_socket(seat, |socket| poll_send(socket, output, cx));
                let progress = output.len() < before;
                let blocked = match sent {
                    Some(Poll::Ready(Ok(()))) => {
                        blocked_since = None;
                        None
                    }
                    Some(Poll::Pending) => {
                        let since = match blocked_since {
                            Some(since) if !progress => since,
                            Some(_) | None => Instant::now(),
                        };
                        blocked_since = Some(since);
                        due(since, limits.write_timeout)
                    }
                    Some(Poll::Ready(Err(_))) | None => {
                        return Poll::Ready(Err(Untransmitted::Gone));
                    }
                };
                if blocked_since.is_none() && !starved {
                    ready!(
                        with_socket(seat, |socket| socket.poll_turn(Way::Out, cx))
                            .unwrap_or(Poll::Ready(()))
                    );
                    continue;
                }
                if earlier(blocked, stalled) != deadline {
                    deadline = earlier(blocked, stalled);
                    ticket.set_deadline(deadline);
                }
                if poll_expired(ticket, cx).is_pending() {
                    return Poll::Pending;
                }
                deadline = None;
                let now = Instant::now();
                if blocked.is_some_and(|blocked| blocked <= now) {
                    log::debug!("{} does not read its response", ticket.peer());
                    return Poll::Ready(Err(Untransmitted::Gone));
                }
                if let Seat::Lent(loan) = &*seat {
                    lock(loan).end_wait(limits.body_timeout, now);
                }
            }
        })
        .await
    }

    /// Sends what is in the output buffer.
    async fn flush(&mut self) -> Result<(), Gone> {
        let Conversation {
            protocol,
            ticket,
            seat,
            output,
            ..
        } = self;
        if output.is_empty() {
            return Ok(());
        }
        let mut left = usize::MAX;
        future::poll_fn(|cx| {
            match with_socket(seat, |socket| poll_send(socket, output, cx)) {
                Some(Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
                Some(Poll::Ready(Err(_))) | None => return Poll::Ready(Err(Gone)),
                Some(Poll::Pending) => {}
            }
            if output.len() < left {
                left = output.len();
                ticket.set_deadline(due(Instant::now(), protocol.limits.write_timeout));
            }
            std::task::ready!(poll_expired(ticket, cx));
            log::debug!("{} does not read its response", ticket.peer());
            Poll::Ready(Err(Gone))
        })
        .await
    }

    /// Takes the wire back after a response. If the connection is to be kept,
    /// reads what the handler has left of the request body; whether that
    /// succeeded is the result.
    async fn finish_body(&mut self, persistent: bool) -> Result<bool, Gone> {
        let Seat::Lent(loan) = &self.seat else {
            return Ok(true);
        };
        let loan = Arc::clone(loan);
        let Some(wire) = lock(&loan).take_back() else {
            self.seat = Seat::Gone;
            return Err(Gone);
        };
        let (decoder, usable) = {
            let loan = lock(&loan);
            let usable = loan.failure.is_none() && loan.interim == Interim::Settled;
            (loan.decoder, usable)
        };
        if decoder.is_done() || !persistent || !usable {
            self.seat = Seat::Here(wire);
            return Ok(decoder.is_done());
        }
        // The reader, wherever it is, keeps the old loan, which is empty now.
        let decoder =
            std::mem::replace(&mut lock(&loan).decoder, Decoder::new(Framing::Fixed(1), 0));
        let rest = Loan::new(wire, decoder, Interim::Settled);
        self.seat = Seat::Lent(Arc::clone(&rest));
        // The client may wait for the response before it sends more.
        self.flush().await?;
        let limits = &self.protocol.limits;
        self.ticket
            .set_deadline(due(Instant::now(), limits.linger_timeout));
        let mut left = limits.max_unread_body_bytes;
        let ticket = &self.ticket;
        let drained = future::poll_fn(|cx| {
            loop {
                match lock(&rest).poll_read(cx, &mut [0; READ_BYTES]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(true),
                    Poll::Ready(Ok(count)) if count as u64 <= left => left -= count as u64,
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending => return poll_expired(ticket, cx).map(|()| false),
                }
            }
        })
        .await;
        self.take_back();
        Ok(drained)
    }

    /// Gives the connection to whoever waits for the upgraded stream, and
    /// stays on the roster until that is dropped.
    async fn hand_out(mut self, sender: http_types::upgrade::Sender) {
        let Seat::Here(wire) = std::mem::replace(&mut self.seat, Seat::Gone) else {
            return;
        };
        self.ticket.set_activity(Activity::Upgraded, Instant::now());
        self.ticket.set_deadline(None);
        self.protocol.give_back(self.output.into_memory());
        let (stream, end) = UpgradedStream::new(wire);
        sender
            .send(http_types::upgrade::Connection::new(stream))
            .await;
        let socket = future::poll_fn(|cx| poll_end(&end, cx)).await;
        if let Some(socket) = socket {
            close(socket, self.ticket, self.protocol).await;
        }
    }
}

/// RFC 9110 section 15.2.1.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is remembered of a request while it is answered.
struct Asked {
    method: Method,
    target: Arc<str>,
    version: head::Protocol,
    offers_upgrade: bool,
    persistent: bool,
}

/// A response that has been begun.
struct Settled {
    reply: Reply,
    /// Where it begins in the output buffer.
    beginning: usize,
    upgrade: Option<http_types::upgrade::Sender>,
}

/// How a handler came to an end without a response.
enum Unanswered {
    Error(http_types::Error),
    Panic,
    Overdue,
}

/// Why a response was not sent to its end.
enum Untransmitted {
    /// Its body failed.
    Unencodable(io::Error),
    /// Nobody takes it.
    Gone,
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        plain(refusal.status, refusal.reason)
    }
}

fn internal_error() -> Response {
    plain(
        StatusCode::InternalServerError,
        StatusCode::InternalServerError.canonical_reason(),
    )
}

fn plain(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(status);
    replace_body(&mut response, Body::from_string(format!("{text}\n")));
    response.insert_header(
        &http_types::headers::CONTENT_TYPE,
        "text/plain; charset=utf-8",
    );
    response
}

/// The socket, wherever it is.
fn with_socket<R>(seat: &Seat, act: impl FnOnce(&Socket) -> R) -> Option<R> {
    match seat {
        Seat::Here(wire) => Some(act(&wire.socket)),
        Seat::Lent(loan) => lock(loan).wire().map(|wire| act(&wire.socket)),
        Seat::Gone => None,
    }
}
