//! The control socket tells the truth: how the service is, and what has come
//! of a restart, also over generations, failures and reconfigurations; it
//! tells nobody else, and nobody is disturbed by it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::kit::{
    Asked, Client, Config, Connections, ControlClient, End, Fake, Launch, Load, Outcome, Process,
    Program, Service, Whom, can_open, copy_command, say_skipped,
};

/// Long enough for a test to do something in it, and never waited for.
const LONG: u64 = 60_000;

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const OVERDUE: i32 = 4;
const UNKNOWN: i32 = 5;

fn restart() -> Value {
    json!({"request": "restart"})
}

fn start(config: Config) -> Service {
    Launch::api(config).start_controlled()
}

/// The configuration, with the control socket where it was.
fn configure(service: &Service, config: &Config) {
    let config = config.clone().control_socket(&service.control_socket());
    service.configure(&config);
}

fn status(service: &Service) -> Value {
    ControlClient::status(&service.control_socket())
}

/// A client that has been answered once.
fn acquainted(service: &Service) -> Client {
    let mut client = service.connect();
    client.get("/").unwrap();
    client
}

fn with_request_in_flight(service: &Service) -> Client {
    let mut client = acquainted(service);
    client.begin_post("/echo", 5).unwrap();
    client
}

fn finish_request(client: &mut Client) {
    client.send("hello").unwrap();
    assert_eq!(client.answer().unwrap().text(), "hello");
}

/// Checks that a restart is told as done, with these successors.
fn assert_restarted(answer: &Value, generation: u64, service: &Service) {
    assert_eq!(answer["answer"], "restarted", "{answer}");
    assert_eq!(answer["generation"], generation, "{answer}");
    let now = service.get("/pid");
    assert_eq!(now.generation(), generation);
    assert_eq!(answer["pid"], now.pid(), "{answer}");
}

/// The states of a restart, each once, in the order in which they were told.
fn states(outcome: &Outcome) -> Vec<String> {
    let mut states: Vec<String> = Vec::new();
    for line in outcome.lines() {
        if line["answer"] == "progress" {
            states.push(line["state"].as_str().unwrap().to_owned());
        }
    }
    states.dedup();
    states
}

#[test]
fn the_status_is_that_of_the_process_that_serves() {
    let service = start(Config::new());
    let _idle: Vec<Client> = (0..3).map(|_| acquainted(&service)).collect();
    let mut busy = acquainted(&service);
    busy.send(
        "POST /echo HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
    )
    .unwrap();
    assert_eq!(busy.answer_head().unwrap().status, 100);
    let told = status(&service);
    assert_eq!(told["pid"], service.current().pid());
    assert_eq!(told["generation"], 1);
    assert_eq!(told["state"], "serving");
    assert_eq!(told["proven"], true);
    assert_eq!(told["listeners"], json!([service.address().to_string()]));
    assert_eq!(told["connections"], json!({"idle": 3, "busy": 1}));
    assert_eq!(told["successor"], Value::Null);
    assert_eq!(told["last_restart"], Value::Null);
    assert_eq!(told["heirloom"], env!("CARGO_PKG_VERSION"));

    let outcome = Asked::at(&service.control_socket(), &["status"]).end();
    assert_eq!(outcome.status, DONE);
    for words in [
        format!(
            "generation 1 (pid {}) is serving, up ",
            service.current().pid()
        ),
        format!("listening on {}", service.address()),
        "1 busy and 3 idle connections".to_owned(),
        "last restart: none".to_owned(),
    ] {
        assert!(outcome.output.contains(&words), "{words:?}: {outcome:?}");
    }
}

#[test]
fn a_restart_is_answered_when_the_successor_is_proven_and_published() {
    let launch = Launch::api(Config::new());
    let pid_file = launch.dir().join("api.pid");
    let config = Config::new().probation_ms(300);
    let service = launch
        .config(config.pid_file(pid_file.to_str().unwrap()))
        .start_controlled();
    let _idle: Vec<Client> = (0..3).map(|_| acquainted(&service)).collect();
    let outcome = service.order("restart");
    let last = outcome.last(DONE);
    assert_eq!(
        fs::read_to_string(&pid_file).unwrap(),
        format!("{}\n", last["pid"])
    );
    assert_restarted(&last, 2, &service);
    assert_eq!(last["handed_over"], 3);
    assert!(last["took_ms"].as_u64().unwrap() >= 300, "{last}");
    assert_eq!(
        states(&outcome),
        ["forking", "handoff", "probation", "publishing"]
    );
    let told = status(&service);
    assert_eq!(told["proven"], true);
    assert_eq!(told["last_restart"]["result"], "ok");
    assert_eq!(told["last_restart"]["handed_over"], 3);
}

