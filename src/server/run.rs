//! The loop: next event, step, perform.
//!
//! This is the only file that performs effects, and `Running::poll_event`
//! the only place where events come from. Between two events nothing of the
//! lifecycle changes; effects never wait, so everything that one step does
//! happens in one tick of the executor.

mod following;
mod supervision;

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::Timer;
use async_signal::{Signal, Signals};
use event_listener::EventListener;
use smol::future::{self, FutureExt as _};
use smol::stream::Stream;
use smol::{LocalExecutor, Task};

use self::following::First;
use super::Options;
use super::accept::{Attend, Burst, Reserve, accept, accept_some};
use super::adoption::Adoption;
use super::handover::{Handover, Outbox, Progress};
use crate::control::{Beginnings, Control, Facts, apply, path_of};
use crate::error::{Error, Result, legible};
use crate::generation::Generation;
use crate::handoff::predecessor::{Loss, Preparing, Report, Successor};
use crate::handoff::successor::{Delivery, Inheritance, Predecessor, Request, free_descriptors};
use crate::invocation::Invocation;
use crate::ledger::Ledger;
use crate::lifecycle::{Effect, Event, Phase, State, step};
use crate::listener::{Address, BACKLOG, Listener, ListenerSet};
use crate::pid_file::PidFile;
use crate::reactor::Reactor;
use crate::roster::Roster;
use crate::status::Status;
use crate::stub::Word;
use crate::supervisor::Supervisor;
use crate::transition::{HandoverSummary, Transition};

/// How long a successor may take to publish its process ID, which it does at
/// once unless it hangs.
const PUBLICATION: Duration = Duration::from_secs(5);

/// How long a successor that is told to stop may take to say that it does; or, if
/// it has closed the channel or cannot be understood, to exit.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long one may take to exit that was told to do so at once.
const DEPARTURE: Duration = Duration::from_millis(500);

/// How much longer than it has said itself a predecessor may take to come to
/// an end: it may have waited for an acknowledgement, and for a publication.
const PREDECESSOR: Duration = Duration::from_secs(10);

/// How late a clock has to ring for us to believe that we have stood still.
const INDULGENCE: Duration = Duration::from_secs(1);

/// What becomes of connections, whatever state the process is in.
pub(super) struct Traffic {
    pub(super) attend: Attend,
    pub(super) reactor: Arc<Reactor>,
    /// Where they go that leave.
    pub(super) outbox: Rc<Outbox>,
}

/// Starts up, serves, and returns when the process is to exit.
pub(super) async fn run(
    executor: Rc<LocalExecutor<'static>>,
    generation: Generation,
    addresses: Result<Vec<Address>>,
    mut options: Options,
    status: Status,
    traffic: Traffic,
) -> Result<()> {
    let Traffic {
        attend,
        reactor,
        outbox,
    } = traffic;
    let Generation {
        number,
        predecessor,
        invocation,
        reloads,
        begun,
        terminal,
        line,
        seat,
    } = generation;
    let mut startup = Startup {
        number,
        predecessor,
        listeners: ListenerSet::default(),
        control: None,
        pid_file: None,
        adoption: Adoption::default(),
        proven_within: None,
        is_takeover: false,
    };
    let mut stops = Stops::catch()?;
    // A stop wins over a start-up that is under way.
    let stopped = async {
        future::poll_fn(|cx| stops.poll(cx)).await;
        None
    };
    let started = stopped
        .or(async { Some(startup.prepare(addresses, &mut options, &status).await) })
        .await;
    match started {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            startup.give_up(&error.to_string());
            return Err(error);
        }
        None => {
            startup.give_up("it was stopped by a signal");
            return Ok(());
        }
    }
    let state = match startup.predecessor {
        Some(_) => State::Proving,
        None => State::Serving,
    };
    let number = startup.number;
    // Whoever has started us knows nothing of the predecessor, which is not the
    // main process of the same service.
    let elder = startup.predecessor.as_ref().map(Predecessor::pid);
    let elder = elder.filter(|_| !startup.is_takeover);
    let is_first = startup.predecessor.is_none() || startup.is_takeover;
    let roster = Rc::default();
    let first = First::new(number, is_first, terminal, line, seat);
    let control = Control::new(Beginnings {
        executor: Rc::clone(&executor),
        listener: startup.control,
        state,
        generation: number,
        begun,
        listeners: startup.listeners.bound(),
        roster: Rc::clone(&roster),
        takeover: options.takeover,
        ends_all: first.ends_all(),
    });
    let running = Running {
        executor,
        state,
        number,
        supervisor: Supervisor::find(elder),
        invocation,
        reloads,
        stops,
        predecessor: startup.predecessor,
        successor: None,
        keeps: Vec::new(),
        is_left: false,
        room: 0,
        handover: None,
        burials: Vec::new(),
        delivery: None,
        adoption: startup.adoption,
        listeners: startup.listeners,
        accepting: Vec::new(),
        reserve: Rc::new(Reserve::of(free_descriptors())),
        roster,
        attend,
        reactor,
        outbox,
        control,
        pid_file: startup.pid_file,
        status,
        clocks: Clocks::default(),
        proven_within: startup.proven_within,
        drain_begun: None,
        drain_watched: false,
        released: None,
        loss: None,
        failure: None,
        stop_count: StopCount::default(),
        first,
        is_stop_owed: false,
        is_alone: false,
        pending: VecDeque::new(),
        options,
    };
    running.serve().await;
    Ok(())
}

/// A process that does not serve yet.
struct Startup {
    number: u64,
    predecessor: Option<Predecessor>,
    listeners: ListenerSet,
    control: Option<Rc<Listener>>,
    pid_file: Option<PidFile>,
    adoption: Adoption,
    /// Unless the predecessor hangs, or has no deadline.
    proven_within: Option<Duration>,
    /// Whether the predecessor has not started us.
    is_takeover: bool,
}

