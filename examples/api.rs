//! A small service with a configuration file, the way one is deployed.
//!
//! # How to try it
//!
//! ```text
//! $ cat > /tmp/api.toml <<END
//! listen = ["127.0.0.1:8000", "unix:/tmp/api.sock"]
//! greeting = "Hello"
//! pid_file = "/tmp/api.pid"
//! control_socket = "/tmp/api.control"
//! END
//! $ cargo run --release --example api -- --config /tmp/api.toml
//!
//! $ # The rest in another terminal.
//! $ curl -i http://127.0.0.1:8000/
//! $ sed -i s/Hello/Goodbye/ /tmp/api.toml
//! $ kill -HUP $(cat /tmp/api.pid)                  # from now on it says Goodbye
//! $ curl -i http://127.0.0.1:8000/
//! $ sed -i s/greeting/greting/ /tmp/api.toml
//! $ kill -HUP $(cat /tmp/api.pid)                  # the log says what is wrong, and who serves on
//! $ sed -i s/greting/greeting/ /tmp/api.toml
//! $ kill -HUP $(cat /tmp/api.pid)                  # works again
//! $ cargo run --release -- restart --socket /tmp/api.control   # the same, and waits for the result
//! $ cargo run --release -- status --socket /tmp/api.control
//! $ kill -TERM $(cat /tmp/api.pid)                 # finishes what is in flight and exits
//! ```
//!
//! # The configuration
//!
//! It is read anew in every generation. A generation that cannot read it says
//! why on standard error and exits with status 1; if it was to be a successor,
//! its predecessor goes on serving.
//!
//! | key | what it means | default |
//! |---|---|---|
//! | `listen` | addresses, `"host:port"`, `"unix:/path"` or `"systemd:NAME"`, at least one | |
//! | `admin` | one address more, of a listener with the name `admin` | none |
//! | `reuse_port` | whether other processes may bind the same ports (`SO_REUSEPORT`) | `false` |
//! | `greeting` | what `GET /` answers | `"Hello, world!"` |
//! | `ready_timeout_ms` | how long a successor may take to become ready | the library's |
//! | `drain_timeout_ms` | how long requests in flight may take when this process goes | the library's |
//! | `probation_ms` | how long a successor is watched before this process goes; 0: not at all | the library's |
//! | `shutdown_delay_ms` | how long to go on after a stop, with `GET /health` failing | 0 |
//! | `hand_over` | whether open connections move to the successor | the library's |
//! | `state_kb` | how much state to leave to the successor, besides what `GET /count` counts | 0 |
//! | `max_state_kb` | how much of it there may be | the library's |
//! | `pid_file` | where to write the pid | none |
//! | `check` | a command that has to succeed before a restart: a program, or `"self"` for the executable of the successor, and its arguments | none |
//! | `check_timeout_ms` | how long it may take, and what else comes before a restart | the library's |
//! | `veto_file` | as long as there is such a file, restarts are refused, for the reason in it | none |
//! | `environment_file` | variables for the environment of a successor, `NAME=value` | none |
//! | `environment` | a table of others; `false` removes one | none |
//! | `control_socket` | where `heirloom status`, `restart` and `stop` reach it | none |
//! | `pid_one_stub` | whether the first process stays, as a stub, when its successors serve | as process 1, and in the foreground of a terminal |
//! | `takeover` | whether a process that somebody else has started may take over by way of the control socket, and this one from another | `false` |
//! | `head_timeout_ms`, `body_timeout_ms`, `write_timeout_ms`, `keep_alive_timeout_ms`, `handler_timeout_ms` | how long a client may take for each | the library's |
//! | `drain_grace_ms` | how long an idle connection is kept that cannot move | the library's |
//! | `max_head_bytes`, `max_body_bytes`, `max_connections` | how much there may be of each | the library's |
//! | `init_ms` | pretend a start-up that takes so long | 0 |
//! | `ready_ms` | the same, without blocking, once the listeners are open | 0 |
//! | `ballast_mb` | touch so much memory at the start | 0 |
//! | `fault` | go wrong on purpose, see below | `"none"` |
//!
//! `api --check --config FILE` only tells whether the file can be read, so
//! `check = ["self", "--check", "--config", "FILE"]` keeps a restart from being
//! tried with a file, or an executable, that is good for nothing. What is said
//! about checks and the environment in the file of a process is about its
//! successor.
//!
//! # Faults
//!
//! They exist to try failed restarts. All but `bad-config` befall successors
//! only: a first process that finds one of them in its file says so and serves,
//! so that a file with a fault can be there from the beginning and every
//! restart fails. `bad-config` fails in any process, the first included, just
//! as a file with a mistake does.
//!
//! - `exit`: exits with status 3 at the start, without a word.
//! - `hang`: never becomes ready.
//! - `bad-config`: takes the configuration for malformed.
//! - `not-ready`: fails when it has waited for `ready_ms`.
//! - `bad-state`: does not accept the state of its predecessor.
//! - `panic-after-ready`: panics as soon as it serves.
//! - `hang-after-ready`: stops itself (`SIGSTOP`) as soon as it serves.
//! - `kill-after-ready`: kills itself 50 ms after it took over.
//!
//! A `[kill]` table makes a process be killed in the middle of a restart, once:
//! `generation = N` names the process that watches its own log, `at = "…"` the
//! record at which it acts, or the end of it (a message of the handoff:
//! ``sending `serve` ``, ``sent `serve` ``, ``received `ready` ``; or an effect
//! of the lifecycle: `performing Spawn`, `performed Spawn`), and `whom = "self"`
//! or `"other"` whether it kills itself or the process that the record names.
//! What such a process logs includes all these records.
//!
//! # Routes
//!
//! | route | answer |
//! |---|---|
//! | `GET /` | the greeting |
//! | `GET /health` | 200, or 503 if no more clients should be sent here |
//! | `GET /pid` | the pid |
//! | `GET /listener` | the name of the listener through which the request came |
//! | `GET /hold?ms=N` | at once, and keeps the process from exiting for N milliseconds |
//! | `GET /count` | how often it has been asked for, over all generations |
//! | `POST /echo` | the body of the request |
//! | `GET /slow?ms=N` | after N milliseconds; with `&say=WORD` that word, and the log says `answering WORD` before |
//! | `GET /stream?n=K` | K lines, of a length that is not known before |
//! | `GET /bytes?n=K` | K bytes, of a length that is |
//! | `GET /empty`, `GET /not-modified` | 204, 304 |
//! | `GET /page` | a page for a browser, which shows who answers |
//! | `GET /ws` | a WebSocket that sends back what it gets, and closes when the service drains |
//! | `GET /error`, `GET /panic` | what the library makes of a handler that fails |
//!
//! `HEAD` is understood wherever `GET` is, except for `/ws`. Every response
//! names in `x-pid` and `x-generation` the process that gave it, except for
//! those to `/error` and `/panic`, which are the library's.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{env, fs, process, thread};

