//! The service that is restarted: what runs in its processes, and the bench's
//! hold on them.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use heirloom::{Generation, Response, Server};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, pidfd_send_signal,
    waitpgid,
};

use crate::Fallible;

/// The argument that makes this program the service.
pub(crate) const SERVE: &str = "--serve";

/// How long anything of the service is waited for; the longest of it is the
/// touching of a large heap.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the service waits for requests in flight. Shorter than our own
/// patience, so that a drain that does not end is told by the service, with
/// the stragglers' names.
const DRAIN: Duration = Duration::from_secs(10);

/// The smallest page there is; writing to each of them makes memory resident.
const PAGE: usize = 4096;

/// What the service is asked to be.
#[derive(Clone, Copy)]
pub(crate) struct Character {
    /// How much heap the first generation touches.
    pub(crate) ballast_mib: usize,
    pub(crate) probation: Duration,
}

impl Character {
    fn arguments(&self) -> [String; 3] {
        [
            SERVE.to_owned(),
            self.ballast_mib.to_string(),
            self.probation.as_millis().to_string(),
        ]
    }

    /// Understands what [`Character::arguments`] made.
    pub(crate) fn parse(arguments: &[String]) -> Fallible<Self> {
        match arguments {
            [ballast, probation] => Ok(Character {
                ballast_mib: ballast.parse()?,
                probation: Duration::from_millis(probation.parse()?),
            }),
            _ => Err(format!("{SERVE} takes a ballast in MiB and a probation in ms").into()),
        }
    }
}

/// Serves until told to stop, or until the bench is gone.
///
/// Only the first generation touches the ballast. The question is whether a
/// start depends on the heap of the predecessor; a successor that filled its
/// own would measure the speed of the memory instead.
pub(crate) fn serve(character: Character) -> Fallible<()> {
    log::set_logger(&STDERR).map_err(|error| error.to_string())?;
    log::set_max_level(log::LevelFilter::Warn);
    let generation = Generation::begin()?;
    let number = generation.number();
    let ballast = match number {
        1 => touch(character.ballast_mib),
        _ => Vec::new(),
    };
    let body = body(number);
    let lifeline = io::stdin().as_fd().try_clone_to_owned()?;
    let server = Server::new(move |_request| {
        let answer = Response::from(body.as_str());
        async { Ok(answer) }
    })
    .generation(generation)
    .listen("127.0.0.1:0")
    .probation(character.probation)
    .drain_timeout(DRAIN)
    .on_transition(|transition| {
        if transition.from().is_none() {
            // A bench that is gone does not read; then the lifeline ends us.
            let _ = writeln!(
                io::stdout(),
                "{} {} {}",
                transition.generation(),
                std::process::id(),
                transition.listeners().join(" "),
            );
        }
    });
    // Standard input is a pipe that the bench holds open and never writes to,
    // and every generation inherits it: its end is the end of the bench, even
    // of one that was killed.
    let bench_is_gone = async {
        async_io::Async::new(lifeline)?.readable().await?;
        Ok(())
    };
    smol::block_on(smol::future::or(
        async { Ok(server.serve().await?) },
        bench_is_gone,
    ))
    .inspect(|()| drop(std::hint::black_box(ballast)))
}

/// The generation that an answer comes from; `None` if it is not an answer of
/// this service.
pub(crate) fn generation_in(text: &str) -> Option<u64> {
    let (pid, generation) = text
        .strip_prefix("pid ")?
        .strip_suffix('\n')?
        .split_once(" gen ")?;
    pid.parse::<u32>().ok()?;
    generation.parse().ok()
}

fn body(generation: u64) -> String {
    format!("pid {} gen {generation}\n", std::process::id())
}

/// Allocates that much, and writes to each of its pages.
fn touch(mib: usize) -> Vec<u8> {
    let mut ballast = vec![0; mib << 20];
    for page in ballast.chunks_mut(PAGE) {
        if let Some(byte) = page.first_mut() {
            *byte = 1;
        }
    }
    std::hint::black_box(ballast)
}

/// Shows what the library complains about.
struct Stderr;

static STDERR: Stderr = Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!(
            "    service {}: {}: {}",
            std::process::id(),
            record.level(),
            record.args()
        );
    }

    fn flush(&self) {}
}

/// A running service, all of its generations.
pub(crate) struct Service {
    current: Member,
    pub(crate) address: SocketAddr,
    family: Family,
}

/// One process of the service.
pub(crate) struct Member {
    pub(crate) generation: u64,
    pid: Pid,
    pidfd: OwnedFd,
}

/// What the generations have in common, and what is left to do when they are
/// no longer needed.
///
/// They form a process group, and none of them outlives this value: the group
/// is killed when it is dropped.
struct Family {
    group: Pid,
    /// The other end of the service's standard input, which keeps it alive.
    _lifeline: Option<ChildStdin>,
    /// What the generations say when they begin to serve. All of them have the
    /// other end, so its end is the proof that all of them are gone.
    announcements: Receiver<String>,
}

