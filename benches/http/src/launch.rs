//! The step between the driver and every program that it starts.
//!
//! The driver starts itself with the word `launch`, sets up that process, and
//! only then becomes the program. So pinning and the death signal need neither
//! a tool nor code between fork and exec.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::{self, Command};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};

use crate::machine::pin;

/// The first argument that makes the driver a launcher.
pub const WORD: &str = "launch";

/// A command that runs `program` on `cpu`, and not longer than this process.
pub fn command(program: impl AsRef<OsStr>, cpu: usize) -> anyhow::Result<Command> {
    let driver = env::current_exe().context("could not find the driver's own executable")?;
    let mut command = Command::new(driver);
    command
        .arg(WORD)
        .arg(process::id().to_string())
        .arg(cpu.to_string())
        .arg(program);
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
        anyhow::bail!("{WORD} is for the driver's own use");
    };
    // A driver that is killed cannot clean up, so the kernel does it. One that
    // died before this line is noticed by the next.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = rustix::process::getppid().map(Pid::as_raw_pid);
    ensure!(parent == number(driver), "the driver is gone");
    let cpu = number(cpu).context("the CPU is not a number")?;
    pin(usize::try_from(cpu)?)?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

fn number(word: &OsStr) -> Option<i32> {
    word.to_str()?.parse().ok()
}