use async_io::Timer;
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use heirloom::http_types::{self, Method};
use heirloom::{
    Body, Environment, Generation, Limits, Phase, Request, Response, Server, Status, StatusCode,
};
use log::{error, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde::Deserialize;
use smol::LocalExecutor;
use smol::future::FutureExt as _;
use smol::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, BufReader};
use smol::stream::StreamExt as _;

fn main() -> ExitCode {
    // The logger comes first so that nothing that happens goes unsaid.
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
    if env::args_os().nth(1).is_some_and(|it| it == "--check") {
        return match Config::from_arguments() {
            Ok(_) => ExitCode::SUCCESS,
            Err(reason) => give_up(&reason),
        };
    }
    match heirloom::run(live) {
        Ok(code) => code,
        Err(error) => give_up(&error),
    }
}

/// The life of one generation.
async fn live(generation: Generation) -> heirloom::Result<ExitCode> {
    let config = match Config::from_arguments() {
        Ok(config) => config,
        Err(reason) => {
            // The operator looks at the log of the process that goes on.
            generation.fail(&reason);
            return Ok(give_up(&reason));
        }
    };
    let is_first = generation.number() == 1;
    Watch::begin(config.kill.clone(), generation.number());
    match config.fault {
        Fault::Exit if !is_first => return Ok(ExitCode::from(3)),
        Fault::Hang if !is_first => loop {
            thread::park();
        },
        Fault::None | Fault::BadConfig => {}
        _ if is_first => {
            warn!("the fault of the configuration is meant for successors: serving");
        }
        _ => {}
    }
    thread::sleep(Duration::from_millis(config.init_ms));
    // Written to, not only allocated: memory that was never touched is not there.
    let _ballast = std::hint::black_box(vec![1_u8; config.ballast_mb << 20]);
    serve(generation, config).await?;
    Ok(ExitCode::SUCCESS)
}

