//! Clients that are under way while a process is killed.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::kit::{Address, Client, Failure, Log, PATIENCE, pid_in};

/// How a visitor uses its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    KeepsItsConnection,
    AlwaysMakesANewOne,
}

/// A connection, and what is known of it.
pub(super) struct Contact {
    client: Client,
    /// Who answered last.
    last: Option<i32>,
    /// Whether it was known already who serves after the kill, when the
    /// connection was made or last answered.
    is_later: bool,
}

/// One request.
///
/// Each asks for a word of its own, which the process that handles it writes
/// into the log first.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    word: String,
    /// Who answered last on the same connection.
    last: Option<i32>,
    /// Who answered.
    result: Result<i32, Failure>,
    /// Whether the answer says that the connection is to be closed.
    pub(super) closes: bool,
    is_later: bool,
}

impl Visit {
    pub(super) fn is_answered(&self) -> bool {
        self.result.is_ok()
    }
}

impl Contact {
    pub(super) fn make(address: &Address) -> Result<Self, Failure> {
        Ok(Contact {
            client: Client::connect(address)?,
            last: None,
            is_later: false,
        })
    }

    /// Asks for a word, which the service takes its time for.
    pub(super) fn ask(&mut self, word: &str, ms: u64) -> Visit {
        let answer = self.client.get(&format!("/slow?ms={ms}&say={word}"));
        let answer = answer.and_then(|answer| match (answer.status, answer.text()) {
            (200, text) if text == word => Ok(answer),
            (200, text) => Err(Failure::Mismatch(text.to_owned())),
            (status, _) => Err(Failure::Status(status)),
        });
        let visit = Visit {
            word: word.to_owned(),
            last: self.last,
            result: answer.as_ref().map(|it| it.pid()).map_err(Clone::clone),
            closes: answer.is_ok_and(|answer| answer.closes()),
            is_later: self.is_later,
        };
        self.last = visit.result.as_ref().ok().copied();
        visit
    }
}

/// A few clients, each of which sends one request after another.
///
/// The service takes its time to answer, so that they are a light load and
/// nevertheless always in the middle of something. One that fails waits until
/// it is known who serves.
pub(super) struct Visitors {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    visits: Vec<Visit>,
    /// Where the service is to be found after the kill.
    later: Option<Address>,
    is_over: bool,
}

impl Visitors {
    /// They come to each of the addresses; their words begin with `name`.
    pub(super) fn arrive(name: &str, addresses: &[Address]) -> Self {
        let shared = Arc::new(Shared::default());
        let habits = [Habit::KeepsItsConnection, Habit::AlwaysMakesANewOne];
        let mut threads = Vec::new();
        for address in addresses {
            for habit in habits {
                let name = format!("{name}-{}", threads.len());
                let (shared, address) = (Arc::clone(&shared), address.clone());
                threads.push(thread::spawn(move || shared.visit(&name, address, habit)));
            }
        }
        Visitors { shared, threads }
    }

    /// Waits until each of them has been here, on average, so many times more.
    pub(super) fn wait_for_visits(&self, each: usize) {
        let mut state = self.shared.state.lock().unwrap();
        let enough = state.visits.len() + each * self.threads.len();
        while state.visits.len() < enough {
            let (next, wait) = self.shared.changed.wait_timeout(state, PATIENCE).unwrap();
            assert!(!wait.timed_out(), "the visitors get nowhere");
            state = next;
        }
    }

    /// From now on they must not fail.
    pub(super) fn go_on(&self, address: &Address) {
        self.shared.state.lock().unwrap().later = Some(address.clone());
        self.shared.changed.notify_all();
    }

    /// Lets them finish what they are at.
    pub(super) fn leave(mut self) -> Vec<Visit> {
        self.shared.end();
        for thread in self.threads.drain(..) {
            thread.join().expect("a visitor does not panic");
        }
        std::mem::take(&mut self.shared.state.lock().unwrap().visits)
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        self.changed.notify_all();
    }

