//! What else there is to be known of a service whose restarts fail.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Fallible;
use crate::service::{Family, Member};

impl Family {
    /// Waits so long for something to be said that begins with one of these
    /// words; returns which, and the rest of it.
    pub(crate) fn hear_either(
        &mut self,
        words: [&str; 2],
        patience: Duration,
    ) -> Fallible<Option<(usize, String)>> {
        let spoken = |line: &str| {
            let found = words.iter().position(|word| line.starts_with(word))?;
            let rest = line.strip_prefix(words.get(found)?)?;
            Some((found, rest.to_owned()))
        };
        let known = self.aside.iter().position(|line| spoken(line).is_some());
        if let Some(found) = known
            .and_then(|known| self.aside.remove(known))
            .and_then(|line| spoken(&line))
        {
            return Ok(Some(found));
        }
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.announcements.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err("the service is gone".into()),
            };
            match spoken(&line) {
                Some(found) => return Ok(Some(found)),
                None => self.aside.push_back(line),
            }
        }
    }

    /// How many processes there are, dead or alive.
    pub(crate) fn processes(&self) -> Fallible<usize> {
        let mut processes = 0;
        for entry in std::fs::read_dir("/proc")? {
            let stat = std::fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
            // The name, which may contain anything, ends with the last of
            // these; the group is the fifth field (proc_pid_stat(5)).
            let group = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.split(' ').nth(2));
            let ours = self.group.as_raw_nonzero().get();
            processes += usize::from(group.and_then(|it| it.parse().ok()) == Some(ours));
        }
        Ok(processes)
    }
}

impl Member {
    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> Fallible<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    /// The processes that it has started and that have not ended.
    pub(crate) fn children(&self) -> Fallible<Vec<i32>> {
        let mut children = Vec::new();
        // Each thread has its own (proc_pid_task(5)).
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let listed = std::fs::read_to_string(thread?.path().join("children"));
            for pid in listed.unwrap_or_default().split_whitespace() {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
                if !stat.is_ok_and(|stat| stat.contains(") Z ")) {
                    children.push(pid.parse()?);
                }
            }
        }
        Ok(children)
    }

    pub(crate) fn has_exited(&self) -> Fallible<bool> {
        let mut pidfd = [PollFd::new(&self.pidfd, PollFlags::IN)];
        Ok(poll(&mut pidfd, Some(&Timespec::default()))? > 0)
    }
}
