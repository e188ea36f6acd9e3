//! The service under a real systemd.
//!
//! Each test has a systemd of its own ([`Systemd`]); where that is impossible
//! it says so and is skipped.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::kit::{Address, Client, Config, Systemd};

/// The unit that the project ships, with the paths of this test.
fn shipped_unit(systemd: &Systemd) -> String {
    let unit = include_str!("../../examples/heirloom.service");
    let dir = systemd.dir().display();
    let mut here = unit.to_owned();
    for (there, path) in [
        (
            "=/usr/local/bin/api --config /etc/api.toml\n",
            systemd.api_command(),
        ),
        (
            "=/usr/local/bin/heirloom restart --socket /run/api/control\n",
            systemd.restart_command(),
        ),
        ("=-/etc/api.env\n", format!("-{dir}/api.env")),
    ] {
        assert!(here.contains(there), "{there}");
        here = here.replace(there, &format!("={path}\n"));
    }
    here
}

/// A unit with these lines beside the commands that start and stop it.
fn unit(systemd: &Systemd, lines: &str) -> String {
    let shipped = shipped_unit(systemd);
    let commands = shipped
        .lines()
        .filter(|line| line.starts_with("ExecStart=") || line.starts_with("ExecStop="));
    let commands = commands.collect::<Vec<_>>().join("\n");
    format!("[Service]\nType=notify\n{commands}\n{lines}\n")
}

/// Checks that systemd and the service agree on who serves.
fn assert_main(systemd: &Systemd, client: &mut Client, generation: u64) {
    let answer = client.get("/").unwrap();
    assert_eq!(answer.generation(), generation);
    let unit = systemd.show("api");
    assert_eq!(unit["MainPID"], answer.pid().to_string());
    assert_eq!(unit["ActiveState"], "active");
    assert_eq!(unit["NRestarts"], "0", "systemd has restarted it");
}

/// Checks that systemd has ended the service without a complaint.
fn assert_ended_well(systemd: &Systemd) {
    let unit = systemd.show("api");
    assert_eq!(unit["ActiveState"], "inactive");
    assert_eq!(unit["Result"], "success");
    for complaint in [
        "api.service: Got notification",
        "api.service: Failed",
        "timed out",
    ] {
        assert_eq!(systemd.log().lines_with(complaint), [""; 0]);
    }
}

#[test]
fn the_unit_that_is_shipped_starts_reloads_five_times_and_stops() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    systemd.install_api(&Config::new().default_probation(), &shipped_unit(&systemd));
    systemd.systemctl(&["start", "api"]);
    let mut client = systemd.connect(1);
    assert_eq!(systemd.show("api")["NotifyAccess"], "main");
    for generation in 1..=5 {
        assert_main(&systemd, &mut client, generation);
        systemd.systemctl(&["reload", "api"]);
        systemd.wait_end_of_generation(generation);
    }
    assert_main(&systemd, &mut client, 6);
    let status = &systemd.show("api")["StatusText"];
    assert!(status.starts_with("generation 6 serves on "), "{status}");
    systemd.systemctl(&["stop", "api"]);
    assert!(client.get("/").is_err());
    assert_ended_well(&systemd);
}

#[test]
fn a_reload_that_fails_is_a_failure_changes_nothing_and_says_why() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    systemd.install_api(&Config::new(), &shipped_unit(&systemd));
    systemd.systemctl(&["start", "api"]);
    let mut client = systemd.connect(1);
    systemd.configure(&Config::new().fault("bad-config"));
    for _ in 0..2 {
        let place = systemd.journal().here();
        assert!(!systemd.try_systemctl(&["reload", "api"]).is_success);
        systemd
            .journal()
            .wait_for_after(place, "heirloom: restart failed: ");
        assert_main(&systemd, &mut client, 1);
        let status = &systemd.show("api")["StatusText"];
        assert!(status.contains("asks for a malformed"), "{status}");
    }
    systemd.configure(&Config::new());
    systemd.systemctl(&["reload", "api"]);
    systemd.wait_end_of_generation(1);
    assert_main(&systemd, &mut client, 2);
}

