//! What a supervisor is told, and by whom: the words of `sd_notify(3)`, heard
//! at the socket that `NOTIFY_SOCKET` names.

use rustix::process::{Signal, kill_process_group};
use rustix::time::{ClockId, clock_gettime};

use crate::kit::{Client, Config, End, Launch, NotifySocket, Process, Service, Whom};

const RELOADING: &[&str] = &["RELOADING=1", "EXTEND_TIMEOUT_USEC=15000000"];
const STOPPING: &[&str] = &["STOPPING=1", "EXTEND_TIMEOUT_USEC=15000000"];

/// Waits for the word that this process is no longer the main one.
fn assert_retires(supervisor: &NotifySocket, predecessor: &Process, successor: &Process) {
    let main = format!("MAINPID={}", successor.pid());
    supervisor
        .next()
        .assert_says(predecessor, &[&main, "READY=1", "WATCHDOG=1"])
        .assert_status(&format!("(pid {}) serves", successor.pid()));
}

fn assert_inherits(supervisor: &NotifySocket, successor: &Process, generation: u64) {
    supervisor
        .next()
        .assert_says(successor, &["WATCHDOG=1"])
        .assert_status(&format!("generation {generation} serves on "));
}

fn start(config: Config) -> (NotifySocket, Service) {
    start_with(config, NotifySocket::in_a_directory())
}

fn start_with(config: Config, supervisor: NotifySocket) -> (NotifySocket, Service) {
    let launch = Launch::api(config).supervised_by(&supervisor);
    let service = launch.start();
    supervisor
        .next()
        .assert_says(service.first(), &["READY=1"])
        .assert_status(&format!("generation 1 serves on {}", service.address()));
    (supervisor, service)
}

