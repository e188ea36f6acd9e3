//! The service that is restarted: what runs in its processes, and the bench's
//! hold on them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use heirloom::{Generation, Limits, Request, Response, Server, Transition, http_types};
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

/// How long a successor may take to become ready, where some never do.
const READINESS: Duration = Duration::from_secs(2);

/// The smallest page there is; writing to each of them makes memory resident.
const PAGE: usize = 4096;

/// For how long a request to [`SLOW`] is being answered.
const SLOWNESS: Duration = Duration::from_millis(20);

/// What the path of such a request begins with.
pub(crate) const SLOW: &str = "/slow";

/// What the service is asked to be.
#[derive(Clone, Debug)]
pub(crate) struct Character {
    /// How much heap the first generation touches.
    pub(crate) ballast_mib: usize,
    pub(crate) probation: Duration,
    /// Whether connections move to the successor.
    pub(crate) hand_over: bool,
    /// Where requests with a number are noted.
    pub(crate) journal: Option<PathBuf>,
    /// Where a successor finds what is wrong with it ([`Trouble`]).
    pub(crate) trouble: Option<PathBuf>,
}

/// What is wrong with a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// It ends when it reads its configuration.
    Broken,
    /// It does not become ready.
    Hangs,
}

impl Trouble {
    /// As which the successors find it from now on.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Trouble::None => "",
            Trouble::Broken => "broken",
            Trouble::Hangs => "hangs",
        }
    }

    fn find(path: &Path) -> Fallible<Self> {
        let word = std::fs::read_to_string(path)?;
        let known = [Trouble::None, Trouble::Broken, Trouble::Hangs];
        let found = known.into_iter().find(|known| known.word() == word);
        Ok(found.ok_or_else(|| format!("there is no trouble `{word}`"))?)
    }
}

/// Stands for no file on the command line.
const NO_FILE: &str = "-";

impl Character {
    fn arguments(&self) -> Vec<OsString> {
        let file = |path: &Option<PathBuf>| match path {
            Some(path) => path.into(),
            None => NO_FILE.into(),
        };
        vec![
            SERVE.into(),
            self.ballast_mib.to_string().into(),
            self.probation.as_millis().to_string().into(),
            self.hand_over.to_string().into(),
            file(&self.journal),
            file(&self.trouble),
        ]
    }