#[test]
fn a_restart_is_answered_in_words_too() {
    let service = start(Config::new());
    let outcome = Asked::at(&service.control_socket(), &["restart"]).end();
    assert_eq!(outcome.status, DONE);
    let lines: Vec<&str> = outcome.output.lines().collect();
    let first = "restarting generation 1: the successor is starting";
    assert!(lines[0].starts_with(first), "{outcome:?}");
    let words = format!("generation 2 (pid {}) serves", service.get("/pid").pid());
    assert!(lines.last().unwrap().contains(&words), "{outcome:?}");
    assert_eq!(outcome.errors, "");
}

/// The reason is the line of the log, in the answer, in the status, and in
/// words; the service goes on, and the next restart works.
fn assert_fails(service: &Service, good: &Config, words: &str) {
    let place = service.log().here();
    let last = service.order("restart").last(FAILED);
    assert_eq!(last["answer"], "failed", "{last}");
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains(words), "{words:?}: {reason}");
    let failure = service.wait_failed_restart_after(place);
    failure.assert_says(reason);
    assert!(reason.starts_with("restart failed: ") || reason.starts_with("restart undone: "));
    let told = status(service);
    assert_eq!(told["pid"], service.current().pid());
    assert_eq!(told["last_restart"]["result"], "failed");
    assert_eq!(told["last_restart"]["reason"], reason);
    service.assert_undisturbed();
    let outcome = Asked::at(&service.control_socket(), &["restart"]).end();
    assert_eq!(outcome.status, FAILED);
    assert!(outcome.errors.contains(words), "{outcome:?}");
    configure(service, good);
    assert_restarted(&service.order("restart").last(DONE), 2, service);
}

#[test]
fn a_restart_that_fails_is_answered_with_the_line_of_the_log() {
    for (fault, words) in [
        ("exit", "exit status: 3"),
        ("hang", "not ready after"),
        ("bad-config", "`fault` asks for a malformed configuration"),
        ("bad-state", "the configuration asks for bad state"),
    ] {
        // Long enough for the good successor at the end.
        let config = Config::new().ready_timeout_ms(2_000);
        let service = start(config.clone());
        configure(&service, &config.clone().fault(fault));
        assert_fails(&service, &config, words);
    }
}

#[test]
fn a_configuration_with_a_mistake_is_named_in_the_answer() {
    let service = start(Config::new());
    service.configure_with("listen = 3");
    assert_fails(&service, &Config::new(), "api.toml: line 1, `listen = 3`");
}

#[test]
fn a_successor_that_cannot_be_started_is_a_failed_restart() {
    let service = Launch::api(Config::new()).own_binary().start_controlled();
    service.binary().remove();
    let last = service.order("restart").last(FAILED);
    assert!(
        last["reason"].as_str().unwrap().contains("No such file"),
        "{last}"
    );
}

#[test]
fn a_successor_that_hangs_is_named_in_the_status() {
    let service = Launch::api(Config::new()).own_binary().start_controlled();
    service.binary().replace_with_fake(Fake::ClaimsAndHangs);
    service.current().hup();
    service.wait_phase("handoff");
    let told = status(&service);
    assert_eq!(told["state"], "handoff");
    assert_eq!(told["successor"], service.current().only_child().pid());
    let outcome = Asked::at(&service.control_socket(), &["status"]).end();
    let words = format!("successor: pid {}", told["successor"]);
    assert!(outcome.output.contains(&words), "{outcome:?}");
}

#[test]
fn a_restart_that_is_undone_is_a_failed_one_and_the_predecessor_answers_again() {
    let config = Config::new().probation_ms(LONG);
    let service = start(config.fault("panic-after-ready"));
    let path = service.control_socket();
    let inode = fs::metadata(&path).unwrap().ino();
    let outcome = service.order("restart");
    let last = outcome.last(FAILED);
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.starts_with("restart undone: "), "{reason}");
    assert!(reason.contains("exit status: 101"), "{reason}");
    assert_eq!(states(&outcome), ["forking", "handoff", "probation"]);
    let told = status(&service);
    assert_eq!(told["pid"], service.current().pid());
    assert_eq!(told["state"], "serving");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    service.assert_undisturbed();
}

#[test]
fn a_successor_that_is_killed_as_it_takes_over_is_told_as_undone() {
    let config = Config::new().probation_ms(LONG);
    let service = start(config.kill(1, "sent `serve`", Whom::Other));
    let last = service.order("restart").last(FAILED);
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.starts_with("restart undone: "), "{reason}");
    assert!(reason.contains("signal: 9"), "{reason}");
    service.assert_undisturbed();
}

