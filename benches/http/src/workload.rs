//! What is asked of the servers when their rate is measured.

use heirloom_bench_http::{ECHO, LARGE, LARGE_BYTES};

use crate::address::Address;
use crate::clients::Exchange;

/// How many requests a pipelining client sends at once.
pub const DEPTH: u64 = 16;

/// The length of the body that is echoed.
const ECHO_BYTES: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// The constant, again and again on the same connections.
    KeepAlive,
    Pipelined,
    Echo,
    Stream,
    /// The constant, on a new connection each time.
    Connect,
    /// As `KeepAlive`, through a UNIX socket.
    Unix,
}

impl Workload {
    /// The name of its part.
    pub fn name(self) -> &'static str {
        match self {
            Workload::KeepAlive => "rate",
            Workload::Pipelined => "pipelined",
            Workload::Echo => "echo",
            Workload::Stream => "stream",
            Workload::Connect => "connect",
            Workload::Unix => "unix",
        }
    }

    pub fn title(self) -> String {
        match self {
            Workload::KeepAlive => "Requests a second".to_owned(),
            Workload::Pipelined => {
                format!("Requests a second, pipelined {DEPTH} deep (p99 of all {DEPTH})")
            }
            Workload::Echo => format!("Requests a second, {ECHO_BYTES} bytes echoed"),
            Workload::Stream => format!("Responses a second, {LARGE_BYTES} bytes in chunks"),
            Workload::Connect => "Requests a second, a connection each".to_owned(),
            Workload::Unix => "Requests a second, through a UNIX socket".to_owned(),
        }
    }

    /// Whether the server on `peer` knows what is asked, and is worth a look.
    pub fn is_for(self, peer: &str) -> bool {
        match self {
            Workload::KeepAlive => true,
            Workload::Pipelined => peer != "async-h1",
            Workload::Echo | Workload::Stream => ["heirloom", "hyper", "go"].contains(&peer),
            Workload::Connect | Workload::Unix => !["async-h1", "epoll"].contains(&peer),
        }
    }

    /// On how many connections, where `wanted` are those of the keep-alive
    /// rate.
    pub fn connections(self, wanted: &[usize]) -> &[usize] {
        match self {
            Workload::KeepAlive => wanted,
            // More of them would only wait longer for a part of the same pipe.
            Workload::Stream => &[16],
            _ => &[64],
        }
    }

    pub fn path(self) -> &'static str {
        match self {
            Workload::Echo => ECHO,
            Workload::Stream => LARGE,
            _ => "/",
        }
    }

    pub fn exchange(self, address: &Address) -> Exchange {
        match self {
            Workload::KeepAlive | Workload::Unix => Exchange::constant(address),
            Workload::Pipelined => Exchange::pipelined(address, DEPTH),
            Workload::Echo => Exchange::echo(address, ECHO, ECHO_BYTES),
            Workload::Stream => Exchange::stream(address, LARGE, LARGE_BYTES),
            Workload::Connect => Exchange::closing(address),
        }
    }

    /// How many requests warm a server up.
    pub fn warming_requests(self) -> u64 {
        match self {
            Workload::Stream => 200,
            _ => 4_000,
        }
    }

    /// What wrk has to be told, in its language; nothing for plain requests.
    pub fn script(self) -> Option<String> {
        match self {
            Workload::KeepAlive | Workload::Stream | Workload::Unix => None,
            Workload::Pipelined => Some(format!(
                "init = function() requests = string.rep(wrk.format(), {DEPTH}) end\n\
                 request = function() return requests end\n"
            )),
            Workload::Echo => Some(format!(
                "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {ECHO_BYTES})\n"
            )),
            // wrk connects anew when a response says that it is the last.
            Workload::Connect => Some("wrk.headers[\"Connection\"] = \"close\"\n".to_owned()),
        }
    }
}
