//! A successor that breaks the rules of the handoff, with listeners and
//! connections in its hands: the restart is undone, one line in the log says
//! why, every client that it has not touched is served on, and nothing is left
//! of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{self, AssertUnwindSafe};

use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};
use rustix::io::{Errno, pwrite};
use rustix::net::Shutdown;
use serde_json::{Value, json};

use crate::kit::{Batch, Chance, Client, Config, End, FalseSuccessor, Launch, Service, can_open};

const GET: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// The rules are broken before it takes over.
const FAILED: &str = "restart failed: ";
/// The rules are broken after it took over.
const UNDONE: &str = "restart undone: ";

/// A service, its clients, and what it has open.
struct Scene {
    service: Service,
    clients: Vec<Client>,
    descriptors: BTreeMap<String, usize>,
}

impl Scene {
    fn with_clients(clients: usize) -> Self {
        Scene::of(Config::new().probation_ms(60_000), clients)
    }

    fn of(config: Config, clients: usize) -> Self {
        let service = Launch::api(config).linked_binary().start();
        let clients = (0..clients).map(|_| kept_alive(&service)).collect();
        let descriptors = service.settled_descriptors();
        Scene {
            service,
            clients,
            descriptors,
        }
    }

    /// Checks that the restart came to nothing and that its line says this.
    fn assert_came_to_nothing(&mut self, successor: &FalseSuccessor, what: &str, reason: &str) {
        let failure = self.service.wait_failure_of(successor);
        failure.assert_says(what);
        failure.assert_says(reason);
        self.assert_as_before();
    }

    /// Checks that the clients are served on by the process that served them,
    /// and that nothing is left of a successor.
    fn assert_as_before(&mut self) {
        self.service.assert_undisturbed();
        let pid = self.service.current().pid();
        for client in &mut self.clients {
            let answer = client.get("/").unwrap();
            assert_eq!(answer.pid(), pid);
            assert!(!answer.closes(), "{answer:?}");
        }
        let process = self.service.current();
        process.wait_for_descriptors(&self.descriptors);
    }

    /// Checks that a good successor is as welcome as ever.
    fn assert_restarts(mut self) {
        self.service.binary().link_to("api");
        self.service.restart();
        assert_eq!(self.service.get("/").generation(), 2);
        for client in &mut self.clients {
            let answer = client.get("/").unwrap();
            assert!(!answer.closes(), "{answer:?}");
        }
        // Or else they would be waited for.
        self.clients.clear();
        self.service.stop();
    }
}

fn kept_alive(service: &Service) -> Client {
    let mut client = service.connect();
    client.get("/").unwrap();
    client
}

/// The whole story of a successor that breaks the rules in one of these ways.
fn survives(what: &str, reason: &str, ways: &[&dyn Fn(&mut FalseSuccessor)]) {
    let mut scene = Scene::with_clients(3);
    // What is left over by the first time is found by the second.
    for way in ways.iter().cycle().take(ways.len().max(2)) {
        let mut successor = scene.service.restart_into_false_successor();
        way(&mut successor);
        scene.assert_came_to_nothing(&successor, what, reason);
    }
    scene.assert_restarts();
}

/// Takes over, and has the three connections, which it has not acknowledged.
fn take_connections(successor: &FalseSuccessor) -> Vec<Batch> {
    successor.take_over(100);
    successor.take(3)
}

/// The same, and acknowledges them.
fn adopt_connections(successor: &FalseSuccessor) -> Vec<Batch> {
    let batches = take_connections(successor);
    batches.iter().for_each(|batch| successor.adopt(batch));
    batches
}

#[test]
fn one_that_acknowledges_what_it_was_not_sent() {
    survives(
        UNDONE,
        "`adopted` out of order",
        &[
            // Another batch.
            &|it| it.say_adopted(take_connections(it).len(), 1, 100),
            &|it| {
                take_connections(it);
                it.say_adopted(u64::MAX, 1, 100);
            },
            // More than there was in it.
            &|it| it.say_adopted(0, take_connections(it)[0].len() + 1, 100),
            &|it| {
                take_connections(it);
                it.say_adopted(0, u64::MAX, u64::MAX);
            },
            // The same batch twice.
            &|it| it.adopt(&adopt_connections(it)[0]),
            // Any at all, without having had room for one.
            &|it| {
                assert!(it.take_over(0).is_none());
                it.channel().expect("handed_over");
                it.say_adopted(0, 0, 100);
            },
        ],
    );
}

