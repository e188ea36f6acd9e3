//! Readiness of connections: an epoll instance of our own, which async-io
//! watches as if it were one more descriptor.
//!
//! async-io asks the system anew for each event it is to tell, which suits a
//! few descriptors that are waited for now and then. Connections are many, and
//! are waited for after each request. So each is registered once, for every
//! change there will be (edge-triggered, epoll(7)), and what is known of its
//! readiness is kept here until a read or write has used it up.
//!
//! # Implementation
//!
//! - *Claiming*: whoever reads first takes the readiness away, and puts it back
//!   if there may be more. A change that comes in between is therefore never
//!   lost. That a readiness is out of date costs one call in vain.
//! - *The end* of what the peer sends is told once, possibly together with the
//!   last bytes; from then on the connection stays readable.
//! - Most connections are never waited for to become writable, so that is asked
//!   for when the first send finds no room.
//! - *Threads*: a body may be read by another thread than the server's, and
//!   may be kept there for longer than the server runs. So what is known is
//!   behind a lock, which nobody holds while a waker runs; and when nobody
//!   drives the reactor any more, waiting is an error.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use async_io::Async;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};
use slab::Slab;
use smol::future;

/// How many events are taken at a time.
const EVENTS: usize = 256;

/// How often async-io is asked while there are events without a pause. It takes
/// seven system calls; after each batch, they were 7 % of the CPU time of a
/// request on 64 connections. Whatever else waits for async-io may wait for so
/// much longer, which is less than a large batch takes.
const ASK_EVERY: Duration = Duration::from_micros(250);

/// Tells the readiness of sockets, as long as [`Reactor::drive`] runs.
pub(crate) struct Reactor {
    epoll: Async<OwnedFd>,
    /// How often it has looked for events.
    round: AtomicU32,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    /// Each is known to the system by its place.
    places: Slab<Source>,
    /// Who looks for events, waiting.
    driver: Option<Waker>,
    /// Who goes on in the next round.
    resting: Vec<Waker>,
    /// Nobody will tell anything any more.
    is_over: bool,
}

/// What is known of a socket.
#[derive(Default)]
struct Source {
    supply: Supply,
    /// What somebody has heard who was not reading: the system tells it once.
    failure: Option<Errno>,
    /// Whether a send may find room, as far as that was ever asked.
    has_room: bool,
    asks_for_room: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a read may find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Supply {
    /// Nothing, until the system says otherwise.
    #[default]
    None,
    Some,
    /// The end, after whatever comes before it.
    ToTheEnd,
}

/// Which thing in a row that is done for a socket, each way, has to wait until
/// others had their turn and the reactor has looked for events.
pub(crate) const TURN: u8 = 32;

/// Which way something is done for a socket. They are counted apart: with one
/// count, whoever reads first in each round would never have a turn left to write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    In,
    Out,
}

