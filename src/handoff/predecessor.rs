//! The predecessor's end of the handoff: its successor, as it sees it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use smol::Task;
use smol::channel::{Receiver, Sender, TrySendError};
use smol::future::{self, Boxed, BoxedLocal, FutureExt as _};

use super::PREDECESSOR_VARIABLE;
use super::channel::{Channel, MOST_DESCRIPTORS, Packet, Silence, passes};
use super::message::{ConnectionRecord, FromPredecessor, FromSuccessor, StateRecord, VERSION};
use crate::invocation::Invocation;
use crate::ledger::Ledger;
use crate::listener::ListenerSet;

/// How long a successor that hung up is given to exit, so that its exit status
/// can be told instead of its silence, as long as it does not serve.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long it is given if it does: it may be that nobody accepts.
const LAST_WORDS_SERVING: Duration = Duration::from_millis(100);

/// How long a killed successor is waited for. A process in an uninterruptible
/// system call does not die at once, and must not hold us up for ever.
const BURIAL: Duration = Duration::from_secs(5);

/// How long it may be impossible to send to a successor that lives. Descriptors
/// of other processes of this user, of which there may be too many, are under
/// way for milliseconds.
const UNSENT_PATIENCE: Duration = Duration::from_secs(1);

/// When it is tried again, because nobody tells when it is possible. It is the
/// time in which nobody accepts, if that is what the successor is to be told.
const UNSENT_PAUSE: Duration = Duration::from_millis(2);

/// A process that is to take over from this one.
///
/// Owns our end of the channel; dropping that is how the successor learns that
/// we are gone. A successor that is not wanted any more is killed *before* the
/// channel is closed ([`Successor::dismiss`]): one that has heard nothing but
/// the end of the channel believes that we have died, and serves.
pub(crate) struct Successor {
    /// `None` once nothing sensible can come any more.
    channel: Option<Channel<FromPredecessor, FromSuccessor>>,
    process: Process,
    /// Kept beyond the end of the process, for the log.
    pid: Option<u32>,
    /// Of the process that has claimed.
    claimant: Option<u32>,
    begun: Instant,
    step: Step,
    /// Whether the process that claimed is the one we have started, rather
    /// than a child of that one, of which we would not know whether it lives.
    is_our_child: bool,
    /// Whether it is not to outlive its dismissal.
    is_condemned: bool,
    /// What it said before it gave up.
    last_words: Option<String>,
    /// Set when it hung up without having exited.
    hung_up: Option<Timer>,
    /// While there is some, it is not listened to.
    unsent: RefCell<Option<Unsent>>,
    /// Where to say that the welcome is sent, before which no process is
    /// started.
    welcomed: Option<Sender<io::Result<()>>>,
}

/// What could not be sent yet.
struct Unsent {
    messages: VecDeque<(FromPredecessor, Vec<OwnedFd>)>,
    since: Instant,
    /// When to try again.
    pause: Timer,
}

/// What comes down from the first process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bequest<'a> {
    /// The line to it, if it follows the generations.
    pub(crate) line: Option<BorrowedFd<'a>>,
    /// Whether the service ends with its terminal.
    pub(crate) terminal: bool,
}

/// How long what was broken off may take to end before the next attempt begins
/// all the same: longer than the killing of a check takes.
const ABANDONED: Duration = Duration::from_secs(10);

/// What is done before a successor is started.
///
/// Dropping it breaks that off, without waiting for what it may have to kill.
pub(crate) struct Preparing {
    /// `None` when it is done.
    work: Option<BoxedLocal<Result<Prepare, String>>>,
    /// Closed when no process is left that was started for it.
    ended: Receiver<Infallible>,
    /// Successors that have yet to die. Those of earlier attempts may hold an
    /// address that this one will want to bind.
    burials: Vec<Task<()>>,
}

/// Changes the command that a successor is to be started by.
pub(crate) type Prepare = Box<dyn FnOnce(&mut Command)>;

impl Preparing {
    /// Comes to nothing, for this reason.
    pub(crate) fn in_vain(reason: String) -> Self {
        let (_, ended) = smol::channel::bounded(1);
        Preparing::new(async { Err(reason) }.boxed_local(), ended)
    }

