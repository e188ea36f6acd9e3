//! What the loop has to do with the first process, or as that;
//! [`crate::stub`] has the whole of it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitStatus;
use std::task::{Context, Poll};

use rustix::process::Pid;

use super::{Running, poll_signal};
use crate::handoff::predecessor::{Bequest, Successor};
use crate::lifecycle::{Event, State};
use crate::stub::{Following, Line, Seat, Word, is_first_of_all, is_wanted};
use crate::terminal::{Terminal, WatchedTerminal};

/// What a process has to do with the first one, or as that.
pub(super) struct First {
    number: u64,
    /// Whether this is the first process of those who descend from it; it may
    /// have taken over from others.
    is_first: bool,
    /// The terminal with which the service ends.
    terminal: Option<WatchedTerminal>,
    /// The way to the first process, if that follows the generations.
    line: Option<Line>,
    /// If this is the first process, and follows.
    following: Option<Following>,
    /// What it takes to begin with that.
    seat: Option<Seat>,
}

impl First {
    pub(super) fn new(
        number: u64,
        is_first: bool,
        terminal: Option<Terminal>,
        line: Option<OwnedFd>,
        seat: Option<Seat>,
    ) -> Self {
        let terminal = terminal.and_then(|terminal| {
            WatchedTerminal::new(terminal)
                .inspect_err(|error| log::warn!("the terminal cannot be watched: {error}"))
                .ok()
        });
        First {
            number,
            is_first,
            terminal,
            line: line.map(Line::new),
            following: None,
            seat,
        }
    }

    /// Begins to follow, if this is the first process, and is to stay.
    ///
    /// # Errors
    ///
    /// If it cannot, in words. Then there must be no successor, or its end would
    /// be that of the service.
    pub(super) fn follow(&mut self, choice: Option<bool>) -> Result<(), String> {
        let is_foreground = self
            .terminal
            .as_ref()
            .is_some_and(WatchedTerminal::is_foreground);
        if !self.is_first || self.line.is_some() || !is_wanted(choice, is_foreground) {
            return Ok(());
        }
        let Some(seat) = self.seat.clone() else {
            if choice == Some(true) {
                log::warn!("this process cannot stay: `main` does not use `heirloom::run`");
            }
            return Ok(());
        };
        let (following, line) =
            Following::begin(seat).map_err(|error| format!("this process cannot stay: {error}"))?;
        self.following = Some(following);
        self.line = Some(line);
        Ok(())
    }

    /// What a successor is to know.
    pub(super) fn bequest(&self) -> Bequest<'_> {
        Bequest {
            line: self.line.as_ref().map(|line| line.as_fd()),
            terminal: self.terminal.is_some(),
        }
    }

    /// Whether all others around us end with what descends from the first
    /// process: it is process 1, whether it stays or not.
    pub(super) fn ends_all(&self) -> bool {
        is_first_of_all() || self.first().is_some_and(Pid::is_init)
    }

    /// Whether this process stays when it has nothing in flight any more.
    pub(super) fn stays(&self, pid: i32) -> bool {
        self.first()
            .is_some_and(|it| it.as_raw_nonzero().get() == pid)
    }

    fn first(&self) -> Option<Pid> {
        self.line.as_ref().and_then(Line::first)
    }

    /// This process is the main one.
    pub(super) fn published(&mut self) {
        // The first process is none of those that it follows; one that has taken
        // over may hear after its own restarts that the other one is gone.
        if let (None, Some(line)) = (&self.following, &mut self.line) {
            line.published(self.number);
        }
    }

    /// The successor is lost, and this process is the main one again.
    pub(super) fn undone(&self) {
        if let Some(line) = &self.line {
            line.undone(self.number.saturating_add(1));
        }
    }

    /// Tells how a successor has ended that had taken over for good.
    pub(super) fn end_of_successor(&self) -> impl Fn(ExitStatus) + use<> {
        let (line, generation) = (self.line.clone(), self.number.saturating_add(1));
        move |status| {
            if let Some(line) = &line {
                line.ended(generation, status);
            }
        }
    }

    /// Passes on what is meant for the service, if this is the first process
    /// and another one is published; tells whether that is so.
    pub(super) fn say(&mut self, word: Word) -> bool {
        match &mut self.following {
            Some(following) => following.say(word),
            None => false,
        }
    }
}

