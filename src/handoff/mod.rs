//! The handoff: how a predecessor passes its listeners and its connections to
//! its successor.
//!
//! The two run from the same executable as a rule, but neither takes that for
//! granted: the channel is a `SOCK_SEQPACKET` socket pair, the messages are
//! small JSON objects, one a packet, with descriptors attached
//! ([`message`]). The predecessor's end is [`predecessor`], the successor's is
//! [`successor`]; the two files have the same order.
//!
//! | # | message | from | meaning |
//! |---|---|---|---|
//! | 0 | `welcome` | predecessor | queued before the successor exists: version, who we are, the real stdin, and, if the first process follows the generations, the line to it ([`crate::stub`]) |
//! | 1 | `get_listener` | successor | the claim: the configuration is read |
//! | 2 | `listeners` | predecessor | all listeners, in one or more messages, the control socket marked as such, and with the last a stream of the application's state, if there is one |
//! | 3 | `ready` | successor | new addresses are bound, everything is prepared; names the listeners it keeps, how many connections it can take, and the path of its control socket |
//! | 4 | `serve` | predecessor | the commit: the predecessor no longer accepts, the successor does; with it the ledger |
//! | 5 | `connections` | predecessor | a batch of connections; there may be any number of them |
//! | 6 | `adopted` | successor | how many of a batch it has, and how many more it can take |
//! | 7 | `handed_over` | predecessor | no more connections will come |
//! | 8 | `publish` | predecessor | the time of the probation is over |
//! | 9 | `published` | successor | its process ID is the published one |
//! | 10 | `proven` | predecessor | nothing is taken back any more |
//! | – | `reload`, `stop` | predecessor | a signal that the predecessor got and the successor is to act on |
//! | – | `dismissed` | predecessor | the successor is not to serve; it is about to be killed, if that can be done |
//! | – | `stopping` | successor | it stops on purpose; nothing is to be taken back, and nothing more to be handed over |
//! | – | `failed` | successor | why it gives up, before it serves or because it cannot publish its process ID |
//!
//! Between 4 and the successor's first accept nobody accepts; connections that
//! arrive wait in the listeners' queues. If the predecessor dies before it
//! sends `serve`, the successor has the listeners and serves all the same.
//! `proven` may come before the last `connections`, if requests take longer
//! than the probation. Until it is sent the predecessor takes everything back
//! if the successor dies, its published process ID as well, so that there is no
//! moment at which nobody would serve. A predecessor that hangs meanwhile, and
//! could wake up and take back what has long been passed on, is killed once it
//! should have come to its end.
//!
//! At most four batches are unacknowledged at a time. A connection is served by
//! the predecessor until the very tick in which it is sent. Until `proven` the
//! predecessor keeps a copy of each, and the successor notes in the ledger
//! ([`crate::ledger`]) what it does with it, so that connections can come back.
//! A successor does not exit before it has heard `handed_over`, unless it stops
//! for good: whatever comes to it while it drains, it passes on to its own
//! successor.
//!
//! What a predecessor cannot send for the moment, because too many descriptors
//! are under way between processes of the same user (unix(7)), it sends within a
//! second, and nothing overtakes it: the welcome before it starts the successor,
//! the listeners, and `serve`, until which nobody accepts. Connections wait in
//! service.
//!
//! Neither end relies on the other: a message that is malformed, too long, out
//! of order or without its descriptors is an error that names the step. Up to
//! its readiness a successor gives up for it; once it serves it goes on, and no
//! longer listens. A predecessor parts with the successor. What is announced
//! and does not come is waited for with a deadline, or, once the successor
//! serves, not at all: places for connections are kept for five seconds.
//!
//! The successor finds the channel on its standard input, because that is the
//! one descriptor a process can be given without `unsafe`, without a
//! descriptor number to agree on, and without a path on disk. The variable
//! [`PREDECESSOR_VARIABLE`] tells it to look there; it believes the variable
//! only if standard input is such a socket and was made by that very process
//! (`SO_PEERCRED`, socket(7)), so that a grandchild that merely inherits the
//! environment is not misled.
//!
//! A process that somebody else has started and that takes over
//! ([`Server::takeover`](crate::Server::takeover)) gets its end of the channel by
//! way of the control socket; its `welcome` brings nothing along. Everything
//! else is the same, but that it is nobody's to reap: its end is seen by a
//! pidfd. Nor is it killed when it is dismissed, unless it hangs while it
//! serves, or has no room for the word: one that has not heard it takes the end
//! of the channel for our death, and serves.
//!
#![doc = include_str!("kill.md")]

pub(crate) mod channel;
#[cfg(test)]
mod kill;
pub(crate) mod message;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracle;
pub(crate) mod predecessor;
pub(crate) mod successor;

/// Names the process ID of the predecessor.
pub(crate) const PREDECESSOR_VARIABLE: &str = "HEIRLOOM_PREDECESSOR";
