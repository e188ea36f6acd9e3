//! Handing connections over: the predecessor's end.
//!
//! The other end is [`super::adoption`]. Nothing here decides *that*
//! connections move, which is the lifecycle's business, nor what a connection
//! has to be like in order to move, which is its own
//! ([`crate::connection::serve`]). Here is who goes when.
//!
//! # Implementation
//!
//! - Connections that are answered while there is a berth leave of themselves;
//!   those that wait for a request are called, the longest idle first, as many
//!   as one message takes. So the ones that are being used are not held up by
//!   those that are not, and the thread that serves does a few dozen of them
//!   at a time.
//! - There are berths only while a message could be sent at once: whoever
//!   cannot go stays in service. At most [`WINDOW`] messages are
//!   unacknowledged, and in all of them together no more unread bytes than one
//!   may hold, so that there is always room in the channel for the messages of
//!   the lifecycle.
//! - A connection counts as ours until the successor has acknowledged it. As
//!   long as the successor can be lost we keep a copy of its socket, off the
//!   reactor, and its ledger tells what we may do with that ([`Restoration`]).
//! - What the successor cannot take comes back into service here.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_io::Timer;
use smol::future;

use super::accept::Attend;
use crate::handoff::channel::{LONGEST_PAYLOAD, MOST_DESCRIPTORS, passes};
use crate::handoff::message::ConnectionRecord;
use crate::handoff::predecessor::{Loss, Receipt, Successor};
use crate::ledger::{Ledger, Trace};
use crate::parcel::{LUGGAGE_BYTES, Parcel, Past};
use crate::roster::{Peer, Roster, Ticket};
use crate::transition::HandoverSummary;

/// How many connections are sent in one message.
const BATCH: usize = 32;
const _: () = assert!(BATCH <= MOST_DESCRIPTORS);
const _: () = assert!(LUGGAGE_BYTES <= LONGEST_PAYLOAD);

/// How many messages may be unacknowledged.
const WINDOW: usize = 4;

/// How long an acknowledgement is waited for. The successor sends it as soon
/// as it looks, so one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// In how many parts it is waited for. A machine that stands still as a whole
/// for longer than that costs one of them.
const PARTS: u32 = 5;

/// How long it may be impossible to send to a successor that lives.
const OBSTACLE_PATIENCE: Duration = Duration::from_secs(1);

/// When it is tried again.
const OBSTACLE_PAUSE: Duration = Duration::from_millis(10);

/// How often copies are closed of connections that the successor has closed.
/// Until then, the client of one that ends without a farewell does not see it.
const SWEEP: Duration = Duration::from_millis(50);

/// How many connections are restored, or copies closed, at a time.
const TURN: usize = 64;

/// Where connections wait that have left, for this very tick.
#[derive(Default)]
pub(super) struct Outbox {
    parcels: RefCell<VecDeque<Parcel>>,
    waker: Cell<Option<Waker>>,
}

