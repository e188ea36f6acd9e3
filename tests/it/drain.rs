//! A drain: nothing new is accepted, what is in flight finishes, and a deadline
//! ends it with a report.

use crate::kit::{Client, Config, End, Failure, Service};

const GET: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

#[test]
fn a_request_in_flight_finishes_and_its_response_announces_the_close() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    assert!(!client.get("/").unwrap().closes());
    client.begin_post("/echo", 5).unwrap();
    service.first().term();
    service.wait_phase("draining");
    client.send("hello").unwrap();
    let answer = client.answer().unwrap();
    assert_eq!(answer.text(), "hello");
    assert!(answer.closes(), "{answer:?}");
    client.wait_for_close().unwrap();
    drop(client);
    assert_eq!(service.first().wait_exit(), End::Exit(0));
}

#[test]
fn a_slow_request_finishes() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    client.get("/").unwrap();
    client
        .send("GET /slow?ms=300 HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    service.restart();
    let answer = client.answer().unwrap();
    assert_eq!((answer.text(), answer.generation()), ("done\n", 1));
}

#[test]
fn the_deadline_cuts_and_names_each_straggler() {
    let service = Service::start(Config::new().drain_timeout_ms(500));
    let mut slow = service.connect();
    slow.get("/").unwrap();
    slow.send("GET /slow?ms=600000 HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    let mut unfinished = service.connect();
    unfinished.get("/").unwrap();
    unfinished.begin_post("/echo", 5).unwrap();
    service.first().term();
    slow.wait_for_end();
    unfinished.wait_for_end();
    service.first().wait_exit();
    service.log().wait_for_end();
    for (client, request) in [(slow, "GET /slow?ms=600000"), (unfinished, "POST /echo")] {
        let line = service.log().wait_for(&client.name());
        assert!(line.contains(request), "{line}");
        assert!(line.contains("busy for "), "{line}");
    }
}

#[test]
fn the_deadline_holds_after_a_restart_too() {
    let service = Service::start(Config::new().drain_timeout_ms(500));
    let predecessor = service.current();
    let mut slow = service.connect();
    slow.get("/").unwrap();
    slow.send("GET /slow?ms=600000 HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    service.restart();
    slow.wait_for_end();
    predecessor.wait_exit();
    service.log().wait_for(&slow.name());
    assert_eq!(service.get("/").generation(), 2);
}

#[test]
fn a_client_that_does_not_read_its_response_is_cut_at_the_deadline() {
    let service = Service::start(Config::new().drain_timeout_ms(500));
    let mut client = service.connect();
    client.shrink_window();
    client
        .send("GET /stream?n=5000000 HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    client.answer_head().unwrap();
    service.first().term();
    service.first().wait_exit();
    service.log().wait_for_end();
    let line = service.log().wait_for(&client.name());
    assert!(line.contains("GET /stream?n=5000000"), "{line}");
}

#[test]
fn a_request_that_was_on_its_way_on_an_idle_connection_is_answered() {
    for stop in [false, true] {
        let service = Service::start(Config::new());
        let predecessor = service.current();
        let mut clients: Vec<Client> = (0..20).map(|_| service.connect()).collect();
        for client in &mut clients {
            client.get("/").unwrap();
        }
        // The signal and the requests are all there when the process goes on.
        predecessor.freeze();
        clients
            .iter_mut()
            .for_each(|client| client.send(GET).unwrap());
        if stop {
            predecessor.term()
        } else {
            predecessor.hup()
        }
        predecessor.thaw();
        for client in &mut clients {
            assert_eq!(client.answer().unwrap().pid(), predecessor.pid());
        }
        drop(clients);
        assert_eq!(predecessor.wait_exit(), End::Exit(0));
    }
}

#[test]
fn an_idle_connection_may_ask_once_more_and_is_told_to_close() {
    let service = Service::start(Config::new().no_hand_over());
    let predecessor = service.current();
    let mut client = service.connect();
    client.get("/").unwrap();
    service.restart();
    let answer = client.get("/").unwrap();
    assert_eq!(answer.pid(), predecessor.pid());
    assert!(answer.closes(), "{answer:?}");
    client.wait_for_close().unwrap();
    drop(client);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
}

#[test]
fn an_idle_connection_that_stays_idle_is_closed_politely() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    client.get("/").unwrap();
    service.first().term();
    client.wait_for_close().unwrap();
    drop(client);
    assert_eq!(service.first().wait_exit(), End::Exit(0));
}

#[test]
fn a_connection_that_has_not_asked_anything_yet_is_served_or_closed_politely() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    service.get("/");
    service.first().term();
    client.wait_for_close().unwrap();
    drop(client);
    assert_eq!(service.first().wait_exit(), End::Exit(0));
}

#[test]
fn half_a_request_head_is_waited_for() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    client.get("/").unwrap();
    let (begin, end) = GET.split_at(10);
    client.send(begin).unwrap();
    // Once this is answered, the half has been there for a while.
    service.get("/");
    service.first().term();
    service.wait_phase("draining");
    client.send(end).unwrap();
    assert!(client.answer().unwrap().closes());
    drop(client);
    assert_eq!(service.first().wait_exit(), End::Exit(0));
}

