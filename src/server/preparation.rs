//! What comes before a successor is started: its environment is found out, and
//! it is checked whether it is to be started at all.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use async_io::Timer;
use smol::channel;
use smol::future::{BoxedLocal, FutureExt as _};

use super::check;
use crate::environment::{Before, Environment};
use crate::error::legible;
use crate::handoff::predecessor::Preparing;
use crate::invocation::Invocation;

/// What the application wants to have done before each restart.
#[derive(Clone)]
pub(super) struct Preparation {
    pub(super) environment_file: Option<PathBuf>,
    pub(super) environment: Option<Callback<Environment>>,
    pub(super) check_command: Option<CheckCommand>,
    pub(super) check: Option<Callback<()>>,
    /// For all of it.
    pub(super) timeout: Duration,
    /// What the environment of this process was before it was changed.
    pub(super) before: Before,
}

/// A closure of the application that is asked before each restart.
pub(super) type Callback<T> =
    Rc<dyn Fn() -> BoxedLocal<Result<T, Box<dyn StdError + Send + Sync>>>>;

/// A command as the application has given it.
#[derive(Clone)]
pub(super) struct CheckCommand {
    /// `None`: that of the successor.
    pub(super) program: Option<OsString>,
    pub(super) arguments: Vec<OsString>,
}

impl Default for Preparation {
    fn default() -> Self {
        Preparation {
            environment_file: None,
            environment: None,
            check_command: None,
            check: None,
            timeout: Duration::from_secs(30),
            before: Before::default(),
        }
    }
}

impl Preparation {
    /// Finds out which variables are there because somebody has changed the
    /// environment for this process: the predecessor, which has told so, or
    /// whoever has started it with the same file.
    pub(super) async fn find_before(&mut self, is_successor: bool) {
        if is_successor {
            self.before = Before::told();
        } else if self.environment_file.is_some() {
            match self.read_file(self.deadline()).await {
                Ok(file) => self.before.learn(&file),
                Err(problem) => log::warn!("a restart would fail: {problem}"),
            }
        }
    }

    /// Begins with it, for one restart.
    pub(super) fn begin(&self, invocation: &Invocation) -> Preparing {
        let (guard, ended) = channel::bounded(1);
        let (this, invocation) = (self.clone(), invocation.clone());
        let work = async move {
            let deadline = this.deadline();
            let changes = this.changes(deadline).await?;
            if let Some(command) = &this.check_command {
                this.run(command, &invocation, &changes, deadline, guard)
                    .await?;
            }
            if let Some(check) = &this.check {
                let what = "the check by the application";
                ask(what, "failed", check, deadline).await?;
                log::info!("{what} has passed");
            }
            let before = this.before;
            Ok(Box::new(move |command: &mut Command| before.give(&changes, command)) as Box<_>)
        };
        Preparing::new(work.boxed_local(), ended)
    }

    /// What is to be changed in the environment.
    async fn changes(&self, deadline: Option<Instant>) -> Result<Environment, String> {
        let mut changes = match &self.environment_file {
            Some(_) => self.read_file(deadline).await?,
            None => Environment::new(),
        };
        if let Some(environment) = &self.environment {
            let what = "the environment by the application";
            let asked = ask(what, "cannot be had", environment, deadline).await?;
            let problem = |problem| format!("{what} cannot be had: {problem}");
            asked.check().map_err(problem)?;
            changes = changes.and(asked);
        }
        Ok(changes)
    }

    /// Reads the environment file off the thread that serves.
    async fn read_file(&self, deadline: Option<Instant>) -> Result<Environment, String> {
        let path = self.environment_file.clone().unwrap_or_default();
        let unread = |why: &dyn fmt::Display| {
            let path = path.display();
            format!("the environment file `{path}` cannot be read: {why}")
        };
        let (tell, told) = channel::bounded(1);
        let reading = path.clone();
        thread::Builder::new()
            .name("read environment".to_owned())
            .spawn(move || {
                // It took so long that nobody waits for it any more, or not.
                let _ = tell.try_send(Environment::read(&reading));
            })
            .map_err(|error| unread(&error))?;
        let read = async { told.recv().await.map_err(|error| unread(&error))? };
        let late = async { Err(unread(&late(deadline).await)) };
        read.or(late).await
    }

    /// Runs the check command.
    async fn run(
        &self,
        command: &CheckCommand,
        invocation: &Invocation,
        changes: &Environment,
        deadline: Option<Instant>,
        guard: channel::Sender<Infallible>,
    ) -> Result<(), String> {
        let executable = invocation.executable().as_os_str();
        let program = command.program.as_deref().unwrap_or(executable);
        let mut words = legible(&program.to_string_lossy());
        for argument in &command.arguments {
            words.push(' ');
            words.push_str(&legible(&argument.to_string_lossy()));
        }
        // For a log line, of which it is not the most important part.
        const LONGEST: usize = 300;
        let words: String = words.chars().take(LONGEST).collect();
        log::info!("checking first: running `{words}`");
        let failed = |problem: String| format!("the check `{words}` {problem}");
        let prepared = invocation.command_of(program, &command.arguments);
        let mut prepared =
            prepared.map_err(|error| failed(format!("could not be started: {error}")))?;
        self.before.give_stranger(changes, &mut prepared);
        let begun = Instant::now();
        check::run(prepared, deadline, guard)
            .await
            .map_err(failed)?;
        log::info!("the check has passed, in {:.1?}", begun.elapsed());
        Ok(())
    }

    /// A timeout too long for the clock is none.
    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.timeout)
    }
}

/// Asks the application; a panic of it is a failed restart, not the end of the
/// process that serves.
async fn ask<T>(
    what: &str,
    fails: &str,
    callback: &Callback<T>,
    deadline: Option<Instant>,
) -> Result<T, String> {
    let answer = AssertUnwindSafe(async { callback().await }).catch_unwind();
    let answer = async {
        match answer.await {
            Ok(answer) => answer.map_err(|problem| format!("{what} {fails}: {problem}")),
            Err(_) => Err(format!("{what} {fails}: it panicked")),
        }
    };
    let late = async { Err(format!("{what} {fails}: {}", late(deadline).await)) };
    answer.or(late).await
}

/// Waits for the deadline, and tells what that means.
async fn late(deadline: Option<Instant>) -> &'static str {
    match deadline {
        Some(deadline) => drop(Timer::at(deadline).await),
        None => smol::future::pending().await,
    }
    "it was not done in time"
}
