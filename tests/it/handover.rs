//! Live connections move to the successor, and come back from one that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::kit::{
    Answer, Client, Config, Connections, End, Failure, Fake, Launch, Load, Process, Service, Whom,
    can_open,
};

const GET: &str = "GET /pid HTTP/1.1\r\nhost: test\r\n\r\n";

/// Long enough for a test to do something in it, and never waited for.
const LONG: u64 = 60_000;

/// A client that has been answered once.
fn acquainted(service: &Service) -> Client {
    let mut client = service.connect();
    client.get("/").unwrap();
    client
}

/// Restarts the service and waits until the connections that can move have.
fn restart_and_move(service: &Service) -> Rc<Process> {
    let place = service.log().here();
    let successor = service.restart();
    service.log().wait_for_after(place, " has handed over: ");
    successor
}

/// Sends a request of which it is known that it is being handled, and which is
/// in flight until its body comes.
fn begin_to_be_served(client: &mut Client) {
    client
        .send("POST /echo HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .unwrap();
    assert_eq!(client.answer_head().unwrap().status, 100);
}

/// Which process answered; the connection is to be kept.
fn pid_of(answer: Result<Answer, Failure>) -> i32 {
    let answer = answer.unwrap();
    assert!(!answer.closes(), "{answer:?}");
    answer.pid()
}

#[test]
fn idle_connections_live_through_generations() {
    for config in [Config::new(), Config::new().probation_ms(100)] {
        let service = Service::start(config);
        let mut clients: Vec<Client> = (0..100).map(|_| acquainted(&service)).collect();
        // One that has not asked anything yet moves just the same.
        clients.push(service.connect());
        for _ in 0..3 {
            let predecessor = service.current();
            let successor = restart_and_move(&service);
            for client in &mut clients {
                assert_eq!(pid_of(client.get("/pid")), successor.pid());
            }
            assert_eq!(predecessor.wait_exit(), End::Exit(0));
        }
    }
}

#[test]
fn connections_to_a_unix_socket_move_too() {
    let launch = Launch::api(Config::new());
    let path = format!("unix:{}", launch.dir().join("api.sock").display());
    let service = launch.config(Config::on(&[&path])).start();
    let mut idle = acquainted(&service);
    let mut halfway = service.connect();
    halfway.send(&GET[..20]).unwrap();
    let successor = restart_and_move(&service);
    assert_eq!(pid_of(idle.get("/pid")), successor.pid());
    halfway.send(&GET[20..]).unwrap();
    assert_eq!(pid_of(halfway.answer()), successor.pid());
}

#[test]
fn half_a_request_head_moves_with_its_bytes() {
    let service = Service::start(Config::new());
    let mut client = acquainted(&service);
    for (at, byte) in GET.char_indices() {
        client.send(byte.encode_utf8(&mut [0; 4])).unwrap();
        if at % 10 == 3 {
            restart_and_move(&service);
        }
    }
    assert_eq!(pid_of(client.answer()), service.current().pid());
}

#[test]
fn a_busy_connection_moves_after_its_response() {
    let service = Service::start(Config::new());
    let predecessor = service.current();
    let mut client = acquainted(&service);
    client.begin_post("/echo", 5).unwrap();
    let successor = restart_and_move(&service);
    client.send("hello").unwrap();
    assert_eq!(pid_of(client.answer()), predecessor.pid());
    assert_eq!(pid_of(client.get("/pid")), successor.pid());
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
}

#[test]
fn what_was_pipelined_behind_a_busy_request_is_answered_in_its_order_by_the_successor() {
    let service = Service::start(Config::new());
    let predecessor = service.current();
    let mut client = acquainted(&service);
    client.begin_post("/echo", 5).unwrap();
    let successor = restart_and_move(&service);
    let paths = ["/bytes?n=1", "/bytes?n=2", "/bytes?n=3"];
    let requests: String = paths
        .map(|path| GET.replace("/pid", path))
        .into_iter()
        .collect();
    // Half a head comes last.
    client
        .send(&format!("hello{requests}{}", &GET[..9]))
        .unwrap();
    assert_eq!(pid_of(client.answer()), predecessor.pid());
    for expected in ["x", "xx", "xxx"] {
        let answer = client.answer().unwrap();
        assert_eq!(
            (answer.text(), answer.pid()),
            (expected, successor.pid()),
            "{answer:?}"
        );
    }
    client.send(&GET[9..]).unwrap();
    assert_eq!(pid_of(client.answer()), successor.pid());
}

#[test]
fn a_request_that_takes_longer_than_several_generations_keeps_its_connection() {
    let service = Service::start(Config::new());
    let first = service.current();
    let mut client = acquainted(&service);
    client.begin_post("/echo", 5).unwrap();
    let mut between = Vec::new();
    for _ in 0..3 {
        between.push(restart_and_move(&service));
    }
    client.send("hello").unwrap();
    assert_eq!(pid_of(client.answer()), first.pid());
    // Each generation in between passes it on.
    let last = between.pop().unwrap();
    assert_eq!(first.wait_exit(), End::Exit(0));
    for process in between {
        // It may end before its predecessor does, which then takes note of it.
        let end = process.wait_exit();
        assert!(matches!(end, End::Exit(0) | End::Unknown), "{end:?}");
    }
    // So that it did not fail is seen by what it says in the end.
    for generation in 1..=3 {
        service
            .log()
            .wait_for(&format!("generation {generation} exits "));
    }
    assert_eq!(service.failed_restarts(), 0);
    assert_eq!(pid_of(client.get("/pid")), last.pid());
}

#[test]
fn what_cannot_move_does_not_hold_up_the_rest() {
    let service = Service::start(Config::new());
    let predecessor = service.current();
    let mut busy = acquainted(&service);
    busy.begin_post("/echo", 5).unwrap();
    let mut idle = acquainted(&service);
    let successor = restart_and_move(&service);
    assert_eq!(pid_of(idle.get("/pid")), successor.pid());
    assert!(predecessor.is_alive());
    drop(busy);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
}

#[test]
fn connections_that_were_handed_over_come_back_from_a_successor_that_is_killed() {
    let service = Service::start(Config::new().probation_ms(LONG));
    let predecessor = service.current();
    let mut untouched = acquainted(&service);
    let mut halfway = acquainted(&service);
    halfway.send(&GET[..20]).unwrap();
    let mut clean = acquainted(&service);
    let mut in_use = acquainted(&service);
    let mut closed = acquainted(&service);
    let place = service.log().here();
    predecessor.hup();
    service.log().wait_for(" has handed over: ");
    let successor = predecessor.only_child();
    assert_eq!(pid_of(clean.get("/pid")), successor.pid());
    begin_to_be_served(&mut in_use);
    closed
        .send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .unwrap();
    assert!(closed.answer().unwrap().closes());
    closed.wait_for_close().unwrap();

    successor.kill();
    let failure = service.wait_failed_restart_after(place);
    failure.assert_says("restart undone: ");
    assert_eq!(pid_of(untouched.get("/pid")), predecessor.pid());
    halfway.send(&GET[20..]).unwrap();
    assert_eq!(pid_of(halfway.answer()), predecessor.pid());
    assert_eq!(pid_of(clean.get("/pid")), predecessor.pid());
    // Its request may have been handled, so nobody handles it again.
    assert!(matches!(
        in_use.answer(),
        Err(Failure::Closed | Failure::Reset)
    ));
    service.log().wait_for("took back 3 of ");
    service.assert_undisturbed();

    // The next restart works, with the same connections.
    service.configure(&Config::new());
    let successor = restart_and_move(&service);
    for client in [&mut untouched, &mut halfway, &mut clean] {
        assert_eq!(pid_of(client.get("/pid")), successor.pid());
    }
}

#[test]
fn a_successor_that_closes_a_connection_does_so_although_there_is_a_copy() {
    let config = Config::new().limit("keep_alive_timeout_ms", 100);
    let service = Service::start(config.probation_ms(LONG));
    let mut client = acquainted(&service);
    restart_and_move(&service);
    client.wait_for_close().unwrap();
    // Neither side of it is left in the predecessor, which would be a leak for
    // as long as the probation lasts.
    let _idle = service.settle();
    assert!(service.first().is_alive());
}

#[test]
fn a_restart_is_undone_again_and_again_under_load() {
    let service = Service::start(Config::new().probation_ms(LONG));
    let predecessor = service.current();
    let mut idle: Vec<Client> = (0..50).map(|_| acquainted(&service)).collect();
    service.configure(&Config::new().probation_ms(LONG).fault("kill-after-ready"));
    let load = Load::start(&service.address(), Connections::NewForEach, 2);
    for _ in 0..5 {
        load.wait_for_requests(50);
        service
            .restart_in_vain()
            .assert_says("serving on probation");
        for client in &mut idle {
            assert_eq!(pid_of(client.get("/pid")), predecessor.pid());
        }
    }
    load.wait_for_requests(50);
    let tally = load.stop();
    // A client can have one request inside each process that is killed.
    assert!(tally.failed() <= 2 * 5, "{tally}");
    service.configure(&Config::new());
    let successor = restart_and_move(&service);
    for client in &mut idle {
        assert_eq!(pid_of(client.get("/pid")), successor.pid());
    }
}

#[test]
fn without_hand_over_each_connection_ends_with_its_process() {
    let service = Service::start(Config::new().no_hand_over());
    let predecessor = service.current();
    let mut client = acquainted(&service);
    service.restart();
    let answer = client.get("/pid").unwrap();
    assert_eq!(answer.pid(), predecessor.pid());
    assert!(answer.closes());
    client.wait_for_close().unwrap();
    drop(client);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    assert_eq!(service.log().count("has handed over"), 0);
}

#[test]
fn it_is_told_what_has_become_of_the_connections() {
    let service = Service::start(Config::new());
    let idle: Vec<Client> = (0..3).map(|_| acquainted(&service)).collect();
    let mut busy = acquainted(&service);
    begin_to_be_served(&mut busy);
    restart_and_move(&service);
    let told = service.log().wait_for("generation 1 has handed over: ");
    assert!(
        told.contains("3 connections handed over, 1 kept, 0 closed, in "),
        "{told}"
    );
    drop(busy);
    let exit = service.log().wait_for("generation 1 exits");
    assert!(
        exit.contains("3 connections were handed over, 1 ended here"),
        "{exit}"
    );
    service
        .log()
        .wait_for("3 connections were taken over from the predecessor");
    drop(idle);
}

#[test]
fn no_stop_is_lost_in_a_burst_of_reloads() {
    let service = Service::start(Config::new());
    let mut client = acquainted(&service);
    // Held here, so that the process that is told to stop is the service.
    let held = service.restart_held();
    let (process, successor) = (service.current(), service.current().only_child());
    for _ in 0..1_000 {
        process.hup();
    }
    process.term();
    assert!(client.get("/").is_ok_and(|answer| answer.closes()));
    drop(client);
    assert_eq!(process.wait_exit(), End::Exit(0));
    service.log().wait_for_end();
    assert!(!successor.is_alive());
    assert_eq!(service.generations(), 1);
    drop(held);
}

#[test]
fn a_burst_of_reloads_ends_with_the_configuration_that_was_there_last() {
    let service = Service::start(Config::new());
    let mut client = acquainted(&service);
    let held = service.restart_held();
    let process = service.current();
    for _ in 0..1_000 {
        process.hup();
    }
    let (before, after) = (
        Config::new().greeting("before"),
        Config::new().greeting("after"),
    );
    held.release_with_then(&before.to_toml(), &after);
    process.hup();
    // The connection lives through all of it.
    while client.get("/").unwrap().text() != "after" {}
    let answer = client.get("/").unwrap();
    assert_eq!((answer.text(), answer.closes()), ("after", false));
}

/// It takes a while until it is known for certain that such a successor is
/// lost, during which connections cannot be handed over to it.
#[test]
fn a_successor_that_cannot_be_sent_to_costs_no_connection() {
    let service = Launch::api(Config::new().probation_ms(LONG))
        .own_binary()
        .start();
    let predecessor = service.current();
    let mut client = acquainted(&service);
    client.begin_post("/echo", 5).unwrap();
    service
        .binary()
        .replace_with_fake(Fake::ServesAndClosesTheChannel);
    let place = service.log().here();
    predecessor.hup();
    service.wait_phase("draining");
    client.send("hello").unwrap();
    assert_eq!(pid_of(client.answer()), predecessor.pid());
    while service.log().count("restart undone") == 0 {
        assert_eq!(pid_of(client.get("/pid")), predecessor.pid());
    }
    service.wait_failed_restart_after(place);
    service.assert_undisturbed();
}

#[test]
fn a_thousand_restarts_leave_nothing_behind() {
    // Its own are few, but it is at work for as long as all others are.
    if !can_open(150) {
        return;
    }
    let service = Service::start(Config::new());
    let mut clients: Vec<Client> = (0..8).map(|_| acquainted(&service)).collect();
    let mut seen = BTreeSet::new();
    let mut settle = |clients: &mut Vec<Client>| {
        for client in clients.iter_mut() {
            seen.insert(pid_of(client.get("/pid")));
        }
    };
    for _ in 0..10 {
        service.restart_to_the_end();
        settle(&mut clients);
    }
    let before = service.current().kinds_of_descriptors();
    let memory = service.current().memory_kib();
    for _ in 0..990 {
        service.restart_to_the_end();
        settle(&mut clients);
    }
    // One that is about to be closed may have been there before, or be now.
    service.current().wait_for_at_most(&before);
    assert_eq!(service.current().children(), BTreeMap::new());
    let grown = service.current().memory_kib().saturating_sub(memory);
    assert!(grown < 1024, "{grown} KiB more than {memory}");
    assert_eq!(seen.len(), 1_000);
    // Nobody of the service is left but the one that serves.
    assert_eq!(service.processes(), [service.current().pid()]);
}

#[test]
fn state_is_passed_on_and_may_be_large() {
    for (state_kb, probation) in [(0, 0), (20_000, 100)] {
        let config = Config::new().state_kb(state_kb).probation_ms(probation);
        let service = Service::start(config);
        for expected in 1..=3 {
            assert_eq!(service.get("/count").text(), expected.to_string());
            service.restart_to_the_end();
        }
        let line = format!("taken over: a count, and {} bytes more", state_kb << 10);
        assert_eq!(service.log().count(&line), 3);
    }
}

#[test]
fn serving_goes_on_while_a_slow_successor_takes_large_state() {
    let service = Service::start(Config::new().state_kb(30_000));
    let predecessor = service.current();
    let held = service.restart_held();
    let successor = predecessor.only_child();
    held.release(&Config::new());
    service.wait_phase("handoff");
    successor.freeze();
    let mut client = service.settle();
    for _ in 0..10 {
        client.get("/").unwrap();
    }
    successor.thaw();
    service.wait_generation(2);
    service.log().wait_for("and 30720000 bytes more");
}

#[test]
fn state_that_cannot_be_delivered_is_a_failed_restart() {
    let config = || Config::new().state_kb(100);
    for (first, then, words) in [
        // More than the predecessor may leave.
        (
            config().max_state_kb(99),
            config(),
            "at most 101376 are allowed",
        ),
        // More than the successor takes.
        (
            config(),
            config().max_state_kb(99),
            "at most 101376 are allowed",
        ),
        // The successor does not like it.
        (
            config(),
            config().fault("bad-state"),
            "the configuration asks for bad state",
        ),
    ] {
        let service = Service::start(first);
        service.get("/count");
        service.configure(&then);
        let mut client = acquainted(&service);
        let failure = service.restart_in_vain();
        failure.assert_says(words);
        failure.assert_says("state");
        assert_eq!(pid_of(client.get("/")), service.current().pid());
        service.assert_undisturbed();
    }
}

#[test]
fn a_successor_that_dies_with_half_of_the_state_is_a_failed_restart() {
    let service = Service::start(Config::new().state_kb(30_000));
    let dies = Config::new().kill(2, "received `listeners`", Whom::Itself);
    service.configure(&dies);
    let failure = service.restart_in_vain();
    failure.assert_says("waiting for its readiness");
    service.configure(&Config::new());
    service.assert_undisturbed();
    service.restart();
    assert_eq!(service.get("/").generation(), 2);
}
