//! What else there is to be known of a service and its processes.

use std::time::Duration;

use rustix::param::clock_ticks_per_second;

use crate::Fallible;
use crate::service::{Member, Service};

/// What the predecessor says of the connections that it had.
pub(crate) struct Moved {
    pub(crate) handed_over: usize,
    pub(crate) took: Duration,
}

impl Service {
    /// Waits until the predecessor says that whoever could move has moved.
    pub(crate) fn moved(&mut self) -> Fallible<Moved> {
        let line = self.family.hear("moved ")?;
        let numbers: Vec<u64> = line
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{line}: {error}"))?;
        let [handed_over, _kept, _closed, took] = *numbers.as_slice() else {
            return Err(format!("not what has moved: {line}").into());
        };
        Ok(Moved {
            handed_over: usize::try_from(handed_over)?,
            took: Duration::from_micros(took),
        })
    }

    /// Waits until the predecessor says that the restart is undone.
    pub(crate) fn undone(&mut self) -> Fallible<()> {
        self.family.hear("undone ")?;
        Ok(())
    }
}

impl Member {
    /// How long it has used a processor, in itself and in the kernel; also when
    /// it has ended and was not reaped.
    ///
    /// The kernel tells that in ticks, of which a second has a hundred as a
    /// rule.
    pub(crate) fn cpu(&self) -> Fallible<Duration> {
        let path = format!("/proc/{}/stat", self.pid);
        let stat = std::fs::read_to_string(&path)?;
        // The name, which may contain anything, ends with the last of these.
        let (_, fields) = stat.rsplit_once(") ").ok_or("no name")?;
        // They are numbered from three on here (proc_pid_stat(5)).
        let times = fields.split(' ').skip(14 - 3).take(2);
        let ticks = times.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second())?)
    }
}
