//! The roster: every open connection of this process, what it is doing, and
//! by when.
//!
//! A connection enters with [`Roster::admit`] in the same poll in which it was
//! accepted, so that none is ever open and uncounted, and leaves when its
//! [`Ticket`] is dropped. Through its ticket it says what it is doing and sets
//! the one deadline it currently has; through its ticket it is told that a
//! drain began or ended, that the deadline has passed, or that it is its turn
//! to leave for the successor.
//!
//! # Leaving
//!
//! A connection may leave whenever it is between two requests and there is a
//! berth ([`Ticket::board`]). Berths are given out by whoever hands
//! connections over ([`Roster::set_berths`]), as many as are going to be sent
//! at once, so that no connection ever waits on the quay unserved. Whoever is
//! answered while there is a berth takes it; those that have been waiting for
//! a request are called ([`Roster::call`]), the longest idle first.
//!
//! This file knows no sockets and no HTTP.
//!
//! # Implementation
//!
//! Deadlines are checked by one coarse sweep over all connections
//! ([`Roster::sweep`]), not by a timer each: a connection that is idle costs a
//! slab entry and no wake-up. Entries are stored in the slab itself rather than
//! behind pointers, because there are as many as idle connections. A deadline
//! is therefore noticed up to [`COARSENESS`] late, never early.

use std::cell::{Cell, Ref, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http_types::Method;
use slab::Slab;
use smol::future;

use crate::ledger::{Slot, Trace};

/// How late a passed deadline may be noticed.
pub(crate) const COARSENESS: Duration = Duration::from_millis(100);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// No byte of a next request has been read.
    Idle,
    /// A request head has been read in part.
    Head,
    /// A request is being answered.
    Busy,
    /// The last response is sent; waiting for the peer to close.
    Closing,
    /// The connection speaks another protocol now.
    Upgraded,
    /// It is on its way to the successor.
    Leaving,
}

impl Activity {
    /// Whether a connection that does this can be called.
    fn is_waiting(self) -> bool {
        matches!(self, Activity::Idle | Activity::Head)
    }

    /// Whether a connection that does this will never leave for a successor.
    fn is_final(self) -> bool {
        matches!(self, Activity::Closing | Activity::Upgraded)
    }
}

/// The peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    /// A UNIX stream client; these are unnamed as a rule.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// Why a connection was woken through its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A drain began or was taken back: ask [`Ticket::draining`].
    Drain,
    /// The deadline set with [`Ticket::set_deadline`] has passed.
    Expired,
    /// It has been called: ask [`Ticket::board`].
    Called,
}

/// How many connections there are, by what they are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) idle: usize,
    pub(crate) busy: usize,
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} busy and {} idle connections", self.busy, self.idle)
    }
}

/// A connection that holds up the end of a drain.
#[derive(Clone, Debug)]
pub(crate) struct Straggler {
    pub(crate) peer: Peer,
    pub(crate) activity: Activity,
    /// For how long it has been doing that.
    pub(crate) age: Duration,
    pub(crate) request: Option<(Method, Arc<str>)>,
}

impl fmt::Display for Straggler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let activity = match self.activity {
            Activity::Idle => "idle",
            Activity::Head => "sending a request head",
            Activity::Busy => "busy",
            Activity::Closing => "closing",
            Activity::Upgraded => "upgraded",
            Activity::Leaving => "being handed over",
        };
        write!(f, "{} {activity} for {:.1?}", self.peer, self.age)?;
        if let Some((method, target)) = &self.request {
            write!(f, " with {method} {target}")?;
        }
        Ok(())
    }
}

/// Every open connection of this process.
#[derive(Default)]
pub(crate) struct Roster {
    entries: RefCell<Slab<Entry>>,
    /// Whether a drain is on.
    draining: Cell<bool>,
    /// Counts the beginnings and ends of drains, so that each connection can
    /// tell whether it has heard of the latest.
    drain_epoch: Cell<u32>,
    /// When the sweep will look at the deadlines next; `None`: no deadline.
    next_sweep: Cell<Option<Instant>>,
    /// The sweep, waiting.
    sweeper: Cell<Option<Waker>>,
    /// Whoever waits for the number of connections to fall.
    departures: RefCell<Vec<Waker>>,
    /// How many connections may leave at this moment.
    berths: Cell<usize>,
    /// How many have been called and have not heard it yet.
    called: Cell<usize>,
    /// Whether one has found no berth since the last list of those who wait.
    left_behind: Cell<bool>,
    /// How many will never leave for a successor.
    settled: Cell<usize>,
    /// How many there have been.
    admitted: Cell<u64>,
    /// For how many that are to come from the predecessor there is a place.
    reserved: Cell<usize>,
    /// The names of listeners, which entries have by their number.
    listeners: RefCell<Vec<Arc<str>>>,
}