impl Startup {
    /// Gets everything that is needed for serving; returns when this process
    /// is to accept.
    async fn prepare(
        &mut self,
        addresses: Result<Vec<Address>>,
        options: &mut Options,
        status: &Status,
    ) -> Result<()> {
        let addresses = addresses?;
        let is_successor = self.predecessor.is_some();
        options.preparation.find_before(is_successor).await;
        if let Some(path) = &options.control_socket
            && options.takeover
            && !is_successor
        {
            let (_, path) = Address::of_path(path)?;
            if let Some(channel) = apply(&path).await? {
                let predecessor = Predecessor::granted(channel)?;
                self.number = predecessor.generation().saturating_add(1);
                status.set_generation(self.number);
                let number = self.number;
                log::info!(
                    "taking over the service at `{}` as generation {number}",
                    path.display()
                );
                self.predecessor = Some(predecessor);
                self.is_takeover = true;
            }
        }
        let mut inheritance = Inheritance::default();
        if let Some(predecessor) = &mut self.predecessor {
            match predecessor.claim(self.number).await? {
                Some(claimed) => inheritance = claimed,
                None => log::warn!(
                    "predecessor {} died before it handed over its listeners",
                    predecessor.pid()
                ),
            }
        }
        let (control, listeners): (Vec<_>, Vec<_>) = inheritance
            .listeners
            .into_iter()
            .partition(|(record, _)| record.control);
        self.listeners = ListenerSet::open(&addresses, listeners).await?;
        if let Some(path) = &options.control_socket {
            let (address, path) = Address::of_path(path)?;
            let claimed = control.into_iter().next();
            self.control = Some(self.listeners.open_control(&address, &path, claimed)?);
        }
        if let Some((stream, bytes)) = inheritance.state
            && let Some(predecessor) = &mut self.predecessor
        {
            options.state.accept(stream, bytes, predecessor).await?;
        }
        if let Some(ready) = options.ready.take() {
            ready.await.map_err(Error::not_ready)?;
        }
        if let Some(path) = &options.pid_file {
            self.pid_file = Some(PidFile::prepare(path)?);
        }
        self.adoption = Adoption::prepare(options.limits.max_connections);
        match &mut self.predecessor {
            Some(predecessor) => {
                let keeps = self.listeners.adopted().to_vec();
                let room = self.adoption.capacity();
                let control = self.control.as_deref().and_then(path_of);
                let serve = predecessor.await_serve(keeps, room, control).await?;
                self.proven_within = serve.proven_within;
                self.adoption
                    .expect(serve.connections, serve.ledger)
                    .map_err(|cause| Error::handoff("taking over the ledger", cause))
            }
            None => match &mut self.pid_file {
                Some(pid_file) => pid_file.publish(),
                None => Ok(()),
            },
        }
    }

    fn give_up(&mut self, reason: &str) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.send_failed(reason);
        }
        self.listeners.abandon();
    }
}

/// A process that serves, or drains.
struct Running {
    executor: Rc<LocalExecutor<'static>>,
    state: State,
    /// The generation.
    number: u64,
    supervisor: Supervisor,
    invocation: Invocation,
    reloads: Signals,
    stops: Stops,
    predecessor: Option<Predecessor>,
    successor: Option<Successor>,
    /// Where those of our listeners are bound that the successor keeps.
    keeps: Vec<String>,
    /// Whether it stops on purpose, and may have looked at them for the last
    /// time.
    is_left: bool,
    /// How many connections the successor has said it can take.
    room: usize,
    /// Connections on their way to the successor.
    handover: Option<Handover>,
    /// Dismissed successors that have yet to be reaped, and what they had of
    /// ours to be taken back.
    burials: Vec<Task<()>>,
    /// The application's state on its way to the successor.
    delivery: Option<Task<()>>,
    /// Connections on their way from the predecessor.
    adoption: Adoption,
    listeners: ListenerSet,
    /// One task for each listener that is being accepted on.
    accepting: Vec<Task<()>>,
    /// Descriptors that are not for them.
    reserve: Rc<Reserve>,
    roster: Rc<Roster>,
    attend: Attend,
    reactor: Arc<Reactor>,
    outbox: Rc<Outbox>,
    control: Control,
    pid_file: Option<PidFile>,
    status: Status,
    clocks: Clocks,
    /// Within what time the predecessor lets us hear of it, as long as we are
    /// not proven.
    proven_within: Option<Duration>,
    drain_begun: Option<Instant>,
    /// Whether the end of the drain is an event.
    drain_watched: bool,
    /// Tells that a guard of the application has been dropped.
    released: Option<EventListener>,
    /// How the successor was lost, from the event to its effect.
    loss: Option<Loss>,
    /// Why a restart failed, from the effect to the transition.
    failure: Option<String>,
    stop_count: StopCount,
    /// What this process has to do with the first one, or as that.
    first: First,
    /// Whether we were told to stop while somebody else was taking over.
    is_stop_owed: bool,
    /// Whether we have parted with a successor that was told to stop with us and has
    /// not said that it does. It may have published itself: what it has left behind
    /// is ours again once it is gone.
    is_alone: bool,
    /// Events that came of effects.
    pending: VecDeque<Event>,
    options: Options,
}

impl Running {
    async fn serve(mut self) {
        let roster = Rc::clone(&self.roster);
        let sweep = self.executor.spawn(async move { roster.sweep().await });
        let reactor = Arc::clone(&self.reactor);
        let drive = self.executor.spawn(async move { reactor.drive().await });
        if self.predecessor.as_ref().is_some_and(Predecessor::is_gone) {
            self.adoption.retire_notes();
            self.inherit_supervisor();
            self.pending.extend([Event::Passed, Event::Proven]);
        } else {
            self.wait_for_predecessor();
        }
        self.roster.reserve(self.adoption.expected());
        self.start_accepting();
        self.control.open();
        log::info!(
            "generation {} (pid {}) serves on {}",
            self.number,
            std::process::id(),
            self.listeners
        );
        self.supervisor.ready(self.serving());
        self.tell(None, None);
        let mut last = None;
        while self.state != State::Exited {
            let event = future::poll_fn(|cx| self.poll_event(cx)).await;
            self.take_step(event);
            last = Some(event);
        }
        // The deadline of a drain is none for this, but a second stop is.
        if last == Some(Event::Overdue) {
            future::poll_fn(|cx| self.supervisor.poll_known(cx)).await;
        }
        drop((sweep, drive));
        // Each of them has its deadline.
        for burial in std::mem::take(&mut self.burials) {
            burial.await;
        }
        if std::mem::take(&mut self.is_alone) {
            self.republish();
        }
        // Whoever hears that we have stopped is to find nothing of us.
        self.pid_file = None;
        self.control.farewell().await;
        self.leave();
    }