#[test]
fn one_that_acknowledges_what_is_no_number() {
    let taken = |taken: Value| {
        move |it: &mut FalseSuccessor| {
            take_connections(it);
            it.say_adopted(0, taken.clone(), 100);
        }
    };
    let room = |room: Value| {
        move |it: &mut FalseSuccessor| {
            take_connections(it);
            it.say_adopted(0, 1, room.clone());
        }
    };
    survives(
        UNDONE,
        "nonsense",
        &[
            &taken(json!(-1)),
            &room(json!(-1)),
            &taken(json!(0.5)),
            &room(json!(1e30)),
            &taken(json!("3")),
            &room(Value::Null),
        ],
    );
    survives(
        FAILED,
        "nonsense",
        &[&|it| {
            let listeners = it.take_listeners();
            it.be_ready(&listeners, 1e30);
        }],
    );
}

#[test]
fn one_that_acknowledges_batches_out_of_order() {
    let mut scene = Scene::with_clients(40);
    let successor = scene.service.restart_into_false_successor();
    successor.take_over(100);
    let batches = successor.take(40);
    successor.adopt(&batches[1]);
    drop(batches);
    scene.assert_came_to_nothing(&successor, UNDONE, "`adopted` out of order");
    scene.assert_restarts();
}

#[test]
fn one_that_acknowledges_before_it_is_ready() {
    survives(
        FAILED,
        "`adopted` out of order",
        &[&|it| {
            it.take_listeners();
            it.say_adopted(0, 0, 100);
        }],
    );
}

#[test]
fn one_that_is_published_before_it_is_asked_to() {
    survives(
        UNDONE,
        "`published` out of order",
        &[&|it| {
            it.take_over(100);
            it.say(json!({ "message": "published" }));
        }],
    );
}

#[test]
fn one_that_begins_anew_when_it_serves() {
    survives(
        UNDONE,
        "`get_listener` out of order",
        &[&|it| {
            adopt_connections(it);
            it.say(it.claim());
        }],
    );
    survives(
        UNDONE,
        "`ready` out of order",
        &[&|it| {
            let listeners = it.take_listeners();
            it.be_ready(&listeners, 100);
            it.be_ready(&listeners, 100);
        }],
    );
}

#[test]
fn one_that_speaks_nonsense_when_it_serves() {
    let say = |bytes: &'static [u8]| {
        move |it: &mut FalseSuccessor| {
            take_connections(it);
            it.channel().say_bytes(bytes, &[]);
        }
    };
    survives(
        UNDONE,
        "nonsense",
        &[
            &say(b"}{"),
            &say(b"\xff"),
            &say(b"\n"),
            &say(b"null"),
            &say(b"[]"),
            &say(b"{}"),
            &say(br#"{"message":"riddle"}"#),
        ],
    );
}

#[test]
fn one_that_speaks_at_length_when_it_serves() {
    // In the message itself, and behind it.
    let say = |separator: char, length: usize| {
        move |it: &mut FalseSuccessor| {
            take_connections(it);
            let adopted = json!({ "message": "adopted", "batch": 0, "taken": 1, "room": 9 });
            let packet = format!("{adopted}{separator}{}", " ".repeat(length));
            it.channel().say_bytes(packet.as_bytes(), &[]);
        }
    };
    survives(
        UNDONE,
        "nonsense",
        &[
            &say(' ', 70_000),
            &say('\n', 70_000),
            &say(' ', 140_000),
            &say('\n', 140_000),
        ],
    );
}

#[test]
fn one_that_takes_the_connections_and_is_gone() {
    survives(
        UNDONE,
        "exit status: 7",
        &[
            &|it| {
                take_connections(it);
                it.exit(7);
            },
            &|it| {
                adopt_connections(it);
                it.exit(7);
            },
        ],
    );
    survives(
        UNDONE,
        "signal: 9",
        &[
            &|it| {
                take_connections(it);
                it.die();
            },
            &|it| {
                adopt_connections(it);
                it.die();
            },
        ],
    );
}