#[test]
fn what_waits_in_the_accept_queue_is_served_before_the_end() {
    let service = Service::start(Config::on(&["127.0.0.1:0", "[::1]:0"]));
    let process = service.current();
    process.freeze();
    let mut clients: Vec<Client> = service
        .addresses()
        .iter()
        .cycle()
        .take(50)
        .map(|address| Client::connect(address).unwrap())
        .collect();
    clients
        .iter_mut()
        .for_each(|client| client.send(GET).unwrap());
    process.term();
    process.thaw();
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().status, 200);
    }
    drop(clients);
    assert_eq!(process.wait_exit(), End::Exit(0));
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    let requests = ["/pid", "/", "/stream?n=2", "/empty", "/pid"];
    let pipeline: String = requests
        .iter()
        .map(|target| GET.replacen('/', target, 1))
        .collect();
    client.send(&pipeline).unwrap();
    let pid = service.first().pid().to_string();
    for (target, expected) in requests
        .iter()
        .zip([&pid, "hello", "line 1\nline 2\n", "", &pid])
    {
        let answer = client.answer().unwrap();
        assert_eq!(answer.text(), expected, "GET {target}");
    }
}

#[test]
fn what_was_pipelined_before_a_restart_is_answered_or_not_begun() {
    let service = Service::start(Config::new().no_hand_over());
    let predecessor = service.current();
    let mut client = service.connect();
    client.get("/").unwrap();
    predecessor.freeze();
    client.send(&GET.repeat(10)).unwrap();
    predecessor.hup();
    predecessor.thaw();
    // A client may send again what follows a response that announces the
    // close, and nothing before it.
    for _ in 0..10 {
        let answer = client.answer().unwrap();
        assert_eq!(answer.pid(), predecessor.pid());
        if answer.closes() {
            break;
        }
    }
    assert!(matches!(
        client.wait_for_close(),
        Ok(()) | Err(Failure::Reset)
    ));
}

#[test]
fn a_stop_after_restarts_drains_like_the_first_process() {
    let service = Service::start(Config::new());
    service.restart_to_the_end();
    let successor = service.restart_to_the_end();
    let mut client = service.connect();
    client.get("/").unwrap();
    client.begin_post("/echo", 5).unwrap();
    successor.term();
    service.wait_phase("draining");
    client.send("hello").unwrap();
    assert!(client.answer().unwrap().closes());
    drop(client);
    assert_eq!(successor.wait_exit(), End::Exit(0));
    service.log().wait_for_end();
}

#[test]
fn a_guard_holds_the_exit_until_it_is_dropped() {
    let service = Service::start(Config::new());
    assert_eq!(service.get("/hold?ms=300").text(), "held\n");
    let process = service.current();
    process.term();
    service.wait_phase("draining");
    assert!(process.is_alive());
    assert_eq!(process.wait_exit(), End::Exit(0));
    service.log().wait_for_end();
    assert_eq!(service.log().count("cut off"), 0);
}

#[test]
fn the_deadline_cuts_and_names_a_guard_that_is_not_dropped() {
    let service = Service::start(Config::new().drain_timeout_ms(200));
    service.get("/hold?ms=600000");
    service.current().term();
    assert_eq!(service.first().wait_exit(), End::Exit(0));
    service.log().wait_for("cut off: GET /hold for ");
}

#[test]
fn a_stop_that_is_announced_goes_on_serving_and_says_that_it_is_not_ready() {
    let service = Service::start(Config::new().shutdown_delay_ms(600_000));
    let process = service.current();
    let mut client = service.connect();
    assert_eq!(client.get("/health").unwrap().status, 200);
    process.term();
    service.log().wait_for("stopping in 600s");
    for mut client in [client, service.connect()] {
        let answer = client.get("/health").unwrap();
        assert_eq!((answer.status, answer.closes()), (503, false));
        assert_eq!(client.get("/").unwrap().text(), "hello");
    }
    // What is announced is not taken back by a reload.
    process.hup();
    service.settle();
    assert_eq!(process.children(), [].into());
    process.term();
    assert_eq!(process.wait_exit(), End::Exit(0));
    service.log().wait_for_end();
    assert_eq!(service.generations(), 1);
}

#[test]
fn an_announced_stop_begins_after_its_delay() {
    let service = Service::start(Config::new().shutdown_delay_ms(100));
    // Also when it comes while a successor starts, and to a successor.
    let held = service.restart_held();
    let successor = service.current().only_child();
    service.current().term();
    successor.wait_reaped();
    assert_eq!(service.first().wait_exit(), End::Exit(0));
    service.log().wait_for("stopping in 100ms");
    service.log().wait_for_end();
    drop(held);

    let config = Config::new().shutdown_delay_ms(100).probation_ms(60_000);
    let service = Service::start(config);
    let predecessor = service.current();
    let successor = service.restart();
    successor.term();
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    assert_eq!(successor.wait_exit(), End::Exit(0));
    assert_eq!(service.log().count("stopping in 100ms"), 1);
    service.log().wait_for_end();
}
