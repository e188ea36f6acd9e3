//! As process 1 of a container: its process ID never changes, whoever serves.
//!
//! Each test has a PID namespace of its own ([`Container`]); where that is
//! impossible it says so and is skipped.

use rustix::process::Signal;

use crate::kit::{Client, Config, Container, End, Launch, NotifySocket, Process, Service, Whom};

/// How much memory a stub may have for itself. How many pages of files are mapped,
/// which are those of all, depends on how many the system has at hand.
const PRIVATE_KIB: u64 = 1024;

#[test]
fn twenty_restarts_leave_process_1_what_it_was_and_a_connection_open() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    let mut client = container.connect();
    for generation in 2..=21 {
        assert_eq!(client.get("/").unwrap().generation(), generation - 1);
        container.restart_to(generation);
    }
    let answer = client.get("/").unwrap();
    assert_eq!(answer.generation(), 21);
    // Each of them, once, and nobody else.
    assert_eq!(container.service().generations(), 21);

    let init = container.init();
    assert!(init.is_alive());
    assert_eq!(Process::number_inside(init.pid()), Some(1));
    init.wait_for_children(1);
    assert_eq!(init.only_child().pid(), container.generation(21).pid());
    assert_eq!(init.threads(), 1);
    let memory = init.private_memory_kib();
    assert!(memory <= PRIVATE_KIB, "{memory} KiB");
    assert!(init.descriptors().len() <= 16, "{:?}", init.descriptors());

    init.term();
    assert_eq!(container.wait_end(), End::Exit(0));
    container.service().log().wait_for_end();
}

#[test]
fn a_stub_has_the_name_and_the_arguments_of_the_process_that_it_was() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    let init = container.init();
    let (name, arguments) = (init.name(), init.arguments());
    container.restart_to(2);
    assert_eq!((init.name(), init.arguments()), (name, arguments));
    assert_eq!(init.descriptors()[&0], "/dev/null");
}

#[test]
fn orphans_are_reaped_those_too_that_died_before() {
    let orphans = "for i in 1 2; do sleep 1000 > /dev/null 2>&1 & done";
    let launch = Launch::api(Config::new()).prelude(orphans);
    let Some(container) = Container::launch(launch) else {
        return;
    };
    let mut orphans = container.init().children().into_keys().map(Process::open);
    let (early, late) = (orphans.next().unwrap(), orphans.next().unwrap());
    early.kill();
    early.wait_exit();
    container.restart_to(2);
    early.wait_reaped();
    late.kill();
    late.wait_reaped();
    container.init().wait_for_children(1);
}

#[test]
fn a_stop_ends_all_and_lets_requests_in_flight_finish() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    container.restart_to(2);
    let mut client = Client::with_request_in_flight(|| container.connect());
    container.restart_while_draining(3);
    let mut other = Client::with_request_in_flight(|| container.connect());
    container.init().term();
    let log = container.service().log();
    log.wait_for("stopping; ");
    assert_eq!(other.finish_request(), 3);
    log.wait_for("generation 3 exits ");
    // The older one still has its time, and process 1 waits for it.
    assert!(container.init().is_alive());
    assert_eq!(client.finish_request(), 2);
    assert_eq!(container.wait_end(), End::Exit(0));
}

#[test]
fn a_second_stop_cuts_what_all_generations_have_in_flight() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    container.restart_to(2);
    let mut client = Client::with_request_in_flight(|| container.connect());
    container.restart_while_draining(3);
    let mut other = Client::with_request_in_flight(|| container.connect());
    container.init().term();
    container.service().log().wait_for("stopping; ");
    container.init().signal(Signal::INT);
    assert_eq!(container.wait_end(), End::Exit(0));
    client.wait_for_end();
    other.wait_for_end();
    container.service().log().wait_for_end();
}

#[test]
fn a_stop_reaches_the_successor_while_process_1_still_drains() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    let mut client = Client::with_request_in_flight(|| container.connect());
    for generation in 2..=3 {
        container.restart_while_draining(generation);
    }
    container.init().term();
    container.service().log().wait_for("generation 3 exits ");
    assert_eq!(client.finish_request(), 1);
    assert_eq!(container.wait_end(), End::Exit(0));
}

