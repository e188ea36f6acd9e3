//! The stub itself: one thread, no executor, a few descriptors.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Caught};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, wait};

use super::chronicle::{self, Chronicle, Follower, SIGNALLED, UNKNOWN};
use super::message::{GenerationRecord, Testament, Word};
use crate::handoff::channel::take_packet;
use crate::handoff::successor::take_stdin;
use crate::terminal::Terminal;

/// How long older generations may go on when the main process has crashed:
/// nobody accepts then, and whoever watches this process is to know. So long is
/// also waited for a successor that takes its place, and for the status itself:
/// its parent tells it, or dies, which makes it ours to reap.
const GRACE: Duration = Duration::from_secs(5);

/// What the stub waits for and passes on.
const CAUGHT: [Caught; 7] = [
    Caught::SIGHUP,
    Caught::SIGTERM,
    Caught::SIGINT,
    Caught::SIGQUIT,
    Caught::SIGUSR1,
    Caught::SIGUSR2,
    Caught::SIGCHLD,
];

/// `si_code` of a signal that nobody has sent, such as that of Ctrl-C
/// (sigaction(2)).
const BY_KERNEL: i32 = 0x80;

/// A process that does nothing but follow the generations of a service.
#[derive(Debug)]
pub(super) struct Stub {
    /// `None` when no generation is left.
    line: Option<OwnedFd>,
    chronicle: Chronicle,
    /// Where signals lead that were taken by a thread of the first process.
    pipes: Vec<(Signal, OwnedFd)>,
    terminal: Option<Terminal>,
    /// Whether the end of the terminal has been taken for a stop.
    has_hung_up: bool,
    /// Whether a stop came when there was nobody to pass it on to.
    owes_stop: bool,
    /// The status of the last child that was reaped, whoever that was.
    last: Option<u8>,
    /// Since when nobody is left who serves, or would serve again.
    ended: Option<Instant>,
}

/// Takes the signals that are meant for the service from this thread, and from
/// those that it will start.
pub(super) fn block_signals() -> io::Result<SigSet> {
    let caught = CAUGHT.into_iter().collect::<SigSet>();
    caught.thread_block()?;
    Ok(caught)
}

/// Has async-io start its thread, unless it has already, as one that takes none
/// of these signals. Otherwise it could be in the middle of a handler when
/// `exec` ends it.
pub(super) fn start_reactor() -> io::Result<()> {
    let caught = CAUGHT.into_iter().collect::<SigSet>();
    let before = caught.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    async_io::block_on(std::future::ready(()));
    before.thread_set_mask()?;
    Ok(())
}

/// Is the stub that the first process has made of itself.
pub(super) fn be_stub() -> ExitCode {
    keep_name();
    let stub = take_stdin().ok().and_then(Stub::inherit);
    // There is nothing to read for this process, nor for a child of it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    if let Ok(nothing) = open("/dev/null", flags, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&nothing);
    }
    match stub {
        Some(stub) => stub.run(),
        None => {
            log::error!("the stub does not know whom to follow");
            ExitCode::from(UNKNOWN)
        }
    }
}

/// Calls this process as it was called before: the image it was made from has
/// no name.
fn keep_name() {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    if let Ok(name) = CString::new(name.as_bytes()) {
        // A matter of looks.
        let _ = rustix::thread::set_name(&name);
    }
}

impl Stub {
    pub(super) fn new(
        line: OwnedFd,
        generations: Vec<Follower>,
        pipes: Vec<(Signal, OwnedFd)>,
        terminal: Option<Terminal>,
    ) -> Self {
        Stub {
            line: Some(line),
            chronicle: Chronicle::of(generations),
            pipes,
            terminal,
            has_hung_up: false,
            owes_stop: false,
            last: None,
            ended: None,
        }
    }

    /// Reads what the first process has left; `None` if that is not all there.
    fn inherit(stdin: OwnedFd) -> Option<Self> {
        // A few records at most: those that have ended are not among them.
        let mut memory = vec![0; 16 * 1024];
        let packet = take_packet::<Testament>(stdin.as_fd(), &mut memory)?.ok()?;
        let mut descriptors = packet.descriptors.into_iter();
        let line = descriptors.next()?;
        let testament = packet.message;
        let pipes = testament.signals.iter().map(|number| {
            let signal = Signal::from_named_raw(*number)?;
            Some((signal, descriptors.next()?))
        });
        let pipes = pipes.collect::<Option<Vec<_>>>()?;
        let generations = testament.generations.into_iter().map(|record| {
            let GenerationRecord {
                pid,
                generation,
                pidfd,
                ear,
                code,
            } = record;
            Some(Follower {
                pid,
                generation,
                pidfd: if pidfd {
                    Some(descriptors.next()?)
                } else {
                    None
                },
                ear: if ear { Some(descriptors.next()?) } else { None },
                code,
            })
        });
        let generations = generations.collect::<Option<Vec<_>>>()?;
        let terminal = match testament.terminal {
            true => Some(Terminal::new(descriptors.next()?)),
            false => None,
        };
        Some(Stub::new(line, generations, pipes, terminal))
    }

