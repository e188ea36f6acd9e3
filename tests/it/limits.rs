//! Limits of the server as a whole; those of one connection are tested where
//! connections are.

use crate::kit::{Config, Failure, Service};

#[test]
fn at_the_limit_of_connections_the_next_one_waits_for_its_turn() {
    let service = Service::start(Config::new().limit("max_connections", 2));
    let mut first = service.connect();
    let mut second = service.connect();
    first.get("/").unwrap();
    second.get("/").unwrap();
    let mut third = service.connect();
    third.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    // The third is in the queue of the listener, so it is not even begun.
    for _ in 0..100 {
        first.get("/").unwrap();
        assert!(third.is_silent());
    }
    drop(second);
    assert_eq!(third.answer().unwrap().text(), "hello");
    first.get("/").unwrap();
}

#[test]
fn connections_in_the_queue_at_the_limit_are_the_successors() {
    let service = Service::start(Config::new().limit("max_connections", 1));
    let mut held = service.connect();
    held.get("/").unwrap();
    let mut waiting = service.connect();
    waiting
        .send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    let successor = service.restart();
    service.log().wait_for(" has handed over: ");
    // Its place goes with a connection that is there already.
    assert_eq!(held.get("/pid").unwrap().pid(), successor.pid());
    assert!(waiting.is_silent());
    drop(held);
    assert_eq!(waiting.answer().unwrap().pid(), successor.pid());
}

#[test]
fn keep_alive_ends_after_its_timeout() {
    let service = Service::start(Config::new().limit("keep_alive_timeout_ms", 50));
    let mut client = service.connect();
    client.get("/").unwrap();
    client.wait_for_close().unwrap();
}

#[test]
fn a_handler_that_takes_too_long_is_a_503() {
    let service = Service::start(Config::new().limit("handler_timeout_ms", 50));
    let mut client = service.connect();
    assert_eq!(client.get("/slow?ms=600000").unwrap().status, 503);
}

#[test]
fn bodies_and_heads_beyond_their_limits_are_refused() {
    let config = Config::new()
        .limit("max_body_bytes", 10)
        .limit("max_head_bytes", 200);
    let service = Service::start(config);
    let mut client = service.connect();
    assert_eq!(client.post("/echo", "0123456789").unwrap().status, 200);
    assert_eq!(client.post("/echo", "0123456789x").unwrap().status, 413);
    let mut client = service.connect();
    let long = format!("/{}", "x".repeat(300));
    let status = client.get(&long).map(|answer| answer.status);
    assert!(matches!(status, Ok(414 | 431)), "{status:?}");
}

#[test]
fn requests_that_do_not_come_to_an_end_are_a_408() {
    let config = Config::new()
        .limit("head_timeout_ms", 50)
        .limit("body_timeout_ms", 50);
    let service = Service::start(config);
    let mut client = service.connect();
    client.send("GET / HTTP/1.1\r\nhost").unwrap();
    assert_eq!(client.answer().unwrap().status, 408);
    let mut client = service.connect();
    client.begin_post("/echo", 10).unwrap();
    client.send("012").unwrap();
    assert_eq!(client.answer().unwrap().status, 408);
    // Whoever says nothing is told nothing.
    let mut client = service.connect();
    assert!(matches!(client.answer(), Err(Failure::Closed)));
}
