//! What the processes of a service write, as it comes.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use super::{PATIENCE, SLICE};

/// The lines that all generations of a service have written so far.
///
/// Every generation inherits the pipe, so the end of the log is a fact of its
/// own: no process of the service is left.
#[derive(Clone, Default)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    /// How many pipes may still bring lines.
    open: usize,
}

/// A place in the log, to tell what came after it.
#[derive(Clone, Copy)]
pub(crate) struct Place(usize);

impl Place {
    pub(crate) const START: Place = Place(0);

    pub(super) fn index(self) -> usize {
        self.0
    }
}

impl Log {
    /// Takes in what comes through a pipe, until its end.
    pub(crate) fn follow(&self, pipe: impl Read + Send + 'static) {
        self.follow_up_to(b'\n', pipe);
    }

    /// The same for something else than lines.
    pub(crate) fn follow_up_to(&self, end: u8, pipe: impl Read + Send + 'static) {
        self.state().open += 1;
        let log = self.clone();
        thread::spawn(move || {
            let mut lines = BufReader::new(pipe).split(end);
            while let Some(Ok(line)) = lines.next() {
                let line = String::from_utf8_lossy(&line).into_owned();
                log.state().lines.push(line);
                log.shared.changed.notify_all();
            }
            log.state().open -= 1;
            log.shared.changed.notify_all();
        });
    }

    /// The place behind the last line that there is now.
    pub(crate) fn here(&self) -> Place {
        Place(self.state().lines.len())
    }

    /// Waits for a line that contains `words`, from the beginning of the log.
    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.wait_for_after(Place::START, words)
    }

    /// Waits for a line behind `place` that contains `words`.
    pub(crate) fn wait_for_after(&self, place: Place, words: &str) -> String {
        self.wait_until(&format!("a line with {words:?}"), |lines| {
            lines[place.0..]
                .iter()
                .find(|line| line.contains(words))
                .cloned()
        })
    }

    /// Waits until something can be found in the lines.
    pub(crate) fn wait_until<T>(&self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        let found = self.wait(|state| find(&state.lines));
        found.unwrap_or_else(|| panic!("waited in vain for {what} in the log"))
    }

    /// Waits until no process of the service is left.
    pub(crate) fn wait_for_end(&self) {
        let ended = self.wait(|state| (state.open == 0).then_some(()));
        ended.expect("waited in vain for the last process of the service to end");
    }

    /// Whether no process of the service is left.
    pub(crate) fn has_ended(&self) -> bool {
        self.state().open == 0
    }

    /// Waits until there are more lines than at `place`, or no process is left
    /// to write one.
    pub(crate) fn wait_for_more(&self, place: Place) {
        let more = self.wait(|state| {
            let more = state.lines.len() > place.0 || state.open == 0;
            more.then_some(())
        });
        more.expect("waited in vain for anything more in the log");
    }

    /// How many lines contain `words` by now.
    pub(crate) fn count(&self, words: &str) -> usize {
        self.lines_with(words).len()
    }

    /// The lines that contain `words` by now.
    pub(crate) fn lines_with(&self, words: &str) -> Vec<String> {
        let state = self.state();
        state
            .lines
            .iter()
            .filter(|line| line.contains(words))
            .cloned()
            .collect()
    }

    fn wait<T>(&self, find: impl Fn(&State) -> Option<T>) -> Option<T> {
        let mut left = PATIENCE;
        let mut state = self.state();
        loop {
            if let Some(found) = find(&state) {
                return Some(found);
            }
            let begun = Instant::now();
            state = self.shared.changed.wait_timeout(state, SLICE).unwrap().0;
            // Also where there is always something new.
            left = left.checked_sub(begun.elapsed().min(SLICE))?;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        state
            .lines
            .iter()
            .try_for_each(|line| writeln!(f, "    {line}"))
    }
}
