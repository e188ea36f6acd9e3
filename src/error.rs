//! The one error type of the crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a service could not start or go on.
///
/// The text names what was attempted, on what, and the cause;
/// [`source`](std::error::Error::source) gives the cause itself where the
/// operating system supplied one.
///
/// A restart that failed is *not* an error of the server: the process goes on
/// serving, the failure is logged, and the
/// [transition](crate::Server::on_transition) back to serving carries it.
pub struct Error {
    kind: Kind,
}

/// One kind per operation that can fail.
pub(crate) enum Kind {
    Address {
        requested: String,
        problem: &'static str,
    },
    Bind {
        requested: String,
        cause: io::Error,
    },
    Adopt {
        requested: String,
        problem: String,
    },
    Occupied {
        path: PathBuf,
        problem: &'static str,
    },
    NoListener,
    PidFile {
        path: PathBuf,
        cause: io::Error,
    },
    Signals {
        cause: io::Error,
    },
    Reactor {
        cause: io::Error,
    },
    Invocation {
        what: &'static str,
        cause: io::Error,
    },
    Version {
        theirs: u64,
        ours: u64,
    },
    Handoff {
        step: &'static str,
        cause: io::Error,
    },
    State {
        problem: String,
    },
    NotReady {
        problem: String,
    },
    Dismissed {
        step: &'static str,
    },
    Overdue {
        step: &'static str,
    },
    Takeover {
        path: PathBuf,
        problem: String,
    },
}

impl Error {
    pub(crate) fn address(requested: &str, problem: &'static str) -> Self {
        let requested = requested.to_owned();
        Kind::Address { requested, problem }.into()
    }

    pub(crate) fn bind(requested: &str, cause: impl Into<io::Error>) -> Self {
        let (requested, cause) = (requested.to_owned(), cause.into());
        Kind::Bind { requested, cause }.into()
    }

    pub(crate) fn adopt(requested: &str, problem: impl fmt::Display) -> Self {
        let (requested, problem) = (legible(requested), legible(&problem.to_string()));
        Kind::Adopt { requested, problem }.into()
    }

    pub(crate) fn occupied(path: &Path, problem: &'static str) -> Self {
        let path = path.to_owned();
        Kind::Occupied { path, problem }.into()
    }

    pub(crate) fn no_listener() -> Self {
        Kind::NoListener.into()
    }

    pub(crate) fn pid_file(path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        Kind::PidFile { path, cause }.into()
    }

    pub(crate) fn signals(cause: io::Error) -> Self {
        Kind::Signals { cause }.into()
    }

    pub(crate) fn reactor(cause: io::Error) -> Self {
        Kind::Reactor { cause }.into()
    }

    pub(crate) fn invocation(what: &'static str, cause: io::Error) -> Self {
        Kind::Invocation { what, cause }.into()
    }

    pub(crate) fn version(theirs: u64, ours: u64) -> Self {
        Kind::Version { theirs, ours }.into()
    }

    pub(crate) fn handoff(step: &'static str, cause: impl Into<io::Error>) -> Self {
        let cause = cause.into();
        Kind::Handoff { step, cause }.into()
    }

    pub(crate) fn state(problem: impl fmt::Display) -> Self {
        let problem = problem.to_string();
        Kind::State { problem }.into()
    }

    pub(crate) fn not_ready(problem: impl fmt::Display) -> Self {
        let problem = problem.to_string();
        Kind::NotReady { problem }.into()
    }

    pub(crate) fn dismissed(step: &'static str) -> Self {
        Kind::Dismissed { step }.into()
    }

    pub(crate) fn overdue(step: &'static str) -> Self {
        Kind::Overdue { step }.into()
    }

    pub(crate) fn takeover(path: &Path, problem: String) -> Self {
        let path = path.to_owned();
        Kind::Takeover { path, problem }.into()
    }
}

/// What somebody else has said, as part of a line in a log: not of any length,
/// and nothing that would make it several lines.
pub(crate) fn legible(text: &str) -> String {
    const MOST: usize = 4096;
    let letters = text.chars().take(MOST);
    letters
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Error { kind }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Address { requested, problem } => {
                write!(f, "cannot listen on `{requested}`: {problem}")
            }
            Kind::Bind { requested, cause } => write!(f, "could not bind `{requested}`: {cause}"),
            Kind::Adopt { requested, problem } => {
                write!(f, "could not adopt the listener `{requested}`: {problem}")
            }
            Kind::Occupied { path, problem } => {
                write!(f, "could not bind `unix:{}`: {problem}", path.display())
            }
            Kind::NoListener => f.write_str("there is no address to listen on"),
            Kind::PidFile { path, cause } => {
                write!(
                    f,
                    "could not write the PID file `{}`: {cause}",
                    path.display()
                )
            }
            Kind::Signals { cause } => write!(f, "could not catch signals: {cause}"),
            Kind::Reactor { cause } => {
                write!(
                    f,
                    "could not register a descriptor with the reactor: {cause}"
                )
            }
            Kind::Invocation { what, cause } => {
                write!(f, "could not find out {what} of this process: {cause}")
            }
            Kind::Version { theirs, ours } => write!(
                f,
                "the predecessor speaks version {theirs} of the handoff protocol, \
                 this process speaks version {ours}"
            ),
            Kind::Handoff { step, cause } => {
                write!(f, "the handoff failed while {step}: {cause}")
            }
            Kind::State { problem } => {
                write!(f, "could not take over the application's state: {problem}")
            }
            Kind::NotReady { problem } => {
                write!(f, "the application did not become ready: {problem}")
            }
            Kind::Dismissed { step } => {
                write!(f, "the predecessor has dismissed this process while {step}")
            }
            Kind::Takeover { path, problem } => write!(
                f,
                "could not take over the service at `{}`: {problem}",
                path.display()
            ),
            Kind::Overdue { step } => {
                write!(f, "the predecessor gave no answer in time while {step}")
            }
        }
    }
}

impl fmt::Debug for Error {
    /// Same as `Display`, because this is what a `main` that returns the error
    /// shows to the operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Bind { cause, .. }
            | Kind::PidFile { cause, .. }
            | Kind::Signals { cause }
            | Kind::Reactor { cause }
            | Kind::Invocation { cause, .. }
            | Kind::Handoff { cause, .. } => Some(cause),
            Kind::Address { .. }
            | Kind::Adopt { .. }
            | Kind::Occupied { .. }
            | Kind::NoListener
            | Kind::Version { .. }
            | Kind::State { .. }
            | Kind::NotReady { .. }
            | Kind::Dismissed { .. }
            | Kind::Takeover { .. }
            | Kind::Overdue { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_one_line_of_bearable_length() {
        let said = legible(&"a\r\nb\u{85}\u{1b}é".repeat(10_000));
        assert!(said.starts_with("a  b  éa  b  é"), "{said}");
        assert_eq!(said.chars().count(), 4096);
        assert_eq!(legible("127.0.0.1:80"), "127.0.0.1:80");
    }
}
