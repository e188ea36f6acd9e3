//! perf as the counter: tracepoints, counted in the kernel.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::Signal;

use super::{Calls, PATIENCE};
use crate::bench::Bench;
use crate::launch;
use crate::observed;
use crate::process::Process;

/// Every call, whatever its name.
const ALL: &str = "raw_syscalls:sys_enter";

/// The calls that are told by name; a tracepoint each, so not all of them.
const NAMED: [&str; 16] = [
    "accept4",
    "close",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "futex",
    "nanosleep",
    "read",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "timerfd_settime",
    "write",
    "writev",
];

const PREFIX: &str = "syscalls:sys_enter_";

pub(super) struct Perf {
    program: PathBuf,
}

impl Perf {
    pub(super) fn new(program: PathBuf) -> Self {
        Perf { program }
    }

    /// Whether tracepoints exist here and this user may count them.
    pub(super) fn can_count(&self) -> bool {
        Command::new(&self.program)
            .args(["stat", "-e", ALL, "-e"])
            .arg(format!("{PREFIX}write"))
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Counts what the process calls while `load` runs.
    pub(super) fn count(
        &self,
        bench: &Bench,
        pid: u32,
        load: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Calls> {
        let control = bench.directory.join("perf-control");
        let table = bench.directory.join("perf-counts");
        match fs::remove_file(&control) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("could not remove an old FIFO");
            }
            _ => {}
        }
        rustix::fs::mknodat(CWD, &control, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .context("could not make a FIFO")?;
        // Open for reading too, or this would wait for perf, and perf for this.
        let mut orders = OpenOptions::new().read(true).write(true).open(&control)?;

        let mut command = launch::command(&self.program, bench.client_cpu)?;
        command
            .args(["stat", "--field-separator=,", "--delay=-1"])
            .arg(format!("--control=fifo:{}", control.display()))
            .arg(format!("--output={}", table.display()))
            .args(["-e", ALL])
            .args(
                NAMED
                    .iter()
                    .flat_map(|name| ["-e".to_owned(), format!("{PREFIX}{name}")]),
            )
            .arg(format!("--pid={pid}"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut perf = Process::start(&mut command)?;
        let mut lines = perf.stderr_lines()?;
        // perf says when it is attached, and when it counts.
        lines.find_within("Events disabled", PATIENCE)?;
        orders.write_all(b"enable\n")?;
        lines.find_within("Events enabled", PATIENCE)?;
        load()?;
        perf.signal(Signal::INT)?;
        perf.wait_within(PATIENCE)?;
        parse(&observed::read(&table)?)
    }
}

/// Rows of `count,unit,event,…`.
fn parse(table: &str) -> anyhow::Result<Calls> {
    let mut calls = Calls::new();
    let mut all = 0;
    for line in table.lines() {
        let mut columns = line.split(',');
        let (Some(count), Some(_), Some(event)) = (columns.next(), columns.next(), columns.next())
        else {
            continue;
        };
        // A call that did not happen is `<not counted>`.
        let count = count.parse::<u64>().unwrap_or(0);
        if event == ALL {
            all = count;
        } else if let Some(name) = event.strip_prefix(PREFIX)
            && count > 0
        {
            calls.insert(name.to_owned(), count);
        }
    }
    ensure!(all > 0, "perf counted nothing: {table:?}");
    let named: u64 = calls.values().sum();
    calls.insert("other".to_owned(), all.saturating_sub(named));
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_without_a_row_of_their_own_are_told_as_other() {
        let table = "# started on Mon

60007,,raw_syscalls:sys_enter,1200,100.00,,
20000,,syscalls:sys_enter_sendto,1200,100.00,,
<not counted>,,syscalls:sys_enter_futex,0,100.00,,
40000,,syscalls:sys_enter_recvfrom,1200,100.00,,
";
        let calls = parse(table).unwrap();
        let calls: Vec<_> = calls.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(
            calls,
            [("other", 7), ("recvfrom", 40_000), ("sendto", 20_000)]
        );
    }

    #[test]
    fn an_empty_table_is_no_result() {
        assert!(parse("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n").is_err());
    }
}