    /// Does `work`, whose error is why there is to be no successor; `ended` is
    /// closed when no process is left that was started for it.
    pub(crate) fn new(
        work: BoxedLocal<Result<Prepare, String>>,
        ended: Receiver<Infallible>,
    ) -> Self {
        Preparing {
            work: Some(work),
            ended,
            burials: Vec::new(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Prepare, String>> {
        self.burials
            .retain_mut(|burial| burial.poll(cx).is_pending());
        match &mut self.work {
            Some(work) if self.burials.is_empty() => work.poll(cx),
            Some(_) | None => Poll::Pending,
        }
    }

    /// Breaks it off, and waits until nothing is left of it.
    async fn abandon(self) {
        drop(self.work);
        for burial in self.burials {
            burial.await;
        }
        // Nothing ever comes but the end, and not even that from a process that
        // the system does not let go.
        let ended = async {
            let _ = self.ended.recv().await;
        };
        let patience = async {
            Timer::after(ABANDONED).await;
        };
        ended.or(patience).await;
    }
}

/// What is there to start a process from when everything before is done.
struct Startable {
    command: Box<Command>,
    /// Told when the welcome is sent, or cannot be.
    is_welcomed: Receiver<io::Result<()>>,
}

impl Startable {
    /// Starts it, when the welcome is sent.
    fn start(self, prepare: Prepare) -> Boxed<io::Result<Running>> {
        let mut command = self.command;
        prepare(&mut command);
        let starting = async move {
            let unwelcome = |_| Err(io::ErrorKind::NotConnected.into());
            self.is_welcomed.recv().await.unwrap_or_else(unwelcome)?;
            spawn(*command)?.await
        };
        starting.boxed()
    }
}

/// What we know of the successor's process.
enum Process {
    /// It is not to be started yet.
    Preparing(Preparing, io::Result<Startable>),
    /// It is being started, off the executor: `exec` can take milliseconds.
    Starting(Boxed<io::Result<Running>>),
    Running(Running),
    /// Somebody else has started it, and will reap it.
    Foreign(Async<OwnedFd>),
    /// It has been reaped, or could not be started.
    Gone,
}

struct Running {
    child: Child,
    pidfd: Async<OwnedFd>,
}

/// How far the handoff has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Step {
    AwaitingClaim,
    AwaitingReadiness,
    Serving,
    AwaitingPublication,
    Published,
    Proven,
}

/// What a successor lets us know.
#[derive(Debug)]
pub(crate) enum Report {
    /// It is about to be started.
    Begins,
    Claimed,
    Ready {
        keeps: Vec<String>,
        /// How many connections it can take.
        room: usize,
        /// The path of its control socket.
        control: Option<String>,
    },
    Adopted(Receipt),
    Published,
    Stopping,
    Lost(Loss),
}

/// What a successor has taken of a batch of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) batch: u64,
    /// The first ones of it; no other.
    pub(crate) taken: usize,
    /// How many more it can take.
    pub(crate) room: usize,
}

/// How a successor was lost.
#[derive(Debug)]
pub(crate) enum Loss {
    /// It was not to be started.
    Refused(String),
    NotStarted(io::Error),
    Exited(ExitStatus),
    /// The same of one that is not our child.
    Ended,
    HungUp,
    Nonsense(String),
    Version(u64),
    OutOfOrder(&'static str),
    TooFewDescriptors {
        free: u64,
        needed: usize,
    },
    Unreachable(io::Error),
    Unwatchable(io::Error),
    Unresponsive(usize, Duration),
    NoState(String),
    Unpublished,
    /// It was told to stop.
    Unstopped,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Refused(reason) => f.write_str(reason),
            Loss::NotStarted(error) => write!(f, "it could not be started: {error}"),
            Loss::Exited(status) => write!(f, "it ended, {status}"),
            Loss::Ended => f.write_str("it ended"),
            Loss::HungUp => f.write_str("it closed the channel"),
            Loss::Nonsense(what) => write!(f, "it spoke nonsense: {what}"),
            Loss::Version(theirs) => write!(
                f,
                "it speaks version {theirs} of the handoff protocol, not version {VERSION}"
            ),
            Loss::OutOfOrder(message) => write!(f, "it sent `{message}` out of order"),
            Loss::TooFewDescriptors { free, needed } => write!(
                f,
                "it has {free} free file descriptors and needs {needed} for the handoff"
            ),
            Loss::Unreachable(error) => write!(f, "it could not be sent to: {error}"),
            Loss::Unwatchable(error) => write!(f, "it could not be waited for: {error}"),
            Loss::Unresponsive(connections, patience) => write!(
                f,
                "it has not taken {connections} connections in {patience:?}"
            ),
            Loss::Unpublished => f.write_str("it could not publish itself"),
            Loss::Unstopped => f.write_str("it has not said that it stops"),
            Loss::NoState(reason) => {
                write!(f, "the application's state cannot be handed over: {reason}")
            }
        }
    }
}

impl Successor {
    /// One of which nothing has been heard.
    fn new(
        channel: Option<Channel<FromPredecessor, FromSuccessor>>,
        process: Process,
        pid: Option<u32>,
    ) -> Self {
        Successor {
            channel,
            process,
            pid,
            claimant: pid,
            begun: Instant::now(),
            step: Step::AwaitingClaim,
            is_our_child: true,
            is_condemned: false,
            last_words: None,
            hung_up: None,
            unsent: RefCell::default(),
            welcomed: None,
        }
    }

