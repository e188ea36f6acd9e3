//! Clients under way while the service is restarted again and again.

use crate::kit::{Config, Connections, End, Launch, Load, Service, Tally};

/// As many clients as make a service busy without starving it of the processor.
const CLIENTS: usize = 4;

/// Restarts the service under the load of `connections`, with a good number of
/// requests in each generation.
fn restart_under_load(service: &Service, connections: Connections, restarts: u64) -> Tally {
    let load = Load::start(&service.address(), connections, CLIENTS);
    for _ in 0..restarts {
        load.wait_for_requests(50);
        service.restart();
    }
    load.wait_for_requests(50);
    load.stop()
}

fn assert_spotless(tally: &Tally, restarts: u64) {
    assert_eq!(tally.failed(), 0, "{tally}");
    let seen = tally.generations.len() as u64;
    assert!(
        seen > restarts / 2,
        "the load met too few generations: {tally}"
    );
    assert!(tally.generations.contains(&(restarts + 1)), "{tally}");
}

#[test]
fn new_connections_lose_no_request_over_twenty_restarts() {
    let service = Service::start(Config::new());
    let tally = restart_under_load(&service, Connections::NewForEach, 20);
    assert_spotless(&tally, 20);
}

#[test]
fn kept_alive_connections_lose_no_request_over_twenty_restarts() {
    let service = Service::start(Config::new());
    let tally = restart_under_load(&service, Connections::KeptAlive, 20);
    assert_spotless(&tally, 20);
}

#[test]
fn connections_to_a_unix_socket_lose_no_request_over_twenty_restarts() {
    for connections in [Connections::NewForEach, Connections::KeptAlive] {
        let launch = Launch::api(Config::new());
        let path = format!("unix:{}", launch.dir().join("api.sock").display());
        let service = launch.config(Config::on(&[&path])).start();
        let tally = restart_under_load(&service, connections, 20);
        assert_spotless(&tally, 20);
    }
}

#[test]
fn a_service_with_the_default_probation_loses_no_request() {
    for connections in [Connections::NewForEach, Connections::KeptAlive] {
        let service = Service::start(Config::new().default_probation());
        let load = Load::start(&service.address(), connections, CLIENTS);
        for _ in 0..3 {
            load.wait_for_requests(50);
            service.restart_to_the_end();
        }
        load.wait_for_requests(50);
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{tally}");
    }
}

#[test]
fn failed_restarts_lose_no_request() {
    let service = Service::start(Config::new());
    service.configure(&Config::new().fault("exit"));
    for connections in [Connections::NewForEach, Connections::KeptAlive] {
        let load = Load::start(&service.address(), connections, CLIENTS);
        for _ in 0..10 {
            load.wait_for_requests(50);
            service.restart_in_vain();
        }
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{tally}");
        assert_eq!(tally.generations, [1].into(), "{tally}");
    }
}

/// The load test can fail: the same clients, and a service that is stopped and
/// started again at the same address instead.
#[test]
fn stopping_and_starting_loses_requests_and_the_clients_notice() {
    for connections in [Connections::NewForEach, Connections::KeptAlive] {
        let first = Service::start(Config::new());
        let address = first.address();
        let load = Load::start(&address, connections, CLIENTS);
        load.wait_for_requests(50);
        first.first().kill();
        assert_ne!(first.first().wait_exit(), End::Exit(0));
        let second = Service::start(Config::on(&[&address.to_string()]));
        load.wait_for_requests(50);
        let tally = load.stop();
        assert!(tally.failed() > 0, "{connections:?}: {tally}");
        drop(second);
    }
}