#[test]
fn one_that_takes_the_connections_and_closes_the_channel() {
    survives(
        UNDONE,
        "closed the channel",
        &[
            &|it| {
                take_connections(it);
                it.close_the_channel();
            },
            &|it| {
                adopt_connections(it);
                it.close_the_channel();
            },
        ],
    );
}

#[test]
fn one_that_has_too_few_descriptors() {
    survives(
        FAILED,
        "it has 2 free file descriptors and needs 3",
        &[&|it| {
            it.channel().expect("welcome");
            let mut claim = it.claim();
            claim["free_descriptors"] = 2.into();
            it.say(claim);
        }],
    );
}

/// Whoever sends descriptors along that nobody has asked for gets them closed,
/// with every message, be it a good one or not.
#[test]
fn one_that_sends_descriptors_that_nobody_wants() {
    if !can_open(300) {
        return;
    }
    let file = File::open("/dev/null").unwrap();
    let descriptors = [file.as_fd(); 253];
    let mut scene = Scene::with_clients(3);
    for _ in 1..=2 {
        let successor = scene.service.restart_into_false_successor();
        let channel = successor.channel();
        let say = |message: Value| channel.say_with(&message, &descriptors);
        channel.expect("welcome");
        say(successor.claim());
        channel.expect("listeners");
        say(json!({ "message": "ready", "listeners": [], "room": 100 }));
        channel.expect("serve");
        for batch in successor.take(3) {
            let (batch, taken) = (batch.number, batch.len());
            say(json!({ "message": "adopted", "batch": batch, "taken": taken, "room": 9 }));
        }
        say(json!({ "message": "failed", "reason": "it has too many" }));
        channel.say_bytes(b"}{", &descriptors);
        scene.assert_came_to_nothing(&successor, UNDONE, "it said: it has too many");
    }
    scene.assert_restarts();
}

/// What it said last is told, in one line of bearable length; meanwhile others
/// get their turn.
#[test]
fn one_that_never_stops_talking() {
    let mut scene = Scene::with_clients(3);
    let successor = scene.service.restart_into_false_successor();
    successor.take_listeners();
    let reason = format!("the moon\r\nis {}", "full ".repeat(10_000));
    for _ in 0..100 {
        successor.say(json!({ "message": "failed", "reason": reason }));
        scene.service.get("/");
    }
    successor.die();
    let failure = scene.service.wait_failure_of(&successor);
    failure.assert_says(FAILED);
    failure.assert_says("signal: 9 (SIGKILL); it said: the moon  is full full");
    let length = failure.line().len();
    assert!(length < 10_000, "{length} bytes");
    scene.assert_as_before();
    scene.assert_restarts();
}

#[test]
fn room_that_is_absurd_is_room_for_all() {
    let mut scene = Scene::with_clients(40);
    let successor = scene.service.restart_into_false_successor();
    successor.take_over(u64::MAX);
    let mut arrived = 0;
    while arrived < 40 {
        let batch = successor.take_batch();
        arrived += batch.len();
        successor.say_adopted(batch.number, batch.len(), u64::MAX);
    }
    successor.die();
    scene.assert_came_to_nothing(&successor, UNDONE, "signal: 9");
    scene.assert_restarts();
}

/// Those for which there is no room are told to close, unless the restart is
/// undone before they are told.
#[test]
fn room_for_one_is_taken_by_one() {
    let mut scene = Scene::with_clients(3);
    let successor = scene.service.restart_into_false_successor();
    successor.take_over(1);
    successor.take(1);
    successor.say_adopted(0, 1, 0);
    successor.channel().expect("handed_over");
    successor.die();
    scene.assert_came_to_nothing(&successor, UNDONE, "signal: 9");
    scene.assert_restarts();
}

/// What was refused is served on where it was, and told to close.
#[test]
fn what_it_does_not_take_is_served_to_its_end_by_its_predecessor() {
    let mut scene = Scene::with_clients(3);
    let successor = scene.service.restart_into_false_successor();
    let pid = scene.service.current().pid();
    successor.take_over(100);
    for batch in successor.take(3) {
        successor.say_adopted(batch.number, 0, 100);
    }
    successor.channel().expect("handed_over");
    for client in &mut scene.clients {
        let answer = client.get("/").unwrap();
        assert_eq!(answer.pid(), pid);
        assert!(answer.closes(), "{answer:?}");
        client.wait_for_close().unwrap();
    }
    scene
        .service
        .log()
        .wait_for("the successor had no room for ");
    successor.die();
    scene.service.wait_failure_of(&successor);
    scene.clients = vec![kept_alive(&scene.service)];
    scene.assert_restarts();
}

