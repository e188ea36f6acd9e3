//! The terminal that this process was started from.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Context;
use std::time::{Duration, Instant};

use async_io::Async;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, getpgrp};
use rustix::termios::tcgetpgrp;

/// For how long after the end of the terminal a `SIGHUP` is taken for a
/// consequence of it. It comes at once, but this process may not.
const AFTERMATH: Duration = Duration::from_secs(5);

/// The controlling terminal (credentials(7)).
///
/// When it goes away, because its window is closed or the line is cut, the
/// processes that were started from it get a `SIGHUP`, from the kernel or from
/// their shell: which of the two cannot be relied on, and neither can it be
/// told from the signal that it is no request to reload. But the terminal can
/// be asked. A `SIGHUP` that comes long after its end, to a process that its
/// shell has disowned, is a request like any other.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: OwnedFd,
    /// Since when it is known to be gone.
    gone: Option<Instant>,
}

/// A terminal whose end is noticed when it comes.
#[derive(Debug)]
pub(crate) struct WatchedTerminal {
    terminal: Terminal,
    /// Readable when the terminal is gone, and not for anything that is typed,
    /// which is not ours to read. `None` after that.
    end: Option<Async<OwnedFd>>,
}

impl Terminal {
    /// The terminal whose end is meant for this process, too; `None` if there
    /// is none.
    pub(crate) fn find() -> Option<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let tty = open("/dev/tty", flags, Mode::empty()).ok()?;
        Some(Terminal::new(tty))
    }

    pub(crate) fn new(tty: OwnedFd) -> Self {
        Terminal { tty, gone: None }
    }

    /// Whether the shell waits for this process, or for the one that has
    /// started it.
    pub(crate) fn is_foreground(&self) -> bool {
        tcgetpgrp(&self.tty) == Ok(getpgrp())
    }

    /// Notes whether it is gone; tells it.
    pub(crate) fn look(&mut self) -> bool {
        if self.gone.is_none() && is_hung_up(self.tty.as_fd()) {
            self.gone = Some(Instant::now());
        }
        self.is_gone()
    }

    /// Whether it is known to be gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// Whether a `SIGHUP` that comes now means its end.
    pub(crate) fn has_just_gone(&mut self) -> bool {
        self.look();
        self.gone.is_some_and(|gone| gone.elapsed() < AFTERMATH)
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tty.as_fd()
    }
}

impl WatchedTerminal {
    pub(crate) fn new(terminal: Terminal) -> io::Result<Self> {
        let end = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // What says that it is gone is reported without being asked for.
        let data = epoll::EventData::new_u64(0);
        epoll::add(&end, &terminal.tty, data, epoll::EventFlags::empty())?;
        Ok(WatchedTerminal {
            terminal,
            end: Some(Async::new_nonblocking(end)?),
        })
    }

    /// Notes its end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(end) = &self.end
            && end.poll_readable(cx).is_ready()
        {
            self.terminal.look();
            self.end = None;
        }
    }

    /// Whether a `SIGHUP` that comes now means its end.
    pub(crate) fn has_just_gone(&mut self) -> bool {
        self.terminal.has_just_gone()
    }

    /// Whether the shell waits for this process.
    pub(crate) fn is_foreground(&self) -> bool {
        self.terminal.is_foreground()
    }

    pub(crate) fn into_inner(self) -> Terminal {
        self.terminal
    }
}

fn is_hung_up(tty: BorrowedFd<'_>) -> bool {
    let now = Timespec::default();
    let mut polled = [PollFd::from_borrowed_fd(tty, PollFlags::empty())];
    // It reports an error as well, which is not the end of a terminal alone.
    poll(&mut polled, Some(&now)) == Ok(1) && polled[0].revents().contains(PollFlags::HUP)
}

/// Whether this process was started with `SIGHUP` ignored, as by nohup(1): to
/// be asked before it is caught.
pub(crate) fn is_hangup_ignored() -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let hangup = 1 << (Signal::HUP.as_raw() - 1);
    mask.is_some_and(|mask| mask & hangup != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

    /// Both ends of a terminal, which is nobody's controlling one.
    fn open_terminal() -> (OwnedFd, Terminal) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let tty = ioctl_tiocgptpeer(&master, flags).unwrap();
        (master, Terminal::new(tty))
    }

    #[test]
    fn a_terminal_is_gone_when_its_other_end_is_and_not_when_something_is_typed() {
        let (master, mut terminal) = open_terminal();
        rustix::io::write(&master, b"typed\n").unwrap();
        assert!(!terminal.has_just_gone());
        drop(master);
        assert!(terminal.has_just_gone());
    }

    #[test]
    fn a_hangup_long_after_the_end_of_the_terminal_does_not_mean_it() {
        let (master, mut terminal) = open_terminal();
        drop(master);
        assert!(terminal.look());
        terminal.gone = terminal.gone.and_then(|gone| gone.checked_sub(AFTERMATH));
        assert!(terminal.is_gone() && !terminal.has_just_gone());
    }

    #[test]
    fn the_end_is_noticed_when_it_comes() {
        let (master, terminal) = open_terminal();
        let mut terminal = WatchedTerminal::new(terminal).unwrap();
        let noticed = smol::future::poll_fn(|cx| {
            terminal.poll(cx);
            match terminal.terminal.is_gone() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        });
        let mut noticed = std::pin::pin!(noticed);
        rustix::io::write(&master, b"typed\n").unwrap();
        smol::block_on(async {
            assert!(smol::future::poll_once(&mut noticed).await.is_none());
            drop(master);
            noticed.await;
        });
    }
}
