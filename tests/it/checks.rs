//! A restart is checked before anything is started: what does not pass is a
//! failed restart, and nothing has happened.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::kit::{Config, ControlClient, End, Fake, Launch, Process, Service};

/// Where it says that nothing was started.
const STARTING: &str = "restart failed: the successor, starting: the check `";

/// A configuration whose check is up to a script in the directory of the test.
fn scripted(launch: &Launch) -> (Config, PathBuf) {
    let script = launch.dir().join("check.sh");
    let words = ["/bin/sh", script.to_str().unwrap()];
    (Config::new().check(&words), script)
}

/// Checks that a restart fails for these reasons, and that nothing was started.
fn assert_refused(service: &Service, words: &[&str]) {
    let before = service.failed_restarts();
    let failure = service.restart_in_vain();
    words.iter().for_each(|words| failure.assert_says(words));
    assert_eq!(failure.successor(), None);
    assert_eq!(service.failed_restarts(), before + 1);
    service.assert_undisturbed();
    // It is told by the callback, too, which comes after that.
    service.log().wait_until("a transition back", |lines| {
        let back = lines.iter().filter(|line| line.contains("is serving on"));
        (back.count() == before + 2).then_some(())
    });
    assert_eq!(service.generations(), 1);
}

#[test]
fn a_check_that_passes_is_followed_by_the_restart() {
    let launch = Launch::api(Config::new());
    let (config, script) = scripted(&launch);
    let seen = launch.dir().join("seen");
    let text = format!(
        "env > {0}; pwd >> {0}; cat >> {0}; echo fine",
        seen.display()
    );
    fs::write(&script, text).unwrap();
    let dir = launch.dir().canonicalize().unwrap();
    let launch = launch.environment("GREETING_OF_THE_DAY", "good morning");
    let service = launch.directory(dir.clone()).config(config).start();
    for generation in 2..=4 {
        service.restart_to_the_end();
        assert_eq!(service.get("/").generation(), generation);
        service.log().wait_until("a check", |lines| {
            let passed = lines
                .iter()
                .filter(|line| line.contains("the check has passed, in"));
            (passed.count() == generation as usize - 1).then_some(())
        });
        let seen = fs::read_to_string(&seen).unwrap();
        assert!(
            seen.contains("GREETING_OF_THE_DAY=good morning\n"),
            "{seen}"
        );
        assert!(!seen.contains("HEIRLOOM_"), "{seen}");
        assert!(seen.ends_with(&format!("{}\n", dir.display())), "{seen}");
    }
    assert_eq!(service.current().children(), [].into());
    service.stop();
}

#[test]
fn a_check_that_fails_is_told_everywhere_and_nothing_is_started() {
    let launch = Launch::api(Config::new());
    let (config, script) = scripted(&launch);
    fs::write(
        &script,
        "echo out; printf 'the moon\\nis full\\033\\n' >&2; exit 3",
    )
    .unwrap();
    let service = launch.config(config).start_controlled();
    let mut client = service.connect();
    client.get("/").unwrap();
    let words = [
        STARTING,
        "/check.sh` failed, exit status: 3; it said: out / the moon / is full",
    ];
    for _ in 0..2 {
        assert_refused(&service, &words);
    }
    let told = service.order("restart").last(1);
    assert_eq!(told["answer"], "failed");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains(words[1]), "{reason}");
    let status = ControlClient::status(&service.control_socket());
    assert_eq!(status["last_restart"]["reason"], json!(reason));
    assert!(!client.get("/").unwrap().closes());
    fs::write(&script, "").unwrap();
    service.restart();
    service.stop();
}

#[test]
fn a_check_that_cannot_be_started_is_named() {
    let missing = Config::new().check(&["/no/such/program", "--check"]);
    let service = Service::start(missing);
    let words = "`/no/such/program --check` could not be started: No such file";
    assert_refused(&service, &[STARTING, words]);
}

#[test]
fn a_check_that_hangs_is_killed_with_all_it_has_started() {
    let launch = Launch::api(Config::new());
    let pids = launch.dir().join("pids");
    let script = format!(
        "sleep 1000 & echo $$ $! > {}; echo waiting; sleep 1000; true",
        pids.display()
    );
    let config = Config::new().check_script(&script).check_timeout_ms(1_000);
    let service = launch.config(config).start();
    let words = [
        "` was not done in time, and was killed after ",
        "; it said: waiting",
    ];
    assert_refused(&service, &words);
    for pid in read_pids(&pids) {
        if let Some(process) = Process::open_if_there(pid) {
            process.wait_exit();
        }
    }
}

