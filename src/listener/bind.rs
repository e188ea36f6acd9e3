//! Opening a listener that no predecessor had.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, ipproto, socket_with, sockopt,
};

use super::address::Resolved;
use super::{Address, Bound, Listener, local_address};
use crate::error::{Error, Result};

/// How many connections may wait to be accepted. The kernel caps it at
/// `net.core.somaxconn`, which is 4096 by default (listen(2)); the 128 of the
/// standard library overflow in any burst.
pub(crate) const BACKLOG: usize = 4096;

/// As many as may wait to be heard on a control socket; whoever comes then
/// waits in `connect`, which costs us nothing.
const CONTROL_BACKLOG: usize = 64;

/// Binds the first address of those that `address` comes down to that can be
/// bound, and listens there.
///
/// # Errors
///
/// If none can be; the error is that of the last one.
pub(super) fn bind(address: &Address, resolved: &Resolved) -> Result<Rc<Listener>> {
    match resolved {
        Resolved::Tcp(candidates) => {
            let mut failure = Errno::ADDRNOTAVAIL;
            for candidate in candidates {
                match bind_tcp(*candidate, address) {
                    Ok(socket) => {
                        let bound = local_address(&socket)
                            .map_err(|cause| Error::bind(address.requested(), cause))?;
                        return Listener::new(address, Bound::Tcp(bound), socket);
                    }
                    Err(error) => failure = error,
                }
            }
            Err(Error::bind(address.requested(), failure))
        }
        Resolved::Unix(path) => {
            let (socket, file) = bind_unix(address, path, Access::Everybody)?;
            let (path, file) = (path.clone(), Some(file));
            Listener::new(address, Bound::Unix { path, file }, socket)
        }
        Resolved::Passed => Err(Error::adopt(
            address.requested(),
            "systemd has passed no such socket to this service",
        )),
    }
}

/// Binds a UNIX socket that nobody but its owner can connect to.
///
/// # Errors
///
/// If it cannot be bound, or if others could connect to it.
pub(super) fn bind_privately(address: &Address, path: &Path) -> Result<Rc<Listener>> {
    let (socket, file) = bind_unix(address, path, Access::Owner)?;
    let path = path.to_owned();
    let file = Some(file);
    Listener::new(address, Bound::Unix { path, file }, socket)
}

/// Who can connect to a UNIX socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Whom the umask and the directory let.
    Everybody,
    Owner,
}

fn bind_tcp(candidate: SocketAddr, address: &Address) -> std::result::Result<OwnedFd, Errno> {
    let family = match candidate {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = open(family, Some(ipproto::TCP))?;
    // Connections of an earlier process that linger in TIME_WAIT must not keep
    // a new one from binding.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_shared() {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if candidate.is_ipv6() && address.is_dual_stack() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    prepare_tcp(&socket)?;
    rustix::net::bind(&socket, &candidate)?;
    rustix::net::listen(&socket, BACKLOG as i32)?;
    Ok(socket)
}

/// Sets what accepted connections are to inherit.
///
/// On Linux that includes `TCP_NODELAY`, so it need not be set on each of
/// them. Responses leave in one send; nothing is gained by waiting for more.
pub(super) fn prepare_tcp(socket: &OwnedFd) -> std::result::Result<(), Errno> {
    sockopt::set_tcp_nodelay(socket, true)
}

fn bind_unix(address: &Address, path: &Path, access: Access) -> Result<(OwnedFd, (u64, u64))> {
    let wrong = |cause: Errno| Error::bind(address.requested(), cause);
    let name = SocketAddrUnix::new(path).map_err(wrong)?;
    let socket = open(AddressFamily::UNIX, None).map_err(wrong)?;
    let backlog = match access {
        Access::Everybody => BACKLOG,
        Access::Owner => {
            // The file gets its mode from the socket, less the umask, when it
            // is made. Not `umask`, which is that of all threads; and not
            // `chmod` afterwards, because until then others could come in.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(wrong)?;
            CONTROL_BACKLOG
        }
    };
    match rustix::net::bind(&socket, &name) {
        Ok(()) => {}
        Err(Errno::ADDRINUSE) => {
            remove_stale(path, &name)?;
            rustix::net::bind(&socket, &name).map_err(wrong)?;
        }
        Err(error) => return Err(wrong(error)),
    }
    let file = file_identity(path)
        .ok_or_else(|| Error::occupied(path, "its socket file was removed at once"))?;
    // Nobody can have connected before this.
    if access == Access::Owner && !is_private(path) {
        let _ = std::fs::remove_file(path);
        return Err(Error::occupied(
            path,
            "its file system lets others connect to it",
        ));
    }
    rustix::net::listen(&socket, backlog as i32).map_err(wrong)?;
    Ok((socket, file))
}

fn is_private(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| file.mode() & 0o077 == 0)
}

/// Removes the file of a socket on which nobody listens any more.
///
/// # Errors
///
/// If somebody listens on it, or if it is not a socket.
fn remove_stale(path: &Path, name: &SocketAddrUnix) -> Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Err(Error::occupied(
            path,
            "there is a file that is not a socket",
        ));
    }
    let probe = open(AddressFamily::UNIX, None)
        .map_err(|cause| Error::bind(&format!("unix:{}", path.display()), cause))?;
    match rustix::net::connect(&probe, name) {
        // Nobody listens (connect(2)); the process that did is gone.
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        // A full queue (AGAIN) belongs to a live one; with any other error
        // nobody knows.
        _ => return Err(Error::occupied(path, "another process listens on it")),
    }
    log::info!("replacing the stale socket file `{}`", path.display());
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(Error::bind(&format!("unix:{}", path.display()), cause))
        }
        _ => Ok(()),
    }
}

fn open(
    family: AddressFamily,
    protocol: Option<rustix::net::Protocol>,
) -> std::result::Result<OwnedFd, Errno> {
    socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        protocol,
    )
}

/// Device and inode of the file at `path` itself.
pub(super) fn file_identity(path: &Path) -> Option<(u64, u64)> {
    let file = std::fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}