#[test]
fn who_asks_on_probation_is_heard_by_the_successor() {
    let service = start(Config::new().probation_ms(1_000));
    let predecessor = service.current();
    let successor = service.restart();
    let told = status(&service);
    // Should the machine be so slow that the probation is over, it is proven.
    if predecessor.is_alive() {
        assert_eq!(told["pid"], successor.pid());
    }
    let outcome = service.order("restart");
    assert_restarted(&outcome.last(DONE), 3, &service);
    assert_eq!(service.wait_generation(3).pid(), service.get("/pid").pid());
}

#[test]
fn two_who_ask_at_once_get_a_restart_each_and_the_truth() {
    for config in [Config::new(), Config::new().probation_ms(300)] {
        let service = start(config.clone());
        let config = config.control_socket(&service.control_socket());
        let held = service.hold_next();
        let first = service.ask("restart");
        let held = held.wait_until_reached();
        let second = service.ask("restart");
        second.wait_for("state", "waiting");
        held.release_with_then(&config.to_toml(), &config.greeting("again"));
        let first = first.end().last(DONE);
        let second = second.end();
        assert_eq!(first["answer"], "restarted");
        assert_eq!(first["generation"], 2);
        assert_restarted(&second.last(DONE), 3, &service);
        let referred = second
            .lines()
            .into_iter()
            .find(|line| line["answer"] == "superseded");
        let ask = &referred.expect("the second is referred to the successor")["ask"];
        assert_eq!(
            *ask,
            json!({"request": "restart", "of": {"generation": 2, "attempt": 1}})
        );
        // The configuration is the one of then, and nobody restarts once more.
        assert_eq!(service.get("/").text(), "again");
        service.wait_generation(3);
        assert_eq!(service.generations(), 3);
        assert_eq!(status(&service)["state"], "serving");
    }
}

#[test]
fn whoever_waits_while_a_restart_fails_gets_the_result_of_the_next() {
    let service = start(Config::new());
    let held = service.hold_next();
    let first = service.ask("restart");
    let held = held.wait_until_reached();
    let second = service.ask("restart");
    second.wait_for("state", "waiting");
    let good = Config::new().control_socket(&service.control_socket());
    held.release_with_then("listen = 3", &good);
    let first = first.end().last(FAILED);
    assert!(
        first["reason"].as_str().unwrap().contains("listen = 3"),
        "{first}"
    );
    let second = second.end();
    assert_restarted(&second.last(DONE), 2, &service);
    assert_eq!(states(&second)[..2], ["waiting", "forking"]);
}

#[test]
fn many_who_ask_at_once_are_all_told_the_truth() {
    let service = start(Config::new());
    let asked: Vec<Asked> = (0..8).map(|_| service.ask("restart")).collect();
    for it in asked {
        assert_eq!(it.end().last(DONE)["answer"], "restarted");
    }
    // The last one is over, and none is owed.
    let told = status(&service);
    assert_eq!(told["state"], "serving");
    assert!(told["generation"].as_u64().unwrap() <= 9, "{told}");
}

#[test]
fn what_came_of_a_restart_can_be_asked_later_and_in_the_next_generation() {
    let service = start(Config::new().fault("exit"));
    let path = service.control_socket();
    let of = |generation: u64, attempt: u64| {
        let of = json!({"generation": generation, "attempt": attempt});
        ControlClient::ask(&path, &json!({"request": "restart", "of": of})).result()
    };
    let place = service.log().here();
    let failed = of(1, 1).unwrap();
    assert_eq!(failed["answer"], "failed");
    assert_eq!(of(1, 1).unwrap(), failed, "it is not tried again");
    // The log is read by a thread of its own.
    service.wait_failed_restart_after(place);
    assert_eq!(service.failed_restarts(), 1);
    configure(&service, &Config::new());
    assert_restarted(&of(1, 2).unwrap(), 2, &service);
    // That question is answered by whoever serves now.
    assert_restarted(&of(1, 2).unwrap(), 2, &service);
    assert_restarted(&of(1, 7).unwrap(), 2, &service);
    assert_eq!(service.generations(), 2);
    // One that has not begun is begun, whoever was to do it.
    assert_restarted(&of(2, 1).unwrap(), 3, &service);
    assert_restarted(&of(9, 1).unwrap(), 4, &service);
}

/// The predecessor is killed in the middle of a restart that somebody waits
/// for, and whoever serves then tells the result.
#[test]
fn the_result_is_known_also_when_the_predecessor_is_killed() {
    for at in [
        "performing SendListeners",
        "received `ready`",
        "sent `serve`",
    ] {
        let config = Config::new().probation_ms(LONG).kill(1, at, Whom::Itself);
        let service = start(config);
        let outcome = service.order("restart");
        // One that was handed nothing has a port of its own.
        service.wait_generation(2);
        assert_restarted(&outcome.last(DONE), 2, &service);
        assert_eq!(service.first().wait_exit(), End::Killed(9), "{at}");
    }
}

