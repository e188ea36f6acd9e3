//! Who has asked for what, and what they are told.
//!
//! Requests become events of the lifecycle here, and what comes of them is
//! told to those who wait. Nothing here decides what a restart does; that is
//! the lifecycle's business, and the loop's to perform.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::Timer;
use rustix::process::getpid;
use smol::future::{self, FutureExt as _};
use smol::{LocalExecutor, Task};

use super::message::{
    Answer, Attempt, Connections, LastRestart, Progress, Request, RestartResult, RestartState,
    Restarted, StatusReport, Stopping,
};
use super::socket::{self, Connection, Inbox, Mail};
use crate::handoff::message::VERSION;
use crate::handoff::predecessor::Successor;
use crate::lifecycle::{Event, Phase, State};
use crate::listener::{Bound, Listener};
use crate::roster::Roster;

/// How many clients may wait for the result of a restart, and how many for
/// that of a stop.
const MOST_WAITING: usize = 32;

/// How many clients may have their last line still to be written: at the end of a
/// process all that wait for a restart, and all that wait for a stop.
const MOST_LEAVING: usize = 2 * MOST_WAITING;

/// How many results are kept for those who ask late.
const MOST_RESULTS: usize = 16;

/// The pause between two lines of progress that differ only in a number.
const RHYTHM: Duration = Duration::from_millis(100);

/// How long this process stays for those who have not taken their last line.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the loop knows of a restart that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) successor: Option<u32>,
    /// How many connections have been handed over, if any are.
    pub(crate) handed_over: Option<usize>,
    /// How many have been taken over from the predecessor.
    pub(crate) taken_over: usize,
}

/// What is at the beginning of a process that serves.
pub(crate) struct Beginnings {
    pub(crate) executor: Rc<LocalExecutor<'static>>,
    /// The control socket, if there is one.
    pub(crate) listener: Option<Rc<Listener>>,
    pub(crate) state: State,
    pub(crate) generation: u64,
    /// When this process began.
    pub(crate) begun: Instant,
    /// Where clients are served.
    pub(crate) listeners: Vec<String>,
    pub(crate) roster: Rc<Roster>,
    /// Whether others may take over.
    pub(crate) takeover: bool,
    /// Whether the end of this service is that of all others around it.
    pub(crate) ends_all: bool,
}

/// The desk where the service is asked about itself.
///
/// Without a control socket nobody comes, and it merely keeps its books.
pub(crate) struct Control {
    beginnings: Beginnings,
    /// Whether the socket is accepted on.
    accepting: Option<Task<()>>,
    inbox: Rc<Inbox>,
    waiting: Vec<Waiting>,
    /// Those who have been told the last.
    leaving: VecDeque<Task<()>>,
    serving_since: Instant,
    /// A process that has been granted to take over.
    heir: Option<Successor>,
    /// The restart that brought this process about, once it is done.
    origin: Option<Past>,
    state: State,
    facts: Facts,
    /// How many restarts have been begun.
    attempts: u64,
    /// The last of them, until its result is known.
    under_way: Option<UnderWay>,
    /// What came of the last ones.
    results: VecDeque<Past>,
    /// Where the successor of the last one hears requests.
    successor_socket: SuccessorSocket,
    /// Whether that one has taken over for good.
    is_passed_on: bool,
}

/// Where a successor hears requests.
#[derive(Default)]
struct SuccessorSocket {
    path: Option<String>,
    /// Whether it is the one that was handed over.
    is_ours: bool,
}

/// A client that waits.
struct Waiting {
    what: Awaited,
    mail: Rc<Mail>,
    delivery: Task<()>,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The result of the restart of this number.
    Restart(u64),
    /// The end of our own probation.
    Probation,
    /// The end of this process.
    Stop,
}

/// A restart without a result.
struct UnderWay {
    begun: Instant,
    /// What those who wait have been told last, and when.
    told: Option<(RestartState, Instant)>,
    is_proven: bool,
    /// Whether whatever could move has.
    is_settled: bool,
}

/// A restart with a result.
struct Past {
    attempt: u64,
    /// The process that it has brought about, or why it came to nothing.
    result: Result<Arrival, String>,
    ended: Instant,
    took: Duration,
    handed_over: usize,
}

/// A process that has come to serve for good.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    pid: u32,
    generation: u64,
}

