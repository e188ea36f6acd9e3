//! A real systemd, for one test.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;

use super::process::End;
use super::program::skip;
use super::service::pid_in;
use super::{
    Address, Binary, Client, Config, Log, NotifySocket, PATIENCE, Process, Program, Running,
};

/// Names the root directory of another system, whose systemd is then used
/// instead of this one's; `debootstrap --variant=minbase --include=systemd,procps`
/// makes one. The tests that need a newer systemd say so.
pub(super) const ROOT: &str = "HEIRLOOM_SYSTEMD_ROOT";

/// Where systemd sends its words, in the directory of the test.
const RECORDS: &str = "records";

/// How often it is looked whether a systemd that has just been started is
/// ready or has given up.
const GLANCE: Duration = Duration::from_millis(50);

/// `systemd --user` in PID and mount namespaces and in control groups of its
/// own, as the manager of the units that a test writes.
///
/// When it is dropped, the first process of the namespace is killed, and with
/// it the kernel kills whatever is in there.
pub(crate) struct Systemd {
    /// Dropped by hand, before what it uses.
    namespace: Option<Running>,
    /// The first process in the namespace.
    init: Process,
    dir: TempDir,
    groups: Vec<PathBuf>,
    /// What services write.
    journal: Log,
    /// Keeps the pipe open between two services.
    _journal_pipe: File,
    /// What systemd itself writes.
    log: Log,
}

/// The words of systemd itself, as the socket of a journal gets them.
struct Records {
    socket: UnixDatagram,
}

impl Read for Records {
    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        let mut record = [0; 4096];
        loop {
            // An empty one is the end, and says so.
            let length = self.socket.recv(&mut record)?;
            let record = String::from_utf8_lossy(&record[..length]);
            let message = record
                .lines()
                .find_map(|line| line.strip_prefix("MESSAGE="));
            if let Some(message) = message {
                let line = format!("{message}\n");
                let length = line.len().min(memory.len());
                memory[..length].copy_from_slice(&line.as_bytes()[..length]);
                return Ok(length);
            }
            if length == 0 {
                return Ok(0);
            }
        }
    }
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) is_success: bool,
    pub(crate) output: String,
}

/// A command that runs.
pub(crate) struct Command {
    running: Running,
}

impl Command {
    /// Waits for its end.
    pub(crate) fn finish(self) -> Outcome {
        let (end, written) = self.running.end();
        Outcome {
            is_success: end == End::Exit(0),
            output: written.output + &written.errors,
        }
    }
}

impl Systemd {
    /// Starts one; `None` if that is impossible here, and said.
    ///
    /// It takes the rights of root, for one thing. Whatever the reason, it is
    /// a failure where clients are required.
    pub(crate) fn start() -> Option<Self> {
        const NAME: &str = "systemd";
        let root = env::var_os(ROOT).map(PathBuf::from);
        if root.is_none() {
            Program::find("systemctl")?;
        }
        let unshare = Program::find("unshare")?;
        Program::find("nsenter")?;
        let Some(groups) = new_groups() else {
            skip(NAME, "control groups, and this machine has none");
            return None;
        };
        let dir = TempDir::with_prefix("heirloom-").unwrap();
        fs::create_dir_all(dir.path().join("run")).unwrap();
        fs::create_dir_all(dir.path().join("systemd/user")).unwrap();
        let script = dir.path().join("systemd.sh");
        fs::write(&script, include_str!("systemd.sh")).unwrap();
        let pipe = dir.path().join("journal");
        let journal_pipe = make_pipe(&pipe);
        let journal = Log::default();
        journal.follow(File::open(&pipe).unwrap());

        let log = Log::default();
        let socket = UnixDatagram::bind(dir.path().join(RECORDS)).unwrap();
        log.follow(Records { socket });

        let ready = NotifySocket::without_a_file();
        let namespace = unshare
            .arguments(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arguments(["/bin/sh".as_ref(), script.as_os_str()])
            .arguments([root.unwrap_or_default(), dir.path().to_owned()])
            .arguments(&groups)
            .only_environment(&[
                (
                    "PATH",
                    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                ),
                ("HOME", dir.path().to_str().unwrap()),
                ("XDG_RUNTIME_DIR", dir.path().join("run").to_str().unwrap()),
                ("XDG_CONFIG_HOME", dir.path().to_str().unwrap()),
                ("NOTIFY_SOCKET", ready.name()),
                ("SYSTEMD_LOG_TARGET", "journal"),
                // The test's machine may have control groups of version 1.
                ("SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE", "1"),
            ])
            .start();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if ready
                .next_within(GLANCE)
                .is_some_and(|notice| notice.says("READY=1"))
            {
                break;
            }
            if namespace.has_ended() {
                let reason = namespace.errors().lines_with("").join(", ");
                drop(namespace);
                remove(&groups);
                skip(NAME, &format!("a systemd of its own: {reason}"));
                return None;
            }
            assert!(Instant::now() < deadline, "systemd does not become ready");
        }
        let init = namespace.process().only_child();
        Some(Systemd {
            namespace: Some(namespace),
            init,
            dir,
            groups,
            journal,
            _journal_pipe: journal_pipe,
            log,
        })
    }