struct Entry {
    peer: Peer,
    /// The number of the listener's name.
    listener: u32,
    activity: Cell<Activity>,
    since: Cell<Instant>,
    method: Cell<Method>,
    /// The target of the request that is being answered.
    target: Cell<Option<Arc<str>>>,
    deadline: Cell<Option<Instant>>,
    expired: Cell<bool>,
    drain_epoch: Cell<u32>,
    called: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Entry {
    fn request(&self) -> Option<(Method, Arc<str>)> {
        let target = self.target.take();
        self.target.set(target.clone());
        Some((self.method.get(), target?))
    }
}

impl Roster {
    /// Enters a connection that came through a listener of this name; it leaves
    /// when the ticket is dropped.
    pub(crate) fn admit(self: &Rc<Self>, peer: Peer, listener: &str) -> Ticket {
        let listener = self.number_of(listener);
        self.admitted.set(self.admitted.get() + 1);
        let key = self.entries.borrow_mut().insert(Entry {
            peer,
            listener,
            activity: Cell::new(Activity::Idle),
            since: Cell::new(Instant::now()),
            method: Cell::new(Method::Get),
            target: Cell::new(None),
            deadline: Cell::new(None),
            expired: Cell::new(false),
            drain_epoch: Cell::new(self.drain_epoch.get()),
            called: Cell::new(false),
            waker: Cell::new(None),
        });
        Ticket {
            roster: Rc::clone(self),
            key,
            slot: None,
        }
    }

