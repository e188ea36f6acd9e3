//! The first process, when its successors serve: a stub.
//!
//! Whoever has started a service may watch just the process that it has
//! started: a container ends with its process 1, and a shell has its prompt
//! back. So that process stays. When it has nothing in flight any more, it
//! executes its own image again as a small program that does nothing but
//! follow the generations; its process ID, its parent and its place in the
//! group of a terminal's job stay what they were.
//!
//! # Who tells it what
//!
//! Before it starts the first successor, the first process becomes the reaper
//! of its descendants (`PR_SET_CHILD_SUBREAPER`, prctl(2)), and opens the
//! *line*: a socket pair of packets, one end of which is passed down with each
//! `welcome` ([`crate::handoff`]). A generation that is published sends on it a
//! pidfd of its own and a socket on which it hears, before its predecessor is
//! told and can go; a predecessor tells that this is undone, or, if it reaps
//! a successor that had taken over for good, its status. The end of the line
//! is the end of the last generation.
//!
//! A reload or a stop is passed on as a word on that socket, and not as a
//! signal: the kernel and many supervisors send a signal to a whole group, and
//! a generation that gets it twice must not take it for a second one. It takes
//! the most frequent of the ways in which it heard of a stop for their number.
//! Other signals are sent by pidfd, so to no process that merely has the same
//! number, and only if they were sent to the stub alone.
//!
//! What is passed on is said to all generations that are there, and to one that
//! turns up meanwhile, so that it is not lost between two of them: whoever has
//! handed over for good takes no notice of a reload, and a first stop changes
//! nothing there.
//!
//! # From the first process to the stub
//!
//! Nothing of what the first process knows is lost with its image. It sends to
//! itself, on a socket that the stub finds on its standard input, the other
//! end of the line, what it knows of the generations, and the pipes behind its
//! signal handlers ([`message`]). The stub believes the variable
//! [`STUB_VARIABLE`] only if that socket was made by this very process.
//!
//! A signal for the process is taken by its main thread, as long as that does
//! not block it and has not just been given another one; what the handler
//! writes is in a pipe, which the stub reads. In the last moment before `exec`
//! that thread blocks them, and they stay pending. The thread of async-io has
//! had them blocked from its beginning, so that they do not go there instead, to
//! be lost if `exec` ends that thread within the handler. This can happen only
//! if there are other threads: those of the application, and of `blocking`.

mod chronicle;
mod following;
mod line;
mod message;
mod process;

use std::process::{ExitCode, Termination};

use crate::error::Error;
use crate::generation::Generation;
use crate::handoff::successor::maker_of_stdin;

pub(crate) use self::following::{Following, Seat, is_wanted};
pub(crate) use self::line::Line;
pub(crate) use self::message::Word;

/// Names the process ID of the stub.
const STUB_VARIABLE: &str = "HEIRLOOM_STUB";

/// Runs a service so that the process that was started can stay, as a *stub*,
/// when its successors serve: the whole of a `main`.
///
/// This begins the [`Generation`] of the process, and runs on an executor of
/// its own what `service` makes of it, which is to give it to a
/// [`Server`](crate::Server) and serve. In the first process of a service that
/// [stays](crate::Server::pid_one_stub), it goes on after that: as a program of
/// a few megabytes that passes signals on to whoever serves, reaps orphans, and
/// exits with the status of the last generation, or with 128 and the number of
/// the signal that has killed it.
///
/// In a stub `service` is not called, but what `main` does before it comes to
/// this function is done anew there. So that should be nothing, or setting up
/// a logger.
///
/// # Errors
///
/// If the generation cannot be begun ([`Generation::begin`]), and whatever
/// `service` fails with. A `main` that returns the error shows it.
///
/// # Examples
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use heirloom::{Response, Server};
///
/// fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
///     heirloom::run(|generation| async {
///         let greeting = std::fs::read_to_string("greeting.txt")
///             .inspect_err(|error| generation.fail(&format!("greeting.txt: {error}")))?;
///         Server::new(move |_request| {
///             let greeting = greeting.clone();
///             async move { Ok(Response::from(greeting)) }
///         })
///         .generation(generation)
///         .listen("127.0.0.1:8000")
///         .serve()
///         .await?;
///         Ok(())
///     })
/// }
/// ```
pub fn run<F, Fut, T, E>(service: F) -> Result<ExitCode, E>
where
    F: FnOnce(Generation) -> Fut,
    Fut: Future<Output = Result<T, E>>,
    T: Termination,
    E: From<Error> + std::fmt::Display,
{
    if is_stub() {
        return Ok(process::be_stub());
    }
    if let Err(error) = process::start_reactor() {
        log::warn!("a signal may be lost when this process becomes a stub: {error}");
    }
    let seat = Seat::default();
    let mut generation = Generation::begin()?;
    generation.seat = Some(seat.clone());
    let outcome = smol::block_on(service(generation));
    let Some(departure) = seat.take() else {
        return outcome.map(Termination::report);
    };
    // Whatever the service thinks of its own end, others serve.
    if let Err(error) = outcome {
        log::error!("{error}");
    }
    Ok(departure.become_stub())
}

/// Whether this process has become a stub.
fn is_stub() -> bool {
    let maker = maker_of_stdin(STUB_VARIABLE);
    maker.and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id())
}

/// Whether this is the process whose end is that of all others around it.
pub(crate) fn is_first_of_all() -> bool {
    std::process::id() == 1
}