    /// Follows the generations until the last one has ended; then this process
    /// is to exit with their status.
    pub(super) fn run(mut self) -> ExitCode {
        let signals = block_signals().and_then(|caught| {
            let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
            Ok(SignalFd::with_flags(&caught, flags)?)
        });
        let signals = match signals {
            Ok(signals) => signals,
            Err(error) => {
                log::error!("the stub cannot go on: {error}");
                return ExitCode::from(UNKNOWN);
            }
        };
        loop {
            self.hear(&signals);
            if let Some(code) = self.verdict() {
                log::info!("the stub exits with status {code}");
                return ExitCode::from(code);
            }
            if let Err(error) = self.wait(&signals) {
                log::error!("the stub cannot go on: {error}");
                return ExitCode::from(UNKNOWN);
            }
        }
    }

    /// Takes in everything that has happened.
    fn hear(&mut self, signals: &SignalFd) {
        // What a generation has said is known before a signal is passed on.
        if let Some(line) = &self.line
            && self.chronicle.hear(line.as_fd()) == chronicle::Line::Closed
        {
            self.line = None;
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.look();
        }
        for (signal, pipe) in mem::take(&mut self.pipes) {
            let mut bytes = [0; 64];
            match rustix::io::read(&pipe, &mut bytes) {
                Ok(0) => continue,
                Ok(_) => self.pass_on(signal, false),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => continue,
            }
            self.pipes.push((signal, pipe));
        }
        while let Ok(Some(caught)) = signals.read_signal() {
            let number = i32::try_from(caught.ssi_signo).ok();
            if let Some(signal) = number.and_then(Signal::from_named_raw) {
                self.pass_on(signal, caught.ssi_code == BY_KERNEL);
            }
        }
        // Not only when there was a signal: several become one.
        self.reap();
        if self.chronicle.is_over() {
            self.ended.get_or_insert_with(Instant::now);
        } else {
            self.ended = None;
            if mem::take(&mut self.owes_stop) {
                self.say(Word::Stop);
            }
        }
    }

    /// Passes a signal on. Those that the kernel sends are sent to a whole
    /// group of processes, of which the generations are; a stop is counted
    /// once by each of them however often it hears of it.
    fn pass_on(&mut self, signal: Signal, by_kernel: bool) {
        match signal {
            Signal::HUP => {
                let is_hangup = self.terminal.as_mut().is_some_and(Terminal::has_just_gone);
                if !is_hangup {
                    self.say(Word::Reload);
                } else if !mem::replace(&mut self.has_hung_up, true) {
                    self.say(Word::Stop);
                }
            }
            Signal::TERM | Signal::INT => self.say(Word::Stop),
            Signal::QUIT | Signal::USR1 | Signal::USR2 if !by_kernel => {
                self.chronicle.signal(signal);
            }
            _ => {}
        }
    }

    fn say(&mut self, word: Word) {
        // Without a line nobody is left.
        if let Some(line) = &self.line {
            self.chronicle.pass_on(line.as_fd(), word);
            // A successor of one that was killed may yet come to serve.
            self.owes_stop |= word == Word::Stop && self.chronicle.is_over();
        }
    }

    /// Reaps whoever has ended: generations whose predecessor has exited, and
    /// all other orphans.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let code = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code,
                (None, Some(signal)) => SIGNALLED + signal,
                (None, None) => continue,
            };
            let code = u8::try_from(code).unwrap_or(UNKNOWN);
            self.chronicle.note_end(pid.as_raw_nonzero().get(), code);
            self.last = Some(code);
        }
    }

    /// The status with which to exit, if it is time.
    fn verdict(&self) -> Option<u8> {
        let code = self.code();
        let is_time = self.deadline().is_some_and(|at| at <= Instant::now());
        match code {
            Some(code) if self.line.is_none() || is_time => Some(code),
            // Nobody has told it, but it was the end of the service.
            None if is_time => Some(self.last.filter(|code| *code != 0).unwrap_or(UNKNOWN)),
            Some(_) | None => None,
        }
    }

    /// How the main process has ended, if that is known.
    fn code(&self) -> Option<u8> {
        self.chronicle.main().and_then(|main| main.code)
    }

    /// When this process exits whoever is left. One that has ended on purpose
    /// waits for those before it, which have deadlines of their own.
    fn deadline(&self) -> Option<Instant> {
        let ended = self.ended.filter(|_| self.code() != Some(0))?;
        ended.checked_add(GRACE)
    }

    /// Waits until something happens, or it is time.
    fn wait(&self, signals: &SignalFd) -> io::Result<()> {
        let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
        polled.extend(
            self.line
                .as_ref()
                .map(|line| PollFd::new(line, PollFlags::IN)),
        );
        polled.extend(
            self.pipes
                .iter()
                .map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN)),
        );
        for generation in self.chronicle.those_there() {
            let pidfd = generation.pidfd.as_ref();
            polled.extend(pidfd.map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        }
        if let Some(terminal) = self
            .terminal
            .as_ref()
            .filter(|terminal| !terminal.is_gone())
        {
            polled.push(PollFd::new(terminal, PollFlags::empty()));
        }
        let patience = self.deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or_default()
        });
        match poll(&mut polled, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