/// A claim in another name: whether that process lives is not known, so
/// nothing that it may have is touched.
#[test]
fn one_that_is_not_the_process_that_was_started() {
    let mut scene = Scene::with_clients(3);
    let successor = scene.service.restart_into_false_successor();
    successor.channel().expect("welcome");
    let mut claim = successor.claim();
    claim["pid"] = std::process::id().into();
    successor.say(claim);
    let listeners = successor.channel().expect("listeners");
    successor.be_ready(&listeners, 100);
    successor.channel().expect("serve");
    let batches = successor.take(3);
    successor.die();
    scene
        .service
        .wait_failure_of(&successor)
        .assert_says(UNDONE);
    scene
        .service
        .log()
        .wait_for("3 connections that were handed over are left to the successor");
    // They are the successor's, which is us.
    assert!(scene.clients.iter().all(Client::is_silent));
    for socket in batches.iter().flat_map(|batch| &batch.sockets) {
        rustix::net::shutdown(socket, Shutdown::Write).unwrap();
    }
    drop((batches, listeners));
    scene
        .clients
        .iter_mut()
        .for_each(|it| it.wait_for_close().unwrap());
    scene.clients = vec![kept_alive(&scene.service)];
    scene.assert_restarts();
}

/// Nothing can be taken back any more, so nothing is.
#[test]
fn one_that_was_proven_is_left_to_itself() {
    let scene = Scene::of(Config::new(), 3);
    let predecessor = scene.service.current();
    // It does not exit before that is over.
    let mut busy = scene.service.connect();
    busy.begin_post("/echo", 5).unwrap();
    let successor = scene.service.restart_into_false_successor();
    assert!(successor.take_over(100).is_none(), "there is no probation");
    // Without a probation, this need not be the last that is heard.
    let mut is_proven = false;
    let mut taken = Vec::new();
    while !is_proven || taken.len() < 3 {
        let heard = successor.channel().hear().unwrap();
        is_proven |= heard.message["message"] == "proven";
        if heard.message["message"] == "publish" {
            successor.say(json!({ "message": "published" }));
        }
        if let Some(batch) = Batch::from(heard) {
            successor.adopt(&batch);
            taken.extend(batch.sockets);
        }
    }
    successor.channel().say_bytes(b"}{", &[]);
    scene.service.log().wait_for(", serving: it spoke nonsense");
    busy.send("hello").unwrap();
    assert_eq!(busy.answer().unwrap().text(), "hello");
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    assert!(successor.is_alive());
    assert!(scene.clients.iter().all(Client::is_silent));
}

/// The traces in the ledger.
const UNTOUCHED: u8 = 1;
const IN_USE: u8 = 2;
const CLEAN: u8 = 3;
const CLOSED: u8 = 4;

/// What becomes of three clients that have asked for something and got no
/// answer when the successor is lost after it has done this to the ledger:
/// `served` are those of them that its predecessor answers. The others get no
/// answer, rather than perhaps a second one.
fn ledger_decides(write: impl Fn(&OwnedFd), served: [bool; 3]) {
    let mut scene = Scene::with_clients(3);
    let pid = scene.service.current().pid();
    let successor = scene.service.restart_into_false_successor();
    let ledger = successor.take_over(100).expect("the ledger comes along");
    let batches = successor.take(3);
    let records: Vec<Value> = batches.iter().flat_map(|it| it.records.clone()).collect();
    for (slot, record) in records.iter().enumerate() {
        assert_eq!(record["slot"], slot);
    }
    batches.iter().for_each(|batch| successor.adopt(batch));
    for client in &mut scene.clients {
        client.send(GET).unwrap();
    }
    write(&ledger);
    successor.die();
    drop((batches, ledger));
    let failure = scene.service.wait_failure_of(&successor);
    failure.assert_says("signal: 9");
    scene.service.assert_undisturbed();
    for (record, is_served) in records.iter().zip(served) {
        let mut clients = scene.clients.iter_mut();
        let client = clients.find(|it| record["peer"] == it.name()).unwrap();
        let answer = client.answer();
        if is_served {
            let answer = answer.unwrap();
            assert_eq!(answer.pid(), pid);
            assert!(!answer.closes(), "{answer:?}");
        } else {
            assert!(answer.is_err(), "{answer:?}");
        }
    }
    scene.clients = vec![kept_alive(&scene.service)];
    scene.assert_restarts();
}

