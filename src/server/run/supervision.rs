//! What the supervisor is told of the loop; [`crate::supervisor`] has the
//! whole of it.

use super::{Running, Successor};
use crate::lifecycle::{Effect, Phase, State};

impl Running {
    /// Announces what is about to be done. A successor is announced before it
    /// is told that it is proven, and so before anything that it says itself.
    pub(super) fn announce(&mut self, effect: Effect) {
        match effect {
            // Nobody has asked the supervisor for a restart.
            Effect::Spawn if self.control.heir().is_some() => {
                let status = format!("being taken over; {}", self.serving());
                self.supervisor.status(status);
            }
            Effect::Spawn => {
                let status = format!("restarting; {}", self.serving());
                self.supervisor.reloading(status);
            }
            Effect::SendServe => {
                let (verb, count) = match self.options.hand_over && self.room > 0 {
                    true => ("handing over", self.roster.len()),
                    false => ("draining", self.roster.len()),
                };
                let status = format!("{verb} {count} connections{}", self.to_successor());
                self.supervisor.status(status);
            }
            // It is the main process of another service, and this one ends.
            Effect::SendProven if self.is_taken_over() => {
                let status = format!("taken over{}; {}", self.by_successor(), self.stopping());
                self.supervisor.stopping(status);
            }
            Effect::SendProven => {
                if let Some(pid) = self.successor.as_ref().and_then(Successor::serving_pid) {
                    let status = format!("generation {} (pid {pid}) serves", self.number + 1);
                    self.supervisor.retire(pid, status);
                }
            }
            Effect::SendStop | Effect::SendStopping => {
                self.supervisor.stopping(self.stopping());
            }
            Effect::StartRetirement => {
                let delay = self.options.shutdown_delay;
                let status = format!("stopping in {delay:?}; {}", self.serving());
                self.supervisor.stopping(status);
            }
            // What was announced of the successor is not true any more.
            Effect::Republish => self.supervisor.reclaim(self.serving()),
            Effect::SendListeners
            | Effect::StopAccepting
            | Effect::StartHandover
            | Effect::StartDrain
            | Effect::StartProbation
            | Effect::Resume
            | Effect::SendReload
            | Effect::SendPublish
            | Effect::Relinquish
            | Effect::Publish
            | Effect::Fence
            | Effect::CloseListeners
            | Effect::StartDeadline
            | Effect::AwaitDrained
            | Effect::Kill
            | Effect::Bury
            | Effect::Release
            | Effect::Report
            | Effect::Exit => {}
        }
    }

    /// Announces that a restart has come to nothing, if that is so.
    pub(super) fn announce_return(&mut self, before: State) {
        if self.state != State::Serving || before.phase() == Phase::Serving {
            return;
        }
        let verb = match before.phase() {
            Phase::Draining => "undone",
            Phase::Serving | Phase::Forking | Phase::Handoff => "failed",
        };
        let reason = self.failure.as_deref().unwrap_or_default();
        let status = format!("restart {verb}: {reason}; {}", self.serving());
        self.supervisor.ready(status);
    }

    /// The predecessor has made this process the main one, or is gone.
    pub(super) fn inherit_supervisor(&mut self) {
        let status = match self.state.phase() {
            Phase::Draining => self.stopping(),
            Phase::Serving | Phase::Forking | Phase::Handoff => self.serving(),
        };
        self.supervisor.inherit(status);
    }

    /// What we do as long as nothing happens.
    pub(super) fn serving(&self) -> String {
        format!("generation {} serves on {}", self.number, self.listeners)
    }

    fn stopping(&self) -> String {
        format!("stopping; {} to finish", self.roster.census())
    }

    fn by_successor(&self) -> String {
        let pid = self.successor.as_ref().and_then(Successor::pid);
        pid.map_or(String::new(), |pid| format!(" by process {pid}"))
    }

    fn to_successor(&self) -> String {
        match &self.successor {
            Some(successor) => format!(" to {successor}"),
            None => String::new(),
        }
    }
}
