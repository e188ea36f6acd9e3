//! What the first process knows of the generations that came after it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::message::{FromGeneration, GenerationRecord, Word};
use crate::handoff::channel::{Packet, Silence, send_packet, take_packet};

/// How long what a generation says can be, in bytes.
const LONGEST: usize = 1024;

/// What is added to the number of a signal that has ended a process.
pub(super) const SIGNALLED: i32 = 128;

/// The exit status for an end of which nothing is known.
pub(super) const UNKNOWN: u8 = 1;

/// Those that have been the main process, as long as they matter.
#[derive(Debug, Default)]
pub(super) struct Chronicle {
    /// The last one first; those behind it may still drain.
    generations: Vec<Follower>,
}

/// A generation after the first.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) pid: i32,
    pub(super) generation: u64,
    /// Names the process also when its number has come to name another one.
    pub(super) pidfd: Option<OwnedFd>,
    /// Where it hears what is passed on. Closing it means nothing to it.
    pub(super) ear: Option<OwnedFd>,
    /// As a shell would tell it: 128 and the signal, if it was killed.
    pub(super) code: Option<u8>,
}

/// Whether there is a generation left that could say something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Open,
    Closed,
}

impl Chronicle {
    /// Goes on with what is known already, the last one first.
    pub(super) fn of(generations: Vec<Follower>) -> Self {
        Chronicle { generations }
    }

    /// Takes in everything that has been said on the line.
    pub(super) fn hear(&mut self, line: BorrowedFd<'_>) -> Line {
        let mut memory = [0; LONGEST];
        loop {
            match take_packet(line, &mut memory) {
                None => return Line::Open,
                Some(Ok(packet)) => self.note(packet),
                Some(Err(Silence::Closed)) => return Line::Closed,
                Some(Err(silence)) => log::warn!("a generation is not understood: {silence}"),
            }
        }
    }

    fn note(&mut self, packet: Packet<FromGeneration>) {
        match packet.message {
            FromGeneration::Published { pid, generation } => {
                let mut descriptors = packet.descriptors.into_iter();
                self.add(Follower {
                    pid,
                    generation,
                    pidfd: descriptors.next(),
                    ear: descriptors.next(),
                    code: None,
                });
            }
            FromGeneration::Undone { generation } => {
                self.generations
                    .retain(|known| known.generation != generation);
            }
            FromGeneration::Ended { generation, code } => {
                match self
                    .generations
                    .iter_mut()
                    .find(|known| known.generation == generation)
                {
                    Some(known) => known.code = Some(code),
                    // It was proven, and died before it could say so.
                    None => self.add(Follower {
                        pid: 0,
                        generation,
                        pidfd: None,
                        ear: None,
                        code: Some(code),
                    }),
                }
            }
        }
    }

    pub(super) fn add(&mut self, follower: Follower) {
        self.generations.retain(Follower::is_there);
        self.generations.push(follower);
        self.generations
            .sort_by_key(|known| std::cmp::Reverse(known.generation));
    }

    /// Notes a successor that has taken over and has not said so, if it is
    /// there; it is a child of ours.
    pub(super) fn note_successor(&mut self, pid: u32, generation: u64) {
        let known = |known: &Follower| known.generation >= generation;
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        if self.generations.iter().any(known) {
            return;
        }
        self.add(Follower {
            pid: number.as_raw_nonzero().get(),
            generation,
            pidfd: pidfd_open(number, PidfdFlags::empty()).ok(),
            ear: None,
            code: None,
        });
    }

    /// The last generation that is known; if it is lost, that is told, or it
    /// was the main process for good.
    pub(super) fn main(&self) -> Option<&Follower> {
        self.generations.first()
    }

    pub(super) fn into_generations(self) -> Vec<Follower> {
        self.generations
    }

    /// Notes how a child of ours has ended.
    pub(super) fn note_end(&mut self, pid: i32, code: u8) {
        if let Some(known) = self.generations.iter_mut().find(|known| known.pid == pid) {
            known.code = Some(code);
        }
    }

    /// Passes something on to all that are there: the main process acts on it,
    /// one that drains takes no notice of a reload nor of a first stop, and one
    /// before it is the main process again if that is undone. Tells whether
    /// there is anybody to pass it on to.
    ///
    /// One that has handed over meanwhile may end without having heard of it;
    /// but before that its successor has said who it is.
    pub(super) fn pass_on(&mut self, line: BorrowedFd<'_>, word: Word) -> bool {
        let mut told = None;
        loop {
            self.hear(line);
            let latest = self.main().map(|main| main.generation);
            if latest <= told {
                return latest.is_some();
            }
            let untold = |known: &&Follower| Some(known.generation) > told;
            for follower in self.generations.iter().filter(untold) {
                follower.say(word);
            }
            told = latest;
        }
    }

