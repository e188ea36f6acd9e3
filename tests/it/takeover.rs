//! A process that somebody else has started takes over like a successor: no
//! client notices, and if anything goes wrong with it, nothing has happened.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::kit::{
    Client, Config, Connections, Container, ControlClient, End, Launch, Load, NotifySocket,
    Program, Service, Whom, can_open,
};

/// Long enough for a test to do something in it, and never waited for.
const LONG: u64 = 60_000;

fn start(config: Config) -> Service {
    Launch::api(config.takeover()).start_controlled()
}

/// Another service that is to take over from this one; what it takes over is
/// what it asks for, so it has the same addresses.
fn rival(service: &Service, config: Config) -> Launch {
    Launch::api(config.control_socket(&service.control_socket()))
}

/// Has another service take over as generation `number`.
fn take_over(service: &Service, config: Config, number: u64) -> Service {
    let other = rival(service, config.takeover()).spawn();
    other.wait_generation(number);
    other
}

fn acquainted(service: &Service) -> Client {
    let mut client = service.connect();
    client.get("/").unwrap();
    client
}

/// Checks that a process does not start and says why, and that the service goes
/// on as if nobody had asked.
fn assert_refused(service: &Service, launch: Launch, words: &[&str]) {
    launch.spawn().assert_gives_up(words);
    service.assert_undisturbed();
    assert_eq!(service.failed_restarts(), 0);
    assert!(service.control_socket().exists());
}

#[test]
fn a_process_started_by_somebody_else_takes_over_with_the_connections() {
    let first = start(Config::new().greeting("one"));
    let mut clients: Vec<Client> = (0..10).map(|_| acquainted(&first)).collect();
    let mut busy = acquainted(&first);
    busy.begin_post("/echo", 5).unwrap();
    first.settle();
    let second = take_over(&first, Config::new().greeting("two"), 2);
    assert_eq!(second.address(), first.address());
    first.log().wait_for("has what could move");
    for client in &mut clients {
        let answer = client.get("/").unwrap();
        assert_eq!((answer.generation(), answer.text()), (2, "two"));
        assert_eq!(answer.pid(), second.first().pid());
        assert!(!answer.closes());
    }
    busy.send("hello").unwrap();
    assert_eq!(busy.answer().unwrap().generation(), 1);
    assert_eq!(busy.get("/").unwrap().generation(), 2);
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    first.log().wait_for_end();
    assert_eq!(first.generations(), 1);
    // The control socket is that of the new one, and so is its name.
    let status = ControlClient::status(&first.control_socket());
    assert_eq!(status["pid"], second.first().pid());
    assert_eq!(status["generation"], 2);
    second.stop();
    assert!(
        !first.control_socket().exists(),
        "the last one has removed it"
    );
}

#[test]
fn requests_that_race_with_takeovers_of_takeovers_do_not_fail() {
    let config = || Config::new().probation_ms(50);
    let first = start(config());
    let loads = [Connections::KeptAlive, Connections::NewForEach]
        .map(|connections| Load::start(&first.address(), connections, 3));
    let mut services = vec![first];
    for number in 2..=6 {
        // All of them have the control socket of the first.
        let next = take_over(&services[0], config(), number);
        let previous = services.last().unwrap();
        assert_eq!(previous.first().wait_exit(), End::Exit(0));
        let status = ControlClient::status(&services[0].control_socket());
        assert_eq!(status["generation"], number);
        loads.iter().for_each(|load| load.wait_for_requests(50));
        services.push(next);
    }
    for load in loads {
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{tally}");
        assert_eq!(tally.generations, (1..=6).collect(), "{tally}");
    }
}

#[test]
fn the_successor_of_a_takeover_is_restarted_by_a_signal() {
    let first = start(Config::new());
    let mut client = acquainted(&first);
    let second = take_over(&first, Config::new().greeting("two"), 2);
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    for generation in 3..=4 {
        second.restart_to_the_end();
        let answer = client.get("/").unwrap();
        assert_eq!((answer.generation(), answer.text()), (generation, "two"));
    }
    let arguments = second.current().arguments();
    assert!(arguments[2].starts_with(second.dir().as_os_str().as_encoded_bytes()));
    second.stop();
}