    fn visit(&self, name: &str, mut address: Address, habit: Habit) {
        let mut kept: Option<Contact> = None;
        for turn in 0_u64.. {
            let word = format!("{name}-{turn}");
            let later = self.state.lock().unwrap().later.clone();
            let is_later = later.is_some();
            address = later.unwrap_or(address);
            let contact = match kept.take() {
                Some(contact) => Ok(contact),
                None => Contact::make(&address).map(|contact| Contact {
                    is_later,
                    ..contact
                }),
            };
            let visit = match contact {
                Ok(mut contact) => {
                    let visit = contact.ask(&word, 2);
                    contact.is_later = is_later;
                    let is_open = visit.is_answered() && !visit.closes;
                    let is_kept = is_open && habit == Habit::KeepsItsConnection;
                    kept = is_kept.then_some(contact);
                    visit
                }
                Err(failure) => Visit {
                    word,
                    last: None,
                    result: Err(failure),
                    closes: false,
                    is_later,
                },
            };
            let has_failed = !visit.is_answered();
            let mut state = self.state.lock().unwrap();
            state.visits.push(visit);
            self.changed.notify_all();
            while has_failed && state.later.is_none() && !state.is_over {
                state = self.changed.wait(state).unwrap();
            }
            if state.is_over {
                return;
            }
        }
    }
}

/// What is known of a kill when the visits are looked at.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) killed: Vec<i32>,
    pub(super) predecessor: i32,
    /// Whether one that was killed had accepted connections.
    pub(super) had_served: bool,
    pub(super) serves: Option<i32>,
    /// Whether nobody had the listeners any more.
    pub(super) listeners_lost: bool,
    /// How many connections the killed process had in use that had been handed
    /// over to it, if it is known.
    pub(super) in_use: Option<usize>,
}

/// Checks that no request has failed but inside a killed process, and that none
/// was handled twice.
pub(super) fn check(visits: &[Visit], log: &Log, facts: &Facts) {
    let handled = handled(log);
    let mut moved = 0;
    for visit in visits {
        let by = handled.get(&visit.word).map_or(&[][..], Vec::as_slice);
        let told = format!("{visit:?}, handled by {by:?}: {facts:?}");
        assert!(by.len() <= 1, "twice: {told}");
        // Unless the service ends, nobody is told that a connection does.
        assert!(!visit.closes || facts.serves.is_none(), "closes: {told}");
        let failure = match &visit.result {
            Ok(pid) => {
                assert_eq!(by, [*pid], "{told}");
                continue;
            }
            Err(failure) => failure,
        };
        assert!(!visit.is_later || facts.serves.is_none(), "later: {told}");
        let was_killed = |pid| facts.killed.contains(pid);
        assert!(by.iter().all(was_killed), "by one that lives: {told}");
        match failure {
            Failure::Closed | Failure::Reset => {
                assert!(facts.had_served, "{told}");
                if let Some(last) = visit.last
                    && !was_killed(&last)
                {
                    // It can only have been handed over.
                    assert_eq!(last, facts.predecessor, "{told}");
                    moved += 1;
                }
            }
            // Killed while it sent its answer.
            Failure::Truncated => assert_eq!(by.len(), 1, "{told}"),
            Failure::Refused => {
                let is_right = facts.listeners_lost || facts.serves.is_none();
                assert!(is_right, "somebody listens: {told}");
            }
            _ => panic!("{told}"),
        }
    }
    if let Some(in_use) = facts.in_use {
        assert!(moved <= in_use, "{moved} moved and were lost: {facts:?}");
    }
}

/// Who has handled which request, by its word.
fn handled(log: &Log) -> BTreeMap<String, Vec<i32>> {
    let mut handled: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for line in log.lines_with(" answering ") {
        let (_, word) = line.split_once(" answering ").unwrap();
        let pids = handled.entry(word.to_owned()).or_default();
        pids.push(pid_in(&line));
    }
    handled
}
