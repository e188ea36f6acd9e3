//! Taking connections off a listener's queue.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use async_io::Timer;
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
    attend: Attend,
) {
    let mut trouble = Trouble::default();
    loop {
        roster.place(limit).await;
        let most = BURST.min(roster.places(limit));
        match accept_some(&listener, &roster, &attend, most) {
            Ok(accepted) => {
                trouble.is_over(&listener);
                if accepted == most {
                    future::yield_now().await;
                } else if let Err(error) = listener.readable().await {
                    trouble.wait(&listener, &error).await;
                }
            }
            Err(error) => trouble.wait(&listener, &error).await,
        }
    }
}

/// Accepts what the queue holds, but at most `most`; returns how many those
/// were.
///
/// A connection is on the roster before this returns, so a drain that begins
/// in the same tick counts it.
pub(super) fn accept_some(
    listener: &Listener,
    roster: &Rc<Roster>,
    attend: &Attend,
    most: usize,
) -> io::Result<usize> {
    for accepted in 0..most {
        match listener.accept()? {
            Some((socket, peer)) => {
                attend(Parcel::fresh(socket, roster.admit(peer, listener.name())));
            }
            None => return Ok(accepted),
        }
    }
    Ok(most)
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

    async fn wait(&mut self, listener: &Listener, error: &io::Error) {
        let pause = match self.pause {
            None => {
                log::error!(
                    "cannot accept connections on {}: {error}; trying again until it works",
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
            let mut accepting = std::pin::pin!(accept(listener, Rc::clone(&roster), LIMIT, attend));
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
