//! A restart that fails leaves the predecessor serving as if nothing had
//! happened: one line in the log names the successor, the step and the reason,
//! no process is left over, and the next SIGHUP works.

use crate::kit::{
    Client, Config, End, FailedRestart, Fake, Launch, Process, Service, Whom, example, pid_in,
};

const STARTING: &str = "starting: ";
const AWAITING_CLAIM: &str = "waiting for its claim: ";
const AWAITING_READINESS: &str = "waiting for its readiness: ";
const SERVING: &str = "serving on probation: ";

/// Of a successor that had [`READY_TIMEOUT_MS`], and may have had longer where
/// the machine is busy.
const OVERDUE: &str = "it was not ready after ";
const READY_TIMEOUT_MS: u64 = 2_000;

fn assert_reason(failure: &FailedRestart, reason: &str) {
    failure.assert_says(reason);
    if reason == OVERDUE {
        let (_, after) = failure.line().split_once(OVERDUE).unwrap();
        let (seconds, _) = after.split_once("s;").unwrap();
        let seconds: f64 = seconds.parse().unwrap();
        assert!(
            seconds * 1e3 >= READY_TIMEOUT_MS as f64,
            "{}",
            failure.line()
        );
    }
}

/// The whole story: the executable is damaged, two restarts fail and say why,
/// the executable is repaired, the third restart works.
fn survives(damage: impl Fn(&Service), step: &str, reason: &str) {
    survives_attempts(2, Config::new(), damage, step, reason);
}

fn survives_attempts(
    attempts: usize,
    config: Config,
    damage: impl Fn(&Service),
    step: &str,
    reason: &str,
) {
    let service = Launch::api(config).own_binary().start();
    let mut kept_alive = service.connect();
    kept_alive.get("/").unwrap();
    damage(&service);
    for attempt in 1..=attempts {
        let failure = service.restart_in_vain();
        failure.assert_says(step);
        assert_reason(&failure, reason);
        // What cannot even be started has no pid.
        assert_eq!(failure.successor().is_none(), step == STARTING);
        assert_eq!(service.failed_restarts(), attempt, "one line for each");
        service.assert_undisturbed();
    }
    assert_still_kept_alive(&mut kept_alive);
    service.binary().restore();
    service.restart();
    assert_eq!(service.get("/").generation(), 2);
    drop(kept_alive);
    service.stop();
}

fn assert_still_kept_alive(client: &mut Client) {
    let answer = client.get("/").unwrap();
    assert!(
        !answer.closes(),
        "the connection is not to be closed: {answer:?}"
    );
}

fn survives_fake(fake: Fake, step: &str, reason: &str) {
    survives(
        |service| service.binary().replace_with_fake(fake),
        step,
        reason,
    );
}

/// Waits for a deadline, which has to be long enough for the good successor at
/// the end of the story on a slow machine.
fn survives_hanging_fake(fake: Fake, step: &str) {
    let damage = |service: &Service| service.binary().replace_with_fake(fake);
    let config = Config::new().ready_timeout_ms(READY_TIMEOUT_MS);
    survives_attempts(1, config, damage, step, OVERDUE);
}

#[test]
fn a_missing_binary() {
    survives(
        |service| service.binary().remove(),
        STARTING,
        "No such file or directory",
    );
}

#[test]
fn a_binary_that_is_not_executable() {
    let damage = |service: &Service| service.binary().replace_with_text("", 0o644);
    survives(damage, STARTING, "Permission denied");
}

#[test]
fn a_binary_of_no_known_format() {
    let damage = |service: &Service| service.binary().replace_with_text("\u{7f}no ELF", 0o755);
    survives(damage, STARTING, "Exec format error");
}

#[test]
fn a_binary_that_is_being_written() {
    let service = Launch::api(Config::new()).own_binary().start();
    let failure = service
        .binary()
        .while_it_is_written(|| service.restart_in_vain());
    failure.assert_says(STARTING);
    failure.assert_says("Text file busy");
    service.assert_undisturbed();
    service.restart();
    assert_eq!(service.get("/").generation(), 2);
}

#[test]
fn a_successor_that_exits_at_once() {
    survives_fake(Fake::ExitsAtOnce, AWAITING_CLAIM, "exit status: 0");
}

