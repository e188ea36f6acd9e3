//! A service: all generations of one program, from its start to its last end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::{LazyLock, Once, PoisonError, RwLockReadGuard, mpsc};
use std::time::Instant;
use std::{env, thread};

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, geteuid, getpid, getrlimit, kill_process_group,
    prlimit, set_child_subreaper, waitpgid,
};
use tempfile::TempDir;

use super::binary::starting_a_process;
use super::log::Place;
use super::process::{End, ON_THE_WAY};
use super::program::{REQUIRED, say_skipped};
use super::systemd::ROOT;
use super::tether::TETHER;
use super::{
    Address, Answer, Binary, Client, Config, Log, NotifySocket, PATIENCE, Process, example,
};

/// Has documents written anew that are otherwise compared with what is seen.
pub(crate) const BLESS: &str = "HEIRLOOM_BLESS";

/// How a service is started.
pub(crate) struct Launch {
    config: Config,
    config_name: OsString,
    dir: TempDir,
    program: PathBuf,
    /// Other arguments than those that name the configuration.
    arguments: Option<Vec<OsString>>,
    binary: Option<Binary>,
    directory: Option<PathBuf>,
    environment: Vec<(String, String)>,
    /// What a shell does before it becomes the program.
    prelude: Option<String>,
    stdin: Stdio,
    /// What starts the program in turn.
    wrapper: Vec<OsString>,
    /// A user other than ours.
    user: Option<u32>,
}

/// The name of the control socket, in the directory of the test.
const CONTROL_SOCKET: &str = "api.control";

impl Launch {
    pub(crate) fn api(config: Config) -> Self {
        Launch {
            config,
            config_name: "api.toml".into(),
            dir: TempDir::with_prefix("heirloom-").unwrap(),
            program: example("api"),
            arguments: None,
            binary: None,
            directory: None,
            environment: Vec::new(),
            prelude: None,
            stdin: Stdio::null(),
            wrapper: Vec::new(),
            user: None,
        }
    }

    /// An example that takes an address to listen at.
    pub(crate) fn example(name: &str, address: &str) -> Self {
        let mut launch = Launch::api(Config::new()).program(example(name));
        launch.arguments = Some(vec![address.into()]);
        launch
    }

    pub(crate) fn no_arguments(mut self) -> Self {
        self.arguments = Some(Vec::new());
        self
    }

    /// Runs a copy of the program that is the test's to damage and replace.
    pub(crate) fn own_binary(mut self) -> Self {
        let binary = Binary::api(self.dir.path().join("api"));
        self.program = binary.path().to_owned();
        self.binary = Some(binary);
        self
    }

    /// Runs the program through a link that is the test's to turn elsewhere.
    pub(crate) fn linked_binary(mut self) -> Self {
        let binary = Binary::link(self.dir.path().join("api"));
        self.program = binary.path().to_owned();
        self.binary = Some(binary);
        self
    }

    /// Runs the program as a user to whom all limits apply, which is nobody if
    /// we are root; `None`, and a word to say so, where that is impossible.
    pub(crate) fn unprivileged(mut self) -> Option<Self> {
        const NOBODY: u32 = 65534;
        if !geteuid().is_root() {
            return Some(self);
        }
        self.user = Some(NOBODY);
        fs::set_permissions(self.dir(), Permissions::from_mode(0o755)).unwrap();
        // It only says how it is used, if it can be run at all.
        let run = Command::new(&self.program)
            .current_dir(self.dir())
            .uid(NOBODY)
            .gid(NOBODY)
            .output();
        if let Err(error) = run {
            say_skipped(&format!(
                "a user nobody who can run {}: {error}",
                self.program.display()
            ));
            return None;
        }
        Some(self)
    }

    pub(crate) fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Names the program like this, relative to the working directory.
    pub(crate) fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    pub(crate) fn config_name(mut self, name: &OsStr) -> Self {
        self.config_name = name.to_owned();
        self
    }

    pub(crate) fn directory(mut self, directory: PathBuf) -> Self {
        self.directory = Some(directory);
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has what happens told to a supervisor.
    pub(crate) fn supervised_by(self, supervisor: &NotifySocket) -> Self {
        self.environment("NOTIFY_SOCKET", supervisor.name())
    }

    /// Has a shell do this before it becomes the program, which then has the
    /// process ID that the shell calls `$$`.
    pub(crate) fn prelude(mut self, commands: &str) -> Self {
        self.prelude = Some(commands.to_owned());
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<OwnedFd>) -> Self {
        self.stdin = Stdio::from(stdin.into());
        self
    }

    /// Where the control socket of the service is, if it has one.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.dir.path().join(CONTROL_SOCKET)
    }

