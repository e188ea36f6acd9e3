//! What the command line can say.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::peer::{Custom, NAMES};

pub const USAGE: &str = "\
Usage: heirloom-bench-peers [PART]... [OPTION]...

Parts, all of them unless some are named:
  loads         restarts under four loads: failed requests, closed connections, times
  latency       latencies around restarts at a fixed rate of requests; the picture
  resources     processor time and memory of a restart
  faults        successors that crash, hang, or die right after they took over
  crowd         idle connections across a restart

Options:
  --restarts N          restarts of each load, and of `latency` and `resources` [20]
  --spacing MS          from the end of one to the next [500]
  --steady SECONDS      how long is measured before the first [2]
  --connections N       connections of `loads` and `latency` [64]
  --rate N              requests a second of `latency` [2000]
  --crowd N             connections of `crowd` [10000]
  --patience SECONDS    what a request may take [5]
  --loads NAME,...      only these of keep-alive, new-connection, mixed-slow, post
  --peers NAME,...      only these of heirloom, seed, nethttp, ecdysis, shellflip,
                        async-h1, nginx, haproxy, reuseport, and those of --server
  --server NAME:HOW:COMMAND
                        another server, which is told its address by the variable
                        LISTEN, or by {port} in COMMAND; restarted by SIGHUP or
                        SIGUSR2 to the process that answers (hup, usr2) or to the
                        first one (master-hup, master-usr2), by a second instance
                        beside it (beside), or by stopping it (stop-start)
  --server-cpu N        [the second CPU this process may use]
  --client-cpu N        [the first]
  --smoke               a fast run whose figures mean little
";

/// A part of the bench that can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Loads,
    Latency,
    Resources,
    Faults,
    Crowd,
}

impl Part {
    const ALL: [Part; 5] = [
        Part::Loads,
        Part::Latency,
        Part::Resources,
        Part::Faults,
        Part::Crowd,
    ];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Loads => "loads",
            Part::Latency => "latency",
            Part::Resources => "resources",
            Part::Faults => "faults",
            Part::Crowd => "crowd",
        })
    }
}

/// What clients do while a service restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The same connections are used again and again.
    KeepAlive,
    /// Each request has its own connection.
    NewConnection,
    /// A quarter of the clients takes 300 ms to send a request.
    MixedSlow,
    /// Requests with a body, in pieces.
    Post,
}

impl Load {
    pub const ALL: [Load; 4] = [
        Load::KeepAlive,
        Load::NewConnection,
        Load::MixedSlow,
        Load::Post,
    ];
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Load::KeepAlive => "keep-alive",
            Load::NewConnection => "new-connection",
            Load::MixedSlow => "mixed-slow",
            Load::Post => "post",
        })
    }
}

#[derive(Clone, Debug)]
pub struct Arguments {
    pub parts: Vec<Part>,
    pub restarts: usize,
    pub spacing: Duration,
    pub steady: Duration,
    pub connections: usize,
    pub rate: f64,
    pub crowd: usize,
    pub patience: Duration,
    pub loads: Vec<Load>,
    /// Empty for all.
    pub peers: Vec<String>,
    pub servers: Vec<Custom>,
    pub server_cpu: Option<usize>,
    pub client_cpu: Option<usize>,
    pub is_smoke: bool,
}

