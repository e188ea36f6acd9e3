//! The first process, as long as it is not the stub: it follows the
//! generations while it drains, and leaves what it knows to the stub.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_io::Async;
use async_signal::Signals;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, getpid, set_child_subreaper};

use super::chronicle::{Chronicle, Follower};
use super::line::Line;
use super::message::{Testament, Word};
use super::process::{Stub, block_signals};
use super::{STUB_VARIABLE, is_first_of_all};
use crate::handoff::channel::send_packet;
use crate::terminal::Terminal;

/// The image of this process, also when its file has been replaced: the stub
/// has to understand what this version leaves to it.
const THIS_IMAGE: &str = "/proc/self/exe";

/// Where the server leaves what [`run`](super::run) needs to make a stub of
/// the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seat {
    departure: Arc<Mutex<Option<Departure>>>,
}

impl Seat {
    pub(super) fn take(&self) -> Option<Departure> {
        let mut departure = self
            .departure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        departure.take()
    }

    fn put(&self, left: Departure) {
        let mut departure = self
            .departure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *departure = Some(left);
    }
}

/// The first process, which follows the generations.
#[derive(Debug)]
pub(crate) struct Following {
    line: Async<OwnedFd>,
    chronicle: Chronicle,
    seat: Seat,
}

/// Everything that the stub needs.
#[derive(Debug)]
pub(super) struct Departure {
    line: OwnedFd,
    chronicle: Chronicle,
    /// They are caught until the very end: the pipes behind them live on.
    signals: Vec<(Signal, Signals)>,
    terminal: Option<Terminal>,
}

/// Whether a process is to stay, as the stub, when its successors serve.
pub(crate) fn is_wanted(choice: Option<bool>, is_foreground: bool) -> bool {
    // systemd and its like are told who the main process is. But no telling
    // helps against the end of process 1, where Podman, for one, passes the
    // socket of its own supervisor on.
    let is_told = env::var_os("NOTIFY_SOCKET").is_some_and(|name| !name.is_empty());
    choice.unwrap_or(is_first_of_all() || (is_foreground && !is_told))
}

impl Following {
    /// Begins to follow the generations that are to come; to be called before
    /// the first of them exists. Returns its own end of their line, too.
    ///
    /// # Errors
    ///
    /// If generations whose predecessor has exited would not become children
    /// of this process, or there are not enough descriptors.
    pub(crate) fn begin(seat: Seat) -> io::Result<(Self, Line)> {
        // Kept over `exec`, and not inherited by children (prctl(2)).
        set_child_subreaper(Some(getpid()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let following = Following {
            line: Async::new_nonblocking(ours)?,
            chronicle: Chronicle::default(),
            seat,
        };
        Ok((following, Line::new(theirs)))
    }

    /// Takes in what the generations say.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            self.chronicle.hear(self.line.as_fd());
            // Our own end keeps it open, so it does not end.
            match self.line.poll_readable(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }

    /// Passes on what is meant for the service; tells whether there is anybody
    /// to pass it on to.
    pub(crate) fn say(&mut self, word: Word) -> bool {
        self.chronicle.pass_on(self.line.as_fd(), word)
    }

    /// Leaves to the stub what it needs. `successor` is the one that has taken
    /// over, and its generation, whether or not it has said so.
    pub(crate) fn leave(
        mut self,
        line: Option<Line>,
        successor: Option<(u32, u64)>,
        signals: Vec<(Signal, Signals)>,
        terminal: Option<Terminal>,
    ) {
        drop(line);
        self.chronicle.hear(self.line.as_fd());
        if let Some((pid, generation)) = successor {
            self.chronicle.note_successor(pid, generation);
        }
        // Nobody has ever taken over, so this is the end of the service.
        if self.chronicle.main().is_none() {
            return;
        }
        let line = match self.line.into_inner() {
            Ok(line) => line,
            Err(error) => return log::error!("the generations cannot be followed: {error}"),
        };
        self.seat.put(Departure {
            line,
            chronicle: self.chronicle,
            signals,
            terminal,
        });
    }
}

impl Departure {
    /// Makes the stub of this process, and comes back only if that is
    /// impossible: then this process does the same as it is.
    pub(super) fn become_stub(self) -> ExitCode {
        let Departure {
            line,
            chronicle,
            signals,
            terminal,
        } = self;
        let pid = std::process::id();
        log::info!("process {pid} becomes a stub that follows the generations");
        let generations = chronicle.into_generations();
        let testament = Testament {
            generations: generations.iter().map(Follower::record).collect(),
            signals: signals.iter().map(|(signal, _)| signal.as_raw()).collect(),
            terminal: terminal.is_some(),
        };
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![line.as_fd()];
        descriptors.extend(signals.iter().map(|(_, signals)| signals.as_fd()));
        for generation in &generations {
            descriptors.extend(generation.pidfd.as_ref().map(AsFd::as_fd));
            descriptors.extend(generation.ear.as_ref().map(AsFd::as_fd));
        }
        descriptors.extend(terminal.as_ref().map(AsFd::as_fd));
        let error = exec(&testament, &descriptors);
        log::error!("process {pid} cannot become a stub, and follows as it is: {error}");
        let pipes = signals.iter().map(|(signal, signals)| {
            let pipe = rustix::io::fcntl_dupfd_cloexec(signals, 3);
            pipe.ok().map(|pipe| (*signal, pipe))
        });
        let stub = Stub::new(line, generations, pipes.flatten().collect(), terminal);
        stub.run()
    }
}

/// Replaces the image of this process.
fn exec(testament: &Testament, descriptors: &[BorrowedFd<'_>]) -> io::Error {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let sent = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(io::Error::from)
        .and_then(|(ours, theirs)| {
            send_packet(ours.as_fd(), testament, descriptors, &[]).map(|()| theirs)
        });
    let stdin = match sent {
        Ok(stdin) => stdin,
        Err(error) => return error,
    };
    let mut arguments = env::args_os();
    let name = arguments.next();
    let mut command = Command::new(THIS_IMAGE);
    command
        .arg0(name.as_deref().unwrap_or(OsStr::new(THIS_IMAGE)))
        .args(arguments)
        .env(STUB_VARIABLE, std::process::id().to_string())
        .stdin(Stdio::from(stdin));
    // From here on a signal waits until the stub looks for it, unless another
    // thread takes it, which would end within the handler. So not earlier.
    if let Err(error) = block_signals() {
        log::warn!("signals may be lost: {error}");
    }
    command.exec()
}
