//! What is said on a control socket.
//!
//! This file is part of both programs: the library answers, and the command
//! `heirloom` asks.

use serde::{Deserialize, Serialize};

/// What a client asks for; one a connection, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    /// How is the service?
    Status,
    /// Restart it, and tell what comes of it.
    Restart {
        /// Not another one, if this one has begun already: what comes of it?
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<Attempt>,
    },
    /// Stop it, and tell when it has stopped.
    Stop,
    /// Hand it over to the process that asks.
    Takeover {
        /// Of the handoff protocol that it speaks.
        version: u64,
    },
}

/// Names a restart for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// Whose successor it is to bring about.
    pub(crate) generation: u64,
    /// The how many-th of that generation, from 1.
    pub(crate) attempt: u64,
}

/// What the service says, one in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// How the service is.
    Status(StatusReport),
    /// A restart has come this far. Others follow.
    Progress(Progress),
    /// A restart is done: its successor serves, and nothing is taken back.
    Restarted(Restarted),
    /// A restart came to nothing, or was undone.
    Failed {
        /// The line that is logged about it.
        reason: String,
    },
    /// Another process serves by now, and is to be asked.
    Superseded {
        /// The path of its control socket; none if it has none.
        socket: Option<String>,
        /// What to ask it.
        ask: Request,
    },
    /// The process has begun to stop. `stopped` follows.
    Stopping(Stopping),
    /// The process ends; what follows is the end of the connection.
    Stopped {
        /// How many connections were cut off.
        cut: usize,
    },
    /// A takeover begins: one end of a channel comes along.
    Granted,
    /// The request was not understood, or cannot be granted.
    Refused { reason: String },
}

/// How the service is, as the process sees it that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// The version of the library.
    pub(crate) heirloom: String,
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    /// `serving`, `forking`, `handoff` or `draining`.
    pub(crate) state: String,
    /// Whether this process is there to stay: its own probation is over.
    pub(crate) proven: bool,
    pub(crate) listeners: Vec<String>,
    pub(crate) connections: Connections,
    /// For how long this process has been serving.
    pub(crate) uptime_ms: u64,
    /// The process that is to take over, or has.
    pub(crate) successor: Option<u32>,
    pub(crate) last_restart: Option<LastRestart>,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connections {
    pub(crate) idle: usize,
    pub(crate) busy: usize,
}

/// The last restart that came to an end: the one that brought the process
/// about, or one that it tried in vain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastRestart {
    pub(crate) result: RestartResult,
    /// The line that was logged, if it came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// How long ago it ended.
    pub(crate) ago_ms: u64,
    pub(crate) took_ms: u64,
    /// How many connections it has moved.
    pub(crate) handed_over: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RestartResult {
    Ok,
    Failed,
}

/// How far a restart has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Which one.
    pub(crate) restart: Attempt,
    pub(crate) state: RestartState,
    pub(crate) successor: Option<u32>,
    /// How many connections the successor has taken.
    pub(crate) handed_over: usize,
    /// Since it began.
    pub(crate) elapsed_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RestartState {
    /// It begins when another one, or a probation, is over.
    Waiting,
    /// The successor is starting.
    Forking,
    /// The successor has the listeners and is getting ready.
    Handoff,
    /// The successor serves and is watched.
    Probation,
    /// Its probation is over; its process ID is being published, and the last
    /// idle connections are moving to it.
    Publishing,
}

/// A restart that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restarted {
    /// The process that serves now.
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    pub(crate) took_ms: u64,
    /// How many connections it has moved.
    pub(crate) handed_over: usize,
}

/// A process that stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stopping {
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    pub(crate) connections: Connections,
}