impl Outbox {
    pub(super) fn push(&self, parcel: Parcel) {
        self.parcels.borrow_mut().push_back(parcel);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn watch(&self, cx: &Context<'_>) {
        self.waker.set(Some(cx.waker().clone()));
    }

    fn is_empty(&self) -> bool {
        self.parcels.borrow().is_empty()
    }

    /// Takes at most `most` connections, with at most `bytes` of luggage.
    fn take(&self, most: usize, mut bytes: usize) -> Vec<Parcel> {
        let mut parcels = self.parcels.borrow_mut();
        let mut taken = Vec::with_capacity(most.min(parcels.len()));
        while taken.len() < most
            && let Some(next) = parcels.front()
            && let Some(left) = bytes.checked_sub(next.past.bytes.len())
        {
            bytes = left;
            taken.extend(parcels.pop_front());
        }
        taken
    }
}

/// A connection that has been sent.
struct Passenger {
    /// Our copy.
    socket: OwnedFd,
    /// Until it is acknowledged.
    ticket: Option<Ticket>,
    peer: Peer,
    listener: Arc<str>,
    past: Past,
    slot: u32,
}

/// A message that has been sent.
struct Batch {
    number: u64,
    passengers: Vec<Passenger>,
    bytes: usize,
}

/// What keeps us from sending.
struct Obstacle {
    since: Instant,
    /// When it was last met.
    met: Instant,
    /// When to try again, unless that is now.
    pause: Option<Timer>,
}

/// What comes of a handover.
pub(super) enum Progress {
    /// Whoever could leave has left. Those that are busy may follow.
    Settled(HandoverSummary),
    /// The successor does not do its part.
    Lost(Loss),
}

/// Connections on their way to the successor.
pub(super) struct Handover {
    roster: Rc<Roster>,
    outbox: Rc<Outbox>,
    attend: Attend,
    /// As long as what was handed over can be taken back.
    ledger: Option<Ledger>,
    /// Whether connections leave, or all of them stay that are still here.
    is_open: bool,
    /// Whether the successor has been told that no more will come.
    is_told: bool,
    is_settled: bool,
    /// How many connections the successor can take, as of its last word.
    room: usize,
    /// How many are sent at a time.
    size: usize,
    /// Whom to call, the longest idle last.
    waiting: Vec<usize>,
    unacknowledged: VecDeque<Batch>,
    /// How many parts of our patience are used up, and the end of the next;
    /// set while there is an unacknowledged batch.
    patience: Option<(u32, Timer)>,
    obstacle: Option<Obstacle>,
    /// What can be taken back, with its places in the ledger.
    kept: Vec<Passenger>,
    sweep: Option<Timer>,
    batches: u64,
    slots: u32,
    begun: Instant,
    admitted_before: u64,
    handed_over: usize,
}

impl Handover {
    /// Begins to hand over, to a successor that can take so many.
    pub(super) fn begin(
        roster: Rc<Roster>,
        outbox: Rc<Outbox>,
        attend: Attend,
        ledger: Option<Ledger>,
        room: usize,
    ) -> Self {
        let admitted_before = roster.admitted() - roster.len() as u64;
        let waiting = roster.waiting();
        Handover {
            roster,
            outbox,
            attend,
            ledger,
            is_open: true,
            is_told: false,
            is_settled: false,
            room,
            size: BATCH,
            waiting,
            unacknowledged: VecDeque::new(),
            patience: None,
            obstacle: None,
            kept: Vec::new(),
            sweep: None,
            batches: 0,
            slots: 0,
            begun: Instant::now(),
            admitted_before,
            handed_over: 0,
        }
    }

    /// Whether something was sent that the successor has not acknowledged.
    pub(super) fn is_unacknowledged(&self) -> bool {
        !self.unacknowledged.is_empty()
    }

