//! wrk as the generator of load.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::launch;
use crate::process::Process;

/// What wrk found.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub answered: u64,
    pub rate: f64,
    /// `None` where it is not known.
    pub p99: Option<Duration>,
    pub failures: u64,
}

/// What wrk is to do.
pub struct Load {
    pub url: String,
    /// For other requests than plain ones.
    pub script: Option<PathBuf>,
    pub connections: usize,
    pub seconds: u64,
}

/// Loads a server.
pub fn run(wrk: &Path, cpu: usize, load: &Load) -> anyhow::Result<Outcome> {
    let mut command = launch::command(wrk, cpu)?;
    command
        .args(["--threads=1", "--latency"])
        .arg(format!("--connections={}", load.connections))
        .arg(format!("--duration={}s", load.seconds));
    if let Some(script) = &load.script {
        command.arg("--script").arg(script);
    }
    command
        .arg(&load.url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    let deadline = Instant::now() + Duration::from_secs(load.seconds + 15);
    let output = process.stdout_lines()?.rest_by(deadline)?;
    let status = process.wait_within(Duration::from_secs(5))?;
    ensure!(status.success(), "wrk: {status}, after {output:?}");
    parse(&output).with_context(|| format!("could not understand wrk's {output:?}"))
}

fn parse(output: &str) -> Option<Outcome> {
    let after = |mark: &str| {
        let line = output
            .lines()
            .find(|line| line.trim_start().starts_with(mark))?;
        Some(line.trim_start()[mark.len()..].trim())
    };
    // `connect 0, read 0, write 0, timeout 0`; the line is missing without one.
    let socket_errors: u64 = after("Socket errors:").map_or(Some(0), |counts| {
        counts
            .split(", ")
            .map(|count| count.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    })?;
    let refusals: u64 = after("Non-2xx or 3xx responses:").map_or(Some(0), |n| n.parse().ok())?;
    // `196434 requests in 2.10s, 24.17MB read`
    let answered = output
        .lines()
        .find_map(|line| line.split_once(" requests in "))?
        .0;
    Some(Outcome {
        answered: answered.trim().parse().ok()?,
        rate: after("Requests/sec:")?.parse().ok()?,
        p99: Some(duration(after("99%")?)?),
        failures: socket_errors + refusals,
    })
}

/// `850.00us`, `1.92ms` or `1.04s`.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Running 2s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   680.52us  120.60us   4.88ms   91.61%
    Req/Sec    94.01k     3.96k   98.57k    90.48%
  Latency Distribution
     50%  658.00us
     75%  694.00us
     90%  781.00us
     99%    1.19ms
  196434 requests in 2.10s, 24.17MB read
";

    #[test]
    fn a_clean_run_has_no_failures() {
        let outcome = parse(&format!("{OUTPUT}Requests/sec:  93541.44\n"));
        let expected = Outcome {
            answered: 196_434,
            rate: 93_541.44,
            p99: Some(Duration::from_micros(1_190)),
            failures: 0,
        };
        assert_eq!(outcome, Some(expected));
    }

    #[test]
    fn every_kind_of_failure_counts() {
        let output = format!(
            "{OUTPUT}  Socket errors: connect 1, read 20, write 300, timeout 4000
  Non-2xx or 3xx responses: 50000
Requests/sec:  93541.44
"
        );
        assert_eq!(parse(&output).map(|outcome| outcome.failures), Some(54_321));
    }

    #[test]
    fn an_unfinished_output_is_not_a_result() {
        assert_eq!(parse(OUTPUT), None);
    }
}
