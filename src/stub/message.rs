//! What the generations and the first process say to each other, apart from
//! the handoff: JSON objects, one a packet, as there.

use serde::{Deserialize, Serialize};

/// What a generation says on the line to the first process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message")]
pub(super) enum FromGeneration {
    /// I am the main process now, unless that is undone. Comes with a pidfd of
    /// the process, and with a socket on which it hears [`Word`]s.
    #[serde(rename = "published")]
    Published { pid: i32, generation: u64 },
    /// My successor, of this generation, is lost, and I serve again.
    #[serde(rename = "undone")]
    Undone { generation: u64 },
    /// My successor, of this generation, has ended, and I have reaped it.
    #[serde(rename = "ended")]
    Ended { generation: u64, code: u8 },
}

/// What the first process passes on to a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message")]
pub(crate) enum Word {
    /// The first process was asked to reload.
    #[serde(rename = "reload")]
    Reload,
    /// The first process was asked to stop the service.
    #[serde(rename = "stop")]
    Stop,
}

/// What the first process leaves to the stub that it becomes.
///
/// The descriptors that come along are, in this order: the line; the pipes of
/// signals; for each generation that is `reachable`, its pidfd and the socket
/// on which it hears; the terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Testament {
    /// Those that are known to have been the main one, the last one first.
    pub(super) generations: Vec<GenerationRecord>,
    /// Of which signals pipes come along, by number.
    pub(super) signals: Vec<i32>,
    pub(super) terminal: bool,
}

/// A generation that was, or is, the main one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationRecord {
    pub(super) pid: i32,
    pub(super) generation: u64,
    /// Whether a pidfd comes along.
    pub(super) pidfd: bool,
    /// Whether a socket comes along.
    pub(super) ear: bool,
    /// How it ended, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<u8>,
}