    /// Starts a successor, when everything before that has been done.
    ///
    /// Whatever goes wrong from here on is told by [`Successor::poll_report`].
    ///
    /// It does not begin before `burials` are over.
    pub(crate) fn start(
        invocation: &Invocation,
        generation: u64,
        bequest: Bequest<'_>,
        burials: Vec<Task<()>>,
        preparing: Preparing,
    ) -> Self {
        let mut successor = Successor::new(None, Process::Gone, None);
        let (welcomed, is_welcomed) = smol::channel::bounded(1);
        let startable = open_channel().and_then(|(channel, theirs)| {
            successor.channel = Some(channel);
            // It waits there for a process that does not exist yet.
            successor.send_welcome(generation, bequest)?;
            let mut command = invocation.command()?;
            command
                .env(PREDECESSOR_VARIABLE, std::process::id().to_string())
                .stdin(Stdio::from(theirs));
            Ok(Startable {
                command: Box::new(command),
                is_welcomed,
            })
        });
        successor.welcomed = Some(welcomed);
        let preparing = Preparing {
            burials,
            ..preparing
        };
        successor.process = Process::Preparing(preparing, startable);
        successor
    }

    /// Makes one of a process that is there already and that somebody else has
    /// started; the second of these is its end of the channel.
    ///
    /// # Errors
    ///
    /// If it is gone, or if there can be no channel.
    pub(crate) fn foreign(process: Pid, generation: u64) -> io::Result<(Self, OwnedFd)> {
        let (channel, theirs) = open_channel()?;
        let pidfd = Async::new_nonblocking(pidfd_open(process, PidfdFlags::empty())?)?;
        let pid = u32::try_from(process.as_raw_nonzero().get()).ok();
        let successor = Successor::new(Some(channel), Process::Foreign(pidfd), pid);
        // It has a standard input of its own, and whoever has started it follows
        // it, or does not.
        successor.send(&welcome(generation, Bequest::default()), &[])?;
        Ok((successor, theirs))
    }