fn read_pids(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path).unwrap();
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn a_check_that_never_stops_talking_disturbs_nobody() {
    let service = Service::start(Config::new().check_script("yes 'the moon is full' >&2"));
    let words = "wrote more than 1048576 bytes and was killed; it said: … the moon is full / ";
    assert_refused(&service, &[STARTING, words]);
}

#[test]
fn a_deadline_of_the_check_is_not_that_of_readiness() {
    // It takes longer than a successor may.
    let launch = Launch::api(Config::new());
    let (config, script) = scripted(&launch);
    let fifo = make_fifo(&launch);
    fs::write(&script, format!("read word < {}", fifo.display())).unwrap();
    let service = launch.config(config.ready_timeout_ms(1_500)).start();
    let place = service.log().here();
    service.current().hup();
    let mut check = open_for_writing(&fifo);
    service.wait_phase_after(place, "forking");
    // As long as a successor takes that is never ready, and longer than that.
    let other = Launch::api(Config::new().ready_timeout_ms(2_000))
        .own_binary()
        .start();
    other.binary().replace_with_fake(Fake::Hangs);
    other.restart_in_vain();
    finish(&mut check);
    service.wait_next_generation();
}

fn make_fifo(launch: &Launch) -> PathBuf {
    let path = launch.dir().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
    path
}

/// Waits until the check reads there.
fn open_for_writing(fifo: &Path) -> fs::File {
    let fifo = fifo.to_owned();
    let (done, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(fs::File::options().write(true).open(fifo)));
    opened
        .recv_timeout(crate::kit::PATIENCE)
        .expect("there is a check")
        .unwrap()
}

fn finish(check: &mut fs::File) {
    use std::io::Write;
    check.write_all(b"done\n").unwrap();
}

/// A service in the middle of its check, and what finishes that.
fn checking(config: Config) -> (Service, fs::File, PathBuf) {
    let launch = Launch::api(Config::new());
    let (fifo, pids) = (make_fifo(&launch), launch.dir().join("pids"));
    let script = format!(
        "echo $$ > {}; read word < {}",
        pids.display(),
        fifo.display()
    );
    let service = launch
        .config(config.check_script(&script))
        .start_controlled();
    let place = service.log().here();
    service.current().hup();
    let check = open_for_writing(&fifo);
    service.wait_phase_after(place, "forking");
    (service, check, pids)
}

#[test]
fn a_sighup_during_a_check_is_not_lost() {
    let (service, mut check, _) = checking(Config::new().greeting("one"));
    let fifo = service.dir().join("fifo");
    let client = service.settle();
    // Whatever it has checked may have been changed since.
    service.current().hup();
    service.log().wait_for("another restart follows this one");
    drop(client);
    finish(&mut check);
    drop(check);
    service.wait_generation(2);
    finish(&mut open_for_writing(&fifo));
    service.wait_generation(3);
}

#[test]
fn a_sighup_during_a_check_that_fails_leads_to_another_check() {
    let (service, check, pids) = checking(Config::new());
    let fifo = service.dir().join("fifo");
    service.current().hup();
    service.log().wait_for("another restart follows this one");
    let place = service.log().here();
    Process::open(read_pids(&pids)[0]).kill();
    let failure = service.wait_failed_restart_after(place);
    failure.assert_says("failed, signal: 9");
    // The end of this one would be that of the second check.
    let mut another = open_for_writing(&fifo);
    drop(check);
    finish(&mut another);
    service.wait_generation(2);
}

#[test]
fn a_stop_during_a_check_kills_it_and_the_process_exits() {
    for by_request in [false, true] {
        let (service, check, pids) = checking(Config::new());
        let command = Process::open(read_pids(&pids)[0]);
        let process = service.current();
        if by_request {
            assert_eq!(service.order("stop").last(0)["answer"], "stopped");
        } else {
            process.term();
        }
        assert_eq!(process.wait_exit(), End::Exit(0));
        // It does not leave before the command is gone and taken note of.
        assert!(Process::open_if_there(command.pid()).is_none());
        assert_eq!(service.log().count("has not exited in"), 0);
        drop(check);
        service.log().wait_for_end();
    }
}

