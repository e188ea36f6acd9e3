//! The processes of a peer, found by their session, and what the kernel tells
//! about them.

use std::fs;

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

/// A process, as it was a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub pid: u32,
    parent: u32,
    session: u32,
    /// Has ended, and waits to be waited for.
    pub is_zombie: bool,
}

impl Member {
    /// Reads `/proc/PID/stat`.
    fn parse(stat: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(" (")?;
        // The name may contain anything, parentheses and spaces included.
        let (_, fields) = rest.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        Some(Member {
            pid: pid.parse().ok()?,
            is_zombie: matches!(fields.next()?, "Z" | "X"),
            parent: fields.next()?.parse().ok()?,
            session: fields.nth(1)?.parse().ok()?,
        })
    }

    pub fn kill(&self) {
        let Some(pid) = raw(self.pid) else { return };
        // By a descriptor, and only if it is still the one that was meant.
        if let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            && read_member(self.pid).is_some_and(|it| it.session == self.session)
        {
            let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
        }
    }

    /// Its share of memory, in bytes: what several processes map is divided
    /// among them. `None` if it is gone.
    pub fn proportional_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes * 1024)
    }
}

/// Every process of these sessions, zombies included.
pub fn members(sessions: &[u32]) -> anyhow::Result<Vec<Member>> {
    let processes = fs::read_dir("/proc").context("could not read /proc")?;
    Ok(processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(read_member)
        .filter(|member| sessions.contains(&member.session))
        .collect())
}

/// Waits for those that have become children of this process by the end of
/// their parents, and that have ended. `own` are children that somebody else
/// here waits for.
pub fn reap(members: &[Member], own: &[u32]) {
    let this = std::process::id();
    for member in members {
        if member.is_zombie && member.parent == this && !own.contains(&member.pid) {
            let _ = rustix::process::waitpid(raw(member.pid), WaitOptions::NOHANG);
        }
    }
}

/// The memory of all processes of these sessions, in bytes.
pub fn memory(sessions: &[u32]) -> anyhow::Result<u64> {
    let members = members(sessions)?;
    Ok(members.iter().filter_map(Member::proportional_bytes).sum())
}

/// The processor time, in seconds, of all descendants that have ended and
/// have been waited for: their whole lives, their ends included.
pub fn time_of_the_dead() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("could not read times")?;
    let microseconds = [usage.user_time(), usage.system_time()].map(|it| it.num_microseconds());
    Ok(microseconds.iter().sum::<i64>() as f64 / 1e6)
}

fn read_member(pid: u32) -> Option<Member> {
    // It may have ended since it was listed.
    Member::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

pub fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_confuse() {
        let member = Member::parse("42 (a) Z (b c) S 1 40 41 0 -1 4194560").unwrap();
        assert_eq!((member.pid, member.parent, member.session), (42, 1, 41));
        assert!(!member.is_zombie);
        let zombie = Member::parse("42 (x) Z 7 40 41 0").unwrap();
        assert!(zombie.is_zombie);
        assert_eq!(Member::parse("42 (x"), None);
    }

    #[test]
    fn this_process_is_a_member_of_its_session() {
        let own = read_member(std::process::id()).unwrap();
        let found = members(&[own.session]).unwrap();
        assert!(found.iter().any(|it| it.pid == own.pid));
        assert!(own.proportional_bytes().unwrap() > 0);
    }
}
