//! The supervisor: systemd, or whoever else speaks `sd_notify(3)`.
//!
//! systemd takes one process of a service for the main one, and by default
//! believes no other (`NotifyAccess=main`). So all that is said is said by the
//! main process, and who that is changes only by its own word: a successor that
//! claimed it for itself would not be heard, and systemd would take the end of
//! the predecessor for the end of the service.
//!
//! # Who says what, and when
//!
//! | when | who | what |
//! |---|---|---|
//! | the first process accepts connections | it | `READY=1` |
//! | a restart begins | the predecessor | `RELOADING=1` with `MONOTONIC_USEC` |
//! | the successor takes over | the predecessor | `STATUS`, how many connections move |
//! | its process ID is published, before it is told that it is proven | the predecessor, for the last time unless that cannot be told | `MAINPID` of the successor, `READY=1` |
//! | it is lost in that very moment | the predecessor | its own `MAINPID` |
//! | it has been told so | the successor, for the first time | `STATUS` |
//! | a restart has failed, or was undone | the predecessor | `READY=1`, and the reason as `STATUS` |
//! | the service is told to stop | the main process | `STOPPING=1` |
//! | every 5 seconds of a restart or a stop | the main process | `EXTEND_TIMEOUT_USEC` |
//! | every half of `WATCHDOG_USEC` | the main process | `WATCHDOG=1` |
//!
//! - Each datagram but the last two kinds comes with a `STATUS` of its own.
//! - A restart that begins because another one was asked for meanwhile is
//!   another `RELOADING=1`. So a `Type=notify-reload` unit, whose supervisor
//!   ignores what was sent before its own signal, waits for the restart that
//!   follows that signal.
//! - A predecessor that drains says nothing, whether it is told to stop or not:
//!   the service goes on without it.
//! - If the main process is lost before its successor is proven, the
//!   supervisor ends the service, whoever serves by then: nobody is left whom
//!   it would believe. It starts the service anew if `Restart=` says so. That is
//!   why a main process that hangs is left to the watchdog.
//!
//! # Who goes last
//!
//! When the main process has exited, systemd sends a second `SIGTERM` to what
//! is left of a service that it stops, which would cut the requests that an
//! older generation still answers. So under a supervisor generations exit in
//! their order, and the main one last ([`Supervisor::poll_alone`]).
//!
//! Nor may a predecessor exit before systemd has acted on its `MAINPID`. When
//! the command of `ExecReload=` ends, systemd looks whether the main process
//! that it knows is alive, without reading what is waiting to be read; if it is
//! not, the service is stopped, as if it had ended well. So the predecessor
//! sends a barrier (sd_notify_barrier(3)) behind its last words, and waits for
//! it, also beyond its drain timeout, but no longer than five seconds.
//!
//! And what systemd does not know for its child it does not wait for: it sends
//! `SIGKILL` right behind the `SIGTERM`. It looks once, when it is told the
//! `MAINPID`, and then a successor is still a child of its predecessor. So a
//! unit needs an `ExecStop=` that waits (`examples/heirloom.service`); nothing
//! that a process can say helps.
//!
//! # Implementation
//!
//! Not by the crate `sd-notify` (0.5): it does not know abstract sockets, and
//! its sends wait for a supervisor that is behind. What is left is one
//! datagram. Ours never waits; what the supervisor has no room for is sent
//! again, in order, and a drain waits for that as for a request.

