//! The step between the driver and every server that it starts, and the
//! process that ends servers if the driver cannot.
//!
//! The driver starts itself with the word `launch`, sets up that process, and
//! only then becomes the program: so it needs no code between fork and exec.
//! Each launch is a session of its own. Whatever a server starts belongs to
//! it, which is how the driver finds all processes of a peer without knowing
//! how that peer restarts; and no server sees the terminal of the driver,
//! which changes what some of them do at a hang-up.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{self, Child, ChildStdin, Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};

use crate::machine::pin;
use crate::sessions;

/// The first argument that makes the driver a launcher.
pub const LAUNCH: &str = "launch";

/// The first argument that makes the driver a keeper.
pub const KEEP: &str = "keep";

/// A command that runs `program` on `cpu`, in a session of its own, and not
/// longer than this process.
pub fn command(program: impl AsRef<OsStr>, cpu: usize) -> anyhow::Result<Command> {
    let mut command = itself(LAUNCH)?;
    command
        .arg(process::id().to_string())
        .arg(cpu.to_string())
        .arg(program);
    Ok(command)
}

fn itself(word: &str) -> anyhow::Result<Command> {
    let driver = env::current_exe().context("could not find the driver's own executable")?;
    let mut command = Command::new(driver);
    command.arg(word);
    Ok(command)
}

/// Becomes the program that `words` name; returns only if that failed.
pub fn become_program(words: &[OsString]) -> anyhow::Error {
    match prepare(words) {
        Ok(mut program) => anyhow::Error::new(program.exec())
            .context(format!("could not run {:?}", program.get_program())),
        Err(error) => error,
    }
}

fn prepare(words: &[OsString]) -> anyhow::Result<Command> {
    let [driver, cpu, program, arguments @ ..] = words else {
        anyhow::bail!("{LAUNCH} is for the driver's own use");
    };
    // The kernel ends what the driver cannot. One that died before this line
    // is noticed by the next.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = rustix::process::getppid().map(Pid::as_raw_pid);
    ensure!(parent == number(driver), "the driver is gone");
    rustix::process::setsid().context("could not begin a session")?;
    let cpu = number(cpu).context("the CPU is not a number")?;
    pin(usize::try_from(cpu)?)?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

fn number(word: &OsStr) -> Option<i32> {
    word.to_str()?.parse().ok()
}

/// A process that outlives the driver, if that is killed, by the moment that
/// it takes to end all servers. Successors are nobody's children, so the
/// kernel does not end those.
pub struct Keeper {
    _process: Child,
    sessions: ChildStdin,
}

impl Keeper {
    pub fn start() -> anyhow::Result<Self> {
        let mut process = itself(KEEP)?
            .stdin(Stdio::piped())
            .spawn()
            .context("could not start the keeper")?;
        let sessions = process.stdin.take().context("the keeper hears nothing")?;
        Ok(Keeper {
            _process: process,
            sessions,
        })
    }

    /// From now on the processes of this session are to end with the driver.
    pub fn keep(&mut self, session: u32) -> anyhow::Result<()> {
        writeln!(self.sessions, "{session}").context("the keeper is gone")
    }
}

/// What the keeper does.
pub fn keep() -> anyhow::Result<()> {
    // Ctrl-C is for the driver, whose end is what the keeper waits for.
    rustix::process::setsid().context("could not begin a session")?;
    let mut kept = Vec::new();
    for line in std::io::stdin().lock().lines() {
        kept.extend(line?.parse::<u32>());
    }
    // More than once, because one that is forked in this moment is not seen.
    for _ in 0..3 {
        for process in sessions::members(&kept)? {
            process.kill();
        }
    }
    Ok(())
}
