//! Whoever asks at a control socket: the command, and a client that says
//! whatever a test likes.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::{End, Log, PATIENCE, Program, Running, Service};

/// A connection to a control socket.
pub(crate) struct ControlClient {
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("somebody listens at the control socket");
        ControlClient::of(stream)
    }

    fn of(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        ControlClient {
            stream: BufReader::new(stream),
        }
    }

    /// Asks on a connection of its own.
    pub(crate) fn ask(path: &Path, request: &Value) -> Self {
        let mut client = ControlClient::connect(path);
        client.say(&format!("{request}\n"));
        client
    }

    /// How the service says it is.
    pub(crate) fn status(path: &Path) -> Value {
        let mut client = ControlClient::ask(path, &json!({"request": "status"}));
        let status = client.next().expect("the status is told");
        assert_eq!(status["answer"], "status", "{status}");
        assert_eq!(client.next(), None, "one answer");
        status
    }

    /// Says something, which the service may not want to hear to its end.
    pub(crate) fn say(&mut self, text: &str) {
        let _ = self.stream.get_mut().write_all(text.as_bytes());
    }

    /// Says no more.
    pub(crate) fn fall_silent(&mut self) {
        self.stream.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    /// The next line; `None`: the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"))),
            // It was closed with something of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no line comes: {error}"),
        }
    }

    /// The next line that is no progress.
    pub(crate) fn result(&mut self) -> Option<Value> {
        loop {
            match self.next() {
                Some(line) if line["answer"] == "progress" => {}
                line => return line,
            }
        }
    }

    /// Waits until a restart is said to be in this state.
    pub(crate) fn wait_for_state(&mut self, state: &str) -> Value {
        loop {
            let line = self.next().expect("the answer goes on");
            assert_eq!(line["answer"], "progress", "{line}");
            if line["state"] == state {
                return line;
            }
        }
    }
}

/// The command, at work.
pub(crate) struct Asked {
    running: Running,
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Service {
    /// Begins `heirloom VERB --json` at this service.
    pub(crate) fn ask(&self, verb: &str) -> Asked {
        Asked::at(&self.control_socket(), &[verb, "--json"])
    }

    /// `heirloom VERB --json` at this service, to its end.
    pub(crate) fn order(&self, verb: &str) -> Outcome {
        self.ask(verb).end()
    }
}

impl Asked {
    pub(crate) fn at(socket: &Path, arguments: &[&str]) -> Self {
        Asked::by(Program::heirloom(), socket, arguments)
    }

    pub(crate) fn by(program: Program, socket: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(OsStr::new);
        let running = program
            .arguments([OsStr::new("--socket"), socket.as_os_str()])
            .arguments(arguments)
            .start();
        Asked { running }
    }

    /// What it writes, as it comes.
    pub(crate) fn output(&self) -> &Log {
        self.running.output()
    }

    /// Waits for a line in which a member has this value.
    pub(crate) fn wait_for(&self, member: &str, value: &str) -> Value {
        let line = self.output().wait_for(&format!("\"{member}\":\"{value}\""));
        serde_json::from_str(&line).unwrap()
    }

    pub(crate) fn end(self) -> Outcome {
        let (end, written) = self.running.end();
        let End::Exit(status) = end else {
            panic!("the end of the command: {end:?}");
        };
        Outcome {
            status,
            output: written.output,
            errors: written.errors,
        }
    }
}

impl Outcome {
    /// The lines of `--json`.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.output.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}")))
            .collect()
    }

    /// The last line of `--json`, of a command that exited with this status.
    pub(crate) fn last(&self, status: i32) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.lines().pop().expect("something was said")
    }
}
