//! What a bench is asked for on its command line.

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

use crate::Fallible;

/// What this program was started with.
pub(crate) fn given() -> Vec<String> {
    let arguments = std::env::args_os().skip(1);
    arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect()
}

/// What the program of this name ends with.
pub(crate) fn conclude(name: &str, done: Fallible<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The options of a bench, each of which has a value.
pub(crate) struct Arguments {
    /// Whether fewer and smaller of everything is enough: on request, and
    /// without `--bench`, which `cargo bench` passes and `cargo test` does not.
    pub(crate) is_quick: bool,
    options: Vec<(String, String)>,
}

impl Arguments {
    /// `None` if this bench, which has that name, is not meant.
    pub(crate) fn parse(
        arguments: &[String],
        name: &str,
        known: &[&str],
    ) -> Fallible<Option<Self>> {
        // Whoever runs all benches or tests passes what the harness of the
        // standard library understands; that is none of our business.
        let on_its_own = arguments.iter().any(|argument| argument == "--bench");
        let mut options = Vec::new();
        let mut is_quick = !on_its_own;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {}
                "--quick" => is_quick = true,
                "--list" => return Ok(None),
                option if known.contains(&option) => {
                    let value = arguments.next().cloned().unwrap_or_default();
                    options.push((option.to_owned(), value));
                }
                unknown if unknown.starts_with('-') => {
                    if on_its_own {
                        return Err(format!("unknown option {unknown}").into());
                    }
                }
                // A filter, as all harnesses take it.
                filter => {
                    if !name.contains(filter) {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(Arguments { is_quick, options }))
    }

    /// What was given for an option, or else what is meant without it:
    /// `usually`, or `quickly` in a quick pass.
    pub(crate) fn value<T>(&self, option: &str, usually: T, quickly: T) -> Fallible<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let given = self.options.iter().rfind(|(name, _)| name == option);
        match given {
            Some((_, value)) => value
                .parse()
                .map_err(|error| format!("{option} does not take `{value}`: {error}").into()),
            None if self.is_quick => Ok(quickly),
            None => Ok(usually),
        }
    }
}
