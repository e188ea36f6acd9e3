//! Taking connections off a listener's queue.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use async_io::Timer;
use rustix::process::Resource;
use smol::future;

use crate::listener::Listener;
use crate::parcel::Parcel;
use crate::roster::Roster;

/// What is done with a connection that is to be served; it starts a task and
/// returns.
pub(super) type Attend = Rc<dyn Fn(Parcel)>;

/// How many connections are accepted before others get their turn.
const BURST: usize = 16;

/// Accepts connections until it is dropped, at most `limit` being open.
pub(super) async fn accept(
    listener: Rc<Listener>,
    roster: Rc<Roster>,
    limit: usize,
    reserve: Rc<Reserve>,
    attend: Attend,
) {
    let mut trouble = Trouble::default();
    loop {
        roster.place(limit).await;
        if roster.len() > 0 && !reserve.is_spared(&listener) {
            let wait = trouble.wait(&listener, &"the last descriptors are kept for a restart");
            future::or(wait, roster.departure()).await;
            continue;
        }
        let most = BURST.min(roster.places(limit));
        let first_reserved = reserve.first();
        let is_last = |socket: &OwnedFd| reserve.notices(number(socket) >= first_reserved);
        match accept_some(&listener, &roster, &attend, most, is_last) {
            Ok(Burst {
                is_queue_empty: true,
                ..
            }) => {
                trouble.is_over(&listener);
                if let Err(error) = listener.readable().await {
                    trouble.wait(&listener, &error).await;
                }
            }
            Ok(_) => future::yield_now().await,
            Err(error) => trouble.wait(&listener, &error).await,
        }
    }
}

/// What came of accepting.
pub(super) struct Burst {
    pub(super) accepted: usize,
    is_queue_empty: bool,
}

/// Accepts what the queue holds, but at most `most`, and none after one that
/// `is_last`.
///
/// A connection is on the roster before this returns, so a drain that begins
/// in the same tick counts it.
pub(super) fn accept_some(
    listener: &Listener,
    roster: &Rc<Roster>,
    attend: &Attend,
    most: usize,
    is_last: impl Fn(&OwnedFd) -> bool,
) -> io::Result<Burst> {
    let mut burst = Burst {
        accepted: 0,
        is_queue_empty: false,
    };
    while burst.accepted < most {
        let Some((socket, peer)) = listener.accept()? else {
            burst.is_queue_empty = true;
            break;
        };
        burst.accepted += 1;
        let is_last = is_last(&socket);
        attend(Parcel::fresh(socket, roster.admit(peer, listener.name())));
        if is_last {
            break;
        }
    }
    Ok(burst)
}

/// The last descriptors, which are for everything but connections that are
/// accepted: above all for a restart. A service that has run full could not be
/// replaced otherwise, not even by one that may have more.
///
/// The system gives out the lowest number that is free (open(2)), so whoever
/// gets a high one knows that all below it are in use.
pub(super) struct Reserve {
    size: u64,
    /// Whether one of them has been given out, as far as we know.
    is_touched: Cell<bool>,
}

impl Reserve {
    /// What a restart takes at a time, and some more.
    const SIZE: u64 = 8;

    /// Of so many descriptors; most of them are for connections, however few
    /// there are.
    pub(super) fn of(free_descriptors: u64) -> Self {
        Reserve {
            size: Self::SIZE.min(free_descriptors / 2),
            is_touched: Cell::new(false),
        }
    }

    /// The number of the first of them.
    fn first(&self) -> u64 {
        let limit = rustix::process::getrlimit(Resource::Nofile).current;
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.size))
    }

    /// Whether the next descriptor will be none of them.
    fn is_spared(&self, listener: &Listener) -> bool {
        if self.is_touched.get() {
            let next = listener.next_descriptor();
            self.notices(next.is_none_or(|next| number(&next) >= self.first()));
        }
        !self.is_touched.get()
    }

    fn notices(&self, is_touched: bool) -> bool {
        self.is_touched.set(is_touched);
        is_touched
    }
}

fn number(descriptor: &OwnedFd) -> u64 {
    u64::from(descriptor.as_raw_fd().unsigned_abs())
}

/// Errors of the process or the system rather than of one connection: too many
/// open files, no memory. The queue stays readable, so without a pause this
/// would spin; without a memory of it, it would fill the log.
#[derive(Default)]
struct Trouble {
    pause: Option<Duration>,
}

impl Trouble {
    const SHORTEST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    async fn wait(&mut self, listener: &Listener, problem: &dyn fmt::Display) {
        let pause = match self.pause {
            None => {
                log::error!(
                    "cannot accept connections on {}: {problem}; trying again until it works",
                    listener.bound()
                );
                Self::SHORTEST
            }
            Some(pause) => (pause * 2).min(Self::LONGEST),
        };
        self.pause = Some(pause);
        Timer::after(pause).await;
    }

    fn is_over(&mut self, listener: &Listener) {
        if self.pause.take().is_some() {
            log::info!("accepting connections on {} again", listener.bound());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::TcpStream;

    use super::*;
    use crate::listener::{Address, Bound, ListenerSet};

    #[test]
    fn a_queue_full_of_connections_does_not_exceed_the_limit() {
        const LIMIT: usize = 3;
        smol::block_on(async {
            let address = Address::parse("127.0.0.1:0").unwrap();
            let mut listeners = ListenerSet::open(&[address], Vec::new()).await.unwrap();
            let listener = listeners.take().remove(0);
            let Bound::Tcp(address) = *listener.bound() else {
                panic!("{}", listener.bound());
            };
            let clients: Vec<_> = (0..2 * BURST)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            let roster = Rc::new(Roster::default());
            let open = Rc::new(RefCell::new(Vec::new()));
            let attended = Rc::clone(&open);
            let attend: Attend = Rc::new(move |parcel| attended.borrow_mut().push(parcel));
            let reserve = Rc::new(Reserve::of(100));
            let accepting = accept(listener, Rc::clone(&roster), LIMIT, reserve, attend);
            let mut accepting = std::pin::pin!(accepting);
            // Each that closes makes room for one.
            for _ in 0..clients.len() - LIMIT {
                while roster.len() < LIMIT {
                    assert!(future::poll_once(&mut accepting).await.is_none());
                }
                assert!(future::poll_once(&mut accepting).await.is_none());
                assert_eq!(roster.len(), LIMIT);
                let closed = open.borrow_mut().pop();
                drop(closed);
            }
        });
    }
}