impl Service {
    /// Starts the first generation and waits until it serves.
    pub(crate) fn start(mut command: Command, character: Character) -> Fallible<Self> {
        let mut child = command
            .args(character.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (announce, announcements) = channel();
        let family = Family {
            group: i32::try_from(child.id())
                .ok()
                .and_then(Pid::from_raw)
                .ok_or("a process without a usable number")?,
            _lifeline: child.stdin.take(),
            announcements,
        };
        let stdout = child.stdout.take().ok_or("no pipe from the service")?;
        thread::Builder::new()
            .name("announcements".to_owned())
            .spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if announce.send(line).is_err() {
                        return;
                    }
                }
            })?;
        let (current, address) = family.hear()?;
        if current.generation != 1 {
            return Err(format!("generation {} came first", current.generation).into());
        }
        let service = Service {
            current,
            address,
            family,
        };
        let resident = service.current.resident_mib()?;
        if resident < character.ballast_mib {
            return Err(format!(
                "of {} MiB of ballast only {resident} MiB are resident",
                character.ballast_mib
            )
            .into());
        }
        Ok(service)
    }

    /// Asks for a restart; returns when that was.
    pub(crate) fn reload(&self) -> Fallible<Instant> {
        let asked = Instant::now();
        self.current.signal(Signal::HUP)?;
        Ok(asked)
    }

    /// Waits until the successor serves, and returns the predecessor.
    pub(crate) fn succeed(&mut self) -> Fallible<Member> {
        let (successor, address) = self.family.hear()?;
        let expected = self.current.generation + 1;
        if successor.generation != expected || address != self.address {
            return Err(format!(
                "generation {} serves on {address}, expected was generation {expected} on {}",
                successor.generation, self.address
            )
            .into());
        }
        Ok(std::mem::replace(&mut self.current, successor))
    }

    /// Waits until a predecessor is gone; returns when that was.
    pub(crate) fn bury(&self, predecessor: &Member) -> Fallible<Instant> {
        predecessor.await_exit()?;
        let gone = Instant::now();
        self.family.reap(WaitOptions::NOHANG)?;
        Ok(gone)
    }

    /// Stops the service as an operator would, and waits until nothing is left
    /// of it.
    pub(crate) fn stop(self) -> Fallible<()> {
        self.current.signal(Signal::TERM)?;
        self.current.await_exit()?;
        match self.family.announcements.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Disconnected) => self.family.reap(WaitOptions::empty()),
            Err(RecvTimeoutError::Timeout) => {
                Err("a process of the service is still there after the last one exited".into())
            }
            Ok(line) => Err(format!("unexpected: {line}").into()),
        }
    }
}

impl Family {
    /// Waits for the next generation to say that it serves.
    fn hear(&self) -> Fallible<(Member, SocketAddr)> {
        let line = self
            .announcements
            .recv_timeout(PATIENCE)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => {
                    format!("no generation began to serve in {PATIENCE:?}")
                }
                RecvTimeoutError::Disconnected => "the service is gone".to_owned(),
            })?;
        let unclear = || format!("not an announcement: {line}");
        let [generation, pid, address] = *line.split(' ').collect::<Vec<_>>() else {
            return Err(unclear().into());
        };
        let pid = pid
            .parse()
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(unclear)?;
        let member = Member {
            generation: generation.parse()?,
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
        };
        Ok((member, address.parse()?))
    }

    /// Collects those that are gone; with their predecessors gone they are our
    /// children. That one did not end well is an error.
    ///
    /// Without `NOHANG` this waits for all of them, which is right only when
    /// each has closed its standard output, the last thing before its end.
    fn reap(&self, options: WaitOptions) -> Fallible<()> {
        let mut fallen = Vec::new();
        while let Ok(Some((pid, status))) = waitpgid(self.group, options) {
            if status.exit_status() != Some(0) {
                fallen.push(format!("{pid} ended with {status:?}"));
            }
        }
        match fallen.is_empty() {
            true => Ok(()),
            false => Err(fallen.join(", ").into()),
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // Fails only if nobody is left.
        if kill_process_group(self.group, Signal::KILL).is_err() {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.announcements.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("process group {} does not die", self.group);
                    return;
                }
            }
        }
        // Killed is how they were to end here.
        let _ = self.reap(WaitOptions::empty());
    }
}

impl Member {
    fn signal(&self, signal: Signal) -> io::Result<()> {
        pidfd_send_signal(&self.pidfd, signal).map_err(Into::into)
    }

    fn await_exit(&self) -> Fallible<()> {
        let timeout = Timespec::try_from(PATIENCE)?;
        let mut pidfd = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut pidfd, Some(&timeout))? {
            0 => Err(format!("{self} did not exit in {PATIENCE:?}").into()),
            _ => Ok(()),
        }
    }

    /// How much memory it really has.
    fn resident_mib(&self) -> Fallible<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let resident = crate::machine::field(&status, "VmRSS").ok_or("no VmRSS")?;
        Ok(resident.trim_end_matches(" kB").parse::<usize>()? >> 10)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} (pid {})", self.generation, self.pid)
    }
}
