//! The machine: which of its cores are for whom, and what is to be said about
//! it beside figures.

use std::io;
use std::process::Command;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which cores the service and the bench run on.
///
/// The service has one core to itself where there are several: clients that
/// compete with it would be measured with it. That the successor and its
/// predecessor share this core makes restarts slower than on an idle machine,
/// and the figures comparable.
pub(crate) struct Cores {
    /// `None` if there is only one core for everybody.
    split: Option<Split>,
}

struct Split {
    service: usize,
    bench: CpuSet,
}

impl Cores {
    /// Moves the calling thread, and those that it will start, to the cores of
    /// the bench.
    pub(crate) fn divide() -> io::Result<Self> {
        let mut bench = sched_getaffinity(None)?;
        // The last one: the first is where interrupts usually arrive.
        let last = (0..CpuSet::MAX_CPU).rev().find(|core| bench.is_set(*core));
        let split = match last {
            Some(service) if bench.count() > 1 => {
                bench.unset(service);
                sched_setaffinity(None, &bench)?;
                Some(Split { service, bench })
            }
            _ => None,
        };
        Ok(Cores { split })
    }

    /// Does something on the service's core. What is started there stays
    /// there, its successors included, for the affinity is inherited.
    pub(crate) fn beside_service<T>(&self, act: impl FnOnce() -> T) -> io::Result<T> {
        let Some(split) = &self.split else {
            return Ok(act());
        };
        let mut service = CpuSet::new();
        service.set(split.service);
        sched_setaffinity(None, &service)?;
        let done = act();
        sched_setaffinity(None, &split.bench)?;
        Ok(done)
    }

    fn describe(&self) -> String {
        match &self.split {
            Some(split) => format!(
                "{} cores (one for the service, {} for the clients)",
                split.bench.count() + 1,
                split.bench.count()
            ),
            None => "1 core, shared by the service and the clients".to_owned(),
        }
    }
}

/// What figures mean little without.
pub(crate) fn describe(cores: &Cores) -> String {
    let first_line = |path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|info| field(&info, "model name").map(str::to_owned))
        .unwrap_or_else(|| "unknown processor".to_owned());
    // The one that cargo used, as far as a program can know.
    let rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_default();
    let rustc = match rustc.split(' ').nth(1) {
        Some(version) => format!("rustc {version}"),
        None => "unknown rustc".to_owned(),
    };
    let profile = match cfg!(debug_assertions) {
        true => ", **without optimisation**",
        false => "",
    };
    format!(
        "{}, {cpu}, Linux {}, {rustc}{profile}, load average {} at the end",
        cores.describe(),
        first_line("/proc/sys/kernel/osrelease"),
        first_line("/proc/loadavg")
            .split(' ')
            .next()
            .unwrap_or("unknown"),
    )
}

/// The value of a field in one of the texts of /proc.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field.trim() == name).then(|| value.trim())
    })
}