    fn take_step(&mut self, event: Event) {
        let before = self.state;
        let Some((after, effects)) = step(before, event) else {
            log::error!("{event:?} cannot happen in {before:?}; it is ignored");
            return;
        };
        log::debug!("{before:?}, {event:?}: {after:?}, {effects:?}");
        match event {
            Event::Stop | Event::Retire if after == State::Exited => log::info!("stopping at once"),
            Event::Retire if after == State::Retiring => log::info!(
                "stopping in {:?}; unready from now on",
                self.options.shutdown_delay
            ),
            Event::Stop | Event::Retire => {
                log::info!("stopping; {} to finish", self.roster.census());
            }
            Event::Reload if effects.is_empty() && before != after => {
                log::info!("another restart follows this one");
            }
            Event::Reload
            | Event::Claimed
            | Event::Ready
            | Event::Lost
            | Event::Overdue
            | Event::Drained
            | Event::Passed
            | Event::Published
            | Event::Proven
            | Event::Leaving => {}
        }
        for effect in effects {
            self.perform(*effect, event);
        }
        self.state = after;
        if self.is_stop_owed && !self.is_taken_over() {
            self.is_stop_owed = false;
            self.pending.push_back(Event::Stop);
        }
        self.announce_return(before);
        self.control.follow(event, after, self.facts());
        if before.phase() != after.phase() || self.failure.is_some() {
            self.tell(Some(before.phase()), None);
        }
    }

