//! The driver: restarts each server again and again, under load and without,
//! and tells side by side what its clients saw. See `README.md` for what is
//! measured how.

mod arguments;
mod bench;
mod launch;
mod load;
// The same as in the other bench, as is `process`.
#[path = "../../http/src/machine.rs"]
mod machine;
mod part;
mod peer;
mod picture;
// The same as in the other bench, without what that brings to build.
#[allow(dead_code, reason = "not all of it is used here")]
#[path = "../../http/src/process.rs"]
mod process;
mod report;
mod server;
mod sessions;
mod statistics;
mod svg;

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
    match words.first() {
        Some(word) if word == launch::LAUNCH => return Err(launch::become_program(&words[1..])),
        Some(word) if word == launch::KEEP => return launch::keep(),
        _ => {}
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
        match part {
            Part::Loads => part::loads::measure(&bench, &mut report),
            Part::Latency => part::latency::measure(&bench, &mut report),
            Part::Resources => part::resources::measure(&bench, &mut report),
            Part::Faults => part::faults::measure(&bench, &mut report),
            Part::Crowd => part::crowd::measure(&bench, &mut report),
        }
        // After each, so that a run that is interrupted was not for nothing.
        save(&bench, &report)?;
    }
    let markdown = report.markdown();
    eprintln!("wrote the results into {}", bench.directory.display());
    io::stdout().write_all(markdown.as_bytes())?;
    Ok(())
}

fn save(bench: &Bench, report: &Report) -> anyhow::Result<()> {
    let save = |name: &str, text: &str| {
        let path = bench.directory.join(name);
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
    };
    save("results.md", &report.markdown())?;
    save("results.json", &serde_json::to_string_pretty(report)?)?;
    let pictures = [
        ("latency.svg", picture::latency(&report.latencies)),
        ("failures.svg", picture::failures(&report.loads)),
    ];
    for (name, picture) in pictures {
        if let Some(picture) = picture {
            save(name, &picture)?;
        }
    }
    Ok(())
}
