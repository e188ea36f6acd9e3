//! The successor's end of the handoff: its predecessor, as it sees it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::{Async, Timer};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
#[cfg(any(test, fuzzing))]
use rustix::net::{SocketFlags, socketpair};
use rustix::process::{Pid, PidfdFlags, Resource, Signal, pidfd_open, pidfd_send_signal};
use smol::future::FutureExt as _;

use super::PREDECESSOR_VARIABLE;
use super::channel::{Channel, Packet, Silence};
use super::message::{ConnectionRecord, FromPredecessor, FromSuccessor, VERSION};
use crate::error::{Error, Result};
use crate::listener::ListenerRecord;

/// How long an answer of the predecessor is waited for. It sends one at once,
/// so this is the deadline for one that was stopped or hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a dying predecessor may take to close everything: what a process
/// has open does not close in one moment. It may also live on, if it has
/// closed nothing but the channel.
const LAST_MOMENTS: Duration = Duration::from_secs(5);

/// The process that started this one to take over from it.
///
/// Owns our end of the channel; dropping that is how the predecessor learns
/// that we are gone.
pub(crate) struct Predecessor {
    /// `None` once the predecessor is gone.
    channel: Option<Channel<FromSuccessor, FromPredecessor>>,
    pid: i32,
    generation: u64,
    /// Whether it may hand connections over yet.
    hands_over: bool,
    /// Whether it may say that we are proven: it has asked us to publish
    /// ourselves, or we stop.
    may_prove: bool,
    bequest: Bequest,
}

/// What comes down from the first process.
#[derive(Debug, Default)]
pub(crate) struct Bequest {
    /// The line to it, if it follows the generations.
    pub(crate) line: Option<OwnedFd>,
    /// Whether the service ends with its terminal.
    pub(crate) terminal: bool,
}

/// What a predecessor gives when it is asked for its listeners.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    pub(crate) listeners: Vec<(ListenerRecord, OwnedFd)>,
    /// A stream of so many bytes.
    pub(crate) state: Option<(OwnedFd, u64)>,
}

/// What comes with the word to serve.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    /// How many connections may follow.
    pub(crate) connections: usize,
    /// Where to note what is done with them.
    pub(crate) ledger: Option<OwnedFd>,
    /// In what time we are proven, unless the predecessor hangs.
    pub(crate) proven_within: Option<Duration>,
}

/// What a predecessor asks of us once we serve.
#[derive(Debug)]
pub(crate) enum Request {
    Adopt(Delivery),
    /// No more connections will come.
    HandedOver,
    /// To make our process ID the published one.
    Publish,
    Proven,
    Reload,
    Stop,
    /// We are not wanted any more: it serves again.
    Dismissed,
    /// It is gone, so it will not take anything back.
    Gone,
}

/// A batch of connections.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) batch: u64,
    pub(crate) connections: Vec<ConnectionRecord>,
    /// Of the first connections, if there was no room for all.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// What was read from them, one after another.
    pub(crate) bytes: Vec<u8>,
}