fn give_up(reason: &dyn Display) -> ExitCode {
    error!("giving up: {reason}");
    ExitCode::FAILURE
}

async fn serve(generation: Generation, config: Config) -> heirloom::Result<()> {
    let number = generation.number();
    let later = config.fault;
    let fault = if number > 1 { later } else { Fault::None };
    let limits = config.limits();
    let service = Rc::new(Service {
        greeting: config.greeting,
        count: Cell::new(0),
        // WebSockets outlive the handlers that accept them.
        tasks: LocalExecutor::new(),
    });
    let answering = Rc::clone(&service);
    let offering = Rc::clone(&service);
    let accepting = Rc::clone(&service);
    let padding = config.state_kb << 10;
    let mut server = Server::new(move |request| answer(request, Rc::clone(&answering)))
        .generation(generation)
        .limits(limits)
        .reuse_port(config.reuse_port)
        .takeover(config.takeover)
        .shutdown_delay(Duration::from_millis(config.shutdown_delay_ms))
        .ready_when(async move {
            if config.ready_ms > 0 {
                info!("ready in {} ms", config.ready_ms);
                Timer::after(Duration::from_millis(config.ready_ms)).await;
            }
            match fault {
                Fault::NotReady => Err("the configuration asks for it".into()),
                _ => Ok(()),
            }
        })
        .offer_state(move || {
            let mut state = offering.count.get().to_be_bytes().to_vec();
            state.resize(state.len() + padding, b'x');
            Ok(state)
        })
        .accept_state(move |state| {
            if fault == Fault::BadState {
                return Err("the configuration asks for bad state".into());
            }
            let Some((count, padding)) = state.split_first_chunk() else {
                return Err("it is too short".into());
            };
            accepting.count.set(u64::from_be_bytes(*count));
            info!("taken over: a count, and {} bytes more", padding.len());
            Ok(())
        })
        .on_transition(move |transition| {
            let phase = transition.phase();
            // Not that of the beginning: a takeover makes it a later one.
            let number = transition.generation();
            if let Some(handover) = transition.handover() {
                info!("generation {number} has handed over: {handover}");
                return;
            }
            if phase != Phase::Serving {
                info!("generation {number} is {phase}");
                assert!(later != Fault::PanicAtRestart, "as configured");
                return;
            }
            let addresses: Vec<String> = transition
                .listeners()
                .iter()
                .map(ToString::to_string)
                .collect();
            info!("generation {number} is {phase} on {}", addresses.join(", "));
            if number > 1 {
                go_wrong(later);
            }
        });
    for address in &config.listen {
        server = server.listen(address);
    }
    if let Some(address) = &config.admin {
        server = server.listen_as("admin", address);
    }
    if let Some(timeout) = config.ready_timeout_ms {
        server = server.ready_timeout(Duration::from_millis(timeout));
    }
    if let Some(timeout) = config.drain_timeout_ms {
        server = server.drain_timeout(Duration::from_millis(timeout));
    }
    if let Some(probation) = config.probation_ms {
        server = server.probation(Duration::from_millis(probation));
    }
    if let Some(hand_over) = config.hand_over {
        server = server.hand_over(hand_over);
    }
    if let Some(most) = config.max_state_kb {
        server = server.max_state_bytes(most << 10);
    }
    if let Some(path) = config.pid_file {
        server = server.pid_file(path);
    }
    if let Some(path) = config.control_socket {
        server = server.control_socket(path);
    }
    if let Some(stays) = config.pid_one_stub {
        server = server.pid_one_stub(stays);
    }
    if let Some((program, arguments)) = config.check.split_first() {
        server = match program.as_str() {
            "self" => server.check_executable(arguments),
            program => server.check_command(program, arguments),
        };
    }
    if let Some(timeout) = config.check_timeout_ms {
        server = server.check_timeout(Duration::from_millis(timeout));
    }
    if let Some(path) = config.veto_file {
        server = server.check(move || veto(path.clone()));
    }
    if let Some(path) = config.environment_file {
        server = server.environment_file(path);
    }
    if !config.environment.is_empty() {
        server = server.environment(move || {
            let changes = changes(&config.environment);
            async { changes }
        });
    }
    service.tasks.run(server.serve()).await
}

