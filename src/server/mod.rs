//! The server: what a user configures, and what runs it.

mod accept;
mod adoption;
mod check;
mod handover;
mod preparation;
mod run;
mod state;

use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use smol::LocalExecutor;
use smol::future::FutureExt as _;

use crate::connection::{self, Handler, Protocol};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::limits::Limits;
use crate::listener::Address;
use crate::parcel::Parcel;
use crate::raw::{self, Connection, Served};
use crate::reactor::Reactor;
use crate::status::Status;
use crate::transition::Transition;

use self::accept::Attend;
use self::handover::Outbox;
use self::preparation::{CheckCommand, Preparation};
use self::state::State;

/// A server that `SIGHUP` replaces by a fresh process: of HTTP/1.1
/// ([`Server::new`]), or of whatever the application speaks on its connections
/// ([`Server::raw`]).
///
/// | signal | what it does |
/// |---|---|
/// | `SIGHUP` | starts a successor from the same executable path, with the same arguments, and drains once that one serves; if it fails, everything stays as it was |
/// | `SIGTERM`, `SIGINT` | stops accepting, lets requests in flight finish, exits; during a restart the unready successor is taken along |
/// | a second `SIGTERM` or `SIGINT` | exits at once; a successor on probation that does not stop has half a second, and is killed |
///
/// A process should have one server: the signals are meant for the process.
///
/// # Examples
///
/// ```no_run
/// use heirloom::{Response, Server};
///
/// fn main() -> heirloom::Result<()> {
///     Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
///         .listen("127.0.0.1:8000")
///         .run()
/// }
/// ```
///
/// # Defaults
///
/// | knob | default |
/// |---|---|
/// | [`environment_file`](Server::environment_file), [`environment`](Server::environment) | that of this process |
/// | [`check_command`](Server::check_command), [`check_executable`](Server::check_executable), [`check`](Server::check) | none |
/// | [`check_timeout`](Server::check_timeout) | 30 s |
/// | [`ready_timeout`](Server::ready_timeout) | 30 s |
/// | [`drain_timeout`](Server::drain_timeout) | 30 s |
/// | [`probation`](Server::probation) | 500 ms |
/// | [`shutdown_delay`](Server::shutdown_delay) | none |
/// | [`hand_over`](Server::hand_over) | yes |
/// | [`reuse_port`](Server::reuse_port) | no |
/// | [`max_state_bytes`](Server::max_state_bytes) | 64 MiB |
/// | [`pid_file`](Server::pid_file) | none |
/// | [`control_socket`](Server::control_socket) | none |
/// | [`pid_one_stub`](Server::pid_one_stub) | as process 1, and in the foreground of a terminal |
/// | [`takeover`](Server::takeover) | no |
/// | [`limits`](Server::limits) | see [`Limits`] |
pub struct Server {
    service: Service,
    /// `None`: it is begun when the server is run.
    generation: Option<Generation>,
    status: Status,
    addresses: Vec<Asked>,
    options: Options,
}

/// Makes of everything that connections are served with what is done with each
/// of them.
type Service = Box<dyn FnOnce(Setup) -> Attend>;

struct Setup {
    executor: Weak<LocalExecutor<'static>>,
    limits: Limits,
    status: Status,
    reactor: Arc<Reactor>,
    leave: Rc<dyn Fn(Parcel)>,
}

/// An address that was asked for.
#[derive(Debug)]
struct Asked {
    address: String,
    name: Option<String>,
}

/// What can be set, apart from the addresses.
struct Options {
    ready_timeout: Duration,
    drain_timeout: Duration,
    probation: Duration,
    hand_over: bool,
    reuse_port: bool,
    shutdown_delay: Duration,
    state: State,
    preparation: Preparation,
    pid_file: Option<PathBuf>,
    control_socket: Option<PathBuf>,
    pid_one_stub: Option<bool>,
    takeover: bool,
    limits: Limits,
    ready: Option<Ready>,
    on_transition: Box<dyn FnMut(&Transition)>,
}

/// What has to come true before the process is ready.
type Ready =
    Pin<Box<dyn Future<Output = std::result::Result<(), Box<dyn StdError + Send + Sync>>>>>;