impl fmt::Debug for Predecessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Predecessor")
            .field("pid", &self.pid)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Predecessor {
    /// Finds the predecessor of this process, and puts the real standard input
    /// back in its place; `None` if there is no predecessor.
    pub(crate) fn find() -> Result<Option<Self>> {
        let Some(channel) = channel_on_stdin() else {
            return Ok(None);
        };
        let step = "taking the channel over from standard input";
        let channel = channel.map_err(|cause| Error::handoff(step, cause))?;
        // It was sent before this process was started.
        let packet = match channel.try_receive().map(|it| it.and_then(Packet::whole)) {
            Some(Ok(packet)) => packet,
            Some(Err(silence)) => return Err(Error::handoff("reading the welcome", silence)),
            None => {
                let cause = io::Error::from(io::ErrorKind::WouldBlock);
                return Err(Error::handoff("reading the welcome", cause));
            }
        };
        let mut predecessor = Predecessor {
            channel: Some(channel),
            pid: 0,
            generation: 0,
            hands_over: true,
            may_prove: false,
            bequest: Bequest::default(),
        };
        let mut descriptors = packet.descriptors;
        let count = descriptors.len();
        if let FromPredecessor::Welcome {
            pid,
            generation,
            line,
            terminal,
            ..
        } = packet.message
        {
            predecessor.pid = pid;
            predecessor.generation = generation;
            predecessor.bequest.terminal = terminal;
            if line {
                predecessor.bequest.line = descriptors.pop();
            }
        }
        predecessor.received(&packet.message);
        match (packet.message, descriptors.as_slice()) {
            (FromPredecessor::Welcome { version, .. }, _) if version != VERSION => {
                let error = Error::version(version, VERSION);
                predecessor.send_failed(&error.to_string());
                Err(error)
            }
            (FromPredecessor::Welcome { .. }, [stdin]) => {
                rustix::stdio::dup2_stdin(stdin)
                    .map_err(|cause| Error::handoff("putting standard input back", cause))?;
                Ok(Some(predecessor))
            }
            (message, _) => Err(Error::handoff(
                "reading the welcome",
                unexpected(&message, count),
            )),
        }
    }

    /// The predecessor that has given us this end of a channel, because we have
    /// asked for it; standard input is not its business.
    pub(crate) fn granted(channel: OwnedFd) -> Result<Self> {
        const STEP: &str = "reading the welcome";
        let is_channel = sockopt::socket_type(&channel) == Ok(SocketType::SEQPACKET)
            && sockopt::socket_domain(&channel) == Ok(AddressFamily::UNIX);
        if !is_channel {
            let cause = io::Error::new(io::ErrorKind::InvalidData, "it is not a channel");
            return Err(Error::handoff(STEP, cause));
        }
        // Not what it says itself: we may have to wait for it, or to kill it.
        let peer = sockopt::socket_peercred(&channel);
        let peer = peer.map_err(|cause| Error::handoff(STEP, cause))?;
        let channel = Channel::new(channel).map_err(|cause| Error::handoff(STEP, cause))?;
        // It was sent before this end was.
        let packet = match channel.try_receive().map(|it| it.and_then(Packet::whole)) {
            Some(received) => received.map_err(|silence| Error::handoff(STEP, silence))?,
            None => return Err(Error::overdue(STEP)),
        };
        match (packet.message, packet.descriptors.len()) {
            (
                FromPredecessor::Welcome {
                    version,
                    generation,
                    ..
                },
                0,
            ) => {
                let predecessor = Predecessor {
                    channel: Some(channel),
                    pid: peer.pid.as_raw_nonzero().get(),
                    generation,
                    hands_over: true,
                    may_prove: false,
                    bequest: Bequest::default(),
                };
                if version == VERSION {
                    return Ok(predecessor);
                }
                let error = Error::version(version, VERSION);
                predecessor.send_failed(&error.to_string());
                Err(error)
            }
            (message, descriptors) => Err(Error::handoff(STEP, unexpected(&message, descriptors))),
        }
    }

    /// One that has said welcome and has no process, so that a test can play
    /// it: that has the other end.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn played() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let predecessor = Predecessor {
            channel: Some(Channel::new(ours)?),
            // Nobody, so that there is no end to be waited for.
            pid: 0,
            generation: 1,
            hands_over: true,
            may_prove: false,
            bequest: Bequest::default(),
        };
        Ok((predecessor, theirs))
    }

    /// Whether it has exited, as far as we have heard.
    pub(crate) fn is_gone(&self) -> bool {
        self.channel.is_none()
    }

    /// What comes down from the first process; the second time, nothing.
    pub(crate) fn take_bequest(&mut self) -> Bequest {
        std::mem::take(&mut self.bequest)
    }

    /// Its generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Its process ID.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks for the listeners and waits for them.
    ///
    /// `None` if the predecessor died before it sent them: then there is
    /// nothing to take over.
    pub(crate) async fn claim(&mut self, generation: u64) -> Result<Option<Inheritance>> {
        const STEP: &str = "claiming the listeners";
        let claim = FromSuccessor::GetListener {
            version: VERSION,
            pid: i32::try_from(std::process::id()).unwrap_or(i32::MAX),
            generation,
            free_descriptors: free_descriptors(),
        };
        // An error here means that the predecessor is gone, which the wait for
        // its answer finds out.
        self.send(&claim);
        let mut inheritance = Inheritance::default();
        loop {
            let Some((message, descriptors)) = self.receive(STEP).await? else {
                self.end().await;
                return Ok(None);
            };
            let FromPredecessor::Listeners {
                listeners,
                more,
                state,
            } = message
            else {
                let cause = unexpected(&message, descriptors.len());
                return Err(Error::handoff(STEP, cause));
            };
            let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
            let mut take = |fd: usize| descriptors.get_mut(fd).and_then(Option::take);
            for record in listeners {
                let Some(descriptor) = take(record.fd) else {
                    return Err(Error::adopt(
                        &record.addr.requested,
                        "its descriptor was not sent along",
                    ));
                };
                inheritance.listeners.push((record, descriptor));
            }
            if let Some(state) = state {
                let Some(stream) = take(state.fd) else {
                    return Err(Error::state("its descriptor was not sent along"));
                };
                inheritance.state = Some((stream, state.bytes));
            }
            if !more {
                return Ok(Some(inheritance));
            }
        }
    }

    /// Waits for the end of one that has closed the channel. A process that is
    /// killed closes its descriptors one after another, so that its listeners
    /// may be open for longer than its channel; who binds the same addresses
    /// must not come before that.
    async fn end(&self) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        // Otherwise it is gone already.
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            && let Ok(pidfd) = Async::new_nonblocking(pidfd)
        {
            let ended = async {
                let _ = pidfd.readable().await;
            };
            let patience = async {
                Timer::after(LAST_MOMENTS).await;
            };
            ended.or(patience).await;
        }
    }

    /// Whether it is gone, or about to be.
    ///
    /// # Errors
    ///
    /// [`Error`] if it lives and has dismissed us, during this step.
    pub(crate) async fn is_ending(&mut self, step: &'static str) -> Result<bool> {
        let Some(channel) = &self.channel else {
            return Ok(true);
        };
        let patience = async {
            Timer::after(LAST_MOMENTS).await;
            None
        };
        let received = async { Some(channel.receive().await) };
        match received.or(patience).await {
            Some(Ok(packet)) if packet.message == FromPredecessor::Dismissed => {
                self.received(&packet.message);
                self.channel = None;
                Err(Error::dismissed(step))
            }
            Some(Err(Silence::Closed)) => {
                self.channel = None;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Says that everything is prepared, that there is room for so many
    /// connections, and where the control socket is, and waits for the word to
    /// accept; with it may come the ledger for the connections that follow.
    ///
    /// Returns also when the predecessor is gone: then nobody else accepts.
    pub(crate) async fn await_serve(
        &mut self,
        keeps: Vec<String>,
        room: usize,
        control: Option<String>,
    ) -> Result<Commit> {
        const STEP: &str = "waiting for the word to serve";
        self.send(&FromSuccessor::Ready {
            listeners: keeps,
            room,
            control,
        });
        let Some((message, mut descriptors)) = self.receive(STEP).await? else {
            return Ok(Commit::default());
        };
        match message {
            FromPredecessor::Serve {
                ledger,
                connections,
                proven_within_ms,
            } if descriptors.len() == usize::from(ledger) => Ok(Commit {
                connections,
                ledger: descriptors.pop(),
                proven_within: proven_within_ms.map(Duration::from_millis),
            }),
            message => Err(Error::handoff(
                STEP,
                unexpected(&message, descriptors.len()),
            )),
        }
    }

    /// Says how many connections of a batch we have, and how many more we can
    /// take.
    pub(crate) fn send_adopted(&self, batch: u64, taken: usize, room: usize) {
        self.send(&FromSuccessor::Adopted { batch, taken, room });
    }

    /// Says that our process ID is the published one.
    pub(crate) fn send_published(&self) {
        self.send(&FromSuccessor::Published);
    }

    /// Says that we stop on purpose.
    pub(crate) fn send_stopping(&mut self) {
        self.may_prove = true;
        self.send(&FromSuccessor::Stopping);
    }

    /// Says why we give up.
    pub(crate) fn send_failed(&self, reason: &str) {
        // A reason is for a log line, not for a packet limit to stumble over.
        const LONGEST_REASON: usize = 4096;
        let reason = reason.chars().take(LONGEST_REASON).collect();
        self.send(&FromSuccessor::Failed { reason });
    }

    /// Sends to a predecessor that may be gone; that it is gone is found out
    /// by listening, not by speaking.
    fn send(&self, message: &FromSuccessor) {
        let name = message.name();
        log::trace!("predecessor {}: sending `{name}`", self.pid);
        if let Some(channel) = &self.channel
            && let Err(error) = channel.send(message, &[])
        {
            log::debug!("`{name}` did not reach the predecessor: {error}");
        }
        log::trace!("predecessor {}: sent `{name}`", self.pid);
    }

    fn received(&self, message: &FromPredecessor) {
        log::trace!("predecessor {}: received `{}`", self.pid, message.name());
    }

    /// Whether it may hand connections over yet, or is there to take them
    /// back.
    pub(crate) fn hands_over(&self) -> bool {
        self.hands_over && !self.is_gone()
    }

    /// Takes no more from it than what it has sent already.
    pub(crate) fn hear_the_last(&self) {
        if let Some(channel) = &self.channel
            && let Err(error) = channel.hear_the_last()
        {
            log::debug!("the channel to the predecessor could not be closed: {error}");
        }
    }

    /// Whether it has closed the channel; what it has said before may still be
    /// there to be heard.
    pub(crate) fn has_hung_up(&self) -> bool {
        let ended = self.channel.as_ref().map(Channel::has_ended);
        !matches!(ended, Some(Ok(false)))
    }

    /// Kills it, if it lives: it hangs, and must not come back.
    pub(crate) fn fence(&self) -> io::Result<()> {
        let (Some(pid), Some(channel)) = (Pid::from_raw(self.pid), &self.channel) else {
            return Ok(());
        };
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // It was there after that, so the number was its own.
        if channel.has_ended()? {
            return Ok(());
        }
        pidfd_send_signal(pidfd, Signal::KILL)?;
        Ok(())
    }

    /// Waits for the next thing it asks of us; after [`Request::Gone`] there is
    /// none.
    pub(crate) fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Request> {
        let Some(channel) = &self.channel else {
            return Poll::Pending;
        };
        let Poll::Ready(received) = channel.poll_receive(cx) else {
            return Poll::Pending;
        };
        let request = received.map(|packet| {
            self.received(&packet.message);
            self.understand(packet)
        });
        let problem = match request {
            Ok(Ok(request)) => {
                match request {
                    Request::HandedOver => self.hands_over = false,
                    Request::Publish => self.may_prove = true,
                    _ => {}
                }
                return Poll::Ready(request);
            }
            Err(Silence::Closed) => None,
            Ok(Err(name)) => Some(format!("sent `{name}` out of order")),
            Err(Silence::Nonsense(what)) => Some(format!("spoke nonsense: {what}")),
        };
        if let Some(problem) = problem {
            log::warn!("the predecessor {problem}; it is no longer listened to");
        }
        self.channel = None;
        Poll::Ready(Request::Gone)
    }

    /// What a packet asks of us; otherwise the name of a message that comes
    /// too late.
    fn understand(
        &self,
        packet: Packet<FromPredecessor>,
    ) -> std::result::Result<Request, &'static str> {
        let name = packet.message.name();
        match packet.message {
            FromPredecessor::Connections { batch, connections } if self.hands_over => {
                Ok(Request::Adopt(Delivery {
                    batch,
                    connections,
                    descriptors: packet.descriptors,
                    bytes: packet.payload,
                }))
            }
            FromPredecessor::HandedOver => Ok(Request::HandedOver),
            FromPredecessor::Publish => Ok(Request::Publish),
            FromPredecessor::Proven if self.may_prove => Ok(Request::Proven),
            FromPredecessor::Reload => Ok(Request::Reload),
            FromPredecessor::Stop => Ok(Request::Stop),
            FromPredecessor::Dismissed => Ok(Request::Dismissed),
            FromPredecessor::Welcome { .. }
            | FromPredecessor::Listeners { .. }
            | FromPredecessor::Serve { .. }
            | FromPredecessor::Connections { .. }
            | FromPredecessor::Proven => Err(name),
        }
    }

    /// Receives one message within the deadline; `None` if the predecessor is
    /// gone.
    async fn receive(
        &mut self,
        step: &'static str,
    ) -> Result<Option<(FromPredecessor, Vec<OwnedFd>)>> {
        let Some(channel) = &self.channel else {
            return Ok(None);
        };
        let patience = async {
            Timer::after(PATIENCE).await;
            None
        };
        let received = async { Some(channel.receive().await) };
        let received = received.or(patience).await;
        match received.map(|received| received.and_then(Packet::whole)) {
            Some(Ok(packet)) if packet.message == FromPredecessor::Dismissed => {
                self.received(&packet.message);
                self.channel = None;
                Err(Error::dismissed(step))
            }
            Some(Ok(packet)) => {
                self.received(&packet.message);
                Ok(Some((packet.message, packet.descriptors)))
            }
            Some(Err(Silence::Closed)) => {
                self.channel = None;
                Ok(None)
            }
            Some(Err(silence)) => Err(Error::handoff(step, silence)),
            None => Err(Error::overdue(step)),
        }
    }
}

/// The channel, if standard input is one that the predecessor named by the
/// environment has made for us.
fn channel_on_stdin() -> Option<io::Result<Channel<FromSuccessor, FromPredecessor>>> {
    maker_of_stdin(PREDECESSOR_VARIABLE)?;
    Some(take_stdin().and_then(Channel::new))
}

/// The process that has made our standard input, if that is a socket for
/// packets and the variable names this process.
pub(crate) fn maker_of_stdin(variable: &str) -> Option<i32> {
    let named: i32 = std::env::var_os(variable)?.to_str()?.parse().ok()?;
    let stdin = rustix::stdio::stdin();
    let is_channel = sockopt::socket_type(stdin) == Ok(SocketType::SEQPACKET)
        && sockopt::socket_domain(stdin) == Ok(AddressFamily::UNIX)
        && sockopt::socket_peercred(stdin).is_ok_and(|peer| {
            peer.pid.as_raw_nonzero().get() == named && peer.uid == rustix::process::geteuid()
        });
    is_channel.then_some(named)
}

/// What is on standard input, above the standard descriptors, and closed in
/// every other child.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?)
}

