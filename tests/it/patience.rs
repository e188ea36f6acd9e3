//! Whoever hangs in the middle of a handoff is waited for, but not for ever.

use crate::kit::{Batch, Client, Config, End, FalsePredecessor, Launch, Service, can_open};

const GET: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

fn kept_alive(service: &Service, number: usize) -> Vec<Client> {
    let connect = |_| {
        let mut client = service.connect();
        client.get("/").unwrap();
        client
    };
    (0..number).map(connect).collect()
}

fn assert_served_by(service: &Service, clients: &mut [Client]) {
    let pid = service.current().pid();
    for client in clients {
        let answer = client.answer().unwrap();
        assert_eq!(answer.pid(), pid);
        assert!(!answer.closes(), "{answer:?}");
    }
}

/// One test, so that the five seconds pass once.
#[test]
fn whoever_hangs_has_five_seconds() {
    if !can_open(400) {
        return;
    }
    let probation = Config::new().probation_ms(60_000);

    // A successor that takes connections and does not say so. What does not
    // fit into four messages is served by its predecessor meanwhile.
    let silent = Launch::api(probation.clone()).linked_binary().start();
    let mut others = kept_alive(&silent, 150);
    let successor = silent.restart_into_false_successor();
    successor.take_over(1000);
    let batches: Vec<Batch> = (0..4).map(|_| successor.take_batch()).collect();
    let is_taken = |it: &mut Client| {
        let mut peers = batches.iter().flat_map(Batch::peers);
        peers.any(|peer| peer == it.name())
    };
    let mut in_transit: Vec<Client> = others.extract_if(.., is_taken).collect();
    assert!(!others.is_empty());
    in_transit.iter_mut().for_each(|it| it.send(GET).unwrap());
    others.iter_mut().for_each(|it| it.send(GET).unwrap());
    assert_served_by(&silent, &mut others);
    assert!(in_transit.iter().all(Client::is_silent));

    // A successor that is stopped as soon as it serves, within a probation that
    // is shorter than that.
    let config = Config::new().default_probation();
    let frozen = Service::start(config.clone().fault("hang-after-ready"));
    let mut frozen_clients = kept_alive(&frozen, 3);
    let frozen_place = frozen.log().here();
    frozen.current().hup();
    frozen.log().wait_for("generation 2 is serving on ");

    // A successor that is told to stop, with its service, and has nothing else
    // to say.
    let stopped = Service::start(probation);
    let hanging = stopped.restart();
    hanging.freeze();
    hanging.wait_frozen();
    stopped.first().term();

    // A predecessor that announces connections and does not send them, to a
    // successor that has no room for any others.
    let config = Config::new().limit("max_connections", 2);
    let announcing = FalsePredecessor::with_successor(config, 100);
    let mut waiting = announcing.successor().connect();
    waiting.send(GET).unwrap();

    let failure = silent.wait_failure_of(&successor);
    failure.assert_says("restart undone: ");
    let number = in_transit.len();
    failure.assert_says(&format!("it has not taken {number} connections in 5s"));
    drop(batches);
    silent.assert_undisturbed();
    assert_served_by(&silent, &mut in_transit);

    frozen_clients
        .iter_mut()
        .for_each(|it| it.send(GET).unwrap());
    let failure = frozen.wait_failed_restart_after(frozen_place);
    failure.assert_says("restart undone: ");
    failure.assert_says("it has not taken 3 connections in 5s");
    frozen.assert_undisturbed();
    assert_served_by(&frozen, &mut frozen_clients);

    assert_eq!(waiting.answer().unwrap().generation(), 2);

    assert_eq!(stopped.first().wait_exit(), End::Exit(0));
    assert!(!hanging.is_alive());
    stopped
        .log()
        .wait_for("it has not said that it stops; it is killed");
    stopped.log().wait_for_end();

    // And afterwards it is as if nothing had happened.
    silent.binary().link_to("api");
    frozen.configure(&Config::new());
    for service in [silent, frozen] {
        service.restart();
        assert_eq!(service.get("/").generation(), 2);
    }
}
