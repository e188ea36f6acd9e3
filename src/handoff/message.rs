//! What the two ends of a handoff say to each other.
//!
//! Each message is a JSON object whose `message` member names it. Descriptors
//! travel beside it (`SCM_RIGHTS`, unix(7)); a member `fd` is an index into
//! those of the same packet. Bytes that are no JSON follow the object after a
//! line feed, which the object itself does not contain. Members that are not
//! known are ignored, so that a later version can add some; a message that is
//! not known is an error.

use serde::{Deserialize, Serialize};

use crate::listener::ListenerRecord;

/// The version of the protocol that this process speaks.
pub(crate) const VERSION: u64 = 2;

/// Defines one side's messages, and with them the list of their names, from
/// which the tests take what can go wrong: a new message cannot be forgotten.
macro_rules! messages {
    (
        $(#[$about:meta])*
        enum $side:ident {
            $(
                $(#[$note:meta])*
                $message:ident $({ $($(#[$member_note:meta])* $member:ident: $type:ty,)+ })? = $name:literal,
            )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "message")]
        pub(crate) enum $side {
            $(
                $(#[$note])*
                #[serde(rename = $name)]
                $message $({ $($(#[$member_note])* $member: $type,)+ })?,
            )+
        }

        impl $side {
            /// The names of all messages, as on the wire.
            #[cfg(test)]
            pub(crate) const NAMES: &[&str] = &[$($name),+];

            /// The name of the message, as on the wire.
            pub(crate) fn name(&self) -> &'static str {
                match self {
                    $($side::$message { .. } => $name,)+
                }
            }
        }
    };
}

messages! {
    /// What a predecessor says.
    enum FromPredecessor {
        /// Who started you. Carries the standard input that is meant for you.
        Welcome {
            version: u64,
            pid: i32,
            generation: u64,
            /// Whether a second descriptor is the line to the first process,
            /// which follows the generations.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            line: bool,
            /// Whether the service ends with its terminal.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            terminal: bool,
        } = "welcome",
        /// The listeners, or some of them; `more` tells whether others follow.
        Listeners {
            listeners: Vec<ListenerRecord>,
            more: bool,
            /// What the application hands over besides, if it does.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            state: Option<StateRecord>,
        } = "listeners",
        /// Accept from now on; I no longer do.
        Serve {
            /// Whether the ledger comes along, in which the successor notes
            /// what it has done with each connection that is to follow.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            ledger: bool,
            /// How many connections may follow, so that their places are not
            /// given away.
            #[serde(default)]
            connections: usize,
            /// In how many milliseconds the successor is proven at the latest,
            /// unless the predecessor hangs; absent if it has no deadline.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            proven_within_ms: Option<u64>,
        } = "serve",
        /// Connections, with what has been read from them, one after another,
        /// behind the object.
        Connections {
            batch: u64,
            connections: Vec<ConnectionRecord>,
        } = "connections",
        /// No more connections will come.
        HandedOver = "handed_over",
        /// The time of the probation is over: publish your process ID.
        Publish = "publish",
        /// From now on nothing is taken back.
        Proven = "proven",
        /// I was asked to reload.
        Reload = "reload",
        /// I was asked to stop the service.
        Stop = "stop",
        /// You are not to serve; I do. Said before the channel is closed,
        /// which alone would mean that I have died.
        Dismissed = "dismissed",
    }
}

messages! {
    /// What a successor says.
    enum FromSuccessor {
        /// The claim. `free_descriptors` is how many descriptors it can take.
        GetListener {
            version: u64,
            pid: i32,
            generation: u64,
            free_descriptors: u64,
        } = "get_listener",
        /// Everything is prepared.
        Ready {
            /// By what was requested, those of the predecessor's listeners
            /// that it keeps.
            listeners: Vec<String>,
            /// How many connections it can take.
            #[serde(default)]
            room: usize,
            /// The path of its control socket, if it has one.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            control: Option<String>,
        } = "ready",
        /// It has the first `taken` connections of a batch, and no other.
        Adopted {
            batch: u64,
            taken: usize,
            /// How many more it can take.
            room: usize,
        } = "adopted",
        /// The process ID is published.
        Published = "published",
        /// It stops on purpose.
        Stopping = "stopping",
        /// It gives up.
        Failed {
            reason: String,
        } = "failed",
    }
}

/// A connection, described; its descriptor has the same place in the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionRecord {
    /// `address:port`, or `unix`.
    pub(crate) peer: String,
    /// The name of the listener through which it came.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) listener: String,
    /// Its place in the ledger.
    pub(crate) slot: u32,
    /// Whether a request on it has been answered.
    pub(crate) served: bool,
    /// For how long it has been waiting for a request, or for the rest of a
    /// request head, in milliseconds.
    pub(crate) waited_ms: u64,
    /// How much has been read from it that belongs to a next request.
    pub(crate) bytes: usize,
}

/// The application's state: a stream from which it can be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    /// The index of the stream's descriptor in the packet.
    pub(crate) fd: usize,
    /// How many bytes there are.
    pub(crate) bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::AddressRecord;

    #[test]
    fn messages_have_the_form_that_is_documented() {
        let claim = FromSuccessor::GetListener {
            version: 2,
            pid: 7,
            generation: 2,
            free_descriptors: 1000,
        };
        assert_eq!(
            serde_json::to_string(&claim).unwrap(),
            r#"{"message":"get_listener","version":2,"pid":7,"generation":2,"free_descriptors":1000}"#
        );
        let listeners = FromPredecessor::Listeners {
            listeners: vec![ListenerRecord {
                name: "127.0.0.1:0".into(),
                origin: None,
                addr: AddressRecord {
                    requested: "127.0.0.1:0".into(),
                    bound: "127.0.0.1:4711".into(),
                },
                fd: 0,
                file: None,
                control: false,
            }],
            more: false,
            state: None,
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
        let serve = FromPredecessor::Serve {
            ledger: false,
            connections: 3,
            proven_within_ms: None,
        };
        assert_eq!(
            serde_json::to_string(&serve).unwrap(),
            r#"{"message":"serve","connections":3}"#
        );
        assert_eq!(serve.name(), "serve");
    }

    #[test]
    fn unknown_members_are_ignored_and_unknown_messages_are_not() {
        let ready = r#"{"message":"ready","listeners":[],"mood":"good"}"#;
        assert!(serde_json::from_str::<FromSuccessor>(ready).is_ok());
        let nonsense = r#"{"message":"surrender"}"#;
        assert!(serde_json::from_str::<FromSuccessor>(nonsense).is_err());
    }

    #[test]
    fn every_message_is_described() {
        let document = include_str!("mod.rs");
        for name in FromPredecessor::NAMES.iter().chain(FromSuccessor::NAMES) {
            assert!(document.contains(&format!("`{name}`")), "`{name}`");
        }
    }
}