fn write(ledger: &OwnedFd, at: u64, traces: &[u8]) {
    assert_eq!(pwrite(ledger, traces, at), Ok(traces.len()));
}

#[test]
fn the_ledger_tells_who_can_be_served_on() {
    ledger_decides(|_| {}, [true; 3]);
    let traces = [CLEAN, IN_USE, UNTOUCHED];
    ledger_decides(|ledger| write(ledger, 0, &traces), [true, false, true]);
    ledger_decides(|ledger| write(ledger, 1, &[CLOSED]), [true, false, true]);
}

#[test]
fn rubbish_in_the_ledger_is_no_permission_to_serve() {
    for rubbish in [0, CLOSED + 1, 0xff] {
        ledger_decides(|ledger| write(ledger, 1, &[rubbish]), [true, false, true]);
    }
    // Far behind the places that there are.
    let far = |ledger: &OwnedFd| write(ledger, u64::from(u32::MAX), &[IN_USE]);
    ledger_decides(far, [true; 3]);
}

#[test]
fn a_ledger_that_is_cut_is_no_permission_to_serve() {
    ledger_decides(|ledger| ftruncate(ledger, 0).unwrap(), [false; 3]);
    ledger_decides(|ledger| ftruncate(ledger, 1).unwrap(), [true, false, false]);
}

/// What comes between its end and what is written behind that is nobody's word.
#[test]
fn a_hole_in_the_ledger_is_no_permission_to_serve() {
    let refill = |ledger: &OwnedFd| {
        ftruncate(ledger, 0).unwrap();
        ftruncate(ledger, 4096).unwrap();
    };
    ledger_decides(refill, [false; 3]);
    let write_behind = |ledger: &OwnedFd| {
        ftruncate(ledger, 0).unwrap();
        write(ledger, 2, &[CLEAN]);
    };
    ledger_decides(write_behind, [false, false, true]);
}

#[test]
fn the_ledger_cannot_be_sealed_against_its_owner() {
    let seal = |ledger: &OwnedFd| {
        let sealed = fcntl_add_seals(ledger, SealFlags::WRITE | SealFlags::GROW);
        assert_eq!(sealed, Err(Errno::PERM));
    };
    ledger_decides(seal, [true; 3]);
}

/// One message is garbled: whether it means something or not, the death that
/// follows it leaves everything as it was.
#[test]
fn whatever_it_says() {
    /// With another one the test says something else.
    const SEED: u64 = 0x6865_6972_6c6f_6f6d;
    let null = File::open("/dev/null").unwrap();
    let mut chance = Chance::new(SEED);
    let mut scene = Scene::with_clients(3);
    for round in 0..60 {
        let successor = scene.service.restart_into_false_successor();
        let message = match chance.below(4) {
            0 => {
                successor.channel().expect("welcome");
                successor.claim()
            }
            1 => {
                successor.take_listeners();
                json!({ "message": "ready", "listeners": ["127.0.0.1:1"], "room": 100 })
            }
            2 => {
                take_connections(&successor);
                json!({ "message": "adopted", "batch": 0, "taken": 1, "room": 100 })
            }
            _ => {
                adopt_connections(&successor);
                json!({ "message": "published" })
            }
        };
        let bytes = chance.garble(message.to_string().as_bytes());
        let descriptors = vec![null.as_fd(); [0, 0, 3][chance.below(3)]];
        successor.channel().say_bytes(&bytes, &descriptors);
        successor.die();
        let story = AssertUnwindSafe(|| {
            scene.service.wait_failure_of(&successor);
            scene.assert_as_before();
        });
        if let Err(panic) = panic::catch_unwind(story) {
            let (bytes, descriptors) = (bytes.escape_ascii(), descriptors.len());
            eprintln!("round {round} of seed {SEED:#x}: {bytes} with {descriptors} descriptors");
            panic::resume_unwind(panic);
        }
    }
    scene.assert_restarts();
}