/// With `kill` in `ExecReload=` it cannot be told to whoever reloads.
#[test]
fn a_reload_by_a_mere_signal_succeeds_whatever_comes_of_it() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    let reload = unit(&systemd, "ExecReload=/bin/kill -HUP $MAINPID");
    systemd.install_api(&Config::new(), &reload);
    systemd.systemctl(&["start", "api"]);
    let mut client = systemd.connect(1);
    systemd.configure(&Config::new().fault("bad-config"));
    systemd.systemctl(&["reload", "api"]);
    systemd.journal().wait_for("restart failed: ");
    // Told after the supervisor has been told.
    let place = systemd.journal().here();
    systemd.configure(&Config::new());
    systemd.systemctl(&["reload", "api"]);
    systemd
        .journal()
        .wait_for_after(place, "generation 1 exits ");
    assert_main(&systemd, &mut client, 2);
}

#[test]
fn a_check_that_fails_is_the_status_of_the_unit() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    let config = Config::new().check_script("echo the moon is full >&2; exit 3");
    systemd.install_api(&config, &shipped_unit(&systemd));
    systemd.systemctl(&["start", "api"]);
    let mut client = systemd.connect(1);
    assert!(!systemd.try_systemctl(&["reload", "api"]).is_success);
    let status = &systemd.show("api")["StatusText"];
    let words = "failed, exit status: 3; it said: the moon is full; generation 1 serves on";
    assert!(status.contains(words), "{status}");
    assert_main(&systemd, &mut client, 1);
}

/// The file is that of the unit, and the library reads it as systemd does.
#[test]
fn an_environment_file_is_read_at_each_reload_and_means_the_same() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    let path = systemd.dir().join("api.env");
    let text = "# x \\\nTEST_A=b c  \n TEST_B = \"b 'c' \\\" \\$d \\` \\\\ \\e\"\n\
                TEST_C='b $c \"d\"\\e\ng'\nTEST_D=b\\\nc\\ \nTEST_E=b\"c\" # d\n; e\n\n\
                TEST_F=\"b\\\nc\" 'd' e\nTEST_G=\nTEST_H=b=c\\d\\\\e\n";
    // systemd 252 takes what follows the first line for a part of the comment.
    let text = text.replace("# x \\\n", "# x\n");
    fs::write(&path, &text).unwrap();
    let config = Config::new().environment_file(&path);
    systemd.install_api(&config, &shipped_unit(&systemd));
    systemd.systemctl(&["start", "api"]);
    let variables = || -> Vec<(String, String)> {
        let main = systemd.show("api")["MainPID"].parse().unwrap();
        let all = systemd.environment_of(main);
        let all = all.into_iter().filter(|it| it.starts_with("TEST_"));
        let pairs = all.map(|it| {
            let (name, value) = it.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        });
        pairs.collect()
    };
    systemd.wait_generation(1);
    let by_systemd = variables();
    assert_eq!(by_systemd.len(), 8);
    // Changed, so that it is ours that counts: in the first process each is
    // what systemd has made of it.
    fs::write(&path, text.replace("TEST_", "TEST_NEW_")).unwrap();
    systemd.systemctl(&["reload", "api"]);
    systemd.wait_end_of_generation(1);
    let ours: Vec<(String, String)> = variables()
        .into_iter()
        .map(|(name, value)| (name.replace("NEW_", ""), value))
        .collect();
    assert_eq!(ours, by_systemd);
}

#[test]
fn notify_reload_returns_when_the_successor_serves_and_says_why_it_does_not() {
    let Some(systemd) = Systemd::of_version(253) else {
        return;
    };
    let unit = unit(&systemd, "").replace("Type=notify", "Type=notify-reload");
    systemd.install_api(&Config::new().probation_ms(100), &unit);
    systemd.systemctl(&["start", "api"]);
    let mut client = systemd.connect(1);
    for generation in 1..=5 {
        assert_main(&systemd, &mut client, generation);
        systemd.systemctl(&["reload", "api"]);
    }
    systemd.configure(&Config::new().fault("bad-config"));
    // It has no way to fail.
    systemd.systemctl(&["reload", "api"]);
    assert_main(&systemd, &mut client, 6);
    let status = &systemd.show("api")["StatusText"];
    assert!(status.contains("asks for a malformed"), "{status}");
    systemd.configure(&Config::new());
    systemd.systemctl(&["reload", "api"]);
    assert_main(&systemd, &mut client, 7);
    systemd.systemctl(&["stop", "api"]);
    assert_ended_well(&systemd);
}