/// Refuses restarts as long as there is a reason in the file.
async fn veto(path: PathBuf) -> Result<(), Box<dyn StdError + Send + Sync>> {
    match smol::fs::read_to_string(path).await {
        Ok(reason) if reason.trim() == "panic" => panic!("the veto asks for it"),
        Ok(reason) => Err(format!("veto: {}", reason.trim()).into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What the configuration says of the environment of a successor.
fn changes(
    table: &BTreeMap<String, Variable>,
) -> Result<Environment, Box<dyn StdError + Send + Sync>> {
    let mut changes = Environment::new();
    for (name, variable) in table {
        changes = match variable {
            Variable::Value(value) => changes.set(name, value),
            Variable::IsThere(false) => changes.remove(name),
            Variable::IsThere(true) => {
                return Err(format!("`{name}` is to be a string, or false").into());
            }
        };
    }
    Ok(changes)
}

/// What befalls a process that serves.
fn go_wrong(fault: Fault) {
    match fault {
        Fault::PanicAfterReady => panic!("the configuration asks for a panic"),
        Fault::HangAfterReady => signal_to(process::id(), Signal::STOP),
        Fault::KillAfterReady => {
            thread::spawn(|| {
                thread::sleep(Duration::from_millis(50));
                signal_to(process::id(), Signal::KILL);
            });
        }
        Fault::None
        | Fault::Exit
        | Fault::Hang
        | Fault::BadConfig
        | Fault::NotReady
        | Fault::BadState
        | Fault::PanicAtRestart => {}
    }
}

fn signal_to(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may be gone already.
        let _ = kill_process(pid, signal);
    }
}

/// What the handler has at hand.
struct Service {
    greeting: String,
    /// How often `GET /count` has been asked for.
    count: Cell<u64>,
    tasks: LocalExecutor<'static>,
}

/// What the file named by `--config` says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    listen: Vec<String>,
    admin: Option<String>,
    #[serde(default)]
    reuse_port: bool,
    #[serde(default = "default_greeting")]
    greeting: String,
    ready_timeout_ms: Option<u64>,
    drain_timeout_ms: Option<u64>,
    probation_ms: Option<u64>,
    #[serde(default)]
    shutdown_delay_ms: u64,
    hand_over: Option<bool>,
    #[serde(default)]
    state_kb: usize,
    max_state_kb: Option<u64>,
    pid_file: Option<PathBuf>,
    control_socket: Option<PathBuf>,
    pid_one_stub: Option<bool>,
    #[serde(default)]
    takeover: bool,
    #[serde(default)]
    check: Vec<String>,
    check_timeout_ms: Option<u64>,
    veto_file: Option<PathBuf>,
    environment_file: Option<PathBuf>,
    #[serde(default)]
    environment: BTreeMap<String, Variable>,
    head_timeout_ms: Option<u64>,
    body_timeout_ms: Option<u64>,
    write_timeout_ms: Option<u64>,
    keep_alive_timeout_ms: Option<u64>,
    handler_timeout_ms: Option<u64>,
    drain_grace_ms: Option<u64>,
    max_head_bytes: Option<usize>,
    max_body_bytes: Option<u64>,
    max_connections: Option<usize>,
    #[serde(default)]
    init_ms: u64,
    #[serde(default)]
    ready_ms: u64,
    #[serde(default)]
    ballast_mb: usize,
    #[serde(default)]
    fault: Fault,
    kill: Option<Kill>,
}

/// A variable of the environment, or that there is to be none.
#[derive(Deserialize)]
#[serde(untagged)]
enum Variable {
    Value(String),
    IsThere(bool),
}

/// Who is to be killed, and when.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kill {
    generation: u64,
    at: String,
    whom: Whom,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Whom {
    #[serde(rename = "self")]
    Itself,
    Other,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    #[default]
    None,
    Exit,
    Hang,
    BadConfig,
    NotReady,
    BadState,
    PanicAfterReady,
    HangAfterReady,
    KillAfterReady,
    PanicAtRestart,
}

fn default_greeting() -> String {
    "Hello, world!".to_owned()
}

impl Config {
    fn from_arguments() -> Result<Self, String> {
        // Not `env::args`, which panics on a path that is not UTF-8.
        let arguments: Vec<OsString> = env::args_os().skip(1).collect();
        match arguments.as_slice() {
            [flag, path] if flag == "--config" => Config::from_file(Path::new(path)),
            [check, flag, path] if check == "--check" && flag == "--config" => {
                Config::from_file(Path::new(path))
            }
            _ => Err("usage: api [--check] --config FILE".to_owned()),
        }
    }

    fn from_file(path: &Path) -> Result<Self, String> {
        let file = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{file}: {error}"))?;
        let config: Config =
            toml::from_str(&text).map_err(|error| format!("{file}: {}", explain(&error, &text)))?;
        if config.listen.is_empty() {
            return Err(format!("{file}: `listen` names no address"));
        }
        if config.fault == Fault::BadConfig {
            return Err(format!(
                "{file}: `fault` asks for a malformed configuration"
            ));
        }
        Ok(config)
    }

    fn limits(&self) -> Limits {
        fn set<T>(
            limits: Limits,
            value: Option<T>,
            with: impl FnOnce(Limits, T) -> Limits,
        ) -> Limits {
            match value {
                Some(value) => with(limits, value),
                None => limits,
            }
        }
        let time = |milliseconds: Option<u64>| milliseconds.map(Duration::from_millis);
        let mut limits = Limits::default();
        limits = set(limits, time(self.head_timeout_ms), Limits::head_timeout);
        limits = set(limits, time(self.body_timeout_ms), Limits::body_timeout);
        limits = set(limits, time(self.write_timeout_ms), Limits::write_timeout);
        limits = set(
            limits,
            time(self.keep_alive_timeout_ms),
            Limits::keep_alive_timeout,
        );
        limits = set(
            limits,
            time(self.handler_timeout_ms),
            Limits::handler_timeout,
        );
        limits = set(limits, time(self.drain_grace_ms), Limits::drain_grace);
        limits = set(limits, self.max_head_bytes, Limits::max_head_bytes);
        limits = set(limits, self.max_body_bytes, Limits::max_body_bytes);
        set(limits, self.max_connections, Limits::max_connections)
    }
}

/// What is wrong and in which line, in one line itself: the reason of a failed
/// restart ends up in a log.
fn explain(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', ", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message;
    };
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    format!("line {}, `{line}`: {message}", number + 1)
}

