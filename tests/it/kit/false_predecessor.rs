//! A predecessor that a test plays itself.

use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{fcntl_dupfd_cloexec, pwrite};
use serde_json::{Value, json};

use super::{Address, Client, Config, Fake, FarEnd, Launch, Service};

/// The test in the place of a predecessor of the `api` example.
///
/// The successor believes it because we have made the channel.
pub(crate) struct FalsePredecessor {
    /// `None` once it is closed.
    channel: Option<FarEnd>,
    successor: Service,
    listener: TcpListener,
}

/// A connection to be handed over: its client, and our end of it.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) client: Client,
    pub(crate) socket: OwnedFd,
}

impl FalsePredecessor {
    /// What a predecessor says before its successor is there.
    pub(crate) fn welcome() -> Value {
        json!({
            "message": "welcome",
            "version": Fake::VERSION,
            "pid": std::process::id(),
            "generation": 1,
        })
    }

    /// Starts a successor and welcomes it.
    pub(crate) fn start(config: Config) -> Self {
        FalsePredecessor::start_after(config, |channel| {
            let stdin = rustix::stdio::stdin();
            channel.say_with(&FalsePredecessor::welcome(), &[stdin.as_fd()]);
        })
    }

    /// Starts a successor after something was said.
    pub(crate) fn start_after(config: Config, say: impl FnOnce(&FarEnd)) -> Self {
        let (channel, theirs) = FarEnd::pair();
        say(&channel);
        let launch = Launch::api(config).stdin(theirs);
        let pid = std::process::id().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        FalsePredecessor {
            channel: Some(channel),
            successor: launch.environment("HEIRLOOM_PREDECESSOR", &pid).spawn(),
            listener,
        }
    }

    /// Starts a successor that serves and has been told that so many
    /// connections may follow.
    pub(crate) fn with_successor(config: Config, connections: u64) -> Self {
        let predecessor = FalsePredecessor::start(config);
        predecessor.give_listeners();
        predecessor.channel().expect("ready");
        let (ledger, _) = FalsePredecessor::ledger();
        let serve = json!({ "message": "serve", "ledger": true, "connections": connections });
        predecessor.channel().say_with(&serve, &[ledger.as_fd()]);
        predecessor.wait_until_it_serves();
        predecessor
    }

    pub(crate) fn channel(&self) -> &FarEnd {
        self.channel.as_ref().expect("the channel is open")
    }

    pub(crate) fn close_the_channel(&mut self) {
        self.channel = None;
    }

    pub(crate) fn successor(&self) -> &Service {
        &self.successor
    }

    /// A listener that can be handed over.
    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Its description, as the first one in a packet.
    pub(crate) fn listener_record(&self) -> Value {
        let requested = "127.0.0.1:0";
        json!({
            "name": requested,
            "addr": { "requested": requested, "bound": self.address() },
            "fd": 0,
        })
    }

    /// Where it is bound.
    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// Waits for the claim and answers it as one should.
    pub(crate) fn give_listeners(&self) {
        self.channel().expect("get_listener");
        let listeners = [self.listener_record()];
        let message = json!({ "message": "listeners", "listeners": listeners, "more": false });
        self.channel().say_with(&message, &[self.listener()]);
    }

    /// A ledger with a page of places that nobody has touched: both ends.
    pub(crate) fn ledger() -> (OwnedFd, OwnedFd) {
        let ledger = memfd_create("a ledger", MemfdFlags::CLOEXEC).unwrap();
        pwrite(&ledger, &[1; 4096], 0).unwrap();
        let copy = fcntl_dupfd_cloexec(&ledger, 3).unwrap();
        (ledger, copy)
    }

    pub(crate) fn wait_until_it_serves(&self) {
        self.successor.wait_generation(2);
    }

    /// Hands connections over and returns how many of them are taken, and how
    /// many more there is room for.
    pub(crate) fn hand_over(
        &self,
        batch: u64,
        records: &[Value],
        sockets: &[BorrowedFd<'_>],
        payload: &[u8],
    ) -> (u64, u64) {
        let message = json!({ "message": "connections", "batch": batch, "connections": records });
        let mut packet = message.to_string().into_bytes();
        packet.push(b'\n');
        packet.extend(payload);
        self.channel().say_bytes(&packet, sockets);
        let adopted = self.channel().expect("adopted").message;
        assert_eq!(adopted["batch"], batch);
        (
            adopted["taken"].as_u64().unwrap(),
            adopted["room"].as_u64().unwrap(),
        )
    }
}

impl Guest {
    pub(crate) fn arrive() -> Self {
        let lobby = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::connect(&Address::Tcp(lobby.local_addr().unwrap())).unwrap();
        let (socket, _) = lobby.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        Guest {
            client,
            socket: socket.into(),
        }
    }

    /// Its description.
    pub(crate) fn record(&self, slot: u32) -> Value {
        Guest::describe(&self.client.name(), slot)
    }

    /// The description of one with this peer.
    pub(crate) fn describe(peer: &str, slot: u32) -> Value {
        json!({ "peer": peer, "slot": slot, "served": true, "waited_ms": 10, "bytes": 0 })
    }
}
