//! The end of a notify socket that a supervisor has.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred,
};
use tempfile::TempDir;

use super::{PATIENCE, Process};

/// A socket on which a test hears what a service tells its supervisor.
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    name: String,
    /// Holds the socket's file, if it has one.
    _dir: Option<TempDir>,
}

/// What was said in one datagram.
#[derive(Debug)]
pub(crate) struct Notice {
    /// Who said it, as the kernel knows.
    pid: i32,
    lines: Vec<String>,
}

impl NotifySocket {
    /// Bound to a path.
    pub(crate) fn in_a_directory() -> Self {
        let dir = TempDir::with_prefix("heirloom-").unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        NotifySocket::new(socket, path.to_str().unwrap().to_owned(), Some(dir))
    }

    /// Bound to a name that is in no directory.
    pub(crate) fn without_a_file() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("heirloom-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        NotifySocket::new(socket, format!("@{name}"), None)
    }

    fn new(socket: UnixDatagram, name: String, dir: Option<TempDir>) -> Self {
        // It tells who says something, and so does systemd's.
        set_socket_passcred(&socket, true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        NotifySocket {
            socket,
            name,
            _dir: dir,
        }
    }

    /// What `NOTIFY_SOCKET` says for this one.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Fills the socket, so that nobody can say anything before what is in it
    /// has been taken out. Tells how much that is.
    pub(crate) fn fill(&self) -> usize {
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        let address = self.socket.local_addr().unwrap();
        let mut count = 0;
        while filler.send_to_addr(b"FILLER=1", &address).is_ok() {
            count += 1;
        }
        count
    }

    /// Waits for the next datagram that is more than a sign of life.
    pub(crate) fn next(&self) -> Notice {
        loop {
            let notice = self.next_of_any_kind();
            if !notice.is_sign_of_life() {
                return notice;
            }
        }
    }

    /// Waits for the next datagram.
    pub(crate) fn next_of_any_kind(&self) -> Notice {
        let notice = self.receive(RecvFlags::empty());
        notice.expect("the supervisor is told nothing")
    }

    /// Waits for the next datagram from this process, and forgets those from
    /// others.
    pub(crate) fn next_of(&self, process: &Process) -> Notice {
        loop {
            let notice = self.next();
            if notice.pid == process.pid() {
                return notice;
            }
        }
    }

    /// Waits so long for the next datagram.
    pub(super) fn next_within(&self, time: Duration) -> Option<Notice> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let notice = self.receive(RecvFlags::empty());
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        notice
    }

    /// Checks that nothing has come by now but signs of life.
    pub(crate) fn assert_nothing_new(&self) {
        let rest = std::iter::from_fn(|| self.receive(RecvFlags::DONTWAIT));
        let news: Vec<Notice> = rest.filter(|notice| !notice.is_sign_of_life()).collect();
        assert!(news.is_empty(), "{news:?}");
    }

    /// Forgets everything that has come by now, and tells how much that was.
    pub(crate) fn forget(&self) -> usize {
        std::iter::from_fn(|| self.receive(RecvFlags::DONTWAIT)).count()
    }

    /// The next datagram that says something. A barrier does not, and has done
    /// its duty when it is read: the kernel closes its descriptor, which we do
    /// not take.
    fn receive(&self, flags: RecvFlags) -> Option<Notice> {
        loop {
            let notice = self.receive_any(flags)?;
            if !notice.says("BARRIER=1") {
                return Some(notice);
            }
        }
    }

    fn receive_any(&self, flags: RecvFlags) -> Option<Notice> {
        let mut memory = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut memory)],
            &mut control,
            flags,
        );
        let received = match received {
            Err(Errno::AGAIN) => return None,
            received => received.unwrap(),
        };
        let pid = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(who) => Some(who.pid.as_raw_nonzero().get()),
            _ => None,
        });
        let text = std::str::from_utf8(&memory[..received.bytes]).expect("it is text");
        Some(Notice {
            pid: pid.expect("the kernel tells who says something"),
            lines: text.lines().map(str::to_owned).collect(),
        })
    }
}

impl Notice {
    /// Checks that this process has said these things and nothing else, a
    /// status and a time aside.
    pub(crate) fn assert_says(&self, process: &Process, words: &[&str]) -> &Self {
        assert!(
            self.is(words),
            "{self:?} does not say {words:?} and nothing else"
        );
        self.assert_comes_from(process);
        self
    }

    pub(crate) fn assert_comes_from(&self, process: &Process) {
        assert_eq!(self.pid, process.pid(), "who said {self:?}");
    }

    /// Checks that the status contains this.
    pub(crate) fn assert_status(&self, words: &str) -> &Self {
        let status = self.value("STATUS");
        let found = status.is_some_and(|status| status.contains(words));
        assert!(found, "{words:?} is missing in the status of {self:?}");
        self
    }

    /// Whether this is among what was said.
    pub(crate) fn says(&self, words: &str) -> bool {
        self.lines.iter().any(|line| line == words)
    }

    /// Whether anything was said of this.
    pub(crate) fn speaks_of(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Whether this only tells that the process lives, which it does when time
    /// has passed, and so may come in between.
    fn is_sign_of_life(&self) -> bool {
        let signs = ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=15000000"];
        matches!(self.lines.as_slice(), [line] if signs.contains(&line.as_str()))
    }

    pub(crate) fn is(&self, words: &[&str]) -> bool {
        let said = self.lines.iter().map(String::as_str);
        let said: Vec<&str> = said
            .filter(|line| !line.starts_with("STATUS=") && !line.starts_with("MONOTONIC_USEC="))
            .collect();
        said == words
    }

    /// The time of a restart's beginning, in microseconds.
    pub(crate) fn time(&self) -> u64 {
        let time = self.value("MONOTONIC_USEC").and_then(|it| it.parse().ok());
        time.unwrap_or_else(|| panic!("there is no time in {self:?}"))
    }

    fn value(&self, key: &str) -> Option<&str> {
        let mut pairs = self.lines.iter().filter_map(|line| line.split_once('='));
        pairs.find_map(|(found, value)| (found == key).then_some(value))
    }
}