#[test]
fn a_successor_that_exits_non_zero() {
    survives_fake(Fake::ExitsWithStatus7, AWAITING_CLAIM, "exit status: 7");
}

#[test]
fn a_successor_that_is_killed() {
    survives_fake(Fake::IsKilled, AWAITING_CLAIM, "signal: 9");
}

#[test]
fn a_successor_that_hangs() {
    survives_hanging_fake(Fake::Hangs, AWAITING_CLAIM);
}

#[test]
fn a_successor_that_hangs_after_its_claim() {
    survives_hanging_fake(Fake::ClaimsAndHangs, AWAITING_READINESS);
}

#[test]
fn a_successor_that_closes_the_channel() {
    survives_fake(Fake::ClosesTheChannel, AWAITING_CLAIM, "closed the channel");
}

#[test]
fn a_successor_that_speaks_nonsense() {
    survives_fake(Fake::SpeaksNonsense, AWAITING_CLAIM, "nonsense");
}

#[test]
fn a_successor_that_sends_an_unknown_message() {
    survives_fake(Fake::SpeaksInRiddles, AWAITING_CLAIM, "riddle");
}

#[test]
fn a_successor_that_sends_an_empty_message() {
    survives_fake(Fake::SaysNothingAloud, AWAITING_CLAIM, "channel");
}

#[test]
fn a_successor_that_is_ready_before_its_claim() {
    survives_fake(
        Fake::SpeaksOutOfTurn,
        AWAITING_CLAIM,
        "`ready` out of order",
    );
}

#[test]
fn a_successor_that_sends_too_long_a_message() {
    survives_fake(Fake::SpeaksAtLength, AWAITING_CLAIM, "nonsense");
}

#[test]
fn a_successor_of_another_protocol_version() {
    survives_fake(Fake::SpeaksAnotherVersion, AWAITING_CLAIM, "version 4711");
}

#[test]
fn a_successor_that_exits_after_its_claim() {
    survives_fake(Fake::ClaimsAndExits, AWAITING_READINESS, "exit status: 7");
}

#[test]
fn a_successor_that_is_killed_after_its_claim() {
    survives_fake(Fake::ClaimsAndIsKilled, AWAITING_READINESS, "signal: 9");
}

#[test]
fn a_successor_that_closes_the_channel_after_its_claim() {
    survives_fake(
        Fake::ClaimsAndClosesTheChannel,
        AWAITING_READINESS,
        "closed the channel",
    );
}

#[test]
fn a_successor_that_claims_twice() {
    survives_fake(
        Fake::ClaimsTwice,
        AWAITING_READINESS,
        "`get_listener` out of order",
    );
}

#[test]
fn a_successor_that_says_why_it_gives_up() {
    survives_fake(Fake::ClaimsAndGivesUp, AWAITING_READINESS, Fake::REASON);
}

#[test]
fn a_reason_in_several_lines_is_told_in_one() {
    survives_fake(Fake::GivesUpInVerse, AWAITING_CLAIM, "the moon is full");
}

#[test]
fn a_thread_that_the_system_refuses() {
    let service = Service::start(Config::new());
    // Too little for the stack of a thread.
    service.limit_memory_to_now_and(1 << 20);
    for attempt in 1..=2 {
        let failure = service.restart_in_vain();
        failure.assert_says(STARTING);
        failure.assert_says("it could not be started: ");
        assert_eq!(service.failed_restarts(), attempt);
        service.assert_undisturbed();
    }
    service.lift_memory_limit();
    service.restart();
    service.stop();
}

#[test]
fn a_successor_that_exits_when_it_should_serve() {
    survives_probation(Fake::ServesAndExits, "exit status: 7");
}

#[test]
fn a_successor_that_is_killed_when_it_should_serve() {
    survives_probation(Fake::ServesAndIsKilled, "signal: 9");
}

#[test]
fn a_successor_that_closes_the_channel_when_it_should_serve() {
    survives_probation(Fake::ServesAndClosesTheChannel, "closed the channel");
}

/// How it was lost is waited for in vain here, until after its probation would
/// have been over; that it was lost is known before.
#[test]
fn a_successor_that_closes_the_channel_just_before_it_would_be_proven() {
    let service = Launch::api(Config::new().probation_ms(50))
        .own_binary()
        .start();
    service
        .binary()
        .replace_with_fake(Fake::ServesAndClosesTheChannel);
    let failure = service.restart_in_vain();
    failure.assert_says("restart undone");
    failure.assert_says("closed the channel");
    service.assert_undisturbed();
    service.stop();
}

