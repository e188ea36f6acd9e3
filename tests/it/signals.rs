//! What each signal does in each state.
//!
//! Forking is held with a configuration file that does not come (see
//! `Service::restart_held`), Handoff with a bad successor that claims the
//! listeners and hangs, Draining with a request whose body does not come.

use rustix::process::{Signal, kill_process_group};

use crate::kit::{Client, Config, End, Fake, Held, Launch, Process, Service, Whom};

/// SIGTERM and SIGINT mean the same everywhere.
const STOPS: [fn(&Process); 2] = [Process::term, Process::int];

/// A service whose successor has claimed the listeners and hangs.
fn in_handoff() -> (Service, Process) {
    let service = Launch::api(Config::new()).own_binary().start();
    service.binary().replace_with_fake(Fake::ClaimsAndHangs);
    service.current().hup();
    service.wait_phase("handoff");
    let successor = service.current().only_child();
    (service, successor)
}

/// A service with a successor that does not come to claim anything.
fn in_forking() -> (Service, Held, Process) {
    let service = Service::start(Config::new());
    let held = service.restart_held();
    let successor = service.current().only_child();
    (service, held, successor)
}

/// A client whose request is in flight until it sends the rest of it.
fn with_request_in_flight(service: &Service) -> Client {
    let mut client = service.connect();
    client.get("/").unwrap();
    client.begin_post("/echo", 5).unwrap();
    client
}

/// Says which generation answered.
fn finish_request(mut client: Client) -> u64 {
    client.send("hello").unwrap();
    let answer = client.answer().unwrap();
    assert_eq!(answer.text(), "hello");
    answer.generation()
}

/// Checks that there have been exactly so many generations, and that none of
/// them has been asked for another one that is still to come.
fn assert_ends_after(service: &Service, generations: u64) {
    assert_eq!(service.get("/").generation(), generations);
    service.stop();
    assert_eq!(service.generations() as u64, generations);
    assert_eq!(
        service
            .log()
            .count(&format!("generation {generations} is forking")),
        0
    );
}

#[test]
fn serving_hup_restarts_once() {
    let service = Service::start(Config::new());
    service.restart_to_the_end();
    assert_ends_after(&service, 2);
}

#[test]
fn serving_term_and_int_stop() {
    for stop in STOPS {
        let service = Service::start(Config::new());
        let address = service.address();
        stop(service.first());
        assert_eq!(service.first().wait_exit(), End::Exit(0));
        service.log().wait_for_end();
        assert!(
            Client::connect(&address).is_err(),
            "nobody listens any more"
        );
    }
}

#[test]
fn forking_hups_lead_to_one_more_restart_with_the_configuration_of_then() {
    let (service, held, _) = in_forking();
    for _ in 0..5 {
        service.current().hup();
    }
    // The signals have been heard when this is answered.
    service.get("/");
    let old = Config::new().greeting("two").to_toml();
    held.release_with_then(&old, &Config::new().greeting("three"));
    service.wait_generation(3);
    assert_eq!(service.get("/").text(), "three");
    assert_ends_after(&service, 3);
}

#[test]
fn forking_hup_leads_to_another_attempt_when_the_first_one_fails() {
    let (service, held, _) = in_forking();
    let place = service.log().here();
    service.current().hup();
    service.get("/");
    held.release_with_then("listen = 3", &Config::new().greeting("anew"));
    service.wait_failed_restart_after(place);
    service.wait_generation(2);
    assert_eq!(service.get("/").text(), "anew");
    assert_eq!(service.failed_restarts(), 1);
    assert_ends_after(&service, 2);
}

#[test]
fn forking_term_and_int_exit_at_once_and_take_the_successor_along() {
    for stop in STOPS {
        let (service, _held, successor) = in_forking();
        stop(service.first());
        successor.wait_exit();
        assert_eq!(service.first().wait_exit(), End::Exit(0));
        service.log().wait_for_end();
    }
}

#[test]
fn forking_term_lets_the_request_in_flight_finish() {
    let (service, _held, successor) = in_forking();
    let client = with_request_in_flight(&service);
    service.first().term();
    successor.wait_exit();
    assert_eq!(finish_request(client), 1);
    assert_eq!(service.first().wait_exit(), End::Exit(0));
}