impl Server {
    /// Makes a server that answers every request with `handler`.
    ///
    /// The handler is a function from [`Request`](crate::Request) to a future
    /// of `http_types::Result<Response>`; neither has to be `Send`. An error
    /// that it returns becomes a response with the error's status, a panic
    /// becomes a 500; both are logged, and the server goes on.
    ///
    /// The [`Generation`] of the process begins when the server is run, unless
    /// it was begun before and is given to [`Server::generation`].
    pub fn new(handler: impl Handler) -> Self {
        Server::of(Box::new(|setup| {
            let Setup {
                executor,
                limits,
                status,
                reactor,
                leave,
            } = setup;
            let protocol = Protocol::new(handler, limits, status, reactor).leaving_to(leave);
            let protocol = Rc::new(protocol);
            attend(executor, move |parcel| {
                connection::serve(parcel, Rc::clone(&protocol))
            })
        }))
    }

    /// Makes a server that leaves its connections to `handler`, with whatever
    /// protocol that speaks.
    ///
    /// The handler is a function from [`Connection`] to a future; neither has
    /// to be `Send`. An error that it returns is logged at the level `debug`, a
    /// panic as an error; the connection is closed, and the server goes on. Of
    /// the [`Limits`] only [`max_connections`](Limits::max_connections) means
    /// something here.
    ///
    /// # Examples
    ///
    /// See [`Connection::rest`], `examples/tcp_echo.rs`, and
    /// `examples/hyper_app.rs` for another HTTP implementation.
    pub fn raw<H, Fut>(handler: H) -> Self
    where
        H: Fn(Connection) -> Fut + 'static,
        Fut: Future<Output = Served> + 'static,
    {
        Server::of(Box::new(|setup| {
            let shared = Rc::new(raw::Shared {
                handler,
                status: setup.status,
                reactor: setup.reactor,
                leave: setup.leave,
            });
            attend(setup.executor, move |parcel| {
                raw::serve(parcel, Rc::clone(&shared))
            })
        }))
    }

    fn of(service: Service) -> Self {
        Server {
            service,
            generation: None,
            status: Status::new(1),
            addresses: Vec::new(),
            options: Options {
                ready_timeout: Duration::from_secs(30),
                drain_timeout: Duration::from_secs(30),
                probation: Duration::from_millis(500),
                hand_over: true,
                reuse_port: false,
                shutdown_delay: Duration::ZERO,
                state: State::default(),
                preparation: Preparation::default(),
                pid_file: None,
                control_socket: None,
                pid_one_stub: None,
                takeover: false,
                limits: Limits::default(),
                ready: None,
                on_transition: Box::new(|_| {}),
            },
        }
    }

    /// Makes the server part of a generation that was begun earlier.
    pub fn generation(mut self, generation: Generation) -> Self {
        self.status.set_generation(generation.number());
        self.generation = Some(generation);
        self
    }

    /// Adds an address to listen on; may be called many times.
    ///
    /// | form | meaning |
    /// |---|---|
    /// | `127.0.0.1:8000`, `[::1]:8000` | that address |
    /// | `:8000` | every interface, IPv6 and IPv4 |
    /// | `localhost:8000` | the first address of that host that can be bound |
    /// | `unix:/run/api.sock` | a UNIX stream socket; a stale file is replaced, a live one refused |
    /// | `systemd:web` | every listening stream socket that systemd has passed to this service under this name, see [under systemd](crate#under-systemd) |
    ///
    /// Port 0 stands for a port that the system chooses; it stays the same over
    /// restarts. A successor that asks for other addresses than its
    /// predecessor gets them: what is new is bound before the predecessor
    /// stops accepting, and a failure undoes the restart; what is no longer
    /// asked for is closed.
    pub fn listen(mut self, address: impl fmt::Display) -> Self {
        self.addresses.push(Asked {
            address: address.to_string(),
            name: None,
        });
        self
    }

