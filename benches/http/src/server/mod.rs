//! The servers: the same answer, each on its own stack, on one thread.

pub mod async_h1;
pub mod epoll;
pub mod heirloom;
pub mod hyper;

use std::env;
use std::fmt;
use std::io::{self, BufRead, Write};
use std::thread;

use crate::ANNOUNCEMENT;

/// Where the servers listen, if nothing else was asked for; the system chooses
/// the port.
const ADDRESS: &str = "127.0.0.1:0";

/// What stands before the path in the address of a UNIX socket.
const UNIX: &str = "unix:";

/// Where this server is to listen: the first argument, if there is one.
fn address() -> String {
    env::args().nth(1).unwrap_or_else(|| ADDRESS.to_owned())
}

/// Tells the driver where to connect.
fn announce(address: impl fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{ANNOUNCEMENT}{address}")?;
    stdout.flush()
}

/// Answers each line on standard input with a line that holds what `count`
/// returns.
///
/// The question does not come over HTTP because a server that looks at the
/// target of a request does something that the measured one does not do.
pub fn report_on_request(count: impl Fn() -> usize + Send + 'static) {
    thread::spawn(move || {
        for _question in io::stdin().lock().lines().map_while(Result::ok) {
            // The count is taken before the answer is formatted.
            let count = count();
            if writeln!(io::stdout(), "{count}").is_err() {
                return;
            }
        }
    });
}
