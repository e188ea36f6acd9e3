//! The command `heirloom`: asks a service how it is, and tells it to restart
//! or to stop, through its control socket.
//!
//! It comes back when the result is known, and says so with its exit status,
//! so that a deploy script can go by it. See `heirloom --help`.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use self::message::{
    Answer, Attempt, Connections, Progress, Request, RestartResult, RestartState, Restarted,
    StatusReport,
};

#[path = "../control/message.rs"]
mod message;

const HELP: &str = "\
Usage: heirloom status|restart|stop --socket PATH [--json] [--timeout SECONDS]

Asks a service through its control socket, and comes back when the result is
known.

  status   how the service is
  restart  replaces the service by a fresh process; done when that one serves
           for good
  stop     lets the service finish what it is doing; done when nobody listens
           any more and the process is about to exit

  --socket PATH      where the service has its control socket
  --json             one JSON object a line, as the service says it
  --timeout SECONDS  how long to wait for the result (120); what has been asked
                     for goes on after that
  --help, --version

Exit status:
  0  done
  1  the restart failed, or was undone, or the service refused; the service
     goes on as before
  2  the command line is wrong
  3  there is no service at that path, or it does not listen to this user
  4  there was no result in time
  5  the result cannot be known: the service ended without a word, or goes on
     without a control socket
";

/// How long to wait for the result, if nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How often a line on a terminal is drawn anew.
const RHYTHM: Duration = Duration::from_millis(100);

/// How long a service that has been there may be out of reach, as when a
/// process that was killed makes way for its successor.
const GRACE: Duration = Duration::from_secs(3);

/// The pause before it is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a service may close the connection without a word. One that does
/// so once may just have been making way for its successor.
const MOST_SILENCES: u32 = 10;

/// How long a line may be; longer ones are no answers.
const LONGEST_LINE: usize = 1 << 20;

/// How wide a line on a terminal may become.
const WIDTH: usize = 79;

fn main() -> ExitCode {
    let order = match Order::read(std::env::args_os().skip(1)) {
        Ok(Command::Order(order)) => order,
        Ok(Command::Say(text)) => {
            return match io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Err(problem) => {
            complain(&format!("{problem}; see `heirloom --help`"));
            return ExitCode::from(2);
        }
    };
    let mut view = View::new(order.json);
    let result = carry_out(&order, &mut view);
    view.clear();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::from(failure.status())
        }
    }
}

/// Whoever has closed standard error does not want to know.
fn complain(problem: &str) {
    let problem = problem.replace(char::is_control, " ");
    let _ = writeln!(io::stderr(), "heirloom: {problem}");
}

/// What is to be done.
struct Order {
    request: Request,
    socket: PathBuf,
    json: bool,
    timeout: Duration,
}

enum Command {
    Order(Order),
    /// To be said, and that is all.
    Say(String),
}

impl Order {
    /// Understands the command line; the error says what is wrong with it.
    fn read(mut arguments: impl Iterator<Item = OsString>) -> Result<Command, String> {
        let mut request = None;
        let mut socket = None;
        let mut json = false;
        let mut timeout = TIMEOUT;
        while let Some(argument) = arguments.next() {
            let text = argument.to_string_lossy();
            let (name, value) = match text.split_once('=') {
                Some((name, _)) if name.starts_with("--") => {
                    (name.to_owned(), Some(after(&argument, name.len() + 1)))
                }
                _ => (text.clone().into_owned(), None),
            };
            let mut value = || match value.clone().or_else(|| arguments.next()) {
                Some(value) if !value.is_empty() => Ok(value),
                _ => Err(format!("`{name}` needs a value")),
            };
            match name.as_str() {
                "--help" | "-h" => return Ok(Command::Say(HELP.to_owned())),
                "--version" | "-V" => {
                    let version = concat!("heirloom ", env!("CARGO_PKG_VERSION"), "\n");
                    return Ok(Command::Say(version.to_owned()));
                }
                "--socket" => socket = Some(PathBuf::from(value()?)),
                "--timeout" => timeout = seconds(&value()?)?,
                "--json" if text == "--json" => json = true,
                "status" if request.is_none() => request = Some(Request::Status),
                "restart" if request.is_none() => request = Some(Request::Restart { of: None }),
                "stop" if request.is_none() => request = Some(Request::Stop),
                _ => return Err(format!("`{text}` is not understood")),
            }
        }
        Ok(Command::Order(Order {
            request: request.ok_or("one of `status`, `restart` and `stop` is missing")?,
            socket: socket.ok_or("`--socket PATH` is missing")?,
            json,
            timeout,
        }))
    }
}

