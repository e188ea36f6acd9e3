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
use std::io::{BufRead as _, BufReader, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::IoSliceMut;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg,
    send, sendmsg,
};
use rustix::process::{
    Resource, Rlimit, Signal, getpid, getppid, getrlimit, kill_process, prlimit,
};
use serde_json::{Value, json};

use self::fake::Fake;

fn main() {
    // What it was started as, which may be a link.
    let executable: PathBuf = env::args_os().next().expect("the library names it").into();
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
            let mut message = claim(Fake::VERSION);
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
            say(&claim(Fake::VERSION));
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
        Fake::LendsItsChannel => lend_the_channel(&executable),
    }
}

/// Lets the test speak for us; afterwards it is the only one that could.
fn lend_the_channel(executable: &Path) {
    let test = UnixStream::connect(Fake::borrower(executable)).expect("a test wants the channel");
    let stdin = io::stdin();
    let descriptors = [stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let byte = [IoSlice::new(b"!")];
    sendmsg(&test, &byte, &mut control, SendFlags::NOSIGNAL).expect("the test listens");
    rustix::stdio::dup2_stdin(File::open("/dev/null").unwrap()).unwrap();
    for order in BufReader::new(&test).lines() {
        obey(&order.expect("the test writes lines"));
        writeln!(&test, "done").expect("the test listens");
    }
    wait_to_be_killed();
}

#[allow(clippy::exit, reason = "this program is about exit statuses")]
fn obey(order: &str) {
    let (verb, number) = order.split_once(' ').expect("an order has two words");
    let number: u64 = number.parse().expect("the second word is a number");
    match verb {
        "exit" => process::exit(number.try_into().unwrap()),
        // We are of the same user, which the test may not be.
        "limit-predecessor" => {
            let limit = Rlimit {
                current: Some(number),
                maximum: getrlimit(Resource::Nofile).maximum,
            };
            prlimit(getppid(), Resource::Nofile, limit).unwrap();
        }
        _ => panic!("what is `{verb}`?"),
    }
}

/// Returns where they are bound.
fn claim_the_listeners() -> Vec<Value> {
    wait_for("welcome");
    say(&claim(Fake::VERSION));
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

fn claim(version: u64) -> Value {
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