    /// Starts one of at least this version; `None` if that is impossible here,
    /// and said.
    pub(crate) fn of_version(version: u32) -> Option<Self> {
        let systemd = Systemd::start()?;
        let output = systemd.run(&["systemctl", "--version"]).output;
        let found = output
            .split_whitespace()
            .nth(1)
            .and_then(|it| it.parse().ok());
        let found: u32 = found.expect("systemd has a version");
        if found < version {
            skip_older(version, found);
            return None;
        }
        Some(systemd)
    }

    /// The directory of this test, which the services see too.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What services have written to standard output and error.
    pub(crate) fn journal(&self) -> &Log {
        &self.journal
    }

    /// What systemd itself has written.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The `api` example as a service: writes its unit and its configuration.
    pub(crate) fn install_api(&self, config: &Config, unit: &str) {
        Binary::api(self.dir().join("api"));
        Binary::command(self.dir().join("heirloom"));
        self.configure(config);
        self.install("api.service", &self.with_journal(unit));
    }

    /// Writes a unit.
    pub(crate) fn install(&self, name: &str, unit: &str) {
        fs::write(self.dir().join("systemd/user").join(name), unit).unwrap();
        self.systemctl(&["daemon-reload"]);
    }

    fn with_journal(&self, unit: &str) -> String {
        let journal = self.dir().join("journal");
        let pipe = format!(
            "[Service]\nStandardOutput=append:{0}\nStandardError=append:{0}\n",
            journal.display()
        );
        unit.replace("[Service]\n", &pipe)
    }

    /// The command that starts the `api` example.
    pub(crate) fn api_command(&self) -> String {
        let dir = self.dir().display();
        format!("{dir}/api --config {dir}/api.toml")
    }

    /// The command that restarts it.
    pub(crate) fn restart_command(&self) -> String {
        let dir = self.dir().display();
        format!("{dir}/heirloom restart --socket {dir}/api.control")
    }

    /// Replaces the configuration file of the `api` example in one step; it has
    /// a control socket.
    pub(crate) fn configure(&self, config: &Config) {
        let fresh = self.dir().join("api.toml.fresh");
        let config = config.clone();
        let config = config.control_socket(&self.dir().join("api.control"));
        fs::write(&fresh, config.to_toml()).unwrap();
        fs::rename(&fresh, self.dir().join("api.toml")).unwrap();
    }

    /// Runs `systemctl`, which must succeed.
    pub(crate) fn systemctl(&self, arguments: &[&str]) -> String {
        let outcome = self.try_systemctl(arguments);
        assert!(outcome.is_success, "systemctl {arguments:?}: {outcome:?}");
        outcome.output
    }

    /// Runs `systemctl`.
    pub(crate) fn try_systemctl(&self, arguments: &[&str]) -> Outcome {
        self.run(&[&["systemctl", "--user"], arguments].concat())
    }

    /// Starts `systemctl`, which may take as long as the test wants.
    pub(crate) fn begin_systemctl(&self, arguments: &[&str]) -> Command {
        self.begin(&[&["systemctl", "--user"], arguments].concat())
    }

