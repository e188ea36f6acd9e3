//! What a generation inherits: descriptors, arguments, environment, directory,
//! and nothing that piles up.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::kit::{Config, Launch, Service, Whom};

#[test]
fn the_twentieth_generation_has_the_descriptors_of_the_first() {
    let launch = Launch::api(Config::new());
    let path = format!("unix:{}", launch.dir().join("api.sock").display());
    let service = launch
        .config(Config::on(&["127.0.0.1:0", "[::1]:0", &path]))
        .start();
    let look = || {
        let _client = service.settle();
        let process = service.current();
        let threads = process.threads();
        (
            process.kinds_of_descriptors(),
            process.highest_socket(),
            threads,
        )
    };
    let (kinds, highest, threads) = look();
    for _ in 2..=20 {
        service.restart_to_the_end();
    }
    let (kinds_then, highest_then, threads_then) = look();
    assert_eq!(kinds, kinds_then);
    // A generation receives its listeners while the channel and its own first
    // descriptors are open, so the numbers may differ, but they must not creep.
    assert!(highest_then <= highest + 2, "{highest} {highest_then}");
    assert_eq!(service.current().children(), [].into());
    // One that serves, and those to which blocking calls are moved, which come
    // and go.
    assert!(
        threads <= 4 && threads_then <= 4,
        "{threads} {threads_then}"
    );
}

#[test]
fn a_successor_that_is_watched_has_a_channel_and_a_ledger_until_it_is_proven() {
    let service = Service::start(Config::new().probation_ms(20_000));
    let look = || {
        let _client = service.settle();
        service.current().kinds_of_descriptors()
    };
    let first = look();
    service.restart();
    let mut successor = look();
    *successor.entry("socket".to_owned()).or_default() -= 1;
    let is_ledger = |kind: &&String| kind.contains("heirloom ledger");
    let ledger = successor.keys().find(is_ledger).cloned();
    assert_eq!(
        successor.remove(&ledger.expect("there is a ledger")),
        Some(1)
    );
    assert_eq!(successor, first);
}

#[test]
fn a_client_of_the_predecessor_is_no_descriptor_of_the_successor() {
    let service = Service::start(Config::new());
    let mut clients: Vec<_> = (0..10).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.get("/").unwrap();
        client.begin_post("/echo", 5).unwrap();
    }
    let predecessor = service.current();
    let before = Service::start(Config::new()).current().descriptors().len();
    let successor = service.restart();
    assert!(predecessor.descriptors().len() >= before + 10);
    assert!(successor.descriptors().len() < before + 10);
}

#[test]
fn standard_input_is_the_same_pipe_in_every_generation_and_can_be_read() {
    let (reader, mut writer) = io::pipe().unwrap();
    let mut twin = reader.try_clone().unwrap();
    let service = Launch::api(Config::new()).stdin(reader).start();
    let pipe = service.current().descriptor(0);
    assert!(
        pipe.to_string_lossy().starts_with("pipe:["),
        "{}",
        pipe.display()
    );
    for _ in 0..2 {
        service.restart_to_the_end();
        assert_eq!(service.current().descriptor(0), pipe);
    }
    writer.write_all(b"still open").unwrap();
    let mut read = [0; 10];
    twin.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"still open");
}

#[test]
fn standard_output_and_error_pass_on() {
    let service = Service::start(Config::new());
    let first = [1, 2].map(|number| service.current().descriptor(number));
    service.restart_to_the_end();
    assert_eq!(
        [1, 2].map(|number| service.current().descriptor(number)),
        first
    );
}

#[test]
fn the_environment_passes_on_without_what_the_handoff_needs() {
    let launch = Launch::api(Config::new()).environment("GREETING_OF_THE_DAY", "good morning");
    let service = launch.start();
    let first = service.current().environment();
    assert!(first.contains("GREETING_OF_THE_DAY=good morning"));
    let second = service.restart_to_the_end();
    let third = service.restart_to_the_end().environment();
    // What the kernel shows is what the process was started with, so the
    // variable of the handoff is there. There is one, and it is the newest.
    let ours: Vec<&String> = third.difference(&first).collect();
    assert_eq!(ours, [&format!("HEIRLOOM_PREDECESSOR={}", second.pid())]);
    assert!(first.is_subset(&third));
}

#[test]
fn a_variable_that_names_a_predecessor_wrongly_is_not_believed() {
    let launch = Launch::api(Config::new()).environment("HEIRLOOM_PREDECESSOR", "1");
    let service = launch.start();
    assert_eq!(service.get("/").generation(), 1);
    service.restart_to_the_end();
}

#[test]
fn an_argument_that_is_not_utf_8_passes_on() {
    let name = OsStr::from_bytes(b"caf\xe9.toml");
    let service = Launch::api(Config::new()).config_name(name).start();
    let arguments = service.current().arguments();
    assert!(arguments[2].ends_with(b"/caf\xe9.toml"), "{arguments:?}");
    let second = service.restart_to_the_end();
    assert_eq!(second.arguments()[1..], arguments[1..]);
}

#[test]
fn a_program_that_was_started_by_a_relative_path_is_found_again() {
    let launch = Launch::api(Config::new()).own_binary();
    let dir = launch.dir().canonicalize().unwrap();
    let service = launch.program("./api").directory(dir.clone()).start();
    for _ in 0..2 {
        let process = service.restart_to_the_end();
        assert_eq!(process.executable(), dir.join("api"));
        assert_eq!(process.directory(), dir);
    }
}