impl Running {
    /// What the first process passes on to us.
    pub(super) fn hear_first(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        if let Some(following) = &mut self.first.following {
            following.poll(cx);
        }
        if let Some(terminal) = &mut self.first.terminal {
            terminal.poll(cx);
        }
        while let Poll::Ready(word) = self.first.line.as_mut()?.poll_word(cx) {
            match word {
                // Our successor has heard it, too, unless the first process
                // knows nothing of it.
                Word::Reload if self.is_over() && !self.is_taken_over() => {}
                Word::Reload => return Some(Event::Reload),
                Word::Stop => {
                    let passed_on = self.stop_count.passed_on();
                    let is_new = self.stop_count.by_first();
                    if self.stop_count.passed_on() > passed_on {
                        self.pass_stop_on();
                    }
                    if is_new && let Some(event) = self.stop() {
                        return Some(event);
                    }
                }
            }
        }
        None
    }

    /// Whether another one is the main process, for good.
    fn is_over(&self) -> bool {
        matches!(self.state, State::Draining | State::Stopping)
    }

    /// A stop that somebody passes on to us means the service, so it must not
    /// end here when we have handed that over meanwhile. But if somebody else
    /// has taken over, it means what is left here.
    pub(super) fn pass_stop_on(&self) {
        if let (true, Some(successor)) = (self.is_over(), &self.successor)
            && !successor.is_foreign()
            && let Err(error) = successor.send_stop()
        {
            log::debug!("the stop was not passed on to {successor}: {error}");
        }
    }

    /// What a `SIGHUP` means.
    pub(super) fn poll_hangups(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        while poll_signal(&mut self.reloads, cx).is_ready() {
            let terminal = self.first.terminal.as_mut();
            if terminal.is_some_and(WatchedTerminal::has_just_gone) {
                if self.stop_count.once() {
                    self.first.say(Word::Stop);
                    log::info!("the terminal is gone");
                    if let Some(event) = self.stop() {
                        return Poll::Ready(event);
                    }
                }
            } else if !(self.first.say(Word::Reload) && self.is_over()) {
                return Poll::Ready(Event::Reload);
            }
        }
        Poll::Pending
    }

    /// Leaves what the stub needs, if this process is to become one.
    pub(super) fn leave(mut self) {
        // One that somebody else has started is not ours to follow: without it,
        // nobody is left here.
        let is_taken_over = self.is_taken_over();
        let claimed = self.successor.as_ref().and_then(Successor::serving_pid);
        let followed = claimed.filter(|_| !is_taken_over);
        let successor = followed.map(|pid| (pid, self.number.saturating_add(1)));
        // What it has said in the end is told before how it has ended, and there
        // may be no time for that any more.
        if followed.is_some()
            && let Some(status) = self.successor.as_mut().and_then(Successor::status)
        {
            self.first.end_of_successor()(status);
        }
        let First {
            terminal,
            line,
            following,
            ..
        } = self.first;
        if let Some(following) = following {
            let mut signals = self.stops.into_signals();
            signals.push((rustix::process::Signal::HUP, self.reloads));
            let terminal = terminal.map(WatchedTerminal::into_inner);
            following.leave(line, successor, signals, terminal);
        } else if let (true, Some((pid, _))) = (is_first_of_all(), successor) {
            log::error!(
                "process 1 exits, which ends the container, and successor {pid} with it: \
                 `main` does not use `heirloom::run`, or `pid_one_stub` is off"
            );
        }
    }
}
