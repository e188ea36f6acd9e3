//! A server that runs, and is restarted.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal};

use crate::bench::Bench;
use crate::launch;
use crate::load::{GLANCE, Group, Manner, Pace, Traffic};
use crate::peer::{Badness, Peer, Way};
use crate::process::{Lines, Process};
use crate::sessions;

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(10);

/// How long an instance beside another, or the end of one that is stopped,
/// is waited for before its restart counts as failed. The servers drain for
/// five seconds.
pub const DRAIN: Duration = Duration::from_secs(8);

/// How long an instance may take to listen.
const READY: Duration = Duration::from_secs(5);

/// What a server prints once it accepts.
const ANNOUNCEMENT: &str = "listening";

/// What is wrong with a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends before it is ready.
    Crash,
    /// It never becomes ready.
    Hang,
    /// It ends 50 ms after it has begun to serve.
    Die,
}

impl Fault {
    pub const ALL: [Fault; 3] = [Fault::Crash, Fault::Hang, Fault::Die];

    pub fn word(self) -> &'static str {
        match self {
            Fault::Crash => "crash",
            Fault::Hang => "hang",
            Fault::Die => "die",
        }
    }
}

/// A server, with all processes that came out of it, until this is dropped.
pub struct Server<'b> {
    bench: &'b Bench,
    peer: &'b Peer,
    pub address: SocketAddr,
    directory: PathBuf,
    /// Those that the driver has started, the last one serving.
    processes: Vec<Process>,
    /// What they print. Held because a server that prints into a closed pipe
    /// may die of it.
    lines: Vec<Lines>,
    pub sessions: Vec<u32>,
}

/// A restart that was asked for.
pub struct Asked {
    /// Just before the first signal or start.
    pub at: Instant,
    /// When the predecessor had ended, if that was waited for.
    pub ended: Option<Instant>,
    /// Why whoever restarts the service has given up.
    pub complaint: Option<String>,
}

impl<'b> Server<'b> {
    /// Starts it, and waits until it answers.
    pub fn start(bench: &'b Bench, peer: &'b Peer) -> anyhow::Result<Self> {
        let directory = bench.directory.join(&peer.name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("could not make {}", directory.display()))?;
        let mut server = Server {
            bench,
            peer,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
            directory,
            processes: Vec::new(),
            lines: Vec::new(),
            sessions: Vec::new(),
        };
        server.set_fault("")?;
        server.launch(true)?;
        let greeted = server.greet();
        greeted.with_context(|| {
            let log = server.directory.join("stderr");
            format!("{} does not serve; see {}", peer.name, log.display())
        })?;
        Ok(server)
    }

    fn launch(&mut self, is_first: bool) -> anyhow::Result<()> {
        let words = self.peer.words(self.address.port(), &self.directory)?;
        let (program, arguments) = words.split_first().context("no program")?;
        let mut command = launch::command(program, self.bench.server_cpu)?;
        let log = self.directory.join("stderr");
        let log = match is_first {
            true => File::create(log),
            false => File::options().append(true).open(log),
        };
        command
            .args(arguments)
            .env("LISTEN", self.address.to_string())
            .env("FAULT_FILE", self.directory.join("fault"))
            // One peer puts a socket there.
            .env("TMPDIR", &self.directory)
            // Go would otherwise use every CPU it sees.
            .env("GOMAXPROCS", "1")
            // Nobody but the driver supervises it.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.context("could not make a log")?);
        let mut process = Process::start(&mut command)?;
        self.bench.keeper.borrow_mut().keep(process.pid())?;
        self.sessions.push(process.pid());
        self.lines.push(process.stdout_lines()?);
        self.processes.push(process);
        Ok(())
    }

    /// Asks until there is a right answer.
    fn greet(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        let group = Group {
            clients: 1,
            manner: Manner::ALONE,
            pace: Pace::Closed,
        };
        let traffic = Traffic::begin(self.address, &[group], Instant::now(), START)?;
        while traffic.answered() == 0 {
            if Instant::now() > deadline {
                let met = traffic.end()?;
                let how = met.failures.last().map(|it| it.failure.to_string());
                bail!(
                    "no right answer within {START:?}: {}",
                    how.as_deref().unwrap_or("no answer")
                );
            }
            thread::sleep(GLANCE);
        }
        traffic.end()?;
        Ok(())
    }