    /// Where all events come from. What ends the process comes first, so that
    /// a flood of anything else cannot keep it from being heard.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        while let Poll::Ready(()) = self.stops.poll(cx) {
            self.first.say(Word::Stop);
            if self.stop_count.by_signal()
                && let Some(event) = self.stop()
            {
                return Poll::Ready(event);
            }
        }
        if let Some(event) = self.pending.pop_front() {
            return Poll::Ready(event);
        }
        if let Some(event) = self.hear_first(cx) {
            return Poll::Ready(event);
        }
        if let Some(event) = self.hear_successor(cx) {
            return Poll::Ready(event);
        }
        if let Some(event) = self.hear_predecessor(cx) {
            return Poll::Ready(event);
        }
        if self.adoption.poll_overdue(cx).is_ready() {
            self.roster.reserve(0);
        }
        if let Some(event) = self.poll_handover(cx) {
            return Poll::Ready(event);
        }
        self.supervisor.poll(cx);
        // A successor that has something of ours and does not say so may hang,
        // and one that could not be told to serve does not: nobody is proven
        // meanwhile.
        let is_waiting = (self.handover.as_ref()).is_some_and(Handover::is_unacknowledged)
            || (self.successor.as_ref()).is_some_and(Successor::has_unsent);
        if let Poll::Ready(event) = self.clocks.poll(!is_waiting, cx) {
            if event == Event::Lost {
                self.loss = Some(Loss::Unstopped);
            }
            return Poll::Ready(event);
        }
        let burials = self.burials.len();
        self.burials
            .retain_mut(|burial| burial.poll(cx).is_pending());
        // Only now is it certain that a lost successor publishes itself no
        // more.
        if self.burials.len() < burials
            && (self.state.phase() != Phase::Draining || std::mem::take(&mut self.is_alone))
        {
            self.republish();
        }
        // What was handed over and comes back is still ours.
        if self.drain_watched && self.burials.is_empty() && !self.has_unheard() {
            let drained = std::pin::pin!(self.roster.empty());
            let released = self.status.poll_released(&mut self.released, cx);
            if Future::poll(drained, cx).is_ready() && released.is_ready() {
                match &self.predecessor {
                    // It may yet hand connections over to us. If the service
                    // stops, it is to keep them; otherwise we pass them on.
                    Some(predecessor) if predecessor.hands_over() => {
                        if matches!(self.state, State::Stopping | State::StoppingTogether) {
                            predecessor.hear_the_last();
                            cx.waker().wake_by_ref();
                        }
                    }
                    _ => {
                        // One that somebody else has started is not the
                        // supervisor's business.
                        let has_successor = self.successor.is_some() && !self.is_taken_over();
                        if self.supervisor.poll_alone(has_successor, cx).is_ready() {
                            return Poll::Ready(Event::Drained);
                        }
                    }
                }
            }
        }
        let facts = self.facts();
        while let Poll::Ready(event) = self.control.poll_event(facts, cx) {
            if event != Event::Stop {
                return Poll::Ready(event);
            }
            if self.stop_count.once()
                && let Some(event) = self.stop()
            {
                return Poll::Ready(event);
            }
        }
        self.poll_hangups(cx)
    }

    /// What a stop is in this service.
    fn stop(&mut self) -> Option<Event> {
        // Whoever has started another process to take over, and now stops this
        // one, does not mean that one. It is to be undone no more, unless it
        // dies before it can hear of that: then there is nobody but us to stop.
        if self.state.is_probation() && self.is_taken_over() {
            let is_first = !std::mem::replace(&mut self.is_stop_owed, true);
            let is_waiting = matches!(self.state, State::Probation | State::ProbationAgain);
            return (is_first && is_waiting).then_some(Event::Passed);
        }
        Some(match self.options.shutdown_delay.is_zero() {
            true => Event::Stop,
            false => Event::Retire,
        })
    }

    /// Whether the successor was told to stop and has not said that it does. It
    /// may hang, and whoever stops the service is to find nothing of it.
    fn has_unheard(&self) -> bool {
        let successor = self.successor.as_ref();
        self.state == State::StoppingTogether && successor.is_some_and(|it| !it.is_proven())
    }

    /// Whether the successor is a process that somebody else has started.
    fn is_taken_over(&self) -> bool {
        self.successor.as_ref().is_some_and(Successor::is_foreign)
    }

    fn hear_successor(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        let successor = self.successor.as_mut()?;
        let Poll::Ready(report) = successor.poll_report(self.listeners.len(), cx) else {
            // One that has hung up is lost, only the reason is still being
            // waited for. Its probation must not end well meanwhile.
            if successor.has_hung_up() {
                self.clocks.probation = None;
            }
            return None;
        };
        match report {
            // What came before has deadlines of its own.
            Report::Begins => self.clocks.readiness = after(self.options.ready_timeout),
            Report::Claimed => return Some(Event::Claimed),
            Report::Ready {
                keeps,
                room,
                control,
            } => {
                self.control.successor_is_ready(&keeps, control);
                self.keeps = keeps;
                self.room = room;
                return Some(Event::Ready);
            }
            Report::Adopted(receipt) => {
                let acknowledged = match &mut self.handover {
                    Some(handover) => handover.acknowledge(receipt),
                    None => Err(Loss::OutOfOrder("adopted")),
                };
                if let Err(loss) = acknowledged {
                    self.loss = Some(loss);
                    return Some(Event::Lost);
                }
                self.control.progress(self.facts());
            }
            Report::Published => return Some(Event::Published),
            // Whoever stops the process that serves means the service, so
            // there is nothing to be taken back. What comes to a listener after
            // it has looked for the last time is ours to serve, because the
            // queue is open until we close it too.
            Report::Stopping => {
                self.is_left = true;
                self.clocks.farewell = None;
                self.control.successor_stops();
                if let Some(handover) = &mut self.handover {
                    handover.close();
                }
                if self.state.is_probation() {
                    return Some(Event::Leaving);
                }
            }
            Report::Lost(loss) => {
                self.loss = Some(loss);
                return Some(Event::Lost);
            }
        }
        // There may be more to hear, but not before everybody else had a turn.
        cx.waker().wake_by_ref();
        None
    }

    /// What those who ask on the control socket are told.
    fn facts(&self) -> Facts {
        let handover = self.handover.as_ref().map(Handover::summary);
        Facts {
            successor: (self.successor.as_ref()).and_then(|it| it.serving_pid().or(it.pid())),
            handed_over: handover.map(|summary| summary.handed_over()),
            taken_over: self.adoption.adopted(),
        }
    }

    fn hear_predecessor(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        let mut has_heard = false;
        while let Some(Poll::Ready(request)) =
            (self.predecessor.as_mut()).map(|predecessor| predecessor.poll_request(cx))
        {
            has_heard = true;
            match request {
                Request::Adopt(delivery) => {
                    self.adopt(delivery);
                    // There may be more, but not before everybody else had a
                    // turn.
                    cx.waker().wake_by_ref();
                    return None;
                }
                Request::HandedOver => {
                    self.wait_for_predecessor();
                    self.expect_no_more();
                    let adopted = self.adoption.adopted();
                    if adopted > 0 {
                        log::info!("{adopted} connections were taken over from the predecessor");
                    }
                }
                Request::Reload => return Some(Event::Reload),
                Request::Stop => {
                    let passed_on = self.stop_count.passed_on();
                    let is_new = self.stop_count.by_predecessor();
                    if self.stop_count.passed_on() > passed_on {
                        self.pass_stop_on();
                    }
                    if is_new && let Some(event) = self.stop() {
                        return Some(event);
                    }
                }
                Request::Publish => {
                    self.wait_for_predecessor();
                    // If it is not there any more, it comes to this anyway, or
                    // we are dismissed.
                    if self.state.is_unproven() && !self.has_predecessor_hung_up() {
                        return Some(Event::Passed);
                    }
                }
                Request::Proven => {
                    self.is_proven();
                    if self.state.is_unproven() {
                        return Some(Event::Proven);
                    }
                }
                // It serves again, so nobody loses anything by our going at
                // once.
                Request::Dismissed => {
                    if self.state.phase() != Phase::Draining {
                        // What came from it is its own again: the queues, and
                        // the files; and it is the published one.
                        self.pid_file = None;
                        self.keeps = self.listeners.adopted().to_vec();
                        self.control.give_back(&self.keeps);
                        return Some(Event::Stop);
                    }
                }
                // One that exits after we were proven says nothing new.
                Request::Gone => {
                    let gone = self.predecessor.take();
                    if gone.is_some_and(|gone| self.first.stays(gone.pid())) {
                        self.supervisor.forget_elder();
                    }
                    self.expect_no_more();
                    self.is_proven();
                    if self.state.is_unproven() {
                        self.pending.push_back(Event::Proven);
                        return Some(Event::Passed);
                    }
                    // One that stops was not asked to publish itself, and the
                    // file of its predecessor has gone with that.
                    if let Some(Err(error)) = self.pid_file.as_mut().map(PidFile::publish_late) {
                        log::error!("{error}");
                    }
                }
            }
        }
        if has_heard {
            // It may be of consequence for those that were looked at before it.
            cx.waker().wake_by_ref();
        }
        None
    }

    /// The predecessor takes nothing back any more.
    fn is_proven(&mut self) {
        self.first.published();
        self.clocks.predecessor = None;
        self.adoption.retire_notes();
        self.inherit_supervisor();
    }

    fn has_predecessor_hung_up(&self) -> bool {
        let predecessor = self.predecessor.as_ref();
        predecessor.is_none_or(Predecessor::has_hung_up)
    }

    /// Sets, or sets back, the clock for the predecessor to say something.
    fn wait_for_predecessor(&mut self) {
        if self.state.is_unproven() {
            let within = self.proven_within.map(|it| it.saturating_add(PREDECESSOR));
            self.clocks.predecessor = within.and_then(after);
        }
    }

    fn adopt(&mut self, delivery: Delivery) {
        self.wait_for_predecessor();
        let batch = delivery.batch;
        let (taken, room) = self.adoption.adopt(delivery, &self.roster, &self.attend);
        if let Some(predecessor) = &self.predecessor {
            predecessor.send_adopted(batch, taken, room);
        }
    }

    /// Gives the places away that were kept for the predecessor's connections.
    fn expect_no_more(&mut self) {
        self.adoption.expect_no_more();
        self.roster.reserve(0);
    }

    /// Whether the predecessor may yet hand connections over to us.
    fn predecessor_hands_over(&self) -> bool {
        self.predecessor
            .as_ref()
            .is_some_and(Predecessor::hands_over)
    }

    fn poll_handover(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        // Until the probation is over, our listeners may hold connections that
        // we are the only one to accept.
        let more_may_come = self.predecessor_hands_over() || self.state.is_probation();
        let (handover, successor) = (self.handover.as_mut()?, self.successor.as_ref()?);
        match handover.poll(successor, more_may_come, cx) {
            Poll::Ready(Progress::Settled(summary)) => {
                log::info!("{successor} has what could move: {summary}");
                self.supervisor
                    .status(format_args!("{summary}; {successor} serves on probation"));
                self.tell(Some(self.state.phase()), Some(summary));
                // It goes on, for those that are still busy.
                cx.waker().wake_by_ref();
                None
            }
            Poll::Ready(Progress::Lost(loss)) => {
                self.loss = Some(loss);
                Some(Event::Lost)
            }
            Poll::Pending => None,
        }
    }

    fn perform(&mut self, effect: Effect, event: Event) {
        log::trace!("{}performing {effect:?}", self.peer());
        self.announce(effect);
        self.perform_quietly(effect, event);
        log::trace!("{}performed {effect:?}", self.peer());
    }

    /// Whom a restart is a matter of, in front of a record.
    fn peer(&self) -> String {
        match (&self.successor, &self.predecessor) {
            _ if !log::log_enabled!(log::Level::Trace) => String::new(),
            (Some(successor), _) => format!("{successor}: "),
            (None, Some(predecessor)) => format!("predecessor {}: ", predecessor.pid()),
            (None, None) => String::new(),
        }
    }

    fn perform_quietly(&mut self, effect: Effect, event: Event) {
        match effect {
            Effect::Spawn => self.spawn(),
            Effect::SendListeners => self.send_listeners(),
            Effect::StopAccepting => {
                self.clocks.retirement = None;
                self.accepting.clear();
            }
            Effect::SendServe => self.send_serve(),
            Effect::StartHandover => {
                self.drain_begun.get_or_insert_with(Instant::now);
                if self.handover.is_none() {
                    self.roster.start_drain();
                    if let Some(successor) = &self.successor {
                        successor.send_handed_over();
                    }
                }
            }
            Effect::StartDrain => {
                self.drain_begun.get_or_insert_with(Instant::now);
                match &mut self.handover {
                    Some(handover) => handover.close(),
                    None => self.roster.start_drain(),
                }
            }
            Effect::StartProbation => {
                self.clocks.readiness = None;
                self.clocks.probation = after(self.options.probation);
            }
            Effect::Resume => {
                self.drain_begun = None;
                self.roster.end_drain();
                self.start_accepting();
            }
            Effect::SendPublish => {
                self.clocks.probation = None;
                self.clocks.publication = after(PUBLICATION);
                self.say(Successor::send_publish);
            }
            Effect::SendProven => {
                if self.say(Successor::send_proven) && event == Event::Published {
                    self.pending.push_back(Event::Proven);
                }
            }
            Effect::Relinquish => {
                self.clocks.probation = None;
                self.clocks.publication = None;
                self.clocks.farewell = None;
                if let Some(successor) = &self.successor
                    && event == Event::Proven
                {
                    log::info!("{successor} has passed its probation");
                }
                if let Some(handover) = &mut self.handover {
                    self.executor.spawn(handover.prove()).detach();
                }
            }
            Effect::SendReload => match &self.successor {
                Some(successor) => match successor.send_reload() {
                    Ok(()) => log::info!("the reload is passed on to {successor}"),
                    Err(error) => {
                        log::error!("the reload could not be passed on to {successor}: {error}");
                    }
                },
                None => log::error!("the reload comes too late: the successor is gone"),
            },
            Effect::SendStop => {
                self.clocks.probation = None;
                self.clocks.publication = None;
                if let Some(successor) = &self.successor {
                    if !successor.is_proven() {
                        self.clocks.farewell = after(FAREWELL);
                    }
                    // It has not been told to serve, so it is for us to accept
                    // what still waits.
                    if successor.has_unsent_serve() {
                        self.keeps.clear();
                    }
                    if let Err(error) = successor.send_stop() {
                        log::error!("the stop could not be passed on to {successor}: {error}");
                    }
                }
            }
            Effect::SendStopping => {
                self.clocks.predecessor = None;
                if let Some(predecessor) = &mut self.predecessor {
                    predecessor.send_stopping();
                }
            }
            Effect::Publish => self.publish(),
            Effect::Republish => self.republish(),
            Effect::CloseListeners => self.close_listeners(),
            Effect::StartDeadline => {
                let timeout = self.options.drain_timeout;
                let begun = self.drain_begun.unwrap_or_else(Instant::now);
                let grace = self.options.limits.drain_grace;
                self.clocks.drain = end_of_drain(begun, timeout, grace);
            }
            Effect::StartRetirement => {
                self.status.retire();
                self.clocks.retirement = after(self.options.shutdown_delay);
            }
            Effect::AwaitDrained => self.drain_watched = true,
            Effect::Kill | Effect::Bury => self.dismiss(event),
            Effect::Fence => self.fence(),
            Effect::Release if self.has_unheard() => match self.loss {
                // It is gone, or was well enough to say that it could not publish
                // itself, and hears of the stop next.
                Some(Loss::Exited(_) | Loss::Unpublished) => self.release(),
                Some(Loss::Unstopped | Loss::Unresponsive(..)) => self.outwait(Duration::ZERO),
                _ => self.outwait(FAREWELL),
            },
            Effect::Release => self.release(),
            Effect::Report => self.report(),
            Effect::Exit => {
                if self.has_unheard() {
                    self.outwait(DEPARTURE);
                }
                let summary = self.handover.as_ref().map(Handover::summary);
                log::info!(
                    "generation {} exits {:.1?} after it stopped accepting{}",
                    self.number,
                    self.drain_begun
                        .map_or(Duration::ZERO, |begun| begun.elapsed()),
                    match summary {
                        Some(summary) => format!(
                            "; {} connections were handed over, {} ended here",
                            summary.handed_over(),
                            summary.closed()
                        ),
                        None => String::new(),
                    }
                );
            }
        }
    }

    fn send_listeners(&mut self) {
        let Some(successor) = &self.successor else {
            return;
        };
        log::info!("{successor} has claimed the listeners");
        let sent = match self.options.state.offer() {
            Ok(Some(state)) => {
                let stream = Some((state.stream.as_fd(), state.bytes));
                let sent = successor.send_listeners(&self.listeners, stream);
                self.delivery = Some(self.executor.spawn(state.deliver()));
                sent
            }
            Ok(None) => successor.send_listeners(&self.listeners, None),
            Err(reason) => {
                self.loss = Some(Loss::NoState(reason));
                self.pending.push_back(Event::Lost);
                return;
            }
        };
        self.lost_if_failed(Some(sent));
    }

    fn send_serve(&mut self) {
        let Some(successor) = &self.successor else {
            return;
        };
        let hand_over = self.options.hand_over && self.room > 0;
        let ledger = match hand_over && !self.options.probation.is_zero() {
            true => Ledger::create().map(Some),
            false => Ok(None),
        };
        let (hand_over, ledger) = match ledger {
            Ok(ledger) => (hand_over, ledger),
            Err(error) => {
                log::warn!("connections are not handed over, for want of a ledger: {error}");
                (false, None)
            }
        };
        log::info!(
            "{successor} takes over {:.1?} after its start; {} {}",
            successor.age(),
            if hand_over {
                "handing over"
            } else {
                "draining"
            },
            self.roster.census()
        );
        let coming = if hand_over { self.roster.len() } else { 0 };
        // By then it is either proven or undone, or we have come to our end.
        let options = &self.options;
        let proven_within = options.probation.checked_add(options.drain_timeout);
        let sent = successor.send_serve(ledger.as_ref(), coming, proven_within);
        if hand_over {
            self.handover = Some(Handover::begin(
                Rc::clone(&self.roster),
                Rc::clone(&self.outbox),
                Rc::clone(&self.attend),
                ledger,
                self.room,
            ));
        }
        self.lost_if_failed(Some(sent));
    }

    fn spawn(&mut self) {
        self.control.restart_begins();
        if let Some(heir) = self.control.take_heir() {
            log::info!("{heir}, which somebody else has started, asks to take over");
            self.successor = Some(heir);
            self.clocks.readiness = after(self.options.ready_timeout);
            return;
        }
        log::info!(
            "restarting: starting `{}`",
            self.invocation.executable().display()
        );
        let burials = std::mem::take(&mut self.burials);
        let preparing = match self.first.follow(self.options.pid_one_stub) {
            Ok(()) => self.options.preparation.begin(&self.invocation),
            Err(reason) => Preparing::in_vain(reason),
        };
        self.successor = Some(Successor::start(
            &self.invocation,
            self.number,
            self.first.bequest(),
            burials,
            preparing,
        ));
    }

    fn start_accepting(&mut self) {
        self.accepting = self
            .listeners
            .iter()
            .map(|listener| {
                self.executor.spawn(accept(
                    Rc::clone(listener),
                    Rc::clone(&self.roster),
                    self.options.limits.max_connections,
                    Rc::clone(&self.reserve),
                    Rc::clone(&self.attend),
                ))
            })
            .collect();
    }

    fn close_listeners(&mut self) {
        // A process that stops alone can be asked how it is until its end.
        if self.successor.is_some() {
            self.control.part_with_socket();
        }
        for listener in self.listeners.take() {
            let is_kept = self.keeps.contains(&listener.bound().to_string());
            if is_kept && !self.is_left {
                continue;
            }
            // From here on nobody finds the way to it, unless the successor
            // goes on for a while; whoever is in the queue has found it, and is
            // served.
            if !is_kept {
                listener.unlink();
            }
            match accept_some(&listener, &self.roster, &self.attend, BACKLOG, |_| false) {
                Ok(Burst { accepted: 0, .. }) => {}
                Ok(Burst { accepted: last, .. }) => log::info!(
                    "{last} connections were still waiting on {}",
                    listener.bound()
                ),
                Err(error) => log::error!(
                    "connections that were still waiting on {} are lost: {error}",
                    listener.bound()
                ),
            }
        }
    }

    fn publish(&mut self) {
        let published = match &mut self.pid_file {
            Some(pid_file) => pid_file.publish(),
            None => Ok(()),
        };
        if published.is_ok() {
            // Before the predecessor hears of it, which may be gone after that.
            self.first.published();
        }
        match (published, &self.predecessor) {
            (Ok(()), Some(predecessor)) => predecessor.send_published(),
            (Ok(()), None) => {}
            // It serves again, and we until it says so.
            (Err(error), Some(predecessor)) => {
                log::error!("{error}");
                predecessor.send_failed(&error.to_string());
            }
            // There is nobody else who could serve.
            (Err(error), None) => log::error!("{error}"),
        }
    }

    /// Puts back what the lost successor has changed, or may have.
    fn republish(&mut self) {
        self.first.undone();
        if let Some(pid_file) = &mut self.pid_file
            && let Err(error) = pid_file.publish()
        {
            log::error!("{error}");
        }
    }

    fn fence(&mut self) {
        let Some(predecessor) = &self.predecessor else {
            return;
        };
        let pid = predecessor.pid();
        let hangs = "has not come to an end in time and seems to hang";
        if self.supervisor.watches_predecessor() {
            let whom = match self.supervisor.has_watchdog() {
                true => "the watchdog of the supervisor",
                false => "whoever reads this: the supervisor has no watchdog (WatchdogSec=)",
            };
            log::error!("predecessor {pid} {hangs}; it is left to {whom}");
        } else {
            log::error!(
                "predecessor {pid} {hangs}; it is killed, so that it cannot take back what it has \
                 handed over"
            );
            if let Err(error) = predecessor.fence() {
                log::error!("predecessor {pid} could not be killed: {error}");
            }
        }
        // That may take a while, or be in vain, as it is for a process 1.
        self.wait_for_predecessor();
    }

    /// Says something to a successor that serves; tells whether that was
    /// possible. If not, it may have left on purpose, which is still to be
    /// heard; that it is lost is heard as well.
    fn say(&mut self, what: impl FnOnce(&mut Successor) -> std::io::Result<()>) -> bool {
        let Some(successor) = &mut self.successor else {
            return false;
        };
        what(successor)
            .inspect_err(|error| log::debug!("{successor} could not be told: {error}"))
            .is_ok()
    }

    /// Sending can fail only when the successor is gone or beyond reach.
    fn lost_if_failed(&mut self, sent: Option<std::io::Result<()>>) {
        if let Some(Err(error)) = sent {
            self.loss = Some(Loss::Unreachable(error));
            self.pending.push_back(Event::Lost);
        }
    }

    /// Parts with a successor that has not taken over, or not for good.
    fn dismiss(&mut self, event: Event) {
        let loss = self.loss.take();
        let Some((mut successor, failure)) = self.part(loss.as_ref()) else {
            return;
        };
        let number = self.number;
        if matches!(event, Event::Stop | Event::Retire) {
            log::info!("stopping; {successor} is not ready and is taken along");
        } else {
            let line = match self.state.is_probation() {
                true => format!("restart undone: {failure}; generation {number} serves again"),
                false => format!("restart failed: {failure}; generation {number} serves on"),
            };
            log::error!("{line}");
            self.control.restart_fails(&line);
            self.failure = Some(failure);
        }
        let is_late = event == Event::Overdue && self.state.is_probation();
        if is_late || matches!(loss, Some(Loss::Unresponsive(..))) {
            successor.condemn();
        }
        let restoration = self.handover.take().map(Handover::take_back);
        let dismissed = successor.dismiss();
        self.burials.push(self.executor.spawn(async move {
            let is_gone = dismissed.await;
            if let Some(restoration) = restoration {
                restoration.restore(is_gone).await;
            }
        }));
    }

    /// Parts with a successor that was told to stop with us and has not said that
    /// it does; kills it if it does not exit in time.
    fn outwait(&mut self, patience: Duration) {
        let loss = self.loss.take().unwrap_or(Loss::Unstopped);
        let Some((successor, end)) = self.part(Some(&loss)) else {
            return;
        };
        match patience.is_zero() {
            true => log::warn!("{end}; it is killed"),
            false => log::warn!("{end}; it is killed if it does not exit in {patience:?}"),
        }
        self.control.restart_fails(&end);
        self.is_alone = true;
        let restoration = self.handover.take().map(Handover::take_back);
        self.burials.push(self.executor.spawn(async move {
            let is_gone = successor.outwait(patience).await;
            if let Some(restoration) = restoration {
                restoration.restore(is_gone).await;
            }
        }));
    }

    /// Parts with a successor that has taken over for good: whether it lives
    /// is no longer our business, even if it does not speak to us any more.
    fn release(&mut self) {
        let loss = self.loss.take();
        let Some((successor, end)) = self.part(loss.as_ref()) else {
            return;
        };
        match loss {
            Some(Loss::Exited(status)) if status.success() => log::info!("{end}"),
            _ => log::error!("{end}"),
        }
        let tell_end = self.first.end_of_successor();
        if let Some(Loss::Exited(status)) = loss {
            tell_end(status);
        }
        self.control.restart_fails(&end);
        // Whatever was handed over has gone with it; the rest comes to its end
        // here.
        if let Some(mut handover) = self.handover.take() {
            handover.close();
        }
        let released = async move {
            if let Some(status) = successor.release().await {
                tell_end(status);
            }
        };
        self.executor.spawn(released).detach();
    }

    /// Lets go of the successor; says in one line what became of it.
    fn part(&mut self, loss: Option<&Loss>) -> Option<(Successor, String)> {
        let successor = self.successor.take()?;
        // What was still to be heard of it was only that it is lost.
        self.pending.retain(|event| *event != Event::Lost);
        self.keeps.clear();
        self.is_left = false;
        self.room = 0;
        self.delivery = None;
        self.clocks.readiness = None;
        self.clocks.probation = None;
        self.clocks.publication = None;
        self.clocks.farewell = None;
        let reason = match loss {
            Some(loss) => loss.to_string(),
            None if self.state.is_probation() => format!("it has not done so in {PUBLICATION:?}"),
            None => format!("it was not ready after {:.1?}", successor.age()),
        };
        let mut end = format!("{successor}, {}: {reason}", successor.awaited_step());
        if let Some(words) = successor.last_words() {
            end.push_str("; it said: ");
            end.push_str(words);
        }
        // Some of the words are the successor's own.
        Some((successor, legible(&end)))
    }

    fn report(&self) {
        if let Some(predecessor) = &self.predecessor
            && predecessor.hands_over()
        {
            log::warn!(
                "predecessor {} has not said that it has no more connections to hand over",
                predecessor.pid()
            );
        }
        let stragglers = self.roster.stragglers();
        log::warn!(
            "the drain ends with {} connections in flight",
            stragglers.len()
        );
        for straggler in stragglers {
            log::warn!("cut off: {straggler}");
        }
        for (what, age) in self.status.holds() {
            log::warn!("cut off: {what} for {age:.1?}");
        }
    }

    /// Tells the application where we are now.
    fn tell(&mut self, from: Option<Phase>, handover: Option<HandoverSummary>) {
        let phase = self.state.phase();
        self.status.set_phase(phase);
        if handover.is_some() {
            self.control.handover_settles(self.facts());
        }
        let transition = Transition {
            from,
            phase,
            generation: self.number,
            listeners: self
                .listeners
                .iter()
                .map(|listener| listener.bound().to_string())
                .collect(),
            successor: self.successor.as_ref().and_then(Successor::pid),
            failure: self.failure.take(),
            handover,
        };
        let callback = AssertUnwindSafe(|| (self.options.on_transition)(&transition));
        if let Err(panic) = catch_unwind(callback) {
            // Whoever has just started may learn of it: a predecessor takes back
            // what it has handed over. But a process that others rely on is not to
            // end because of a line that could not be printed.
            if from.is_none() {
                resume_unwind(panic);
            }
            log::error!("the callback for transitions has panicked");
        }
    }
}

