//! The driver: starts each server, loads it, looks at it from outside, and
//! tells the figures side by side. See `README.md` for what is measured how.

mod address;
mod arguments;
mod bench;
mod clients;
mod goals;
mod launch;
mod machine;
mod observed;
mod part;
mod peer;
mod process;
mod report;
mod workload;
mod wrk;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;

use crate::arguments::{Arguments, Part, USAGE};
use crate::bench::Bench;
use crate::report::Report;

fn main() -> ExitCode {
    // Without a backtrace, which tells nothing to whoever runs this.
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == launch::WORD) {
        return Err(launch::become_program(&words[1..]));
    }
    let words = words.into_iter().map(|word| {
        word.into_string()
            .map_err(|word| anyhow::anyhow!("{word:?} is not Unicode"))
    });
    let Some(arguments) = Arguments::parse(words)? else {
        print!("{USAGE}");
        return Ok(());
    };
    measure(arguments)
}

fn measure(arguments: Arguments) -> anyhow::Result<()> {
    let parts = arguments.parts.clone();
    let bench = Bench::prepare(arguments)?;
    let mut report = Report::new(&bench)?;
    for part in parts {
        let outcome = match part {
            Part::Rate(workload) => part::rate::measure(&bench, &mut report, workload),
            Part::Latency => part::latency::measure(&bench, &mut report),
            Part::Fairness => part::fairness::measure(&bench, &mut report),
            Part::Growth => part::growth::measure(&bench, &mut report),
            Part::Syscalls => part::syscalls::measure(&bench, &mut report),
            Part::Idle => part::idle::measure(&bench, &mut report),
            Part::Instructions => part::instructions::measure(&bench, &mut report),
            Part::Allocations => part::allocations::measure(&bench, &mut report),
        };
        // What the other parts found is still worth telling.
        if let Err(error) = outcome {
            report.skip(format!("{part}: {error:#}"));
        }
    }
    let markdown = report.markdown();
    let save = |name: &str, text: &str| {
        let path = bench.directory.join(name);
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
        anyhow::Ok(())
    };
    save("results.md", &markdown)?;
    save("results.json", &serde_json::to_string_pretty(&report)?)?;
    io::stdout().write_all(markdown.as_bytes())?;
    Ok(())
}