#[test]
fn a_stop_is_not_lost_while_process_1_becomes_a_stub() {
    for _ in 0..10 {
        let Some(container) = Container::start(Config::new()) else {
            return;
        };
        container.init().hup();
        container.service().log().wait_for("generation 1 exits ");
        container.init().term();
        assert_eq!(container.wait_end(), End::Exit(0));
        container.service().log().wait_for_end();
    }
}

/// Otherwise `exec` could end it within the handler of a signal.
#[test]
fn the_thread_of_the_reactor_takes_no_signal_of_process_1() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    let init = container.init();
    let ours = [Signal::HUP, Signal::TERM, Signal::INT, Signal::QUIT];
    let blocked = init.blocked_signals("async-io");
    assert!(ours.iter().all(|signal| blocked.contains(signal)));
    let name = init.name();
    assert_eq!(init.blocked_signals(name.trim()), []);
    // Nor is it bequeathed to whatever the service starts.
    container.init().hup();
    container
        .service()
        .log()
        .wait_for("generation 2 is serving on ");
    let successor = container.generation(2);
    assert_eq!(successor.blocked_signals(name.trim()), []);
}

#[test]
fn the_last_of_many_reloads_is_followed_by_a_reading_of_the_configuration() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    container.restart_to(2);
    for number in 1..=50 {
        let greeting = format!("number {number}");
        container
            .service()
            .configure(&Config::new().greeting(&greeting));
        container.init().hup();
    }
    let log = container.service().log();
    let mut client = container.connect();
    let mut place = log.here();
    while client.get("/").unwrap().text() != "number 50" {
        log.wait_for_more(place);
        place = log.here();
    }
    container.init().term();
    assert_eq!(container.wait_end(), End::Exit(0));
}

#[test]
fn other_signals_are_for_the_generation_that_serves() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    container.restart_to(2);
    container.restart_to(3);
    // The service has not asked for it, so it ends it.
    container.init().signal(Signal::USR1);
    assert_eq!(container.wait_end(), End::Exit(128 + 10));
}

#[test]
fn the_end_of_the_generation_that_serves_is_the_end_of_the_container() {
    for (signal, code) in [(Signal::KILL, 137), (Signal::ABORT, 134)] {
        let Some(container) = Container::start(Config::new()) else {
            return;
        };
        container.restart_to(2);
        container.restart_to(3);
        container.generation(3).signal(signal);
        assert_eq!(container.wait_end(), End::Exit(code));
    }
}

#[test]
fn a_crash_is_not_made_good_by_older_generations_that_drain() {
    let Some(container) = Container::start(Config::new().drain_timeout_ms(600_000)) else {
        return;
    };
    container.restart_to(2);
    let mut client = Client::with_request_in_flight(|| container.connect());
    container.restart_while_draining(3);
    container.generation(3).kill();
    // Its parent, which drains, has reaped it and tells how it ended. What is
    // in flight there is given a few seconds.
    container.service().log().wait_for("successor ");
    assert_eq!(container.wait_end(), End::Exit(137));
    client.wait_for_end();
}

#[test]
fn a_successor_that_dies_after_it_has_published_itself_is_undone_here_as_well() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    container.restart_to(2);
    let deadly = Config::new().kill(3, "sending `published`", Whom::Itself);
    container.service().configure(&deadly);
    container.init().hup();
    let log = container.service().log();
    log.wait_for("restart undone: ");
    assert_eq!(container.connect().get("/").unwrap().generation(), 2);
    // It is the one again to which everything is passed on, and whose end is
    // that of the service.
    container.init().hup();
    log.wait_until("another attempt", |lines| {
        let undone = lines
            .iter()
            .filter(|line| line.contains("restart undone: "));
        (undone.count() == 2).then_some(())
    });
    assert_eq!(container.connect().get("/").unwrap().generation(), 2);
    container.init().term();
    assert_eq!(container.wait_end(), End::Exit(0));
}

#[test]
fn a_failed_restart_and_a_plain_stop_need_no_stub() {
    let Some(container) = Container::start(Config::new()) else {
        return;
    };
    container
        .service()
        .configure(&Config::new().fault("bad-config"));
    container.init().hup();
    container.service().log().wait_for("restart failed: ");
    assert_eq!(container.connect().get("/pid").unwrap().text(), "1");
    container.init().term();
    assert_eq!(container.wait_end(), End::Exit(0));
    container.service().log().wait_for_end();
    assert_eq!(container.service().log().count("becomes a stub"), 0);
}

