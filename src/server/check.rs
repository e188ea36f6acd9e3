//! A command that checks whether a restart is to be tried at all.
//!
//! It has a thread of its own from its start to its end: a command that writes
//! without end, hangs, or cannot be killed is no burden on the thread that
//! serves. Whoever no longer waits for it drops the future, and the thread
//! kills it.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_io::Timer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use smol::channel::Sender;
use smol::future::{self, FutureExt as _};

/// How much a command may write, in bytes. One that writes more does not check
/// anything.
const MOST_OUTPUT: usize = 1 << 20;

/// How much of it is told, in bytes and in lines.
const TOLD_BYTES: usize = 2048;
const TOLD_LINES: usize = 10;

/// How long a killed command is waited for before its end is told all the
/// same. One in an uninterruptible system call does not die at once.
const BURIAL: Duration = Duration::from_secs(4);

/// How much longer than that the thread of a check is waited for.
const INDULGENCE: Duration = Duration::from_secs(1);

/// Runs a command; the error is what is wrong, in words that follow its name.
///
/// It is killed, with whatever it has started, at the deadline, when the
/// returned future is dropped, and when it ends. `ended` is dropped when
/// nothing is left of it, which is before the result is told unless it cannot
/// be killed.
pub(super) async fn run(
    command: Command,
    deadline: Option<Instant>,
    ended: Sender<Infallible>,
) -> Result<(), String> {
    let ended = Arc::new(Mutex::new(Some(ended)));
    let begun = begin(command, deadline, Arc::clone(&ended));
    let (told, _stay) = begun.map_err(|error| not_started(&error))?;
    let unheard = |_| Err("was not run: its thread has panicked".to_owned());
    let heard = async { told.recv().await.unwrap_or_else(unheard) };
    // The thread keeps the deadline, but for what cannot be interrupted: an
    // `exec` from a file system that does not answer. It stays behind then, and
    // does not hold up the next restart.
    let stuck = async {
        match deadline.and_then(|deadline| deadline.checked_add(BURIAL + INDULGENCE)) {
            Some(late) => Timer::at(late).await,
            None => future::pending().await,
        };
        drop(take(&ended));
        Err("could not be started in time, and may yet be".to_owned())
    };
    heard.or(stuck).await
}

/// What says, by being dropped, that a restart need not wait for this check.
type Ended = Mutex<Option<Sender<Infallible>>>;