/// SIGTERM and SIGINT.
///
/// Each signal has a stream of its own: a stream holds a few hundred signals,
/// and a burst of one must not make another be dropped.
struct Stops {
    term: Signals,
    int: Signals,
}

impl Stops {
    fn catch() -> Result<Self> {
        Ok(Stops {
            term: Signals::new([Signal::Term]).map_err(Error::signals)?,
            int: Signals::new([Signal::Int]).map_err(Error::signals)?,
        })
    }

    /// They are caught until these are dropped.
    fn into_signals(self) -> Vec<(rustix::process::Signal, Signals)> {
        use rustix::process::Signal;
        vec![(Signal::TERM, self.term), (Signal::INT, self.int)]
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if poll_signal(&mut self.term, cx).is_ready() {
            return Poll::Ready(());
        }
        poll_signal(&mut self.int, cx)
    }
}

fn poll_signal(signals: &mut Signals, cx: &mut Context<'_>) -> Poll<()> {
    match std::pin::Pin::new(signals).poll_next(cx) {
        Poll::Ready(Some(Ok(_))) => Poll::Ready(()),
        // The pipe behind it is ours, both ends; it does not end or fail.
        Poll::Ready(Some(Err(_)) | None) | Poll::Pending => Poll::Pending,
    }
}