#[test]
fn forking_hup_to_the_successor_is_remembered_until_it_serves() {
    let (service, held, successor) = in_forking();
    successor.hup();
    held.release(&Config::new());
    service.wait_generation(3);
    assert_ends_after(&service, 3);
}

#[test]
fn forking_term_to_the_successor_is_a_failed_restart() {
    let (service, _held, successor) = in_forking();
    let place = service.log().here();
    successor.term();
    let failure = service.wait_failed_restart_after(place);
    assert_eq!(failure.successor(), Some(successor.pid()));
    service.assert_undisturbed();
}

#[test]
fn starting_hup_does_not_kill_the_first_process() {
    let (service, held) = Launch::api(Config::new()).spawn_held();
    service.first().hup();
    held.release(&Config::new());
    service.wait_generation(1);
    service.wait_generation(2);
    assert_ends_after(&service, 2);
}

#[test]
fn starting_term_ends_the_first_process() {
    let (service, _held) = Launch::api(Config::new()).spawn_held();
    service.first().term();
    assert_ne!(service.first().wait_exit(), End::Unknown);
    service.log().wait_for_end();
}

#[test]
fn handoff_hup_leads_to_one_more_attempt() {
    let (service, successor) = in_handoff();
    let place = service.log().here();
    service.binary().restore();
    for _ in 0..5 {
        service.current().hup();
    }
    service.get("/");
    successor.kill();
    service
        .wait_failed_restart_after(place)
        .assert_says("signal: 9");
    service.wait_generation(2);
    assert_eq!(service.failed_restarts(), 1);
    assert_ends_after(&service, 2);
}

#[test]
fn handoff_term_and_int_exit_at_once_and_take_the_successor_along() {
    for stop in STOPS {
        let (service, successor) = in_handoff();
        stop(service.first());
        successor.wait_exit();
        assert_eq!(service.first().wait_exit(), End::Exit(0));
        service.log().wait_for_end();
    }
}

#[test]
fn handoff_term_lets_the_request_in_flight_finish() {
    let (service, successor) = in_handoff();
    let client = with_request_in_flight(&service);
    service.first().term();
    successor.wait_exit();
    assert_eq!(finish_request(client), 1);
    assert_eq!(service.first().wait_exit(), End::Exit(0));
}

#[test]
fn probation_hup_to_either_process_leads_to_one_more_restart_afterwards() {
    for to_the_predecessor in [true, false] {
        let service = Service::start(Config::new().default_probation());
        let predecessor = service.current();
        // Should the machine be so slow that the probation is over before the
        // signal comes, the predecessor is there to pass it on.
        let client = with_request_in_flight(&service);
        let successor = service.restart();
        let target = if to_the_predecessor {
            &predecessor
        } else {
            &successor
        };
        target.hup();
        service.wait_generation(3);
        assert_eq!(finish_request(client), 1);
        assert_eq!(predecessor.wait_exit(), End::Exit(0));
        assert_ends_after(&service, 3);
    }
}

#[test]
fn probation_term_and_int_to_either_process_stop_the_service() {
    for stop in STOPS {
        for to_the_predecessor in [true, false] {
            let service = Service::start(Config::new().probation_ms(20_000));
            let predecessor = service.current();
            let successor = service.restart();
            stop(if to_the_predecessor {
                &predecessor
            } else {
                &successor
            });
            assert_eq!(predecessor.wait_exit(), End::Exit(0));
            successor.wait_exit();
            service.log().wait_for_end();
        }
    }
}

/// `pkill -HUP`, or a terminal that hangs up, reaches all generations.
#[test]
fn probation_hup_to_both_processes_leads_to_one_more_restart() {
    let service = Service::start(Config::new().probation_ms(2_000));
    service.restart();
    kill_process_group(service.group(), Signal::HUP).unwrap();
    service.wait_generation(3);
    assert_ends_after(&service, 3);
}

#[test]
fn probation_second_term_to_the_predecessor_ends_both_at_once() {
    for [first, second] in [STOPS, [STOPS[1], STOPS[0]]] {
        let service = Service::start(Config::new().probation_ms(20_000));
        let predecessor = service.current();
        let mut old = with_request_in_flight(&service);
        let successor = service.restart();
        let mut new = with_request_in_flight(&service);
        first(&predecessor);
        service.log().wait_for("generation 2 is draining");
        assert!(predecessor.is_alive() && successor.is_alive());
        second(&predecessor);
        old.wait_for_end();
        new.wait_for_end();
        assert_eq!(predecessor.wait_exit(), End::Exit(0));
        service.log().wait_for_end();
    }
}