/// How many descriptors this process can still open, as far as it can tell.
pub(crate) fn free_descriptors() -> u64 {
    let open = match std::fs::read_dir("/proc/self/fd") {
        Ok(open) => open.count() as u64,
        // There is not even one for the directory.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::MFILE) => return 0,
        // Without /proc the limit itself is the best guess; a wrong one ends in
        // a truncated packet, which is noticed.
        Err(_) => 0,
    };
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.unwrap_or(u64::MAX).saturating_sub(open)
}

fn unexpected(message: &FromPredecessor, descriptors: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the predecessor sent `{}` with {descriptors} descriptors",
            message.name()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Command;

    use rustix::process::{Rlimit, getrlimit, setrlimit};

    /// Set in a process that has this test to itself, because the limit is one
    /// of the whole process.
    const ALONE: &str = "HEIRLOOM_TEST_ALONE";

    #[test]
    fn without_a_descriptor_none_is_free() {
        if std::env::var_os(ALONE).is_none() {
            let name = "handoff::successor::tests::without_a_descriptor_none_is_free";
            let alone = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(ALONE, "")
                .output()
                .unwrap();
            let output = String::from_utf8_lossy(&alone.stdout);
            assert!(output.contains(" 1 passed"), "{output}");
            return;
        }
        let limit = Rlimit {
            current: Some(64),
            ..getrlimit(Resource::Nofile)
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut files = Vec::new();
        let error = loop {
            match File::open("/dev/null") {
                Ok(file) => files.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(Errno::from_io_error(&error), Some(Errno::MFILE));
        assert_eq!(free_descriptors(), 0);
    }
}
