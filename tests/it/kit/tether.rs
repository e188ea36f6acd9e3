//! Our end of the program that outlives us (`tests/it/tether.rs`).

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use rustix::process::Pid;

use super::binary::starting_a_process;
use super::example;

/// Kills the process groups that it holds when this process ends, in
/// whatever way.
pub(crate) struct Tether {
    input: Mutex<ChildStdin>,
    child: Child,
}

/// The one that holds all services of this process.
pub(super) static TETHER: LazyLock<Tether> = LazyLock::new(Tether::new);

impl Tether {
    pub(crate) fn new() -> Self {
        let _lock = starting_a_process();
        let mut child = Command::new(example("tether"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // What interrupts us is not to interrupt it.
            .process_group(0)
            .spawn()
            .expect("the tether can be started");
        let input = Mutex::new(child.stdin.take().unwrap());
        Tether { input, child }
    }

    pub(crate) fn hold(&self, group: Pid) {
        writeln!(self.input.lock().unwrap(), "+{group}").unwrap();
    }

    /// To be called before the group is reaped and its number can come to name
    /// another one.
    pub(crate) fn release(&self, group: Pid) {
        writeln!(self.input.lock().unwrap(), "-{group}").unwrap();
    }

    /// Lets go, as our end would.
    pub(crate) fn let_go(self) {
        let Tether { input, mut child } = self;
        drop(input);
        child.wait().unwrap();
    }
}