    /// Whether somebody else has started it.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self.process, Process::Foreign(_))
    }

    /// Its process ID, once it has one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The process that serves. It may be a child of the one that we have
    /// started, if the executable is a script.
    pub(crate) fn serving_pid(&self) -> Option<u32> {
        self.claimant
    }

    /// How long ago it was started, or what comes before that was begun.
    pub(crate) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether nothing is taken back any more, because it was told so or stops
    /// on purpose.
    pub(crate) fn is_proven(&self) -> bool {
        self.step == Step::Proven
    }

    /// What we wait for it to do, for the log.
    pub(crate) fn awaited_step(&self) -> &'static str {
        match self.step {
            Step::AwaitingClaim if self.pid.is_none() => "starting",
            Step::AwaitingClaim => "waiting for its claim",
            Step::AwaitingReadiness => "waiting for its readiness",
            Step::Serving => "serving on probation",
            Step::AwaitingPublication => "publishing its process ID",
            Step::Published | Step::Proven => "serving",
        }
    }

    /// What it said before it gave up.
    pub(crate) fn last_words(&self) -> Option<&str> {
        self.last_words.as_deref()
    }

    /// Says who we are, and passes our standard input on.
    fn send_welcome(&self, generation: u64, bequest: Bequest<'_>) -> io::Result<()> {
        let stdin = rustix::stdio::stdin();
        let mut descriptors = vec![stdin.as_fd()];
        descriptors.extend(bequest.line);
        self.send_in_time(welcome(generation, bequest), &descriptors)
    }

    /// Answers the claim; `state` is a stream of so many bytes.
    pub(crate) fn send_listeners(
        &self,
        listeners: &ListenerSet,
        state: Option<(BorrowedFd<'_>, u64)>,
    ) -> io::Result<()> {
        // Far below what a packet holds, also with long UNIX paths.
        const BATCH: usize = 64;
        const { assert!(BATCH < MOST_DESCRIPTORS) };
        let mut batches = listeners.batches(BATCH).peekable();
        while let Some((listeners, mut descriptors)) = batches.next() {
            let more = batches.peek().is_some();
            let state = state.filter(|_| !more).map(|(stream, bytes)| {
                descriptors.push(stream);
                let fd = descriptors.len() - 1;
                StateRecord { fd, bytes }
            });
            let message = FromPredecessor::Listeners {
                listeners,
                more,
                state,
            };
            self.send_in_time(message, &descriptors)?;
        }
        Ok(())
    }

    /// Tells it to accept from now on, how many connections may follow, and
    /// where to note what it does with them.
    ///
    /// `proven_within` is the time in which it is proven at the latest.
    pub(crate) fn send_serve(
        &self,
        ledger: Option<&Ledger>,
        connections: usize,
        proven_within: Option<Duration>,
    ) -> io::Result<()> {
        let message = FromPredecessor::Serve {
            ledger: ledger.is_some(),
            connections,
            proven_within_ms: proven_within.and_then(|it| u64::try_from(it.as_millis()).ok()),
        };
        match ledger {
            Some(ledger) => self.send_in_time(message, &[ledger.as_fd()]),
            None => self.send_in_time(message, &[]),
        }
    }

    /// Hands connections over, with what has been read from them.
    pub(crate) fn send_connections(
        &self,
        batch: u64,
        connections: Vec<ConnectionRecord>,
        descriptors: &[BorrowedFd<'_>],
        bytes: &[u8],
    ) -> io::Result<()> {
        if self.has_unsent() {
            return Err(Errno::AGAIN.into());
        }
        let message = FromPredecessor::Connections { batch, connections };
        self.send_with(&message, descriptors, bytes)
    }

    /// Tells it that no more connections will come, which one that is gone does
    /// not want to know.
    pub(crate) fn send_handed_over(&self) {
        if let Err(error) = self.send_behind(FromPredecessor::HandedOver) {
            log::debug!("`handed_over` did not reach {self}: {error}");
        }
    }

    /// Tells it to publish its process ID.
    pub(crate) fn send_publish(&mut self) -> io::Result<()> {
        self.send_in_time(FromPredecessor::Publish, &[])?;
        self.step = Step::AwaitingPublication;
        Ok(())
    }

    /// Tells it that nothing is taken back any more.
    pub(crate) fn send_proven(&mut self) -> io::Result<()> {
        self.send_in_time(FromPredecessor::Proven, &[])?;
        self.step = Step::Proven;
        Ok(())
    }

    /// Tells it to reload.
    pub(crate) fn send_reload(&self) -> io::Result<()> {
        self.send_behind(FromPredecessor::Reload)
    }

    /// Tells it to stop.
    pub(crate) fn send_stop(&self) -> io::Result<()> {
        // It must not take our end for the word to serve.
        if self.has_unsent_serve() {
            self.unsent.take();
            return self.send(&FromPredecessor::Dismissed, &[]);
        }
        self.send_in_time(FromPredecessor::Stop, &[])
    }

    /// Whether there is something that could not be sent yet.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.borrow().is_some()
    }

    /// Whether the word to serve could not be sent yet.
    pub(crate) fn has_unsent_serve(&self) -> bool {
        let unsent = self.unsent.borrow();
        let mut messages = unsent.iter().flat_map(|unsent| &unsent.messages);
        messages.any(|(message, _)| matches!(message, FromPredecessor::Serve { .. }))
    }

    /// Sends a message now or, if that is impossible for the moment, soon.
    fn send_in_time(
        &self,
        message: FromPredecessor,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut unsent = self.unsent.borrow_mut();
        if unsent.is_none() {
            match self.send(&message, descriptors) {
                Err(error) if passes(&error) => {
                    log::debug!("{self}: nothing can be passed on at the moment: {error}");
                }
                sent => return sent,
            }
        }
        let copies = descriptors.iter().map(BorrowedFd::try_clone_to_owned);
        let copies = copies.collect::<io::Result<_>>()?;
        let unsent = unsent.get_or_insert_with(|| Unsent {
            messages: VecDeque::new(),
            since: Instant::now(),
            pause: Timer::after(UNSENT_PAUSE),
        });
        unsent.messages.push_back((message, copies));
        Ok(())
    }

    /// Sends a message now, but behind what could not be sent yet.
    fn send_behind(&self, message: FromPredecessor) -> io::Result<()> {
        match self.has_unsent() {
            true => self.send_in_time(message, &[]),
            false => self.send(&message, &[]),
        }
    }

    /// Waits until everything is sent.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(mut unsent) = self.unsent.take() else {
            return Poll::Ready(Ok(()));
        };
        while unsent.pause.poll(cx).is_ready() {
            let sent = loop {
                let Some((message, descriptors)) = unsent.messages.front() else {
                    return Poll::Ready(Ok(()));
                };
                let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                match self.send(message, &descriptors) {
                    Ok(()) => drop(unsent.messages.pop_front()),
                    Err(error) => break error,
                }
            };
            if !passes(&sent) || unsent.since.elapsed() >= UNSENT_PATIENCE {
                return Poll::Ready(Err(sent));
            }
            unsent.pause = Timer::after(UNSENT_PAUSE);
        }
        self.unsent.replace(Some(unsent));
        Poll::Pending
    }

    fn send(&self, message: &FromPredecessor, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(message, descriptors, &[])
    }

    fn send_with(
        &self,
        message: &FromPredecessor,
        descriptors: &[BorrowedFd<'_>],
        bytes: &[u8],
    ) -> io::Result<()> {
        let name = message.name();
        log::trace!("{self}: sending `{name}`");
        let sent = match &self.channel {
            Some(channel) => channel.send_with(message, descriptors, bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        log::trace!("{self}: sent `{name}`");
        sent
    }

    /// Waits for the next thing it lets us know; after [`Report::Lost`] there
    /// is none.
    pub(crate) fn poll_report(&mut self, listeners: usize, cx: &mut Context<'_>) -> Poll<Report> {
        let sent = self.poll_unsent(cx);
        let has_unsent = sent.is_pending();
        if let Poll::Ready(sent) = sent {
            match (self.welcomed.take(), sent) {
                (Some(welcomed), sent) => drop(welcomed.try_send(sent)),
                (None, Err(error)) => return lost(Loss::Unreachable(error)),
                (None, Ok(())) => {}
            }
        }
        if let Process::Preparing(preparing, startable) = &mut self.process {
            let prepared = ready!(preparing.poll(cx));
            let startable = mem::replace(startable, Err(io::ErrorKind::NotFound.into()));
            self.process = Process::Gone;
            let starting = match (prepared, startable) {
                (Err(reason), _) => return lost(Loss::Refused(reason)),
                (Ok(_), Err(error)) => return lost(Loss::NotStarted(error)),
                (Ok(prepare), Ok(startable)) => startable.start(prepare),
            };
            self.process = Process::Starting(starting);
            self.begun = Instant::now();
            return Poll::Ready(Report::Begins);
        }
        if let Process::Starting(starting) = &mut self.process {
            // It can speak before we know that it lives; until we do, it is
            // not listened to, so that whatever is said of it names its pid.
            match ready!(starting.poll(cx)) {
                Ok(running) => {
                    self.pid = Some(running.child.id());
                    self.process = Process::Running(running);
                }
                Err(error) => {
                    self.process = Process::Gone;
                    return lost(Loss::NotStarted(error));
                }
            }
        }
        // Its end is looked for before its words are, and told after them: it
        // may have said why, or that it ends on purpose, and have done so
        // between two looks. The status is kept by the child for the next call.
        let exited = match &mut self.process {
            Process::Running(running) => running.poll_exit(cx).map_ok(Some),
            Process::Foreign(pidfd) => poll_end(pidfd, cx).map_ok(|()| None),
            Process::Preparing(..) | Process::Starting(_) | Process::Gone => Poll::Pending,
        };
        if has_unsent && exited.is_pending() {
            return Poll::Pending;
        }
        if let Some(channel) = &self.channel
            && let Poll::Ready(received) = channel.poll_receive(cx)
        {
            match received.and_then(Packet::whole) {
                Ok(packet) => match self.hear(packet.message, listeners) {
                    Some(Report::Lost(loss)) => return lost(loss),
                    // A dead process is not to be the published one. It may
                    // have said after that that it leaves.
                    Some(Report::Published) if exited.is_ready() => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Some(report) => return Poll::Ready(report),
                    // One that never stops talking must not keep its deadline
                    // from passing, nor everybody else waiting.
                    None => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                },
                Err(Silence::Closed) => {
                    self.channel = None;
                    let patience = match self.step {
                        Step::AwaitingClaim | Step::AwaitingReadiness => LAST_WORDS,
                        Step::Serving
                        | Step::AwaitingPublication
                        | Step::Published
                        | Step::Proven => LAST_WORDS_SERVING,
                    };
                    self.hung_up = Some(Timer::after(patience));
                }
                Err(Silence::Nonsense(what)) => return lost(Loss::Nonsense(what)),
            }
        }
        if let Poll::Ready(exited) = exited {
            return match exited {
                Ok(status) => {
                    self.process = Process::Gone;
                    lost(status.map_or(Loss::Ended, Loss::Exited))
                }
                Err(error) => lost(Loss::Unwatchable(error)),
            };
        }
        if let Some(hung_up) = &mut self.hung_up
            && hung_up.poll(cx).is_ready()
        {
            return lost(Loss::HungUp);
        }
        Poll::Pending
    }

    /// Whether it has closed its end of the channel, so that its loss is only
    /// a matter of time.
    pub(crate) fn has_hung_up(&self) -> bool {
        self.hung_up.is_some()
    }

    /// Understands a message; `None` if it calls for nothing.
    fn hear(&mut self, message: FromSuccessor, listeners: usize) -> Option<Report> {
        let name = message.name();
        log::trace!("{self}: received `{name}`");
        match (message, self.step) {
            (FromSuccessor::GetListener { version, .. }, _) if version != VERSION => {
                Some(Report::Lost(Loss::Version(version)))
            }
            (
                FromSuccessor::GetListener {
                    pid,
                    free_descriptors: free,
                    ..
                },
                Step::AwaitingClaim,
            ) => {
                self.step = Step::AwaitingReadiness;
                // What somebody else has started may count its processes in
                // another way; we have it from the kernel.
                if !self.is_foreign() {
                    self.claimant = u32::try_from(pid).ok();
                    self.is_our_child = self.claimant == self.pid;
                }
                // A packet whose descriptors do not fit arrives without them;
                // better to say so here than to wonder there. The ledger and
                // the application's state want one each.
                let needed = listeners + 2;
                Some(if free < needed as u64 {
                    Report::Lost(Loss::TooFewDescriptors { free, needed })
                } else {
                    Report::Claimed
                })
            }
            (
                FromSuccessor::Ready {
                    listeners,
                    room,
                    control,
                },
                Step::AwaitingReadiness,
            ) => {
                self.step = Step::Serving;
                Some(Report::Ready {
                    keeps: listeners,
                    room,
                    control,
                })
            }
            (
                FromSuccessor::Adopted { batch, taken, room },
                Step::Serving | Step::AwaitingPublication | Step::Published | Step::Proven,
            ) => Some(Report::Adopted(Receipt { batch, taken, room })),
            (FromSuccessor::Published, Step::AwaitingPublication) => {
                self.step = Step::Published;
                Some(Report::Published)
            }
            (
                FromSuccessor::Stopping,
                Step::Serving | Step::AwaitingPublication | Step::Published | Step::Proven,
            ) => {
                self.step = Step::Proven;
                Some(Report::Stopping)
            }
            (FromSuccessor::Failed { reason }, step) => {
                self.last_words = Some(reason);
                // It serves, and goes on with that until it is told not to.
                (step == Step::AwaitingPublication).then_some(Report::Lost(Loss::Unpublished))
            }
            (
                FromSuccessor::GetListener { .. }
                | FromSuccessor::Ready { .. }
                | FromSuccessor::Adopted { .. }
                | FromSuccessor::Published
                | FromSuccessor::Stopping,
                Step::AwaitingClaim
                | Step::AwaitingReadiness
                | Step::Serving
                | Step::AwaitingPublication
                | Step::Published
                | Step::Proven,
            ) => Some(Report::Lost(Loss::OutOfOrder(name))),
        }
    }

    /// One that has just been started and has no process, so that a test can
    /// play it: that has the other end.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn played() -> io::Result<(Self, OwnedFd)> {
        let (channel, theirs) = open_channel()?;
        let successor = Successor::new(Some(channel), Process::Gone, None);
        Ok((successor, theirs))
    }

    /// Leaves it alone, except for reaping it when it exits; tells how that
    /// was, if it is known.
    pub(crate) async fn release(self) -> Option<ExitStatus> {
        match self.process {
            Process::Running(mut running) => running.exit().await.ok(),
            // Somebody else hears how it ends.
            Process::Foreign(_) | Process::Preparing(..) | Process::Starting(_) | Process::Gone => {
                None
            }
        }
    }

    /// Waits so long for it to exit by itself, then does as
    /// [`Successor::dismiss`].
    pub(crate) async fn outwait(mut self, patience: Duration) -> bool {
        if let Process::Running(running) = &mut self.process {
            let exited = async { drop(running.exit().await) };
            let late = async {
                Timer::after(patience).await;
            };
            exited.or(late).await;
        }
        self.dismiss().await
    }

    /// How it has ended, if it is our child and has. It may be reaped by this,
    /// or have been, and then nobody else will ever know.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        match &mut self.process {
            Process::Running(running) => running.child.try_wait().ok().flatten(),
            Process::Foreign(_) | Process::Preparing(..) | Process::Starting(_) | Process::Gone => {
                None
            }
        }
    }

    /// It hangs, and has something of ours: it is to be killed when it is
    /// dismissed, whoever has started it.
    pub(crate) fn condemn(&mut self) {
        self.is_condemned = true;
    }

    /// Kills it if it lives, then reaps it and closes the channel; tells
    /// whether it is certain to be gone.
    ///
    /// The returned future only waits; the signal is sent before this returns,
    /// unless the process is still being started.
    pub(crate) fn dismiss(self) -> impl Future<Output = bool> + use<> {
        // A process that is not our child may have the other end, if the
        // executable is a script that starts another one.
        let told = self.send(&FromPredecessor::Dismissed, &[]);
        if let Err(error) = &told {
            log::debug!("`dismissed` did not reach the successor: {error}");
        }
        let (name, serves) = (self.to_string(), self.step >= Step::Serving);
        let Successor {
            channel,
            process,
            is_our_child,
            is_condemned,
            ..
        } = self;
        match &process {
            Process::Running(running) => running.kill(),
            // Whoever has started it is to decide what becomes of it. But one
            // that serves and cannot be told otherwise would go on beside us;
            // and so would one day one that has no room for the word, when it
            // sees the end of the channel.
            Process::Foreign(pidfd)
                if is_condemned || told.is_err_and(|error| serves || passes(&error)) =>
            {
                log::warn!("{name} hangs, or cannot be told that it is dismissed: it is killed");
                let _ = pidfd_send_signal(pidfd.get_ref(), Signal::KILL);
            }
            Process::Foreign(_) | Process::Preparing(..) | Process::Starting(_) | Process::Gone => {
            }
        }
        async move {
            let burial = async {
                let running = match process {
                    Process::Preparing(preparing, _) => {
                        preparing.abandon().await;
                        None
                    }
                    Process::Starting(starting) => starting.await.ok().inspect(Running::kill),
                    Process::Running(running) => Some(running),
                    Process::Foreign(pidfd) => {
                        let _ = future::poll_fn(|cx| poll_end(&pidfd, cx)).await;
                        None
                    }
                    Process::Gone => None,
                };
                if let Some(mut running) = running {
                    let _ = running.exit().await;
                }
                is_our_child
            };
            let patience = async {
                Timer::after(BURIAL).await;
                log::warn!("a dismissed successor has not exited in {BURIAL:?}");
                false
            };
            let is_gone = burial.or(patience).await;
            // Only now may it see the end of the channel.
            drop(channel);
            is_gone
        }
    }
}