#[test]
fn a_takeover_is_off_on_either_side_unless_it_is_asked_for() {
    let willing = start(Config::new());
    let path = willing.control_socket();
    let words = ["another process listens on it", path.to_str().unwrap()];
    assert_refused(&willing, rival(&willing, Config::new()), &words);
    drop(willing);
    let unwilling = Launch::api(Config::new()).start_controlled();
    let other = rival(&unwilling, Config::new().takeover());
    let words = "it refuses: takeovers are not allowed here";
    assert_refused(
        &unwilling,
        other,
        &["could not take over the service at `", words],
    );
    unwilling.log().wait_for("a takeover is refused");
    assert_eq!(unwilling.log().count("a takeover is refused"), 1);
}

#[test]
fn where_nobody_listens_a_process_begins_as_the_first() {
    let launch = Launch::api(Config::new().takeover());
    let path = launch.control_socket();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let service = launch.start_controlled();
    assert_eq!(service.get("/").generation(), 1);
    service.log().wait_for("replacing the stale socket file");
}

#[test]
fn another_version_of_the_protocol_is_refused() {
    let service = start(Config::new());
    for (request, words) in [
        (
            json!({"request": "takeover", "version": 4711}),
            "it speaks version 4711",
        ),
        (
            json!({"request": "takeover"}),
            "the request is not understood",
        ),
    ] {
        let mut client = ControlClient::ask(&service.control_socket(), &request);
        let answer = client.next().unwrap();
        assert_eq!(answer["answer"], "refused");
        assert!(
            answer["reason"].as_str().unwrap().contains(words),
            "{answer}"
        );
        assert_eq!(client.next(), None);
    }
    service.assert_undisturbed();
}

/// One that asks and does not take what it gets is a failed restart.
#[test]
fn a_client_that_is_no_process_to_take_over_is_dismissed() {
    let service = start(Config::new());
    let place = service.log().here();
    let request = json!({"request": "takeover", "version": 2});
    let mut client = ControlClient::ask(&service.control_socket(), &request);
    assert_eq!(client.next().unwrap()["answer"], "granted");
    let failure = service.wait_told_failure_after(place);
    failure.assert_says("waiting for its claim: it closed the channel");
    service.assert_undisturbed();
    service.restart();
}

#[test]
fn a_service_that_has_something_else_in_hand_is_busy() {
    let service = start(Config::new());
    let held = service.restart_held();
    let other = || rival(&service, Config::new().takeover()).spawn();
    other().assert_gives_up(&["it refuses: busy: a restart is under way"]);
    let config = Config::new().probation_ms(LONG).takeover();
    let config = config.control_socket(&service.control_socket());
    held.release(&config);
    service.wait_generation(2);
    // The first one has no probation; this one has.
    service.log().wait_for("has passed its probation");
    assert_eq!(service.first().wait_exit(), End::Exit(0));
    service.current().hup();
    service.wait_generation(3);
    other().assert_gives_up(&["it refuses: busy: this process is on probation itself"]);
    assert_eq!(service.get("/").generation(), 3);
}

#[test]
fn a_sighup_during_a_takeover_is_the_business_of_the_new_process() {
    let first = start(Config::new());
    let second = rival(&first, Config::new().takeover().ready_ms(500)).spawn();
    first.log().wait_for("generation 1 is handoff");
    first.current().hup();
    first.log().wait_for("another restart follows this one");
    second.wait_generation(2);
    second.wait_generation(3);
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    assert_eq!(second.get("/").generation(), 3);
    second.stop();
}