#[test]
fn a_program_that_was_found_in_the_path_is_found_again() {
    let launch = Launch::api(Config::new()).own_binary();
    let dir = launch.dir().canonicalize().unwrap();
    let launch = launch.environment("PATH", dir.to_str().unwrap());
    let service = launch.program("api").directory("/".into()).start();
    assert_eq!(service.restart_to_the_end().executable(), dir.join("api"));
}

#[test]
fn a_working_directory_that_has_been_deleted_is_no_obstacle() {
    let launch = Launch::api(Config::new());
    let dir = launch.dir().canonicalize().unwrap().join("work");
    fs::create_dir(&dir).unwrap();
    let service = launch.directory(dir.clone()).start();
    fs::remove_dir(&dir).unwrap();
    let gone = service.current().directory();
    assert_ne!(gone, dir);
    for _ in 0..2 {
        service.restart_to_the_end();
        assert_eq!(service.current().directory(), gone);
    }
    assert_eq!(service.get("/").generation(), 3);
}

#[test]
fn the_pid_file_names_the_generation_that_serves_and_goes_with_the_last_one() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("api.pid");
    let config = Config::new().pid_file(path.to_str().unwrap());
    let service = launch.config(config).start();
    assert_eq!(read_pid(&path), service.current().pid());
    for _ in 0..3 {
        // It is written before the predecessor exits.
        let successor = service.restart_to_the_end();
        assert_eq!(read_pid(&path), successor.pid());
    }
    service.stop();
    assert!(!path.exists(), "the last generation has removed it");
    let left: Vec<_> = fs::read_dir(service.dir())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["api.toml"], "nothing else is left beside it");
}

#[test]
fn successors_that_are_killed_on_probation_leave_at_most_one_file() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("api.pid");
    let config = Config::new()
        .pid_file(path.to_str().unwrap())
        .probation_ms(20_000);
    let service = launch.config(config).start();
    for _ in 0..3 {
        let place = service.log().here();
        service.first().hup();
        service.log().wait_for_after(place, "takes over");
        service.first().only_child().kill();
        service.log().wait_for_after(place, "restart undone");
        assert_eq!(read_pid(&path), service.first().pid());
    }
    let left = fs::read_dir(service.dir())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path() != path)
        .count();
    assert!(left <= 2, "the configuration, and what the last one left");
}

/// Where a successor is to be when it can no longer write its PID file.
#[test]
fn a_pid_file_that_cannot_be_written_in_the_end_undoes_the_restart() {
    let launch = Launch::api(Config::new());
    let dir = launch.dir().join("run");
    fs::create_dir(&dir).unwrap();
    let path = launch.dir().join("api.pid");
    let config = Config::new().probation_ms(1_000);
    let before = config.clone().pid_file(path.to_str().unwrap());
    let service = launch.config(before.clone()).start();
    let after = dir.join("api.pid");
    service.configure(&config.pid_file(after.to_str().unwrap()));
    let place = service.log().here();
    service.first().hup();
    service.log().wait_for_after(place, "takes over");
    fs::remove_dir_all(&dir).unwrap();
    let failure = service.wait_failed_restart_after(place);
    failure.assert_says("restart undone");
    failure.assert_says("publishing its process ID: it could not publish itself; it said: ");
    failure.assert_says(after.to_str().unwrap());
    assert_eq!(read_pid(&path), service.first().pid());
    service.assert_undisturbed();
    service.configure(&before);
    let successor = service.restart_to_the_end();
    assert_eq!(read_pid(&path), successor.pid());
}

#[test]
fn a_pid_file_of_a_successor_that_dies_before_it_is_proven_is_put_right() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("api.pid");
    let config = Config::new().pid_file(path.to_str().unwrap());
    let service = launch.config(config.clone()).start();
    let predecessor = service.first().pid();
    let record = format!("predecessor {predecessor}: sending `published`");
    service.configure(&config.clone().kill(2, &record, Whom::Itself));
    let failure = service.restart_in_vain();
    failure.assert_says("restart undone");
    // It is written after that line.
    service.assert_undisturbed();
    assert_eq!(read_pid(&path), predecessor);
    service.configure(&config);
    let successor = service.restart_to_the_end();
    assert_eq!(read_pid(&path), successor.pid());
}

#[test]
fn a_failed_restart_leaves_the_pid_file_alone() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("api.pid");
    let config = Config::new()
        .pid_file(path.to_str().unwrap())
        .probation_ms(20_000);
    let service = launch.config(config.clone()).start();
    for fault in ["exit", "bad-config", "panic-after-ready"] {
        service.configure(&config.clone().fault(fault));
        service.restart_in_vain();
        assert_eq!(
            read_pid(&path),
            service.current().pid(),
            "after the fault {fault}"
        );
    }
    service.configure(&config);
    service.restart();
    service.stop();
    assert!(!path.exists());
}

#[test]
fn a_pid_file_that_cannot_be_written_keeps_the_first_process_from_starting() {
    let config = Config::new().pid_file("/nowhere/at/all/api.pid");
    Launch::api(config)
        .spawn()
        .assert_gives_up(&["`/nowhere/at/all/api.pid`", "No such file"]);
}

#[test]
fn a_hundred_generations_leave_nothing_behind() {
    let service = Service::start(Config::new());
    for _ in 2..=100 {
        service.restart_to_the_end();
    }
    assert_eq!(service.get("/").generation(), 100);
    let left: Vec<_> = fs::read_dir(service.dir())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["api.toml"]);
    assert_eq!(service.current().children(), [].into());
}

fn read_pid(path: &Path) -> i32 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}
