//! The ways in which the bad successor (`tests/it/fake_successor.rs`) is bad.
//!
//! This file is part of both programs: the tests write the name of a behaviour
//! beside the executable, the bad successor looks it up.

use std::path::{Path, PathBuf};

/// What the bad successor does with its end of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fake {
    /// Exits with status 0 before it has said anything.
    ExitsAtOnce,
    /// Exits with status 7 before it has said anything.
    ExitsWithStatus7,
    /// Dies by SIGKILL before it has said anything.
    IsKilled,
    /// Listens and never says anything.
    Hangs,
    /// Closes its end of the channel and lives on.
    ClosesTheChannel,
    /// Sends what is no JSON.
    SpeaksNonsense,
    /// Sends JSON that is no message.
    SpeaksInRiddles,
    /// Sends an empty packet, which looks like the end of the channel.
    SaysNothingAloud,
    /// Says that it is ready before it has asked for anything.
    SpeaksOutOfTurn,
    /// Sends one message that is far too long.
    SpeaksAtLength,
    /// Says why it gives up, in several lines.
    GivesUpInVerse,
    /// Claims the listeners in a version of the protocol that nobody knows.
    SpeaksAnotherVersion,
    /// Claims the listeners and goes on listening.
    ClaimsAndHangs,
    /// Claims the listeners and exits with status 7.
    ClaimsAndExits,
    /// Claims the listeners and dies by SIGKILL.
    ClaimsAndIsKilled,
    /// Claims the listeners and closes its end of the channel.
    ClaimsAndClosesTheChannel,
    /// Claims the listeners twice.
    ClaimsTwice,
    /// Claims the listeners, says why it gives up, and exits with status 7.
    ClaimsAndGivesUp,
    /// Goes through the protocol, and exits with status 7 when told to serve.
    ServesAndExits,
    /// Goes through the protocol, and dies by SIGKILL when told to serve.
    ServesAndIsKilled,
    /// Goes through the protocol, and closes the channel when told to serve.
    ServesAndClosesTheChannel,
    /// Gives its end of the channel to the test, and then does as it is told.
    LendsItsChannel,
}

impl Fake {
    /// What the bad successor says when it gives up.
    pub(crate) const REASON: &str = "the moon is full";

    /// The version of the protocol that the library speaks.
    pub(crate) const VERSION: u64 = 2;

    #[allow(dead_code, reason = "the bad successor uses it")]
    const ALL: [Fake; 22] = [
        Fake::ExitsAtOnce,
        Fake::ExitsWithStatus7,
        Fake::IsKilled,
        Fake::Hangs,
        Fake::ClosesTheChannel,
        Fake::SpeaksNonsense,
        Fake::SpeaksInRiddles,
        Fake::SaysNothingAloud,
        Fake::SpeaksOutOfTurn,
        Fake::SpeaksAtLength,
        Fake::GivesUpInVerse,
        Fake::SpeaksAnotherVersion,
        Fake::ClaimsAndHangs,
        Fake::ClaimsAndExits,
        Fake::ClaimsAndIsKilled,
        Fake::ClaimsAndClosesTheChannel,
        Fake::ClaimsTwice,
        Fake::ClaimsAndGivesUp,
        Fake::ServesAndExits,
        Fake::ServesAndIsKilled,
        Fake::ServesAndClosesTheChannel,
        Fake::LendsItsChannel,
    ];

    /// Where the name of the behaviour of an executable is written.
    pub(crate) fn file(executable: &Path) -> PathBuf {
        executable.with_extension("behaviour")
    }

    /// The UNIX socket on which a test waits for a channel that is lent.
    pub(crate) fn borrower(executable: &Path) -> PathBuf {
        executable.with_extension("borrower")
    }

    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    #[allow(dead_code, reason = "the bad successor uses it")]
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Fake::ALL.into_iter().find(|fake| fake.name() == name)
    }
}