#[test]
fn a_stop_waits_for_requests_of_every_generation() {
    if let Some(systemd) = Systemd::start() {
        let unit = shipped_unit(&systemd);
        stop_with_two_generations_busy(&systemd, &unit);
    }
}

/// Then every process gets a signal, and those that are left when the main one
/// has exited get another one.
#[test]
fn a_stop_without_a_command_waits_for_requests_of_every_generation() {
    if let Some(systemd) = Systemd::start() {
        let unit = shipped_unit(&systemd).replace("\nExecStop=", "\n# ExecStop=");
        stop_with_two_generations_busy(&systemd, &unit);
    }
}

/// The one between the oldest and the youngest has nothing to do.
fn stop_with_two_generations_busy(systemd: &Systemd, unit: &str) {
    systemd.install_api(&Config::new(), unit);
    systemd.systemctl(&["start", "api"]);
    let busy = |generation| {
        let mut client = systemd.connect(generation);
        client.begin_post("/echo", 5).unwrap();
        // What has been sent must have been read before the process drains.
        systemd.connect(generation).get("/").unwrap();
        client
    };
    let mut oldest = busy(1);
    for generation in 1..=2 {
        systemd.systemctl(&["reload", "api"]);
        systemd.wait_main_of_generation(generation + 1);
    }
    let mut youngest = busy(3);
    let stop = systemd.begin_systemctl(&["stop", "api"]);
    systemd.journal().wait_for("generation 3 is draining");
    let place = systemd.journal().here();
    youngest.send("bonus").unwrap();
    assert_eq!(youngest.answer().unwrap().generation(), 3);
    drop(youngest);
    systemd
        .journal()
        .wait_for_after(place, "waiting for the predecessor to exit");
    // If it exited now, systemd would act on that before it answers.
    for _ in 0..5 {
        assert_eq!(systemd.show("api")["ActiveState"], "deactivating");
    }
    oldest.send("bonus").unwrap();
    assert_eq!(oldest.answer().unwrap().generation(), 1);
    assert!(stop.finish().is_success);
    assert_ended_well(systemd);
}

/// systemd would kill at once what was not its own child when it became the
/// main process, but for the unit's `ExecStop=`.
#[test]
fn a_stop_after_a_reload_cuts_no_request() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    systemd.install_api(&Config::new(), &shipped_unit(&systemd));
    systemd.systemctl(&["start", "api"]);
    let mut held = systemd.connect(1);
    held.begin_post("/echo", 5).unwrap();
    systemd.connect(1).get("/").unwrap();
    systemd.systemctl(&["reload", "api"]);
    systemd.wait_main_of_generation(2);
    let mut client = systemd.connect(2);
    assert_main(&systemd, &mut client, 2);
    systemd.log().wait_for("which is not our child");
    held.send("bonus").unwrap();
    held.answer().unwrap();
    systemd.wait_end_of_generation(1);

    client.begin_post("/echo", 5).unwrap();
    systemd.connect(2).get("/").unwrap();
    let stop = systemd.begin_systemctl(&["stop", "api"]);
    systemd.journal().wait_for("generation 2 is draining");
    client.send("bonus").unwrap();
    assert_eq!(client.answer().unwrap().generation(), 2);
    assert!(stop.finish().is_success);
    assert_ended_well(&systemd);
}

#[test]
fn a_drain_may_take_longer_than_systemd_would_wait() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    let config = Config::new().limit("handler_timeout_ms", 60_000);
    systemd.install_api(&config, &unit(&systemd, "TimeoutStopSec=1"));
    systemd.systemctl(&["start", "api"]);
    let mut client = systemd.connect(1);
    client
        .send("GET /slow?ms=2500 HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    systemd.connect(1).get("/").unwrap();
    systemd.systemctl(&["stop", "api"]);
    assert_eq!(client.answer().unwrap().status, 200);
    assert_ended_well(&systemd);
}