async fn answer(mut request: Request, service: Rc<Service>) -> http_types::Result<Response> {
    match request.url().path() {
        "/error" => {
            return Err(http_types::Error::from_str(
                StatusCode::InternalServerError,
                "asked for",
            ));
        }
        "/panic" => panic!("asked for"),
        _ => {}
    }
    // A mistake in a request is an answer too, so that it carries the headers below.
    let mut response = match route(&mut request, &service).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = Response::new(error.status());
            response.set_body(format!("{error}\n"));
            response
        }
    };
    response.insert_header("x-pid", process::id().to_string());
    response.insert_header("x-generation", request.status().generation().to_string());
    Ok(response)
}

async fn route(request: &mut Request, service: &Service) -> http_types::Result<Response> {
    let path = decode(request.url().path())?;
    let allowed = match path.as_str() {
        "/" | "/health" | "/pid" | "/count" | "/listener" | "/hold" | "/slow" | "/stream"
        | "/bytes" | "/empty" | "/not-modified" | "/page" => [Method::Get, Method::Head].as_slice(),
        "/ws" => &[Method::Get],
        "/echo" => &[Method::Post],
        _ => return Err(refuse(StatusCode::NotFound, "there is nothing here")),
    };
    if !allowed.contains(&request.method()) {
        let mut response = Response::new(StatusCode::MethodNotAllowed);
        let names: Vec<&str> = allowed.iter().map(AsRef::as_ref).collect();
        response.insert_header("allow", names.join(", "));
        return Ok(response);
    }
    match path.as_str() {
        "/health" if request.status().is_ready() => Ok("ready\n".into()),
        "/health" => {
            let mut response = Response::new(StatusCode::ServiceUnavailable);
            response.set_body("not ready\n");
            Ok(response)
        }
        "/pid" => Ok(process::id().to_string().into()),
        "/listener" => Ok(request.listener().into()),
        "/hold" => {
            let hold = request.status().hold("GET /hold");
            let pause = Duration::from_millis(number(request, "ms")?);
            let holding = async move {
                Timer::after(pause).await;
                drop(hold);
            };
            service.tasks.spawn(holding).detach();
            Ok("held\n".into())
        }
        "/count" => {
            let count = service.count.get() + 1;
            service.count.set(count);
            Ok(count.to_string().into())
        }
        "/echo" => Ok(request.body_bytes().await?.as_slice().into()),
        "/slow" => {
            let word = parameter(request, "say")?;
            if let Some(word) = &word {
                info!("answering {word}");
            }
            Timer::after(Duration::from_millis(number(request, "ms")?)).await;
            Ok(word.as_deref().unwrap_or("done\n").into())
        }
        "/stream" => {
            let lines = Lines::new(number(request, "n")?);
            let mut response = Response::new(StatusCode::Ok);
            response.set_body(Body::from_reader(lines, None));
            response.set_content_type(http_types::mime::PLAIN);
            Ok(response)
        }
        "/bytes" => {
            let amount = number(request, "n")?;
            let length = usize::try_from(amount)
                .map_err(|_| refuse(StatusCode::BadRequest, "that is more than there can be"))?;
            let bytes = BufReader::new(smol::io::repeat(b'x').take(amount));
            Ok(Body::from_reader(bytes, Some(length)).into())
        }
        "/empty" => Ok(Response::new(StatusCode::NoContent)),
        "/not-modified" => Ok(Response::new(StatusCode::NotModified)),
        "/page" => {
            let mut response = Response::from(PAGE);
            response.set_content_type(http_types::mime::HTML);
            Ok(response)
        }
        "/ws" => web_socket(request, service).await,
        _ => Ok(service.greeting.as_str().into()),
    }
}

