//! What the servers have in common: their configuration, the faults they can
//! be told to have, and what they answer.

pub mod http;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use std::{env, fs, process, thread};

use anyhow::{Context, bail};

/// How long a process may go on serving what is open when it has to go.
pub const DRAIN: Duration = Duration::from_secs(5);

/// How many connections may wait to be accepted. The default of std is so short
/// that clients that all come at once would be measured waiting for the kernel
/// to try again.
pub const BACKLOG: i32 = 1024;

/// How long a process that is to die serves before.
const LIFE: Duration = Duration::from_millis(50);

/// What this process was told.
pub struct Peer {
    pub address: SocketAddr,
    dies: bool,
}

impl Peer {
    /// Reads the environment, which is the same for all generations, and the
    /// file with the fault, which is not: it says what befalls a process that
    /// is started now.
    ///
    /// Does not return in a process that is to crash, or to hang, at its start.
    pub fn from_environment() -> anyhow::Result<Self> {
        let address = env::var("LISTEN").context("LISTEN is not set")?;
        let address = address
            .parse()
            .with_context(|| format!("LISTEN is no address: {address:?}"))?;
        let fault = env::var_os("FAULT_FILE")
            // A file that is not there is no fault.
            .and_then(|path| fs::read_to_string(path).ok())
            .unwrap_or_default();
        let dies = match fault.trim() {
            "" => false,
            "crash" => process::exit(1),
            "hang" => loop {
                thread::park();
            },
            "die" => true,
            other => bail!("there is no fault {other:?}"),
        };
        Ok(Peer { address, dies })
    }

    /// Says that this process accepts connections from now on, and starts the
    /// end of one that is to die.
    pub fn serving(&self) {
        // A driver that has gone is no failure of the server.
        let _ = writeln!(io::stdout(), "listening");
        if self.dies {
            thread::spawn(|| {
                thread::sleep(LIFE);
                // No destructors, no drain: the kernel closes what is open.
                process::exit(1);
            });
        }
    }

    /// Binds the address, for servers that have no way of their own to do it.
    pub fn bind(&self) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(self.address)?;
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

/// The body that tells who has answered which request.
pub fn answer(query: Option<&str>) -> String {
    let id = query
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("id="))
        .unwrap_or_default();
    format!("{} {id}\n", process::id())
}