    /// A server has a few listeners, so a search is as quick as a map.
    fn number_of(&self, listener: &str) -> u32 {
        let mut listeners = self.listeners.borrow_mut();
        let known = listeners.iter().position(|known| **known == *listener);
        let number = known.unwrap_or_else(|| {
            listeners.push(listener.into());
            listeners.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// How many connections are open.
    pub(crate) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// How many connections there have been.
    pub(crate) fn admitted(&self) -> u64 {
        self.admitted.get()
    }

    /// How many connections are idle, and how many are not.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for (_, entry) in self.entries.borrow().iter() {
            match entry.activity.get() {
                Activity::Idle | Activity::Closing | Activity::Leaving => census.idle += 1,
                Activity::Head | Activity::Busy | Activity::Upgraded => census.busy += 1,
            }
        }
        census
    }

    /// Tells every connection that a drain begins.
    pub(crate) fn start_drain(&self) {
        self.set_draining(true);
    }

    /// Takes a drain back: connections that are still open go on as before.
    pub(crate) fn end_drain(&self) {
        self.set_draining(false);
    }

    fn set_draining(&self, draining: bool) {
        if self.draining.replace(draining) == draining {
            return;
        }
        self.drain_epoch.set(self.drain_epoch.get().wrapping_add(1));
        // A waker may run anything, so none is woken under the borrow.
        let wakers: Vec<Waker> = self
            .entries
            .borrow()
            .iter()
            .filter_map(|(_, entry)| entry.waker.take())
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Keeps so many places for connections that come from the predecessor;
    /// whoever is new waits until there are others.
    pub(crate) fn reserve(&self, places: usize) {
        self.reserved.set(places);
        self.wake_watchers();
    }

    /// How many new connections may be accepted, if at most `limit` may be
    /// open.
    pub(crate) fn places(&self, limit: usize) -> usize {
        limit.saturating_sub(self.len().saturating_add(self.reserved.get()))
    }

    /// Waits until there is a place for a new connection.
    pub(crate) async fn place(&self, limit: usize) {
        self.until(|| self.places(limit) > 0).await;
    }

    /// Waits until no connection is open.
    pub(crate) async fn empty(&self) {
        self.until(|| self.len() == 0).await;
    }

    /// Waits until a connection has closed, or left.
    pub(crate) async fn departure(&self) {
        let before = self.len();
        self.until(|| self.len() < before).await;
    }

    async fn until(&self, reached: impl Fn() -> bool) {
        future::poll_fn(|cx| {
            if reached() {
                return Poll::Ready(());
            }
            self.watch_departures(cx);
            Poll::Pending
        })
        .await;
    }

    /// Arranges a wake-up for when a connection closes, or will never leave.
    pub(crate) fn watch_departures(&self, cx: &Context<'_>) {
        let mut waiting = self.departures.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    fn wake_watchers(&self) {
        let waiting = self.departures.take();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Lets so many connections leave from now on; zero: none.
    pub(crate) fn set_berths(&self, berths: usize) {
        self.berths.set(berths);
    }

    /// How many connections may leave and have not been called for it.
    pub(crate) fn uncalled_berths(&self) -> usize {
        self.berths.get().saturating_sub(self.called.get())
    }

    /// Whether some have been called and have not heard it yet.
    pub(crate) fn is_calling(&self) -> bool {
        self.called.get() > 0
    }

    /// How many connections may yet leave for a successor.
    pub(crate) fn restless(&self) -> usize {
        self.len().saturating_sub(self.settled.get())
    }

    /// Whether a connection has found no berth since [`Roster::waiting`] was
    /// asked.
    pub(crate) fn has_left_behind(&self) -> bool {
        self.left_behind.get()
    }

    /// Who waits for a request, or for the rest of one, the longest idle last.
    /// Each is named by a number that may name another connection once it has
    /// closed.
    pub(crate) fn waiting(&self) -> Vec<usize> {
        self.left_behind.set(false);
        let mut waiting: Vec<(Instant, usize)> = self
            .entries
            .borrow()
            .iter()
            .filter(|(_, entry)| entry.activity.get().is_waiting())
            .map(|(key, entry)| (entry.since.get(), key))
            .collect();
        waiting.sort_unstable_by_key(|(since, _)| std::cmp::Reverse(*since));
        waiting.into_iter().map(|(_, key)| key).collect()
    }

    /// Tells a connection that it is its turn to leave, if it waits; tells
    /// whether it does.
    pub(crate) fn call(&self, key: usize) -> bool {
        let waker = {
            let entries = self.entries.borrow();
            let Some(entry) = entries.get(key) else {
                return false;
            };
            let waits = entry.activity.get().is_waiting();
            if !waits || entry.called.replace(true) {
                return false;
            }
            self.called.set(self.called.get() + 1);
            entry.waker.take()
        };
        // A waker may run anything, so it is not woken under the borrow.
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Who is still here, longest at what it is doing first.
    pub(crate) fn stragglers(&self) -> Vec<Straggler> {
        let now = Instant::now();
        let mut stragglers: Vec<Straggler> = self
            .entries
            .borrow()
            .iter()
            .map(|(_, entry)| Straggler {
                peer: entry.peer,
                activity: entry.activity.get(),
                age: now.saturating_duration_since(entry.since.get()),
                request: entry.request(),
            })
            .collect();
        stragglers.sort_by_key(|straggler| std::cmp::Reverse(straggler.age));
        stragglers
    }

    /// Notices passed deadlines, for ever. One task of the process runs it.
    pub(crate) async fn sweep(&self) {
        loop {
            // Sleep until the earliest deadline known, or until one is set
            // where there was none, or an earlier one is set.
            let mut timer: Option<(Instant, async_io::Timer)> = None;
            future::poll_fn(|cx| {
                let Some(at) = self.next_sweep.get() else {
                    self.sweeper.set(Some(cx.waker().clone()));
                    return Poll::Pending;
                };
                if timer.as_ref().is_none_or(|(set, _)| *set != at) {
                    timer = Some((at, async_io::Timer::at(at)));
                }
                let due = timer
                    .as_mut()
                    .is_some_and(|(_, timer)| future::FutureExt::poll(timer, cx).is_ready());
                if due {
                    return Poll::Ready(());
                }
                self.sweeper.set(Some(cx.waker().clone()));
                Poll::Pending
            })
            .await;
            self.expire(Instant::now());
        }
    }

    /// The deadline of each connection.
    #[cfg(test)]
    pub(crate) fn deadlines(&self) -> Vec<Option<Instant>> {
        let entries = self.entries.borrow();
        entries.iter().map(|(_, it)| it.deadline.get()).collect()
    }

    /// Tells every connection whose deadline has passed.
    pub(crate) fn expire(&self, now: Instant) {
        let mut earliest: Option<Instant> = None;
        let mut wakers = Vec::new();
        for (_, entry) in self.entries.borrow().iter() {
            let Some(deadline) = entry.deadline.get() else {
                continue;
            };
            if deadline <= now {
                entry.deadline.set(None);
                entry.expired.set(true);
                wakers.extend(entry.waker.take());
            } else if earliest.is_none_or(|known| deadline < known) {
                earliest = Some(deadline);
            }
        }
        self.next_sweep
            .set(earliest.map(|deadline| deadline.max(now + COARSENESS)));
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A connection's place in the roster; dropping it takes the connection off.
pub(crate) struct Ticket {
    roster: Rc<Roster>,
    /// Its entry is there as long as the ticket is.
    key: usize,
    /// Its place in the ledger, if a predecessor handed it over.
    slot: Option<Slot>,
}

impl Ticket {
    /// Gives the connection a place in the ledger.
    pub(crate) fn noted_in(mut self, slot: Slot) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Says that from now on a request may have been read, or the connection
    /// been ended.
    pub(crate) fn touch(&self) {
        if let Some(slot) = &self.slot {
            slot.note(Trace::InUse);
        }
    }

    /// Whether nothing has been done with a connection that was handed over.
    pub(crate) fn is_untouched(&self) -> bool {
        self.slot.as_ref().is_some_and(Slot::is_untouched)
    }

    /// Says that every request that was read has been answered.
    pub(crate) fn clean(&self) {
        if let Some(slot) = &self.slot {
            slot.note(Trace::Clean);
        }
    }

    /// Takes a berth, if there is one: then the connection is to leave at
    /// once. Otherwise it is known to have found none, and will be called when
    /// it waits and there is one. Who could not leave with what it has must not
    /// ask: it would be called again and again.
    pub(crate) fn board(&self) -> bool {
        let roster = &self.roster;
        match roster.berths.get() {
            0 => {
                roster.left_behind.set(true);
                false
            }
            berths => {
                roster.berths.set(berths - 1);
                let entry = self.entry();
                // Whether or not it has heard of it, it follows a call.
                if entry.called.take() {
                    roster.called.set(roster.called.get() - 1);
                }
                entry.activity.set(Activity::Leaving);
                entry.deadline.set(None);
                true
            }
        }
    }

    /// Whether there is a berth.
    pub(crate) fn may_board(&self) -> bool {
        self.roster.berths.get() > 0
    }

    fn entry(&self) -> Ref<'_, Entry> {
        Ref::map(self.roster.entries.borrow(), |entries| &entries[self.key])
    }

    pub(crate) fn peer(&self) -> Peer {
        self.entry().peer
    }

    /// The name of the listener through which the connection came.
    pub(crate) fn listener(&self) -> Arc<str> {
        let number = self.entry().listener;
        let listeners = self.roster.listeners.borrow();
        let name = usize::try_from(number)
            .ok()
            .and_then(|number| listeners.get(number));
        name.map_or_else(|| "".into(), Arc::clone)
    }

    /// Says what the connection is doing from now on.
    ///
    /// `now` is the caller's, who often has it at hand already.
    pub(crate) fn set_activity(&self, activity: Activity, now: Instant) {
        let (was, has_missed_call) = {
            let entry = self.entry();
            entry.since.set(now);
            // Who has something else to do may not listen for hours; when it
            // waits again it looks for a berth anyway.
            let has_missed_call = !activity.is_waiting() && entry.called.take();
            (entry.activity.replace(activity), has_missed_call)
        };
        let has_settled = activity.is_final() && !was.is_final();
        let (called, settled) = (&self.roster.called, &self.roster.settled);
        called.set(called.get() - usize::from(has_missed_call));
        settled.set(settled.get() + usize::from(has_settled));
        if has_missed_call || has_settled {
            self.roster.wake_watchers();
        }
    }

    /// Since when it has been doing that.
    pub(crate) fn since(&self) -> Instant {
        self.entry().since.get()
    }

    /// Names the request that is being answered, for the report on stragglers.
    pub(crate) fn set_request(&self, request: Option<(Method, Arc<str>)>) {
        let entry = self.entry();
        entry.target.set(request.map(|(method, target)| {
            entry.method.set(method);
            target
        }));
    }

    /// Sets the one deadline this connection has from now on; `None`: none.
    ///
    /// A deadline that passed but was not yet heard of is forgotten.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        let entry = self.entry();
        entry.expired.set(false);
        entry.deadline.set(deadline);
        let Some(deadline) = deadline else { return };
        if self.roster.next_sweep.get().is_none_or(|at| deadline < at) {
            self.roster.next_sweep.set(Some(deadline));
            if let Some(sweeper) = self.roster.sweeper.take() {
                sweeper.wake();
            }
        }
    }

    /// Whether a drain is on.
    pub(crate) fn draining(&self) -> bool {
        self.roster.draining.get()
    }

    /// The drain that is on, by a number that no other one has.
    pub(crate) fn drain(&self) -> Option<u32> {
        let draining = self.roster.draining.get();
        draining.then(|| self.roster.drain_epoch.get())
    }

    /// Waits for something to be told to this connection.
    ///
    /// Each beginning or end of a drain, each passed deadline and each call is
    /// told once.
    /// Only one task may wait on a ticket.
    pub(crate) fn poll_notice(&self, cx: &Context<'_>) -> Poll<Notice> {
        let entry = self.entry();
        if entry.expired.take() {
            return Poll::Ready(Notice::Expired);
        }
        let epoch = self.roster.drain_epoch.get();
        if entry.drain_epoch.replace(epoch) != epoch {
            return Poll::Ready(Notice::Drain);
        }
        if entry.called.take() {
            drop(entry);
            self.roster.called.set(self.roster.called.get() - 1);
            // If it does not follow the call, the berth is for another one.
            self.roster.wake_watchers();
            return Poll::Ready(Notice::Called);
        }
        let known = entry.waker.take();
        let (waker, stale) = match known {
            Some(known) if known.will_wake(cx.waker()) => (known, None),
            stale => (cx.waker().clone(), stale),
        };
        entry.waker.set(Some(waker));
        // With the last waker of a task goes the task, and perhaps a ticket,
        // which wants to borrow the entries.
        drop(entry);
        drop(stale);
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Its waker may be the last of a task, which may hold a ticket.
        let roster = &self.roster;
        let entry = roster.entries.borrow_mut().remove(self.key);
        if entry.called.get() {
            roster.called.set(roster.called.get() - 1);
        }
        if entry.activity.get().is_final() {
            roster.settled.set(roster.settled.get() - 1);
        }
        drop(entry);
        roster.wake_watchers();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;

    fn notice(ticket: &Ticket) -> Poll<Notice> {
        ticket.poll_notice(&Context::from_waker(Waker::noop()))
    }

    /// Whether somebody was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_connection_counts_from_admission_to_the_drop_of_its_ticket() {
        let roster = Rc::new(Roster::default());
        let ticket = roster.admit(Peer::Unix, "");
        assert_eq!(roster.census(), Census { idle: 1, busy: 0 });
        ticket.set_activity(Activity::Busy, Instant::now());
        assert_eq!(roster.census(), Census { idle: 0, busy: 1 });
        drop(ticket);
        assert_eq!(roster.len(), 0);
    }

    #[test]
    fn each_turn_of_a_drain_is_told_once_and_only_to_those_who_were_there() {
        let roster = Rc::new(Roster::default());
        let before = roster.admit(Peer::Unix, "");
        assert_eq!(notice(&before), Poll::Pending);
        roster.start_drain();
        roster.start_drain();
        let after = roster.admit(Peer::Unix, "");
        assert_eq!(notice(&before), Poll::Ready(Notice::Drain));
        assert_eq!(notice(&before), Poll::Pending);
        assert_eq!(notice(&after), Poll::Pending);
        assert!(after.draining());
        roster.end_drain();
        assert_eq!(notice(&before), Poll::Ready(Notice::Drain));
        assert!(!before.draining());
    }

    #[test]
    fn a_passed_deadline_is_told_once_and_a_later_one_replaces_it() {
        let roster = Rc::new(Roster::default());
        let ticket = roster.admit(Peer::Unix, "");
        let start = Instant::now();
        ticket.set_deadline(Some(start));
        roster.expire(start);
        assert_eq!(notice(&ticket), Poll::Ready(Notice::Expired));
        assert_eq!(notice(&ticket), Poll::Pending);
        ticket.set_deadline(Some(start));
        roster.expire(start);
        ticket.set_deadline(Some(start + Duration::from_secs(1)));
        assert_eq!(notice(&ticket), Poll::Pending);
    }

    #[test]
    fn the_sweep_wakes_for_the_earliest_deadline_and_sleeps_without_one() {
        let roster = Rc::new(Roster::default());
        let ticket = roster.admit(Peer::Unix, "");
        let start = Instant::now();
        assert_eq!(roster.next_sweep.get(), None);
        ticket.set_deadline(Some(start + Duration::from_secs(60)));
        ticket.set_deadline(Some(start + Duration::from_secs(10)));
        ticket.set_deadline(Some(start + Duration::from_secs(30)));
        assert_eq!(
            roster.next_sweep.get(),
            Some(start + Duration::from_secs(10))
        );
        roster.expire(start + Duration::from_secs(10));
        assert_eq!(
            roster.next_sweep.get(),
            Some(start + Duration::from_secs(30))
        );
        ticket.set_deadline(None);
        roster.expire(start + Duration::from_secs(30));
        assert_eq!(roster.next_sweep.get(), None);
    }

    #[test]
    fn whoever_waits_longest_is_called_first_and_nobody_who_is_busy() {
        let roster = Rc::new(Roster::default());
        let start = Instant::now();
        let tickets: Vec<Ticket> = [20, 30, 10, 40]
            .map(|age| {
                let ticket = roster.admit(Peer::Unix, "");
                ticket.set_activity(Activity::Idle, start - Duration::from_secs(age));
                ticket
            })
            .into();
        tickets[3].set_activity(Activity::Busy, start);
        let mut waiting = roster.waiting();
        assert_eq!(waiting.pop(), Some(tickets[1].key));
        assert_eq!(waiting, [tickets[2].key, tickets[0].key]);
        assert!(!roster.call(tickets[3].key));
        assert!(roster.call(tickets[0].key));
        assert!(!roster.call(tickets[0].key), "it has been called already");
        assert!(roster.is_calling());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        roster.watch_departures(&Context::from_waker(&waker));
        assert_eq!(notice(&tickets[0]), Poll::Ready(Notice::Called));
        assert!(woken.0.load(Ordering::Relaxed), "nobody hears of it");
        assert_eq!(notice(&tickets[0]), Poll::Pending);
        assert!(!roster.is_calling());
    }

    #[test]
    fn a_call_ends_when_its_connection_does_something_else() {
        let roster = Rc::new(Roster::default());
        let ticket = roster.admit(Peer::Unix, "");
        for activity in [Activity::Busy, Activity::Upgraded] {
            ticket.set_activity(Activity::Idle, Instant::now());
            assert!(roster.call(ticket.key));
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            roster.watch_departures(&Context::from_waker(&waker));
            ticket.set_activity(Activity::Head, Instant::now());
            assert!(roster.is_calling());
            ticket.set_activity(activity, Instant::now());
            assert!(!roster.is_calling());
            assert!(woken.0.load(Ordering::Relaxed), "nobody hears of it");
            assert_eq!(notice(&ticket), Poll::Pending);
        }
    }

    #[test]
    fn a_berth_is_for_one_connection_and_a_call_ends_with_its_connection() {
        let roster = Rc::new(Roster::default());
        let (one, other) = (roster.admit(Peer::Unix, ""), roster.admit(Peer::Unix, ""));
        assert!(!one.board());
        roster.set_berths(1);
        assert!(roster.call(other.key));
        assert_eq!(roster.uncalled_berths(), 0);
        assert!(one.board());
        assert!(!other.board());
        assert!(roster.is_calling());
        drop(other);
        assert!(!roster.is_calling());
        assert_eq!(roster.restless(), 1);
        one.set_activity(Activity::Closing, Instant::now());
        assert_eq!(roster.restless(), 0);
        drop(one);
        assert_eq!(roster.restless(), 0);
        assert_eq!(roster.admitted(), 2);
    }

    #[test]
    fn places_that_are_kept_are_not_given_away() {
        let roster = Rc::new(Roster::default());
        let _ticket = roster.admit(Peer::Unix, "");
        assert_eq!(roster.places(3), 2);
        roster.reserve(2);
        assert_eq!(roster.places(3), 0);
        roster.reserve(usize::MAX);
        assert_eq!(roster.places(3), 0);
        roster.reserve(0);
        assert_eq!(roster.places(3), 2);
    }

    #[test]
    fn a_straggler_names_its_peer_its_request_and_its_age() {
        let roster = Rc::new(Roster::default());
        let ticket = roster.admit(Peer::Tcp(([127, 0, 0, 1], 4711).into()), "");
        ticket.set_request(Some((Method::Get, "/slow?ms=9".into())));
        ticket.set_activity(Activity::Busy, Instant::now() - Duration::from_secs(3));
        let report = roster.stragglers()[0].to_string();
        assert!(report.starts_with("127.0.0.1:4711 busy for 3."), "{report}");
        assert!(report.ends_with("with GET /slow?ms=9"), "{report}");
    }
}