/// How often we were told to stop.
///
/// A supervisor that stops a whole group of processes reaches a successor on
/// probation twice, once through its predecessor, and Ctrl-C reaches one that
/// is followed by the first process twice, once through that. This is one
/// stop, not the second one that cuts; so what counts is the most frequent of
/// the ways.
#[derive(Default)]
struct StopCount {
    by_signal: u32,
    by_predecessor: u32,
    by_first: u32,
    /// Whoever asks on the control socket waits for the end, so to ask again
    /// is not to insist; and a terminal goes away once, however often that is
    /// told.
    at_least: u32,
}

impl StopCount {
    fn most(&self) -> u32 {
        let ways = [self.by_signal, self.by_predecessor, self.by_first];
        ways.into_iter().fold(self.at_least, u32::max)
    }

    /// How many of them have come by ways on which they are passed on. One that
    /// comes on both is one: the first process says it to all generations, and
    /// each of those before us passes on what it hears.
    fn passed_on(&self) -> u32 {
        self.by_predecessor.max(self.by_first)
    }

    /// Whether this is one more than we have heard of.
    fn by_signal(&mut self) -> bool {
        let most = self.most();
        self.by_signal = self.by_signal.saturating_add(1);
        self.by_signal > most
    }

    /// Whether this is one more than we have heard of.
    fn by_predecessor(&mut self) -> bool {
        let most = self.most();
        self.by_predecessor = self.by_predecessor.saturating_add(1);
        self.by_predecessor > most
    }