/// Agrees to a WebSocket (RFC 6455 section 4.2) and echoes on it.
async fn web_socket(request: &Request, service: &Service) -> http_types::Result<Response> {
    let field = |name| {
        request
            .header(name)
            .map_or("", |values| values.last().as_str())
    };
    if !field("upgrade").eq_ignore_ascii_case("websocket") || field("sec-websocket-version") != "13"
    {
        let mut response = Response::new(StatusCode::UpgradeRequired);
        response.insert_header("upgrade", "websocket");
        response.insert_header("sec-websocket-version", "13");
        return Ok(response);
    }
    let mut response = Response::new(StatusCode::SwitchingProtocols);
    response.insert_header("upgrade", "websocket");
    response.insert_header("connection", "upgrade");
    response.insert_header(
        "sec-websocket-accept",
        derive_accept_key(field("sec-websocket-key").as_bytes()),
    );
    let upgrade = response.recv_upgrade().await;
    let status = request.status().clone();
    service
        .tasks
        .spawn(async move {
            // There is none if the client has gone before it had the response.
            if let Some(connection) = upgrade.await
                && let Err(error) = echo(connection, status).await
            {
                info!("a WebSocket has ended: {error}");
            }
        })
        .detach();
    Ok(response)
}

async fn echo(
    connection: http_types::upgrade::Connection,
    status: Status,
) -> Result<(), async_tungstenite::tungstenite::Error> {
    let mut socket = WebSocketStream::from_raw_socket(connection, Role::Server, None).await;
    loop {
        let received = async { Some(socket.next().await) };
        let drained = async {
            status.draining().await;
            None
        };
        match received.or(drained).await {
            Some(Some(message)) => {
                let message = message?;
                if message.is_text() || message.is_binary() {
                    socket.send(message).await?;
                }
            }
            // The client has closed it.
            Some(None) => return Ok(()),
            None => {
                let farewell = CloseFrame {
                    code: CloseCode::Away,
                    reason: "the service restarts".into(),
                };
                socket.close(Some(farewell)).await?;
                // The client closes too, or the deadline of the drain does.
                while socket.next().await.transpose()?.is_some() {}
                return Ok(());
            }
        }
    }
}