impl Reactor {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Arc::new(Reactor {
            epoll: Async::new_nonblocking(epoll)?,
            round: AtomicU32::new(0),
            sources: Mutex::default(),
        }))
    }

    /// Wakes whoever waits for a socket, for ever. One task of the process runs
    /// it.
    pub(crate) async fn drive(&self) {
        self.sources().is_over = false;
        let _end = End(self);
        let mut events = Vec::with_capacity(EVENTS);
        let mut wakers = Vec::new();
        let mut asked = Instant::now();
        loop {
            let room = spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, Some(&Timespec::default())) {
                Ok(_) | Err(Errno::INTR) => {}
                // It has no other errors for a descriptor and memory like ours
                // (epoll_wait(2)).
                Err(error) => log::error!("could not wait for connections: {error}"),
            }
            let has_events = !events.is_empty();
            self.take_note(events.drain(..), &mut wakers);
            wakers.drain(..).for_each(Waker::wake);
            // As a rule there are other events when those who were woken have had
            // their turn.
            if has_events && asked.elapsed() < ASK_EVERY {
                future::yield_now().await;
            } else {
                self.event().await;
                asked = Instant::now();
            }
        }
    }

    /// Has somebody look for events when whoever is runnable has had a turn.
    /// async-io is not asked then, but after some hundred turns.
    pub(crate) fn look_around(&self) {
        let driver = self.sources().driver.take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Has the task woken in the next round, and tells `true`; or wakes it at once,
    /// and tells `false`, if there are no more rounds.
    fn rest(&self, cx: &Context<'_>) -> bool {
        {
            let mut sources = self.sources();
            if sources.is_over {
                drop(sources);
                cx.waker().wake_by_ref();
                return false;
            }
            let last = sources.resting.last();
            if !last.is_some_and(|last| last.will_wake(cx.waker())) {
                sources.resting.push(cx.waker().clone());
            }
        }
        self.look_around();
        true
    }

    /// Waits until there may be events.
    async fn event(&self) {
        let mut is_woken = false;
        future::poll_fn(|cx| {
            if !is_woken {
                let mut sources = self.sources();
                sources.driver = Some(cx.waker().clone());
                let is_awaited = !sources.resting.is_empty();
                drop(sources);
                // Another thread has just begun to wait for the next round.
                if is_awaited {
                    self.look_around();
                }
            }
            // async-io does not count an event that it has delivered in the
            // round in which it was asked, although it wakes us for it.
            match self.epoll.poll_readable(cx).is_pending() && !is_woken {
                true => {
                    is_woken = true;
                    Poll::Pending
                }
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    fn take_note(&self, events: impl Iterator<Item = epoll::Event>, wakers: &mut Vec<Waker>) {
        use epoll::EventFlags as Flags;
        let mut sources = self.sources();
        self.round.fetch_add(1, Ordering::Relaxed);
        wakers.append(&mut sources.resting);
        for event in events {
            // The rest of a batch can be about sockets that are gone, or about
            // whoever has their place now: to be woken in vain does no harm.
            let key = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            let Some(source) = sources.places.get_mut(key) else {
                continue;
            };
            let flags = event.flags;
            if flags.intersects(Flags::RDHUP | Flags::HUP) {
                source.supply = Supply::ToTheEnd;
            } else if flags.intersects(Flags::IN | Flags::ERR) {
                source.supply = source.supply.max(Supply::Some);
            }
            if source.supply != Supply::None {
                wakers.extend(source.reader.take());
            }
            if flags.intersects(Flags::OUT | Flags::HUP | Flags::ERR) {
                source.has_room = true;
                wakers.extend(source.writer.take());
            }
        }
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        // Nothing panics under the lock, so poison means nothing.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets nobody wait who would wait for ever.
struct End<'r>(&'r Reactor);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        {
            let mut sources = self.0.sources();
            sources.is_over = true;
            wakers.append(&mut sources.resting);
            for (_, source) in &mut sources.places {
                wakers.extend(source.reader.take());
                wakers.extend(source.writer.take());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

fn over() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the server has come to its end",
    )
}

/// A stream socket whose readiness a [`Reactor`] tells.
pub(crate) struct Socket {
    // Forgotten before the number of the descriptor is free for another one.
    registration: Registration,
    descriptor: OwnedFd,
    /// What has been done each [`Way`] in the round of the registration.
    turns: [AtomicU8; 2],
}

struct Registration {
    reactor: Arc<Reactor>,
    key: u32,
    /// The reactor's round in which something was last done for the socket.
    round: AtomicU32,
}

impl Socket {
    /// Registers a socket, which is in non-blocking mode.
    pub(crate) fn new(reactor: &Arc<Reactor>, descriptor: OwnedFd) -> io::Result<Self> {
        let key = reactor.sources().places.insert(Source::default());
        let registration = Registration {
            reactor: Arc::clone(reactor),
            key: u32::try_from(key).map_err(io::Error::other)?,
            round: AtomicU32::new(0),
        };
        let data = registration.data();
        epoll::add(&reactor.epoll, &descriptor, data, Registration::ALWAYS)?;
        Ok(Socket {
            registration,
            descriptor,
            turns: Default::default(),
        })
    }

    pub(crate) fn get_ref(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Counts something that is done without waiting. If others are to have their
    /// turn first, the task is woken after that. Where a client always has sent
    /// more, and takes everything, only this lets them.
    ///
    /// The reactor is a task among the others, so on its thread no round begins
    /// within the poll of another one: a new round is what tells that this task has
    /// returned and others had their turn. A read or write in vain does not: the
    /// task may go on with something else.
    pub(crate) fn poll_turn(&self, way: Way, cx: &Context<'_>) -> Poll<()> {
        let Registration { reactor, round, .. } = &self.registration;
        let now = reactor.round.load(Ordering::Relaxed);
        // Two threads at the halves of a stream may count less than they do, but
        // each waits for a round in the end.
        if round.load(Ordering::Relaxed) != now {
            round.store(now, Ordering::Relaxed);
            self.turns
                .iter()
                .for_each(|it| it.store(0, Ordering::Relaxed));
        }
        let turn = &self.turns[way as usize];
        let count = turn.load(Ordering::Relaxed) + 1;
        if count < TURN {
            turn.store(count, Ordering::Relaxed);
            return Poll::Ready(());
        }
        if !reactor.rest(cx) {
            turn.store(0, Ordering::Relaxed);
        }
        Poll::Pending
    }

    /// Takes the socket off the reactor, which must not watch it once another
    /// process has it: it would go on reporting what happens there.
    pub(crate) fn into_inner(self) -> io::Result<OwnedFd> {
        epoll::delete(&self.registration.reactor.epoll, &self.descriptor)?;
        Ok(self.descriptor)
    }

    /// Waits until a read may find something, be it the end or an error.
    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.registration
            .with(|source, is_over| match source.supply {
                Supply::None if !is_over => wait(&mut source.reader, cx),
                Supply::None | Supply::Some | Supply::ToTheEnd => Poll::Ready(()),
            })
    }

    /// Waits until a read finds something, be it the end or an error, without
    /// reading it.
    pub(crate) fn poll_peek(&self, cx: &Context<'_>) -> Poll<()> {
        loop {
            // The read tells the error.
            let Ok(claim) = ready!(self.poll_claim(cx)) else {
                return Poll::Ready(());
            };
            if claim.failure.is_some() {
                claim.keep();
                return Poll::Ready(());
            }
            match self.peek() {
                // It was out of date.
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => claim.keep(),
                Ok(_) | Err(_) => {
                    claim.keep();
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Whether there is something to read at this moment; the end of the stream
    /// or an error is nothing. If so, the next read finds it, whether or not the
    /// reactor has been told.
    pub(crate) fn has_bytes(&self) -> bool {
        let has_bytes = matches!(self.peek(), Ok(1..));
        if has_bytes {
            self.registration
                .with(|source, _| source.supply = source.supply.max(Supply::Some));
        }
        has_bytes
    }

    fn peek(&self) -> rustix::io::Result<usize> {
        let mut byte = [0; 1];
        let peeked = net::recv(&self.descriptor, &mut byte[..], RecvFlags::PEEK);
        // Such a read takes it away, too.
        if let Err(error) = peeked
            && !matches!(error, Errno::AGAIN | Errno::INTR)
        {
            self.registration
                .with(|source, _| source.failure = Some(error));
        }
        peeked.map(|(received, _)| received)
    }

    /// Reads what there is into `into`, which is not empty; 0 is the end.
    pub(crate) fn poll_receive(
        &self,
        into: &mut [u8],
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut claim = ready!(self.poll_claim(cx))?;
            if let Some(failure) = claim.failure.take() {
                claim.keep();
                return Poll::Ready(Err(failure.into()));
            }
            match net::recv(&self.descriptor, &mut *into, RecvFlags::empty()) {
                // A stream that had more would have filled the memory
                // (epoll(7)): only the end can be left of what we were told.
                Ok((received, _)) if 0 < received && received < into.len() => {
                    if claim.supply == Supply::ToTheEnd {
                        claim.keep();
                    }
                    return Poll::Ready(Ok(received));
                }
                Ok((received, _)) => {
                    claim.keep();
                    return Poll::Ready(Ok(received));
                }
                // It was out of date.
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => claim.keep(),
                Err(error) => {
                    claim.keep();
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    }

    /// Sends what there is room for, at least one byte.
    pub(crate) fn poll_send(&self, bytes: &[u8], cx: &Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            match net::send(&self.descriptor, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => return Poll::Ready(Ok(sent)),
                Err(Errno::AGAIN) => ready!(self.poll_room(cx))?,
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Tells the peer that nothing more will come.
    pub(crate) fn half_close(&self) -> io::Result<()> {
        Ok(net::shutdown(&self.descriptor, net::Shutdown::Write)?)
    }

    /// Waits until a read may find something, and takes that knowledge away.
    fn poll_claim(&self, cx: &Context<'_>) -> Poll<io::Result<Claim<'_>>> {
        self.registration
            .with(|source, is_over| match std::mem::take(&mut source.supply) {
                Supply::None if is_over => Poll::Ready(Err(over())),
                Supply::None => wait(&mut source.reader, cx),
                supply @ (Supply::Some | Supply::ToTheEnd) => Poll::Ready(Ok(Claim {
                    socket: self,
                    supply,
                    failure: source.failure.take(),
                })),
            })
    }

    /// Waits until a send may find room, after one has found none.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let registration = &self.registration;
        let asks = registration.with(|it, _| std::mem::replace(&mut it.asks_for_room, true));
        if !asks {
            let flags = Registration::ALWAYS | epoll::EventFlags::OUT;
            let epoll = &registration.reactor.epoll;
            epoll::modify(epoll, &self.descriptor, registration.data(), flags)?;
        }
        registration.with(
            |source, is_over| match std::mem::take(&mut source.has_room) {
                false if is_over => Poll::Ready(Err(over())),
                false => wait(&mut source.writer, cx),
                true => Poll::Ready(Ok(())),
            },
        )
    }
}

fn wait<T>(waiting: &mut Option<Waker>, cx: &Context<'_>) -> Poll<T> {
    match waiting {
        Some(known) => known.clone_from(cx.waker()),
        None => *waiting = Some(cx.waker().clone()),
    }
    Poll::Pending
}

impl Registration {
    /// What is asked for from the beginning.
    const ALWAYS: epoll::EventFlags = epoll::EventFlags::IN
        .union(epoll::EventFlags::RDHUP)
        .union(epoll::EventFlags::ET);

    fn data(&self) -> epoll::EventData {
        epoll::EventData::new_u64(u64::from(self.key))
    }

    /// With what is known of the socket, and whether nothing will be added to
    /// that.
    fn with<T>(&self, act: impl FnOnce(&mut Source, bool) -> T) -> T {
        let mut sources = self.reactor.sources();
        let is_over = sources.is_over;
        // Its place is kept until `drop`.
        act(&mut sources.places[self.key as usize], is_over)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let source = self.reactor.sources().places.try_remove(self.key as usize);
        // A waker may run anything, so it is not dropped under the lock.
        drop(source);
    }
}

/// The knowledge that a read may find something.
#[must_use]
struct Claim<'s> {
    socket: &'s Socket,
    supply: Supply,
    failure: Option<Errno>,
}

impl Claim<'_> {
    /// Gives the knowledge back: there may be more.
    fn keep(self) {
        let (supply, failure) = (self.supply, self.failure);
        let registration = &self.socket.registration;
        registration.with(|source, _| {
            source.supply = source.supply.max(supply);
            source.failure = source.failure.or(failure);
        });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::rc::Rc;

    use smol::LocalExecutor;
    use smol::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

    use super::*;

    /// A reactor that has been driven as far as it goes each time a test asks
    /// for it, and a socket of it.
    fn play<T>(act: impl AsyncFnOnce(Socket, UnixStream, &dyn Fn() -> Turns) -> T) -> T {
        let reactor = Reactor::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = Socket::new(&reactor, ours.into()).unwrap();
        smol::block_on(async {
            let drive = reactor.drive();
            let story = act(socket, theirs, &|| Turns(3));
            future::or(async { Some(story.await) }, async {
                drive.await;
                None
            })
            .await
            .expect("the reactor is driven for ever")
        })
    }

    /// A stream that never has to wait lets others have their turn, and goes on.
    pub(crate) fn assert_takes_turns<S>(stream: impl FnOnce(Socket) -> S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        play(async |socket, mut theirs, turns| {
            let mut stream = stream(socket);
            // A read in vain is no turn for others.
            for vainly in [false, true] {
                for _ in 0..3 {
                    let mut writes = 0;
                    while future::poll_once(stream.write(b"x")).await.is_some() {
                        writes += 1;
                        if vainly {
                            let read = future::poll_once(stream.read(&mut [0])).await;
                            assert!(read.is_none());
                        }
                        assert!(writes < TURN, "more writes in a row");
                    }
                    assert!(writes > 0);
                    turns().await;
                }
            }
            Write::write_all(&mut theirs, &[7; 1000]).unwrap();
            for _ in 0..3 {
                turns().await;
                let mut reads = 0;
                while future::poll_once(stream.read(&mut [0])).await.is_some() {
                    reads += 1;
                }
                assert!((1..TURN).contains(&reads), "{reads} reads in a row");
                // Not even if it asks again; but it may write.
                assert!(future::poll_once(stream.read(&mut [0])).await.is_none());
                assert!(future::poll_once(stream.write(b"x")).await.is_some());
            }
            let all = async {
                for _ in 0..100 {
                    stream.read_exact(&mut [0]).await.unwrap();
                }
                true
            };
            let late = async {
                smol::Timer::after(Duration::from_secs(20)).await;
                false
            };
            assert!(future::or(all, late).await, "it is not woken again");
        });
    }

    /// Lets the reactor have some turns.
    struct Turns(u32);

    impl Future for Turns {
        type Output = ();

        fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            cx.waker().wake_by_ref();
            match self.0.checked_sub(1) {
                Some(left) => {
                    self.0 = left;
                    Poll::Pending
                }
                None => Poll::Ready(()),
            }
        }
    }

    async fn receive(socket: &Socket, room: usize) -> io::Result<Vec<u8>> {
        let mut into = vec![0; room];
        let received = future::poll_fn(|cx| socket.poll_receive(&mut into, cx)).await?;
        into.truncate(received);
        Ok(into)
    }

    async fn is_pending<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> bool {
        let polled = future::poll_fn(poll);
        future::poll_once(pin!(polled)).await.is_none()
    }

    #[test]
    fn what_a_read_has_left_is_there_for_the_next() {
        play(async |socket, mut theirs, turn| {
            theirs.write_all(b"hello").unwrap();
            assert_eq!(receive(&socket, 2).await.unwrap(), b"he");
            assert_eq!(receive(&socket, 3).await.unwrap(), b"llo");
            turn().await;
            assert!(is_pending(|cx| socket.poll_receive(&mut [0; 8], cx)).await);
            theirs.write_all(b"x").unwrap();
            assert_eq!(receive(&socket, 8).await.unwrap(), b"x");
        });
    }

    #[test]
    fn what_comes_between_two_reads_is_told() {
        play(async |socket, mut theirs, turn| {
            for _ in 0..100 {
                theirs.write_all(b"ab").unwrap();
                assert_eq!(receive(&socket, 8).await.unwrap(), b"ab");
                // Told before anybody waits for it.
                theirs.write_all(b"c").unwrap();
                turn().await;
                assert_eq!(receive(&socket, 8).await.unwrap(), b"c");
            }
        });
    }

    #[test]
    fn the_end_is_told_with_the_last_bytes_and_ever_after() {
        play(async |socket, mut theirs, turn| {
            theirs.write_all(b"last").unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            turn().await;
            assert_eq!(receive(&socket, 8).await.unwrap(), b"last");
            for _ in 0..3 {
                assert_eq!(receive(&socket, 8).await.unwrap(), b"");
            }
        });
    }

    #[test]
    fn the_end_is_told_after_the_last_bytes() {
        play(async |socket, mut theirs, turn| {
            theirs.write_all(b"last").unwrap();
            assert_eq!(receive(&socket, 8).await.unwrap(), b"last");
            turn().await;
            drop(theirs);
            assert_eq!(receive(&socket, 8).await.unwrap(), b"");
        });
    }

    #[test]
    fn a_peek_takes_nothing_and_is_not_misled() {
        play(async |socket, mut theirs, turn| {
            theirs.write_all(b"x").unwrap();
            turn().await;
            future::poll_fn(|cx| socket.poll_peek(cx)).await;
            assert!(socket.has_bytes());
            // Somebody else reads it, so what the reactor has told is wrong.
            let mut other = UnixStream::from(socket.get_ref().try_clone().unwrap());
            assert_eq!(other.read(&mut [0; 8]).unwrap(), 1);
            assert!(is_pending(|cx| socket.poll_peek(cx)).await);
            theirs.write_all(b"y").unwrap();
            future::poll_fn(|cx| socket.poll_peek(cx)).await;
            assert_eq!(receive(&socket, 8).await.unwrap(), b"y");
        });
    }

    #[test]
    fn whoever_finds_no_room_is_told_of_it_each_time() {
        play(async |socket, mut theirs, turn| {
            let piece = [7; 64 * 1024];
            for _ in 0..3 {
                let mut sent = 0;
                while let Some(more) =
                    future::poll_once(future::poll_fn(|cx| socket.poll_send(&piece, cx))).await
                {
                    sent += more.unwrap();
                }
                turn().await;
                assert!(is_pending(|cx| socket.poll_send(&piece, cx)).await);
                theirs.read_exact(&mut vec![0; sent]).unwrap();
                sent = future::poll_fn(|cx| socket.poll_send(&piece, cx))
                    .await
                    .unwrap();
                theirs.read_exact(&mut vec![0; sent]).unwrap();
            }
        });
    }

    /// Those who wait for async-io have to wait for some hundred turns then.
    #[test]
    fn who_looks_around_is_not_alone_although_always_runnable() {
        let executor = Rc::new(LocalExecutor::new());
        let reactor = Reactor::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = Socket::new(&reactor, ours.into()).unwrap();
        let turns = Rc::new(Cell::new(0));
        let driven = Arc::clone(&reactor);
        let drive = executor.spawn(async move { driven.drive().await });
        let counter = Rc::clone(&turns);
        let spinner = executor.spawn(async move {
            loop {
                counter.set(counter.get() + 1);
                reactor.look_around();
                future::yield_now().await;
            }
        });
        let story = executor.spawn(async move {
            for _ in 0..20 {
                theirs.write_all(b"x").unwrap();
                let before = turns.get();
                assert_eq!(receive(&socket, 8).await.unwrap(), b"x");
                let waited = turns.get() - before;
                assert!(waited <= 4, "it has waited for {waited} turns");
            }
        });
        smol::block_on(executor.run(story));
        drop((spinner, drive));
    }

    /// The system tells of it once, also a read that takes no bytes away.
    #[test]
    fn a_failure_is_for_the_read_whoever_else_looks_before() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        play(async |other, _, _| {
            let reactor = &other.registration.reactor;
            let socket = Socket::new(reactor, ours.into()).unwrap();
            net::sockopt::set_socket_linger(&theirs, Some(Duration::ZERO)).unwrap();
            drop(theirs);
            for _ in 0..2 {
                future::poll_fn(|cx| socket.poll_peek(cx)).await;
                assert!(!socket.has_bytes());
            }
            let error = receive(&socket, 8).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            // Whoever reads on finds the end.
            let end = future::poll_once(receive(&socket, 8)).await;
            assert_eq!(end.expect("nobody would be woken").unwrap(), b"");
        });
    }

    #[test]
    fn what_is_off_the_reactor_is_not_watched_and_can_come_back() {
        play(async |socket, mut theirs, turn| {
            let reactor = Arc::clone(&socket.registration.reactor);
            let descriptor = socket.into_inner().unwrap();
            assert!(reactor.sources().places.is_empty());
            theirs.write_all(b"x").unwrap();
            turn().await;
            let socket = Socket::new(&reactor, descriptor).unwrap();
            assert_eq!(receive(&socket, 8).await.unwrap(), b"x");
        });
    }

    #[test]
    fn nobody_waits_for_a_reactor_that_is_not_driven_any_more() {
        let (socket, _theirs) = play(async |socket, theirs, turn| {
            turn().await;
            (socket, theirs)
        });
        let error = smol::block_on(receive(&socket, 8)).unwrap_err();
        assert_eq!(error.to_string(), "the server has come to its end");
        smol::block_on(future::poll_fn(|cx| socket.poll_readable(cx)));
        // But who never has to wait still lets others have their turn.
        let cx = &Context::from_waker(Waker::noop());
        let pauses = (0..TURN * 3).filter(|_| socket.poll_turn(Way::In, cx).is_pending());
        assert_eq!(pauses.count(), 3);
    }
}