    /// Some properties of a unit.
    pub(crate) fn show(&self, unit: &str) -> BTreeMap<String, String> {
        let output = self.systemctl(&["show", unit]);
        let pairs = output.lines().filter_map(|line| line.split_once('='));
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn run(&self, command: &[&str]) -> Outcome {
        self.begin(command).finish()
    }

    fn begin(&self, command: &[&str]) -> Command {
        let nsenter = Program::find("nsenter").expect("it was there before");
        let target = self.init.pid().to_string();
        let nsenter = nsenter.arguments(["--mount", "--pid", "--root", "--target", &target, "--"]);
        let runtime = self.dir().join("run");
        let running = nsenter
            .arguments(["env"])
            .arguments([format!("XDG_RUNTIME_DIR={}", runtime.display())])
            .arguments(command)
            .start();
        Command { running }
    }

    /// The environment with which a process was started, which systemd knows
    /// by this number.
    pub(crate) fn environment_of(&self, pid: i32) -> Vec<String> {
        // A value may have several lines.
        let script = format!("tr '\\0\\n' '\\n\\1' < /proc/{pid}/environ");
        let outcome = self.run(&["/bin/sh", "-c", &script]);
        assert!(outcome.is_success, "{outcome:?}");
        let lines = outcome.output.lines();
        lines.map(|line| line.replace('\u{1}', "\n")).collect()
    }

    /// Waits until generation `number` of the `api` example serves, and says
    /// where.
    pub(crate) fn wait_generation(&self, number: u64) -> Vec<Address> {
        let words = format!("generation {number} is serving on ");
        let line = self.journal.wait_for(&words);
        let (_, addresses) = line.split_once(&words).unwrap();
        addresses
            .split(", ")
            .map(|text| text.parse().unwrap())
            .collect()
    }

    /// Waits until generation `number` of the `api` example has ended, and
    /// systemd has taken note. While it does, it takes a main process that dies
    /// in that moment, and that was not its child when it heard of it, for one
    /// that has ended on purpose.
    pub(crate) fn wait_end_of_generation(&self, number: u64) {
        let words = format!("generation {number} exits ");
        let line = self.journal.wait_for(&words);
        self.init.wait_neighbour_reaped(pid_in(&line));
    }

    /// Waits until generation `number` of the `api` example is the main process.
    pub(crate) fn wait_main_of_generation(&self, number: u64) {
        let serves = self
            .journal
            .wait_for(&format!("generation {number} is serving on "));
        let pid = pid_in(&serves);
        self.journal
            .wait_for(&format!("successor {pid} has passed its probation"));
    }

    /// A new connection to generation `number` of the `api` example.
    pub(crate) fn connect(&self, number: u64) -> Client {
        Client::connect(&self.wait_generation(number)[0]).expect("the service listens")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("what the services wrote:\n{}", self.journal);
            eprintln!("what systemd wrote:\n{}", self.log);
        }
        // Kills the first process of the namespace and waits for its end,
        // which is that of all others.
        drop(self.namespace.take());
        let end = UnixDatagram::unbound().unwrap();
        let _ = end.send_to(&[], self.dir().join(RECORDS));
        remove(&self.groups);
    }
}

fn make_pipe(path: &Path) -> File {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    // In both directions, so that opening it does not wait for anybody.
    File::options().read(true).write(true).open(path).unwrap()
}

/// Says that a test is skipped for want of a newer systemd. That is no failure
/// where clients are required: the distribution has what it has.
fn skip_older(version: u32, found: u32) {
    super::program::say_skipped(&format!("systemd {version} or later, this one is {found}"));
}

/// Where to make control groups for one systemd: in the hierarchy of version 2,
/// and in the one of version 1 that is systemd's; each machine has at least one
/// of them.
fn new_groups() -> Option<Vec<PathBuf>> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("heirloom-{}-{number}", std::process::id());
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let is_right = kind.starts_with("cgroup2 ")
                || (kind.starts_with("cgroup ") && kind.contains("name=systemd"));
            let place = place.split(' ').nth(4)?;
            is_right.then(|| Path::new(place).join(&name))
        })
        .collect();
    (!groups.is_empty()).then_some(groups)
}

/// Removes control groups in which nobody is any more.
fn remove(groups: &[PathBuf]) {
    let deadline = Instant::now() + PATIENCE;
    for group in groups {
        // The kernel may take a moment to notice that they are empty.
        while let Err(error) = remove_group(group) {
            if Instant::now() > deadline {
                eprintln!("{} is left: {error}", group.display());
                break;
            }
            thread::yield_now();
        }
    }
}

fn remove_group(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