/// Until the successor is published, the process ID that operators know is the
/// predecessor's, so stopping that one means the service.
#[test]
fn publishing_term_and_int_to_the_predecessor_stop_the_service() {
    for stop in STOPS {
        let config = Config::new().probation_ms(1_000);
        // Nobody is killed, but the log says more.
        let service = Service::start(config.kill(1, "no such record", Whom::Itself));
        let predecessor = service.current();
        let successor = service.restart();
        successor.freeze();
        service.log().wait_for("sent `publish`");
        stop(&predecessor);
        service.log().wait_for("sent `stop`");
        successor.thaw();
        assert_eq!(predecessor.wait_exit(), End::Exit(0));
        service.log().wait_for("generation 2 exits");
        service.log().wait_for_end();
    }
}

/// It would have the listeners, and nobody would know of it.
#[test]
fn probation_a_second_stop_leaves_no_successor_that_hangs() {
    let service = Service::start(Config::new().probation_ms(60_000));
    let predecessor = service.current();
    let successor = service.restart();
    successor.freeze();
    successor.wait_frozen();
    predecessor.term();
    service.log().wait_for("stopping; ");
    predecessor.int();
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    assert!(!successor.is_alive());
    let line = service
        .log()
        .wait_for("it is killed if it does not exit in 500ms");
    assert!(line.contains("it has not said that it stops"), "{line}");
    service.log().wait_for_end();
}

/// Its successor has had no time to answer to either.
#[test]
fn probation_stops_that_come_at_once_or_leave_no_time_let_the_successor_stop_by_itself() {
    for (stops, timeout) in [
        (&[Process::term, Process::int][..], 60_000),
        (&[Process::term], 0),
    ] {
        let config = Config::new().probation_ms(60_000).drain_timeout_ms(timeout);
        let service = Service::start(config);
        let predecessor = service.current();
        service.restart();
        predecessor.freeze();
        predecessor.wait_frozen();
        stops.iter().for_each(|stop| stop(&predecessor));
        predecessor.thaw();
        assert_eq!(predecessor.wait_exit(), End::Exit(0));
        service.log().wait_for("generation 2 exits");
        service.log().wait_for_end();
        // It was waited for, unless a second stop says otherwise.
        let waits = service.log().count("it is killed if it does not exit");
        assert_eq!(waits, stops.len() - 1);
    }
}

/// Everything that it has said, and that it is dead, comes at once.
#[test]
fn publishing_a_successor_that_is_published_and_stopped_is_not_taken_for_lost() {
    // Nobody is killed, but the log says more.
    let said = |generation| {
        let config = Config::new().probation_ms(1_000);
        config.kill(generation, "no such record", Whom::Itself)
    };
    let service = Service::start(said(1));
    service.configure(&said(2));
    let predecessor = service.current();
    let successor = service.restart();
    successor.freeze();
    service.log().wait_for("sent `publish`");
    predecessor.freeze();
    successor.thaw();
    service.log().wait_for("sent `published`");
    successor.term();
    service.log().wait_for("generation 2 exits");
    predecessor.thaw();
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    service.log().wait_for_end();
    assert_eq!(service.failed_restarts(), 0);
}

/// It serves on for a while, so who knows the path is to find it.
#[test]
fn probation_an_announced_stop_of_the_successor_leaves_the_path_of_its_socket() {
    let launch = Launch::api(Config::new());
    let path = format!("unix:{}", launch.dir().join("api.sock").display());
    let config = Config::on(&[&path])
        .probation_ms(20_000)
        .shutdown_delay_ms(600_000);
    let service = launch.config(config).start();
    let predecessor = service.current();
    let successor = service.restart();
    successor.term();
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    let mut client = service.connect();
    assert_eq!(client.get("/pid").unwrap().pid(), successor.pid());
    drop(client);
    successor.term();
    service.log().wait_for_end();
}

