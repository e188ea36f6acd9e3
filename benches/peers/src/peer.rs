//! The peers: how each is built, started and restarted.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use crate::machine::{go, on_path};

/// Every peer that comes with the bench, in the order of the tables.
pub const NAMES: [&str; 9] = [
    "heirloom",
    "seed",
    "nethttp",
    "ecdysis",
    "shellflip",
    "async-h1",
    "nginx",
    "haproxy",
    "reuseport",
];

/// Where the servers are.
const SERVERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers");

/// How a restart is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A signal to the process that answers.
    Main(Signal),
    /// A signal to the process that was started first, and stays.
    Master(Signal),
    /// Another instance is started, and when it listens, this one is stopped.
    Beside,
    /// It is stopped, and started when it has ended.
    StopStart,
}

impl Way {
    /// How it is called in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Way::Main(signal) if signal == Signal::HUP => "SIGHUP",
            Way::Main(_) => "SIGUSR2",
            Way::Master(signal) if signal == Signal::HUP => "SIGHUP to the master",
            Way::Master(_) => "SIGUSR2 to the master",
            Way::Beside => "a second instance, SIGTERM to the first",
            Way::StopStart => "SIGTERM, and a start",
        }
    }
}

/// Where a bad successor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Badness {
    /// A file that the server looks into when it starts.
    File,
    /// The configuration, or the hand of the driver.
    Configuration,
}

#[derive(Debug)]
pub struct Peer {
    pub name: String,
    pub way: Way,
    pub badness: Badness,
    program: Program,
}

#[derive(Debug)]
enum Program {
    /// Told what to do by its environment.
    Ours(PathBuf),
    /// Told by a configuration that is made of a template.
    Configured {
        program: PathBuf,
        template: String,
        file: &'static str,
    },
    /// Told by the user of the bench.
    Custom(Vec<String>),
}

/// A server that is described on the command line.
#[derive(Clone, Debug)]
pub struct Custom {
    pub name: String,
    way: Way,
    words: Vec<String>,
}

impl Custom {
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.splitn(3, ':');
        let (Some(name), Some(way), Some(command)) = (parts.next(), parts.next(), parts.next())
        else {
            bail!("{text:?} is not NAME:HOW:COMMAND");
        };
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        ensure!(
            !name.is_empty() && name.bytes().all(is_fit),
            "{name:?} cannot be the name of a peer: letters, digits, `-`, `_` and `.` only"
        );
        let way = match way {
            "hup" => Way::Main(Signal::HUP),
            "usr2" => Way::Main(Signal::USR2),
            "master-hup" => Way::Master(Signal::HUP),
            "master-usr2" => Way::Master(Signal::USR2),
            "beside" => Way::Beside,
            "stop-start" => Way::StopStart,
            other => bail!("there is no way to restart called {other:?}; --help tells them all"),
        };
        let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
        ensure!(!words.is_empty(), "{text:?} has no command");
        Ok(Custom {
            name: name.to_owned(),
            way,
            words,
        })
    }
}

impl Peer {
    /// The program and its arguments, for a server on `port` that keeps its
    /// files in `directory`.
    pub fn words(&self, port: u16, directory: &Path) -> anyhow::Result<Vec<OsString>> {
        Ok(match &self.program {
            Program::Ours(program) => vec![program.into()],
            Program::Custom(words) => words
                .iter()
                .map(|word| word.replace("{port}", &port.to_string()).into())
                .collect(),
            Program::Configured { program, file, .. } => {
                let configuration = self.configure(port, directory, "")?;
                let mut words = vec![program.into()];
                match *file {
                    "nginx.conf" => {
                        words.extend(["-e", "stderr", "-p"].map(OsString::from));
                        words.push(directory.into());
                        words.push("-c".into());
                    }
                    // Master and worker, as a service of haproxy is.
                    _ => words.extend(["-W", "-db", "-f"].map(OsString::from)),
                }
                words.push(configuration.into());
                words
            }
        })
    }

    /// How many connections it takes if one process can have so many.
    pub fn most_connections(&self, most: usize) -> usize {
        match &self.program {
            // It reckons with one more to a server for each.
            Program::Configured { file, .. } if *file == "haproxy.cfg" => most / 2,
            _ => most,
        }
    }