mod socket;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::{Async, Timer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use smol::future::FutureExt as _;

use self::socket::NotifySocket;

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_PID: &str = "WATCHDOG_PID";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

/// Name the process that systemd passed sockets to, and these sockets
/// (sd_listen_fds(3)).
const ACTIVATION: [&str; 4] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// How often more time is asked for, while something takes long.
const EXTENSION_INTERVAL: Duration = Duration::from_secs(5);

/// For how much; so one that hangs is noticed no later than this.
const EXTENSION: Duration = Duration::from_secs(15);

/// When it is tried again to send what could not be sent.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A shorter interval could not be kept, nor checked by anybody.
const SHORTEST_WATCHDOG: Duration = Duration::from_millis(1);

/// How long a status may be, in characters. The supervisor ignores datagrams
/// of more than 4096 bytes, of which a character may take four.
const LONGEST_STATUS: usize = 900;

/// Whoever watches over this service, and what it takes this process for.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// `None`: nobody wants to be told anything.
    socket: Option<NotifySocket>,
    role: Role,
    /// The predecessor, as long as it lives; readable when it has exited.
    /// That it has closed its channel, or that we have, does not say that.
    elder: Option<Async<OwnedFd>>,
    /// Whether it has been logged that we wait for others.
    is_held: bool,
    /// Whether it waits for the end of a restart or of a stop.
    waits: bool,
    /// Whether we are stopping, told or not.
    is_stopping: bool,
    /// If it wants to hear from us at intervals.
    watchdog: Option<Beat>,
    extension: Beat,
    retry: Beat,
}

/// What the supervisor takes this process for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The predecessor is the main process, until we are proven.
    Heir,
    Main,
    /// The successor is the main process.
    Retired,
}