/// What follows the first `length` bytes, which are ASCII.
fn after(argument: &OsString, length: usize) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let bytes = argument.as_bytes().get(length..).unwrap_or_default();
    OsString::from_vec(bytes.to_owned())
}

fn seconds(text: &OsString) -> Result<Duration, String> {
    let wrong = || format!("`{}` is no number of seconds", text.to_string_lossy());
    let seconds: f64 = text
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(wrong)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// Why there is no good result.
enum Failure {
    /// The restart failed.
    Failed(String),
    Refused(String),
    Unreachable(PathBuf, String),
    Overdue(Duration),
    Unknown(String),
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Failure::Failed(_) | Failure::Refused(_) => 1,
            Failure::Unreachable(..) => 3,
            Failure::Overdue(_) => 4,
            Failure::Unknown(_) => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(reason) if reason.starts_with("restart ") => f.write_str(reason),
            Failure::Failed(reason) => write!(f, "restart failed: {reason}"),
            Failure::Refused(reason) => write!(f, "the service refused: {reason}"),
            Failure::Unreachable(path, reason) => {
                write!(f, "no service at `{}`: {reason}", path.display())
            }
            Failure::Overdue(timeout) => {
                write!(f, "there was no result in {}", Span(milliseconds(*timeout)))
            }
            Failure::Unknown(reason) => write!(f, "the result is not known: {reason}"),
        }
    }
}

/// Asks until there is a result.
fn carry_out(order: &Order, view: &mut View) -> Result<(), Failure> {
    let begun = Instant::now();
    let overdue = || Failure::Overdue(order.timeout);
    let left = || match order.timeout.checked_sub(begun.elapsed()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(overdue()),
    };
    let mut socket = order.socket.clone();
    let mut request = order.request.clone();
    // The restart that we were told about.
    let mut restart: Option<Attempt> = None;
    let mut has_answered = false;
    let mut silences = 0;
    let mut lost: Option<Instant> = None;
    loop {
        let mut call = match Call::begin(&socket, &request, left()?) {
            Ok(call) => call,
            Err(error) if error.kind() == ErrorKind::TimedOut => return Err(overdue()),
            Err(_) if lost.is_some_and(|lost| lost.elapsed() < GRACE) => {
                thread::sleep(PAUSE.min(left()?));
                continue;
            }
            Err(error) if has_answered => {
                let reason = format!("the service has gone: `{}`: {error}", socket.display());
                return Err(Failure::Unknown(reason));
            }
            Err(error) => return Err(Failure::Unreachable(socket, error.to_string())),
        };
        let mut is_stopping = false;
        let referred = loop {
            let (line, answer) = match call.next(RHYTHM.min(left()?)) {
                Next::Answer(line, answer) => (line, *answer),
                Next::Nothing => {
                    view.draw();
                    continue;
                }
                Next::End => break None,
                Next::Nonsense(line) => {
                    let reason = format!("the service said what is not understood: {line}");
                    return Err(Failure::Unknown(reason));
                }
            };
            has_answered = true;
            silences = 0;
            lost = None;
            view.show(&line, &answer);
            match answer {
                Answer::Status(_) | Answer::Restarted(_) => return Ok(()),
                Answer::Progress(progress) => restart = Some(progress.restart),
                Answer::Failed { reason } => return Err(Failure::Failed(reason)),
                Answer::Refused { reason } => return Err(Failure::Refused(reason)),
                Answer::Superseded {
                    socket: Some(other),
                    ask,
                } => break Some((PathBuf::from(other), ask)),
                Answer::Superseded { socket: None, .. } => {
                    let reason = "a successor has taken over that has no control socket";
                    return Err(Failure::Unknown(reason.to_owned()));
                }
                Answer::Stopping(_) => is_stopping = true,
                Answer::Granted => {
                    let reason = "the service answers what was not asked";
                    return Err(Failure::Unknown(reason.to_owned()));
                }
                Answer::Stopped { .. } => {
                    // With the process, everything that it held is gone.
                    while !matches!(call.next(left()?), Next::End) {}
                    return Ok(());
                }
            }
        };
        if is_stopping {
            let reason = "the service ended without saying how";
            return Err(Failure::Unknown(reason.to_owned()));
        }
        lost.get_or_insert_with(Instant::now);
        if let Some((other, ask)) = referred {
            (socket, request, restart) = (other, ask, None);
            continue;
        }
        silences += 1;
        if silences > MOST_SILENCES {
            let reason = "it closes the connection without a word, as it does to users other than \
                          its own and root";
            return Err(Failure::Unreachable(socket, reason.to_owned()));
        }
        // Whoever answers next knows what has come of it.
        if restart.is_some() && matches!(request, Request::Restart { .. }) {
            request = Request::Restart { of: restart };
        }
        thread::sleep(PAUSE.min(left()?));
    }
}