    /// Writes the configuration, with something at its end that may be
    /// nonsense.
    pub fn configure(&self, port: u16, directory: &Path, end: &str) -> anyhow::Result<PathBuf> {
        let Program::Configured { template, file, .. } = &self.program else {
            bail!("{} has no configuration", self.name);
        };
        let text = template
            .replace("@PORT@", &port.to_string())
            .replace("@DIR@", &directory.to_string_lossy());
        let path = directory.join(file);
        fs::write(&path, format!("{text}{end}"))
            .with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }
}

/// Builds or finds the peers that are wanted. What cannot be had is told in
/// `skipped`.
pub fn build(
    wanted: &[String],
    servers: &[Custom],
    directory: &Path,
    skipped: &mut Vec<String>,
) -> Vec<Peer> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|it| it == name);
    let mut peers = Vec::new();
    for name in NAMES.into_iter().filter(|name| is_wanted(name)) {
        let way = match name {
            "nginx" => Way::Master(Signal::HUP),
            "haproxy" => Way::Master(Signal::USR2),
            "reuseport" => Way::Beside,
            "nethttp" | "async-h1" => Way::StopStart,
            _ => Way::Main(Signal::HUP),
        };
        let program = match name {
            "seed" | "nethttp" => build_go_server(name, directory).map(Program::Ours),
            "nginx" => configured("nginx", "nginx.conf"),
            "haproxy" => configured("haproxy", "haproxy.cfg"),
            _ => build_rust_server(name).map(Program::Ours),
        };
        match program {
            Ok(program) => peers.push(Peer {
                name: name.to_owned(),
                way,
                badness: match program {
                    Program::Configured { .. } => Badness::Configuration,
                    _ => Badness::File,
                },
                program,
            }),
            Err(error) => skipped.push(format!("{name}: {error:#}")),
        }
    }
    for server in servers.iter().filter(|server| is_wanted(&server.name)) {
        peers.push(Peer {
            name: server.name.clone(),
            way: server.way,
            badness: Badness::File,
            program: Program::Custom(server.words.clone()),
        });
    }
    peers
}

fn configured(program: &str, file: &'static str) -> anyhow::Result<Program> {
    let path = Path::new(SERVERS).join(format!("{file}.in"));
    let template =
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    Ok(Program::Configured {
        program: on_path(program).with_context(|| format!("{program} is not installed"))?,
        template,
        file,
    })
}

/// One at a time, so that one that cannot be built does not take the others
/// with it.
fn build_rust_server(name: &str) -> anyhow::Result<PathBuf> {
    let manifest = Path::new(SERVERS).join("Cargo.toml");
    ensure!(manifest.is_file(), "there is no {}", manifest.display());
    let program = format!("{}_peer", name.replace('-', "_"));
    eprintln!("building {program}");
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--bin", &program])
        .arg("--manifest-path")
        .arg(&manifest)
        // Where the result is has to be known.
        .arg("--target-dir")
        .arg(Path::new(SERVERS).join("target"))
        .stdin(Stdio::null())
        .output()
        .context("could not run cargo")?;
    ensure!(
        output.status.success(),
        "could not be built: {}",
        complaint(&output.stderr)
    );
    Ok(Path::new(SERVERS).join("target/release").join(program))
}

fn build_go_server(name: &str, directory: &Path) -> anyhow::Result<PathBuf> {
    let source = Path::new(SERVERS).join("go").join(name);
    ensure!(source.is_dir(), "there is no {}", source.display());
    let go = go().context("Go is not installed (`go` on PATH, or in the variable GO)")?;
    let program = directory.join(format!("{name}_peer"));
    eprintln!("building {name}_peer");
    let output = Command::new(go)
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        // Or it may look for another version on the network.
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::null())
        .output()
        .context("could not run go")?;
    ensure!(
        output.status.success(),
        "could not be built: {}",
        complaint(&output.stderr)
    );
    Ok(program)
}

/// What a compiler has to say, in one line.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let error = text.lines().find(|line| line.starts_with("error"));
    let line = error.or_else(|| text.lines().last()).unwrap_or("no reason");
    line.trim().to_owned()
}