impl Supervisor {
    /// Finds out from the environment who wants to be told. The first process
    /// is the main one; one that has a predecessor is not before it is proven.
    pub(crate) fn find(predecessor: Option<i32>) -> Self {
        let socket = env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty());
        let socket = socket.and_then(|name| {
            NotifySocket::open(&name)
                .inspect_err(|error| {
                    log::warn!(
                        "the supervisor cannot be told anything, NOTIFY_SOCKET is `{}`: {error}",
                        name.display()
                    );
                })
                .ok()
        });
        let interval = watchdog_interval(
            env::var_os(WATCHDOG_USEC),
            env::var_os(WATCHDOG_PID),
            std::process::id(),
        );
        Supervisor {
            role: match predecessor {
                Some(_) => Role::Heir,
                None => Role::Main,
            },
            elder: socket.as_ref().and(predecessor).and_then(watch_parent),
            socket,
            is_held: false,
            waits: false,
            is_stopping: false,
            watchdog: interval.map(|interval| Beat::every((interval / 2).max(SHORTEST_WATCHDOG))),
            extension: Beat::every(EXTENSION_INTERVAL),
            retry: Beat::every(RETRY_INTERVAL),
        }
    }

    /// The service serves, and no restart is under way.
    pub(crate) fn ready(&mut self, status: impl fmt::Display) {
        self.waits = false;
        self.say("READY=1\n", status);
    }

    /// A restart begins.
    pub(crate) fn reloading(&mut self, status: impl fmt::Display) {
        self.waits = true;
        let now = clock_gettime(ClockId::Monotonic);
        let now = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        let more = EXTENSION.as_micros();
        self.say(
            &format!("RELOADING=1\nMONOTONIC_USEC={now}\nEXTEND_TIMEOUT_USEC={more}\n"),
            status,
        );
    }

    /// Nothing but the status changes.
    pub(crate) fn status(&mut self, status: impl fmt::Display) {
        self.say("", status);
    }

    /// From now on the successor is the main process, and this one says
    /// nothing more.
    pub(crate) fn retire(&mut self, successor: u32, status: impl fmt::Display) {
        self.waits = false;
        // The watchdog begins anew with a time that the successor can keep.
        self.say(
            &format!("MAINPID={successor}\nREADY=1\nWATCHDOG=1\n"),
            status,
        );
        if let Some(socket) = &mut self.socket {
            socket.send_barrier();
        }
        self.role = Role::Retired;
    }

    /// Whether there is a supervisor for which the predecessor is the main
    /// process.
    pub(crate) fn watches_predecessor(&self) -> bool {
        self.socket.is_some() && self.role == Role::Heir
    }

    /// Whether the supervisor would notice that the main process hangs.
    pub(crate) fn has_watchdog(&self) -> bool {
        self.watchdog.is_some()
    }

    /// This process is the main one again, should it have retired. Under
    /// `NotifyAccess=main` nobody may believe that; but then the main process
    /// that has died was noticed, too.
    pub(crate) fn reclaim(&mut self, status: impl fmt::Display) {
        if self.role == Role::Retired {
            self.role = Role::Main;
            if let Some(socket) = &mut self.socket {
                socket.forget_barrier();
            }
            self.say(&format!("MAINPID={}\n", std::process::id()), status);
        }
    }

    /// The predecessor has nothing in flight any more, and stays as the stub.
    pub(crate) fn forget_elder(&mut self) {
        self.elder = None;
    }

    /// From now on this process is the main one; the predecessor has said so.
    pub(crate) fn inherit(&mut self, status: impl fmt::Display) {
        if self.role != Role::Heir {
            return;
        }
        self.role = Role::Main;
        if self.is_stopping {
            self.is_stopping = false;
            self.stopping(status);
        } else {
            self.say("WATCHDOG=1\n", status);
        }
    }

    /// The service is about to end.
    pub(crate) fn stopping(&mut self, status: impl fmt::Display) {
        if self.is_stopping {
            return;
        }
        self.is_stopping = true;
        self.waits = true;
        let more = EXTENSION.as_micros();
        self.say(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={more}\n"), status);
    }

    /// Says what is to be said at intervals. Comes of the loop of the
    /// lifecycle and nowhere else: if the thread that serves hangs, the
    /// supervisor is to notice.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        let is_main = self.role == Role::Main;
        let Some(socket) = &mut self.socket else {
            return;
        };
        if self.retry.poll(socket.has_unsent(), cx) {
            socket.send_again();
        }
        // One that is behind needs no more of these; they come again.
        let is_behind = socket.has_unsent();
        if self.extension.poll(is_main && self.waits, cx) && !is_behind {
            let more = EXTENSION.as_micros();
            socket.send(format!("EXTEND_TIMEOUT_USEC={more}\n"));
        }
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.poll(is_main, cx)
            && !is_behind
        {
            socket.send("WATCHDOG=1\n".to_owned());
        }
    }

    /// Waits until the supervisor would not take our exit for the end of
    /// others, and has heard everything that we have said.
    ///
    /// `has_successor` tells whether there is a successor of ours, which makes
    /// a difference as long as the service stops with both of them.
    pub(crate) fn poll_alone(&mut self, has_successor: bool, cx: &mut Context<'_>) -> Poll<()> {
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(());
        };
        if let Some(elder) = &self.elder
            && (is_readable(elder.get_ref()) || elder.poll_readable(cx).is_ready())
        {
            self.elder = None;
        }
        let awaited = match self.role {
            Role::Main | Role::Retired if self.elder.is_some() => "the predecessor to exit",
            Role::Main if has_successor => "the successor to exit",
            _ if socket.has_unsent() || socket.poll_barrier(cx).is_pending() => {
                "the supervisor to hear of it"
            }
            // For an heir, the predecessor is the one that waits.
            Role::Heir | Role::Main | Role::Retired => return Poll::Ready(()),
        };
        self.hold(awaited);
        Poll::Pending
    }

    fn hold(&mut self, awaited: &str) {
        if !std::mem::replace(&mut self.is_held, true) {
            log::info!("nothing is in flight any more; waiting for {awaited}");
        }
    }

    /// Waits until the supervisor knows the successor, if this process has told
    /// it who that is. No longer than five seconds from then.
    pub(crate) fn poll_known(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What is still to be sent is sent here.
        self.poll(cx);
        let is_known = match &mut self.socket {
            Some(socket) if self.role == Role::Retired => socket.poll_barrier(cx),
            _ => Poll::Ready(()),
        };
        if is_known.is_pending() {
            self.hold("the supervisor to hear of it");
        }
        is_known
    }

    fn say(&mut self, what: &str, status: impl fmt::Display) {
        if self.role != Role::Main {
            return;
        }
        if let Some(socket) = &mut self.socket {
            socket.send(format!("{what}STATUS={}\n", one_line(status)));
        }
    }
}