/// One request, and what is answered.
struct Call {
    stream: UnixStream,
    /// What has been read of the next lines.
    bytes: Vec<u8>,
}

enum Next {
    Answer(String, Box<Answer>),
    /// There was none in time.
    Nothing,
    End,
    Nonsense(String),
}

impl Call {
    fn begin(path: &Path, request: &Request, patience: Duration) -> io::Result<Self> {
        let stream = connect_within(path, patience)?;
        stream.set_write_timeout(Some(patience))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        match (&stream).write_all(&line) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(ErrorKind::TimedOut.into());
            }
            // It does not want to hear anything, which reading finds out too.
            Err(_) => {}
        }
        Ok(Call {
            stream,
            bytes: Vec::new(),
        })
    }

    fn next(&mut self, patience: Duration) -> Next {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                return match serde_json::from_str(&line) {
                    Ok(answer) => Next::Answer(line, Box::new(answer)),
                    Err(_) => Next::Nonsense(line),
                };
            }
            if self.bytes.len() > LONGEST_LINE {
                return Next::Nonsense(format!("a line of more than {LONGEST_LINE} bytes"));
            }
            let mut bytes = [0; 4096];
            let timeout = self.stream.set_read_timeout(Some(patience));
            match timeout.and_then(|()| self.stream.read(&mut bytes)) {
                Ok(0) => return Next::End,
                Ok(read) => self.bytes.extend_from_slice(&bytes[..read]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Next::Nothing,
                    ErrorKind::Interrupted => {}
                    _ => return Next::End,
                },
            }
        }
    }
}