impl Arguments {
    /// Returns `None` if help was asked for.
    pub fn parse(
        mut words: impl Iterator<Item = anyhow::Result<String>>,
    ) -> anyhow::Result<Option<Arguments>> {
        let mut arguments = Arguments {
            parts: Vec::new(),
            restarts: 20,
            spacing: Duration::from_millis(500),
            steady: Duration::from_secs(2),
            connections: 64,
            rate: 2000.0,
            crowd: 10_000,
            patience: Duration::from_secs(5),
            loads: Vec::new(),
            peers: Vec::new(),
            servers: Vec::new(),
            server_cpu: None,
            client_cpu: None,
            is_smoke: false,
        };
        while let Some(word) = words.next().transpose()? {
            if let Some(part) = Part::ALL.into_iter().find(|part| part.to_string() == word) {
                if !arguments.parts.contains(&part) {
                    arguments.parts.push(part);
                }
                continue;
            }
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--smoke" => {
                    arguments.restarts = 2;
                    arguments.spacing = Duration::from_millis(100);
                    arguments.steady = Duration::from_millis(300);
                    arguments.crowd = 1_000;
                    arguments.is_smoke = true;
                    continue;
                }
                _ => {}
            }
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} needs a value"))?
            };
            match word.as_str() {
                "--restarts" => arguments.restarts = within(&word, &value()?, 1, 1_000)?,
                "--spacing" => {
                    arguments.spacing = Duration::from_millis(within(&word, &value()?, 0, 60_000)?);
                }
                "--steady" => {
                    let seconds: f64 = within(&word, &value()?, 0.1, 600.0)?;
                    arguments.steady = Duration::from_secs_f64(seconds);
                }
                "--connections" => arguments.connections = within(&word, &value()?, 4, 10_000)?,
                "--rate" => arguments.rate = within(&word, &value()?, 10.0, 100_000.0)?,
                "--crowd" => arguments.crowd = within(&word, &value()?, 1, 1_000_000)?,
                "--patience" => {
                    let seconds: f64 = within(&word, &value()?, 0.5, 60.0)?;
                    arguments.patience = Duration::from_secs_f64(seconds);
                }
                "--loads" => {
                    for name in value()?.split(',') {
                        let load = Load::ALL.into_iter().find(|load| load.to_string() == name);
                        let load = load.with_context(|| format!("there is no load {name:?}"))?;
                        arguments.loads.push(load);
                    }
                }
                "--peers" => arguments.peers = value()?.split(',').map(str::to_owned).collect(),
                "--server" => arguments.servers.push(Custom::parse(&value()?)?),
                "--server-cpu" => arguments.server_cpu = Some(within(&word, &value()?, 0, 4_096)?),
                "--client-cpu" => arguments.client_cpu = Some(within(&word, &value()?, 0, 4_096)?),
                _ => bail!("{word:?} is neither a part nor an option; --help tells them all"),
            }
        }
        if arguments.parts.is_empty() {
            arguments.parts = Part::ALL.to_vec();
        }
        if arguments.loads.is_empty() {
            arguments.loads = Load::ALL.to_vec();
        }
        arguments.check_names()?;
        Ok(Some(arguments))
    }

    fn check_names(&self) -> anyhow::Result<()> {
        for server in &self.servers {
            let is_taken = NAMES.contains(&server.name.as_str())
                || self
                    .servers
                    .iter()
                    .filter(|it| it.name == server.name)
                    .count()
                    > 1;
            ensure!(!is_taken, "there are two peers {:?}", server.name);
        }
        for name in &self.peers {
            let is_known = NAMES.contains(&name.as_str())
                || self.servers.iter().any(|server| server.name == *name);
            ensure!(is_known, "there is no peer {name:?}; --help tells them all");
        }
        Ok(())
    }
}

fn within<N: FromStr + PartialOrd + fmt::Display>(
    option: &str,
    text: &str,
    least: N,
    most: N,
) -> anyhow::Result<N> {
    let number: N = text
        .parse()
        .ok()
        .with_context(|| format!("{option} {text:?}: not a number that can be here"))?;
    ensure!(
        number >= least && number <= most,
        "{option} {text}: not between {least} and {most}"
    );
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Option<Arguments>> {
        Arguments::parse(line.split_whitespace().map(|word| Ok(word.to_owned())))
    }

    #[test]
    fn nothing_said_means_everything() {
        let arguments = parse("").unwrap().unwrap();
        assert_eq!(arguments.parts, Part::ALL);
        assert_eq!(arguments.loads, Load::ALL);
        assert_eq!(arguments.restarts, 20);
        assert!(parse("loads --help").unwrap().is_none());
    }

    #[test]
    fn parts_and_options_are_understood() {
        let line = "faults loads --restarts 3 --loads post,keep-alive --steady 0.5 --peers nginx";
        let arguments = parse(line).unwrap().unwrap();
        assert_eq!(arguments.parts, [Part::Faults, Part::Loads]);
        assert_eq!(arguments.loads, [Load::Post, Load::KeepAlive]);
        assert_eq!(arguments.steady, Duration::from_millis(500));
        assert_eq!(arguments.peers, ["nginx"]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (line, complaint) in [
            ("load", "\"load\" is neither a part nor an option"),
            ("--restarts", "--restarts needs a value"),
            ("--restarts many", "--restarts \"many\": not a number"),
            ("--restarts 0", "--restarts 0: not between 1 and 1000"),
            ("--steady NaN", "--steady NaN: not between"),
            ("--loads get", "there is no load \"get\""),
            ("--peers apache", "there is no peer \"apache\""),
            ("--server mine", "NAME:HOW:COMMAND"),
            (
                "--server mine:often:x",
                "there is no way to restart called \"often\"",
            ),
            ("--server nginx:hup:x", "there are two peers \"nginx\""),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(complaint), "{line}: {error}");
        }
    }

    #[test]
    fn another_server_can_be_named() {
        let arguments = parse("--peers mine --server mine:master-usr2:server").unwrap();
        assert_eq!(arguments.unwrap().servers[0].name, "mine");
    }
}
