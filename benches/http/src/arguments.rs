//! What the command line can say.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::workload::Workload;

pub const USAGE: &str = "\
Usage: heirloom-bench-http [PART]... [OPTION]...

Parts, all of them unless some are named:
  rate            requests a second, interleaved rounds
  pipelined       the same, 16 requests at once
  echo            the same, with bodies of 1 KB that come back
  stream          the same, with responses of 1 MB in chunks
  connect         the same, with a new connection for each request
  unix            the same, through a UNIX socket
  latency         latencies at half the load that can be borne, on a schedule
  fairness        latencies beside a client that pipelines without end
  growth          rate, p99 and memory beside more and more idle connections
  syscalls        system calls and sends a request (needs perf or strace)
  idle            memory and wake-ups of idle connections
  instructions    instructions a request (needs valgrind)
  allocations     allocations a request

Options:
  --rounds N            rounds of all parts above [7]
  --seconds N           length of one measurement of these [2]
  --connections N,...   connections of `rate` [64,512]
  --idle N              connections of `idle` [10000]
  --growth N,...        idle connections of `growth`, each at most as many as
                        the limit of open files allows [0,1000,10000,100000]
  --peers NAME,...      only these of heirloom, hyper, async-h1, go,
                        nginx, epoll
  --generator NAME      closed loops from `wrk` or our `own` [wrk, if installed]
  --server-cpu N        [the second CPU this process may use]
  --client-cpu N        [the first]
  --smoke               a fast run whose figures mean little
";

/// A part of the bench that can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Rate(Workload),
    Latency,
    Fairness,
    Growth,
    Syscalls,
    Idle,
    Instructions,
    Allocations,
}

impl Part {
    pub const ALL: [Part; 13] = [
        Part::Rate(Workload::KeepAlive),
        Part::Rate(Workload::Pipelined),
        Part::Rate(Workload::Echo),
        Part::Rate(Workload::Stream),
        Part::Rate(Workload::Connect),
        Part::Rate(Workload::Unix),
        Part::Latency,
        Part::Fairness,
        Part::Growth,
        Part::Syscalls,
        Part::Idle,
        Part::Instructions,
        Part::Allocations,
    ];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Rate(workload) => workload.name(),
            Part::Latency => "latency",
            Part::Fairness => "fairness",
            Part::Growth => "growth",
            Part::Syscalls => "syscalls",
            Part::Idle => "idle",
            Part::Instructions => "instructions",
            Part::Allocations => "allocations",
        })
    }
}

/// What makes the load of closed loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    Wrk,
    Own,
}

#[derive(Clone, Debug)]
pub struct Arguments {
    pub parts: Vec<Part>,
    pub rounds: usize,
    pub seconds: u64,
    pub connections: Vec<usize>,
    pub idle: usize,
    pub growth: Vec<usize>,
    /// For how long idle connections are watched.
    pub idle_watch: Duration,
    /// Empty for all.
    pub peers: Vec<String>,
    pub generator: Option<Generator>,
    pub server_cpu: Option<usize>,
    pub client_cpu: Option<usize>,
}

impl Arguments {
    /// Returns `None` if help was asked for.
    pub fn parse(
        mut words: impl Iterator<Item = anyhow::Result<String>>,
    ) -> anyhow::Result<Option<Arguments>> {
        let mut arguments = Arguments {
            parts: Vec::new(),
            rounds: 7,
            seconds: 2,
            connections: vec![64, 512],
            idle: 10_000,
            growth: vec![0, 1_000, 10_000, 100_000],
            idle_watch: Duration::from_secs(3),
            peers: Vec::new(),
            generator: None,
            server_cpu: None,
            client_cpu: None,
        };
        while let Some(word) = words.next().transpose()? {
            if let Some(part) = Part::ALL.into_iter().find(|part| part.to_string() == word) {
                arguments.parts.push(part);
                continue;
            }
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--smoke" => {
                    arguments.rounds = 1;
                    arguments.seconds = 1;
                    arguments.idle = 1_000;
                    arguments.growth = vec![0, 1_000];
                    arguments.idle_watch = Duration::from_secs(1);
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
                "--rounds" => arguments.rounds = at_least_one(&value()?)?,
                "--seconds" => arguments.seconds = at_least_one(&value()?)?,
                "--connections" => {
                    arguments.connections = value()?
                        .split(',')
                        .map(at_least_one)
                        .collect::<anyhow::Result<_>>()?;
                }
                "--idle" => arguments.idle = at_least_one(&value()?)?,
                "--growth" => {
                    arguments.growth = value()?
                        .split(',')
                        .map(number)
                        .collect::<anyhow::Result<_>>()?;
                }
                "--peers" => arguments.peers = value()?.split(',').map(str::to_owned).collect(),
                "--generator" => {
                    arguments.generator = Some(match value()?.as_str() {
                        "wrk" => Generator::Wrk,
                        "own" => Generator::Own,
                        other => bail!("there is no generator {other:?}"),
                    });
                }
                "--server-cpu" => arguments.server_cpu = Some(number(&value()?)?),
                "--client-cpu" => arguments.client_cpu = Some(number(&value()?)?),
                _ => bail!("{word:?} is neither a part nor an option\n\n{USAGE}"),
            }
        }
        if arguments.parts.is_empty() {
            arguments.parts = Part::ALL.to_vec();
        }
        Ok(Some(arguments))
    }
}

fn number<N: FromStr>(text: &str) -> anyhow::Result<N> {
    text.parse()
        .ok()
        .with_context(|| format!("{text:?} is not a number"))
}

fn at_least_one<N: FromStr + PartialOrd + From<u8>>(text: &str) -> anyhow::Result<N> {
    let number = number(text)?;
    if number < N::from(1) {
        bail!("{text} is too few");
    }
    Ok(number)
}