#[test]
fn a_process_1_that_is_not_to_stay_says_what_its_end_means() {
    let Some(container) = Container::start(Config::new().pid_one_stub(false)) else {
        return;
    };
    container.init().hup();
    assert_eq!(container.wait_end(), End::Exit(0));
    let log = container.service().log();
    log.wait_for_end();
    assert_eq!(log.count("process 1 exits, which ends the container"), 1);
}

#[test]
fn elsewhere_a_process_stays_if_it_is_told_to() {
    let service = Service::start(Config::new().pid_one_stub(true));
    let mut client = service.connect();
    for generation in 2..=4 {
        let predecessor = service.current();
        service.first().hup();
        let successor = service.wait_next_generation();
        match generation {
            2 => service.first().wait_stub(),
            _ => predecessor.wait_reaped(),
        }
        service.first().wait_for_children(1);
        assert_eq!(client.get("/").unwrap().pid(), successor.pid());
    }
    service.first().term();
    assert_eq!(service.first().wait_exit(), End::Exit(0));
    service.log().wait_for_end();
}

#[test]
fn a_group_that_gets_a_signal_as_a_whole_counts_it_once() {
    let service = Service::start(Config::new().pid_one_stub(true));
    service.first().hup();
    service.wait_next_generation();
    service.first().wait_stub();
    let mut client = service.connect();
    client.begin_post("/echo", 5).unwrap();
    service.settle();
    rustix::process::kill_process_group(service.group(), Signal::TERM).unwrap();
    service.log().wait_for("stopping; ");
    assert_eq!(client.finish_request(), 2);
    assert_eq!(service.first().wait_exit(), End::Exit(0));
}

#[test]
fn nobody_stays_who_is_not_asked_to_and_is_not_process_1() {
    let service = Service::start(Config::new());
    service.restart_to_the_end();
}

/// As under Podman, which passes the socket of its supervisor on.
#[test]
fn process_1_stays_although_a_supervisor_is_told_who_is_the_main_one() {
    let supervisor = NotifySocket::without_a_file();
    let launch = Launch::api(Config::new())
        .wrapper(&["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .supervised_by(&supervisor);
    let Some(container) = Container::launch(launch) else {
        return;
    };
    let mut client = container.connect();
    for number in 2..=3 {
        container.restart_to(number);
        assert_eq!(client.get("/").unwrap().generation(), number);
    }
    container.init().term();
    assert_eq!(container.wait_end(), End::Exit(0));
}

#[test]
fn a_variable_alone_makes_no_stub() {
    let service = Launch::api(Config::new())
        .prelude("export HEIRLOOM_STUB=$$")
        .start();
    assert_eq!(service.get("/").generation(), 1);
    service.restart_to_the_end();
}

/// Each of them hears it from the first process, and from those before it.
#[test]
fn a_stop_is_one_for_a_whole_chain_of_draining_generations() {
    let service = Service::start(Config::new().pid_one_stub(true));
    service.restart();
    service.first().wait_stub();
    let mut clients = vec![(2, Client::with_request_in_flight(|| service.connect()))];
    for number in 3..=5 {
        service.first().hup();
        service.wait_generation(number);
        let log = service.log();
        log.wait_until("the publication", |lines| {
            let proven = lines
                .iter()
                .filter(|line| line.contains(" has passed its probation"));
            (proven.count() as u64 >= number - 1).then_some(())
        });
        clients.push((number, Client::with_request_in_flight(|| service.connect())));
    }
    service.first().term();
    service.log().wait_for("stopping; ");
    // Who exits has passed on what it has heard.
    for (number, mut client) in clients {
        assert_eq!(client.finish_request(), number);
        let exits = format!("generation {number} exits ");
        service.log().wait_for(&exits);
    }
    assert_eq!(service.first().wait_exit(), End::Exit(0));
    assert_eq!(service.log().count("stopping at once"), 0);
}

#[test]
fn a_stub_under_a_supervisor_does_not_hold_up_a_stop() {
    let supervisor = NotifySocket::without_a_file();
    let config = Config::new().pid_one_stub(true).drain_timeout_ms(600_000);
    let service = Launch::api(config).supervised_by(&supervisor).start();
    service.restart();
    service.first().wait_stub();
    service.first().term();
    assert_eq!(service.first().wait_exit(), End::Exit(0));
}