/// Shows which process answers, and when that changes.
const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>heirloom</title>
<style>
  body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 4rem auto; padding: 0 1rem; }
  #generation { font-size: 4rem; font-variant-numeric: tabular-nums; }
</style>
<h1>Generation <span id="generation">…</span></h1>
<p>Process <code id="pid">…</code> answers. Requests so far: <span id="answered">0</span>,
   of which <span id="failed">0</span> failed. Restart the service with
   <code>kill -HUP</code> and watch.</p>
<script>
  const show = (id, text) => { document.getElementById(id).textContent = text; };
  let answered = 0, failed = 0;
  async function ask() {
    try {
      const response = await fetch("/pid", { cache: "no-store" });
      show("pid", await response.text());
      show("generation", response.headers.get("x-generation"));
    } catch { failed += 1; }
    show("answered", answered += 1);
    show("failed", failed);
    setTimeout(ask, 100);
  }
  ask();
</script>
</html>
"#;

fn refuse(status: StatusCode, reason: &'static str) -> http_types::Error {
    http_types::Error::from_str(status, reason)
}

/// The value of a parameter of the query that must be there and be a number.
fn number(request: &Request, name: &str) -> http_types::Result<u64> {
    let wrong = |_| refuse(StatusCode::BadRequest, "the parameter is not a number");
    match parameter(request, name)? {
        Some(value) => value.parse().map_err(wrong),
        None => Err(refuse(
            StatusCode::BadRequest,
            "the query lacks a parameter",
        )),
    }
}

/// The value of a parameter of the query.
fn parameter(request: &Request, name: &str) -> http_types::Result<Option<String>> {
    for parameter in request.url().query().unwrap_or_default().split('&') {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if decode(key)? == name {
            return decode(value).map(Some);
        }
    }
    Ok(None)
}

/// Undoes the percent-encoding of a path or of one part of a query.
fn decode(text: &str) -> http_types::Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| {
            after
                .get(at)
                .and_then(|&byte| char::from(byte).to_digit(16))
        };
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(refuse(
                StatusCode::BadRequest,
                "a percent sign needs two hexadecimal digits",
            ));
        };
        bytes.push((high * 16 + low) as u8);
        rest = &after[2..];
    }
    let wrong = |_| refuse(StatusCode::BadRequest, "the target is not UTF-8");
    String::from_utf8(bytes).map_err(wrong)
}