fn take(ended: &Ended) -> Option<Sender<Infallible>> {
    ended.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Starts the thread; it goes on as long as the second of these is not closed.
fn begin(
    command: Command,
    deadline: Option<Instant>,
    ended: Arc<Ended>,
) -> io::Result<(smol::channel::Receiver<Result<(), String>>, io::PipeWriter)> {
    let (tell, told) = smol::channel::bounded(1);
    let (cancelled, stay) = io::pipe()?;
    thread::Builder::new()
        .name("check".to_owned())
        .spawn(move || {
            let (result, child) = match Check::start(command) {
                Ok(mut check) => {
                    let result = check.watch(deadline, &cancelled);
                    check.finish(result)
                }
                Err(error) => (Err(not_started(&error)), None),
            };
            drop(take(&ended));
            // Nobody may want to know any more.
            let _ = tell.try_send(result);
            if let Some(mut child) = child {
                log::warn!("a killed check has not exited in {BURIAL:?}");
                let _ = child.wait();
            }
        })?;
    Ok((told, stay))
}

fn not_started(error: &io::Error) -> String {
    format!("could not be started: {error}")
}

/// A command that runs.
struct Check {
    child: Child,
    pidfd: OwnedFd,
    begun: Instant,
    /// `None` when it is closed.
    output: Option<File>,
    /// How much has come.
    written: usize,
    /// The last of it.
    words: Vec<u8>,
}

/// Why a command is not waited for any longer.
enum End {
    Exited,
    Overdue,
    Verbose,
    Unwanted,
    Trouble(io::Error),
}

impl Check {
    fn start(mut command: Command) -> io::Result<Self> {
        let (output, theirs) = io::pipe()?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(theirs.try_clone()?)
            .stderr(theirs)
            // What it starts in turn is killed with it.
            .process_group(0)
            .spawn()?;
        // With it go our copies of its end of the pipe.
        drop(command);
        let opened = pid_of(&child)
            .ok_or(Errno::INVAL)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .and_then(|pidfd| rustix::io::ioctl_fionbio(&output, true).map(|()| pidfd));
        match opened {
            Ok(pidfd) => Ok(Check {
                child,
                pidfd,
                begun: Instant::now(),
                output: Some(OwnedFd::from(output).into()),
                written: 0,
                words: Vec::new(),
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Waits for its end, or for a reason to wait no longer.
    fn watch(&mut self, deadline: Option<Instant>, cancelled: &PipeReader) -> End {
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return End::Overdue;
            }
            let [is_unwanted, has_exited, speaks] = match self.wait(cancelled, left) {
                Ok(news) => news,
                Err(error) => return End::Trouble(error),
            };
            if is_unwanted {
                return End::Unwanted;
            }
            // Its end is told after its words.
            if speaks {
                self.listen();
                if self.written > MOST_OUTPUT {
                    return End::Verbose;
                }
            } else if has_exited {
                return End::Exited;
            }
        }
    }

    /// Waits until it is not wanted any more, it has exited, or it says
    /// something.
    fn wait(&self, cancelled: &PipeReader, left: Option<Duration>) -> io::Result<[bool; 3]> {
        // A time that is too long for the system is none.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = vec![
            PollFd::new(cancelled, PollFlags::IN),
            PollFd::new(&self.pidfd, PollFlags::IN),
        ];
        if let Some(output) = &self.output {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_news = |at: usize| fds.get(at).is_some_and(|it| !it.revents().is_empty());
        Ok([has_news(0), has_news(1), has_news(2)])
    }

    fn listen(&mut self) {
        let mut piece = [0; 16 * 1024];
        let read = self.output.as_mut().map(|output| output.read(&mut piece));
        match read {
            Some(Ok(read)) if read > 0 => {
                self.written += read;
                self.words.extend_from_slice(&piece[..read]);
                let rest = self.words.len().saturating_sub(TOLD_BYTES);
                self.words.drain(..rest);
            }
            Some(Err(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            // It has closed it, and may go on without.
            Some(_) | None => self.output = None,
        }
    }

    /// Kills it and all that it has started, if it has not ended, and tells
    /// what came of it; and whom to wait for, if it cannot be killed.
    fn finish(mut self, end: End) -> (Result<(), String>, Option<Child>) {
        if let Some(group) = pid_of(&self.child) {
            // It has not been reaped, so the number is still that of its group.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let patience = Timespec::try_from(BURIAL).ok();
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        // A signal that this thread takes is no end of it.
        let status = match retry_on_intr(|| poll(&mut fds, patience.as_ref())) {
            Ok(0) | Err(_) => None,
            Ok(_) => self.child.wait().ok(),
        };
        let words = self.last_words();
        let age = self.begun.elapsed();
        let result = match (end, status) {
            (End::Exited, Some(status)) if status.success() => {
                log::debug!("the check has passed after {age:.1?}{words}");
                Ok(())
            }
            (End::Exited, status) => {
                let status = status.map_or("nobody knows how".to_owned(), |it: ExitStatus| {
                    it.to_string()
                });
                Err(format!("failed, {status}{words}"))
            }
            (End::Overdue, _) => Err(format!(
                "was not done in time, and was killed after {age:.1?}{words}"
            )),
            (End::Verbose, _) => Err(format!(
                "wrote more than {MOST_OUTPUT} bytes and was killed{words}"
            )),
            (End::Trouble(error), _) => Err(format!("could not be waited for: {error}")),
            (End::Unwanted, _) => Err("was killed, because nobody waits for it".to_owned()),
        };
        (result, status.is_none().then_some(self.child))
    }

    /// The last lines of what it said, in one.
    fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.words);
        let lines: Vec<&str> = text
            .split(['\n', '\r'])
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let last = &lines[lines.len().saturating_sub(TOLD_LINES)..];
        if last.is_empty() {
            return String::new();
        }
        let is_all = last.len() == lines.len() && self.written == self.words.len();
        let before = if is_all { "" } else { "… " };
        format!("; it said: {before}{}", last.join(" / "))
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
    use smol::channel;
    use smol::future::poll_once;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// What comes of a command, when nothing is left of it.
    fn outcome(command: Command, patience: Duration) -> Result<(), String> {
        let (guard, ended) = channel::bounded(1);
        let deadline = Instant::now().checked_add(patience);
        smol::block_on(async {
            let result = run(command, deadline, guard).await;
            assert!(ended.recv().await.is_err());
            result
        })
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_command_that_succeeds_passes_whatever_it_says() {
        assert_eq!(outcome(shell("true"), LONG), Ok(()));
        assert_eq!(outcome(shell("echo fine; echo fine >&2"), LONG), Ok(()));
        assert_eq!(outcome(shell("exec >&- 2>&-; true"), LONG), Ok(()));
        // What it leaves behind does not keep us waiting.
        assert_eq!(
            outcome(shell("while :; do sleep 1; done & true"), LONG),
            Ok(())
        );
        let much = format!("head -c {MOST_OUTPUT} /dev/zero");
        assert_eq!(outcome(shell(&much), LONG), Ok(()));
    }

    #[test]
    fn a_command_that_fails_is_told_with_its_last_words() {
        let failure = |script| outcome(shell(script), LONG).unwrap_err();
        assert_eq!(failure("exit 3"), "failed, exit status: 3");
        assert_eq!(
            failure("echo one; echo; printf ' two\\r\\nthree' >&2; exit 1"),
            "failed, exit status: 1; it said: one / two / three"
        );
        assert_eq!(
            failure("seq 1 20; exit 1"),
            "failed, exit status: 1; it said: … 11 / 12 / 13 / 14 / 15 / 16 / 17 / 18 / 19 / 20"
        );
        let said = failure("yes | head -c 9000 | tr -d '\\n'; exit 1");
        assert!(
            said.contains("it said: … yyy") && said.len() < 3 * TOLD_BYTES,
            "{said}"
        );
        assert!(failure("kill -9 $$").starts_with("failed, signal: 9"));
        let missing = outcome(Command::new("/no/such/file"), LONG).unwrap_err();
        assert!(
            missing.starts_with("could not be started: No such file"),
            "{missing}"
        );
    }

    #[test]
    fn a_command_that_hangs_or_never_stops_talking_is_killed() {
        let overdue = outcome(
            shell("echo on; sleep 100; true"),
            Duration::from_millis(300),
        );
        let overdue = overdue.unwrap_err();
        assert!(
            overdue.starts_with("was not done in time, and was killed after "),
            "{overdue}"
        );
        assert!(overdue.ends_with("; it said: on"), "{overdue}");
        let verbose = outcome(shell("yes no"), LONG).unwrap_err();
        assert!(
            verbose.contains("wrote more than 1048576 bytes and was killed; it said: … no / no")
        );
        // Nor does what it leaves behind.
        let heir = outcome(shell("yes & exit 0"), LONG);
        assert!(heir.is_ok() || heir.is_err_and(|it| it.contains("wrote more")));
    }

    #[test]
    fn a_command_that_nobody_waits_for_is_killed_with_all_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let fifo = open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        // Both of them have the other end, as long as they live.
        let script = format!(
            "exec 7>{}; sleep 1000 & echo up >&7; sleep 1000; true",
            path.display()
        );
        let patience = Timespec::try_from(LONG).unwrap();
        let wait_for = |flags| {
            let mut fds = [PollFd::new(&fifo, PollFlags::IN)];
            assert_eq!(poll(&mut fds, Some(&patience)), Ok(1));
            assert_eq!(fds[0].revents(), flags);
        };
        let (guard, ended) = channel::bounded(1);
        smol::block_on(async {
            let mut run = Box::pin(run(shell(&script), None, guard));
            assert!(poll_once(&mut run).await.is_none());
            wait_for(PollFlags::IN);
            assert_eq!(rustix::io::read(&fifo, &mut [0; 10]), Ok(3));
            drop(run);
            assert!(ended.recv().await.is_err());
        });
        wait_for(PollFlags::HUP);
    }
}
