//! Clients that other people have written, as processes.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use super::binary::{command, starting_a_process};
use super::service::adopt_orphans;
use super::tether::TETHER;
use super::{End, Log, Process};

/// Names the programs that must be there, separated by spaces, or `all`.
///
/// Where it is set, as in CI, nobody finds out late that a test has been
/// skipped for months.
pub(super) const REQUIRED: &str = "HEIRLOOM_REQUIRE_CLIENTS";

/// The programs that there are tests for.
const KNOWN: [&str; 12] = [
    "ab",
    "bash",
    "chromium",
    "curl",
    "haproxy",
    "node",
    "nsenter",
    "python3",
    "script",
    "systemctl",
    "systemd",
    "unshare",
];

/// A program that may or may not be installed.
pub(crate) struct Program {
    name: &'static str,
    command: Command,
    is_on_terminal: bool,
}

/// A program that runs, with all the processes it has started.
pub(crate) struct Running {
    name: &'static str,
    /// Its process group, named after it: until it is reaped, when this is
    /// dropped, the number can name nobody else.
    group: Pid,
    process: Process,
    input: Option<ChildStdin>,
    output: Log,
    errors: Log,
}

/// What a program has written in all.
pub(crate) struct Written {
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Program {
    /// The program, unless it is missing; then this says that the test is
    /// skipped, or fails where the program is required.
    pub(crate) fn find(name: &'static str) -> Option<Self> {
        let required = env::var(REQUIRED).unwrap_or_default();
        for word in required.split_whitespace() {
            // Otherwise a slip would require nothing, and say nothing.
            let known = word == "all" || KNOWN.contains(&word);
            assert!(known, "{REQUIRED} may name {KNOWN:?} or all, not {word}");
        }
        let path = env::var_os("PATH").unwrap_or_default();
        if env::split_paths(&path).any(|directory| directory.join(name).is_file()) {
            let mut command = Command::new(name);
            // What we connect to is on this machine, whatever proxies it has.
            for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
                command.env_remove(proxy);
            }
            return Some(Program::new(name, command));
        }
        skip(name, &format!("{name}, which is not installed"));
        None
    }

    /// The command of this crate.
    pub(crate) fn heirloom() -> Self {
        Program::at(&command())
    }

    /// An executable of the tests.
    pub(crate) fn at(path: &Path) -> Self {
        Program::new("heirloom", Command::new(path))
    }

    fn new(name: &'static str, command: Command) -> Self {
        Program {
            name,
            command,
            is_on_terminal: false,
        }
    }

    /// Has it write to a terminal.
    pub(crate) fn on_terminal(mut self) -> Self {
        self.is_on_terminal = true;
        self
    }

    pub(crate) fn arguments(
        mut self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Self {
        self.command.args(arguments);
        self
    }

    /// Runs it with these variables and no others.
    pub(super) fn only_environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.command.env_clear().envs(variables.iter().copied());
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs the program to its end, without input.
    pub(crate) fn run(self) -> Written {
        self.start().finish()
    }

    pub(crate) fn start(mut self) -> Running {
        adopt_orphans();
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let terminal = self.is_on_terminal.then(|| {
            let (ours, theirs) = open_terminal();
            self.command.stdout(theirs);
            ours
        });
        let mut child = {
            let _lock = starting_a_process();
            let child = self.command.spawn();
            child.unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name))
        };
        TETHER.hold(Pid::from_child(&child));
        let running = Running {
            name: self.name,
            group: Pid::from_child(&child),
            process: Process::open(child.id() as i32),
            input: child.stdin.take(),
            output: Log::default(),
            errors: Log::default(),
        };
        // So that its end is that of the program.
        drop(self.command);
        match terminal {
            // What is drawn over begins with it.
            Some(terminal) => running.output.follow_up_to(b'\r', terminal),
            None => running.output.follow(child.stdout.take().unwrap()),
        }
        running.errors.follow(child.stderr.take().unwrap());
        running
    }
}

impl Running {
    /// The lines on its standard output, as they come.
    pub(crate) fn output(&self) -> &Log {
        &self.output
    }

    /// The lines on its standard error, as they come.
    pub(crate) fn errors(&self) -> &Log {
        &self.errors
    }

    /// Writes to its standard input. Meant for a few bytes, which a pipe holds:
    /// this has no deadline.
    pub(crate) fn say(&mut self, text: &str) {
        let input = self.input.as_mut().expect("the input is open");
        input.write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn process(&self) -> &Process {
        &self.process
    }

    pub(super) fn has_ended(&self) -> bool {
        !self.process.is_alive()
    }

    /// Ends its input and waits until it exits, which must be with status 0.
    pub(crate) fn finish(self) -> Written {
        let name = self.name;
        let (end, written) = self.end();
        assert_eq!(end, End::Exit(0), "the end of {name}: {}", written.errors);
        written
    }

    /// Ends its input and waits until it exits, in whatever way.
    pub(crate) fn end(mut self) -> (End, Written) {
        self.input = None;
        let end = self.process.wait_exit();
        // Processes it has left behind would keep the pipes open.
        let _ = kill_process_group(self.group, Signal::KILL);
        let text = |log: &Log| {
            log.wait_for_end();
            log.lines_with("").join("\n")
        };
        let written = Written {
            output: text(&self.output),
            errors: text(&self.errors),
        };
        (end, written)
    }
}

/// Says that a test is skipped, or fails where `name` is required.
pub(super) fn skip(name: &str, need: &str) {
    let required = env::var(REQUIRED).unwrap_or_default();
    let mut required = required.split_whitespace();
    assert!(
        !required.any(|word| word == "all" || word == name),
        "the test needs {need}, and {REQUIRED} requires {name}"
    );
    say_skipped(need);
}

pub(crate) fn say_skipped(need: &str) {
    let test = thread::current();
    let line = format!(
        "skipped: {} needs {need}\n",
        test.name().unwrap_or_default()
    );
    // Not `eprintln!`, whose words the test harness keeps to itself when a
    // test passes.
    io::stderr().write_all(line.as_bytes()).unwrap();
}

/// A terminal: our end, and that of the program.
fn open_terminal() -> (File, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).expect("there are terminals");
    unlockpt(&ours).unwrap();
    let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
    (ours.into(), theirs.into())
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process_group(self.group, Signal::KILL);
        TETHER.release(self.group);
        while waitpgid(self.group, WaitOptions::empty()).is_ok() {}
        if thread::panicking() {
            eprintln!("the output of {}:\n{}", self.name, self.output);
            eprintln!("the errors of {}:\n{}", self.name, self.errors);
        }
    }
}