#[test]
fn a_service_that_ends_without_a_word_leaves_the_result_unknown() {
    let service = start(Config::new().kill(1, "performing Spawn", Whom::Itself));
    let outcome = service.order("restart");
    // Nothing had been said yet, so nobody knows that it was there.
    assert!(
        [UNREACHABLE, UNKNOWN].contains(&outcome.status),
        "{outcome:?}"
    );

    let service = start(Config::new());
    let held = service.hold_next();
    let asked = service.ask("restart");
    let _held = held.wait_until_reached();
    service.current().kill();
    service.current().wait_exit();
    // Its successor dies too, because it finds no configuration.
    for pid in service.processes() {
        Process::open(pid).kill();
    }
    assert_eq!(asked.end().status, UNKNOWN);
}

#[test]
fn a_successor_that_dies_with_somebody_waiting_leaves_them_to_the_predecessor() {
    let service = start(Config::new().probation_ms(LONG));
    let predecessor = service.current();
    let successor = service.restart();
    let asked = service.ask("restart");
    asked.wait_for("state", "waiting");
    successor.kill();
    // The successor would have done it; its predecessor has not heard of it.
    let line = asked.wait_for("state", "probation");
    assert_eq!(line["restart"], json!({"generation": 1, "attempt": 2}));
    let second = predecessor.only_child();
    assert_eq!(line["successor"], second.pid());
    // That one is the service now, and stops it.
    assert_eq!(service.order("stop").status, DONE);
    let last = asked.end().last(FAILED);
    assert!(last["reason"].as_str().unwrap().contains("stop"), "{last}");
    service.log().wait_for_end();
}

#[test]
fn a_stop_waits_for_what_is_in_flight() {
    let launch = Launch::api(Config::new());
    let pid_file = launch.dir().join("api.pid");
    let config = Config::new().pid_file(pid_file.to_str().unwrap());
    let service = launch.config(config).start_controlled();
    let mut client = with_request_in_flight(&service);
    let first = service.ask("stop");
    let line = first.wait_for("answer", "stopping");
    assert_eq!(line["pid"], service.current().pid());
    // It can be asked how it is, and asking again cuts nothing short.
    let told = status(&service);
    assert_eq!(told["state"], "draining");
    assert_eq!(told["listeners"], json!([]));
    let second = Asked::at(&service.control_socket(), &["stop"]);
    second.output().wait_for("stopping generation 1");
    let last = service.order("restart").last(FAILED);
    assert_eq!(last["reason"], "the service is stopping");
    assert!(service.current().is_alive());
    finish_request(&mut client);
    assert_eq!(
        first.end().last(DONE),
        json!({"answer": "stopped", "cut": 0})
    );
    assert!(!service.control_socket().exists());
    assert!(!pid_file.exists());
    let second = second.end();
    assert_eq!(
        (second.status, second.output.lines().last()),
        (DONE, Some("stopped"))
    );
    assert_eq!(service.current().wait_exit(), End::Exit(0));
    service.log().wait_for_end();
}

#[test]
fn a_stop_tells_how_many_were_cut_off() {
    let service = start(Config::new().drain_timeout_ms(100));
    let _clients = [(); 2].map(|()| with_request_in_flight(&service));
    let outcome = Asked::at(&service.control_socket(), &["stop"]).end();
    assert_eq!(outcome.status, DONE);
    assert!(
        outcome
            .output
            .contains("stopped; 2 connections were cut off"),
        "{outcome:?}"
    );
}

/// As a supervisor does it that has a command for stopping and signals
/// whatever is left.
#[test]
fn the_first_term_after_a_stop_cuts_nothing_and_the_second_does() {
    let service = start(Config::new());
    let mut client = with_request_in_flight(&service);
    let asked = service.ask("stop");
    asked.wait_for("answer", "stopping");
    service.current().term();
    // It has been heard when this is answered.
    status(&service);
    assert!(service.current().is_alive());
    assert!(client.is_silent());
    service.current().int();
    client.wait_for_end();
    assert_eq!(
        asked.end().last(DONE),
        json!({"answer": "stopped", "cut": 1})
    );
    service.log().wait_for_end();
}

#[test]
fn a_stop_ends_the_restart_that_is_under_way_and_the_one_that_follows() {
    let service = start(Config::new());
    let held = service.hold_next();
    let first = service.ask("restart");
    let _held = held.wait_until_reached();
    let second = service.ask("restart");
    second.wait_for("state", "waiting");
    assert_eq!(service.order("stop").last(DONE)["answer"], "stopped");
    for it in [first, second] {
        let last = it.end().last(FAILED);
        assert_eq!(last["reason"], "the service was told to stop");
    }
    service.log().wait_for_end();
}