/// Connects; also to a service whose queue is full, unless it stays so.
fn connect_within(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let name = SocketAddrUnix::new(path)?;
    let begun = Instant::now();
    loop {
        // In blocking mode this could wait for ever (connect(2)).
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        match connect(&socket, &name) {
            Ok(()) => {
                let stream = UnixStream::from(socket);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(Errno::AGAIN | Errno::INTR) if begun.elapsed() < patience => {
                thread::sleep(PAUSE.min(patience));
            }
            Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the user sees. Whoever has closed standard output does not want to
/// see anything, and the result is in the exit status anyway.
struct View {
    manner: Manner,
    /// What has been said last, and when.
    progress: Option<(Told, Instant)>,
    /// Whether there is a line that is to be drawn over.
    is_drawn: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// A line is drawn anew while the restart goes on.
    Terminal,
    Plain,
    Json,
}

#[derive(Clone)]
enum Told {
    Restart(Progress),
    Stop(String),
}

impl View {
    fn new(json: bool) -> Self {
        let manner = match json {
            true => Manner::Json,
            false if io::stdout().is_terminal() => Manner::Terminal,
            false => Manner::Plain,
        };
        View {
            manner,
            progress: None,
            is_drawn: false,
        }
    }

    fn show(&mut self, line: &str, answer: &Answer) {
        if self.manner == Manner::Json {
            self.say(line);
            return;
        }
        let told = match answer {
            Answer::Progress(progress) => Told::Restart(progress.clone()),
            Answer::Stopping(it) => Told::Stop(format!(
                "stopping generation {} (pid {}), with {}",
                it.generation,
                it.pid,
                Census(it.connections)
            )),
            Answer::Status(status) => return self.say(&Report(status).to_string()),
            Answer::Restarted(it) => return self.say(&Arrival(it).to_string()),
            Answer::Stopped { cut: 0 } => return self.say("stopped"),
            Answer::Stopped { cut } => {
                return self.say(&format!("stopped; {cut} connections were cut off"));
            }
            Answer::Superseded { .. }
            | Answer::Failed { .. }
            | Answer::Granted
            | Answer::Refused { .. } => return,
        };
        // Lines that stay are not written for every number.
        if self.manner == Manner::Plain && self.is_news(&told) {
            self.say(&told.in_words(Duration::ZERO));
        }
        self.progress = Some((told, Instant::now()));
        self.draw();
    }

    fn is_news(&self, told: &Told) -> bool {
        match (&self.progress, told) {
            (Some((Told::Restart(before), _)), Told::Restart(now)) => {
                before.state != now.state || before.restart != now.restart
            }
            _ => true,
        }
    }

    /// Draws what is going on, on a terminal.
    fn draw(&mut self) {
        if let (Manner::Terminal, Some((told, at))) = (self.manner, &self.progress) {
            let line = told.in_words(at.elapsed());
            let line: String = line.chars().take(WIDTH).collect();
            let mut out = io::stdout();
            let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
            self.is_drawn = true;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let mut out = io::stdout();
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }

    fn say(&mut self, text: &str) {
        self.clear();
        // What the service says is not to draw anything.
        let control = |letter: char| letter != '\n' && letter.is_control();
        let text = text.replace(control, " ");
        let mut out = io::stdout();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

impl Told {
    /// What is going on, so long after it was told.
    fn in_words(&self, since: Duration) -> String {
        let progress = match self {
            Told::Restart(progress) => progress,
            Told::Stop(words) if since.is_zero() => return words.clone(),
            Told::Stop(words) => return format!("{words}, {}", Span(milliseconds(since))),
        };
        let generation = progress.restart.generation;
        let mut words = format!("restarting generation {generation}: ");
        words.push_str(match progress.state {
            RestartState::Waiting => "waiting until another restart is over",
            RestartState::Forking => "the successor is starting",
            RestartState::Handoff => "the successor is getting ready",
            RestartState::Probation => "the successor serves on probation",
            RestartState::Publishing => "the successor serves",
        });
        if let Some(successor) = progress.successor {
            words.push_str(&format!(", pid {successor}"));
        }
        if progress.handed_over > 0 {
            words.push_str(&format!(", {} connections moved", progress.handed_over));
        }
        if progress.state != RestartState::Waiting {
            let elapsed = progress.elapsed_ms.saturating_add(milliseconds(since));
            words.push_str(&format!(", {}", Span(elapsed)));
        }
        words
    }
}

/// A status in words.
struct Report<'a>(&'a StatusReport);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0;
        write!(
            f,
            "generation {} (pid {}) is {}",
            status.generation, status.pid, status.state
        )?;
        if !status.proven {
            f.write_str(" on probation")?;
        }
        writeln!(f, ", up {}", Span(status.uptime_ms))?;
        if let Some(successor) = status.successor {
            writeln!(f, "successor: pid {successor}")?;
        }
        if !status.listeners.is_empty() {
            writeln!(f, "listening on {}", status.listeners.join(", "))?;
        }
        writeln!(f, "{}", Census(status.connections))?;
        match &status.last_restart {
            None => f.write_str("last restart: none"),
            Some(last) => {
                let ago = Span(last.ago_ms);
                match last.result {
                    RestartResult::Ok => write!(
                        f,
                        "last restart: done {ago} ago, in {}; {} connections moved",
                        Span(last.took_ms),
                        last.handed_over
                    ),
                    RestartResult::Failed => write!(
                        f,
                        "last restart: {ago} ago, {}",
                        last.reason.as_deref().unwrap_or("nobody knows why")
                    ),
                }
            }
        }
    }
}

/// A restart that is done, in words.
struct Arrival<'a>(&'a Restarted);

impl fmt::Display for Arrival<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let it = self.0;
        write!(
            f,
            "restarted in {}: generation {} (pid {}) serves; {} connections moved",
            Span(it.took_ms),
            it.generation,
            it.pid,
            it.handed_over
        )
    }
}

struct Census(Connections);

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connections { idle, busy } = self.0;
        write!(f, "{busy} busy and {idle} idle connections")
    }
}

