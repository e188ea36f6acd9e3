//! A listener as the handoff describes it.

use serde::{Deserialize, Serialize};

/// A listener, described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerRecord {
    /// What the application calls it.
    pub(crate) name: String,
    /// `systemd:` and the name by which systemd passed the socket to the
    /// service, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
    pub(crate) addr: AddressRecord,
    /// The index of its descriptor in the packet.
    pub(crate) fd: usize,
    /// Device and inode of a UNIX socket's file, so that its last owner
    /// removes that file and no other; that of one passed by systemd is
    /// systemd's to remove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<(u64, u64)>,
    /// Whether it is the control socket rather than one for clients.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) control: bool,
}

/// An address: as it was asked for, and as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressRecord {
    pub(crate) requested: String,
    pub(crate) bound: String,
}