/// A body of numbered lines, made while it is read: its length is unknown, and
/// a reader that is slow holds it up.
struct Lines {
    made: u64,
    wanted: u64,
    line: Vec<u8>,
    /// How much of `line` has been read.
    read: usize,
}

impl Lines {
    fn new(wanted: u64) -> Self {
        Lines {
            made: 0,
            wanted,
            line: Vec::new(),
            read: 0,
        }
    }
}

impl AsyncBufRead for Lines {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let lines = self.get_mut();
        if lines.read == lines.line.len() && lines.made < lines.wanted {
            lines.made += 1;
            lines.line = format!("line {}\n", lines.made).into_bytes();
            lines.read = 0;
        }
        Poll::Ready(Ok(&lines.line[lines.read..]))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        self.get_mut().read += amount;
    }
}

impl AsyncRead for Lines {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(line) = self.as_mut().poll_fill_buf(cx)? else {
            return Poll::Pending;
        };
        let amount = line.len().min(buffer.len());
        buffer[..amount].copy_from_slice(&line[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(amount))
    }
}

/// What the log is watched for.
static WATCH: Mutex<Watch> = Mutex::new(Watch::Undecided(Vec::new()));

enum Watch {
    /// The configuration has not been read; these are the records so far that
    /// are written only if it asks for a kill.
    Undecided(Vec<String>),
    For(Kill),
    /// Nothing any more; but whoever asks for a kill wants to know what
    /// follows.
    Over,
}

impl Watch {
    /// Takes note of the configuration of this generation.
    fn begin(kill: Option<Kill>, generation: u64) {
        let early = Watch::Undecided(Vec::new());
        let early = std::mem::replace(&mut *lock(&WATCH), early);
        match kill {
            Some(kill) if kill.generation == generation => *lock(&WATCH) = Watch::For(kill),
            _ => return log::set_max_level(log::LevelFilter::Info),
        }
        if let Watch::Undecided(early) = early {
            for text in early {
                Stderr::write(log::Level::Trace, &text);
                Watch::look_at(&text);
            }
        }
    }

    fn look_at(text: &str) {
        let mut watch = lock(&WATCH);
        match &*watch {
            Watch::For(kill) if text.ends_with(&kill.at) => {
                let whom = kill.whom;
                *watch = Watch::Over;
                // Nobody else logs anything meanwhile.
                whom.kill(text);
            }
            Watch::For(_) | Watch::Undecided(_) | Watch::Over => {}
        }
    }
}

impl Whom {
    /// Kills at a record; returns when the process is dead.
    fn kill(self, text: &str) {
        let named = || text.split(':').next()?.rsplit(' ').next()?.parse().ok();
        let pid = match self {
            Whom::Itself => i32::try_from(process::id()).ok(),
            Whom::Other => named(),
        };
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            return;
        };
        Stderr::write(log::Level::Warn, &format!("killing {pid} at \"{text}\""));
        // A signal alone comes at some time, and the other process may say
        // and do more until then.
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
        {
            let patience = Timespec {
                tv_sec: 5,
                tv_nsec: 0,
            };
            let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes each record as a line that begins with the pid.
struct Stderr;

impl Stderr {
    fn write(level: log::Level, text: &str) {
        let line = format!("api[{}] {level} {text}\n", process::id());
        // One write, so that lines of two generations do not mix. A terminal
        // that has gone away is no reason to stop serving.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("heirloom") || metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        if record.level() > log::Level::Info
            && let Watch::Undecided(early) = &mut *lock(&WATCH)
        {
            return early.push(text);
        }
        Stderr::write(record.level(), &text);
        Watch::look_at(&text);
    }

    fn flush(&self) {}
}