/// It would go unnoticed as long as there are no connections to be handed over.
#[test]
fn a_successor_that_hangs_when_its_probation_is_over() {
    let service = Service::start(Config::new().probation_ms(500));
    let place = service.log().here();
    service.first().hup();
    service
        .log()
        .wait_for_after(place, "generation 2 is serving on ");
    service.first().only_child().freeze();
    let failure = service.wait_failed_restart_after(place);
    failure.assert_says("restart undone");
    failure.assert_says("publishing its process ID: it has not done so in 5s");
    service.assert_undisturbed();
    service.restart();
    service.stop();
}

/// What was started has been killed, and what serves is a child of that.
#[test]
fn a_successor_behind_a_script_that_hangs_and_comes_to_itself() {
    let launch = Launch::api(Config::new()).own_binary();
    let path = launch.dir().join("api.pid");
    let config = Config::new()
        .pid_file(path.to_str().unwrap())
        .probation_ms(500)
        // It is not to go on until it is over.
        .shutdown_delay_ms(600_000);
    let service = launch.config(config).start();
    let api = example("api");
    let script = format!("#!/bin/sh\n{} \"$@\"\nexit $?\n", api.display());
    service.binary().replace_with_text(&script, 0o755);
    let place = service.log().here();
    service.first().hup();
    let line = service
        .log()
        .wait_for_after(place, "generation 2 is serving on ");
    let successor = Process::open(pid_in(&line));
    successor.freeze();
    service
        .wait_failed_restart_after(place)
        .assert_says("restart undone");
    successor.thaw();
    successor.wait_exit();
    let published = std::fs::read_to_string(&path).unwrap();
    assert_eq!(published.trim(), service.first().pid().to_string());
    assert_eq!(service.get("/").pid(), service.first().pid());
}

/// A predecessor that hangs would keep its successor on probation for ever; and
/// if it came to itself it could take back what is somebody else's by then.
#[test]
fn a_predecessor_that_hangs_when_its_successor_serves() {
    let config = Config::new().probation_ms(3_000).drain_timeout_ms(500);
    let service = Service::start(config);
    let predecessor = service.current();
    let successor = service.restart();
    predecessor.freeze();
    // It is remembered.
    successor.hup();
    let line = service.log().wait_for("seems to hang; it is killed");
    assert!(
        line.contains(&format!("predecessor {} ", predecessor.pid())),
        "{line}"
    );
    assert_eq!(predecessor.wait_exit(), End::Killed(9));
    let next = service.wait_generation(3);
    assert_eq!(successor.wait_exit(), End::Exit(0));
    assert_eq!(service.get("/").pid(), next.pid());
    service.stop();
}

/// Nobody hands anything over to it, so nothing is to be waited for.
#[test]
fn a_successor_of_one_that_died_before_it_served_stops_and_restarts_at_once() {
    for at in ["performing SendListeners", "performing SendServe"] {
        let config = Config::new().kill(1, at, Whom::Itself);
        let service = Service::start(config);
        service.first().hup();
        let orphan = service.wait_generation(2);
        assert_eq!(service.first().wait_exit(), End::Killed(9), "{at}");
        service.restart();
        assert_eq!(orphan.wait_exit(), End::Exit(0));
        service.stop();
        for words in ["has not said", "the drain ends with"] {
            assert_eq!(service.log().count(words), 0, "{at}: {words}");
        }
    }
    let config = Config::new().kill(1, "performing SendServe", Whom::Itself);
    let service = Service::start(config);
    service.first().hup();
    service.wait_generation(2);
    service.stop();
    assert_eq!(service.log().count("has not said"), 0);
}

/// A successor that has taken over and dies in its probation is undone.
fn survives_probation(fake: Fake, reason: &str) {
    let service = Launch::api(Config::new().probation_ms(20_000))
        .own_binary()
        .start();
    service.binary().replace_with_fake(fake);
    for attempt in 1..=2 {
        let failure = service.restart_in_vain();
        failure.assert_says("restart undone");
        failure.assert_says(SERVING);
        failure.assert_says(reason);
        assert_eq!(service.failed_restarts(), attempt);
        service.assert_undisturbed();
        assert_still_kept_alive(&mut service.connect());
    }
    service.binary().restore();
    service.restart();
    service.stop();
}

