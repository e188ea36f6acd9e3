//! The environment of a successor can be another one than that of its
//! predecessor, and is what the file and the application say now.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::kit::{Config, Launch, Process, Service};

/// The variables that these tests are about.
fn variables(process: &Process) -> BTreeSet<String> {
    let all = process.environment();
    all.into_iter()
        .filter(|it| it.starts_with("TEST_"))
        .collect()
}

fn set(variables: &[&str]) -> BTreeSet<String> {
    variables.iter().map(ToString::to_string).collect()
}

/// A launch with an environment file of this text.
fn launch_with(text: &str) -> (Launch, Config, PathBuf) {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("api.env");
    fs::write(&path, text).unwrap();
    let config = Config::new().environment_file(&path);
    (launch.config(config.clone()), config, path)
}

#[test]
fn a_successor_has_what_the_file_says_and_no_more() {
    let (launch, config, path) = launch_with("TEST_A=one\nTEST_B='a file'\n");
    let launch = launch
        .environment("TEST_B", "inherited")
        .environment("TEST_C", "inherited");
    let service = launch.start();
    let first = set(&["TEST_B=inherited", "TEST_C=inherited"]);
    assert_eq!(variables(&service.current()), first);
    let second = service.restart_to_the_end();
    let inherited = "TEST_C=inherited";
    assert_eq!(
        variables(&second),
        set(&["TEST_A=one", "TEST_B=a file", inherited])
    );
    // Changed, and taken back.
    fs::write(&path, "TEST_A=two\n").unwrap();
    let third = service.restart_to_the_end();
    assert_eq!(
        variables(&third),
        set(&["TEST_A=two", "TEST_B=inherited", inherited])
    );
    fs::write(&path, "# nothing\n").unwrap();
    let fourth = service.restart_to_the_end();
    assert_eq!(variables(&fourth), first);
    let told = fourth.environment();
    assert!(
        !told.iter().any(|it| it.starts_with("HEIRLOOM_ENVIRONMENT")),
        "{told:?}"
    );
    // And without a file.
    fs::write(&path, "TEST_A=three\n").unwrap();
    service.restart_to_the_end();
    service.configure(&Config::new());
    service.restart_to_the_end();
    let last = service.restart_to_the_end();
    assert_eq!(variables(&last), first);
    drop(config);
}

#[test]
fn what_was_given_to_the_first_process_from_the_file_goes_with_it() {
    let (launch, _, path) = launch_with("TEST_A=one\nTEST_B=one\n");
    let launch = launch
        .environment("TEST_A", "one")
        .environment("TEST_B", "another");
    let service = launch.start();
    fs::write(&path, "TEST_C=two\n").unwrap();
    let second = service.restart_to_the_end();
    assert_eq!(variables(&second), set(&["TEST_B=another", "TEST_C=two"]));
}

#[test]
fn a_first_process_that_cannot_read_the_file_warns_and_serves() {
    let (launch, _, path) = launch_with("");
    fs::remove_file(&path).unwrap();
    let service = launch.start();
    let words = "a restart would fail: the environment file `";
    service.log().wait_for(words);
    assert_eq!(service.log().count(words), 1);
    let failure = service.restart_in_vain();
    failure.assert_says("api.env` cannot be read: No such file");
    fs::write(&path, "TEST_A=one").unwrap();
    service.restart();
}

#[test]
fn a_bad_file_is_a_failed_restart_that_names_the_line() {
    let (launch, _, path) = launch_with("");
    let service = launch.start_controlled();
    for (text, words) in [
        (
            "TEST_A=b\n\nTEST_B\n",
            "api.env`, line 3: it is no assignment",
        ),
        (
            "\nTEST_A='b\n",
            "api.env`, line 2: the quote ' that begins here does not end",
        ),
        (
            "TEST_A=b\nHEIRLOOM_PREDECESSOR=1\n",
            "line 2: `HEIRLOOM_PREDECESSOR` is not to be set",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let failure = service.restart_in_vain();
        failure.assert_says("restart failed: the successor, starting: the environment file `");
        failure.assert_says(words);
        assert_eq!(failure.successor(), None);
        service.assert_undisturbed();
        let place = service.log().here();
        let told = service.order("restart").last(1);
        assert!(told["reason"].as_str().unwrap().contains(words), "{told}");
        // The log is read by a thread of its own.
        service.wait_failed_restart_after(place);
    }
    fs::write(&path, "TEST_A=b\n").unwrap();
    let second = service.restart_to_the_end();
    assert_eq!(variables(&second), set(&["TEST_A=b"]));
    service.stop();
}

#[test]
fn the_application_has_the_last_word() {
    let (launch, config, path) = launch_with("TEST_A=file\nTEST_B=file\n");
    let launch = launch.environment("TEST_C", "inherited");
    let asked = config
        .clone()
        .variable("TEST_B", "application")
        .variable("TEST_D", "application")
        .no_variable("TEST_C");
    let service = launch.config(asked).start();
    let second = service.restart_to_the_end();
    let application = ["TEST_A=file", "TEST_B=application", "TEST_D=application"];
    assert_eq!(variables(&second), set(&application));
    // The process that is to be replaced asks for it.
    service.configure(&config);
    let third = service.restart_to_the_end();
    assert_eq!(variables(&third), set(&application));
    let fourth = service.restart_to_the_end();
    assert_eq!(
        variables(&fourth),
        set(&["TEST_A=file", "TEST_B=file", "TEST_C=inherited"])
    );
    drop(path);
}

#[test]
fn an_application_that_asks_for_the_impossible_fails_the_restart() {
    let config = Config::new().variable("HEIRLOOM_PREDECESSOR", "1");
    let service = Service::start(config);
    let failure = service.restart_in_vain();
    failure.assert_says(
        "the environment by the application cannot be had: `HEIRLOOM_PREDECESSOR` is not to be set",
    );
    service.assert_undisturbed();
}

#[test]
fn the_check_runs_with_the_environment_of_the_successor() {
    let (launch, config, path) = launch_with("TEST_A=one");
    let check = config.check_script("test \"$TEST_A\" = one || { echo \"A is $TEST_A\"; exit 1; }");
    let service = launch.config(check).start();
    service.restart_to_the_end();
    fs::write(&path, "TEST_A=two").unwrap();
    let failure = service.restart_in_vain();
    failure.assert_says("failed, exit status: 1; it said: A is two");
    service.assert_undisturbed();
    service.stop();
}
