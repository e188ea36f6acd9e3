//! SIGHUP replaces the process, and no client notices.

use std::fs;
use std::os::unix::fs::symlink;

use crate::kit::{Binary, Client, Config, End, Launch, Service};

#[test]
fn ten_generations_follow_one_another_on_the_same_address() {
    let service = Service::start(Config::new());
    let address = service.address();
    for generation in 2..=10 {
        let process = service.restart_to_the_end();
        let answer = service.get("/");
        assert_eq!(
            (answer.pid(), answer.generation()),
            (process.pid(), generation)
        );
        assert_eq!(service.address(), address);
    }
    service.stop();
    assert_eq!(service.generations(), 10);
}

#[test]
fn each_generation_reads_the_configuration_anew() {
    let service = Service::start(Config::new().greeting("one"));
    assert_eq!(service.get("/").text(), "one");
    service.configure(&Config::new().greeting("two"));
    assert_eq!(service.get("/").text(), "one");
    service.restart();
    assert_eq!(service.get("/").text(), "two");
}

#[test]
fn a_request_in_flight_is_finished_by_the_generation_that_began_it() {
    let service = Service::start(Config::new());
    let predecessor = service.current();
    let mut client = service.connect();
    client.get("/").unwrap();
    client.begin_post("/echo", 5).unwrap();
    let successor = service.restart();
    service.log().wait_for("generation 1 is draining");
    assert_eq!(service.get("/").pid(), successor.pid());
    client.send("hello").unwrap();
    let answer = client.answer().unwrap();
    assert_eq!((answer.text(), answer.pid()), ("hello", predecessor.pid()));
    drop(client);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
}

#[test]
fn a_response_in_flight_is_sent_to_its_end() {
    let service = Service::start(Config::new());
    let predecessor = service.current();
    let mut client = service.connect();
    // More than the buffers between the service and us can hold, so that it is
    // in flight until we read it.
    client.shrink_window();
    client
        .send("GET /stream?n=500000 HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    let answer = client.answer_head().unwrap();
    assert_eq!(answer.pid(), predecessor.pid());
    service.restart();
    let body = client.body(&answer).unwrap();
    assert!(body.ends_with(b"line 499999\nline 500000\n"));
    drop(client);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
}

#[test]
fn the_successor_answers_while_an_older_generation_still_drains() {
    let service = Service::start(Config::new());
    let first = service.current();
    let mut client = service.connect();
    client.get("/").unwrap();
    client.begin_post("/echo", 5).unwrap();
    for generation in 2..=4 {
        service.restart();
        assert_eq!(service.get("/").generation(), generation);
    }
    client.send("hello").unwrap();
    assert_eq!(client.answer().unwrap().pid(), first.pid());
    drop(client);
    assert_eq!(first.wait_exit(), End::Exit(0));
}

#[test]
fn connections_that_wait_in_the_queue_are_served_by_the_successor_or_its_predecessor() {
    let service = Service::start(Config::new());
    let predecessor = service.current();
    predecessor.freeze();
    let mut clients: Vec<Client> = (0..20).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    }
    predecessor.hup();
    predecessor.thaw();
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().status, 200);
    }
    assert_eq!(service.wait_generation(2).pid(), service.get("/").pid());
}

#[test]
fn a_binary_that_was_replaced_by_renaming_is_the_one_that_starts() {
    let service = Launch::api(Config::new()).own_binary().start();
    let path = service.binary().path().to_owned();
    let first = service.current();
    service.binary().restore();
    let gone = first.executable();
    assert_ne!(
        gone, path,
        "the first generation runs a file that has no name any more"
    );
    assert_eq!(service.restart().executable(), path);
}

#[test]
fn a_binary_behind_a_switched_symlink_is_the_one_that_starts() {
    let launch = Launch::api(Config::new());
    let dir = launch.dir().canonicalize().unwrap();
    let releases = ["v1", "v2"].map(|version| {
        fs::create_dir(dir.join(version)).unwrap();
        Binary::api(dir.join(version).join("api"))
    });
    symlink("v1", dir.join("current")).unwrap();
    let service = launch.program(dir.join("current/api")).start();
    assert_eq!(service.current().executable(), releases[0].path());
    symlink("v2", dir.join("next")).unwrap();
    fs::rename(dir.join("next"), dir.join("current")).unwrap();
    assert_eq!(service.restart().executable(), releases[1].path());
}

#[test]
fn a_slow_start_keeps_nobody_waiting() {
    let service = Service::start(Config::new());
    service.configure(&Config::new().init_ms(300).ballast_mb(64));
    service.current().hup();
    service.wait_phase("forking");
    assert_eq!(service.get("/").generation(), 1);
    service.wait_generation(2);
    assert_eq!(service.get("/").generation(), 2);
}

#[test]
fn a_restart_is_undisturbed_by_another_service_that_restarts() {
    let services = [Service::start(Config::new()), Service::start(Config::new())];
    let addresses = services.each_ref().map(Service::address);
    for generation in 2..=5 {
        services.iter().for_each(|service| service.current().hup());
        for service in &services {
            service.wait_generation(generation);
            assert_eq!(service.get("/").generation(), generation);
        }
    }
    assert_eq!(services.each_ref().map(Service::address), addresses);
}

#[test]
fn a_predecessor_stays_through_the_probation_and_then_exits() {
    let service = Service::start(Config::new().default_probation());
    let predecessor = service.current();
    let successor = service.restart();
    assert_eq!(service.get("/").pid(), successor.pid());
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    assert_eq!(service.get("/").pid(), successor.pid());
}

#[test]
fn descriptors_for_sixty_four_are_enough_for_a_service_that_restarts() {
    let service = Service::start(Config::new());
    service.limit_descriptors(64);
    for _ in 0..5 {
        let predecessor = service.current();
        let clients: Vec<Client> = (0..8).map(|_| service.connect()).collect();
        service.restart();
        drop(clients);
        predecessor.wait_exit();
    }
    assert_eq!(service.get("/").generation(), 6);
}

#[test]
fn a_successor_is_not_ready_before_its_application_is() {
    let service = Service::start(Config::new());
    service.configure(&Config::new().ready_ms(300));
    service.current().hup();
    service.wait_phase("handoff");
    assert_eq!(service.get("/").generation(), 1);
    service.wait_generation(2);
}

#[test]
fn an_application_that_does_not_become_ready_is_a_failed_restart() {
    let service = Service::start(Config::new());
    service.configure(&Config::new().ready_ms(1).fault("not-ready"));
    let failure = service.restart_in_vain();
    failure.assert_says("the application did not become ready: the configuration asks for it");
    service.assert_undisturbed();
}