#[test]
fn clients_are_served_during_a_check() {
    let (service, mut check, _) = checking(Config::new());
    let mut client = service.connect();
    for _ in 0..100 {
        assert_eq!(client.get("/").unwrap().generation(), 1);
    }
    let status = ControlClient::status(&service.control_socket());
    assert_eq!(status["state"], "forking");
    assert_eq!(status["successor"], json!(null));
    finish(&mut check);
    service.wait_generation(2);
    service.log().wait_for("generation 1 has handed over: ");
    assert_eq!(client.get("/").unwrap().generation(), 2);
}

/// The configuration of the successor is looked at by the program that it will
/// be.
fn checking_itself() -> Service {
    let launch = Launch::api(Config::new()).own_binary();
    let path = launch.dir().join("api.toml");
    let config = self_checked(&path);
    launch.config(config).start()
}

fn self_checked(path: &Path) -> Config {
    Config::new().check(&["self", "--check", "--config", path.to_str().unwrap()])
}

#[test]
fn a_configuration_with_a_mistake_is_found_by_the_new_executable() {
    let service = checking_itself();
    service.restart();
    assert_eq!(service.get("/").generation(), 2);
    service.configure_with("listen = [\"127.0.0.1:0\"]\ngreeting = 3\n");
    let failure = service.restart_in_vain();
    failure.assert_says("--check --config");
    failure.assert_says("api.toml: line 2, `greeting = 3`: invalid type");
    assert_eq!(failure.successor(), None);
    service.assert_undisturbed();
    service.configure(&self_checked(&service.dir().join("api.toml")));
    service.restart();
    service.stop();
}

#[test]
fn an_executable_that_is_broken_is_found_before_it_is_to_serve() {
    let service = checking_itself();
    for attempt in 1..=2 {
        service.binary().replace_with_text("\u{7f}no ELF", 0o755);
        assert_refused(
            &service,
            &[STARTING, "could not be started: Exec format error"],
        );
        assert_eq!(service.failed_restarts(), attempt);
    }
    // Without the variable that names a predecessor it knows no channel.
    service.binary().replace_with_fake(Fake::ExitsWithStatus7);
    assert_refused(&service, &[STARTING, "failed, exit status: "]);
    service.binary().restore();
    service.restart();
    assert_eq!(service.get("/").generation(), 2);
    service.stop();
}

#[test]
fn the_application_can_refuse_a_restart() {
    let launch = Launch::api(Config::new());
    let veto = launch.dir().join("veto");
    let service = launch.config(Config::new().veto_file(&veto)).start();
    fs::write(&veto, "release 7 is\nfrozen\n").unwrap();
    let words = "the check by the application failed: veto: release 7 is frozen";
    assert_refused(&service, &[words]);
    fs::write(&veto, "panic").unwrap();
    assert_refused(
        &service,
        &["the check by the application failed: it panicked"],
    );
    fs::remove_file(&veto).unwrap();
    service.restart();
    service.stop();
}

#[test]
fn an_application_that_does_not_make_up_its_mind_is_not_waited_for() {
    let launch = Launch::api(Config::new());
    // Whoever reads it waits for a writer.
    let veto = make_fifo(&launch);
    let config = Config::new().veto_file(&veto).check_timeout_ms(500);
    let service = launch.config(config).start();
    let place = service.log().here();
    service.current().hup();
    let failure = service.wait_failed_restart_after(place);
    failure.assert_says("the check by the application failed: it was not done in time");
    service.assert_undisturbed();
    // Lets the thread go that the example has lost to it.
    drop(open_for_writing(&veto));
    fs::remove_file(&veto).unwrap();
    service.restart();
}

#[test]
fn checks_leave_no_descriptors_and_no_processes_behind() {
    let launch = Launch::api(Config::new());
    let (config, script) = scripted(&launch);
    fs::write(&script, "exit 1").unwrap();
    let service = launch.config(config).start();
    let before = service.settled_descriptors();
    for script_text in ["exit 1", "sleep 1000 & exit 1", "yes"]
        .into_iter()
        .cycle()
        .take(20)
    {
        fs::write(&script, script_text).unwrap();
        service.restart_in_vain();
    }
    // What a check has said is closed by a thread of its own.
    service.current().wait_for_descriptors(&before);
    service.assert_undisturbed();
}