#[test]
fn one_that_dies_before_it_is_ready_changes_nothing() {
    let service = start(Config::new());
    let mut client = acquainted(&service);
    for message in ["sending `get_listener`", "sending `ready`"] {
        let place = service.log().here();
        let doomed = Config::new().takeover().kill(1, message, Whom::Itself);
        let other = rival(&service, doomed).spawn();
        assert_eq!(other.first().wait_exit(), End::Killed(9));
        let failure = service.wait_told_failure_after(place);
        failure.assert_says("restart failed: successor ");
        failure.assert_says(": it ended; generation 1 serves on");
        assert_eq!(failure.successor(), Some(other.first().pid()));
        service.assert_undisturbed();
        assert!(!client.get("/").unwrap().closes());
    }
    take_over(&service, Config::new(), 2);
}

#[test]
fn one_that_dies_on_probation_is_undone() {
    let service = start(Config::new().probation_ms(LONG));
    let mut clients: Vec<Client> = (0..5).map(|_| acquainted(&service)).collect();
    let place = service.log().here();
    let other = take_over(&service, Config::new(), 2);
    service.log().wait_for("has what could move");
    for client in &mut clients[..3] {
        assert_eq!(client.get("/").unwrap().generation(), 2);
    }
    // By then it has noted that they are answered.
    drop(other.settle());
    other.first().kill();
    let failure = service.wait_told_failure_after(place);
    failure.assert_says("restart undone: successor ");
    failure.assert_says(": it ended; generation 1 serves again");
    for client in &mut clients {
        let answer = client.get("/").unwrap();
        assert_eq!((answer.generation(), answer.closes()), (1, false));
    }
    service.assert_undisturbed();
    assert_eq!(
        ControlClient::status(&service.control_socket())["generation"],
        1
    );
    service.stop();
}

/// It is not ours to kill.
#[test]
fn one_that_is_not_ready_in_time_is_dismissed_and_exits_by_itself() {
    let service = start(Config::new().ready_timeout_ms(500));
    let place = service.log().here();
    let late = Config::new().takeover().ready_ms(LONG);
    let other = rival(&service, late).spawn();
    let failure = service.wait_told_failure_after(place);
    failure.assert_says("waiting for its readiness: it was not ready after ");
    service.assert_undisturbed();
    // It waits for what it has to wait for; nobody needs it any more.
    assert!(other.first().is_alive());
    other.first().term();
    assert_eq!(other.first().wait_exit(), End::Exit(0));
    service.restart();
}

/// It has connections that are to be taken back, and would wake up one day.
#[test]
fn one_that_hangs_on_probation_is_killed_and_no_connection_is_lost() {
    if !can_open(350) {
        return;
    }
    let service = start(Config::new().probation_ms(LONG));
    let mut clients: Vec<Client> = (0..300).map(|_| acquainted(&service)).collect();
    let place = service.log().here();
    let hanging = Config::new().takeover().fault("hang-after-ready");
    let other = rival(&service, hanging).spawn();
    let failure = service.wait_told_failure_after(place);
    failure.assert_says("restart undone: successor ");
    failure.assert_says("connections in 5s");
    assert_eq!(other.first().wait_exit(), End::Killed(9));
    for client in &mut clients {
        assert_eq!(client.get("/").unwrap().generation(), 1);
    }
    service.assert_undisturbed();
}

/// As by an operator who has started a new container and stops the old one.
#[test]
fn a_stop_on_probation_is_not_meant_for_the_new_process() {
    let first = start(Config::new().probation_ms(LONG));
    let mut client = acquainted(&first);
    let second = take_over(&first, Config::new(), 2);
    first.first().term();
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    for _ in 0..3 {
        let answer = client.get("/").unwrap();
        assert_eq!((answer.generation(), answer.closes()), (2, false));
    }
    let status = ControlClient::status(&first.control_socket());
    assert_eq!(
        (&status["proven"], &status["state"]),
        (&json!(true), &json!("serving"))
    );
    second.stop();
}

/// There is nobody but this one then.
#[test]
fn a_stop_on_probation_of_one_that_hangs_ends_both() {
    let first = start(Config::new().probation_ms(LONG));
    let second = take_over(&first, Config::new(), 2);
    first.log().wait_for("has what could move");
    second.first().freeze();
    second.first().wait_frozen();
    first.first().term();
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    assert_eq!(second.first().wait_exit(), End::Killed(9));
    first.log().wait_for("restart undone: ");
    assert_eq!(first.log().count("restart undone: "), 1);
}