#[test]
fn a_stop_on_probation_ends_both() {
    let service = start(Config::new().probation_ms(LONG));
    let asked = service.ask("restart");
    asked.wait_for("state", "probation");
    service.wait_generation(2);
    assert_eq!(service.order("stop").last(DONE)["answer"], "stopped");
    let last = asked.end().last(FAILED);
    assert!(
        last["reason"].as_str().unwrap().contains("told to stop"),
        "{last}"
    );
    service.log().wait_for_end();
    assert!(!service.control_socket().exists());
}

#[test]
fn a_signal_does_what_a_request_does() {
    let service = start(Config::new());
    service.restart_to_the_end();
    assert_eq!(status(&service)["last_restart"]["result"], "ok");
    let held = service.restart_held();
    let told = status(&service);
    assert_eq!(
        (&told["state"], &told["generation"]),
        (&json!("forking"), &json!(2))
    );
    let asked = service.ask("restart");
    asked.wait_for("state", "waiting");
    service.current().term();
    assert_eq!(asked.end().status, FAILED);
    service.log().wait_for_end();
    drop(held);
}

#[test]
fn somebody_listens_at_the_same_path_through_the_generations() {
    let service = start(Config::new());
    let path = service.control_socket();
    let inode = fs::metadata(&path).unwrap().ino();
    let descriptors = |service: &Service| {
        let _client = service.settle();
        service.current().kinds_of_descriptors()
    };
    assert_eq!(service.order("restart").status, DONE);
    service.wait_generation(2);
    let before = descriptors(&service);
    let stop = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..2)
        .map(|_| {
            let (stop, path) = (Arc::clone(&stop), path.clone());
            thread::spawn(move || {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    // Each of them is answered, whenever it comes.
                    let told = ControlClient::status(&path);
                    seen.push(told["generation"].as_u64().unwrap());
                }
                seen
            })
        })
        .collect();
    for generation in 3..=12 {
        assert_restarted(&service.order("restart").last(DONE), generation, &service);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "the same socket");
    }
    stop.store(true, Ordering::Relaxed);
    for it in asking {
        let mut seen = it.join().expect("everybody is answered");
        assert!(seen.is_sorted(), "{seen:?}");
        seen.dedup();
        assert!(seen.len() > 1, "{seen:?}");
    }
    service.wait_generation(12);
    assert_eq!(descriptors(&service), before);
    assert_eq!(service.order("stop").status, DONE);
    assert!(!path.exists(), "the last owner has removed it");
    service.log().wait_for_end();
}

#[test]
fn a_restart_is_done_when_all_that_could_move_has_moved() {
    if !can_open(300) {
        return;
    }
    let service = start(Config::new());
    let mut clients: Vec<Client> = (0..200).map(|_| acquainted(&service)).collect();
    let last = service.order("restart").last(DONE);
    assert_eq!(last["handed_over"], 200);
    for client in &mut clients {
        assert_eq!(client.get("/pid").unwrap().generation(), 2);
    }
    assert_eq!(status(&service)["last_restart"]["handed_over"], 200);
}

#[test]
fn the_socket_is_accessible_for_its_owner_alone_whatever_the_umask() {
    let service = Launch::api(Config::on(&["127.0.0.1:0"]))
        .open_handed()
        .start_controlled();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    let path = service.control_socket();
    assert_eq!(mode(&path), 0o600);
    // The umask is what it was.
    let other = service.dir().join("api.sock");
    let addresses = [
        "127.0.0.1:0".to_owned(),
        format!("unix:{}", other.display()),
    ];
    configure(
        &service,
        &Config::on(&addresses.each_ref().map(String::as_str)),
    );
    assert_eq!(service.order("restart").status, DONE);
    assert_eq!((mode(&path), mode(&other)), (0o600, 0o777));
}