/// Milliseconds, as people say it.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        match seconds {
            0 => write!(f, "{} ms", self.0),
            1..60 => write!(f, "{seconds}.{} s", self.0 % 1000 / 100),
            60..3_600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            3_600..86_400 => write!(f, "{} h {} min", seconds / 3_600, seconds / 60 % 60),
            _ => write!(f, "{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        Order::read(line.split(' ').map(OsString::from))
    }

    fn order(line: &str) -> Order {
        match read(line) {
            Ok(Command::Order(order)) => order,
            Ok(Command::Say(text)) => panic!("{line}: {text}"),
            Err(problem) => panic!("{line}: {problem}"),
        }
    }

    #[test]
    fn every_form_of_an_order_is_understood() {
        let it = order("restart --socket /run/x --json --timeout 2.5");
        assert_eq!(it.request, Request::Restart { of: None });
        assert_eq!(it.socket, Path::new("/run/x"));
        assert_eq!((it.json, it.timeout), (true, Duration::from_millis(2500)));
        let it = order("--timeout=7 --socket=/run/a=b stop");
        assert_eq!(it.request, Request::Stop);
        assert_eq!(it.socket, Path::new("/run/a=b"));
        assert_eq!((it.json, it.timeout), (false, Duration::from_secs(7)));
        assert_eq!(order("status --socket x").timeout, TIMEOUT);
        assert!(matches!(read("restart --help"), Ok(Command::Say(text)) if text == HELP));
        assert!(matches!(read("--version"), Ok(Command::Say(_))));
    }

    #[test]
    fn a_wrong_order_is_refused_with_the_reason() {
        for (line, reason) in [
            ("--socket x", "`status`, `restart` and `stop`"),
            ("status", "--socket"),
            ("status --socket", "needs a value"),
            ("status --socket=", "needs a value"),
            ("status stop --socket x", "`stop` is not understood"),
            ("reload --socket x", "`reload` is not understood"),
            ("status --socket x --json=yes", "`--json=yes`"),
            ("status --socket x --timeout soon", "`soon` is no number"),
            ("status --socket x --timeout -1", "`-1` is no number"),
            ("status --socket x --timeout inf", "`inf` is no number"),
        ] {
            match read(line) {
                Err(problem) => assert!(problem.contains(reason), "{line}: {problem}"),
                Ok(_) => panic!("{line}"),
            }
        }
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        for (milliseconds, words) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (61_000, "1 min 1 s"),
            (7_500_000, "2 h 5 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(Span(milliseconds).to_string(), words);
        }
    }
}