/// A connection on which the process that serves is busy.
fn with_request_in_flight(service: &Service) -> Client {
    let mut client = service.connect();
    client.get("/").unwrap();
    client.begin_post("/echo", 5).unwrap();
    client
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

#[test]
fn each_restart_is_told_by_the_predecessor_and_the_stop_by_the_last_one() {
    for supervisor in [
        NotifySocket::in_a_directory(),
        NotifySocket::without_a_file(),
    ] {
        let (supervisor, service) = start_with(Config::new().no_hand_over(), supervisor);
        for generation in 2..=4 {
            let predecessor = service.current();
            let clients: Vec<Client> = (0..3).map(|_| service.settle()).collect();
            let before = now();
            let successor = service.restart();
            let began = supervisor.next();
            began
                .assert_says(&predecessor, RELOADING)
                .assert_status("restarting; generation");
            assert!((before..now()).contains(&began.time()), "{began:?}");
            supervisor
                .next()
                .assert_says(&predecessor, &[])
                .assert_status(&format!(
                    "draining 3 connections to successor {}",
                    successor.pid()
                ));
            assert_retires(&supervisor, &predecessor, &successor);
            assert_inherits(&supervisor, &successor, generation);
            drop(clients);
            assert_eq!(predecessor.wait_exit(), End::Exit(0));
        }
        let last = service.current();
        service.stop();
        supervisor
            .next()
            .assert_says(&last, STOPPING)
            .assert_status("stopping; ");
        supervisor.assert_nothing_new();
    }
}

#[test]
fn how_many_connections_move_is_told() {
    let (supervisor, service) = start(Config::new().probation_ms(2_000));
    let predecessor = service.current();
    let clients: Vec<Client> = (0..12).map(|_| service.settle()).collect();
    let successor = service.restart_to_the_end();
    supervisor.next().assert_says(&predecessor, RELOADING);
    supervisor
        .next()
        .assert_says(&predecessor, &[])
        .assert_status("handing over 12 connections to successor ");
    supervisor
        .next()
        .assert_says(&predecessor, &[])
        .assert_status("12 connections handed over");
    assert_retires(&supervisor, &predecessor, &successor);
    assert_inherits(&supervisor, &successor, 2);
    drop(clients);
}

#[test]
fn a_restart_that_fails_ends_with_readiness_and_the_reason() {
    let (supervisor, service) = start(Config::new());
    for (fault, reason) in [
        ("exit", "exit status: 3"),
        ("bad-config", "`fault` asks for a malformed configuration"),
    ] {
        service.configure(&Config::new().fault(fault));
        service.restart_in_vain();
        supervisor.next().assert_says(service.first(), RELOADING);
        supervisor
            .next()
            .assert_says(service.first(), &["READY=1"])
            .assert_status("restart failed: successor ")
            .assert_status(reason)
            .assert_status("; generation 1 serves on ");
    }
    supervisor.assert_nothing_new();
    service.configure(&Config::new());
    let successor = service.restart();
    supervisor.next().assert_says(service.first(), RELOADING);
    supervisor.next().assert_says(service.first(), &[]);
    // Nothing is open, so this may be told before that is said of everything.
    let next = supervisor.next();
    if next.is(&[]) {
        next.assert_status("0 connections handed over");
        assert_retires(&supervisor, service.first(), &successor);
    }
}

#[test]
fn a_restart_that_is_undone_ends_with_readiness_and_the_reason() {
    let config = Config::new().probation_ms(20_000).no_hand_over();
    let (supervisor, service) = start(config);
    for _ in 0..2 {
        let place = service.log().here();
        service.first().hup();
        service.log().wait_for_after(place, "is draining");
        service.first().only_child().kill();
        service.log().wait_for_after(place, "restart undone");
        supervisor.next().assert_says(service.first(), RELOADING);
        supervisor.next().assert_says(service.first(), &[]);
        supervisor
            .next()
            .assert_says(service.first(), &["READY=1"])
            .assert_status("restart undone: successor ")
            .assert_status("signal: 9")
            .assert_status("; generation 1 serves on ");
    }
    supervisor.assert_nothing_new();
}

/// A supervisor that waits for a reload takes no notice of one that began
/// before it asked.
#[test]
fn a_reload_during_a_restart_is_a_restart_of_its_own() {
    let (supervisor, service) = start(Config::new().no_hand_over());
    let predecessor = service.current();
    let held = service.restart_held();
    supervisor.next().assert_says(&predecessor, RELOADING);
    let asked = now();
    predecessor.hup();
    service.log().wait_for("another restart follows this one");
    held.release(&Config::new().no_hand_over());
    service.wait_generation(2);
    let second = service.current();
    supervisor.next().assert_says(&predecessor, &[]);
    assert_retires(&supervisor, &predecessor, &second);
    assert_inherits(&supervisor, &second, 2);
    let began = supervisor.next();
    began.assert_says(&second, RELOADING);
    assert!(began.time() > asked);
    let third = service.wait_generation(3);
    supervisor.next().assert_says(&second, &[]);
    assert_retires(&supervisor, &second, &third);
}

#[test]
fn when_a_reload_during_a_failing_restart_begins_the_next_one_that_is_told() {
    let (supervisor, service) = start(Config::new());
    let held = service.restart_held();
    supervisor.next().assert_says(service.first(), RELOADING);
    let asked = now();
    service.first().hup();
    service.log().wait_for("another restart follows this one");
    held.release_with_then("nonsense", &Config::new().fault("exit"));
    let began = supervisor.next();
    began.assert_says(service.first(), RELOADING);
    assert!(began.time() > asked);
    supervisor
        .next()
        .assert_says(service.first(), &["READY=1"])
        .assert_status("exit status: 3");
}

#[test]
fn a_predecessor_that_drains_says_nothing_and_the_main_process_exits_after_it() {
    let (supervisor, service) = start(Config::new().no_hand_over());
    let predecessor = service.current();
    let mut client = with_request_in_flight(&service);
    let successor = service.restart();
    supervisor.next().assert_says(&predecessor, RELOADING);
    supervisor.next().assert_says(&predecessor, &[]);
    assert_retires(&supervisor, &predecessor, &successor);
    assert_inherits(&supervisor, &successor, 2);

    // As systemd does it.
    kill_process_group(service.group(), Signal::TERM).unwrap();
    supervisor.next().assert_says(&successor, STOPPING);
    service
        .log()
        .wait_for("waiting for the predecessor to exit");
    client.send("bonus").unwrap();
    assert_eq!(client.answer().unwrap().generation(), 1);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    successor.wait_exit();
    service.log().wait_for_end();
    supervisor.assert_nothing_new();
}

#[test]
fn generations_exit_in_their_order() {
    let (supervisor, service) = start(Config::new().no_hand_over());
    let first = service.current();
    let mut client = with_request_in_flight(&service);
    let second = service.restart();
    service.restart();
    service
        .log()
        .wait_for("waiting for the predecessor to exit");
    assert!(first.is_alive() && second.is_alive());
    client.send("bonus").unwrap();
    assert_eq!(client.answer().unwrap().generation(), 1);
    assert_eq!(first.wait_exit(), End::Exit(0));
    assert_eq!(second.wait_exit(), End::Exit(0));
    drop(supervisor);
}

#[test]
fn a_stop_on_probation_is_told_by_the_predecessor_which_exits_last() {
    let config = Config::new().probation_ms(20_000).no_hand_over();
    let (supervisor, service) = start(config);
    let predecessor = service.current();
    let successor = service.restart();
    let mut client = with_request_in_flight(&service);
    supervisor.next().assert_says(&predecessor, RELOADING);
    supervisor.next().assert_says(&predecessor, &[]);

    predecessor.term();
    supervisor.next().assert_says(&predecessor, STOPPING);
    service.log().wait_for("waiting for the successor to exit");
    client.send("bonus").unwrap();
    assert_eq!(client.answer().unwrap().generation(), 2);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    assert!(!successor.is_alive());
    service.log().wait_for_end();
    supervisor.assert_nothing_new();
}

/// It has not been told that it is the main process when it is stopped.
#[test]
fn a_successor_that_is_stopped_on_probation_tells_it_when_it_is_believed() {
    let config = Config::new().probation_ms(20_000).no_hand_over();
    let (supervisor, service) = start(config);
    let predecessor = service.current();
    let mut client = with_request_in_flight(&service);
    let successor = service.restart();
    supervisor.next().assert_says(&predecessor, RELOADING);
    supervisor.next().assert_says(&predecessor, &[]);

    let mut with_successor = with_request_in_flight(&service);
    successor.term();
    assert_retires(&supervisor, &predecessor, &successor);
    supervisor.next().assert_says(&successor, STOPPING);
    with_successor.send("bonus").unwrap();
    assert_eq!(with_successor.answer().unwrap().generation(), 2);
    service
        .log()
        .wait_for("waiting for the predecessor to exit");
    client.send("bonus").unwrap();
    assert_eq!(client.answer().unwrap().generation(), 1);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    successor.wait_exit();
    supervisor.assert_nothing_new();
}

/// Whatever the successor says from then on, it has been named before.
#[test]
fn the_main_process_is_named_before_it_is_told_that_it_is_proven() {
    let config = Config::new().kill(1, "sent `proven`", Whom::Itself);
    let (supervisor, service) = start(config.no_hand_over());
    let predecessor = service.current();
    let successor = service.restart();
    assert_eq!(predecessor.wait_exit(), End::Killed(9));
    supervisor
        .next_of(&predecessor)
        .assert_says(&predecessor, RELOADING);
    supervisor
        .next_of(&predecessor)
        .assert_says(&predecessor, &[]);
    assert_retires(&supervisor, &predecessor, &successor);
    assert_inherits(&supervisor, &successor, 2);
}

/// The successor has been named by then.
#[test]
fn a_successor_that_dies_before_it_is_told_that_it_is_proven_is_not_the_main_process() {
    let config = Config::new().kill(1, "performing SendProven", Whom::Other);
    let (supervisor, service) = start(config.no_hand_over());
    let predecessor = service.current();
    service.restart_in_vain().assert_says("restart undone");
    supervisor
        .next_of(&predecessor)
        .assert_says(&predecessor, RELOADING);
    supervisor
        .next_of(&predecessor)
        .assert_says(&predecessor, &[]);
    assert!(supervisor.next_of(&predecessor).says("WATCHDOG=1"));
    let main = format!("MAINPID={}", predecessor.pid());
    supervisor
        .next_of(&predecessor)
        .assert_says(&predecessor, &[&main])
        .assert_status("generation 1 serves on ");
    supervisor
        .next_of(&predecessor)
        .assert_says(&predecessor, &["READY=1"])
        .assert_status("restart undone: ");
    let successor = service.restart();
    supervisor
        .next_of(&predecessor)
        .assert_says(&predecessor, RELOADING);
    supervisor
        .next_of(&predecessor)
        .assert_says(&predecessor, &[]);
    assert_retires(&supervisor, &predecessor, &successor);
}

#[test]
fn more_time_is_asked_for_as_long_as_a_stop_takes() {
    let (supervisor, service) = start(Config::new());
    let mut client = with_request_in_flight(&service);
    service.first().term();
    supervisor.next().assert_says(service.first(), STOPPING);
    supervisor
        .next_of_any_kind()
        .assert_says(service.first(), &["EXTEND_TIMEOUT_USEC=15000000"]);
    client.send("bonus").unwrap();
    client.answer().unwrap();
    assert_eq!(service.first().wait_exit(), End::Exit(0));
}

#[test]
fn the_watchdog_hears_the_main_process_and_no_other() {
    let supervisor = NotifySocket::in_a_directory();
    let service = Launch::api(Config::new().probation_ms(1_000).no_hand_over())
        .supervised_by(&supervisor)
        .prelude("export WATCHDOG_PID=$$ WATCHDOG_USEC=100000")
        .start();
    let first = service.current();
    supervisor
        .next_of_any_kind()
        .assert_says(&first, &["READY=1"]);
    for _ in 0..3 {
        supervisor
            .next_of_any_kind()
            .assert_says(&first, &["WATCHDOG=1"]);
    }
    let mut client = with_request_in_flight(&service);
    let second = service.restart();
    supervisor.next().assert_says(&first, RELOADING);
    supervisor.next().assert_says(&first, &[]);
    // The successor is silent as long as it is on probation.
    let mut beats = 0;
    loop {
        let notice = supervisor.next_of_any_kind();
        notice.assert_comes_from(&first);
        if notice.says("READY=1") {
            break;
        }
        beats += usize::from(notice.says("WATCHDOG=1"));
    }
    assert!(beats > 0);
    // The predecessor is silent as long as it drains.
    for _ in 0..10 {
        supervisor
            .next_of_any_kind()
            .assert_says(&second, &["WATCHDOG=1"]);
    }
    client.send("bonus").unwrap();
    assert_eq!(client.answer().unwrap().generation(), 1);
}

#[test]
fn a_watchdog_of_another_process_hears_nothing() {
    let supervisor = NotifySocket::in_a_directory();
    let service = Launch::api(Config::new())
        .supervised_by(&supervisor)
        .environment("WATCHDOG_PID", "1")
        .environment("WATCHDOG_USEC", "2000")
        .start();
    supervisor.next().assert_says(service.first(), &["READY=1"]);
    assert_eq!(service.connect().get("/slow?ms=300").unwrap().status, 200);
    assert_eq!(supervisor.forget(), 0);
    let successor = service.restart_to_the_end();
    assert!(successor.environment().contains("WATCHDOG_PID=1"));
    // The last that is said of a restart.
    supervisor.next_of(&successor);
    supervisor.forget();
    assert_eq!(service.connect().get("/slow?ms=300").unwrap().status, 200);
    assert_eq!(supervisor.forget(), 0);
}

#[test]
fn a_predecessor_does_not_exit_before_it_has_been_heard() {
    let (supervisor, service) = start(Config::new().no_hand_over());
    let predecessor = service.current();
    let filler = supervisor.fill();
    assert!(filler > 0);
    let successor = service.restart();
    let held = service
        .log()
        .wait_for("waiting for the supervisor to hear of it");
    assert!(held.starts_with(&format!("api[{}]", predecessor.pid())));
    assert!(predecessor.is_alive());
    for _ in 0..filler {
        assert!(supervisor.next().says("FILLER=1"));
    }
    // The successor may have been heard meanwhile.
    let told: Vec<_> = (0..3).map(|_| supervisor.next_of(&predecessor)).collect();
    told[0].assert_says(&predecessor, RELOADING);
    told[1].assert_says(&predecessor, &[]);
    let main = format!("MAINPID={}", successor.pid());
    told[2].assert_says(&predecessor, &[&main, "READY=1", "WATCHDOG=1"]);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
}

/// A supervisor that has not come to the `MAINPID` yet when the process that it
/// knows is gone takes that for the end of the service.
#[test]
fn a_predecessor_does_not_exit_before_its_successor_is_known() {
    let (supervisor, service) = start(Config::new().no_hand_over());
    let predecessor = service.current();
    let successor = service.restart();
    let main = format!("MAINPID={}", successor.pid());
    while !supervisor.next_of(&predecessor).says(&main) {}
    let held = service
        .log()
        .wait_for("waiting for the supervisor to hear of it");
    assert!(held.starts_with(&format!("api[{}]", predecessor.pid())));
    assert!(predecessor.is_alive());
    // The next that is read is behind the barrier.
    assert_inherits(&supervisor, &successor, 2);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
}

#[test]
fn nor_does_one_whose_drain_has_no_time() {
    let (supervisor, service) = start(Config::new().drain_timeout_ms(0));
    let predecessor = service.current();
    let mut client = with_request_in_flight(&service);
    let successor = service.restart();
    service.log().wait_for("generation 1 exits ");
    let held = service
        .log()
        .wait_for("waiting for the supervisor to hear of it");
    assert!(held.starts_with(&format!("api[{}]", predecessor.pid())));
    assert!(predecessor.is_alive());
    let main = format!("MAINPID={}", successor.pid());
    while !supervisor.next_of(&predecessor).says(&main) {}
    assert_inherits(&supervisor, &successor, 2);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    client.wait_for_end();
}

#[test]
fn a_supervisor_that_cannot_be_told_is_mentioned_and_no_obstacle() {
    for nobody in ["/nowhere/notify", "nonsense", "@", "vsock:2:1"] {
        let launch = Launch::api(Config::new()).environment("NOTIFY_SOCKET", nobody);
        let service = launch.start();
        service.restart_to_the_end();
        service.stop();
        assert_eq!(
            service.log().count("the supervisor c"),
            2,
            "each generation says it once"
        );
    }
}

#[test]
fn what_was_meant_for_the_first_process_alone_is_not_left_to_successors() {
    let supervisor = NotifySocket::in_a_directory();
    let service = Launch::api(Config::new())
        .supervised_by(&supervisor)
        .prelude(
            "export WATCHDOG_PID=$$ WATCHDOG_USEC=60000000 LISTEN_PID=$$ LISTEN_FDS=0 \
             LISTEN_FDNAMES= LISTEN_PIDFDID=1",
        )
        .start();
    let first = service.current().environment();
    let third = {
        service.restart_to_the_end();
        service.restart_to_the_end().environment()
    };
    let mut gone: Vec<&str> = first
        .difference(&third)
        .map(|variable| variable.split_once('=').unwrap().0)
        .collect();
    gone.sort_unstable();
    assert_eq!(
        gone,
        [
            "LISTEN_FDNAMES",
            "LISTEN_FDS",
            "LISTEN_PID",
            "LISTEN_PIDFDID",
            "WATCHDOG_PID"
        ]
    );
}