/// The queue of a listener is open until the last copy of it is closed.
#[test]
fn probation_who_comes_while_the_successor_stops_is_served_by_the_predecessor() {
    let service = Service::start(Config::new().probation_ms(20_000));
    let predecessor = service.current();
    let successor = service.restart();
    predecessor.freeze();
    successor.term();
    service.log().wait_for("generation 2 exits");
    let mut client = service.connect();
    client
        .send("GET /pid HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    predecessor.thaw();
    assert_eq!(
        client.answer().unwrap().text(),
        predecessor.pid().to_string()
    );
    drop(client);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    service.log().wait_for_end();
}

#[test]
fn draining_hup_to_the_predecessor_is_passed_on() {
    let service = Service::start(Config::new());
    let predecessor = service.current();
    let client = with_request_in_flight(&service);
    service.restart();
    service.log().wait_for("generation 1 is draining");
    predecessor.hup();
    service.wait_generation(3);
    assert_eq!(finish_request(client), 1);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    assert_ends_after(&service, 3);
}

#[test]
fn draining_second_term_to_the_predecessor_ends_it_and_the_service_goes_on() {
    // Two signals of one kind could become one before they are taken.
    for [first, second] in [STOPS, [STOPS[1], STOPS[0]]] {
        let service = Service::start(Config::new());
        let predecessor = service.current();
        let mut client = with_request_in_flight(&service);
        service.restart();
        // A generation restarts only when it is proven, so after this the first
        // one can no longer be meant as the service.
        service.restart();
        first(&predecessor);
        assert!(predecessor.is_alive(), "the first one changes nothing");
        second(&predecessor);
        client.wait_for_end();
        predecessor.wait_exit();
        assert_ends_after(&service, 3);
    }
}

/// As systemd and a terminal do it.
#[test]
fn term_to_all_generations_at_once_stops_the_service_and_cuts_no_request() {
    for probation in [0, 20_000] {
        let service = Service::start(Config::new().probation_ms(probation));
        let predecessor = service.current();
        let with_predecessor = with_request_in_flight(&service);
        let successor = service.restart();
        let with_successor = with_request_in_flight(&service);
        kill_process_group(service.group(), Signal::TERM).unwrap();
        service.log().wait_for("generation 2 is draining");
        assert_eq!(finish_request(with_successor), 2);
        successor.wait_exit();
        assert_eq!(finish_request(with_predecessor), 1);
        assert_eq!(predecessor.wait_exit(), End::Exit(0));
        service.log().wait_for_end();
    }
}

#[test]
fn stopping_hup_changes_nothing() {
    let service = Service::start(Config::new());
    let client = with_request_in_flight(&service);
    service.first().term();
    service.wait_phase("draining");
    service.first().hup();
    assert_eq!(finish_request(client), 1);
    assert_eq!(service.first().wait_exit(), End::Exit(0));
    service.log().wait_for_end();
    assert_eq!(service.generations(), 1);
}

#[test]
fn stopping_second_term_or_int_ends_at_once_and_names_who_is_cut() {
    for first in STOPS {
        for second in STOPS {
            let service = Service::start(Config::new());
            let mut client = with_request_in_flight(&service);
            first(service.first());
            service.wait_phase("draining");
            second(service.first());
            client.wait_for_end();
            assert_ne!(service.first().wait_exit(), End::Killed(15));
            service.log().wait_for_end();
            service.log().wait_for(&client.name());
        }
    }
}

#[test]
fn a_flood_of_hups_does_not_drop_a_term() {
    let (service, _held, successor) = in_forking();
    for _ in 0..1_000 {
        service.first().hup();
    }
    service.first().term();
    successor.wait_exit();
    assert_eq!(service.first().wait_exit(), End::Exit(0));
    service.log().wait_for_end();
}

#[test]
fn a_stop_on_probation_that_is_announced_leaves_a_pid_file() {
    for whom in ["successor", "predecessor"] {
        let launch = Launch::api(Config::new());
        let path = launch.dir().join("api.pid");
        let config = Config::new()
            .probation_ms(20_000)
            .shutdown_delay_ms(600_000)
            .pid_file(path.to_str().unwrap());
        let service = launch.config(config).start();
        let predecessor = service.current();
        let successor = service.restart();
        match whom {
            "successor" => successor.term(),
            _ => predecessor.term(),
        }
        assert_eq!(predecessor.wait_exit(), End::Exit(0));
        service.settle();
        let pid = std::fs::read_to_string(&path).expect("a PID file");
        assert_eq!(pid.trim(), successor.pid().to_string());
        successor.term();
        successor.int();
        service.log().wait_for_end();
        assert!(!path.exists());
    }
}
