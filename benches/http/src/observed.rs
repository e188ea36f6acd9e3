//! What the kernel tells about a process from outside.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// Resident memory, in bytes.
///
/// From `smaps_rollup`, because `status` gives a sum that each CPU adds to in
/// lots only.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let text = read(format!("/proc/{pid}/smaps_rollup"))?;
    let kilobytes = field(&text, "Rss:").context("no resident size in smaps_rollup")?;
    Ok(kilobytes * 1024)
}

/// How often threads of the process have gone to sleep, in all. Each time they
/// were woken once before, so a difference of two of these is a number of
/// wake-ups.
pub fn sleeps(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = read(thread?.path().join("status"))?;
        sum += field(&text, "voluntary_ctxt_switches:").context("no switches in status")?;
    }
    Ok(sum)
}

/// The CPU time that the process has used.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let text = read(format!("/proc/{pid}/stat"))?;
    // The second field, the name in parentheses, may contain spaces.
    let (_, fields) = text.rsplit_once(')').context("no name in stat")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<_, _>>()
        .context("no times in stat")?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(
        ticks as f64 / ticks_per_second as f64,
    ))
}

/// The first number behind `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

pub fn read(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}
