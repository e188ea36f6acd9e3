//! The server: what a user configures, and what runs it.

mod accept;
mod adoption;
mod handover;
mod run;
mod state;

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use smol::LocalExecutor;

use crate::connection::{self, Handler, Protocol};
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::limits::Limits;
use crate::listener::Address;
use crate::status::Status;
use crate::transition::Transition;

use self::handover::Outbox;
use self::state::State;

/// An HTTP/1.1 server that `SIGHUP` replaces by a fresh process.
///
/// | signal | what it does |
/// |---|---|
/// | `SIGHUP` | starts a successor from the same executable path, with the same arguments, and drains once that one serves; if it fails, everything stays as it was |
/// | `SIGTERM`, `SIGINT` | stops accepting, lets requests in flight finish, exits; during a restart the unready successor is taken along |
/// | a second `SIGTERM` or `SIGINT` | exits at once |
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
/// | [`ready_timeout`](Server::ready_timeout) | 30 s |
/// | [`drain_timeout`](Server::drain_timeout) | 30 s |
/// | [`probation`](Server::probation) | 500 ms |
/// | [`hand_over`](Server::hand_over) | yes |
/// | [`max_state_bytes`](Server::max_state_bytes) | 64 MiB |
/// | [`pid_file`](Server::pid_file) | none |
/// | [`limits`](Server::limits) | see [`Limits`] |
pub struct Server<H> {
    handler: H,
    /// `None`: it is begun when the server is run.
    generation: Option<Generation>,
    status: Status,
    addresses: Vec<String>,
    options: Options,
}

/// What can be set, apart from the addresses.
struct Options {
    ready_timeout: Duration,
    drain_timeout: Duration,
    probation: Duration,
    hand_over: bool,
    state: State,
    pid_file: Option<PathBuf>,
    limits: Limits,
    on_transition: Box<dyn FnMut(&Transition)>,
}

impl<H: Handler> Server<H> {
    /// Makes a server that answers every request with `handler`.
    ///
    /// The handler is a function from [`Request`](crate::Request) to a future
    /// of `http_types::Result<Response>`; neither has to be `Send`. An error
    /// that it returns becomes a response with the error's status, a panic
    /// becomes a 500; both are logged, and the server goes on.
    ///
    /// The [`Generation`] of the process begins when the server is run, unless
    /// it was begun before and is given to [`Server::generation`].
    pub fn new(handler: H) -> Self {
        Server {
            handler,
            generation: None,
            status: Status::new(1),
            addresses: Vec::new(),
            options: Options {
                ready_timeout: Duration::from_secs(30),
                drain_timeout: Duration::from_secs(30),
                probation: Duration::from_millis(500),
                hand_over: true,
                state: State::default(),
                pid_file: None,
                limits: Limits::default(),
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
    ///
    /// Port 0 stands for a port that the system chooses; it stays the same over
    /// restarts. A successor that asks for other addresses than its
    /// predecessor gets them: what is new is bound before the predecessor
    /// stops accepting, and a failure undoes the restart; what is no longer
    /// asked for is closed.
    pub fn listen(mut self, address: impl fmt::Display) -> Self {
        self.addresses.push(address.to_string());
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
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.options.drain_timeout = timeout;
        self
    }

    /// For how long after a successor took over its loss is undone: the
    /// predecessor accepts again, and connections that were handed over go on
    /// being served by it, except for those on which the successor may have
    /// read a request that it has not answered. Zero turns this off.
    ///
    /// The predecessor does not exit, and the successor does not begin a
    /// restart of its own, before the probation is over.
    pub fn probation(mut self, probation: Duration) -> Self {
        self.options.probation = probation;
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
    /// which the successor takes it. If `offer` returns an error, or more than
    /// [`max_state_bytes`](Server::max_state_bytes), the restart has failed and
    /// this process serves on.
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

    /// A file that contains the process ID, followed by a newline.
    ///
    /// It is replaced in one step when a successor is proven, and removed when
    /// the last process exits.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.pid_file = Some(path.into());
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
            handler,
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
        let outbox = Rc::new(Outbox::default());
        let leaving = Rc::clone(&outbox);
        let protocol = Protocol::new(handler, options.limits.clone(), status.clone());
        let protocol = Rc::new(protocol.leaving_to(move |parcel| leaving.push(parcel)));
        let spawner = Rc::downgrade(&executor);
        let attend: accept::Attend = Rc::new(move |parcel| {
            // The executor is gone only when nothing is served any more.
            if let Some(executor) = spawner.upgrade() {
                executor
                    .spawn(connection::serve(parcel, Rc::clone(&protocol)))
                    .detach();
            }
        });
        let addresses = parse(&addresses);
        executor
            .run(run::run(
                Rc::clone(&executor),
                generation,
                addresses,
                options,
                status,
                attend,
                outbox,
            ))
            .await
    }
}

impl<H> fmt::Debug for Server<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

fn parse(addresses: &[String]) -> Result<Vec<Address>> {
    if addresses.is_empty() {
        return Err(Error::no_listener());
    }
    addresses
        .iter()
        .map(|address| Address::parse(address))
        .collect()
}