#[test]
fn a_process_that_hangs_is_noticed_by_the_watchdog_in_every_generation() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    let lines =
        "WatchdogSec=3\nExecReload=/bin/kill -HUP $MAINPID\nRestart=on-failure\nRestartSec=0";
    systemd.install_api(&Config::new(), &unit(&systemd, lines));
    systemd.systemctl(&["start", "api"]);
    let mut client = systemd.connect(1);
    systemd.systemctl(&["reload", "api"]);
    systemd.wait_end_of_generation(1);
    // Longer than the watchdog waits.
    client.get("/slow?ms=4000").unwrap();
    assert_main(&systemd, &mut client, 2);
    systemd.systemctl(&["kill", "--kill-who=main", "--signal=STOP", "api"]);
    systemd.log().wait_for("api.service: Watchdog timeout");
    client.wait_for_end();
    systemd.log().wait_for("api.service: Scheduled restart job");
}

#[test]
fn a_main_process_that_dies_after_restarts_is_replaced_by_systemd() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    let lines = "ExecReload=/bin/kill -HUP $MAINPID\nRestart=on-failure\nRestartSec=0";
    systemd.install_api(&Config::new(), &unit(&systemd, lines));
    systemd.systemctl(&["start", "api"]);
    systemd.wait_generation(1);
    systemd.systemctl(&["reload", "api"]);
    systemd.wait_end_of_generation(1);
    let place = systemd.journal().here();
    systemd.systemctl(&["kill", "--kill-who=main", "--signal=KILL", "api"]);
    systemd
        .journal()
        .wait_for_after(place, "generation 1 is serving on ");
    assert_eq!(systemd.show("api")["NRestarts"], "1");
}

/// Sockets that systemd opens: of two names, two of one name, in a directory
/// and without a file.
#[test]
fn passed_sockets_survive_restarts_and_start_the_service_again() {
    let Some(systemd) = Systemd::start() else {
        return;
    };
    let path = |name: &str| systemd.dir().join(name);
    let [web, more, admin] = ["web.sock", "more.sock", "admin.sock"].map(path);
    let config = Config::on(&["systemd:web", "127.0.0.1:0", "systemd:admin"]);
    let lines = "ExecReload=/bin/kill -HUP $MAINPID\nSockets=web.socket admin.socket";
    systemd.install_api(&config, &unit(&systemd, lines));
    let socket = |name: &str, streams: &[&Path]| {
        let mut unit = format!("[Socket]\nFileDescriptorName={name}\nService=api.service\n");
        for stream in streams {
            writeln!(unit, "ListenStream={}", stream.display()).unwrap();
        }
        systemd.install(&format!("{name}.socket"), &unit);
    };
    socket("web", &[&web, &more]);
    socket("admin", &[&admin]);
    systemd.systemctl(&["start", "web.socket", "admin.socket"]);
    assert_eq!(systemd.show("api")["ActiveState"], "inactive");

    // The first connection starts the service.
    let unix = |path: &Path| Address::Unix(path.to_owned());
    let mut client = Client::connect(&unix(&more)).unwrap();
    assert_main(&systemd, &mut client, 1);
    let addresses = systemd.wait_generation(1);
    assert_eq!(addresses.len(), 4);
    for path in [&web, &more, &admin] {
        assert!(addresses.contains(&unix(path)), "{addresses:?}");
    }
    for generation in 1..=3 {
        for address in &addresses {
            let answer = Client::connect(address).unwrap().get("/").unwrap();
            assert_eq!(answer.generation(), generation, "{address}");
        }
        assert_main(&systemd, &mut client, generation);
        systemd.systemctl(&["reload", "api"]);
        systemd.wait_end_of_generation(generation);
        assert_eq!(systemd.wait_generation(generation + 1), addresses);
    }
    systemd.systemctl(&["stop", "api"]);
    assert_ended_well(&systemd);
    // The sockets are still there, and start it again.
    let place = systemd.journal().here();
    let mut client = Client::connect(&unix(&admin)).unwrap();
    assert_eq!(client.get("/").unwrap().generation(), 1);
    systemd
        .journal()
        .wait_for_after(place, "generation 1 is serving on ");
}