    /// Starts the service with a control socket.
    pub(crate) fn start_controlled(self) -> Service {
        let config = self.config.clone().control_socket(&self.control_socket());
        self.config(config).start()
    }

    /// Runs the program by means of another one.
    pub(crate) fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    /// Makes the files that the service makes accessible for everybody, as far
    /// as that is up to the umask.
    pub(crate) fn open_handed(mut self) -> Self {
        self.wrapper = vec![
            "sh".into(),
            "-c".into(),
            "umask 0; exec \"$0\" \"$@\"".into(),
        ];
        self
    }

    /// The directory of this test, which is removed with the service.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the service and waits until it serves.
    pub(crate) fn start(self) -> Service {
        let service = self.spawn();
        service.wait_generation(1);
        service
    }

    /// Starts the service, which may or may not come to serve.
    pub(crate) fn spawn(self) -> Service {
        let path = self.config_path();
        fs::write(&path, self.config.to_toml()).unwrap();
        self.spawn_as_it_is()
    }

    /// Starts the service and stops it where it reads its configuration.
    pub(crate) fn spawn_held(self) -> (Service, Held) {
        let hold = Hold::put_at(self.config_path());
        let service = self.spawn_as_it_is();
        let held = hold.wait_until_reached();
        (service, held)
    }

    /// Starts the service with this text as its configuration file.
    pub(crate) fn spawn_with(self, text: &str) -> Service {
        fs::write(self.config_path(), text).unwrap();
        self.spawn_as_it_is()
    }

    /// Starts the service with what is there for a configuration file.
    pub(crate) fn spawn_as_it_is(self) -> Service {
        adopt_orphans();
        // Not while the lock below is held: it takes the same one.
        LazyLock::force(&TETHER);
        let config_path = self.config_path();
        let arguments = self.arguments.clone();
        let arguments =
            arguments.unwrap_or_else(|| vec!["--config".into(), config_path.clone().into()]);
        let mut words = self.wrapper;
        if let Some(prelude) = &self.prelude {
            let script = format!("{prelude}; exec \"$0\" \"$@\"");
            words.extend(["/bin/sh", "-c", &script].map(OsString::from));
        }
        words.push(self.program.into_os_string());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(arguments)
            .envs(self.environment)
            .env("RUST_BACKTRACE", "0")
            .stdin(self.stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // All generations are in this group, and nobody else is.
            .process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let mut child = {
            let _lock = starting_a_process();
            command.spawn().expect("the service can be started")
        };
        TETHER.hold(Pid::from_child(&child));
        let service = Service {
            group: Pid::from_child(&child),
            first: Process::open(child.id() as i32),
            log: Log::default(),
            config_path,
            binary: self.binary,
            current: RefCell::new(None),
            few: RefCell::new(None),
            dir: self.dir,
        };
        service.log.follow(child.stdout.take().unwrap());
        service.log.follow(child.stderr.take().unwrap());
        service
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join(&self.config_name)
    }
}

/// A running service.
pub(crate) struct Service {
    /// The process group of all generations, named after the first one, which
    /// is not reaped before the service is dropped: until then the number can
    /// name nobody else.
    group: Pid,
    first: Process,
    log: Log,
    config_path: PathBuf,
    binary: Option<Binary>,
    /// The generation that is known to serve.
    current: RefCell<Option<Rc<Generation>>>,
    /// Held once there are few descriptors.
    few: RefCell<Option<RwLockReadGuard<'static, ()>>>,
    dir: TempDir,
}

struct Generation {
    number: u64,
    process: Rc<Process>,
    addresses: Vec<Address>,
}

impl Service {
    pub(crate) fn start(config: Config) -> Self {
        Launch::api(config).start()
    }

    /// The process group of all generations.
    pub(crate) fn group(&self) -> Pid {
        self.group
    }

    /// The process that was started by the test.
    pub(crate) fn first(&self) -> &Process {
        &self.first
    }

    /// The process that is known to serve.
    pub(crate) fn current(&self) -> Rc<Process> {
        Rc::clone(&self.generation().process)
    }

    fn generation(&self) -> Rc<Generation> {
        self.current
            .borrow()
            .clone()
            .expect("the service has been seen to serve")
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn binary(&self) -> &Binary {
        self.binary
            .as_ref()
            .expect("the service runs a binary of its own")
    }

    /// Where its control socket is, if it has one.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.dir().join(CONTROL_SOCKET)
    }

