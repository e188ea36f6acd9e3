//! The control socket: where the service is asked about itself, and told to
//! restart or to stop.
//!
//! # The protocol
//!
//! A client connects to the UNIX stream socket, sends one JSON object in one
//! line ([`message::Request`]), and gets one or more in as many lines
//! ([`message::Answer`]); then the service closes the connection. What is said
//! to whom, with examples, is in the documentation of
//! [`Server::control_socket`](crate::Server::control_socket). Members that are
//! not known are to be ignored, in both directions, so that a later version
//! can add some.
//!
//! | request | answers, in this order |
//! |---|---|
//! | `status` | `status` |
//! | `restart` | `progress`, any number of them; then `restarted`, `failed` or `superseded` |
//! | `stop` | `stopping`; then `stopped`, or `superseded` alone |
//! | `takeover` | `granted`, with a channel |
//! | anything | `refused`, if it cannot be heard |
//!
//! # What a restart is that somebody waits for
//!
//! It is one that begins after the request, so that the configuration is read
//! after it. While another one is under way, or while this process is on
//! probation itself, that is the one that follows, by the rule of the
//! lifecycle. `restarted` is said when the successor is proven and published,
//! and whatever could move to it has moved; `failed` at once.
//!
//! If the one that is under way succeeds, the one that follows is the
//! successor's to do, and its predecessor may be gone before it is done. So
//! the client is told `superseded`, with the words that are to be said to the
//! successor: not "restart", which would ask for one more if that one has begun
//! meanwhile, but "what comes of the first restart of generation 3"
//! ([`message::Attempt`]). That question can be asked at any time and of any
//! generation: whoever has it begun knows its result, or will; to a later
//! generation it is answered by its own existence; and in an earlier one,
//! which serves again because generation 3 was undone, it is a request that
//! nobody has granted yet. It is said only when the successor is proven: until
//! then it could be undone, and the restart would be ours again.
//!
//! For the same reason a client whose connection ends without a result, because
//! a process was killed, can ask for that of the restart it was last told about.
//!
//! # Over generations
//!
//! The listening socket is handed over with the others, marked as what it is
//! (`listeners`, see [`crate::handoff`]), and whoever accepts clients accepts
//! here: the predecessor, until it sends `serve`; then the successor; and the
//! predecessor again, if that one is undone. The path leads to the same socket
//! all the time, so a client that comes in between waits in the queue.
//!
//! The other way would be that each successor binds a socket of its own beside
//! the path and renames it over. Nobody would have to hand over anything; but
//! a successor that is killed on probation would leave the path to nobody, the
//! predecessor's socket would have no way back to it, and a rename does not
//! tell whether it was somebody else's live socket that it has replaced.
//!
//! If the configuration of the successor names another path, it binds that one
//! before it is ready, as it does with a new address; the old one is closed and
//! its file removed when the successor is proven. Until then the predecessor
//! goes on hearing there, and refers its clients to the new one. A process
//! that stops without a successor hears until its end, so that it can be asked
//! what it is waiting for, and removes the file last, if it is still its own
//! (device and inode). One that is killed leaves it behind, and the next to
//! start finds nobody listening there, and replaces it.
//!
//! # Takeovers
//!
//! A process that was started by somebody else may ask for the service instead
//! of for a successor ([`Server::takeover`](crate::Server::takeover)):
//!
//! ```text
//! {"request":"takeover","version":2}
//! {"answer":"granted"}
//! ```
//!
//! `version` is that of the handoff protocol. With the answer comes a
//! descriptor (`SCM_RIGHTS`, unix(7)): one end of a `SOCK_SEQPACKET` socket
//! pair, on which the handoff begins with a `welcome` that has no descriptors.
//! Otherwise the answer is `refused`: takeovers are off, the service is that of
//! process 1, another version, or anything but a service that serves and has
//! nothing else in hand.
//!
//! # Who is let in
//!
//! The socket's file has mode 0600 from the moment it is made, whatever the
//! umask; besides, a client is heard only if its user is the one that the
//! service runs as, or root (`SO_PEERCRED`). To others the connection is
//! closed without a byte. A client in a PID namespace outside of the service's
//! counts as one of them, because the kernel has no process ID for it there:
//! into a container, the command has to be brought along.

mod applicant;
mod desk;
mod message;
mod socket;

pub(crate) use self::applicant::apply;
pub(crate) use self::desk::{Beginnings, Control, Facts, path_of};

#[cfg(test)]
mod tests {
    use serde_json::{Deserializer, Value};

    use super::message::{Answer, Request};

    /// The documentation of `Server::control_socket`.
    fn document() -> String {
        let source = include_str!("../server/mod.rs");
        let (before, _) = source.split_once("pub fn control_socket(").unwrap();
        let lines: Vec<&str> = before
            .lines()
            .rev()
            .skip(1)
            .take_while(|line| line.trim_start().starts_with("///"))
            .collect();
        let lines = lines.into_iter().rev().map(|line| line.trim_start());
        lines.map(|line| &line[3..]).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_documented_is_what_is_said() {
        let document = document();
        let mut said = Vec::new();
        for block in document.split("```text").skip(1) {
            let (block, _) = block.split_once("```").unwrap();
            for value in Deserializer::from_str(block).into_iter::<Value>() {
                let value = value.unwrap();
                let again = if value["request"].is_string() {
                    said.push(value["request"].as_str().unwrap().to_owned());
                    let request: Request = serde_json::from_value(value.clone()).unwrap();
                    serde_json::to_value(request).unwrap()
                } else {
                    said.push(value["answer"].as_str().unwrap().to_owned());
                    let answer: Answer = serde_json::from_value(value.clone()).unwrap();
                    serde_json::to_value(answer).unwrap()
                };
                assert_eq!(again, value);
            }
        }
        assert_eq!(
            said,
            [
                "status",
                "status",
                "restart",
                "progress",
                "progress",
                "progress",
                "restarted",
                "stop",
                "stopping",
                "stopped"
            ]
        );
        for name in ["failed", "superseded", "refused"] {
            assert!(document.contains(&format!("| `{name}` |")), "{name}");
        }
        let takeover = Request::Takeover {
            version: crate::handoff::message::VERSION,
        };
        for line in [
            serde_json::to_string(&takeover).unwrap(),
            serde_json::to_string(&Answer::Granted).unwrap(),
        ] {
            assert!(
                include_str!("mod.rs").contains(&format!("//! {line}\n")),
                "{line}"
            );
        }
        let late = r#"{"request":"restart","of":{"generation":2,"attempt":1}}"#;
        assert!(document.contains(late));
        let late: Request = serde_json::from_str(late).unwrap();
        assert!(matches!(late, Request::Restart { of: Some(_) }));
    }
}