    /// Sends what can be sent. `more_may_come` tells whether connections may
    /// yet be accepted here, or be handed over to us.
    pub(super) fn poll(
        &mut self,
        successor: &Successor,
        more_may_come: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Progress> {
        self.outbox.watch(cx);
        self.roster.watch_departures(cx);
        self.sweep_copies(cx);
        self.try_again_in_time(cx);
        self.send(successor);
        // Now that something may have been sent, or not: a clock wakes us only
        // if it was looked at.
        self.try_again_in_time(cx);
        if self.is_overdue(cx) {
            let connections = self.in_flight();
            return Poll::Ready(Progress::Lost(Loss::Unresponsive(connections, PATIENCE)));
        }
        self.give_berths(successor);
        let nothing_under_way = self.unacknowledged.is_empty() && self.outbox.is_empty();
        let nobody_left = self.roster.restless() == 0 && !more_may_come;
        if !self.is_told && nothing_under_way && (!self.is_open || nobody_left) {
            self.is_told = true;
            self.close();
            successor.send_handed_over();
        }
        let nobody_waits =
            self.waiting.is_empty() && !self.roster.has_left_behind() && !self.roster.is_calling();
        if !self.is_settled && nothing_under_way && (!self.is_open || nobody_waits) {
            self.is_settled = true;
            return Poll::Ready(Progress::Settled(self.summary()));
        }
        Poll::Pending
    }

    /// What has become of the connections.
    pub(super) fn summary(&self) -> HandoverSummary {
        let kept = self.roster.len();
        let all = self.roster.admitted().saturating_sub(self.admitted_before);
        let closed = all.saturating_sub((kept + self.handed_over) as u64);
        HandoverSummary {
            handed_over: self.handed_over,
            kept,
            closed: usize::try_from(closed).unwrap_or(usize::MAX),
            took: self.begun.elapsed(),
        }
    }

    /// Hears what the successor has taken.
    pub(super) fn acknowledge(&mut self, receipt: Receipt) -> Result<(), Loss> {
        let batch = match self.unacknowledged.pop_front() {
            Some(batch)
                if batch.number == receipt.batch && receipt.taken <= batch.passengers.len() =>
            {
                batch
            }
            other => {
                // What it has of this one is what its ledger says.
                if let Some(batch) = other {
                    self.unacknowledged.push_front(batch);
                }
                return Err(Loss::OutOfOrder("adopted"));
            }
        };
        self.patience = None;
        // With fewer descriptors under way there may be a way again.
        if let Some(obstacle) = &mut self.obstacle {
            obstacle.pause = None;
        }
        self.room = receipt.room;
        self.handed_over += receipt.taken;
        let mut passengers = batch.passengers.into_iter();
        for mut passenger in passengers.by_ref().take(receipt.taken) {
            passenger.ticket = None;
            if self.ledger.is_some() {
                self.kept.push(passenger);
            }
        }
        let refused: Vec<Passenger> = passengers.collect();
        if !refused.is_empty() {
            log::warn!(
                "the successor had no room for {} of the connections; what is left here drains",
                refused.len()
            );
            self.close();
            for passenger in refused {
                self.keep(passenger);
            }
        }
        Ok(())
    }

    /// Hands nothing over any more: what is still here drains.
    ///
    /// What has been sent already is the successor's, once it acknowledges it.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.roster.set_berths(0);
        self.roster.start_drain();
        for parcel in self.outbox.take(usize::MAX, usize::MAX) {
            (self.attend)(parcel);
        }
    }

    /// The successor is proven: nothing can be taken back any more. What is
    /// returned closes the copies.
    pub(super) fn prove(&mut self) -> impl Future<Output = ()> + use<> {
        self.ledger = None;
        self.sweep = None;
        let kept = std::mem::take(&mut self.kept);
        async move {
            let mut kept = kept.into_iter();
            while kept.by_ref().take(TURN).count() > 0 {
                future::yield_now().await;
            }
        }
    }

    /// The successor is lost on probation: whoever has not left goes on as if
    /// nothing had happened; what has been sent can be restored once the
    /// successor is certain to be gone.
    pub(super) fn take_back(mut self) -> Restoration {
        self.roster.set_berths(0);
        for parcel in self.outbox.take(usize::MAX, usize::MAX) {
            (self.attend)(parcel);
        }
        let sent = self.unacknowledged.drain(..);
        self.kept.extend(sent.flat_map(|batch| batch.passengers));
        Restoration {
            ledger: self.ledger,
            slots: self.slots,
            passengers: self.kept,
            roster: self.roster,
            attend: self.attend,
        }
    }

    fn in_flight(&self) -> usize {
        let batches = self.unacknowledged.iter();
        batches.map(|batch| batch.passengers.len()).sum()
    }

    /// How many more the successor can take.
    fn room_left(&self) -> usize {
        self.room.saturating_sub(self.in_flight())
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if self.unacknowledged.is_empty() {
            self.patience = None;
            return false;
        }
        let part = || Timer::after(PATIENCE / PARTS);
        let (used, timer) = self.patience.get_or_insert_with(|| (0, part()));
        while *used < PARTS && future::FutureExt::poll(timer, cx).is_ready() {
            *used += 1;
            *timer = part();
        }
        *used == PARTS
    }

