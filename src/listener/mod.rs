//! Listening sockets: asked for by address, bound or adopted, and passed on.

mod address;
mod bind;
mod record;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use async_io::Async;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

pub(crate) use address::Address;
use address::Resolved;
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
    bound: Bound,
    socket: Async<OwnedFd>,
}

/// Where a listener really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Tcp(SocketAddr),
    Unix {
        path: PathBuf,
        /// Device and inode of the socket's file.
        file: (u64, u64),
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
    fn new(requested: &str, bound: Bound, socket: OwnedFd) -> Result<Rc<Self>> {
        Ok(Rc::new(Listener {
            requested: requested.to_owned(),
            bound,
            socket: Async::new_nonblocking(socket).map_err(Error::reactor)?,
        }))
    }

    pub(crate) fn bound(&self) -> &Bound {
        &self.bound
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

    /// Waits until the queue may hold a connection.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Removes the file of a UNIX socket, unless another has taken its place.
    pub(crate) fn unlink(&self) {
        if let Bound::Unix { path, file } = &self.bound
            && bind::file_identity(path) == Some(*file)
            && let Err(error) = std::fs::remove_file(path)
        {
            log::warn!("could not remove `{}`: {error}", path.display());
        }
    }

    fn record(&self, fd: usize) -> ListenerRecord {
        ListenerRecord {
            name: self.requested.clone(),
            addr: AddressRecord {
                requested: self.requested.clone(),
                bound: self.bound.to_string(),
            },
            fd,
            file: match &self.bound {
                Bound::Tcp(_) => None,
                Bound::Unix { file, .. } => Some(*file),
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
    /// The control socket, which is passed on like the others and not accepted
    /// on like them.
    control: Option<Rc<Listener>>,
}

impl ListenerSet {
    /// Opens a listener for each address: what was claimed from a predecessor
    /// is adopted, the rest bound. What was claimed and is not wanted any more
    /// is closed.
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
        // What was asked for in the same words comes first, so that it does
        // not go to an address that merely means the same.
        let mut taken: Vec<Option<Claimed>> = addresses
            .iter()
            .map(|address| take(&mut claimed, |it| it.requested == address.requested()))
            .collect();
        for (address, taken) in addresses.iter().zip(&mut taken) {
            let mut taken = taken.take();
            let mut resolved = None;
            if taken.is_none() {
                let meant = address.resolve().await?;
                taken = take(&mut claimed, |it| it.is_meant_by(address, &meant));
                resolved = Some(meant);
            }
            let listener = match (taken, resolved) {
                (Some(claimed), _) => {
                    self.adopted.push(claimed.bound.to_string());
                    Listener::new(address.requested(), claimed.bound, claimed.socket)?
                }
                (None, Some(resolved)) => {
                    let listener = bind::bind(address, &resolved)?;
                    self.fresh.push(Rc::clone(&listener));
                    listener
                }
                // Without a claimed one, the address has been resolved.
                (None, None) => continue,
            };
            self.listeners.push(listener);
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
                Listener::new(address.requested(), claimed.bound, claimed.socket)?
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
        self.listeners.len() + usize::from(self.control.is_some())
    }

    /// Takes all listeners out; they close when they are dropped.
    pub(crate) fn take(&mut self) -> Vec<Rc<Listener>> {
        std::mem::take(self).listeners
    }

    /// The listeners as messages carry them, at most `size` at a time; at
    /// least one batch, even if there are none.
    pub(crate) fn batches(
        &self,
        size: usize,
    ) -> impl Iterator<Item = (Vec<ListenerRecord>, Vec<BorrowedFd<'_>>)> {
        let batches = self.len().div_ceil(size).max(1);
        (0..batches).map(move |batch| {
            let for_clients = self.listeners.iter().map(|listener| (listener, false));
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

/// A listener that came from the predecessor and is what it was said to be.
struct Claimed {
    requested: String,
    bound: Bound,
    socket: OwnedFd,
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
        let family = sockopt::socket_domain(&socket).map_err(broken)?;
        let said = record.addr.bound;
        let bound = match (said.strip_prefix("unix:"), record.file) {
            (Some(path), Some(file)) if family == AddressFamily::UNIX => {
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
            bound,
            socket,
        })
    }

    fn is_found_at(&self, wanted: &Path) -> bool {
        match &self.bound {
            Bound::Unix { path, file } => {
                path == wanted && bind::file_identity(path) == Some(*file)
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
            (Bound::Tcp(_), Resolved::Unix(_)) | (Bound::Unix { .. }, Resolved::Tcp(_)) => false,
        }
    }
}

fn take<T>(from: &mut Vec<T>, wanted: impl Fn(&T) -> bool) -> Option<T> {
    let position = from.iter().position(wanted)?;
    Some(from.remove(position))
}

fn local_address(socket: &OwnedFd) -> std::result::Result<SocketAddr, Errno> {
    SocketAddr::try_from(rustix::net::getsockname(socket)?)
}