    /// The directory of this test.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the service listens, in the order of its configuration.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.generation().addresses.clone()
    }

    /// The first address.
    pub(crate) fn address(&self) -> Address {
        self.generation().addresses[0].clone()
    }

    /// A target as clients name it, at the first address.
    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address())
    }

    /// A new connection to the first address.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.address()).expect("the service listens")
    }

    /// Asks on a new connection.
    pub(crate) fn get(&self, target: &str) -> Answer {
        let answer = self.connect().get(target);
        answer.unwrap_or_else(|failure| panic!("GET {target}: {failure:?}"))
    }

    /// Replaces the configuration file in one step.
    pub(crate) fn configure(&self, config: &Config) {
        self.configure_with(&config.to_toml());
    }

    pub(crate) fn configure_with(&self, text: &str) {
        write_anew(&self.config_path, text);
    }

    /// Waits until generation `number` serves, from the beginning of the log.
    pub(crate) fn wait_generation(&self, number: u64) -> Rc<Process> {
        self.wait_generation_after(Place::START, number)
    }

    fn wait_generation_after(&self, place: Place, number: u64) -> Rc<Process> {
        let words = format!("generation {number} is serving on ");
        let line = self.log.wait_for_after(place, &words);
        let (_, addresses) = line.split_once(&words).unwrap();
        let addresses = addresses
            .split(", ")
            .map(|text| text.parse().unwrap())
            .collect();
        let process = Rc::new(Process::open(pid_in(&line)));
        let generation = Generation {
            number,
            process,
            addresses,
        };
        self.current.replace(Some(Rc::new(generation)));
        self.current()
    }

    /// Waits until the one serves that comes after the generation that is known
    /// to serve.
    pub(crate) fn wait_next_generation(&self) -> Rc<Process> {
        self.wait_generation(self.generation().number + 1)
    }

    /// Waits until a restart has come to something; tells whether the next
    /// generation serves.
    pub(crate) fn wait_outcome_after(&self, place: Place) -> bool {
        let next = self.generation().number + 1;
        let success = format!("generation {next} is serving on ");
        let is_success = self.log.wait_until("an outcome", |lines| {
            lines[place.index()..].iter().find_map(|line| {
                let is_success = line.contains(&success);
                (is_success || FailedRestart::is_told_by(line)).then_some(is_success)
            })
        });
        match is_success {
            true => drop(self.wait_next_generation()),
            false => drop(self.wait_failed_restart_after(place)),
        }
        is_success
    }

    /// Waits until the generation that is known to serve says that it is in
    /// this phase.
    pub(crate) fn wait_phase(&self, phase: &str) {
        self.wait_phase_after(Place::START, phase);
    }

    pub(crate) fn wait_phase_after(&self, place: Place, phase: &str) {
        let words = format!("generation {} is {phase}", self.generation().number);
        self.log.wait_for_after(place, &words);
    }

    /// Restarts the service and waits until the successor serves.
    pub(crate) fn restart(&self) -> Rc<Process> {
        let place = self.log.here();
        let generation = self.generation();
        generation.process.hup();
        self.wait_generation_after(place, generation.number + 1)
    }

    /// Restarts the service and waits until the predecessor is gone too.
    pub(crate) fn restart_to_the_end(&self) -> Rc<Process> {
        let predecessor = self.current();
        let successor = self.restart();
        assert_eq!(
            predecessor.wait_exit(),
            End::Exit(0),
            "the end of the predecessor"
        );
        successor
    }

    /// Asks for a restart that fails, and waits for the line that says so and
    /// for the end of the successor that it names.
    pub(crate) fn restart_in_vain(&self) -> FailedRestart {
        let place = self.log.here();
        self.current().hup();
        self.wait_failed_restart_after(place)
    }

    pub(crate) fn wait_failed_restart_after(&self, place: Place) -> FailedRestart {
        let failure = self.wait_told_failure_after(place);
        if let Some(successor) = failure.successor().and_then(Process::open_if_there) {
            successor.wait_reaped();
        }
        failure
    }

    /// The same for a successor that somebody else has started, and may reap.
    pub(crate) fn wait_told_failure_after(&self, place: Place) -> FailedRestart {
        let line = self.log.wait_until("a failed restart", |lines| {
            let mut lines = lines[place.index()..].iter();
            lines.find(|line| FailedRestart::is_told_by(line)).cloned()
        });
        assert_eq!(
            pid_in(&line),
            self.current().pid(),
            "the predecessor tells it: {line}"
        );
        FailedRestart { line }
    }

    /// How many restarts have failed by now.
    pub(crate) fn failed_restarts(&self) -> usize {
        let lines = self.log.lines_with("restart ");
        lines
            .iter()
            .filter(|line| FailedRestart::is_told_by(line))
            .count()
    }

    /// Will stop the next successor where it reads its configuration.
    pub(crate) fn hold_next(&self) -> Hold {
        Hold::put_at(self.config_path.clone())
    }

    /// Asks for a restart and stops the successor where it reads its
    /// configuration.
    pub(crate) fn restart_held(&self) -> Held {
        let place = self.log.here();
        let hold = self.hold_next();
        self.current().hup();
        let held = hold.wait_until_reached();
        self.wait_phase_after(place, "forking");
        held
    }

    /// Checks that the process that served before serves on as if nothing had
    /// happened, and that nothing is left of its successor.
    pub(crate) fn assert_undisturbed(&self) {
        let process = self.current();
        assert_eq!(self.get("/pid").text(), process.pid().to_string());
        assert_eq!(
            process.children(),
            [].into(),
            "children of {}",
            process.pid()
        );
    }

    /// Stops the service and waits until nothing is left of it.
    pub(crate) fn stop(&self) {
        let process = self.current();
        process.term();
        let end = process.wait_exit();
        assert!(
            matches!(end, End::Exit(0) | End::Unknown),
            "the end of the service: {end:?}"
        );
        self.log.wait_for_end();
    }

    /// Checks that the first process exits with status 1 and says all of this
    /// in one line.
    pub(crate) fn assert_gives_up(&self, words: &[&str]) {
        assert_eq!(
            self.first.wait_exit(),
            End::Exit(1),
            "the end of the first process"
        );
        self.log.wait_for_end();
        let lines = self.log.lines_with("");
        let told = lines
            .iter()
            .any(|line| words.iter().all(|words| line.contains(words)));
        assert!(told, "no line contains all of {words:?}");
    }

    /// How many generations have served by now.
    pub(crate) fn generations(&self) -> usize {
        let mut seen: Vec<i32> = self
            .log
            .lines_with(" is serving on ")
            .iter()
            .map(|line| pid_in(line))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    }

    /// The processes of all generations that have not ended.
    pub(crate) fn processes(&self) -> Vec<i32> {
        Process::in_group(self.group)
    }

    /// A connection to the process that serves, when everything that happened
    /// to that process before is done with.
    pub(crate) fn settle(&self) -> Client {
        let mut client = self.connect();
        // If async-io's own thread happens to watch, connections can have up to
        // 200 turns of the executor before anything else is looked at, and each
        // question takes two. Then what has happened is known, and it is done
        // with when the next question is read.
        for _ in 0..102 {
            client.get("/").unwrap();
        }
        client
    }

    /// How many descriptors of each kind the process that serves has, when
    /// everything that happened to it before is done with.
    pub(crate) fn settled_descriptors(&self) -> BTreeMap<String, usize> {
        let client = self.settle();
        let mut descriptors = self.current().kinds_of_descriptors();
        *descriptors.get_mut("socket").unwrap() -= 1;
        drop(client);
        // It has not taken note of that yet.
        self.current().wait_for_descriptors(&descriptors);
        descriptors
    }

    /// Lets the service, and all generations to come, open so many descriptors.
    pub(crate) fn limit_descriptors(&self, number: u64) {
        self.have_few_descriptors();
        self.current().limit_descriptors(number);
    }

    /// Lets the service, and all generations to come, open so many descriptors
    /// more than it has now.
    pub(crate) fn leave_descriptors(&self, more: usize) {
        self.leave_descriptors_to(&self.current(), more);
    }

    /// The same for one process of the service and those that come after it.
    pub(crate) fn leave_descriptors_to(&self, process: &Process, more: usize) {
        self.have_few_descriptors();
        process.leave_descriptors(more);
    }

    fn have_few_descriptors(&self) {
        let lock = || ON_THE_WAY.read().unwrap_or_else(PoisonError::into_inner);
        self.few.borrow_mut().get_or_insert_with(lock);
    }

    /// Lets the service, and all generations to come, have not much more
    /// address space than it has now.
    pub(crate) fn limit_memory_to_now_and(&self, more: u64) {
        // A thread that has just begun still needs some, and has no name yet.
        self.current().wait_for_thread("async-io");
        // And it has more for a moment, when it first allocates (malloc(3)).
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let now = self.current().address_space();
            self.limit(Resource::As, Some(now + more));
            drop(self.settle());
            if self.current().address_space() >= now {
                return;
            }
        }
        panic!("the address space does not come to rest");
    }

    pub(crate) fn lift_memory_limit(&self) {
        self.limit(Resource::As, getrlimit(Resource::As).maximum);
    }

    fn limit(&self, resource: Resource, current: Option<u64>) {
        // The hard limit stays, or else this could not be taken back.
        let maximum = getrlimit(resource).maximum;
        let limit = Rlimit { current, maximum };
        let pid = Pid::from_raw(self.current().pid());
        prlimit(pid, resource, limit).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Killing a group is one act: nobody in it can start another process
        // that gets away.
        let _ = kill_process_group(self.group, Signal::KILL);
        TETHER.release(self.group);
        // Whoever lost its parent has become our child, so this ends when the
        // last process of the group is reaped, and not before.
        while waitpgid(self.group, WaitOptions::empty()).is_ok() {}
        if thread::panicking() {
            eprintln!("the log of the service:\n{}", self.log);
        }
    }
}