    /// As [`Server::listen`], for an application that treats what comes through
    /// its listeners differently: requests and connections tell the name
    /// ([`Request::listener`](crate::Request::listener),
    /// [`Connection::listener`]), also after a restart. Without a name of its
    /// own a listener is called by its address as it was asked for.
    pub fn listen_as(mut self, name: impl fmt::Display, address: impl fmt::Display) -> Self {
        self.addresses.push(Asked {
            address: address.to_string(),
            name: Some(name.to_string()),
        });
        self
    }

    /// Lets other processes bind the same TCP ports (`SO_REUSEPORT`,
    /// socket(7)): several instances of a service, each on a core of its own,
    /// among which the kernel divides new connections. All of them have to ask
    /// for it, and belong to the same user.
    ///
    /// Each instance is restarted on its own, and loses nothing: its socket,
    /// with the connections that wait in its queue, passes on like any other.
    /// When an instance *stops*, what reaches its queue in the very moment in
    /// which it closes is reset, unless the kernel is told to move it to
    /// another one (`net.ipv4.tcp_migrate_req`, since Linux 5.14).
    pub fn reuse_port(mut self, reuse_port: bool) -> Self {
        self.options.reuse_port = reuse_port;
        self
    }

    /// Something that has to come true before the process is ready, such as a
    /// connection to a data base or a cache that is filled: it is awaited after
    /// the listeners have been opened, and nothing is accepted before.
    ///
    /// In a successor, its predecessor serves meanwhile, and an error or a
    /// passed [`ready_timeout`](Server::ready_timeout) is a failed restart; in
    /// the first process an error ends [`Server::run`].
    pub fn ready_when<F>(mut self, ready: F) -> Self
    where
        F: Future<Output = std::result::Result<(), Box<dyn StdError + Send + Sync>>> + 'static,
    {
        self.options.ready = Some(Box::pin(ready));
        self
    }

