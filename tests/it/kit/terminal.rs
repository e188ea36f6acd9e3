//! A shell on a terminal of its own, which starts a service as a job.

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};
use tempfile::TempDir;

use super::tether::TETHER;
use super::{Address, Client, Config, Log, Process, Program, Running, example, pid_in};

/// bash, with a terminal that script(1) holds open.
///
/// The service writes its log to a pipe and not to the terminal, so that it can
/// be read when that is gone.
pub(crate) struct Shell {
    /// `None` once the terminal is gone.
    terminal: Option<Running>,
    shell: Process,
    log: Log,
    /// The process group of the service.
    group: Option<Pid>,
    dir: TempDir,
}

impl Shell {
    /// Starts one; `None` if that is impossible here, and said.
    pub(crate) fn start() -> Option<Self> {
        Program::find("bash")?;
        // Whatever the tests are run by may ignore SIGHUP.
        let terminal = Program::find("script")?
            .arguments([
                "-q",
                "-c",
                "exec env --default-signal bash --norc --noprofile -i",
                "/dev/null",
            ])
            .environment("PS1", "ready> ")
            .environment("RUST_BACKTRACE", "0")
            .start();
        let dir = TempDir::with_prefix("heirloom-").unwrap();
        mkfifoat(CWD, dir.path().join("log"), Mode::RUSR | Mode::WUSR).unwrap();
        let mut shell = Shell {
            shell: terminal.process().only_child_to_come(),
            terminal: Some(terminal),
            log: Log::default(),
            group: None,
            dir,
        };
        // What is typed before it reads is echoed twice.
        shell.say("echo a shell > /dev/tty\n");
        shell.wait_for("a shell\r");
        Some(shell)
    }

    /// Has the shell start a service with this configuration by `$api`, and
    /// waits until it serves.
    pub(crate) fn start_service(&mut self, config: &Config, command: &str) {
        fs::write(self.path("api.toml"), config.to_toml()).unwrap();
        // In both directions, so that opening it does not wait for anybody.
        let pipe = self.path("log");
        let holder = File::options().read(true).write(true).open(&pipe);
        self.log.follow(File::open(&pipe).unwrap());
        let words = format!(
            "api='{} --config {}'; log={}\n{command}\n",
            example("api").display(),
            self.path("api.toml").display(),
            pipe.display()
        );
        self.say(&words);
        let line = self.log.wait_for("generation 1 is serving on ");
        drop(holder);
        self.group = Pid::from_raw(pid_in(&line));
        TETHER.hold(self.group.unwrap());
    }

    /// The same in the background. A shell that is reading when it is hung up can
    /// find the end of its input first; then it exits without passing the hangup
    /// on to its jobs. So it waits for them.
    pub(crate) fn start_service_in_background(&mut self, config: &Config, command: &str) {
        self.start_service(config, command);
        self.say("echo a job > /dev/tty; wait\n");
        self.wait_for("a job\r");
    }

    /// Types something.
    pub(crate) fn say(&mut self, text: &str) {
        self.terminal
            .as_mut()
            .expect("there is a terminal")
            .say(text);
    }

    /// Waits for something on the terminal.
    pub(crate) fn wait_for(&self, words: &str) {
        let terminal = self.terminal.as_ref().expect("there is a terminal");
        terminal.output().wait_for(words);
    }

    /// How many lines on the terminal contain something.
    pub(crate) fn count(&self, words: &str) -> usize {
        let terminal = self.terminal.as_ref().expect("there is a terminal");
        terminal.output().count(words)
    }

    /// Takes the terminal away from all that were started from it.
    pub(crate) fn hang_up(&mut self) {
        let terminal = self.terminal.take().expect("there is a terminal");
        terminal.process().kill();
        drop(terminal);
    }

    /// Waits until the shell has come to its end, too.
    pub(crate) fn wait_end(&self) {
        self.shell.wait_exit();
    }

    /// The log of the service.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The process of a generation.
    pub(crate) fn generation(&self, number: u64) -> Process {
        let words = format!("generation {number} is serving on ");
        Process::open(pid_in(&self.log.wait_for(&words)))
    }

    pub(crate) fn connect(&self) -> Client {
        let line = self.log.wait_for(" is serving on ");
        let (_, address) = line.split_once(" is serving on ").unwrap();
        let address: Address = address.parse().unwrap();
        Client::connect(&address).expect("the service listens")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
            TETHER.release(group);
        }
        self.shell.kill_if_there();
        self.terminal = None;
        // Whoever lost its parent has become our child.
        for group in [self.group, Pid::from_raw(self.shell.pid())] {
            while group.is_some_and(|group| waitpgid(group, WaitOptions::empty()).is_ok()) {}
        }
        if thread::panicking() {
            eprintln!("the log of the service:\n{}", self.log);
        }
    }
}
