//! Addresses as they are asked for.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How long the path of a UNIX socket may be, in bytes (unix(7); the last of
/// the 108 is a NUL).
const LONGEST_PATH: usize = 107;

/// What the name of a socket that systemd passed stands behind.
pub(super) const PASSED: &str = "systemd:";

/// Something to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// As it was written; what a listener is matched by over restarts.
    requested: String,
    /// What the application calls it.
    name: String,
    /// Whether other processes may bind it, too.
    is_shared: bool,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// An address that needs no look-up.
    Socket(SocketAddr),
    /// A host name and a port.
    Named(String, u16),
    /// Every interface, IPv6 and IPv4.
    Everywhere(u16),
    Unix(PathBuf),
    /// Whatever systemd has passed under this name.
    Passed,
}

/// What an address comes down to.
#[derive(Debug)]
pub(crate) enum Resolved {
    /// Addresses to try in this order; the first that can be bound is it.
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
    /// Not something to bind.
    Passed,
}

impl Address {
    /// Reads `host:port`, `[v6]:port`, `:port`, `unix:path` or `systemd:name`.
    ///
    /// # Errors
    ///
    /// If it is none of these.
    pub(crate) fn parse(requested: &str) -> Result<Self> {
        let wrong = |problem| Error::address(requested, problem);
        let place = if let Some(path) = requested.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(wrong("the path is missing"));
            }
            if path.contains('\0') {
                return Err(wrong("the path contains a NUL"));
            }
            let path = std::path::absolute(Path::new(path))
                .map_err(|_| wrong("the path is relative, and there is no working directory"))?;
            if path.as_os_str().len() > LONGEST_PATH {
                return Err(wrong("the path is longer than 107 bytes"));
            }
            Place::Unix(path)
        } else if let Some(name) = requested.strip_prefix(PASSED) {
            if name.is_empty() {
                return Err(wrong("the name is missing"));
            }
            // It divides the names in LISTEN_FDNAMES.
            if name.contains(':') {
                return Err(wrong("the name contains a colon"));
            }
            Place::Passed
        } else if let Ok(address) = requested.parse() {
            Place::Socket(address)
        } else {
            let (host, port) = requested.rsplit_once(':').ok_or_else(|| {
                wrong("expected `host:port`, `:port`, `unix:path` or `systemd:name`")
            })?;
            let port = port
                .parse()
                .map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
            if host.is_empty() {
                Place::Everywhere(port)
            } else if host.contains([':', '[', ']', '/', ' ', '\0']) {
                return Err(wrong("the host is neither a name nor an IP address"));
            } else {
                Place::Named(host.to_owned(), port)
            }
        };
        Ok(Address {
            requested: requested.to_owned(),
            name: requested.to_owned(),
            is_shared: false,
            place,
        })
    }

    /// Gives it a name of its own.
    pub(crate) fn called(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Whether other processes may bind it, too, if it is a TCP address.
    pub(crate) fn sharing(mut self, is_shared: bool) -> Self {
        self.is_shared = is_shared;
        self
    }

    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A UNIX socket at `path`; with it comes the path as it is bound.
    ///
    /// # Errors
    ///
    /// If there can be no socket of that name, or none that can be told in
    /// JSON.
    pub(crate) fn of_path(path: &Path) -> Result<(Self, PathBuf)> {
        let requested = format!("unix:{}", path.display());
        if path.to_str().is_none() {
            return Err(Error::address(&requested, "the path is not UTF-8"));
        }
        let address = Address::parse(&requested)?;
        match &address.place {
            Place::Unix(path) => {
                let path = path.clone();
                Ok((address, path))
            }
            Place::Socket(_) | Place::Named(..) | Place::Everywhere(_) | Place::Passed => {
                Err(Error::address(&requested, "it is not a path"))
            }
        }
    }

    pub(crate) fn requested(&self) -> &str {
        &self.requested
    }

    /// Finds out what the address comes down to; asks the resolver for a host
    /// name.
    ///
    /// # Errors
    ///
    /// If the host name is not known.
    pub(crate) async fn resolve(&self) -> Result<Resolved> {
        let addresses = match &self.place {
            Place::Socket(address) => vec![*address],
            Place::Everywhere(port) => vec![
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)),
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)),
            ],
            Place::Named(host, port) => async_net::resolve((host.as_str(), *port))
                .await
                .map_err(|cause| Error::bind(&self.requested, cause))?,
            Place::Unix(path) => return Ok(Resolved::Unix(path.clone())),
            Place::Passed => return Ok(Resolved::Passed),
        };
        if addresses.is_empty() {
            return Err(Error::address(
                &self.requested,
                "the host name has no address",
            ));
        }
        Ok(Resolved::Tcp(addresses))
    }

    /// The name of sockets that systemd has passed, if it is one.
    pub(crate) fn passed_name(&self) -> Option<&str> {
        self.requested.strip_prefix(PASSED)
    }

    /// Whether an IPv6 socket for it must take IPv4 connections too, whatever
    /// the system's default is.
    pub(crate) fn is_dual_stack(&self) -> bool {
        matches!(self.place, Place::Everywhere(_))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.requested)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        let place = |text: &str| Address::parse(text).unwrap().place;
        let socket = |text: &str| Place::Socket(text.parse().unwrap());
        assert_eq!(place("127.0.0.1:8000"), socket("127.0.0.1:8000"));
        assert_eq!(place("[::1]:0"), socket("[::1]:0"));
        assert_eq!(place(":80"), Place::Everywhere(80));
        assert_eq!(
            place("localhost:80"),
            Place::Named("localhost".to_owned(), 80)
        );
        assert_eq!(place("unix:/run/x"), Place::Unix("/run/x".into()));
        let relative = std::env::current_dir().unwrap().join("x");
        assert_eq!(place("unix:x"), Place::Unix(relative));
        assert_eq!(place("systemd:api.socket"), Place::Passed);
    }

    #[test]
    fn a_path_is_an_address_if_it_can_be_told() {
        use std::os::unix::ffi::OsStrExt as _;
        let of = |path: &[u8]| Address::of_path(Path::new(std::ffi::OsStr::from_bytes(path)));
        let (address, path) = of(b"/run/x").unwrap();
        assert_eq!(address, Address::parse("unix:/run/x").unwrap());
        assert_eq!(path, Path::new("/run/x"));
        let error = of(b"/run/caf\xe9").unwrap_err().to_string();
        assert!(error.contains("not UTF-8"), "{error}");
        assert!(of(b"").is_err());
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, reason) in [
            ("", "expected"),
            ("8000", "expected"),
            ("host:", "port"),
            ("host:http", "port"),
            ("host:65536", "port"),
            ("::1:80", "host"),
            ("[::1:80", "host"),
            ("http://x:80", "host"),
            ("unix:", "missing"),
            ("unix:/a\0b", "NUL"),
            ("systemd:", "missing"),
            ("systemd:a:80", "colon"),
            (&long, "107"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
            assert!(error.contains(text), "{text:?}: {error}");
        }
    }
}