    /// How long a successor may take from its start until it is ready; then it
    /// is killed and the restart has failed.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.options.ready_timeout = timeout;
        self
    }

    /// How long requests in flight may take to finish once the process no
    /// longer accepts; then they are cut, and each is named in the log.
    ///
    /// If the service is stopped while a successor is on probation, they may take
    /// until that has said that it stops, five seconds at most.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.options.drain_timeout = timeout;
        self
    }

    /// For how long after a successor took over its loss is undone: the
    /// predecessor accepts again, and connections that were handed over go on
    /// being served by it, except for those on which the successor may have
    /// read a request that it has not answered. It ends when the successor has
    /// published its process ID, for which it has five seconds more; with zero
    /// there is only that.
    ///
    /// The predecessor does not exit, and the successor does not begin a
    /// restart of its own, before the probation is over.
    pub fn probation(mut self, probation: Duration) -> Self {
        self.options.probation = probation;
        self
    }

    /// For how long the service goes on as before when it is told to stop, only
    /// that it is not ready any more ([`Status::is_ready`]); then it drains.
    /// Zero, the default: not at all.
    ///
    /// A load balancer needs some time to notice that it must not send clients
    /// here any more, which a health check tells it that answers by
    /// [`Status::is_ready`]; the delay should be longer than it takes for that
    /// check to fail. A second `SIGTERM` or `SIGINT` begins the drain at once.
    /// A restart by `SIGHUP` is no stop and has no delay.
    pub fn shutdown_delay(mut self, delay: Duration) -> Self {
        self.options.shutdown_delay = delay;
        self
    }

    /// Whether open connections move to a successor of this process: those that
    /// are idle at once, those that are busy after their response. Their
    /// clients do not notice.
    ///
    /// What cannot move is finished here: connections that have been upgraded,
    /// those whose request takes longer than the
    /// [`drain_timeout`](Server::drain_timeout), and those for which the
    /// successor has no room left. Without hand-over all connections are: the
    /// next response on each of them says `Connection: close`, and those that
    /// are idle are closed after a grace ([`Limits::drain_grace`]).
    pub fn hand_over(mut self, hand_over: bool) -> Self {
        self.options.hand_over = hand_over;
        self
    }

    /// Offers state of the application to each successor: what `offer` returns
    /// is given to the successor's [`accept_state`](Server::accept_state).
    ///
    /// It is called when a successor has claimed the listeners, and runs on the
    /// thread that serves. This process goes on serving after that, so the
    /// state is a copy of what may yet change here. It is sent at the pace at
    /// which the successor takes it. If `offer` returns an error or more than
    /// [`max_state_bytes`](Server::max_state_bytes), or panics, the restart has
    /// failed and this process serves on.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// use heirloom::{Response, Server};
    ///
    /// let visits = Rc::new(Cell::new(0_u64));
    /// let (offered, accepted) = (Rc::clone(&visits), Rc::clone(&visits));
    /// Server::new(move |_request| {
    ///     visits.set(visits.get() + 1);
    ///     let answer = format!("You are number {}.\n", visits.get());
    ///     async { Ok(Response::from(answer)) }
    /// })
    /// .offer_state(move || Ok(offered.get().to_be_bytes().to_vec()))
    /// .accept_state(move |bytes| {
    ///     accepted.set(u64::from_be_bytes(bytes.as_slice().try_into()?));
    ///     Ok(())
    /// })
    /// .listen("127.0.0.1:8000")
    /// .run()?;
    /// # Ok::<(), heirloom::Error>(())
    /// ```
    pub fn offer_state(
        mut self,
        offer: impl FnMut() -> std::result::Result<Vec<u8>, Box<dyn StdError + Send + Sync>> + 'static,
    ) -> Self {
        self.options.state.offer = Some(Box::new(offer));
        self
    }

    /// Accepts the state that the predecessor offers, before this process is
    /// ready; not called if there is no predecessor, it offers none, or it dies
    /// before it has sent all of it.
    ///
    /// If `accept` returns an error, or the state cannot be read to its end,
    /// this process gives up, and the predecessor serves on.
    pub fn accept_state(
        mut self,
        accept: impl FnOnce(Vec<u8>) -> std::result::Result<(), Box<dyn StdError + Send + Sync>>
        + 'static,
    ) -> Self {
        self.options.state.accept = Some(Box::new(accept));
        self
    }

    /// How many bytes of state may be offered or accepted.
    pub fn max_state_bytes(mut self, bytes: u64) -> Self {
        self.options.state.max_bytes = bytes;
        self
    }

    /// A file of variables for the environment of a successor, and of the
    /// [`check_command`](Server::check_command): it is read at each restart,
    /// so that a change of it needs nothing but a restart.
    ///
    /// The format is that of systemd's `EnvironmentFile=`: a line each
    /// `NAME=value`; lines that are empty or begin with `#` or `;` do not
    /// count; a value is trimmed, and may be in single quotes, as it is, or in
    /// double quotes, with a backslash before `"`, `\`, `$` and a backtick, and
    /// then go over several lines; a backslash at the end of a line joins it
    /// with the next one. A value is not expanded. What systemd
    /// passes over is a mistake here. At most 256 KiB of UTF-8.
    ///
    /// A file that is missing, cannot be read within the
    /// [`check_timeout`](Server::check_timeout), or has a mistake in it is a
    /// failed restart, whose reason names the file and the line; so is one
    /// that sets `HEIRLOOM_…`, `NOTIFY_SOCKET`, `WATCHDOG_…` or `LISTEN_…`,
    /// which belong to the library and its supervisor.
    ///
    /// # What it does not do
    ///
    /// The environment of the first process is what whoever started it has
    /// made it; a systemd unit would name the same file in `EnvironmentFile=`.
    /// That process reads the file too when it starts, but only to find out
    /// which of its variables come from there; if it cannot, it warns, and
    /// serves. For each later one everything is computed anew: the environment
    /// of the first process without these variables, the file, and then
    /// [`environment`](Server::environment). So a variable that is taken out
    /// of the file is gone after the next restart, and one that the file had
    /// replaced is back. Which file it is, is what the process that is to be
    /// replaced was told, not its successor.
    pub fn environment_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.preparation.environment_file = Some(path.into());
        self
    }

    /// Asks `environment` at each restart which variables are to be set or
    /// removed for the successor, and the
    /// [`check_command`](Server::check_command); its word counts more than
    /// that of the [`environment_file`](Server::environment_file), and like
    /// that of the file only for this one restart.
    ///
    /// The future is polled on the thread that serves, and must not block it:
    /// what does is to be moved elsewhere, for example with `smol::unblock`.
    /// An error, a panic, a passed [`check_timeout`](Server::check_timeout),
    /// or a variable that there cannot be or that is the library's own is a
    /// failed restart.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use heirloom::{Environment, Response, Server};
    ///
    /// Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
    ///     .environment(|| async {
    ///         let token = smol::fs::read_to_string("/run/secrets/token").await?;
    ///         Ok(Environment::new().set("API_TOKEN", token.trim()))
    ///     })
    ///     .listen("127.0.0.1:8000")
    ///     .run()?;
    /// # Ok::<(), heirloom::Error>(())
    /// ```
    pub fn environment<F, Fut>(mut self, environment: F) -> Self
    where
        F: Fn() -> Fut + 'static,
        Fut: Future<Output = std::result::Result<Environment, Box<dyn StdError + Send + Sync>>>
            + 'static,
    {
        let ask = move || environment().boxed_local();
        self.options.preparation.environment = Some(Rc::new(ask));
        self
    }

    /// A command that has to succeed before a successor is started: `program`,
    /// which is looked for in `PATH` if there is no slash in its name, with
    /// `arguments`.
    ///
    /// It runs after each `SIGHUP` (and whatever else asks for a restart) in
    /// the working directory and with the environment that the successor will
    /// have, but for the variables of the library and of the supervisor; with
    /// nothing on its standard input, and in a process group of its own. The
    /// service goes on meanwhile.
    ///
    /// If it exits with another status than 0, dies by a signal, cannot be
    /// started, writes more than 1 MiB, or is not done within the
    /// [`check_timeout`](Server::check_timeout), the restart has failed before
    /// anything was started; the reason, in all places where that of a failed
    /// restart is told, has the last lines of what it wrote to its standard
    /// output and error. It is killed when it takes too long or when the
    /// service is told to stop; and at its end whatever it has started that is
    /// still there.
    ///
    /// The last one that is given counts, of this and
    /// [`check_executable`](Server::check_executable).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use heirloom::{Response, Server};
    ///
    /// Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
    ///     .check_command("/usr/local/bin/check-release", ["--config", "/etc/api.toml"])
    ///     .listen("127.0.0.1:8000")
    ///     .run()?;
    /// # Ok::<(), heirloom::Error>(())
    /// ```
    pub fn check_command<A>(mut self, program: impl Into<OsString>, arguments: A) -> Self
    where
        A: IntoIterator<Item: Into<OsString>>,
    {
        self.options.preparation.check_command = Some(CheckCommand {
            program: Some(program.into()),
            arguments: arguments.into_iter().map(Into::into).collect(),
        });
        self
    }

    /// As [`check_command`](Server::check_command), with the executable that
    /// the successor is to be started from: a new release checks itself, and
    /// the configuration that it finds.
    ///
    /// Its `main` has to know the arguments, and not to serve if it gets them.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use heirloom::{Response, Server};
    ///
    /// # fn read_configuration() -> Result<(), Box<dyn std::error::Error>> { Ok(()) }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// read_configuration()?;
    /// if std::env::args_os().nth(1).is_some_and(|it| it == "--check") {
    ///     return Ok(());
    /// }
    /// Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
    ///     .check_executable(["--check"])
    ///     .listen("127.0.0.1:8000")
    ///     .run()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_executable<A>(mut self, arguments: A) -> Self
    where
        A: IntoIterator<Item: Into<OsString>>,
    {
        self.options.preparation.check_command = Some(CheckCommand {
            program: None,
            arguments: arguments.into_iter().map(Into::into).collect(),
        });
        self
    }

    /// Asks `check` before a successor is started, and after the
    /// [`check_command`](Server::check_command) if there is one. An error is a
    /// failed restart with that reason, and nothing is started; so is a panic,
    /// and a passed [`check_timeout`](Server::check_timeout).
    ///
    /// The future is polled on the thread that serves, and must not block it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use heirloom::{Response, Server};
    ///
    /// Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
    ///     .check(|| async {
    ///         match smol::fs::metadata("/etc/api.frozen").await {
    ///             Ok(_) => Err("/etc/api.frozen exists".into()),
    ///             Err(_) => Ok(()),
    ///         }
    ///     })
    ///     .listen("127.0.0.1:8000")
    ///     .run()?;
    /// # Ok::<(), heirloom::Error>(())
    /// ```
    pub fn check<F, Fut>(mut self, check: F) -> Self
    where
        F: Fn() -> Fut + 'static,
        Fut: Future<Output = std::result::Result<(), Box<dyn StdError + Send + Sync>>> + 'static,
    {
        let ask = move || check().boxed_local();
        self.options.preparation.check = Some(Rc::new(ask));
        self
    }

    /// How long all that comes before the start of a successor may take
    /// together: reading the [`environment_file`](Server::environment_file),
    /// asking for the [`environment`](Server::environment), and the checks.
    /// The [`ready_timeout`](Server::ready_timeout) begins after that.
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.options.preparation.timeout = timeout;
        self
    }

    /// A file that contains the process ID, followed by a newline.
    ///
    /// It is replaced in one step when the probation of a successor is over,
    /// before that is told that it is proven, and removed when the last process
    /// exits. If it cannot be written, the process does not start, or the
    /// restart is undone.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.pid_file = Some(path.into());
        self
    }

    /// A UNIX socket at which the service can be asked how it is, and told to
    /// restart or to stop, and which tells what came of it.
    ///
    /// The command `heirloom` asks there: `heirloom restart --socket PATH`
    /// comes back when the successor serves for good, or with the reason why
    /// it does not.
    ///
    /// The socket is passed down from generation to generation like a
    /// listener, and its file is removed by the last one. A stale file is
    /// replaced; where another process listens, this one does not start, or the
    /// restart fails. Only the user that the service runs as, and root, can ask:
    /// the file has mode 0600, and to others the connection is closed.
    ///
    /// # Protocol
    ///
    /// One request a connection: a JSON object in one line of at most 4 KiB,
    /// within five seconds. The answers are JSON objects, one a line; after the
    /// last one the service closes the connection. Members that are not known
    /// are to be ignored.
    ///
    /// ```text
    /// {"request":"status"}
    ///
    /// {"answer":"status","heirloom":"0.1.0","pid":4711,"generation":2,"state":"serving",
    ///  "proven":true,"listeners":["127.0.0.1:8000"],"connections":{"idle":340,"busy":12},
    ///  "uptime_ms":86400000,"successor":null,
    ///  "last_restart":{"result":"ok","ago_ms":86400000,"took_ms":512,"handed_over":351}}
    /// ```
    ///
    /// (In one line, as all of them.) `state` is the [`Phase`](crate::Phase);
    /// `proven` tells that the probation of this process is over; the last
    /// restart is that which brought it about, or one that it tried in vain:
    /// then its `result` is `failed`, and it has a `reason`.
    ///
    /// ```text
    /// {"request":"restart"}
    ///
    /// {"answer":"progress","restart":{"generation":2,"attempt":1},"state":"forking","successor":null,"handed_over":0,"elapsed_ms":0}
    /// {"answer":"progress","restart":{"generation":2,"attempt":1},"state":"handoff","successor":4712,"handed_over":0,"elapsed_ms":3}
    /// {"answer":"progress","restart":{"generation":2,"attempt":1},"state":"probation","successor":4712,"handed_over":0,"elapsed_ms":4}
    /// {"answer":"restarted","pid":4712,"generation":3,"took_ms":512,"handed_over":351}
    /// ```
    ///
    /// The restart is one that begins after the request; its `state` is
    /// `waiting` as long as another one is under way, and `publishing` when its
    /// probation is over. There may be more lines of progress, or less. The
    /// last answer is one of these:
    ///
    /// | `answer` | meaning |
    /// |---|---|
    /// | `restarted` | the successor serves, is proven, and has what could move to it |
    /// | `failed` | `reason` is the line that is logged about it: `restart failed: …`, `restart undone: …` |
    /// | `superseded` | a successor has taken over and will do it, or has: `ask` is the request to be sent to its `socket` (`null` if it has none) |
    /// | `refused` | `reason` tells why the request was not heard |
    ///
    /// A connection that ends without one of them was that of a process that
    /// was killed; whoever serves then knows the result:
    /// `{"request":"restart","of":{"generation":2,"attempt":1}}` asks for that
    /// of a restart that has begun.
    ///
    /// ```text
    /// {"request":"stop"}
    ///
    /// {"answer":"stopping","pid":4712,"generation":3,"connections":{"idle":340,"busy":12}}
    /// {"answer":"stopped","cut":0}
    /// ```
    ///
    /// It stops as after a `SIGTERM`; asking again does not cut anything short.
    /// `cut` is the number of connections that were open when the deadline of
    /// the drain had passed.
    pub fn control_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.control_socket = Some(path.into());
        self
    }

    /// Whether the first process stays when its successors serve, as a small
    /// stub that follows them, so that the process ID that others know never
    /// changes. It takes a `main` that uses [`run`](crate::run).
    ///
    /// If this is not called, it stays where its end would be taken for that
    /// of the service: as process 1 of a container, and in the foreground of a
    /// terminal unless a supervisor is told which process is the main one
    /// (`NOTIFY_SOCKET`). What the first generation says counts. See
    /// [containers and terminals](crate#in-containers-and-on-terminals).
    pub fn pid_one_stub(mut self, stays: bool) -> Self {
        self.options.pid_one_stub = Some(stays);
        self
    }

    /// Whether a process that was started by somebody else – a new container, a
    /// new unit – may take over from this one, and this one from another, by
    /// way of the [`control_socket`](Server::control_socket).
    ///
    /// A process without a predecessor that finds a live service at the path of
    /// its control socket does not start, by default. With this, and if the
    /// service allows it too, it becomes the successor of that service: it gets
    /// the listeners it asks for, the state, and the open connections, and may
    /// die in its probation like any other. The process that was there exits
    /// when it has nothing in flight any more. The new one counts as the next
    /// generation ([`Status::generation`] tells which), and its
    /// successors are started from its executable.
    ///
    /// It is refused, and [`Server::run`] returns an error that says why, if
    /// one of them does not allow it, they belong to different users or speak
    /// different versions of the handoff protocol, and as long as the service
    /// is on probation, restarting or stopping. Whoever started the new process may
    /// try again. A `SIGHUP` that the service gets during a takeover is
    /// remembered as during a restart. Checks and the environment are not for
    /// processes that somebody else starts.
    ///
    /// # What is different from a restart
    ///
    /// - The new process is not a child, so its exit status is not known, and it
    ///   is not killed if it fails: it is told that it is dismissed, and gives
    ///   up, or, on probation, drains and exits. Only one that hangs on
    ///   probation, or cannot even be told, is killed: it has connections that
    ///   are to be taken back, and would serve beside this process when it
    ///   wakes up.
    /// - Whoever stops the old process means that one: on probation the stop ends
    ///   the probation, and the new one stays. Until the new one is ready, the
    ///   stop wins, and the new one is dismissed.
    /// - Each of them has a supervisor of its own. The old process says
    ///   `STOPPING=1` to its own when the new one is proven, and never names it
    ///   as its main process; the new one says `READY=1` to its own when it
    ///   serves. A supervisor that starts whatever has exited anew
    ///   (`Restart=always`) would make the old process take over again, so it
    ///   must not.
    /// - A first process that [stays](Server::pid_one_stub) for its successors does
    ///   not stay for the new process: it ends with the last generation that
    ///   descends from it, and a stop that it gets is not passed on. Where it is
    ///   process 1 of a PID namespace, its end would be that of everybody there,
    ///   so it refuses, and its successors do. (An init before it, such as tini,
    ///   cannot be told from any other parent.) The new process has a first
    ///   process of its own, which is itself.
    /// - Both have to see the same socket file, under the same path, be of the same user, and be in the
    ///   same PID namespace: the kernel tells each of them who the other one is
    ///   (`SO_PEERCRED`, socket(7)), and has no answer for a process that has no
    ///   number here. Containers share one if they are told to, for example with
    ///   `shareProcessNamespace` in a pod. In which network namespace the new
    ///   process is makes no difference for the listeners and connections that
    ///   it gets: they stay in theirs.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use heirloom::{Response, Server};
    ///
    /// Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
    ///     .listen("127.0.0.1:8000")
    ///     .control_socket("/run/shared/api.control")
    ///     .takeover(true)
    ///     .run()?;
    /// # Ok::<(), heirloom::Error>(())
    /// ```
    pub fn takeover(mut self, takeover: bool) -> Self {
        self.options.takeover = takeover;
        self
    }

    /// Sets limits and timeouts of connections.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// Calls `callback` at every [`Transition`] of the lifecycle, beginning
    /// with the one in which this process starts to serve.
    ///
    /// The callback runs between two events of the server and must not block.
    /// If it panics at the first transition, so does [`Server::run`]; a predecessor
    /// then serves again. A later panic is logged, and the server goes on.
    pub fn on_transition(mut self, callback: impl FnMut(&Transition) + 'static) -> Self {
        self.options.on_transition = Box::new(callback);
        self
    }

    /// A handle that tells the phase of the process, for background tasks;
    /// handlers find it in their request.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Serves on an executor of its own, and returns when the process is to
    /// exit: after a stop, or when a successor has taken over and nothing is
    /// in flight any more.
    ///
    /// A failed restart is not an error: the server goes on, and the failure
    /// is logged and told to [`Server::on_transition`].
    ///
    /// # Errors
    ///
    /// If the service cannot start: the generation cannot be begun
    /// ([`Generation::begin`]), an address cannot be bound, the PID file cannot
    /// be written, signals cannot be caught, or, in a successor, the handoff
    /// fails.
    pub fn run(self) -> Result<()> {
        smol::block_on(self.serve())
    }

    /// As [`Server::run`], inside an executor of the caller.
    ///
    /// Dropping the future stops serving at once and cuts every connection; a
    /// successor that is just starting takes over, as if this process had died.
    ///
    /// # Errors
    ///
    /// As of [`Server::run`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use heirloom::{Response, Server};
    ///
    /// let executor = smol::LocalExecutor::new();
    /// let server = Server::new(|_request| async { Ok(Response::from("Hello, world!\n")) })
    ///     .listen("127.0.0.1:8000");
    /// let serving = executor.spawn(server.serve());
    /// smol::block_on(executor.run(serving))?;
    /// # Ok::<(), heirloom::Error>(())
    /// ```
    pub async fn serve(self) -> Result<()> {
        let Server {
            service,
            generation,
            status,
            addresses,
            options,
        } = self;
        let generation = match generation {
            Some(generation) => generation,
            None => Generation::begin()?,
        };
        status.set_generation(generation.number());
        let executor = Rc::new(LocalExecutor::new());
        let reactor = Reactor::new().map_err(Error::reactor)?;
        let outbox = Rc::new(Outbox::default());
        let leaving = Rc::clone(&outbox);
        let attend = service(Setup {
            executor: Rc::downgrade(&executor),
            limits: options.limits.clone(),
            status: status.clone(),
            reactor: Arc::clone(&reactor),
            leave: Rc::new(move |parcel| leaving.push(parcel)),
        });
        let addresses = parse(&addresses, options.reuse_port);
        executor
            .run(run::run(
                Rc::clone(&executor),
                generation,
                addresses,
                options,
                status,
                run::Traffic {
                    attend,
                    reactor,
                    outbox,
                },
            ))
            .await
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Serves each connection in a task of its own.
fn attend<F>(
    executor: Weak<LocalExecutor<'static>>,
    serve: impl Fn(Parcel) -> F + 'static,
) -> Attend
where
    F: Future<Output = ()> + 'static,
{
    Rc::new(move |parcel| {
        // The executor is gone only when nothing is served any more.
        if let Some(executor) = executor.upgrade() {
            executor.spawn(serve(parcel)).detach();
        }
    })
}

fn parse(addresses: &[Asked], reuse_port: bool) -> Result<Vec<Address>> {
    if addresses.is_empty() {
        return Err(Error::no_listener());
    }
    addresses
        .iter()
        .map(|asked| {
            let address = Address::parse(&asked.address)?.sharing(reuse_port);
            Ok(match &asked.name {
                Some(name) => address.called(name),
                None => address,
            })
        })
        .collect()
}