    fn sweep_copies(&mut self, cx: &mut Context<'_>) {
        let Some(ledger) = &self.ledger else { return };
        if self.kept.is_empty() {
            return;
        }
        let sweep = self.sweep.get_or_insert_with(|| Timer::after(SWEEP));
        if future::FutureExt::poll(sweep, cx).is_pending() {
            return;
        }
        // Not an interval, which would make up for the time without copies.
        self.sweep = None;
        let traces = ledger.read(self.slots as usize);
        self.kept
            .retain(|passenger| traces.get(passenger.slot as usize) != Some(&Trace::Closed));
        // The next interval is waited for, too.
        cx.waker().wake_by_ref();
    }

    /// Whether it is not the time to send.
    fn is_obstructed(&self) -> bool {
        let obstacle = self.obstacle.as_ref();
        obstacle.is_some_and(|obstacle| obstacle.pause.is_some())
    }

    fn try_again_in_time(&mut self, cx: &mut Context<'_>) {
        if let Some(obstacle) = &mut self.obstacle
            && let Some(pause) = &mut obstacle.pause
            && future::FutureExt::poll(pause, cx).is_ready()
        {
            obstacle.pause = None;
        }
    }

    fn send(&mut self, successor: &Successor) {
        while self.is_open && self.unacknowledged.len() < WINDOW && !self.outbox.is_empty() {
            let under_way: usize = self.unacknowledged.iter().map(|batch| batch.bytes).sum();
            let most = self.size.min(self.room_left());
            let parcels = self.outbox.take(most, LONGEST_PAYLOAD - under_way);
            if parcels.is_empty() {
                // Those that are there wait for an acknowledgement.
                return;
            }
            if let Err((error, parcels)) = self.send_batch(parcels, successor) {
                for parcel in parcels {
                    (self.attend)(parcel);
                }
                self.obstruct(&error);
            }
        }
    }

    fn send_batch(
        &mut self,
        parcels: Vec<Parcel>,
        successor: &Successor,
    ) -> Result<(), (io::Error, Vec<Parcel>)> {
        let slots = self.slots as usize + parcels.len();
        if let Some(ledger) = &mut self.ledger
            && let Err(error) = ledger.reserve(slots)
        {
            return Err((error, parcels));
        }
        let now = Instant::now();
        let mut bytes = Vec::new();
        let mut records = Vec::with_capacity(parcels.len());
        for (parcel, slot) in parcels.iter().zip(self.slots..) {
            let Past {
                served,
                since,
                bytes: luggage,
            } = &parcel.past;
            bytes.extend_from_slice(luggage);
            let waited = now.saturating_duration_since(*since).as_millis();
            records.push(ConnectionRecord {
                peer: parcel.ticket.peer().to_string(),
                listener: parcel.ticket.listener().to_string(),
                slot,
                served: *served,
                waited_ms: u64::try_from(waited).unwrap_or(u64::MAX),
                bytes: luggage.len(),
            });
        }
        let descriptors: Vec<_> = parcels.iter().map(|it| it.socket.as_fd()).collect();
        let sent = successor.send_connections(self.batches, records, &descriptors, &bytes);
        drop(descriptors);
        if let Err(error) = sent {
            return Err((error, parcels));
        }
        self.obstacle = None;
        let passengers = parcels
            .into_iter()
            .zip(self.slots..)
            .map(|(parcel, slot)| Passenger {
                peer: parcel.ticket.peer(),
                listener: parcel.ticket.listener(),
                socket: parcel.socket,
                ticket: Some(parcel.ticket),
                past: parcel.past,
                slot,
            })
            .collect();
        self.unacknowledged.push_back(Batch {
            number: self.batches,
            passengers,
            bytes: bytes.len(),
        });
        self.batches += 1;
        // Fewer than there are descriptors, which are numbered by an i32.
        self.slots = u32::try_from(slots).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Makes of an error in sending a pause, or an end.
    fn obstruct(&mut self, error: &io::Error) {
        // The channel has ended, so the successor is lost. What comes of that is
        // decided when the reason is known, for which it is waited a while; no
        // connection is to drain meanwhile that may yet stay.
        let is_end = matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::NotConnected
        );
        let passes = is_end || passes(error);
        let met = Instant::now();
        let since = match &self.obstacle {
            // Nobody may have wanted to leave since.
            Some(obstacle) if obstacle.met.elapsed() < OBSTACLE_PATIENCE => obstacle.since,
            Some(_) | None => met,
        };
        if passes && since.elapsed() < OBSTACLE_PATIENCE {
            log::debug!("connections cannot be handed over at the moment: {error}");
            self.size = (self.size / 2).max(1);
            let pause = Some(Timer::after(OBSTACLE_PAUSE));
            self.obstacle = Some(Obstacle { since, met, pause });
        } else {
            log::warn!("connections cannot be handed over, so they drain: {error}");
            self.close();
        }
    }

