//! A program that was started, and that ends with the value that holds it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

pub struct Process {
    child: Child,
    /// Readable once the process has ended.
    end: OwnedFd,
}

impl Process {
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .spawn()
            .with_context(|| format!("could not start {:?}", command.get_program()))?;
        match rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(end) => Ok(Process { child, end }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error).context("could not watch a process")
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines of standard output, which must have been piped.
    pub fn stdout_lines(&mut self) -> anyhow::Result<Lines> {
        let stdout = self.child.stdout.take().context("no standard output")?;
        Ok(Lines::new(stdout.into()))
    }

    /// The lines of standard error, which must have been piped.
    pub fn stderr_lines(&mut self) -> anyhow::Result<Lines> {
        let stderr = self.child.stderr.take().context("no standard error")?;
        Ok(Lines::new(stderr.into()))
    }

    /// Standard input, which must have been piped.
    pub fn stdin(&mut self) -> anyhow::Result<&mut impl std::io::Write> {
        self.child.stdin.as_mut().context("no standard input")
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        rustix::process::pidfd_send_signal(&self.end, signal).context("could not send a signal")
    }

    /// Waits for the end of the process.
    pub fn wait_within(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        ensure!(
            is_ready_by(&self.end, Instant::now() + patience)?,
            "process {} has not ended within {patience:?}",
            self.pid()
        );
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines that come out of a pipe, waited for with a deadline.
pub struct Lines {
    pipe: std::fs::File,
    pending: Vec<u8>,
}

impl Lines {
    fn new(pipe: OwnedFd) -> Self {
        Lines {
            pipe: pipe.into(),
            pending: Vec::new(),
        }
    }

    /// The next line, without its end.
    pub fn next_by(&mut self, deadline: Instant) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            ensure!(
                is_ready_by(&self.pipe, deadline)?,
                "a program has been silent for too long"
            );
            let mut bytes = [0; 4096];
            match self.pipe.read(&mut bytes)? {
                0 => bail!(
                    "a program ended early{}",
                    if self.pending.is_empty() {
                        ""
                    } else {
                        ", inside a line"
                    }
                ),
                read => self.pending.extend_from_slice(&bytes[..read]),
            }
        }
    }

    /// The rest of the first line that contains `mark`, from behind the mark.
    pub fn find_within(&mut self, mark: &str, patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        let mut seen = Vec::new();
        loop {
            let line = self
                .next_by(deadline)
                .with_context(|| format!("waiting for {mark:?}, after {seen:?}"))?;
            match line.split_once(mark) {
                Some((_, rest)) => return Ok(rest.to_owned()),
                None => seen.push(line),
            }
        }
    }

    /// Everything up to the end of the pipe.
    pub fn rest_by(mut self, deadline: Instant) -> anyhow::Result<String> {
        let mut bytes = [0; 4096];
        loop {
            ensure!(
                is_ready_by(&self.pipe, deadline)?,
                "a program has not closed its output in time"
            );
            match self.pipe.read(&mut bytes)? {
                0 => return Ok(String::from_utf8_lossy(&self.pending).into_owned()),
                read => self.pending.extend_from_slice(&bytes[..read]),
            }
        }
    }
}

/// Waits until there is something to read, or the end; `false` when `deadline`
/// comes first.
fn is_ready_by(source: &impl AsFd, deadline: Instant) -> anyhow::Result<bool> {
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        match poll(&mut [PollFd::new(source, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("could not wait for a process"),
        }
    }
}