impl fmt::Display for Successor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "successor {pid}"),
            None => f.write_str("the successor"),
        }
    }
}

impl Running {
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Poll::Ready(Ok(status));
            }
            ready!(self.pidfd.poll_readable(cx))?;
        }
    }

    async fn exit(&mut self) -> io::Result<ExitStatus> {
        future::poll_fn(|cx| self.poll_exit(cx)).await
    }

    fn kill(&self) {
        // Fails only if it has exited.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }
}

/// Waits for the end of a process that is not our child.
fn poll_end(pidfd: &Async<OwnedFd>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    loop {
        let at_once = Timespec::default();
        let mut fds = [PollFd::new(pidfd.get_ref(), PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&at_once)))? > 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(pidfd.poll_readable(cx))?;
    }
}

fn welcome(generation: u64, bequest: Bequest<'_>) -> FromPredecessor {
    FromPredecessor::Welcome {
        version: VERSION,
        pid: i32::try_from(std::process::id()).unwrap_or(i32::MAX),
        generation,
        line: bequest.line.is_some(),
        terminal: bequest.terminal,
    }
}

fn lost(loss: Loss) -> Poll<Report> {
    Poll::Ready(Report::Lost(loss))
}

/// Starts a process off the executor.
///
/// Until `exec` has succeeded the calling thread stands still, so it is not the
/// one that serves. No `pre_exec`: with it, the standard library would have to
/// fork, which takes time in proportion to the heap. And not `smol::unblock`,
/// which spins on the thread that serves for as long as the system refuses
/// another thread; here that is a failed restart like any other.
fn spawn(mut command: Command) -> io::Result<Boxed<io::Result<Running>>> {
    let (told, starting) = smol::channel::bounded(1);
    thread::Builder::new()
        .name("start successor".to_owned())
        .spawn(move || {
            let started = command.spawn().and_then(|mut child| match watch(&child) {
                Ok(pidfd) => Ok(Running { child, pidfd }),
                Err(error) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    Err(error)
                }
            });
            // It took so long to start that nobody waits for it any more.
            if let Err(TrySendError::Closed(Ok(mut running))) = told.try_send(started) {
                running.kill();
                let _ = running.child.wait();
            }
        })?;
    let started = async move {
        let unheard = |_| Err(io::Error::other("the thread that starts it has panicked"));
        starting.recv().await.unwrap_or_else(unheard)
    };
    Ok(started.boxed())
}

