//! strace as the counter.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use super::{Calls, PATIENCE};
use crate::bench::Bench;
use crate::launch;
use crate::observed;
use crate::process::Process;

pub(super) struct Strace {
    program: PathBuf,
}

impl Strace {
    pub(super) fn new(program: PathBuf) -> Self {
        Strace { program }
    }

    /// Counts what the process calls while `load` runs.
    pub(super) fn count(
        &self,
        bench: &Bench,
        pid: u32,
        load: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Calls> {
        let table = bench.directory.join("strace-counts");
        let mut command = launch::command(&self.program, bench.client_cpu)?;
        command
            .args(["-c", "-f", "-o"])
            .arg(&table)
            .arg("-p")
            .arg(pid.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut strace = Process::start(&mut command)?;
        let mut lines = strace.stderr_lines()?;
        lines
            .find_within(" attached", PATIENCE)
            .context("strace could not attach")?;
        load()?;
        // Told to end, strace lets the server go and writes its table.
        strace.signal(Signal::INT)?;
        strace.wait_within(PATIENCE)?;
        let table = observed::read(&table)?;
        let calls: Calls = parse(&table).collect();
        ensure!(!calls.is_empty(), "strace counted nothing: {table:?}");
        Ok(calls)
    }
}

/// The rows of strace's table: `% time, seconds, usecs/call, calls, [errors],
/// syscall`.
fn parse(table: &str) -> impl Iterator<Item = (String, u64)> {
    table.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let name = *columns.last()?;
        let calls = columns.get(3)?.parse().ok()?;
        (columns.len() >= 5 && name != "total").then(|| (name.to_owned(), calls))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_with_and_without_errors_are_read_and_the_total_is_not() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.23    0.204000           5     40800       800 recvfrom
 38.77    0.129200           6     20000           sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.333200           5     60800       800 total
";
        let rows: Vec<_> = super::parse(table).collect();
        let expected = [
            ("recvfrom".to_owned(), 40_800),
            ("sendto".to_owned(), 20_000),
        ];
        assert_eq!(rows, expected);
    }
}