    fn give_berths(&mut self, successor: &Successor) {
        if !self.is_open {
            return;
        }
        let room = self.room_left();
        if room == 0 && self.unacknowledged.is_empty() {
            if self.roster.restless() > 0 {
                log::warn!(
                    "the successor has no room for more connections; what is left here drains"
                );
            }
            self.close();
            return;
        }
        let can_send = self.unacknowledged.len() < WINDOW
            && !self.is_obstructed()
            && !successor.has_unsent()
            && self.outbox.is_empty();
        let berths = if can_send { self.size.min(room) } else { 0 };
        self.roster.set_berths(berths);
        let mut uncalled = self.roster.uncalled_berths();
        while uncalled > 0 {
            match self.waiting.pop() {
                Some(next) => uncalled -= usize::from(self.roster.call(next)),
                None if self.roster.has_left_behind() => self.waiting = self.roster.waiting(),
                None => break,
            }
        }
    }

    /// Takes a connection back into service that was not taken.
    fn keep(&self, passenger: Passenger) {
        let Passenger {
            socket,
            ticket,
            peer,
            listener,
            past,
            ..
        } = passenger;
        (self.attend)(Parcel {
            socket,
            ticket: ticket.unwrap_or_else(|| self.roster.admit(peer, &listener)),
            past,
        });
    }
}

/// Connections that were handed over to a successor which is lost.
pub(super) struct Restoration {
    ledger: Option<Ledger>,
    slots: u32,
    passengers: Vec<Passenger>,
    roster: Rc<Roster>,
    attend: Attend,
}

impl Restoration {
    /// Serves those that the successor has left clean.
    ///
    /// `is_gone` tells whether it can do nothing more to them: two processes
    /// must not read from one connection.
    pub(super) async fn restore(self, is_gone: bool) {
        let all = self.passengers.len();
        if all == 0 {
            return;
        }
        let (Some(ledger), true) = (&self.ledger, is_gone) else {
            log::error!(
                "{all} connections that were handed over are left to the successor, which may \
                 still live"
            );
            return;
        };
        let traces = ledger.read(self.slots as usize);
        let mut restored = 0;
        let mut ended = 0;
        for (number, passenger) in self.passengers.into_iter().enumerate() {
            let past = match traces.get(passenger.slot as usize) {
                Some(Trace::Untouched) => passenger.past,
                Some(Trace::Clean) => Past {
                    served: true,
                    since: Instant::now(),
                    bytes: Box::default(),
                },
                Some(Trace::Closed) => {
                    ended += 1;
                    continue;
                }
                Some(Trace::InUse) | None => continue,
            };
            restored += 1;
            let ticket = match passenger.ticket {
                Some(ticket) => ticket,
                None => self.roster.admit(passenger.peer, &passenger.listener),
            };
            (self.attend)(Parcel {
                socket: passenger.socket,
                ticket,
                past,
            });
            // Whoever is being served meanwhile must not feel it.
            if number % TURN == TURN - 1 {
                future::yield_now().await;
            }
        }
        log::info!(
            "took back {restored} of {all} connections that had been handed over; the successor \
             had closed {ended}, and {} were in use when it was lost",
            all - restored - ended
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::channel::Channel;
    use crate::handoff::message::{FromPredecessor, FromSuccessor};
    use std::os::unix::net::UnixStream;

    /// A handover, the successor's end of the channel, and what has come back
    /// into service.
    struct Scene {
        handover: Handover,
        successor: Successor,
        theirs: Channel<FromSuccessor, FromPredecessor>,
        attended: Rc<RefCell<Vec<Parcel>>>,
    }

    impl Scene {
        fn set() -> Self {
            let attended = Rc::new(RefCell::new(Vec::new()));
            let attending = Rc::clone(&attended);
            let (successor, theirs) = Successor::played().unwrap();
            Scene {
                handover: Handover::begin(
                    Rc::default(),
                    Rc::default(),
                    Rc::new(move |parcel| attending.borrow_mut().push(parcel)),
                    Some(Ledger::create().unwrap()),
                    usize::MAX,
                ),
                successor,
                theirs: Channel::new(theirs).unwrap(),
                attended,
            }
        }

        /// A connection is about to leave.
        fn board(&self) {
            let (ours, _) = UnixStream::pair().unwrap();
            let ticket = self.handover.roster.admit(Peer::Unix, "");
            let parcel = Parcel::fresh(ours.into(), ticket);
            self.handover.outbox.push(parcel);
        }

        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
            self.handover.poll(&self.successor, true, cx)
        }

        /// Polls for as long as somebody asks for it, until this is so.
        fn wait_until(&mut self, reached: impl Fn(&Handover) -> bool) {
            let reached = future::poll_fn(|cx| {
                let _ = self.poll(cx);
                match reached(&self.handover) {
                    true => Poll::Ready(true),
                    false => Poll::Pending,
                }
            });
            let patience = async {
                Timer::after(Duration::from_secs(30)).await;
                false
            };
            // The end of the patience would wake the other one, too.
            let reached = smol::block_on(future::or(patience, reached));
            assert!(reached, "nobody looks at the handover any more");
        }
    }

    #[test]
    fn whoever_does_not_acknowledge_is_noticed_although_nothing_else_happens() {
        let mut scene = Scene::set();
        scene.board();
        // A part of the patience is over.
        scene.wait_until(|handover| handover.patience.as_ref().is_some_and(|it| it.0 > 0));
        assert!(scene.handover.is_unacknowledged());
    }

    #[test]
    fn what_could_not_be_sent_is_tried_again_although_nothing_else_happens() {
        let mut scene = Scene::set();
        while scene.successor.send_reload().is_ok() {}
        scene.board();
        scene.wait_until(|it| it.obstacle.is_some() && !it.is_obstructed());
        assert_eq!(scene.attended.borrow().len(), 1);
        assert_eq!(scene.handover.roster.uncalled_berths(), BATCH / 2);
        // And now there is a way.
        while scene.theirs.try_receive().is_some() {}
        scene.board();
        scene.wait_until(Handover::is_unacknowledged);
    }

    #[test]
    fn an_obstacle_is_old_only_if_it_has_been_met_all_the_time() {
        let hour = Duration::from_secs(3600);
        for (age, is_open) in [(hour, true), (Duration::ZERO, false)] {
            let mut scene = Scene::set();
            let now = Instant::now();
            scene.handover.obstacle = Some(Obstacle {
                since: now.checked_sub(hour).unwrap(),
                met: now.checked_sub(age).unwrap(),
                pause: None,
            });
            scene.handover.obstruct(&rustix::io::Errno::AGAIN.into());
            assert_eq!(scene.handover.is_open, is_open);
        }
    }

    #[test]
    fn what_a_dead_successor_did_not_get_goes_on_as_if_nothing_had_happened() {
        let mut scene = Scene::set();
        scene.board();
        // The other end is closed.
        scene.theirs = Scene::set().theirs;
        let progress = smol::block_on(future::poll_once(future::poll_fn(|cx| scene.poll(cx))));
        assert!(!matches!(progress, Some(Progress::Lost(_))));
        let attended = scene.attended.borrow();
        assert_eq!(attended.len(), 1);
        assert!(!attended[0].ticket.draining(), "its client would be told");
    }
}
