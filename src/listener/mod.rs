//! Listening sockets: asked for by address, bound or adopted, and passed on.

pub(crate) mod activation;
mod address;
mod bind;
mod record;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use async_io::Async;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

pub(crate) use address::Address;
use address::{PASSED, Resolved};
pub(crate) use bind::BACKLOG;
pub(crate) use record::{AddressRecord, ListenerRecord};

use crate::error::{Error, Result};
use crate::roster::Peer;

/// An open listening socket.
///
/// It stays registered with the reactor until it is dropped; one that nobody
/// polls causes no wake-ups. Dropping it closes our copy of the socket; the
/// socket itself lives on where another process has one.
#[derive(Debug)]
pub(crate) struct Listener {
    /// What was asked for, to the letter; listeners are matched by it.
    requested: String,
    /// What the application calls it.
    name: String,
    /// `systemd:` and what it was called when systemd passed it, if it did. Such
    /// a socket cannot be opened again, whatever it is asked for by in between.
    origin: Option<String>,
    bound: Bound,
    socket: Async<OwnedFd>,
}

/// Where a listener really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Tcp(SocketAddr),
    Unix {
        /// With an `@` in front if it is an abstract name instead.
        path: PathBuf,
        /// Device and inode of the socket's file, if that is ours to remove.
        file: Option<(u64, u64)>,
    },
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Tcp(address) => address.fmt(f),
            Bound::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listener {
    fn new(address: &Address, bound: Bound, socket: OwnedFd) -> Result<Rc<Self>> {
        let (requested, name) = (address.requested(), address.name());
        Listener::called(requested, name, None, bound, socket)
    }

    fn called(
        requested: &str,
        name: &str,
        origin: Option<String>,
        bound: Bound,
        socket: OwnedFd,
    ) -> Result<Rc<Self>> {
        Ok(Rc::new(Listener {
            requested: requested.to_owned(),
            name: name.to_owned(),
            origin,
            bound,
            socket: Async::new_nonblocking(socket).map_err(Error::reactor)?,
        }))
    }

    pub(crate) fn bound(&self) -> &Bound {
        &self.bound
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes the next connection off the queue; `None`: it is empty.
    pub(crate) fn accept(&self) -> io::Result<Option<(OwnedFd, Peer)>> {
        loop {
            let accepted = rustix::net::acceptfrom_with(
                self.socket.get_ref(),
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            );
            match accepted {
                Ok((socket, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    return Ok(Some((socket, peer.map_or(Peer::Unix, Peer::Tcp))));
                }
                Err(Errno::WOULDBLOCK) => return Ok(None),
                // These are errors of that one connection, which is gone
                // already (accept(2)); there may be others behind it.
                Err(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::NETDOWN
                    | Errno::PROTO
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::NETUNREACH,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A descriptor as the next connection would get; `None`: there is none
    /// left.
    pub(crate) fn next_descriptor(&self) -> Option<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(self.socket.get_ref(), 0).ok()
    }

    /// Waits until the queue may hold a connection.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Removes the file of a UNIX socket, unless another has taken its place.
    pub(crate) fn unlink(&self) {
        if let Bound::Unix {
            path,
            file: Some(file),
        } = &self.bound
            && bind::file_identity(path) == Some(*file)
            && let Err(error) = std::fs::remove_file(path)
        {
            log::warn!("could not remove `{}`: {error}", path.display());
        }
    }

    fn record(&self, fd: usize) -> ListenerRecord {
        ListenerRecord {
            name: self.name.clone(),
            origin: self.origin.clone(),
            addr: AddressRecord {
                requested: self.requested.clone(),
                bound: self.bound.to_string(),
            },
            fd,
            file: match &self.bound {
                Bound::Tcp(_) => None,
                Bound::Unix { file, .. } => *file,
            },
            control: false,
        }
    }
}

/// The listeners of a process, in the order they were asked for.
#[derive(Debug, Default)]
pub(crate) struct ListenerSet {
    listeners: Vec<Rc<Listener>>,
    /// Those among them that were bound by this process.
    fresh: Vec<Rc<Listener>>,
    /// Where those among them are bound that came from the predecessor.
    adopted: Vec<String>,
    /// Those that systemd has passed and that are not asked for now. They are
    /// kept for a successor that may ask for them, because nobody could open
    /// them again.
    spare: Vec<Rc<Listener>>,
    /// The control socket, which is passed on like the others and not accepted
    /// on like them.
    control: Option<Rc<Listener>>,
}

impl ListenerSet {
    /// Opens a listener for each address: what was claimed from a predecessor
    /// is adopted, what systemd has passed is taken, the rest is bound. What
    /// was claimed and is not wanted any more is closed.
    ///
    /// # Errors
    ///
    /// If one cannot be opened; the error names the address. Everything opened
    /// so far is closed again.
    pub(crate) async fn open(
        addresses: &[Address],
        claimed: Vec<(ListenerRecord, OwnedFd)>,
    ) -> Result<Self> {
        let mut set = ListenerSet::default();
        match set.fill(addresses, claimed).await {
            Ok(()) => Ok(set),
            Err(error) => {
                set.abandon();
                Err(error)
            }
        }
    }

    async fn fill(
        &mut self,
        addresses: &[Address],
        claimed: Vec<(ListenerRecord, OwnedFd)>,
    ) -> Result<()> {
        let mut claimed = claimed
            .into_iter()
            .map(|(record, socket)| Claimed::verify(record, socket))
            .collect::<Result<Vec<_>>>()?;
        let asked_for = addresses.iter().filter_map(Address::passed_name);
        let asked_for: Vec<&str> = asked_for.collect();
        match activation::take(|name| asked_for.contains(&name)) {
            Ok(passed) => {
                for (name, socket) in passed {
                    claimed.push(Claimed::passed(&name, socket)?);
                }
            }
            Err(error) => match asked_for.first() {
                Some(name) => return Err(Error::adopt(&format!("{PASSED}{name}"), error)),
                None => log::warn!("what systemd has passed cannot be taken: {error}"),
            },
        }
        // What was asked for in the same words comes first, so that it does
        // not go to an address that merely means the same.
        let mut taken: Vec<Vec<Claimed>> = addresses
            .iter()
            .map(|address| match address.passed_name().is_some() {
                true => take_all(&mut claimed, |it| {
                    it.origin.as_deref() == Some(address.requested())
                }),
                false => take(&mut claimed, |it| it.requested == address.requested())
                    .into_iter()
                    .collect(),
            })
            .collect();
        for (address, taken) in addresses.iter().zip(&mut taken) {
            if taken.is_empty() {
                let resolved = address.resolve().await?;
                match take(&mut claimed, |it| it.is_meant_by(address, &resolved)) {
                    Some(claimed) => taken.push(claimed),
                    None => {
                        let listener = bind::bind(address, &resolved)?;
                        self.fresh.push(Rc::clone(&listener));
                        self.listeners.push(listener);
                    }
                }
            }
            for claimed in taken.drain(..) {
                if claimed.is_inherited {
                    self.adopted.push(claimed.bound.to_string());
                }
                let listener = claimed.listener(address.requested(), address.name())?;
                self.listeners.push(listener);
            }
        }
        for claimed in claimed {
            if let Some(origin) = claimed.origin.clone() {
                log::warn!(
                    "{}, which systemd passed as `{}`, is not asked for",
                    claimed.bound,
                    origin.trim_start_matches(PASSED)
                );
                self.spare.push(claimed.listener(&origin, &origin)?);
            }
        }
        Ok(())
    }

    /// Opens the control socket: adopts the one that was claimed, if that is
    /// where it is to be, or binds it for its owner alone.
    ///
    /// # Errors
    ///
    /// As of [`ListenerSet::open`].
    pub(crate) fn open_control(
        &mut self,
        address: &Address,
        path: &Path,
        claimed: Option<(ListenerRecord, OwnedFd)>,
    ) -> Result<Rc<Listener>> {
        let claimed = claimed.map(|(record, socket)| Claimed::verify(record, socket));
        // One whose file is gone can be reached by nobody; a restart mends it.
        let claimed = claimed.transpose()?.filter(|it| it.is_found_at(path));
        let listener = match claimed {
            Some(claimed) => {
                self.adopted.push(claimed.bound.to_string());
                Listener::new(address, claimed.bound, claimed.socket)?
            }
            None => {
                let listener = bind::bind_privately(address, path)?;
                self.fresh.push(Rc::clone(&listener));
                listener
            }
        };
        Ok(Rc::clone(self.control.insert(listener)))
    }

    /// Gives up before anything was accepted: removes the files of UNIX
    /// sockets that were bound by this process.
    pub(crate) fn abandon(&mut self) {
        self.fresh.iter().for_each(|listener| listener.unlink());
        *self = ListenerSet::default();
    }

    /// Where those are bound that came from the predecessor.
    pub(crate) fn adopted(&self) -> &[String] {
        &self.adopted
    }

    /// Where clients are served.
    pub(crate) fn bound(&self) -> Vec<String> {
        let bound = |listener: &Rc<Listener>| listener.bound().to_string();
        self.listeners.iter().map(bound).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rc<Listener>> {
        self.listeners.iter()
    }

    /// How many descriptors there are to be handed over.
    pub(crate) fn len(&self) -> usize {
        self.listeners.len() + self.spare.len() + usize::from(self.control.is_some())
    }

    /// Takes all listeners out; they close when they are dropped.
    pub(crate) fn take(&mut self) -> Vec<Rc<Listener>> {
        std::mem::take(self).listeners
    }

    /// The listeners as messages carry them, those that are spare included, at
    /// most `size` at a time; at least one batch, even if there are none.
    pub(crate) fn batches(
        &self,
        size: usize,
    ) -> impl Iterator<Item = (Vec<ListenerRecord>, Vec<BorrowedFd<'_>>)> {
        let batches = self.len().div_ceil(size).max(1);
        (0..batches).map(move |batch| {
            let for_clients = self.listeners.iter().chain(&self.spare);
            let for_clients = for_clients.map(|listener| (listener, false));
            let for_control = self.control.iter().map(|listener| (listener, true));
            for_clients
                .chain(for_control)
                .skip(batch * size)
                .take(size)
                .enumerate()
                .map(|(fd, (listener, control))| {
                    let record = ListenerRecord {
                        control,
                        ..listener.record(fd)
                    };
                    (record, listener.socket.get_ref().as_fd())
                })
                .unzip()
        })
    }
}

impl fmt::Display for ListenerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, listener) in self.listeners.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", listener.bound)?;
        }
        Ok(())
    }
}

/// A listener that came from the predecessor, or from systemd, and is what it
/// was said to be.
struct Claimed {
    requested: String,
    /// `systemd:` and the name by which systemd passed it, if it did.
    origin: Option<String>,
    bound: Bound,
    socket: OwnedFd,
    /// Whether it came from the predecessor.
    is_inherited: bool,
}

impl Claimed {
    fn verify(record: ListenerRecord, socket: OwnedFd) -> Result<Self> {
        let requested = record.addr.requested;
        let wrong = |problem: String| Error::adopt(&requested, problem);
        let broken = |errno: Errno| wrong(errno.to_string());
        if sockopt::socket_type(&socket).map_err(broken)? != SocketType::STREAM {
            return Err(wrong("it is not a stream socket".to_owned()));
        }
        if !sockopt::socket_acceptconn(&socket).map_err(broken)? {
            return Err(wrong("it does not listen".to_owned()));
        }
        if !rustix::fs::fcntl_getfl(&socket)
            .map_err(broken)?
            .contains(OFlags::NONBLOCK)
        {
            // One call of accept(2) too many would never return. Not set here:
            // the flag is shared with whoever else has the socket.
            return Err(wrong("it is in blocking mode".to_owned()));
        }
        let family = sockopt::socket_domain(&socket).map_err(broken)?;
        let said = record.addr.bound;
        let is_passed = record.origin.is_some();
        let bound = match (said.strip_prefix("unix:"), record.file) {
            (Some(path), file) if family == AddressFamily::UNIX && file.is_some() != is_passed => {
                let path = PathBuf::from(path);
                Bound::Unix { path, file }
            }
            (None, None) if family == AddressFamily::INET || family == AddressFamily::INET6 => {
                bind::prepare_tcp(&socket).map_err(broken)?;
                Bound::Tcp(local_address(&socket).map_err(broken)?)
            }
            _ => return Err(wrong(format!("it is not a socket for `{said}`"))),
        };
        if bound.to_string() != said {
            return Err(wrong(format!("it is bound to `{bound}`, not to `{said}`")));
        }
        Ok(Claimed {
            requested,
            origin: record.origin,
            bound,
            socket,
            is_inherited: true,
        })
    }

    /// A listening stream socket that systemd has passed by this name.
    fn passed(name: &str, socket: OwnedFd) -> Result<Self> {
        let name = format!("{PASSED}{name}");
        let broken = |errno: Errno| Error::adopt(&name, errno);
        let bound = match sockopt::socket_domain(&socket).map_err(broken)? {
            AddressFamily::INET | AddressFamily::INET6 => {
                bind::prepare_tcp(&socket).map_err(broken)?;
                Bound::Tcp(local_address(&socket).map_err(broken)?)
            }
            AddressFamily::UNIX => {
                let address = rustix::net::getsockname(&socket).map_err(broken)?;
                let address = SocketAddrUnix::try_from(address).map_err(broken)?;
                let path = unix_path(&address);
                let path = path.ok_or_else(|| Error::adopt(&name, "it is not bound to a path"))?;
                Bound::Unix { path, file: None }
            }
            _ => return Err(Error::adopt(&name, "it is neither TCP nor UNIX")),
        };
        // systemd passes sockets in blocking mode, unless it is told otherwise.
        rustix::io::ioctl_fionbio(&socket, true).map_err(broken)?;
        Ok(Claimed {
            requested: name.clone(),
            origin: Some(name),
            bound,
            socket,
            is_inherited: false,
        })
    }

    /// Listens on it, as asked for by these words.
    fn listener(self, requested: &str, name: &str) -> Result<Rc<Listener>> {
        Listener::called(requested, name, self.origin, self.bound, self.socket)
    }

    fn is_found_at(&self, wanted: &Path) -> bool {
        match &self.bound {
            Bound::Unix { path, file } => {
                path == wanted && file.is_some() && bind::file_identity(path) == *file
            }
            Bound::Tcp(_) => false,
        }
    }

    fn is_meant_by(&self, address: &Address, resolved: &Resolved) -> bool {
        match (&self.bound, resolved) {
            // Only the first candidate takes both IPv6 and IPv4; a socket for
            // IPv4 alone would quietly leave the others out.
            (Bound::Tcp(bound), Resolved::Tcp(candidates)) if address.is_dual_stack() => {
                candidates.first() == Some(bound)
            }
            (Bound::Tcp(bound), Resolved::Tcp(candidates)) => candidates.contains(bound),
            (Bound::Unix { path, .. }, Resolved::Unix(wanted)) => path == wanted,
            (Bound::Tcp(_), Resolved::Unix(_) | Resolved::Passed)
            | (Bound::Unix { .. }, Resolved::Tcp(_) | Resolved::Passed) => false,
        }
    }
}

fn take<T>(from: &mut Vec<T>, wanted: impl Fn(&T) -> bool) -> Option<T> {
    let position = from.iter().position(wanted)?;
    Some(from.remove(position))
}

fn take_all<T>(from: &mut Vec<T>, wanted: impl Fn(&T) -> bool) -> Vec<T> {
    let (taken, left) = std::mem::take(from).into_iter().partition(wanted);
    *from = left;
    taken
}

/// The path, or an abstract name with an `@` in front.
fn unix_path(address: &SocketAddrUnix) -> Option<PathBuf> {
    let path = match (address.path_bytes(), address.abstract_name()) {
        (Some(path), _) => path.to_vec(),
        (None, Some(name)) => [b"@", name].concat(),
        (None, None) => return None,
    };
    Some(PathBuf::from(OsString::from_vec(path)))
}

fn local_address(socket: &OwnedFd) -> std::result::Result<SocketAddr, Errno> {
    SocketAddr::try_from(rustix::net::getsockname(socket)?)
}