    /// Passes a signal on to the main process; that may be one whose successor
    /// is lost.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(main) = self.those_there().next() {
            main.signal(signal);
        }
    }

    /// Whether nobody is left who serves, or would serve again.
    pub(super) fn is_over(&self) -> bool {
        let is_known = self.main().is_some_and(|main| main.code.is_some());
        is_known || self.those_there().next().is_none()
    }

    /// Those that have not ended, the last one first.
    pub(super) fn those_there(&self) -> impl Iterator<Item = &Follower> {
        self.generations.iter().filter(|known| known.is_there())
    }
}

impl Follower {
    fn say(&self, word: Word) {
        let heard = self
            .ear
            .as_ref()
            .map(|ear| send_packet(ear.as_fd(), &word, &[], &[]));
        match heard {
            Some(Ok(())) => {}
            // Before it has told us where it hears, or when it no longer does.
            Some(Err(_)) | None => self.signal(match word {
                Word::Reload => Signal::HUP,
                Word::Stop => Signal::TERM,
            }),
        }
    }

    fn signal(&self, signal: Signal) {
        // Fails only if it has ended.
        if let Some(pidfd) = &self.pidfd
            && let Err(error) = pidfd_send_signal(pidfd, signal)
        {
            log::debug!("{signal:?} did not reach {}: {error}", self.pid);
        }
    }

    /// Whether it may be running.
    pub(super) fn is_there(&self) -> bool {
        let now = Timespec::default();
        self.code.is_none()
            && self.pidfd.as_ref().is_some_and(|pidfd| {
                let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
                poll(&mut polled, Some(&now)) != Ok(1)
            })
    }

    pub(super) fn record(&self) -> GenerationRecord {
        GenerationRecord {
            pid: self.pid,
            generation: self.generation,
            pidfd: self.pidfd.is_some(),
            ear: self.ear.is_some(),
            code: self.code,
        }
    }
}

/// How a shell would tell the end of a process.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => SIGNALLED + signal,
        (None, None) => i32::from(UNKNOWN),
    };
    u8::try_from(code).unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_by_a_shell() {
        let exited = |code: i32| exit_code(ExitStatus::from_raw(code << 8));
        assert_eq!([0, 3, 255].map(exited), [0, 3, 255]);
        assert_eq!(
            [9, 15].map(|it| exit_code(ExitStatus::from_raw(it))),
            [137, 143]
        );
    }

    /// A generation that is there, because it is this process.
    fn alive(generation: u64) -> Follower {
        let pid = rustix::process::getpid();
        Follower {
            pid: pid.as_raw_nonzero().get(),
            generation,
            pidfd: Some(pidfd_open(pid, PidfdFlags::empty()).unwrap()),
            ear: None,
            code: None,
        }
    }

    fn hear(chronicle: &mut Chronicle, message: FromGeneration) {
        chronicle.note(Packet {
            message,
            descriptors: Vec::new(),
            payload: Vec::new(),
            is_cut: false,
        });
    }

    #[test]
    fn one_that_is_undone_leaves_its_predecessor_the_main_one() {
        let mut chronicle = Chronicle::default();
        chronicle.add(alive(2));
        chronicle.add(alive(3));
        assert_eq!(chronicle.main().map(|main| main.generation), Some(3));
        hear(&mut chronicle, FromGeneration::Undone { generation: 3 });
        assert_eq!(chronicle.main().map(|main| main.generation), Some(2));
        assert!(!chronicle.is_over());
    }

    #[test]
    fn the_end_of_the_main_one_is_the_end_though_older_ones_are_there() {
        let mut chronicle = Chronicle::default();
        chronicle.add(alive(3));
        chronicle.add(alive(2));
        let end = |generation| FromGeneration::Ended {
            generation,
            code: 137,
        };
        hear(&mut chronicle, end(2));
        assert!(!chronicle.is_over());
        hear(&mut chronicle, end(4));
        assert!(chronicle.is_over(), "it was lost before it said who it was");
        assert_eq!(chronicle.main().and_then(|main| main.code), Some(137));
    }
}