impl Past {
    fn answer(&self) -> Answer {
        match &self.result {
            Ok(arrival) => Answer::Restarted(Restarted {
                pid: arrival.pid,
                generation: arrival.generation,
                took_ms: milliseconds(self.took),
                handed_over: self.handed_over,
            }),
            Err(reason) => Answer::Failed {
                reason: reason.clone(),
            },
        }
    }

    fn report(&self) -> LastRestart {
        LastRestart {
            result: match &self.result {
                Ok(_) => RestartResult::Ok,
                Err(_) => RestartResult::Failed,
            },
            reason: self.result.as_ref().err().cloned(),
            ago_ms: milliseconds(self.ended.elapsed()),
            took_ms: milliseconds(self.took),
            handed_over: self.handed_over,
        }
    }
}

impl Control {
    pub(crate) fn new(beginnings: Beginnings) -> Self {
        Control {
            accepting: None,
            inbox: Rc::default(),
            waiting: Vec::new(),
            leaving: VecDeque::new(),
            serving_since: Instant::now(),
            heir: None,
            origin: None,
            state: beginnings.state,
            facts: Facts::default(),
            attempts: 0,
            under_way: None,
            results: VecDeque::new(),
            successor_socket: SuccessorSocket::default(),
            is_passed_on: false,
            beginnings,
        }
    }

    /// Begins to hear requests.
    pub(crate) fn open(&mut self) {
        self.accept_or_not();
    }

