//! A successor that a test plays itself.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::{Value, json};

use super::far_end::{Heard, receive, wait_until_readable};
use super::log::Place;
use super::service::FailedRestart;
use super::{Fake, FarEnd, PATIENCE, Process, Service};

/// The test in the place of a successor: it has the channel, and a process that
/// lives for as long as the test wants.
///
/// The process is what the predecessor has started and watches
/// (`tests/it/fake_successor.rs`). It has given its end of the channel away.
pub(crate) struct FalseSuccessor {
    /// `None` once it is closed.
    channel: Option<FarEnd>,
    process: Process,
    orders: UnixStream,
    /// What came after it in the log came of it.
    place: Place,
}

/// Connections, as they were sent.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) number: u64,
    pub(crate) records: Vec<Value>,
    pub(crate) sockets: Vec<OwnedFd>,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whose connections these are.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &str> {
        let peers = self.records.iter().map(|it| it["peer"].as_str());
        peers.map(|it| it.expect("a peer has a name"))
    }

    /// `None` if it is another message.
    pub(crate) fn from(heard: Heard) -> Option<Self> {
        let Heard {
            message,
            descriptors,
        } = heard;
        if message["message"] != "connections" {
            return None;
        }
        let records = message["connections"].as_array().unwrap().clone();
        assert_eq!(records.len(), descriptors.len(), "{message}");
        Some(Batch {
            number: message["batch"].as_u64().unwrap(),
            records,
            sockets: descriptors,
        })
    }
}

impl Service {
    /// Asks for a restart, and is the successor.
    pub(crate) fn restart_into_false_successor(&self) -> FalseSuccessor {
        let path = Fake::borrower(self.binary().path());
        // A test may play several, one after another.
        let _ = fs::remove_file(&path);
        let borrower = UnixListener::bind(&path).unwrap();
        // The service may be of another user.
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        self.binary().link_to_fake(Fake::LendsItsChannel);
        let place = self.log().here();
        self.current().hup();
        wait_until_readable(&borrower);
        let (orders, _) = borrower.accept().unwrap();
        orders.set_read_timeout(Some(PATIENCE)).unwrap();
        let (_, mut channel) = receive(orders.as_fd()).expect("the channel is lent");
        FalseSuccessor {
            channel: channel.pop().map(FarEnd::new),
            process: self.current().only_child(),
            orders,
            place,
        }
    }

    /// Waits for the line that says what was wrong with a successor.
    pub(crate) fn wait_failure_of(&self, successor: &FalseSuccessor) -> FailedRestart {
        self.wait_failed_restart_after(successor.place)
    }
}

impl FalseSuccessor {
    pub(crate) fn channel(&self) -> &FarEnd {
        self.channel.as_ref().expect("the channel is open")
    }

    pub(crate) fn say(&self, message: Value) {
        self.channel().say(&message);
    }

    /// What a claim says.
    pub(crate) fn claim(&self) -> Value {
        json!({
            "message": "get_listener",
            "version": Fake::VERSION,
            "pid": self.process.pid(),
            "generation": 2,
            "free_descriptors": 1000,
        })
    }

    /// Claims the listeners.
    pub(crate) fn take_listeners(&self) -> Heard {
        self.channel().expect("welcome");
        self.say(self.claim());
        self.channel().expect("listeners")
    }

    /// Says that it is ready and has room for so many connections.
    pub(crate) fn be_ready(&self, listeners: &Heard, room: impl Into<Value>) {
        let listeners = listeners.message["listeners"].as_array().unwrap().iter();
        let bound: Vec<_> = listeners.map(|it| it["addr"]["bound"].clone()).collect();
        self.say(json!({ "message": "ready", "listeners": bound, "room": room.into() }));
    }

    /// Does everything that is needed in order to take over; returns the
    /// ledger, if one came along.
    pub(crate) fn take_over(&self, room: impl Into<Value>) -> Option<OwnedFd> {
        let listeners = self.take_listeners();
        self.be_ready(&listeners, room);
        self.channel().expect("serve").descriptors.pop()
    }

    /// Hears the next batch of connections.
    pub(crate) fn take_batch(&self) -> Batch {
        let heard = self.channel().expect("connections");
        Batch::from(heard).unwrap()
    }

    /// Hears batches until so many connections have come: how many come at a
    /// time is chance. Without an acknowledgement not more than four do.
    pub(crate) fn take(&self, connections: usize) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut taken = 0;
        while taken < connections {
            let batch = self.take_batch();
            taken += batch.len();
            batches.push(batch);
        }
        assert_eq!(taken, connections);
        batches
    }

    /// Acknowledges all of a batch.
    pub(crate) fn adopt(&self, batch: &Batch) {
        self.say_adopted(batch.number, batch.len(), 1000);
    }

    pub(crate) fn say_adopted(
        &self,
        batch: impl Into<Value>,
        taken: impl Into<Value>,
        room: impl Into<Value>,
    ) {
        let (batch, taken, room) = (batch.into(), taken.into(), room.into());
        self.say(json!({ "message": "adopted", "batch": batch, "taken": taken, "room": room }));
    }

    pub(crate) fn close_the_channel(&mut self) {
        self.channel = None;
    }

    /// Its process exits with this status.
    pub(crate) fn exit(&self, status: u8) {
        writeln!(&self.orders, "exit {status}").unwrap();
    }

    /// Its process is killed, unless its predecessor has been quicker.
    pub(crate) fn die(&self) {
        self.process.kill_if_there();
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Lets the predecessor have so many descriptors from now on.
    pub(crate) fn limit_descriptors_of_predecessor(&self, number: u64) {
        writeln!(&self.orders, "limit-predecessor {number}").unwrap();
        let mut answer = String::new();
        BufReader::new(&self.orders).read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n");
    }
}