/// Adapts the environment of a successor to what is true for it.
///
/// systemd writes the process ID of the first process into it, so that other
/// processes do not believe what is not meant for them. The watchdog is meant
/// for whoever is the main process (sd_watchdog_enabled(3)). The sockets that
/// were passed come by way of the handoff, and their numbers are no longer true.
pub(crate) fn bequeath(command: &mut Command) {
    for name in ACTIVATION {
        command.env_remove(name);
    }
    if is_ours(env::var_os(WATCHDOG_PID), std::process::id()) {
        command.env_remove(WATCHDOG_PID);
    }
}

/// Whether a variable says something about the supervisor, or comes from it.
pub(crate) fn is_theirs(name: &OsStr) -> bool {
    let others = [NOTIFY_SOCKET, WATCHDOG_PID, WATCHDOG_USEC];
    ACTIVATION.iter().chain(&others).any(|it| name == *it)
}

/// A descriptor that becomes readable when the parent of this process exits,
/// if that is the process `pid`.
fn watch_parent(pid: i32) -> Option<Async<OwnedFd>> {
    let pid = Pid::from_raw(pid)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Otherwise it was gone before, and the number may be another process's.
    let is_parent = getppid() == Some(pid);
    Async::new_nonblocking(pidfd).ok().filter(|_| is_parent)
}

/// Whether there is something to be read, or will be nothing more.
fn is_readable(descriptor: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())) == Ok(1)
}

/// How often the supervisor wants to hear from the process `pid`, if it does.
fn watchdog_interval(
    microseconds: Option<OsString>,
    of: Option<OsString>,
    pid: u32,
) -> Option<Duration> {
    let microseconds: u64 = microseconds?.to_str()?.parse().ok()?;
    // Both of them mean that there is none.
    let is_real = microseconds != 0 && microseconds != u64::MAX;
    (is_real && is_ours(of, pid)).then_some(Duration::from_micros(microseconds))
}

fn is_ours(of: Option<OsString>, pid: u32) -> bool {
    of.is_none_or(|of| of.to_str().and_then(|of| of.parse().ok()) == Some(pid))
}

/// What is said is divided by line feeds, and parts of it are not ours.
fn one_line(text: impl fmt::Display) -> String {
    let mut whole = String::new();
    // It fails only if the text itself does.
    let _ = write!(whole, "{text}");
    let mut letters = whole.chars();
    let mut line: String = letters
        .by_ref()
        .take(LONGEST_STATUS)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if letters.next().is_some() {
        line.push('…');
    }
    line
}

/// What is done at intervals, as long as it is wanted.
#[derive(Debug)]
struct Beat {
    interval: Duration,
    /// Set while it is wanted.
    timer: Option<Timer>,
}

impl Beat {
    fn every(interval: Duration) -> Self {
        Beat {
            interval,
            timer: None,
        }
    }

    /// Whether it is time.
    fn poll(&mut self, is_wanted: bool, cx: &mut Context<'_>) -> bool {
        if !is_wanted {
            self.timer = None;
            return false;
        }
        let interval = self.interval;
        let timer = self.timer.get_or_insert_with(|| Timer::after(interval));
        match timer.poll(cx) {
            Poll::Pending => false,
            Poll::Ready(_) => {
                self.timer = None;
                // The next interval is waited for, too.
                cx.waker().wake_by_ref();
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names_or_for_anybody() {
        let interval = |microseconds: &str, of: Option<&str>| {
            watchdog_interval(Some(microseconds.into()), of.map(OsString::from), 7)
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(interval("1000000", Some("7")), second);
        assert_eq!(interval("1000000", None), second);
        assert_eq!(interval("1000000", Some("8")), None);
        assert_eq!(interval("1000000", Some("")), None);
        for nothing in ["0", "18446744073709551615", "-1", "soon", ""] {
            assert_eq!(interval(nothing, Some("7")), None, "{nothing:?}");
        }
        assert_eq!(watchdog_interval(None, Some("7".into()), 7), None);
    }

    #[test]
    fn a_status_is_one_line_that_the_supervisor_does_not_ignore() {
        assert_eq!(one_line("a\nMAINPID=1\r\0b"), "a MAINPID=1  b");
        let long = one_line("€".repeat(5_000));
        assert!(long.ends_with("€…"));
        assert!(long.len() + 100 < 4096, "{} bytes", long.len());
    }
}
