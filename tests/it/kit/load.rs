//! Clients that send one request after another until they are told to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use super::client::head;
use super::{Address, Answer, Client, Failure, PATIENCE, SLICE};

/// How the clients use their connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Connections {
    /// A new one for each request.
    NewForEach,
    /// The same one until the server announces its end.
    KeptAlive,
}

/// A number of clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    tally: Mutex<Tally>,
    counted: Condvar,
}

/// What became of the requests.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    /// Which generations answered.
    pub(crate) generations: BTreeSet<u64>,
    failures: BTreeMap<Failure, u64>,
    /// Who has finished a request.
    clients: BTreeSet<usize>,
}

impl Load {
    pub(crate) fn start(address: &Address, connections: Connections, clients: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..clients)
            .map(|number| {
                let (shared, address) = (Arc::clone(&shared), address.clone());
                thread::spawn(move || work(number, &shared, &address, connections))
            })
            .collect();
        Load { shared, clients }
    }

    /// Waits until the clients have finished so many requests more, well or not.
    pub(crate) fn wait_for_requests(&self, more: u64) {
        let enough = self.shared.tally.lock().unwrap().finished() + more;
        self.wait_until(|tally| tally.finished() >= enough);
    }

    /// Waits until each client has been answered. The first can have done a
    /// hundred requests before the second has begun.
    pub(crate) fn wait_for_each_client(&self) {
        self.wait_until(|tally| {
            assert_eq!(tally.failed(), 0, "{tally}");
            tally.clients.len() == self.clients.len()
        });
    }

    fn wait_until(&self, reached: impl Fn(&Tally) -> bool) {
        let mut left = PATIENCE;
        let mut tally = self.shared.tally.lock().unwrap();
        while !reached(&tally) {
            let (counted, slice) = self.shared.counted.wait_timeout(tally, SLICE).unwrap();
            tally = counted;
            if slice.timed_out() {
                left = left.saturating_sub(SLICE);
            }
            assert!(!left.is_zero(), "the clients get nowhere: {tally}");
        }
    }

    /// Lets every client finish the request it is at, and reports.
    pub(crate) fn stop(mut self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("a client does not panic");
        }
        self.shared.tally.lock().unwrap().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After a failed test the clients would go on for ever.
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    /// How many requests failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn finished(&self) -> u64 {
        self.answered + self.failed()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answered by {} generations",
            self.answered,
            self.generations.len()
        )?;
        self.failures
            .iter()
            .try_for_each(|(failure, count)| write!(f, ", {count} failed: {failure:?}"))
    }
}

fn work(number: usize, shared: &Shared, address: &Address, connections: Connections) {
    let mut client = None;
    for turn in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let result = ask(
            &mut client,
            address,
            &format!("client {number}, request {turn}"),
        );
        match (&result, connections) {
            (Ok(answer), Connections::KeptAlive) if !answer.closes() => {}
            _ => client = None,
        }
        let mut tally = shared.tally.lock().unwrap();
        tally.clients.insert(number);
        match result {
            Ok(answer) => {
                tally.answered += 1;
                tally.generations.insert(answer.generation());
            }
            Err(failure) => *tally.failures.entry(failure).or_default() += 1,
        }
        shared.counted.notify_all();
    }
}

/// One request, whose response can be that to no other.
fn ask(client: &mut Option<Client>, address: &Address, body: &str) -> Result<Answer, Failure> {
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::connect(address)?),
    };
    let length = format!("content-length: {}\r\n", body.len());
    client.send(&(head("POST", "/echo", &length) + body))?;
    let answer = client.answer()?;
    if answer.status != 200 {
        return Err(Failure::Status(answer.status));
    }
    if answer.body != body.as_bytes() {
        return Err(Failure::Mismatch(answer.text().to_owned()));
    }
    Ok(answer)
}