    /// Whether this is one more than we have heard of.
    fn by_first(&mut self) -> bool {
        let most = self.most();
        self.by_first = self.by_first.saturating_add(1);
        self.by_first > most
    }

    /// Whether this is the first that we have heard of.
    fn once(&mut self) -> bool {
        let is_first = self.most() == 0;
        self.at_least = 1;
        is_first
    }
}

/// The deadlines of the lifecycle; what each of them becomes when it passes.
#[derive(Default)]
struct Clocks {
    /// For the successor to become ready: `Overdue`.
    readiness: Option<Instant>,
    /// Of the successor's probation: `Passed`.
    probation: Option<Instant>,
    /// For the successor to publish its process ID: `Overdue`.
    publication: Option<Instant>,
    /// For the successor to say that it stops: `Lost`.
    farewell: Option<Instant>,
    /// For the predecessor to let us hear of it: `Overdue`.
    predecessor: Option<Instant>,
    /// Of an announced stop: `Stop`.
    retirement: Option<Instant>,
    /// For the drain: `Overdue`.
    drain: Option<Instant>,
    /// The one that was set anew because it rang late.
    extended: Option<Instant>,
    /// Set to the earliest of them.
    timer: Option<(Instant, Timer)>,
}

impl Clocks {
    /// The probation does not end before `is_proving`, nor the drain as long as a
    /// successor may still say that it stops.
    fn poll(&mut self, is_proving: bool, cx: &mut Context<'_>) -> Poll<Event> {
        let mut none = None;
        let drain = match self.farewell {
            Some(_) => &mut none,
            None => &mut self.drain,
        };
        let clocks = [
            (&mut self.readiness, Event::Overdue),
            (&mut self.probation, Event::Passed),
            (&mut self.publication, Event::Overdue),
            (&mut self.farewell, Event::Lost),
            (&mut self.predecessor, Event::Overdue),
            (&mut self.retirement, Event::Stop),
            (drain, Event::Overdue),
        ];
        let earliest = clocks
            .into_iter()
            .filter(|(_, event)| is_proving || *event != Event::Passed)
            .filter_map(|(clock, event)| clock.map(|at| (at, clock, event)))
            .min_by_key(|(at, _, _)| *at);
        let Some((at, clock, event)) = earliest else {
            self.timer = None;
            return Poll::Pending;
        };
        if self.timer.as_ref().is_none_or(|(set, _)| *set != at) {
            self.timer = Some((at, Timer::at(at)));
        }
        let rung = self
            .timer
            .as_mut()
            .is_some_and(|(_, timer)| timer.poll(cx).is_ready());
        if !rung {
            return Poll::Pending;
        }
        self.timer = None;
        // We have not had the processor ourselves, as when a whole group of
        // processes was frozen: nobody else is to blame before he has had it.
        if matches!(event, Event::Overdue | Event::Lost)
            && at.elapsed() > INDULGENCE
            && self.extended != Some(at)
        {
            *clock = after(INDULGENCE);
            self.extended = *clock;
            return self.poll(is_proving, cx);
        }
        *clock = None;
        Poll::Ready(event)
    }
}

/// When a drain ends; whoever has waited in a queue all the time has a moment,
/// too. A timeout too long for the clock is none.
fn end_of_drain(begun: Instant, timeout: Duration, grace: Duration) -> Option<Instant> {
    let at_least = after(timeout.min(grace))?;
    Some(begun.checked_add(timeout)?.max(at_least))
}

/// A timeout too long for the clock is none.
fn after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_without_a_deadline_has_none_and_one_that_is_over_has_a_moment() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(end_of_drain(now, Duration::MAX, second), None);
        let late = end_of_drain(now.checked_sub(60 * second).unwrap(), 30 * second, second);
        assert!(late.unwrap() >= now + second);
        assert_eq!(
            end_of_drain(now, 30 * second, second),
            Some(now + 30 * second)
        );
    }
}