#[test]
fn a_stop_during_a_takeover_stops_the_service_and_not_the_other_process() {
    let service = start(Config::new());
    let other = rival(&service, Config::new().takeover().ready_ms(LONG)).spawn();
    other.log().wait_for("ready in");
    service.current().term();
    other.first().term();
    assert_eq!(service.first().wait_exit(), End::Exit(0));
    assert_eq!(other.first().wait_exit(), End::Exit(0));
    assert!(!service.control_socket().exists());
}

#[test]
fn another_user_can_neither_take_over_nor_be_taken_over() {
    let service = start(Config::new());
    let path = service.control_socket();
    let Some(stranger) = rival(&service, Config::new().takeover()).unprivileged() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // As if the file were not private.
    fs::set_permissions(service.dir(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert_refused(&service, stranger, &["it hangs up without a word"]);
    drop(service);

    let launch = Launch::api(Config::new().takeover()).unprivileged();
    let launch = launch.expect("it could be run before");
    chown_to_nobody(launch.dir());
    let service = launch.start_controlled();
    let other = rival(&service, Config::new().takeover());
    assert_refused(&service, other, &["it belongs to another user"]);
}

fn chown_to_nobody(path: &Path) {
    std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
}

#[test]
fn the_pid_file_names_the_process_that_serves() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("api.pid");
    let config = Config::new().pid_file(path.to_str().unwrap());
    let first = launch.config(config.clone().takeover()).start_controlled();
    let pid = || -> i32 { fs::read_to_string(&path).unwrap().trim().parse().unwrap() };
    assert_eq!(pid(), first.first().pid());
    let second = take_over(&first, config, 2);
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    assert_eq!(pid(), second.first().pid());
    second.stop();
    assert!(!path.exists());
}

/// Each has its own, and the old one never names the new one there.
#[test]
fn supervisors_are_told_nothing_false() {
    let [old, new] = [(); 2].map(|()| NotifySocket::without_a_file());
    let launch = Launch::api(Config::new().takeover()).supervised_by(&old);
    let first = launch.start_controlled();
    assert!(old.next().says("READY=1"));
    let config = Config::new().takeover();
    let second = rival(&first, config).supervised_by(&new).spawn();
    second.wait_generation(2);
    assert!(new.next().says("READY=1"));
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    loop {
        let notice = old.next();
        for key in ["MAINPID", "RELOADING"] {
            assert!(!notice.speaks_of(key), "{notice:?}");
        }
        if notice.says("STOPPING=1") {
            notice.assert_status("taken over by process ");
            break;
        }
    }
    old.assert_nothing_new();
    second.restart_to_the_end();
    let main = format!("MAINPID={}", second.current().pid());
    while !new.next().says(&main) {}
}

/// The new process is not its own to follow.
#[test]
fn a_process_that_would_stay_as_a_stub_exits_when_somebody_else_has_taken_over() {
    let first = start(Config::new().pid_one_stub(true).check_script("false"));
    // It follows from now on, and has nobody to follow.
    first.restart_in_vain();
    let second = take_over(&first, Config::new(), 2);
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    first.log().wait_for_end();
    assert_eq!(first.log().count("becomes a stub"), 0);
    assert_eq!(second.get("/").generation(), 2);
    second.stop();
}

/// What is left of the old service has its own process that signals go to.
#[test]
fn a_stub_ends_with_its_last_generation_and_a_stop_of_it_is_not_meant_for_the_new_process() {
    let first = start(Config::new().pid_one_stub(true));
    let config = Config::new().takeover().probation_ms(LONG);
    first.configure(&config.control_socket(&first.control_socket()));
    first.restart();
    first.first().wait_stub();
    let mut busy = acquainted(&first);
    busy.begin_post("/echo", 5).unwrap();
    drop(first.settle());
    let second = take_over(&first, Config::new(), 3);
    let mut client = acquainted(&second);
    // The first one ends the probation, and the second one the request.
    first.first().term();
    first
        .log()
        .wait_until("generation 2 drains for good", |lines| {
            let passed = |line: &&String| line.contains("has passed its probation");
            (lines.iter().filter(passed).count() == 2).then_some(())
        });
    first.first().term();
    first.log().wait_for("stopping; ");
    busy.send("hello").unwrap();
    assert_eq!(busy.answer().unwrap().generation(), 2);
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    let answer = client.get("/").unwrap();
    assert_eq!((answer.generation(), answer.closes()), (3, false));
    assert_eq!(second.log().count("stopping; "), 0);
    second.stop();
}

/// It has taken over from others, but its own successors come from it.
#[test]
fn a_process_that_has_taken_over_stays_as_a_stub_if_it_is_told_to() {
    let first = start(Config::new());
    let mut client = acquainted(&first);
    let second = take_over(&first, Config::new().pid_one_stub(true), 2);
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    second.restart();
    second.first().wait_stub();
    assert_eq!(client.get("/").unwrap().generation(), 3);
    second.first().term();
    assert_eq!(second.first().wait_exit(), End::Exit(0));
    second.log().wait_for_end();
}

/// Their end would be that of the new process, too.
#[test]
fn process_1_and_its_successors_are_not_taken_over() {
    let launch = Launch::api(Config::new());
    let config = Config::new()
        .takeover()
        .control_socket(&launch.control_socket());
    let Some(container) = Container::launch(launch.config(config)) else {
        return;
    };
    if Program::find("nsenter").is_none() {
        return;
    }
    let target = container.init().pid().to_string();
    let inside = ["nsenter", "--target", &target, "--pid", "--mount", "--"];
    for generation in 1..=2 {
        if generation == 2 {
            container.restart_to(2);
        }
        let other = rival(container.service(), Config::new().takeover());
        let words = ["could not take over", "it refuses: ", "that of process 1"];
        other.wrapper(&inside).spawn().assert_gives_up(&words);
        let answer = container.connect().get("/").unwrap();
        assert_eq!(answer.generation(), generation);
    }
    container.init().term();
    assert_eq!(container.wait_end(), End::Exit(0));
}

#[test]
fn one_that_cannot_publish_leaves_the_paths_to_the_one_that_serves_again() {
    let launch = Launch::api(Config::new());
    let path = format!("unix:{}", launch.dir().join("api.sock").display());
    let config = Config::on(&[&path]).takeover().probation_ms(1_000);
    let service = launch.config(config).start_controlled();
    let other = rival(&service, Config::on(&[&path]).takeover());
    let dir = other.dir().join("run");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("api.pid");
    let config = Config::on(&[&path])
        .takeover()
        .control_socket(&service.control_socket())
        .pid_file(file.to_str().unwrap());
    let place = service.log().here();
    let other = other.config(config).spawn();
    service.log().wait_for_after(place, "takes over");
    fs::remove_dir_all(&dir).unwrap();
    let failure = service.wait_told_failure_after(place);
    failure.assert_says("restart undone");
    other.first().wait_exit();
    assert!(service.control_socket().exists(), "control socket is gone");
    service.assert_undisturbed();
}

#[test]
fn one_that_has_taken_over_does_not_follow_itself() {
    let first = start(Config::new());
    let mut busy = acquainted(&first);
    busy.begin_post("/echo", 5).unwrap();
    first.settle();
    let second = take_over(&first, Config::new().pid_one_stub(true), 2);
    first.log().wait_for("has passed its probation");
    second.settle();
    second.configure(
        &Config::new()
            .pid_one_stub(true)
            .takeover()
            .control_socket(&first.control_socket())
            .fault("bad-config"),
    );
    let place = second.log().here();
    second.current().hup();
    second.wait_told_failure_after(place);
    busy.send("hello").unwrap();
    busy.answer().unwrap();
    drop(busy);
    assert_eq!(first.first().wait_exit(), End::Exit(0));
    second.settle();
    second.first().term();
    assert_eq!(second.first().wait_exit(), End::Exit(0));
}
