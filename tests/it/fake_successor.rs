//! A successor that is bad in the way that a test asks for.
//!
//! It is installed in the place of a service's executable, so it is started by
//! the predecessor itself and speaks (or does not speak) on the real channel.
//! It knows the protocol from its description only and shares no code with the
//! library, so that a change of the protocol cannot go unnoticed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test program may panic"
)]

#[path = "kit/fake.rs"]
#[allow(dead_code, reason = "the tests use the other half")]
mod fake;

use std::fs::File;
use std::mem::MaybeUninit;
use std::{env, fs, io, process};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::IoSliceMut;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendFlags, recvmsg, send};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};

use self::fake::Fake;

/// The version of the protocol that the library speaks.
const VERSION: u32 = 2;

fn main() {
    let executable = env::current_exe().expect("/proc is there");
    let name = fs::read_to_string(Fake::file(&executable)).expect("a test has chosen a behaviour");
    match Fake::from_name(&name).expect("the behaviour is known") {
        Fake::ExitsAtOnce => {}
        Fake::ExitsWithStatus7 => exit_with_status_7(),
        Fake::IsKilled => die(),
        Fake::Hangs => listen_for_ever(),
        Fake::ClosesTheChannel => close_and_live_on(),
        Fake::SpeaksNonsense => {
            say_bytes(b"}{ this is no message");
            listen_for_ever();
        }
        Fake::SpeaksInRiddles => {
            say(&json!({ "message": "riddle", "answer": 42 }));
            listen_for_ever();
        }
        Fake::SaysNothingAloud => {
            say_bytes(b"");
            listen_for_ever();
        }
        Fake::SpeaksOutOfTurn => {
            say(&json!({ "message": "ready", "listeners": [] }));
            listen_for_ever();
        }
        Fake::SpeaksAtLength => {
            let mut message = claim(VERSION);
            message["padding"] = "x".repeat(100_000).into();
            say(&message);
            listen_for_ever();
        }
        Fake::GivesUpInVerse => {
            say(&json!({ "message": "failed", "reason": "the moon\nis full" }));
            exit_with_status_7();
        }
        Fake::SpeaksAnotherVersion => {
            say(&claim(4711));
            listen_for_ever();
        }
        Fake::ClaimsAndHangs => {
            claim_the_listeners();
            listen_for_ever();
        }
        Fake::ClaimsAndExits => {
            claim_the_listeners();
            exit_with_status_7();
        }
        Fake::ClaimsAndIsKilled => {
            claim_the_listeners();
            die();
        }
        Fake::ClaimsAndClosesTheChannel => {
            claim_the_listeners();
            close_and_live_on();
        }
        Fake::ClaimsTwice => {
            claim_the_listeners();
            say(&claim(VERSION));
            listen_for_ever();
        }
        Fake::ClaimsAndGivesUp => {
            claim_the_listeners();
            say(&json!({ "message": "failed", "reason": Fake::REASON }));
            exit_with_status_7();
        }
        Fake::ServesAndExits => {
            go_through_the_protocol();
            exit_with_status_7();
        }
        Fake::ServesAndIsKilled => {
            go_through_the_protocol();
            die();
        }
        Fake::ServesAndClosesTheChannel => {
            go_through_the_protocol();
            close_and_live_on();
        }
    }
}

/// Returns where they are bound.
fn claim_the_listeners() -> Vec<Value> {
    wait_for("welcome");
    say(&claim(VERSION));
    let listeners = wait_for("listeners");
    let listeners = listeners["listeners"].as_array().unwrap().iter();
    listeners
        .map(|listener| listener["addr"]["bound"].clone())
        .collect()
}

fn go_through_the_protocol() {
    let listeners = claim_the_listeners();
    say(&json!({ "message": "ready", "listeners": listeners, "room": 1000 }));
    wait_for("serve");
}

fn claim(version: u32) -> Value {
    json!({
        "message": "get_listener",
        "version": version,
        "pid": process::id(),
        "generation": 2,
        "free_descriptors": 1000,
    })
}

#[allow(clippy::exit, reason = "this program is about exit statuses")]
fn exit_with_status_7() {
    process::exit(7);
}

fn die() {
    kill_process(getpid(), Signal::KILL).unwrap();
}

/// Ends like any process that nobody wants any more: by a signal.
fn listen_for_ever() {
    loop {
        if hear().is_none() {
            wait_to_be_killed();
        }
    }
}

fn close_and_live_on() {
    rustix::stdio::dup2_stdin(File::open("/dev/null").unwrap()).unwrap();
    wait_to_be_killed();
}

fn wait_to_be_killed() {
    loop {
        std::thread::park();
    }
}

fn say(message: &Value) {
    say_bytes(message.to_string().as_bytes());
}

fn say_bytes(bytes: &[u8]) {
    send(io::stdin(), bytes, SendFlags::NOSIGNAL).expect("the predecessor listens");
}

/// Hears messages until one has this name.
fn wait_for(name: &str) -> Value {
    loop {
        let message = hear().expect("the predecessor goes on speaking");
        if message["message"] == name {
            return message;
        }
    }
}

/// The next message; what descriptors came with it are closed at once.
fn hear() -> Option<Value> {
    // The socket is a non-blocking one.
    poll(&mut [PollFd::new(&io::stdin(), PollFlags::IN)], None).ok()?;
    let mut bytes = vec![0; 256 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(io::stdin(), &mut slices, &mut ancillary, flags).ok()?;
    serde_json::from_slice(&bytes[..message.bytes]).ok()
}
