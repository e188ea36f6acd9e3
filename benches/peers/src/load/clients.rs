//! The loop in which all clients of a run are.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::record::{Answered, Closed, Closure, Failed, Failure, Record};
use super::request::Request;
use super::response::{Misfit, read};
use super::{Group, Pace, Shared, lock};

/// The pause of a client in a closed loop after a failure. Failing is fast,
/// and a client that does nothing else takes the machine from those who try.
const BREATH: Duration = Duration::from_millis(10);

/// How long a client waits for the end of a connection that it has asked to
/// be closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the loop sleeps at most, so that it sees new orders.
const NAP: Duration = Duration::from_millis(5);

/// Requests of an open group that may be connecting at the same time: more
/// than a listen queue takes would be the clients' own fault.
const MOST_CONNECTING: usize = 256;

pub struct Clients {
    address: SocketAddr,
    host: String,
    beginning: Instant,
    patience: Duration,
    shared: Arc<Shared>,
    epoll: OwnedFd,
    clients: Vec<Client>,
    groups: Vec<State>,
    /// When to look at which client.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    next_id: u64,
    in_flight: usize,
    connecting: usize,
    record: Record,
}

/// A group at work.
struct State {
    group: Group,
    /// Clients of an open group that have nothing to do, the longest idle
    /// first.
    free: VecDeque<usize>,
    /// When requests were due that no client was free for.
    late: VecDeque<Instant>,
    /// When the next is due, how many there are, and how far apart.
    next: Instant,
    left: u64,
    interval: Duration,
}

struct Client {
    group: usize,
    socket: Option<OwnedFd>,
    /// Tells events of this socket from those of one before it.
    socket_number: u32,
    phase: Phase,
    request: Request,
    sent: usize,
    received: Vec<u8>,
    /// When the request was due.
    due: Instant,
    /// When to do what the phase says, unless something happens before.
    wake: Option<Instant>,
    /// The earliest timer that is set.
    timer: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is asked.
    Idle,
    /// After a failure.
    Resting,
    Connecting,
    /// A request is on its way, which has to be answered in time. The piece
    /// after the next pause is sent at the wake-up, if there is one.
    Asking {
        expires: Instant,
        /// Whether the response has come already, before all was sent.
        is_answered: bool,
    },
    /// Answered; waits for the end of the connection.
    Leaving,
}

impl Clients {
    pub fn new(
        address: SocketAddr,
        groups: &[Group],
        beginning: Instant,
        patience: Duration,
        shared: Arc<Shared>,
    ) -> anyhow::Result<Self> {
        ensure!(!groups.is_empty() && groups.len() < 256, "too many groups");
        let now = Instant::now();
        let mut clients = Vec::new();
        let mut states = Vec::new();
        for (number, &group) in groups.iter().enumerate() {
            let first = clients.len();
            clients.extend((0..group.clients).map(|_| Client {
                group: number,
                socket: None,
                socket_number: 0,
                phase: Phase::Idle,
                request: Request::default(),
                sent: 0,
                received: Vec::new(),
                due: now,
                wake: None,
                timer: None,
            }));
            states.push(State {
                group,
                free: match group.pace {
                    Pace::Open => (first..clients.len()).collect(),
                    Pace::Closed => VecDeque::new(),
                },
                late: VecDeque::new(),
                next: now,
                left: 0,
                interval: Duration::ZERO,
            });
        }
        Ok(Clients {
            address,
            host: address.to_string(),
            beginning,
            patience,
            shared,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("could not make an epoll")?,
            clients,
            groups: states,
            timers: BinaryHeap::new(),
            next_id: 1,
            in_flight: 0,
            connecting: 0,
            record: Record::default(),
        })
    }