    /// Asks for a restart, in the way of this peer. `main` is the process that
    /// answers.
    pub fn restart(&mut self, main: u32) -> anyhow::Result<Asked> {
        let at = Instant::now();
        let mut asked = Asked {
            at,
            ended: None,
            complaint: None,
        };
        match self.peer.way {
            Way::Main(signal) => {
                // Nobody to ask is what a service that is down looks like.
                let sent = Watch::begin(main).and_then(|process| process.signal(signal));
                asked.complaint = sent.err().map(|error| format!("{error:#}"));
            }
            Way::Master(signal) => {
                let sent = self.last()?.signal(signal);
                asked.complaint = sent.err().map(|error| format!("{error:#}"));
            }
            Way::Beside => {
                self.launch(false)?;
                let lines = self.lines.last_mut().context("no output")?;
                let [.., before, _] = self.processes.as_slice() else {
                    bail!("there is no predecessor");
                };
                match lines.find_within(ANNOUNCEMENT, READY) {
                    Ok(_) => drop(before.signal(Signal::TERM)),
                    Err(error) => {
                        asked.complaint = Some(format!("{error:#}"));
                        // Whoever deploys keeps what works.
                        self.processes.pop();
                        self.lines.pop();
                    }
                }
            }
            Way::StopStart => {
                let last = self.processes.last_mut().context("no process")?;
                // It may have ended on its own.
                let _ = last.signal(Signal::TERM);
                if last.wait_within(DRAIN).is_err() {
                    asked.complaint = Some(format!("killed, since it did not end in {DRAIN:?}"));
                }
                self.processes.pop();
                self.lines.pop();
                asked.ended = Some(Instant::now());
                self.launch(false)?;
            }
        }
        Ok(asked)
    }

    fn last(&self) -> anyhow::Result<&Process> {
        self.processes.last().context("no process was started")
    }

    /// Makes the next successor bad in this way; `false` if this peer cannot
    /// have such a one.
    pub fn make_bad(&self, fault: Fault) -> anyhow::Result<bool> {
        match (self.peer.badness, fault) {
            (Badness::File, _) => self.set_fault(fault.word())?,
            (Badness::Configuration, Fault::Crash) => {
                self.configure("\nthis is no configuration\n")?;
            }
            // The program is the distribution's, so nothing in it hangs.
            (Badness::Configuration, Fault::Hang) => return Ok(false),
            // The driver kills it.
            (Badness::Configuration, Fault::Die) => {}
        }
        Ok(true)
    }

    /// Whether the driver itself has to be what a successor dies of.
    pub fn needs_killing(&self, fault: Fault) -> bool {
        self.peer.badness == Badness::Configuration && fault == Fault::Die
    }

    pub fn make_good(&self) -> anyhow::Result<()> {
        self.set_fault("")?;
        if self.peer.badness == Badness::Configuration {
            self.configure("")?;
        }
        Ok(())
    }

    fn configure(&self, end: &str) -> anyhow::Result<()> {
        let port = self.address.port();
        self.peer.configure(port, &self.directory, end)?;
        Ok(())
    }

    fn set_fault(&self, word: &str) -> anyhow::Result<()> {
        let path = self.directory.join("fault");
        fs::write(&path, word).with_context(|| format!("could not write {}", path.display()))
    }

    /// Waits for those whose end nobody else waits for.
    pub fn reap(&self) -> anyhow::Result<()> {
        let own: Vec<_> = self.processes.iter().map(Process::pid).collect();
        sessions::reap(&sessions::members(&self.sessions)?, &own);
        Ok(())
    }

    /// Ends all of its processes.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN;
        loop {
            let members = sessions::members(&self.sessions)?;
            for member in members.iter().filter(|member| !member.is_zombie) {
                member.kill();
            }
            // These wait for what the driver has started.
            self.processes.clear();
            sessions::reap(&members, &[]);
            if members.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "processes of {} do not end: {members:?}",
                self.peer.name
            );
            thread::sleep(GLANCE);
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// A process whose end is waited for, whosever child it is.
pub struct Watch(OwnedFd);

impl Watch {
    pub fn begin(pid: u32) -> anyhow::Result<Self> {
        let raw = sessions::raw(pid).with_context(|| format!("{pid} is no process"))?;
        rustix::process::pidfd_open(raw, PidfdFlags::empty())
            .map(Watch)
            .with_context(|| format!("could not watch process {pid}"))
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        rustix::process::pidfd_send_signal(&self.0, signal).context("could not send a signal")
    }

    /// Waits until it has ended, but not longer than this.
    pub fn wait(&self, patience: Duration) -> anyhow::Result<bool> {
        let timeout = Timespec::try_from(patience)?;
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error).context("could not wait for a process"),
        }
    }
}

/// A port that nobody listens on, and that is never the port of a client: it
/// would be taken while a server is stopped, or a client would connect to
/// itself.
fn free_port() -> anyhow::Result<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .context("could not read the range of client ports")?;
    let first = range
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    let first: u16 = first.context("no range of client ports")?;
    // Not the same again, because what is left of connections to it rests for
    // a minute.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let ports = 10_000.min(first)..first;
    let count = ports.len().max(1);
    let start = usize::try_from(std::process::id())? * 101 + NEXT.fetch_add(1, Ordering::Relaxed);
    for port in ports.clone().chain(ports).skip(start % count).take(count) {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port below {first} is free");
}
