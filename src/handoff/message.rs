//! What the two ends of a handoff say to each other.
//!
//! Each message is a JSON object whose `message` member names it. Descriptors
//! travel beside it (`SCM_RIGHTS`, unix(7)); a member `fd` is an index into
//! those of the same packet. Members that are not known are ignored, so that a
//! later version can add some; a message that is not known is an error.

use serde::{Deserialize, Serialize};

use crate::listener::ListenerRecord;

/// The version of the protocol that this process speaks.
pub(crate) const VERSION: u64 = 1;

/// What a predecessor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(crate) enum FromPredecessor {
    /// Who started you. Carries the standard input that is meant for you.
    Welcome {
        version: u64,
        pid: i32,
        generation: u64,
    },
    /// The listeners, or some of them; `more` tells whether others follow.
    Listeners {
        listeners: Vec<ListenerRecord>,
        more: bool,
    },
    /// Accept from now on; I no longer do.
    Serve,
    /// From now on nothing is taken back.
    Proven,
    /// I was asked to reload.
    Reload,
    /// I was asked to stop the service.
    Stop,
    /// You are not to serve; I do. Said before the channel is closed, which
    /// alone would mean that I have died.
    Dismissed,
}

/// What a successor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(crate) enum FromSuccessor {
    /// The claim. `free_descriptors` is how many descriptors it can take.
    GetListener {
        version: u64,
        pid: i32,
        generation: u64,
        free_descriptors: u64,
    },
    /// Everything is prepared. `listeners` names, by what was requested, those
    /// of the predecessor's listeners that it keeps.
    Ready { listeners: Vec<String> },
    /// The process ID is published.
    Published,
    /// It stops on purpose.
    Stopping,
    /// It gives up.
    Failed { reason: String },
}

impl FromPredecessor {
    /// The name of the message, as on the wire.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            FromPredecessor::Welcome { .. } => "welcome",
            FromPredecessor::Listeners { .. } => "listeners",
            FromPredecessor::Serve => "serve",
            FromPredecessor::Proven => "proven",
            FromPredecessor::Reload => "reload",
            FromPredecessor::Stop => "stop",
            FromPredecessor::Dismissed => "dismissed",
        }
    }
}

impl FromSuccessor {
    /// The name of the message, as on the wire.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            FromSuccessor::GetListener { .. } => "get_listener",
            FromSuccessor::Ready { .. } => "ready",
            FromSuccessor::Published => "published",
            FromSuccessor::Stopping => "stopping",
            FromSuccessor::Failed { .. } => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::AddressRecord;

    #[test]
    fn messages_have_the_form_that_is_documented() {
        let claim = FromSuccessor::GetListener {
            version: 1,
            pid: 7,
            generation: 2,
            free_descriptors: 1000,
        };
        assert_eq!(
            serde_json::to_string(&claim).unwrap(),
            r#"{"message":"get_listener","version":1,"pid":7,"generation":2,"free_descriptors":1000}"#
        );
        let listeners = FromPredecessor::Listeners {
            listeners: vec![ListenerRecord {
                name: "127.0.0.1:0".into(),
                addr: AddressRecord {
                    requested: "127.0.0.1:0".into(),
                    bound: "127.0.0.1:4711".into(),
                },
                fd: 0,
                file: None,
            }],
            more: false,
        };
        assert_eq!(
            serde_json::to_string(&listeners).unwrap(),
            r#"{"message":"listeners","listeners":[{"name":"127.0.0.1:0","addr":{"requested":"127.0.0.1:0","bound":"127.0.0.1:4711"},"fd":0}],"more":false}"#
        );
    }

    #[test]
    fn a_message_is_named_as_on_the_wire() {
        let message = FromSuccessor::Failed {
            reason: String::new(),
        };
        let json = serde_json::to_value(&message).unwrap();
        assert_eq!(json["message"], message.name());
        let json = serde_json::to_value(FromPredecessor::Serve).unwrap();
        assert_eq!(json["message"], FromPredecessor::Serve.name());
    }

    #[test]
    fn unknown_members_are_ignored_and_unknown_messages_are_not() {
        let ready = r#"{"message":"ready","listeners":[],"mood":"good"}"#;
        assert!(serde_json::from_str::<FromSuccessor>(ready).is_ok());
        let nonsense = r#"{"message":"surrender"}"#;
        assert!(serde_json::from_str::<FromSuccessor>(nonsense).is_err());
    }
}
