//! Where a server listens, and how to get there.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// So many connections have the same address of ours; a port is 16 bits, and
/// the system gives out about 28,000 of them.
const CONNECTIONS_OF_AN_ADDRESS: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Connects; `index` is that of the connection among those to this server.
    ///
    /// Neither this nor a later call takes longer than `patience`, as long as
    /// the socket blocks.
    pub fn connect(&self, index: usize, patience: Duration) -> io::Result<Socket> {
        let family = match self {
            Address::Tcp(_) => AddressFamily::INET,
            Address::Unix(_) => AddressFamily::UNIX,
        };
        let socket =
            rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
        match self {
            Address::Tcp(address) => {
                let group = index / CONNECTIONS_OF_AN_ADDRESS;
                if group > 0 {
                    let group = u8::try_from(group).map_err(io::Error::other)?;
                    let ours = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, group), 0);
                    rustix::net::bind(&socket, &ours)?;
                }
                rustix::net::connect(&socket, address)?;
                sockopt::set_tcp_nodelay(&socket, true)?;
            }
            Address::Unix(path) => rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?,
        }
        Ok(Socket(socket))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Address::Unix(path.into())),
            None => text.parse().map(Address::Tcp),
        }
    }
}

/// A connected stream socket of either family.
pub struct Socket(OwnedFd);

impl Socket {
    pub fn stop_blocking(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, true)?)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