/// A failed restart as the log tells it.
#[derive(Debug)]
pub(crate) struct FailedRestart {
    line: String,
}

impl FailedRestart {
    fn is_told_by(line: &str) -> bool {
        line.contains("restart failed: ") || line.contains("restart undone: ")
    }

    /// The pid of the successor, unless it could not even be started.
    pub(crate) fn successor(&self) -> Option<i32> {
        let (_, after) = self.line.split_once("successor ")?;
        after
            .split(|letter: char| !letter.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    }

    /// The line that tells it.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// Checks that the line says this.
    pub(crate) fn assert_says(&self, words: &str) {
        assert!(
            self.line.contains(words),
            "{words:?} is missing: {}",
            self.line
        );
    }
}

/// A configuration file that stops whoever reads it: a FIFO.
///
/// It holds a successor in the state Forking for as long as a test wants,
/// without a clock.
pub(crate) struct Hold {
    fifo: PathBuf,
    config_path: PathBuf,
}

/// A process that waits for its configuration.
pub(crate) struct Held {
    fifo: File,
    config_path: PathBuf,
}

impl Hold {
    fn put_at(config_path: PathBuf) -> Self {
        let fifo = config_path.with_extension("fifo");
        // A test may hold several generations, one after another.
        let _ = fs::remove_file(&fifo);
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        let link = config_path.with_extension("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        fs::rename(&link, &config_path).unwrap();
        Hold { fifo, config_path }
    }

    /// Waits until a process has opened the FIFO.
    pub(crate) fn wait_until_reached(self) -> Held {
        let (done, opened) = mpsc::channel();
        let fifo = self.fifo;
        // Opening a FIFO for writing waits for a reader, and has no deadline.
        thread::spawn(move || done.send(File::options().write(true).open(fifo)));
        let fifo = opened.recv_timeout(PATIENCE);
        let fifo = fifo
            .expect("the successor does not read its configuration")
            .unwrap();
        Held {
            fifo,
            config_path: self.config_path,
        }
    }
}

impl Held {
    /// Gives the process its configuration.
    pub(crate) fn release(self, config: &Config) {
        self.release_with(&config.to_toml());
    }