#[test]
fn a_successor_that_panics_after_it_was_ready() {
    let config = Config::new().probation_ms(20_000);
    let service = Service::start(config.clone().fault("panic-after-ready"));
    let failure = service.restart_in_vain();
    failure.assert_says("restart undone");
    failure.assert_says("exit status: 101");
    service.assert_undisturbed();
    service.configure(&config);
    service.restart();
    service.stop();
}

/// As when a line cannot be printed because nobody reads them any more.
#[test]
fn a_callback_that_panics_is_not_the_end_of_a_process_that_serves() {
    let service = Service::start(Config::new().fault("panic-at-restart"));
    let mut client = service.connect();
    assert_still_kept_alive(&mut client);
    service.restart_to_the_end();
    assert_eq!(client.get("/").unwrap().generation(), 2);
    assert_eq!(service.failed_restarts(), 0);
    let panics = "the callback for transitions has panicked";
    // To forking, handoff, and draining.
    assert_eq!(service.log().count(panics), 3);
    service.stop();
}

/// The faults of the example itself, through its configuration.
fn survives_configuration(faulty: &str, step: &str, reasons: &[&str]) {
    let service = Service::start(Config::new().ready_timeout_ms(READY_TIMEOUT_MS));
    service.configure_with(faulty);
    let failure = service.restart_in_vain();
    failure.assert_says(step);
    reasons
        .iter()
        .for_each(|reason| assert_reason(&failure, reason));
    service.assert_undisturbed();
    service.configure(&Config::new());
    service.restart();
    assert_eq!(service.get("/").generation(), 2);
}

#[test]
fn a_configuration_that_makes_the_successor_exit() {
    let faulty = Config::new().fault("exit").to_toml();
    survives_configuration(&faulty, AWAITING_CLAIM, &["exit status: 3"]);
}

#[test]
fn a_configuration_that_makes_the_successor_hang() {
    let faulty = Config::new().fault("hang").to_toml();
    survives_configuration(&faulty, AWAITING_CLAIM, &[OVERDUE]);
}

#[test]
fn a_configuration_that_asks_for_a_malformed_one() {
    let faulty = Config::new().fault("bad-config").to_toml();
    survives_configuration(
        &faulty,
        AWAITING_CLAIM,
        &["exit status: 1", "api.toml: `fault`"],
    );
}

#[test]
fn a_configuration_with_a_mistake_is_named_in_the_line_of_the_failure() {
    let faulty = "listen = [\"127.0.0.1:0\"]\ngreeting = 3\n";
    let reasons = [
        "exit status: 1",
        "api.toml: line 2, `greeting = 3`: invalid type",
    ];
    survives_configuration(faulty, AWAITING_CLAIM, &reasons);
}

#[test]
fn a_configuration_without_an_address() {
    survives_configuration(
        "listen = []",
        AWAITING_CLAIM,
        &["`listen` names no address"],
    );
}

#[test]
fn a_configuration_with_an_address_that_is_none() {
    let faulty = Config::on(&["127.0.0.1:0", "no address"]).to_toml();
    survives_configuration(&faulty, AWAITING_CLAIM, &["`no address`"]);
}

#[test]
fn a_pid_file_that_cannot_be_written() {
    let faulty = Config::new().pid_file("/nowhere/at/all/api.pid").to_toml();
    survives_configuration(&faulty, AWAITING_READINESS, &["`/nowhere/at/all/api.pid`"]);
}

#[test]
fn failures_of_different_kinds_one_after_another() {
    let service = Launch::api(Config::new()).own_binary().start();
    let client = service.settle();
    let descriptors = service.current().kinds_of_descriptors();
    drop(client);
    let fakes = [
        Fake::ExitsAtOnce,
        Fake::ClaimsAndIsKilled,
        Fake::SpeaksNonsense,
    ];
    for fake in fakes.into_iter().cycle().take(30) {
        service.binary().replace_with_fake(fake);
        service.restart_in_vain();
    }
    service.assert_undisturbed();
    let _client = service.settle();
    assert_eq!(service.current().kinds_of_descriptors(), descriptors);
    service.binary().restore();
    service.restart();
}