    pub fn work(mut self) -> anyhow::Result<Record> {
        for client in 0..self.clients.len() {
            if self.pace(client) == Pace::Closed {
                self.ask(client, Instant::now())?;
            }
        }
        let mut events: Vec<epoll::Event> = Vec::with_capacity(512);
        loop {
            let is_over = self.shared.is_over.load(Ordering::Relaxed);
            self.take_orders();
            self.ask_what_is_due(is_over)?;
            self.look_at_timers()?;
            let is_late = self.groups.iter().any(|it| !it.late.is_empty());
            if is_over && self.in_flight == 0 && !is_late {
                break;
            }
            events.clear();
            let timeout = Timespec::try_from(self.until_next())?;
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("could not wait for responses"),
            }
            for event in &events {
                let data = event.data.u64();
                let client = usize::try_from(data & u64::from(u32::MAX))?;
                // Its socket may have been closed by an event before this one.
                if u64::from(self.clients[client].socket_number) == data >> 32 {
                    self.attend(client)?;
                }
            }
        }
        Ok(self.record)
    }

    fn pace(&self, client: usize) -> Pace {
        self.groups[self.clients[client].group].group.pace
    }

    fn since_beginning(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.beginning);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn take_orders(&mut self) {
        for order in lock(&self.shared.orders).drain(..) {
            let state = &mut self.groups[order.group];
            state.next = Instant::now();
            state.left = order.count;
            state.interval = order.interval;
        }
    }

    fn ask_what_is_due(&mut self, is_over: bool) -> anyhow::Result<()> {
        let now = Instant::now();
        for group in 0..self.groups.len() {
            let state = &mut self.groups[group];
            if is_over {
                state.left = 0;
            }
            while state.left > 0 && state.next <= now {
                state.late.push_back(state.next);
                state.next += state.interval;
                state.left -= 1;
            }
            loop {
                let state = &mut self.groups[group];
                let Some(&due) = state.late.front() else {
                    break;
                };
                if due + self.patience < now {
                    state.late.pop_front();
                    self.note(group, due, Failure::LateBefore);
                    continue;
                }
                if self.connecting >= MOST_CONNECTING {
                    break;
                }
                let Some(client) = state.free.pop_front() else {
                    break;
                };
                state.late.pop_front();
                self.ask(client, due)?;
            }
        }
        Ok(())
    }

    fn until_next(&self) -> Duration {
        let now = Instant::now();
        let timers = self.timers.peek().map(|Reverse((at, _))| *at);
        let due = self.groups.iter().filter(|it| it.left > 0);
        timers
            .into_iter()
            .chain(due.map(|it| it.next))
            .map(|at| at.saturating_duration_since(now))
            .fold(NAP, Duration::min)
    }

    fn look_at_timers(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        while let Some(&Reverse((at, client))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let it = &mut self.clients[client];
            if it.timer == Some(at) {
                it.timer = None;
            }
            match it.wake {
                Some(wake) if wake <= now => {
                    it.wake = None;
                    self.wake(client, now)?;
                }
                Some(wake) => self.set_timer(client, wake),
                None => {}
            }
        }
        Ok(())
    }

    fn wake_at(&mut self, client: usize, at: Instant) {
        self.clients[client].wake = Some(at);
        self.set_timer(client, at);
    }

    /// Sets a timer, unless there is one that comes in time to set this one:
    /// so a deadline of each request does not cost a timer each.
    fn set_timer(&mut self, client: usize, at: Instant) {
        let it = &mut self.clients[client];
        if it.timer.is_none_or(|timer| timer > at) {
            it.timer = Some(at);
            self.timers.push(Reverse((at, client)));
        }
    }

    /// What was to be done at this time.
    fn wake(&mut self, client: usize, now: Instant) -> anyhow::Result<()> {
        match self.clients[client].phase {
            Phase::Idle => Ok(()),
            Phase::Resting => self.go_on(client),
            Phase::Leaving => {
                self.close(client);
                self.go_on(client)
            }
            Phase::Connecting => self.fail(client, Failure::Unconnected),
            Phase::Asking { expires, .. } if expires > now => self.send(client),
            Phase::Asking { .. } => {
                let is_begun = !self.clients[client].received.is_empty();
                self.fail(
                    client,
                    if is_begun {
                        Failure::LateInside
                    } else {
                        Failure::LateBefore
                    },
                )
            }
        }
    }

    /// After a request, or a rest.
    fn go_on(&mut self, client: usize) -> anyhow::Result<()> {
        self.clients[client].phase = Phase::Idle;
        self.clients[client].wake = None;
        match self.pace(client) {
            Pace::Open => {
                let group = self.clients[client].group;
                self.groups[group].free.push_back(client);
                Ok(())
            }
            Pace::Closed if self.shared.is_over.load(Ordering::Relaxed) => Ok(()),
            Pace::Closed => self.ask(client, Instant::now()),
        }
    }

    /// Begins a request.
    fn ask(&mut self, client: usize, due: Instant) -> anyhow::Result<()> {
        let id = self.next_id;
        self.next_id += 1;
        let it = &mut self.clients[client];
        let manner = self.groups[it.group].group.manner;
        it.request.compose(id, &self.host, manner);
        it.sent = 0;
        it.received.clear();
        it.due = due;
        self.in_flight += 1;
        if it.socket.is_some() {
            return self.begin_to_send(client);
        }
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let family = match self.address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            .context("could not make a socket")?;
        // What is sent in pieces is to arrive in pieces.
        sockopt::set_tcp_nodelay(&socket, true)?;
        it.socket_number = it.socket_number.wrapping_add(1);
        let data = u64::from(it.socket_number) << 32 | client as u64;
        let data = epoll::EventData::new_u64(data);
        let connected = rustix::net::connect(&socket, &self.address);
        let interest = epoll::EventFlags::OUT;
        epoll::add(&self.epoll, &socket, data, interest).context("could not watch a socket")?;
        it.socket = Some(socket);
        it.phase = Phase::Connecting;
        self.connecting += 1;
        self.record.connections += 1;
        match connected {
            Ok(()) => self.connected(client),
            Err(Errno::INPROGRESS) => {
                self.wake_at(client, Instant::now() + self.patience);
                Ok(())
            }
            Err(error) => self.not_connected(client, error),
        }
    }

    fn connected(&mut self, client: usize) -> anyhow::Result<()> {
        self.connecting -= 1;
        self.want(client, epoll::EventFlags::IN)?;
        self.begin_to_send(client)
    }

    fn not_connected(&mut self, client: usize, error: Errno) -> anyhow::Result<()> {
        match error {
            Errno::CONNREFUSED => self.fail(client, Failure::Refused),
            // No server's fault, and no figure would mean anything.
            Errno::ADDRNOTAVAIL | Errno::MFILE | Errno::NFILE => {
                Err(error).context("could not connect")
            }
            _ => self.fail(client, Failure::Unconnected),
        }
    }

    fn want(&mut self, client: usize, interest: epoll::EventFlags) -> anyhow::Result<()> {
        let it = &self.clients[client];
        if let Some(socket) = &it.socket {
            let data = u64::from(it.socket_number) << 32 | client as u64;
            let data = epoll::EventData::new_u64(data);
            epoll::modify(&self.epoll, socket, data, interest)
                .context("could not watch a socket")?;
        }
        Ok(())
    }

    fn begin_to_send(&mut self, client: usize) -> anyhow::Result<()> {
        self.clients[client].phase = Phase::Asking {
            expires: Instant::now() + self.patience,
            is_answered: false,
        };
        self.send(client)
    }

    /// Sends the next piece.
    fn send(&mut self, client: usize) -> anyhow::Result<()> {
        let it = &mut self.clients[client];
        let (Some(socket), Phase::Asking { expires, .. }) = (&it.socket, it.phase) else {
            return Ok(());
        };
        let end = it.request.piece_end(it.sent);
        let piece = it.request.bytes.get(it.sent..end.unwrap_or(it.sent));
        match rustix::net::send(socket, piece.unwrap_or_default(), SendFlags::NOSIGNAL) {
            Ok(sent) => it.sent += sent,
            Err(Errno::AGAIN | Errno::INTR) => {}
            // What the server has said before it closed is still there, and
            // if it is nothing, that is how the request has failed.
            Err(_) => return self.receive(client, true),
        }
        match it.request.piece_end(it.sent) {
            Some(_) => {
                let pause = it.request.pause.max(Duration::from_micros(100));
                self.wake_at(client, (Instant::now() + pause).min(expires));
                Ok(())
            }
            None => match it.phase {
                Phase::Asking {
                    is_answered: true, ..
                } => self.answered(client),
                _ => {
                    self.wake_at(client, expires);
                    Ok(())
                }
            },
        }
    }

    /// Something has happened to the socket of a client.
    fn attend(&mut self, client: usize) -> anyhow::Result<()> {
        match self.clients[client].phase {
            Phase::Connecting => {
                let Some(socket) = &self.clients[client].socket else {
                    return Ok(());
                };
                match sockopt::socket_error(socket)? {
                    Ok(()) => self.connected(client),
                    Err(error) => self.not_connected(client, error),
                }
            }
            _ => self.receive(client, false),
        }
    }

    /// Reads what has come. `is_last` if the connection cannot be written to
    /// any more, so that nothing else will come.
    fn receive(&mut self, client: usize, is_last: bool) -> anyhow::Result<()> {
        let mut bytes = [0; 2048];
        loop {
            let it = &mut self.clients[client];
            let Some(socket) = &it.socket else {
                return Ok(());
            };
            let end = match rustix::net::recv(socket, &mut bytes, RecvFlags::empty()) {
                Ok((_, 0)) => Some(Closure::Idle),
                Ok((_, read)) => {
                    it.received.extend_from_slice(&bytes[..read]);
                    None
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) if !is_last => return Ok(()),
                Err(_) => Some(Closure::IdleReset),
            };
            match (it.phase, end) {
                (Phase::Asking { is_answered, .. }, end) => {
                    match self.understand(client, is_answered, end)? {
                        Read::More if is_last => {}
                        Read::More | Read::Done => return Ok(()),
                    }
                }
                (Phase::Leaving, Some(_)) => {
                    self.close(client);
                    return self.go_on(client);
                }
                (_, Some(closure)) => {
                    let at = self.since_beginning(Instant::now());
                    self.record.closures.push(Closed { at, closure });
                    self.close(client);
                    return Ok(());
                }
                (phase, None) => {
                    let group = it.group;
                    self.note(group, Instant::now(), Failure::Surplus);
                    self.close(client);
                    return match phase {
                        Phase::Leaving => self.go_on(client),
                        _ => Ok(()),
                    };
                }
            }
        }
    }

    /// Looks at what has been received in answer to a request.
    fn understand(
        &mut self,
        client: usize,
        is_answered: bool,
        end: Option<Closure>,
    ) -> anyhow::Result<Read> {
        let it = &mut self.clients[client];
        if is_answered {
            // The response was there before the request was. What ends now is
            // a connection that nothing is asked on any more.
            return match end {
                None => self.fail(client, Failure::Surplus),
                Some(closure) => {
                    let at = self.since_beginning(Instant::now());
                    self.record.closures.push(Closed { at, closure });
                    self.close(client);
                    self.finish(client)
                }
            }
            .map(|()| Read::Done);
        }
        let is_begun = !it.received.is_empty();
        let failure = match end {
            Some(Closure::IdleReset) if is_begun => Failure::ResetInside,
            Some(Closure::IdleReset) => Failure::ResetBefore,
            Some(_) if is_begun => Failure::EndInside,
            Some(_) => Failure::EndBefore,
            None => match read(&it.received, it.request.id) {
                Ok(None) => return Ok(Read::More),
                Ok(Some(answer)) if answer.length == it.received.len() => {
                    self.note_answer(client, answer.pid);
                    self.heard(client, answer.closes)?;
                    return Ok(Read::Done);
                }
                // Whoever sends more than was asked has sent nothing that can
                // be relied on.
                Ok(Some(_)) => Failure::Surplus,
                Err(Misfit::Wrong) => Failure::Wrong,
                Err(Misfit::OfAnother) => Failure::Crossed,
            },
        };
        self.fail(client, failure)?;
        Ok(Read::Done)
    }

    fn note_answer(&mut self, client: usize, pid: u32) {
        let now = Instant::now();
        let it = &self.clients[client];
        let took = now.saturating_duration_since(it.due).as_micros();
        self.record.answers.push(Answered {
            due: self.since_beginning(it.due),
            took: u32::try_from(took).unwrap_or(u32::MAX),
            pid,
        });
        let shared = &self.shared;
        if shared.last_pid.swap(pid, Ordering::Relaxed) != pid {
            let mut generations = lock(&shared.generations);
            if !generations.iter().any(|(known, _)| *known == pid) {
                generations.push((pid, now));
            }
        }
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// The response is there.
    fn heard(&mut self, client: usize, closes: bool) -> anyhow::Result<()> {
        let it = &mut self.clients[client];
        let keeps = self.groups[it.group].group.manner.keeps;
        if closes && keeps {
            let at = self.since_beginning(Instant::now());
            let closure = Closure::Announced;
            self.record.closures.push(Closed { at, closure });
            self.close(client);
            return self.finish(client);
        }
        if let Phase::Asking {
            ref mut is_answered,
            ..
        } = it.phase
            && it.request.piece_end(it.sent).is_some()
        {
            *is_answered = true;
            return Ok(());
        }
        self.answered(client)
    }

    /// The response is there, and the request is sent.
    fn answered(&mut self, client: usize) -> anyhow::Result<()> {
        let group = self.clients[client].group;
        if self.groups[group].group.manner.keeps {
            return self.finish(client);
        }
        self.in_flight -= 1;
        self.clients[client].phase = Phase::Leaving;
        self.clients[client].received.clear();
        self.wake_at(client, Instant::now() + FAREWELL);
        Ok(())
    }

    fn finish(&mut self, client: usize) -> anyhow::Result<()> {
        self.in_flight -= 1;
        self.go_on(client)
    }

    fn fail(&mut self, client: usize, failure: Failure) -> anyhow::Result<()> {
        let it = &self.clients[client];
        let (group, due) = (it.group, it.due);
        if it.phase == Phase::Connecting {
            self.connecting -= 1;
        }
        self.note(group, due, failure);
        self.close(client);
        self.in_flight -= 1;
        match self.pace(client) {
            Pace::Open => self.go_on(client),
            Pace::Closed => {
                self.clients[client].phase = Phase::Resting;
                self.wake_at(client, Instant::now() + BREATH);
                Ok(())
            }
        }
    }

    fn note(&mut self, group: usize, due: Instant, failure: Failure) {
        self.record.failures.push(Failed {
            group: u8::try_from(group).unwrap_or(u8::MAX),
            due: self.since_beginning(due),
            at: self.since_beginning(Instant::now()),
            failure,
        });
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn close(&mut self, client: usize) {
        let it = &mut self.clients[client];
        // A socket leaves the epoll with its descriptor. The number changes,
        // so that an event that is already here finds no one.
        it.socket = None;
        it.socket_number = it.socket_number.wrapping_add(1);
        it.received.clear();
    }
}

/// Whether a client is done with what it has received.
enum Read {
    More,
    Done,
}