    /// Hears requests until one of them is an event.
    ///
    /// `Stop` is the same as SIGTERM, `Reload` the same as SIGHUP.
    pub(crate) fn poll_event(&mut self, facts: Facts, cx: &Context<'_>) -> Poll<Event> {
        self.learn(facts);
        while let Poll::Ready((request, connection)) = self.inbox.poll(cx) {
            if let Some(event) = self.hear(request, connection) {
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }

    fn learn(&mut self, facts: Facts) {
        self.facts = facts;
        // Those that are busy come later.
        if let Some(origin) = &mut self.origin {
            origin.handed_over = facts.taken_over;
        }
    }

    fn hear(&mut self, request: Request, connection: Connection) -> Option<Event> {
        self.tidy();
        match request {
            Request::Status => {
                let status = Answer::Status(self.status());
                self.answer(connection, &status);
                None
            }
            Request::Restart { of } => self.hear_restart(of, connection),
            Request::Stop => self.hear_stop(connection),
            Request::Takeover { version } => self.hear_takeover(version, connection),
        }
    }

    /// A takeover is a restart whose successor is there already.
    fn hear_takeover(&mut self, version: u64, connection: Connection) -> Option<Event> {
        match self.grant(version, &connection) {
            Ok(heir) => {
                self.heir = Some(heir);
                Some(Event::Reload)
            }
            Err(reason) => {
                log::warn!("a takeover is refused: {reason}");
                self.answer(connection, &Answer::Refused { reason });
                None
            }
        }
    }

    /// Opens a channel to the client.
    fn grant(&self, version: u64, connection: &Connection) -> Result<Successor, String> {
        if !self.beginnings.takeover {
            return Err("takeovers are not allowed here".to_owned());
        }
        // It sees us and we see it, so it is in our PID namespace (pid_namespaces(7)).
        if self.beginnings.ends_all {
            return Err(
                "this service is that of process 1, whose end, when it has been taken over, would \
                 be that of all processes here; it can be restarted"
                    .to_owned(),
            );
        }
        if version != VERSION {
            return Err(format!(
                "it speaks version {version} of the handoff protocol, not version {VERSION}"
            ));
        }
        let busy = match self.state {
            State::Serving => None,
            State::Proving | State::ProvingAgain => Some("this process is on probation itself"),
            State::Forking | State::ForkingAgain | State::Handoff | State::HandoffAgain => {
                Some("a restart is under way")
            }
            State::Probation
            | State::ProbationAgain
            | State::Publishing
            | State::PublishingAgain
            | State::Draining => Some("a successor has taken over"),
            State::Retiring | State::Stopping | State::StoppingTogether | State::Exited => {
                Some("the service is stopping")
            }
        };
        if let Some(busy) = busy {
            return Err(format!("busy: {busy}"));
        }
        let failed = |error: io::Error| format!("it cannot be granted: {error}");
        let peer = socket::peer(connection).map_err(failed)?;
        if peer == getpid() {
            return Err("it is this very process".to_owned());
        }
        let (heir, theirs) =
            Successor::foreign(peer, self.beginnings.generation).map_err(failed)?;
        // It was there after it was looked up, so the number was its own.
        if socket::has_hung_up(connection) {
            return Err("it has gone, or says more than it should".to_owned());
        }
        socket::send_along(connection, &Answer::Granted, &theirs).map_err(failed)?;
        Ok(heir)
    }

    /// The process that is to take over, if the restart that begins is such.
    pub(crate) fn take_heir(&mut self) -> Option<Successor> {
        self.heir.take()
    }

    /// Whether the restart that begins is a takeover.
    pub(crate) fn heir(&self) -> Option<&Successor> {
        self.heir.as_ref()
    }

    fn hear_restart(&mut self, of: Option<Attempt>, connection: Connection) -> Option<Event> {
        if let Some(of) = of
            && self.has_begun(of)
        {
            self.tell_result_of(of, connection);
            return None;
        }
        // What was asked for has not begun; or it was owed by a successor that
        // was undone, and is owed by us again.
        match self.state {
            State::Serving
            | State::Proving
            | State::ProvingAgain
            | State::Forking
            | State::ForkingAgain
            | State::Handoff
            | State::HandoffAgain => {
                // Whatever is under way may have read its configuration
                // already.
                let attempt = self.attempts + 1;
                let mail = self.let_wait(Awaited::Restart(attempt), connection)?;
                if self.state != State::Serving {
                    mail.send(&self.progress_of(attempt, RestartState::Waiting));
                }
                Some(Event::Reload)
            }
            State::Retiring | State::Stopping | State::StoppingTogether | State::Exited
                if !self.is_passed_on =>
            {
                let reason = "the service is stopping".to_owned();
                self.answer(connection, &Answer::Failed { reason });
                None
            }
            State::Probation
            | State::ProbationAgain
            | State::Publishing
            | State::PublishingAgain
            | State::Draining
            | State::Retiring
            | State::Stopping
            | State::StoppingTogether
            | State::Exited => {
                let ask = Request::Restart { of: None };
                self.answer(connection, &self.superseded(ask));
                None
            }
        }
    }

    fn has_begun(&self, restart: Attempt) -> bool {
        let ours = self.beginnings.generation;
        restart.generation < ours
            || (restart.generation == ours && restart.attempt <= self.attempts)
    }

    /// Tells what comes of a restart that has begun, or has come of it.
    fn tell_result_of(&mut self, restart: Attempt, connection: Connection) {
        let is_another_generation = restart.generation < self.beginnings.generation;
        let past = if is_another_generation {
            // Its successor has come to serve: we, or one that we go back to.
            match &self.origin {
                Some(origin) => Some(origin),
                None => {
                    self.let_wait(Awaited::Probation, connection);
                    return;
                }
            }
        } else if restart.attempt == self.attempts && self.under_way.is_some() {
            self.let_wait(Awaited::Restart(restart.attempt), connection);
            return;
        } else {
            let mut results = self.results.iter();
            results.find(|past| past.attempt == restart.attempt)
        };
        let answer = past.map_or_else(
            || Answer::Refused {
                reason: "what came of that restart is not known any more".to_owned(),
            },
            Past::answer,
        );
        self.answer(connection, &answer);
    }

    fn hear_stop(&mut self, connection: Connection) -> Option<Event> {
        // As long as the successor is not published, to stop us still means to
        // stop the service; and we may be doing that.
        let is_succeeded = match self.state {
            State::Draining => true,
            State::Stopping | State::Exited => self.is_passed_on,
            State::Serving
            | State::Proving
            | State::ProvingAgain
            | State::Retiring
            | State::Forking
            | State::ForkingAgain
            | State::Handoff
            | State::HandoffAgain
            | State::Probation
            | State::ProbationAgain
            | State::Publishing
            | State::PublishingAgain
            | State::StoppingTogether => false,
        };
        if is_succeeded {
            self.answer(connection, &self.superseded(Request::Stop));
            return None;
        }
        let mail = self.let_wait(Awaited::Stop, connection)?;
        mail.send(&Answer::Stopping(Stopping {
            pid: std::process::id(),
            generation: self.beginnings.generation,
            connections: self.connections(),
        }));
        Some(Event::Stop)
    }

    /// `None` if there are too many already. Those who wait for a restart do
    /// not keep others from stopping the service.
    fn let_wait(&mut self, what: Awaited, connection: Connection) -> Option<Rc<Mail>> {
        let is_stop = what == Awaited::Stop;
        let waiting = self.waiting.iter();
        let others = waiting.filter(|it| (it.what == Awaited::Stop) == is_stop);
        if others.count() >= MOST_WAITING {
            let reason = format!("{MOST_WAITING} others are waiting already");
            self.answer(connection, &Answer::Refused { reason });
            return None;
        }
        let mail = Rc::new(Mail::default());
        let delivery = socket::deliver(connection, Rc::clone(&mail));
        self.waiting.push(Waiting {
            what,
            mail: Rc::clone(&mail),
            delivery: self.beginnings.executor.spawn(delivery),
        });
        Some(mail)
    }

    fn answer(&mut self, connection: Connection, answer: &Answer) {
        let mail = Rc::new(Mail::default());
        mail.send_last(answer);
        let delivery = socket::deliver(connection, mail);
        let delivery = self.beginnings.executor.spawn(delivery);
        self.leave(delivery);
    }

    fn leave(&mut self, delivery: Task<()>) {
        self.tidy();
        if self.leaving.len() >= MOST_LEAVING {
            self.leaving.pop_front();
        }
        self.leaving.push_back(delivery);
    }

    /// Forgets those who have gone.
    fn tidy(&mut self) {
        self.waiting.retain(|it| !it.delivery.is_finished());
        self.leaving.retain(|delivery| !delivery.is_finished());
    }

    /// A restart begins.
    pub(crate) fn restart_begins(&mut self) {
        self.attempts += 1;
        self.successor_socket = SuccessorSocket::default();
        self.under_way = Some(UnderWay {
            begun: Instant::now(),
            told: None,
            is_proven: false,
            is_settled: false,
        });
    }

    /// The restart came to nothing, or was undone; `line` is what is logged
    /// about it.
    pub(crate) fn restart_fails(&mut self, line: &str) {
        self.conclude(Err(line.to_owned()));
    }

    /// The successor is ready; it keeps the listeners that are bound there,
    /// and hears requests at the path `socket`.
    pub(crate) fn successor_is_ready(&mut self, keeps: &[String], socket: Option<String>) {
        let ours = self.beginnings.listener.as_ref();
        self.successor_socket = SuccessorSocket {
            path: socket,
            is_ours: ours.is_some_and(|ours| keeps.contains(&ours.bound().to_string())),
        };
    }

    /// The successor was told to stop.
    pub(crate) fn successor_stops(&mut self) {
        self.abandon("the successor was told to stop, and with it the service");
    }

    /// Connections are being handed over.
    pub(crate) fn progress(&mut self, facts: Facts) {
        self.learn(facts);
        let Some(restart) = &self.under_way else {
            return;
        };
        if let Some((state, at)) = restart.told
            && at.elapsed() >= RHYTHM
        {
            self.tell_progress(state);
        }
    }

    /// Whatever could move to the successor has moved.
    pub(crate) fn handover_settles(&mut self, facts: Facts) {
        self.learn(facts);
        if let Some(restart) = &mut self.under_way {
            restart.is_settled = true;
        }
        self.conclude_if_done();
    }

    /// Parts with the control socket, because a successor has taken over.
    pub(crate) fn part_with_socket(&mut self) {
        self.accepting = None;
        if let Some(listener) = self.beginnings.listener.take()
            && !self.successor_socket.is_ours
        {
            listener.unlink();
        }
    }

    /// Parts with the control socket, if it is one of those that the
    /// predecessor, which serves again, has given us.
    pub(crate) fn give_back(&mut self, adopted: &[String]) {
        let is_theirs = |ours: &Rc<Listener>| adopted.contains(&ours.bound().to_string());
        if self.beginnings.listener.as_ref().is_some_and(is_theirs) {
            self.accepting = None;
            self.beginnings.listener = None;
        }
    }

    /// The lifecycle has taken a step.
    pub(crate) fn follow(&mut self, event: Event, after: State, facts: Facts) {
        let before = std::mem::replace(&mut self.state, after);
        self.learn(facts);
        match event {
            // The first one changes nothing while draining.
            Event::Stop | Event::Retire if before != State::Draining => {
                self.abandon("the service was told to stop");
            }
            Event::Proven if before.is_unproven() => self.arrive(),
            Event::Proven | Event::Leaving if before.is_probation() => {
                self.pass_on();
                if let Some(restart) = &mut self.under_way {
                    restart.is_proven = true;
                }
            }
            Event::Stop
            | Event::Retire
            | Event::Passed
            | Event::Published
            | Event::Proven
            | Event::Leaving
            | Event::Reload
            | Event::Claimed
            | Event::Ready
            | Event::Lost
            | Event::Overdue
            | Event::Drained => {}
        }
        self.conclude_if_done();
        let now = match after {
            State::Forking | State::ForkingAgain => Some(RestartState::Forking),
            State::Handoff | State::HandoffAgain => Some(RestartState::Handoff),
            State::Probation | State::ProbationAgain => Some(RestartState::Probation),
            State::Publishing | State::PublishingAgain | State::Draining => {
                Some(RestartState::Publishing)
            }
            State::Serving
            | State::Proving
            | State::ProvingAgain
            | State::Retiring
            | State::Stopping
            | State::StoppingTogether
            | State::Exited => None,
        };
        if let (Some(now), Some(restart)) = (now, &self.under_way)
            && restart.told.is_none_or(|(told, _)| told != now)
        {
            self.tell_progress(now);
        }
        self.accept_or_not();
    }

    /// Tells the rest to those who wait, and waits for a moment until they
    /// have it. The socket goes first, so that whoever hears that the service
    /// has stopped can start another one.
    pub(crate) async fn farewell(&mut self) {
        self.accepting = None;
        if let Some(listener) = self.beginnings.listener.take() {
            listener.unlink();
        }
        // Whoever has been let in is answered, if it asks soon.
        let inbox = Rc::clone(&self.inbox);
        let asked = future::poll_fn(|cx| {
            while let Poll::Ready((request, connection)) = inbox.poll(cx) {
                // Nothing can be an event any more.
                let _ = self.hear(request, connection);
            }
            inbox.poll_silence(cx)
        });
        asked.or(patience(FAREWELL)).await;
        let is_proven = self.under_way.as_ref().is_some_and(|it| it.is_proven);
        match is_proven {
            true => self.conclude_well(),
            false => self.abandon("the process ended before the restart was done"),
        }
        let cut = self.beginnings.roster.len();
        self.tell_last(|_| true, &Answer::Stopped { cut });
        let told = async {
            for delivery in std::mem::take(&mut self.leaving) {
                delivery.await;
            }
        };
        told.or(patience(FAREWELL)).await;
    }

    /// Our own probation is over.
    fn arrive(&mut self) {
        let origin = Past {
            attempt: 0,
            result: Ok(Arrival {
                pid: std::process::id(),
                generation: self.beginnings.generation,
            }),
            ended: Instant::now(),
            took: self.beginnings.begun.elapsed(),
            handed_over: self.facts.taken_over,
        };
        let answer = origin.answer();
        self.origin = Some(origin);
        self.tell_last(|what| what == Awaited::Probation, &answer);
    }

    /// The successor is proven. A restart that is to follow has been passed on
    /// to it, and is its first.
    fn pass_on(&mut self) {
        self.is_passed_on = true;
        let of = Attempt {
            generation: self.beginnings.generation + 1,
            attempt: 1,
        };
        let superseded = self.superseded(Request::Restart { of: Some(of) });
        let current = self.attempts;
        let later = |what| matches!(what, Awaited::Restart(attempt) if attempt > current);
        self.tell_last(later, &superseded);
    }

    fn superseded(&self, ask: Request) -> Answer {
        Answer::Superseded {
            socket: self.successor_socket.path.clone(),
            ask,
        }
    }

    /// Nothing will come of any restart.
    fn abandon(&mut self, reason: &str) {
        let reason = reason.to_owned();
        self.conclude(Err(reason.clone()));
        self.tell_last(|what| what != Awaited::Stop, &Answer::Failed { reason });
    }

    fn conclude_if_done(&mut self) {
        if let Some(restart) = &self.under_way
            && restart.is_proven
            && (restart.is_settled || self.facts.handed_over.is_none())
        {
            self.conclude_well();
        }
    }

    fn conclude_well(&mut self) {
        self.conclude(Ok(Arrival {
            pid: self.facts.successor.unwrap_or_default(),
            generation: self.beginnings.generation + 1,
        }));
    }

    fn conclude(&mut self, result: Result<Arrival, String>) {
        let Some(restart) = self.under_way.take() else {
            return;
        };
        let attempt = self.attempts;
        let past = Past {
            attempt,
            result,
            ended: Instant::now(),
            took: restart.begun.elapsed(),
            handed_over: self.facts.handed_over.unwrap_or_default(),
        };
        self.tell_last(|what| what == Awaited::Restart(attempt), &past.answer());
        if self.results.len() >= MOST_RESULTS {
            self.results.pop_front();
        }
        self.results.push_back(past);
    }

    fn tell_last(&mut self, whom: impl Fn(Awaited) -> bool, answer: &Answer) {
        let (told, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|it| whom(it.what));
        self.waiting = waiting;
        let told: Vec<Waiting> = told;
        for it in told {
            it.mail.send_last(answer);
            self.leave(it.delivery);
        }
    }

    fn tell_progress(&mut self, state: RestartState) {
        let attempt = self.attempts;
        let progress = self.progress_of(attempt, state);
        if let Some(restart) = &mut self.under_way {
            restart.told = Some((state, Instant::now()));
        }
        for it in &self.waiting {
            if it.what == Awaited::Restart(attempt) {
                it.mail.send(&progress);
            }
        }
    }

    fn progress_of(&self, attempt: u64, state: RestartState) -> Answer {
        let restart = self.under_way.as_ref();
        let restart = restart.filter(|_| state != RestartState::Waiting);
        Answer::Progress(Progress {
            restart: Attempt {
                generation: self.beginnings.generation,
                attempt,
            },
            state,
            successor: restart.and(self.facts.successor),
            handed_over: restart.and(self.facts.handed_over).unwrap_or_default(),
            elapsed_ms: restart.map_or(0, |restart| milliseconds(restart.begun.elapsed())),
        })
    }

    /// Who serves is who hears requests: us, or the successor.
    fn accept_or_not(&mut self) {
        let is_ours = match self.state {
            State::Serving
            | State::Proving
            | State::ProvingAgain
            | State::Retiring
            | State::Forking
            | State::ForkingAgain
            | State::Handoff
            | State::HandoffAgain
            | State::Stopping => true,
            // If the successor has another one, nobody else hears this one.
            State::Probation
            | State::ProbationAgain
            | State::Publishing
            | State::PublishingAgain => !self.successor_socket.is_ours,
            State::Draining | State::StoppingTogether | State::Exited => false,
        };
        match &self.beginnings.listener {
            Some(listener) if is_ours => {
                if self.accepting.is_none() {
                    let accept = socket::accept(
                        Rc::clone(listener),
                        Rc::clone(&self.inbox),
                        Rc::downgrade(&self.beginnings.executor),
                    );
                    self.accepting = Some(self.beginnings.executor.spawn(accept));
                }
            }
            _ => self.accepting = None,
        }
    }

    fn status(&self) -> StatusReport {
        let last = self.results.back().or(self.origin.as_ref());
        StatusReport {
            heirloom: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            generation: self.beginnings.generation,
            state: self.state.phase().to_string(),
            proven: !self.state.is_unproven(),
            listeners: match self.state.phase() {
                Phase::Draining => Vec::new(),
                Phase::Serving | Phase::Forking | Phase::Handoff => {
                    self.beginnings.listeners.clone()
                }
            },
            connections: self.connections(),
            uptime_ms: milliseconds(self.serving_since.elapsed()),
            successor: self.facts.successor,
            last_restart: last.map(Past::report),
        }
    }

    fn connections(&self) -> Connections {
        let census = self.beginnings.roster.census();
        Connections {
            idle: census.idle,
            busy: census.busy,
        }
    }
}

/// The path of a control socket, as others are told it.
pub(crate) fn path_of(listener: &Listener) -> Option<String> {
    match listener.bound() {
        Bound::Unix { path, .. } => path.to_str().map(str::to_owned),
        Bound::Tcp(_) => None,
    }
}

async fn patience(time: Duration) {
    Timer::after(time).await;
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
