//! The peers: how each is built and started.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use heirloom_bench_http::{ANNOUNCEMENT, BODY, MEDIA_TYPE, PIPELINING};

use crate::address::Address;
use crate::bench::Bench;
use crate::launch;
use crate::machine::{go, on_path};
use crate::process::{Lines, Process};
use crate::workload::Workload;

/// How long a server may take to start; valgrind makes it slow.
const START: Duration = Duration::from_secs(30);

/// The peer that the others are compared with.
pub const OURS: &str = "heirloom";

/// What stands in tables for http-types without a server.
pub const TYPES: &str = "http-types alone";

/// Every peer, in the order of the tables.
const NAMES: [&str; 6] = [OURS, "hyper", "async-h1", "go", "nginx", "epoll"];

pub struct Peer {
    pub name: &'static str,
    program: PathBuf,
    start: Start,
    /// The same server with an allocator that counts.
    pub counted: Option<PathBuf>,
}

/// How a server says that it can be connected to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// It prints the address that it was given by the system.
    Announced,
    /// nginx is configured with an address and logs that it begins.
    Nginx,
}

impl Peer {
    /// Whether the program is made of machine code that valgrind understands
    /// and that we have built.
    pub fn is_rust(&self) -> bool {
        self.start == Start::Announced && self.name != "go"
    }

    pub fn start(&self, bench: &Bench) -> anyhow::Result<Server> {
        self.start_for(bench, Workload::KeepAlive)
    }

    /// Starts it where the workload expects it, and tells it what it has to
    /// know beforehand.
    pub fn start_for(&self, bench: &Bench, workload: Workload) -> anyhow::Result<Server> {
        let mut command = launch::command(&self.program, bench.server_cpu)?;
        if workload == Workload::Pipelined {
            command.env(PIPELINING, "1");
        }
        let address = match workload {
            Workload::Unix => Some(self.unix_address(bench)?),
            _ => None,
        };
        match self.start {
            Start::Announced => {
                command.args(address.map(|address| address.to_string()));
                announced(command)
            }
            Start::Nginx => nginx(command, bench, address),
        }
        .with_context(|| format!("could not start the server on {}", self.name))
    }

    /// A UNIX socket that is not there yet.
    fn unix_address(&self, bench: &Bench) -> anyhow::Result<Address> {
        let path = bench.directory.join(format!("{}.sock", self.name));
        // A server that was killed has left it there.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context("could not remove an old socket")
            }
            _ => Ok(Address::Unix(path)),
        }
    }

    /// Starts the program of `peer` that counts allocations.
    pub fn start_counted(&self, bench: &Bench) -> anyhow::Result<Server> {
        let program = self
            .counted
            .as_ref()
            .context("there is no counted server")?;
        announced(launch::command(program, bench.server_cpu)?)
    }

    /// Starts the program as an argument of `tool`.
    pub fn start_under(
        &self,
        bench: &Bench,
        tool: &Path,
        options: &[String],
    ) -> anyhow::Result<Server> {
        ensure!(self.start == Start::Announced, "not a server of ours");
        let mut command = launch::command(tool, bench.server_cpu)?;
        command.args(options).arg(&self.program);
        announced(command)
    }
}

/// A server that runs, until this is dropped.
pub struct Server {
    pub process: Process,
    pub address: Address,
    /// What it prints. Held because a server that prints into a closed pipe
    /// may die of it.
    pub lines: Lines,
}

fn announced(mut command: Command) -> anyhow::Result<Server> {
    // Go would otherwise use every CPU it sees; the others ignore this.
    command
        .env("GOMAXPROCS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    let mut lines = process.stdout_lines()?;
    let address = lines.find_within(ANNOUNCEMENT, START)?.parse()?;
    Ok(Server {
        process,
        address,
        lines,
    })
}

fn nginx(mut command: Command, bench: &Bench, address: Option<Address>) -> anyhow::Result<Server> {
    let prefix = bench.directory.join("nginx");
    fs::create_dir_all(&prefix)?;
    // nginx cannot tell which port the system chose. That another program gets
    // this one in between is unlikely, and nginx then says so and ends.
    let address = match address {
        Some(address) => address,
        None => Address::Tcp(TcpListener::bind("127.0.0.1:0")?.local_addr()?),
    };
    let file = prefix.join("nginx.conf");
    fs::write(&file, nginx_configuration(&address))?;
    command
        .args(["-e", "stderr", "-p"])
        .arg(&prefix)
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    let mut lines = process.stderr_lines()?;
    // This is logged after the sockets were bound.
    lines.find_within("event method", START)?;
    Ok(Server {
        process,
        address,
        lines,
    })
}

fn nginx_configuration(address: &Address) -> String {
    let body = BODY.escape_default();
    // One process, so that killing it leaves none behind. Everything that
    // nginx would write goes below its prefix.
    format!(
        r#"daemon off;
master_process off;
pid nginx.pid;
error_log stderr notice;
events {{ worker_connections 131072; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {{
        listen {address} backlog=1024;
        location / {{
            default_type "{MEDIA_TYPE}";
            return 200 "{body}";
        }}
    }}
}}
"#
    )
}

/// Builds or finds the peers that `wanted` names, all if it names none.
///
/// `programs` is where Cargo puts programs. What cannot be had is told in
/// `skipped`.
pub fn build(
    wanted: &[String],
    programs: &Path,
    directory: &Path,
    skipped: &mut Vec<String>,
) -> anyhow::Result<Vec<Peer>> {
    for name in wanted {
        ensure!(NAMES.contains(&name.as_str()), "there is no peer {name:?}");
    }
    build_rust_servers(programs)?;
    let is_wanted = |name: &&str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let mut peers = Vec::new();
    for name in NAMES.into_iter().filter(is_wanted) {
        let file = name.replace('-', "_");
        let found = match name {
            "go" => build_go_server(directory),
            "nginx" => on_path("nginx").context("nginx is not installed"),
            _ => Ok(programs.join(format!("server_{file}"))),
        };
        match found {
            Ok(program) => peers.push(Peer {
                name,
                program,
                start: match name {
                    "nginx" => Start::Nginx,
                    _ => Start::Announced,
                },
                counted: ["heirloom", "hyper"]
                    .contains(&name)
                    .then(|| programs.join(format!("counted_{file}"))),
            }),
            Err(error) => skipped.push(format!("{name}: {error:#}")),
        }
    }
    Ok(peers)
}

/// `cargo run` builds the driver only; this builds the rest in the same
/// profile.
fn build_rust_servers(programs: &Path) -> anyhow::Result<()> {
    let profile = match programs.file_name().and_then(|name| name.to_str()) {
        Some("debug") => bail!("figures of a debug build mean nothing; use --release"),
        Some(profile) => profile,
        None => bail!("could not tell the profile from {}", programs.display()),
    };
    eprintln!("building the servers");
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--bins",
            "--profile",
            profile,
        ])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .stdout(Stdio::null())
        .status()
        .context("could not run cargo")?;
    ensure!(status.success(), "the servers could not be built");
    Ok(())
}

fn build_go_server(directory: &Path) -> anyhow::Result<PathBuf> {
    let go = go().context("Go is not installed (`go` on PATH, or in the variable GO)")?;
    let program = directory.join("server_go");
    let output = Command::new(go)
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/go"))
        // Or it may look for another version on the network.
        .env("GOTOOLCHAIN", "local")
        .output()
        .context("could not run go")?;
    ensure!(
        output.status.success(),
        "could not be built: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(program)
}