#[test]
fn a_stale_socket_is_replaced() {
    let launch = Launch::api(Config::new());
    let path = launch.control_socket();
    drop(UnixListener::bind(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let service = launch.start_controlled();
    assert_eq!(status(&service)["generation"], 1);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_service_that_was_killed_leaves_a_socket_that_the_next_one_replaces() {
    let service = start(Config::new());
    service.order("restart").last(DONE);
    let killed = service.wait_generation(2);
    killed.kill();
    service.log().wait_for_end();
    let path = service.control_socket();
    assert!(path.exists());
    let outcome = service.order("status");
    assert_eq!(outcome.status, UNREACHABLE);
    assert!(outcome.errors.contains("Connection refused"), "{outcome:?}");
    let next = Service::start(Config::new().control_socket(&path));
    assert_eq!(ControlClient::status(&path)["pid"], next.current().pid());
}

#[test]
fn a_socket_where_another_service_listens_is_refused() {
    let other = start(Config::new());
    let path = other.control_socket();
    let service = Launch::api(Config::new().control_socket(&path)).spawn();
    service.assert_gives_up(&[&path.display().to_string(), "another process listens on it"]);
    assert_eq!(status(&other)["pid"], other.current().pid());

    // A successor that may not have it is a failed restart.
    let service = start(Config::new());
    service.configure(&Config::new().control_socket(&path));
    let last = service.order("restart").last(FAILED);
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains("another process listens on it"), "{reason}");
    assert_eq!(status(&service)["pid"], service.current().pid());
    assert_eq!(status(&other)["pid"], other.current().pid());
}

#[test]
fn a_file_that_is_no_socket_is_refused_and_left_alone() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("precious.txt");
    fs::write(&path, "precious").unwrap();
    let service = launch.config(Config::new().control_socket(&path)).spawn();
    service.assert_gives_up(&[&path.display().to_string()]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_path_where_no_socket_can_be_is_named() {
    let launch = Launch::api(Config::new());
    for (name, words) in [
        ("a/b", "No such file or directory"),
        (&"x".repeat(108), "107 bytes"),
    ] {
        let path = launch.dir().join(name);
        let service = Launch::api(Config::new().control_socket(&path)).spawn();
        service.assert_gives_up(&[name, words]);
    }
}

#[test]
fn a_socket_whose_file_was_removed_comes_back_with_a_restart() {
    let service = start(Config::new());
    let path = service.control_socket();
    fs::remove_file(&path).unwrap();
    assert_eq!(service.order("status").status, UNREACHABLE);
    service.restart_to_the_end();
    assert_eq!(status(&service)["generation"], 2);
    assert_eq!(service.order("stop").status, DONE);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_is_someone_elses_by_now_is_left_alone() {
    let service = start(Config::new());
    let path = service.control_socket();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    service.stop();
    assert!(path.exists());
}

#[test]
fn a_socket_that_is_not_wanted_any_more_is_removed() {
    let service = start(Config::new());
    service.configure(&Config::new());
    assert_restarted(&service.order("restart").last(DONE), 2, &service);
    assert!(!service.control_socket().exists());
    // And comes back.
    service.wait_generation(2);
    configure(&service, &Config::new());
    service.restart_to_the_end();
    assert_eq!(status(&service)["generation"], 3);
}

#[test]
fn who_waits_for_a_successor_without_a_socket_is_told_that_nobody_will_know() {
    let service = start(Config::new());
    let held = service.hold_next();
    let first = service.ask("restart");
    let held = held.wait_until_reached();
    let second = service.ask("restart");
    second.wait_for("state", "waiting");
    held.release(&Config::new());
    assert_eq!(first.end().last(DONE)["generation"], 2);
    let second = second.end();
    assert_eq!(second.last(UNKNOWN)["answer"], "superseded");
    assert!(second.errors.contains("no control socket"), "{second:?}");
}

#[test]
fn a_socket_at_another_path_is_found_by_those_who_wait() {
    let service = start(Config::new());
    let (old, new) = (service.control_socket(), service.dir().join("new.control"));
    let held = service.hold_next();
    let first = service.ask("restart");
    let held = held.wait_until_reached();
    let second = service.ask("restart");
    second.wait_for("state", "waiting");
    held.release(&Config::new().control_socket(&new));
    assert_eq!(first.end().last(DONE)["generation"], 2);
    assert_restarted(&second.end().last(DONE), 3, &service);
    assert!(!old.exists());
    assert_eq!(ControlClient::status(&new)["generation"], 3);
}

#[test]
fn until_the_successor_is_proven_the_old_path_refers_to_the_new_one() {
    let service = start(Config::new().probation_ms(LONG));
    let (old, new) = (service.control_socket(), service.dir().join("new.control"));
    service.configure(&Config::new().probation_ms(LONG).control_socket(&new));
    let predecessor = service.current();
    let successor = service.restart();
    assert_eq!(ControlClient::status(&old)["pid"], predecessor.pid());
    assert_eq!(ControlClient::status(&new)["pid"], successor.pid());
    let mut client = ControlClient::ask(&old, &restart());
    assert_eq!(
        client.next(),
        Some(json!({
            "answer": "superseded",
            "socket": new,
            "ask": {"request": "restart"},
        }))
    );
    let mut at_new = ControlClient::ask(&new, &restart());
    at_new.wait_for_state("waiting");
    // It is undone, and everything is as it was.
    successor.kill();
    assert_eq!(at_new.next(), None);
    service.log().wait_for("restart undone: ");
    assert_eq!(ControlClient::status(&old)["state"], "serving");
}

#[test]
fn another_user_gets_nothing() {
    let Some(program) = Program::find("setpriv") else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        say_skipped("root, to be another user");
        return;
    }
    let service = start(Config::new());
    let path = service.control_socket();
    // Where another user can find and run it.
    let executable = service.dir().join("heirloom");
    copy_command(&executable);
    fs::set_permissions(service.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |program: Program| {
        let privileges = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let program = program.arguments(privileges).arguments([&executable]);
        Asked::by(program, &path, &["status", "--json"]).end()
    };
    let outcome = as_nobody(program);
    assert_eq!((outcome.status, outcome.output.as_str()), (UNREACHABLE, ""));
    assert!(outcome.errors.contains("Permission denied"), "{outcome:?}");
    // And if the file were open to everybody.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let outcome = as_nobody(Program::find("setpriv").unwrap());
    assert_eq!((outcome.status, outcome.output.as_str()), (UNREACHABLE, ""));
    assert!(outcome.errors.contains("without a word"), "{outcome:?}");
    service
        .log()
        .wait_for("a control connection of user 65534 is refused");
    assert_eq!(service.log().count("user 65534"), 1, "told once");
    assert_eq!(status(&service)["pid"], service.current().pid());
}

#[test]
fn what_is_no_request_is_refused_with_the_reason() {
    let service = start(Config::new());
    let path = service.control_socket();
    let long = "x".repeat(5_000);
    let twice = "{\"request\":\"status\"}\n{\"request\":\"status\"}\n";
    for (text, words) in [
        ("}{\n", "not understood"),
        ("\n", "not understood"),
        ("{\"request\":\"surrender\"}\n", "surrender"),
        ("{\"request\":\"restart\",\"of\":7}\n", "not understood"),
        (twice, "one request"),
        (long.as_str(), "longer than 4096 bytes"),
    ] {
        let mut client = ControlClient::connect(&path);
        client.say(text);
        let answer = client.next().expect("it is answered");
        assert_eq!(answer["answer"], "refused", "{text}");
        let reason = answer["reason"].as_str().unwrap();
        assert!(reason.contains(words), "{words:?}: {reason}");
        assert_eq!(client.next(), None);
    }
    assert_eq!(service.generations(), 1);
    // What is not known yet is no mistake.
    let request = json!({"request": "status", "colour": "red"});
    let answer = ControlClient::ask(&path, &request).next();
    assert_eq!(answer.unwrap()["answer"], "status");
}

#[test]
fn who_does_not_ask_in_time_is_sent_away() {
    let service = start(Config::new());
    let mut client = ControlClient::connect(&service.control_socket());
    client.say("{\"request\":");
    let answer = client.next().unwrap();
    assert_eq!(answer["reason"], "no request came in 5s");
    assert_eq!(client.next(), None);
}

#[test]
fn who_is_silent_keeps_nobody_from_being_heard() {
    let service = start(Config::new());
    let path = service.control_socket();
    let mut silent: Vec<ControlClient> = (0..40).map(|_| ControlClient::connect(&path)).collect();
    assert_eq!(status(&service)["generation"], 1);
    // Whoever has been silent for longest has made room.
    let mut last = silent.pop().unwrap();
    assert_eq!(silent[0].next(), None);
    last.say("{\"request\":\"status\"}\n");
    assert_eq!(last.next().unwrap()["answer"], "status");
}

#[test]
fn who_says_no_more_is_answered_still() {
    let service = start(Config::new().probation_ms(100));
    let mut client = ControlClient::connect(&service.control_socket());
    // As a shell does that pipes it in, without a newline.
    client.say("{\"request\":\"restart\"}");
    client.fall_silent();
    assert_restarted(&client.result().unwrap(), 2, &service);
}

#[test]
fn who_says_more_while_it_waits_is_sent_away_and_who_leaves_is_forgotten() {
    let service = start(Config::new());
    let path = service.control_socket();
    let held = service.restart_held();
    let waiting = || {
        let mut client = ControlClient::ask(&path, &restart());
        client.wait_for_state("waiting");
        client
    };
    let mut talkative = waiting();
    talkative.say("and another thing\n");
    assert_eq!(talkative.next(), None);

    let clients: Vec<ControlClient> = (0..32).map(|_| waiting()).collect();
    let mut one_more = ControlClient::ask(&path, &restart());
    assert_eq!(
        one_more.next().unwrap()["reason"],
        "32 others are waiting already"
    );
    assert_eq!(status(&service)["state"], "forking");
    drop(clients);
    // What happened before a question is done with when the next is heard.
    for _ in 0..3 {
        assert_eq!(status(&service)["state"], "forking");
    }
    let mut client = waiting();
    held.release(&Config::new().control_socket(&path));
    let superseded = client.result().unwrap();
    assert_eq!(superseded["answer"], "superseded");
    let mut client = ControlClient::ask(&path, &superseded["ask"]);
    assert_restarted(&client.result().unwrap(), 3, &service);
}

#[test]
fn a_flood_disturbs_nobody() {
    const FLOODERS: usize = 4;
    if !can_open(150) {
        return;
    }
    let service = start(Config::new());
    let path = service.control_socket();
    let stop = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..FLOODERS)
        .map(|number| {
            let (stop, path) = (Arc::clone(&stop), path.clone());
            thread::spawn(move || flood(number, &path, &stop))
        })
        .collect();
    let kept = Load::start(&service.address(), Connections::KeptAlive, 2);
    let fresh = Load::start(&service.address(), Connections::NewForEach, 2);
    kept.wait_for_requests(1_000);
    fresh.wait_for_requests(200);
    // Whoever has something to say is heard through it, and so is a signal.
    assert_restarted(&service.order("restart").last(DONE), 2, &service);
    service.wait_generation(2);
    service.restart();
    kept.wait_for_requests(1_000);
    for load in [kept, fresh] {
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{tally}");
    }
    stop.store(true, Ordering::Relaxed);
    let connections: usize = flood.into_iter().map(|it| it.join().unwrap()).sum();
    assert!(connections > 100, "{connections} are no flood");
    assert_eq!(status(&service)["generation"], 3);
}

/// Comes again and again with one kind of rubbish each; tells how often.
fn flood(number: usize, path: &Path, stop: &AtomicBool) -> usize {
    let mut connections = 0;
    let mut silent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut client = ControlClient::connect(path);
        connections += 1;
        match number {
            0 => client.say("rubbish\n"),
            1 => client.say("{\"request\":\"status\"}\n"),
            2 => client.say(&"x".repeat(10_000)),
            _ => {
                silent.push(client);
                if silent.len() == 200 {
                    silent.clear();
                }
            }
        }
    }
    connections
}

#[test]
fn the_command_says_what_is_wrong_with_itself() {
    let nowhere = PathBuf::from("/nonexistent/control");
    let outcome = Asked::at(&nowhere, &["reload"]).end();
    assert_eq!(outcome.status, USAGE);
    assert!(
        outcome.errors.contains("`reload` is not understood"),
        "{outcome:?}"
    );
    for verb in ["status", "restart", "stop"] {
        let outcome = Asked::at(&nowhere, &[verb]).end();
        assert_eq!(outcome.status, UNREACHABLE);
        assert!(
            outcome.errors.contains("/nonexistent/control"),
            "{outcome:?}"
        );
    }
    let outcome = Asked::at(&nowhere, &["--help"]).end();
    assert_eq!(outcome.status, DONE);
    assert!(
        outcome.output.starts_with("Usage: heirloom "),
        "{outcome:?}"
    );
}

#[test]
fn the_command_does_not_wait_longer_than_it_is_told() {
    let service = start(Config::new());
    let held = service.hold_next();
    let asked = Asked::at(&service.control_socket(), &["restart", "--timeout", "0.5"]);
    let held = held.wait_until_reached();
    let outcome = asked.end();
    assert_eq!(outcome.status, OVERDUE);
    assert!(
        outcome.errors.contains("no result in 500 ms"),
        "{outcome:?}"
    );
    // What was asked for goes on.
    held.release(&Config::new().control_socket(&service.control_socket()));
    service.wait_generation(2);

    // Nor for one that does not hear at all, with its queue full.
    service.current().freeze();
    let path = service.control_socket();
    let deaf = Asked::at(&path, &["status", "--timeout", "0.5"]).end();
    assert_eq!(deaf.status, OVERDUE);
    service.current().thaw();
    assert_eq!(status(&service)["generation"], 2);
}

#[test]
fn a_terminal_shows_how_a_restart_comes_along() {
    let service = start(Config::new());
    let held = service.hold_next();
    let program = Program::heirloom().on_terminal();
    let asked = Asked::by(program, &service.control_socket(), &["restart"]);
    let held = held.wait_until_reached();
    // The line is drawn anew although nothing happens.
    let drawn = "\u{1b}[Krestarting generation 1: the successor is starting";
    asked
        .output()
        .wait_until("a line drawn five times", |lines| {
            let drawn = lines.iter().filter(|line| line.contains(drawn));
            (drawn.count() >= 5).then_some(())
        });
    held.release(&Config::new().control_socket(&service.control_socket()));
    let outcome = asked.end();
    assert_eq!(outcome.status, DONE);
    let lines: Vec<&str> = outcome.output.lines().collect();
    // What was drawn is gone, and the result stays.
    assert!(
        lines.iter().all(|line| line.chars().count() < 85),
        "{lines:?}"
    );
    let last = outcome.output.rsplit("\u{1b}[K").next().unwrap();
    assert!(last.starts_with("restarted in "), "{last:?}");
    assert!(last.contains("generation 2 (pid "), "{last:?}");
}