    /// Gives this process one text, and those that read the file after it
    /// another one.
    pub(crate) fn release_with_then(mut self, text: &str, next: &Config) {
        write_anew(&self.config_path, &next.to_toml());
        self.fifo.write_all(text.as_bytes()).unwrap();
    }

    fn release_with(mut self, text: &str) {
        write_anew(&self.config_path, text);
        self.fifo.write_all(text.as_bytes()).unwrap();
    }
}

fn write_anew(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text).unwrap();
    fs::rename(&fresh, path).unwrap();
}

/// The pid with which each line of the `api` example begins: `api[1234] …`.
pub(crate) fn pid_in(line: &str) -> i32 {
    let pid = line
        .strip_prefix("api[")
        .and_then(|rest| rest.split_once(']'));
    let pid = pid.and_then(|(pid, _)| pid.parse().ok());
    pid.unwrap_or_else(|| panic!("the line names no pid: {line}"))
}

/// Makes orphans of the services our children, so that nobody else's reaper has
/// to be relied on and exit statuses are known in every generation.
pub(super) fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_child_subreaper(Some(getpid())).unwrap();
        for (name, _) in env::vars_os() {
            let is_ours = [REQUIRED, ROOT, BLESS].iter().any(|known| name == *known);
            let strange = name.to_string_lossy().starts_with("HEIRLOOM_") && !is_ours;
            assert!(!strange, "{} must not be set for the tests", name.display());
        }
    });
}