/// Opens a channel; the second end is the successor's.
fn open_channel() -> io::Result<(Channel<FromPredecessor, FromSuccessor>, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    Ok((Channel::new(ours)?, theirs))
}

/// A descriptor that becomes readable when the child exits.
fn watch(child: &Child) -> io::Result<Async<OwnedFd>> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidData)?;
    // The child cannot have been reaped, so the number is still its own.
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Async::new_nonblocking(pidfd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future::poll_once;

    /// A successor that does not read, to which nothing more can be sent.
    fn one_that_is_full() -> (Successor, Channel<FromSuccessor, FromPredecessor>) {
        let (successor, theirs) = Successor::played().unwrap();
        while successor.send_reload().is_ok() {}
        (successor, Channel::new(theirs).unwrap())
    }

    fn hear(theirs: &Channel<FromSuccessor, FromPredecessor>) -> Option<FromPredecessor> {
        Some(theirs.try_receive()?.unwrap().message)
    }

    #[test]
    fn what_could_not_be_sent_is_sent_before_what_comes_later() {
        let (mut successor, theirs) = one_that_is_full();
        successor.send_serve(None, 7, None).unwrap();
        assert!(successor.send_connections(0, Vec::new(), &[], &[]).is_err());
        successor.send_reload().unwrap();
        successor.send_handed_over();
        let reason = "the moon is full".to_owned();
        theirs.send(&FromSuccessor::Failed { reason }, &[]).unwrap();
        while hear(&theirs).is_some() {}
        smol::block_on(future::poll_fn(|cx| {
            assert!(successor.poll_report(0, cx).is_pending());
            match successor.has_unsent() {
                // Its words are not an answer to what it has not heard.
                true => assert_eq!(successor.last_words(), None),
                false => return Poll::Ready(()),
            }
            Poll::Pending
        }));
        let serve = FromPredecessor::Serve {
            ledger: false,
            connections: 7,
            proven_within_ms: None,
        };
        assert_eq!(hear(&theirs), Some(serve));
        assert_eq!(hear(&theirs), Some(FromPredecessor::Reload));
        assert_eq!(hear(&theirs), Some(FromPredecessor::HandedOver));
        assert_eq!(hear(&theirs), None);
        assert!(successor.last_words().is_some());
    }

    #[test]
    fn what_cannot_be_sent_for_too_long_is_a_loss() {
        let (mut successor, _theirs) = one_that_is_full();
        successor.send_serve(None, 7, None).unwrap();
        let report = smol::block_on(future::poll_fn(|cx| successor.poll_report(0, cx)));
        assert!(matches!(report, Report::Lost(Loss::Unreachable(_))));
        assert!(!successor.has_unsent());
    }

    #[test]
    fn one_that_could_not_be_told_to_serve_does_not_when_the_service_stops() {
        let (successor, theirs) = one_that_is_full();
        successor.send_serve(None, 7, None).unwrap();
        while hear(&theirs).is_some() {}
        successor.send_stop().unwrap();
        assert_eq!(hear(&theirs), Some(FromPredecessor::Dismissed));
        assert!(!successor.has_unsent());
    }

    #[test]
    fn one_that_is_dismissed_before_it_could_be_told_to_serve_never_is() {
        let (successor, theirs) = one_that_is_full();
        successor.send_serve(None, 7, None).unwrap();
        while hear(&theirs).is_some() {}
        assert!(smol::block_on(successor.dismiss()));
        assert_eq!(hear(&theirs), Some(FromPredecessor::Dismissed));
        assert!(matches!(theirs.try_receive(), Some(Err(Silence::Closed))));
    }

    /// It would take the end of the channel for ours.
    #[test]
    fn one_of_somebody_else_that_has_no_room_for_its_dismissal_is_killed() {
        use std::os::unix::process::ExitStatusExt as _;
        // It waits for input that never comes.
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(cat.id()).ok().and_then(Pid::from_raw);
        let (successor, theirs) = Successor::foreign(pid.unwrap(), 1).unwrap();
        while successor.send_reload().is_ok() {}
        assert!(smol::block_on(successor.dismiss()));
        drop(theirs);
        assert_eq!(cat.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_second_stop_that_has_to_wait_is_no_dismissal() {
        let (mut successor, theirs) = one_that_is_full();
        successor.send_stop().unwrap();
        successor.send_stop().unwrap();
        while hear(&theirs).is_some() {}
        smol::block_on(future::poll_fn(|cx| {
            assert!(successor.poll_report(0, cx).is_pending());
            match successor.has_unsent() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        }));
        assert_eq!(hear(&theirs), Some(FromPredecessor::Stop));
        assert_eq!(hear(&theirs), Some(FromPredecessor::Stop));
        assert_eq!(hear(&theirs), None);
    }

    #[test]
    fn one_that_never_stops_talking_is_heard_one_message_at_a_time() {
        let (mut successor, theirs) = Successor::played().unwrap();
        let theirs = Channel::<FromSuccessor, FromPredecessor>::new(theirs).unwrap();
        let reasons = ["the moon is full", "the sun is dark"];
        for reason in reasons.map(str::to_owned) {
            theirs.send(&FromSuccessor::Failed { reason }, &[]).unwrap();
        }
        for reason in reasons {
            let report = future::poll_fn(|cx| successor.poll_report(0, cx));
            assert!(smol::block_on(poll_once(report)).is_none());
            assert_eq!(successor.last_words(), Some(reason));
        }
    }
}
