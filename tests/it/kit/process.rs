//! One process of a service, seen from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::RwLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, pidfd_open,
    pidfd_send_signal, prlimit, test_kill_process, waitid,
};

use super::{PATIENCE, SLICE};

/// Held for reading by whoever has few descriptors to pass on, and for writing
/// by whoever has many on the way: the system counts those of all processes of
/// a user together (unix(7)), unless that is root.
pub(crate) static ON_THE_WAY: RwLock<()> = RwLock::new(());

/// A process, held by a pidfd: its number may come to name another one, the
/// pidfd never does.
pub(crate) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this exit status.
    Exit(i32),
    /// By this signal.
    Killed(i32),
    /// Its predecessor lives and has taken note of it instead of us, so that we
    /// only know that it ended.
    Unknown,
}

impl Process {
    pub(crate) fn open(pid: i32) -> Self {
        Process::open_if_there(pid).unwrap_or_else(|| panic!("there is no process {pid}"))
    }

    /// `None` if there is no process of this number (any more).
    pub(crate) fn open_if_there(pid: i32) -> Option<Self> {
        let pid = Pid::from_raw(pid).expect("the pid of a process is not 0");
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(Process { pid, pidfd })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(crate) fn hup(&self) {
        self.signal(Signal::HUP);
    }

    pub(crate) fn term(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn int(&self) {
        self.signal(Signal::INT);
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Kills a process that somebody else may have killed.
    pub(crate) fn kill_if_there(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Stops the process where it is, so that what it must find when it goes on
    /// can be prepared without a race.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal)
            .unwrap_or_else(|error| panic!("process {} got no {signal:?}: {error}", self.pid()));
    }

    /// Waits until the process has ended *and* its parent has taken note.
    pub(crate) fn wait_reaped(&self) {
        self.wait_exit();
        let deadline = Instant::now() + PATIENCE;
        // Nothing reports this to a third party, but its moment is near: a
        // parent that waits has been woken.
        while test_kill_process(self.pid).is_ok() {
            assert!(
                Instant::now() < deadline,
                "process {} is not reaped",
                self.pid()
            );
            thread::yield_now();
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        !exits_within(&self.pidfd, Duration::ZERO)
    }

    /// Waits for the end of the process and says what kind it was.
    ///
    /// Orphans of a service become children of ours (see `Service`), so it is
    /// known for every process whose predecessor has exited. The process stays
    /// a zombie until its service is dropped.
    pub(crate) fn wait_exit(&self) -> End {
        let mut left = PATIENCE;
        while !exits_within(&self.pidfd, SLICE) {
            left = left.saturating_sub(SLICE);
            assert!(
                !left.is_zero(),
                "process {} does not exit: {}",
                self.pid(),
                self.state()
            );
        }
        let status = waitid(
            WaitId::PidFd(self.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        match status.ok().flatten() {
            None => End::Unknown,
            Some(status) => match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => End::Exit(status),
                (None, Some(signal)) => End::Killed(signal),
                (None, None) => End::Unknown,
            },
        }
    }

    /// Lets the process, and those that it starts, open so many descriptors.
    pub(super) fn limit_descriptors(&self, number: u64) {
        // The hard limit stays, or else this could not be taken back.
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit {
            current: Some(number.min(maximum.unwrap_or(u64::MAX))),
            maximum,
        };
        prlimit(Some(self.pid), Resource::Nofile, limit).unwrap();
    }

    /// Lets the process, and those that it starts, open so many descriptors
    /// more than it has now.
    pub(super) fn leave_descriptors(&self, more: usize) {
        // What is limited is their numbers.
        let open = self.descriptors();
        let mut free = (0..).filter(|number| !open.contains_key(number));
        self.limit_descriptors(free.nth(more).unwrap().into());
    }

    /// Waits until the process has been stopped where it is.
    pub(crate) fn wait_frozen(&self) {
        let deadline = Instant::now() + PATIENCE;
        // A third party is not told, but its moment is near.
        while Stat::of(self.pid()).is_none_or(|stat| stat.state != 'T') {
            assert!(Instant::now() < deadline, "{} runs on", self.pid());
            thread::yield_now();
        }
    }

    /// The children, zombies included: the pid and the state letter of each.
    pub(crate) fn children(&self) -> BTreeMap<i32, char> {
        all_processes()
            .filter(|(_, stat)| stat.parent == self.pid())
            .map(|(pid, stat)| (pid, stat.state))
            .collect()
    }

    /// The processes of a group that have not ended.
    pub(crate) fn in_group(group: Pid) -> Vec<i32> {
        all_processes()
            .filter(|(_, stat)| stat.group == group.as_raw_nonzero().get() && stat.state != 'Z')
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Waits until the children are as many as that, and none is a zombie.
    pub(crate) fn wait_for_children(&self, number: usize) {
        let deadline = Instant::now() + PATIENCE;
        // No one else is told when a process reaps another.
        loop {
            let children = self.children();
            if children.len() == number && !children.values().any(|state| *state == 'Z') {
                return;
            }
            let pid = self.pid();
            assert!(Instant::now() < deadline, "children of {pid}: {children:?}");
            thread::yield_now();
        }
    }

    /// Waits until the process has become a stub.
    pub(crate) fn wait_stub(&self) {
        let deadline = Instant::now() + PATIENCE;
        let is_mark = |variable: &String| variable.starts_with("HEIRLOOM_STUB=");
        // What the first process has left to it is the last thing that it
        // gives away.
        let is_stub = || {
            self.environment().iter().any(is_mark)
                && self
                    .descriptors()
                    .get(&0)
                    .is_some_and(|kind| kind != "socket")
        };
        // No one is told when a process executes another image.
        while !is_stub() {
            let pid = self.pid();
            assert!(
                Instant::now() < deadline,
                "{pid} is not a stub: {}",
                self.state()
            );
            thread::yield_now();
        }
    }

    /// The number that a process of a namespace has there, if it is one that
    /// is not ours (pid_namespaces(7)).
    pub(crate) fn number_inside(pid: i32) -> Option<i32> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        let mut numbers = numbers.split_whitespace();
        (numbers.next()?.parse() == Ok(pid)).then_some(())?;
        numbers.next()?.parse().ok()
    }

    /// The process that has this number in the namespace of this one.
    pub(crate) fn neighbour(&self, inside: i32) -> Process {
        let found = self.find_neighbour(inside);
        Process::open(found.unwrap_or_else(|| panic!("there is no process {inside} inside")))
    }

    /// Waits until its parent has taken note of its end, too.
    pub(crate) fn wait_neighbour_reaped(&self, inside: i32) {
        let deadline = Instant::now() + PATIENCE;
        // Nobody else is told.
        while self.find_neighbour(inside).is_some() {
            assert!(Instant::now() < deadline, "{inside} inside is not reaped");
            thread::yield_now();
        }
    }

    fn find_neighbour(&self, inside: i32) -> Option<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(self.pid());
        let mut all = all_processes().map(|(pid, _)| pid);
        all.find(|pid| Process::number_inside(*pid) == Some(inside) && namespace(*pid) == ours)
    }

    /// Waits for the only child there will be.
    pub(crate) fn only_child_to_come(&self) -> Process {
        self.wait_for_children(1);
        self.only_child()
    }

    /// The only child there is.
    pub(crate) fn only_child(&self) -> Process {
        let children = self.children();
        assert_eq!(
            children.len(),
            1,
            "children of {}: {children:?}",
            self.pid()
        );
        Process::open(*children.keys().next().unwrap())
    }

    /// What each open descriptor leads to. The numbers of inodes are left out,
    /// because another generation has other sockets of the same kind.
    pub(crate) fn descriptors(&self) -> BTreeMap<u32, String> {
        let links = fs::read_dir(self.path("fd")).expect("the process lives");
        links
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let number = path.file_name()?.to_str()?.parse().ok()?;
                let link = fs::read_link(&path).ok()?.to_string_lossy().into_owned();
                let kind = link
                    .split_once(":[")
                    .map_or(link.as_str(), |(kind, _)| kind);
                Some((number, kind.to_owned()))
            })
            .collect()
    }

    /// How many descriptors there are of each kind.
    pub(crate) fn kinds_of_descriptors(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for kind in self.descriptors().into_values() {
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    /// Waits until there are so many descriptors of each kind.
    pub(crate) fn wait_for_descriptors(&self, kinds: &BTreeMap<String, usize>) {
        self.wait_until_descriptors(kinds, |now| *now == *kinds);
    }

    /// Waits until there are no more descriptors of any kind than these.
    pub(crate) fn wait_for_at_most(&self, kinds: &BTreeMap<String, usize>) {
        self.wait_until_descriptors(kinds, |now| {
            now.iter()
                .all(|(kind, count)| kinds.get(kind).is_some_and(|most| count <= most))
        });
    }

    fn wait_until_descriptors(
        &self,
        kinds: &BTreeMap<String, usize>,
        are_as_wanted: impl Fn(&BTreeMap<String, usize>) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        // No one is told when a process closes a descriptor.
        while !are_as_wanted(&self.kinds_of_descriptors()) {
            assert!(
                Instant::now() < deadline,
                "{} has {:?}, not {kinds:?}",
                self.pid(),
                self.descriptors()
            );
            thread::yield_now();
        }
    }

    /// Waits until the process has a descriptor by which it can see the end of
    /// another one.
    pub(crate) fn wait_until_it_watches(&self, other: &Process) {
        let deadline = Instant::now() + PATIENCE;
        let entry = format!("\nPid:\t{}\n", other.pid());
        let watches = || {
            let descriptors = fs::read_dir(self.path("fdinfo")).expect("the process lives");
            descriptors
                .filter_map(|descriptor| fs::read_to_string(descriptor.ok()?.path()).ok())
                .any(|info| info.contains(&entry))
        };
        // A third party is not told.
        while !watches() {
            assert!(
                self.is_alive() && Instant::now() < deadline,
                "{} does not wait for {}",
                self.pid(),
                other.pid()
            );
            thread::yield_now();
        }
    }

    /// The highest number that a socket has.
    pub(crate) fn highest_socket(&self) -> u32 {
        let descriptors = self.descriptors();
        let mut sockets = descriptors.iter().filter(|(_, kind)| *kind == "socket");
        *sockets.next_back().expect("a service has sockets").0
    }

    /// Where one descriptor leads, with the number of the inode.
    pub(crate) fn descriptor(&self, number: u32) -> PathBuf {
        fs::read_link(self.path(&format!("fd/{number}"))).expect("the descriptor is open")
    }

    pub(crate) fn executable(&self) -> PathBuf {
        fs::read_link(self.path("exe")).expect("the process lives")
    }

    pub(crate) fn directory(&self) -> PathBuf {
        fs::read_link(self.path("cwd")).expect("the process lives")
    }

    pub(crate) fn wait_for_thread(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        let is_it = |task: fs::DirEntry| {
            let found = fs::read_to_string(task.path().join("comm"));
            found.is_ok_and(|found| found.trim() == name)
        };
        while !fs::read_dir(self.path("task"))
            .unwrap()
            .flatten()
            .any(is_it)
        {
            assert!(Instant::now() < deadline, "there is no thread {name}");
            thread::yield_now();
        }
    }

    /// The signals that the thread of this name does not take.
    pub(crate) fn blocked_signals(&self, thread: &str) -> Vec<Signal> {
        let tasks = fs::read_dir(self.path("task")).expect("the process lives");
        let statuses = tasks.flatten().filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            (name.trim() == thread).then_some(status)
        });
        let statuses: Vec<String> = statuses.collect();
        let [status] = &statuses[..] else {
            panic!("{} threads are called {thread}", statuses.len());
        };
        let mut lines = status.lines();
        let mask = lines.find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        (1..=31)
            .filter(|number| mask & (1 << (number - 1)) != 0)
            .filter_map(Signal::from_named_raw)
            .collect()
    }

    /// The arguments, each as the bytes that were given.
    pub(crate) fn arguments(&self) -> Vec<Vec<u8>> {
        self.strings("cmdline")
    }

    /// The name of the program, as far as the kernel keeps it.
    pub(crate) fn name(&self) -> String {
        fs::read_to_string(self.path("comm")).expect("the process lives")
    }

    /// The environment as the process was started with it.
    pub(crate) fn environment(&self) -> BTreeSet<String> {
        let strings = self.strings("environ");
        strings
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect()
    }

    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(self.path("task"))
            .expect("the process lives")
            .count()
    }

    /// The size of the address space, in bytes.
    pub(crate) fn address_space(&self) -> u64 {
        1024 * self.kibibytes("VmSize:")
    }

    /// How much memory the process has that is really there.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.kibibytes("VmRSS:")
    }