    /// Understands what [`Character::arguments`] made.
    pub(crate) fn parse(arguments: &[String]) -> Fallible<Self> {
        let file = |path: &String| (path != NO_FILE).then(|| PathBuf::from(path));
        match arguments {
            [ballast, probation, hand_over, journal, trouble] => Ok(Character {
                ballast_mib: ballast.parse()?,
                probation: Duration::from_millis(probation.parse()?),
                hand_over: hand_over.parse()?,
                journal: file(journal),
                trouble: file(trouble),
            }),
            _ => Err(format!("{SERVE} does not take {arguments:?}").into()),
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
    let journal = match &character.journal {
        Some(path) => Some(Rc::new(Journal::open(path, number)?)),
        None => None,
    };
    let trouble = match &character.trouble {
        Some(path) if number > 1 => Trouble::find(path)?,
        _ => Trouble::None,
    };
    if trouble == Trouble::Broken {
        return Err("the configuration is broken, as it was to be".into());
    }
    let signature: Rc<str> = format!("pid {} gen {number}\n", std::process::id()).into();
    let lifeline = io::stdin().as_fd().try_clone_to_owned()?;
    let readiness = match character.trouble {
        Some(_) => READINESS,
        None => PATIENCE / 2,
    };
    let server = Server::new(move |request| answer(request, signature.clone(), journal.clone()))
        .generation(generation)
        .listen("127.0.0.1:0")
        .probation(character.probation)
        .hand_over(character.hand_over)
        .drain_timeout(DRAIN)
        .ready_timeout(readiness)
        .ready_when(async move {
            match trouble {
                Trouble::Hangs => smol::future::pending().await,
                Trouble::None | Trouble::Broken => Ok(()),
            }
        })
        .limits(
            Limits::default()
                .keep_alive_timeout(Duration::MAX)
                .max_connections(usize::MAX),
        )
        .on_transition(|transition| {
            if let Some(line) = announcement(transition) {
                // A bench that is gone does not read; then the lifeline ends us.
                let _ = writeln!(io::stdout(), "{line}");
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

/// Says who answers; and to a request whose path is not `/`, its path and its
/// body.
async fn answer(
    mut request: Request,
    signature: Rc<str>,
    journal: Option<Rc<Journal>>,
) -> http_types::Result<Response> {
    let target = request.target();
    if target == "/" {
        return Ok(Response::from(&*signature));
    }
    let mut body = format!("{signature}{target}\n").into_bytes();
    if let Some(journal) = &journal {
        journal.note(target)?;
    }
    if target.starts_with(SLOW) {
        async_io::Timer::after(SLOWNESS).await;
    }
    body.extend(request.body_bytes().await?);
    Ok(Response::from(body))
}

/// Who gave an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Author {
    pub(crate) pid: u32,
    pub(crate) generation: u64,
}

/// Who gave the answer with this body, and what follows; `None` if it is not
/// an answer of this service.
pub(crate) fn signature(body: &[u8]) -> Option<(Author, &[u8])> {
    let end = body.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = body.split_at_checked(end + 1)?;
    let line = std::str::from_utf8(line).ok()?;
    let (pid, generation) = line.strip_prefix("pid ")?.trim_end().split_once(" gen ")?;
    let author = Author {
        pid: pid.parse().ok()?,
        generation: generation.parse().ok()?,
    };
    Some((author, rest))
}

/// What the bench is told of a transition.
fn announcement(transition: &Transition) -> Option<String> {
    if transition.from().is_none() {
        return Some(format!(
            "serves {} {} {}",
            transition.generation(),
            std::process::id(),
            transition.listeners().join(" "),
        ));
    }
    if let Some(handover) = transition.handover() {
        return Some(format!(
            "moved {} {} {} {}",
            handover.handed_over(),
            handover.kept(),
            handover.closed(),
            handover.took().as_micros(),
        ));
    }
    let failure = transition.failure()?;
    Some(format!("undone {failure}"))
}

/// Where each generation notes the requests that it handles, before it does.
///
/// All of them append to one file, so that it tells the order across them, and
/// each note is written at once, so that it is there also after a `SIGKILL`.
struct Journal {
    file: File,
    generation: u32,
}

/// Of a note: four numbers.
pub(crate) const NOTE_BYTES: usize = 16;

impl Journal {
    fn open(path: &Path, generation: u64) -> Fallible<Self> {
        Ok(Journal {
            file: File::options().append(true).open(path)?,
            generation: generation.try_into()?,
        })
    }

    /// Notes a request whose path ends with the numbers of a client and of one
    /// of its requests.
    fn note(&self, target: &str) -> io::Result<()> {
        let mut numbers = target.rsplit('/').map(str::parse::<u32>);
        let (Some(Ok(request)), Some(Ok(client))) = (numbers.next(), numbers.next()) else {
            return Err(io::Error::other("a request without its numbers"));
        };
        let mut note = [0; NOTE_BYTES];
        let numbers = [std::process::id(), self.generation, client, request];
        for (place, number) in note.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        // A note is one write, so it is appended as a whole.
        (&self.file).write_all(&note)
    }
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
    pub(crate) current: Member,
    pub(crate) address: SocketAddr,
    pub(crate) family: Family,
}

/// One process of the service.
pub(crate) struct Member {
    pub(crate) generation: u64,
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// What the generations have in common, and what is left to do when they are
/// no longer needed.
///
/// They form a process group, and none of them outlives this value: the group
/// is killed when it is dropped.
pub(crate) struct Family {
    pub(crate) group: Pid,
    /// The other end of the service's standard input, which keeps it alive.
    _lifeline: Option<ChildStdin>,
    /// What the generations say ([`announcement`]). All of them have the other
    /// end, so its end is the proof that all of them are gone.
    pub(crate) announcements: Receiver<String>,
    /// What was said while something else was waited for.
    pub(crate) aside: VecDeque<String>,
}

impl Service {
    /// Starts the first generation and waits until it serves.
    pub(crate) fn start(mut command: Command, character: &Character) -> Fallible<Self> {
        let mut child = command
            .args(character.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (announce, announcements) = channel();
        let mut family = Family {
            group: i32::try_from(child.id())
                .ok()
                .and_then(Pid::from_raw)
                .ok_or("a process without a usable number")?,
            _lifeline: child.stdin.take(),
            announcements,
            aside: VecDeque::new(),
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
        let (current, address) = Member::announced(&family.hear("serves ")?)?;
        if current.generation != 1 {
            return Err(format!("generation {} came first", current.generation).into());
        }
        let service = Service {
            current,
            address,
            family,
        };
        let resident = service.current.resident_kib()? >> 10;
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
        let successor = self.meet_successor()?;
        Ok(std::mem::replace(&mut self.current, successor))
    }

    /// Waits until the successor serves.
    pub(crate) fn meet_successor(&mut self) -> Fallible<Member> {
        let line = self.family.hear("serves ").map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                format!("no generation began to serve in {PATIENCE:?}")
            }
            RecvTimeoutError::Disconnected => "the service is gone".to_owned(),
        })?;
        self.successor(&line)
    }

    /// The successor that has said that it serves.
    pub(crate) fn successor(&self, line: &str) -> Fallible<Member> {
        let (successor, address) = Member::announced(line)?;
        let expected = self.current.generation + 1;
        if successor.generation != expected || address != self.address {
            return Err(format!(
                "generation {} serves on {address}, expected was generation {expected} on {}",
                successor.generation, self.address
            )
            .into());
        }
        Ok(successor)
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
    pub(crate) fn stop(mut self) -> Fallible<()> {
        self.current.signal(Signal::TERM)?;
        self.current.await_exit()?;
        match self.family.hear("serves ") {
            Err(RecvTimeoutError::Disconnected) => self.family.reap(WaitOptions::empty()),
            Err(RecvTimeoutError::Timeout) => {
                Err("a process of the service is still there after the last one exited".into())
            }
            Ok(line) => Err(format!("unexpected: {line}").into()),
        }
    }
}

impl Family {
    /// Waits for something to be said that begins with this word; returns the
    /// rest of it.
    pub(crate) fn hear(&mut self, word: &str) -> Result<String, RecvTimeoutError> {
        let deadline = Instant::now() + PATIENCE;
        let known = self.aside.iter().position(|line| line.starts_with(word));
        if let Some(line) = known.and_then(|known| self.aside.remove(known)) {
            return Ok(line.strip_prefix(word).unwrap_or_default().to_owned());
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.announcements.recv_timeout(left)?;
            match line.strip_prefix(word) {
                Some(rest) => return Ok(rest.to_owned()),
                None => self.aside.push_back(line),
            }
        }
    }

    /// Collects those that are gone; with their predecessors gone they are our
    /// children. That one did not end well is an error.
    ///
    /// Without `NOHANG` this waits for all of them, which is right only when
    /// each has closed its standard output, the last thing before its end.
    pub(crate) fn reap(&self, options: WaitOptions) -> Fallible<()> {
        match self.reap_fallen(options) {
            fallen if fallen.is_empty() => Ok(()),
            fallen => Err(fallen.join(", ").into()),
        }
    }

    /// The same where some are meant to fall: who has not ended well.
    pub(crate) fn reap_fallen(&self, options: WaitOptions) -> Vec<String> {
        let mut fallen = Vec::new();
        while let Ok(Some((pid, status))) = waitpgid(self.group, options) {
            if status.exit_status() != Some(0) {
                fallen.push(format!("{pid} ended with {status:?}"));
            }
        }
        fallen
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
    /// Who has said that it serves, and where.
    fn announced(line: &str) -> Fallible<(Self, SocketAddr)> {
        let unclear = || format!("not an announcement: {line}");
        let [generation, pid, address] = *line.split(' ').collect::<Vec<_>>() else {
            return Err(unclear().into());
        };
        let pid = pid.parse().map_err(|_| unclear())?;
        let member = Member::open(pid, generation.parse()?)?;
        Ok((member, address.parse()?))
    }

    /// A process that has not ended, or has not been reaped.
    pub(crate) fn open(pid: i32, generation: u64) -> Fallible<Self> {
        let pid = Pid::from_raw(pid).ok_or("a process without a usable number")?;
        Ok(Member {
            generation,
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
        })
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        pidfd_send_signal(&self.pidfd, signal).map_err(Into::into)
    }

    pub(crate) fn await_exit(&self) -> Fallible<()> {
        let timeout = Timespec::try_from(PATIENCE)?;
        let mut pidfd = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut pidfd, Some(&timeout))? {
            0 => Err(format!("{self} did not exit in {PATIENCE:?}").into()),
            _ => Ok(()),
        }
    }

    /// How much memory it really has.
    pub(crate) fn resident_kib(&self) -> Fallible<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let resident = crate::machine::field(&status, "VmRSS").ok_or("no VmRSS")?;
        Ok(resident.trim_end_matches(" kB").parse()?)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} (pid {})", self.generation, self.pid)
    }
}