    /// How much of that is not of a file.
    pub(crate) fn private_memory_kib(&self) -> u64 {
        self.kibibytes("RssAnon:")
    }

    fn kibibytes(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.path("status")).expect("the process lives");
        let (_, size) = status.split_once(field).unwrap();
        size.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// What each thread is at, for the report of a process that hangs.
    fn state(&self) -> String {
        let threads = fs::read_dir(self.path("task"))
            .into_iter()
            .flatten()
            .flatten();
        let states = threads.map(|thread| {
            let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            let status = read("status");
            let state = status.lines().find(|line| line.starts_with("State:"));
            format!("{} in {}", state.unwrap_or_default(), read("wchan"))
        });
        states.collect::<Vec<_>>().join(", ")
    }

    fn strings(&self, file: &str) -> Vec<Vec<u8>> {
        let bytes = fs::read(self.path(file)).expect("the process lives");
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid()))
    }
}

fn exits_within(pidfd: &OwnedFd, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).unwrap();
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&patience)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("a pidfd cannot be polled: {error}"),
        }
    }
}

fn all_processes() -> impl Iterator<Item = (i32, Stat)> {
    let processes = fs::read_dir("/proc").expect("/proc is there");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, Stat::of(pid)?)))
}

/// What /proc/PID/stat tells (proc_pid_stat(5)).
struct Stat {
    state: char,
    parent: i32,
    group: i32,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program stands in parentheses and may contain
        // anything.
        let (_, after) = stat.rsplit_once(") ")?;
        let mut fields = after.split(' ');
        Some(Stat {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
        })
    }
}
