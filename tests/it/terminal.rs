//! Started from a shell: the job is in the foreground until the service ends,
//! Ctrl-C stops the service, and so does the end of the terminal.
//!
//! Each test has a terminal and a shell of its own ([`Shell`]); where that is
//! impossible it says so and is skipped.

use crate::kit::{Client, Config, Shell};

/// A job in the foreground, and what the shell says when it has ended.
const JOB: &str = "$api 2> $log; echo \"status=$?\"";

/// A shell with a service in the foreground.
fn with_job() -> Option<Shell> {
    let mut shell = Shell::start()?;
    shell.start_service(&Config::new(), JOB);
    Some(shell)
}

/// Asks the first process for a restart, and waits until generation `number`
/// is the main one.
fn restart_to(shell: &Shell, number: u64) {
    shell.generation(1).hup();
    shell.generation(number);
    // The predecessor does not say that it has heard of the publication, but
    // by then it knows who will be published.
    shell.log().wait_until("the proof", |lines| {
        let proven = lines
            .iter()
            .filter(|line| line.contains(" has passed its probation"));
        (proven.count() as u64 >= number - 1).then_some(())
    });
}

/// The same, when there is nothing that the predecessor has in flight.
fn restart_to_the_end(shell: &Shell, number: u64) {
    restart_to(shell, number);
    let end = format!("generation {} exits ", number - 1);
    shell.log().wait_for(&end);
    shell.generation(1).wait_stub();
}

#[test]
fn the_job_is_in_the_foreground_until_ctrl_c_which_cuts_nothing() {
    let Some(mut shell) = with_job() else {
        return;
    };
    for generation in 2..=4 {
        restart_to_the_end(&shell, generation);
    }
    let mut older = Client::with_request_in_flight(|| shell.connect());
    restart_to(&shell, 5);
    let mut client = Client::with_request_in_flight(|| shell.connect());
    // What was typed, which a shell that is slow to start shows twice.
    assert_eq!(shell.count("status="), shell.count("status=$"));
    shell.say("\x03");
    shell.log().wait_for("stopping; ");
    assert_eq!(client.finish_request(), 5);
    shell.log().wait_for("generation 5 exits ");
    assert_eq!(older.finish_request(), 4);
    shell.wait_for("status=0\r");
    shell.log().wait_for_end();
    assert_eq!(shell.log().count("stopping at once"), 0);
}

#[test]
fn the_first_process_that_still_drains_does_not_count_ctrl_c_twice_either() {
    let Some(mut shell) = with_job() else {
        return;
    };
    let mut older = Client::with_request_in_flight(|| shell.connect());
    restart_to(&shell, 2);
    let mut client = Client::with_request_in_flight(|| shell.connect());
    shell.say("\x03");
    shell.log().wait_for("stopping; ");
    assert_eq!(client.finish_request(), 2);
    shell.log().wait_for("generation 2 exits ");
    assert_eq!(older.finish_request(), 1);
    shell.wait_for("status=0\r");
    shell.log().wait_for_end();
}

#[test]
fn a_second_ctrl_c_cuts() {
    let Some(mut shell) = with_job() else {
        return;
    };
    restart_to_the_end(&shell, 2);
    let mut client = Client::with_request_in_flight(|| shell.connect());
    shell.say("\x03");
    shell.log().wait_for("stopping; ");
    shell.say("\x03");
    shell.wait_for("status=0\r");
    client.wait_for_end();
    shell.log().wait_for_end();
}

#[test]
fn a_hangup_while_there_is_a_terminal_is_a_restart() {
    let Some(mut shell) = with_job() else {
        return;
    };
    restart_to_the_end(&shell, 2);
    restart_to_the_end(&shell, 3);
    // Also the one that serves can be asked.
    shell.generation(3).hup();
    shell.generation(4);
    shell.say("\x03");
    shell.wait_for("status=0\r");
}

#[test]
fn the_end_of_the_terminal_stops_the_service_and_cuts_nothing() {
    for restarts in [0, 2] {
        let Some(mut shell) = with_job() else {
            return;
        };
        for generation in 2..2 + restarts {
            restart_to_the_end(&shell, generation);
        }
        let mut client = Client::with_request_in_flight(|| shell.connect());
        shell.hang_up();
        shell.log().wait_for("stopping; ");
        assert_eq!(client.finish_request(), 1 + restarts);
        shell.log().wait_for_end();
        let next = format!("generation {} is serving", 2 + restarts);
        assert_eq!(shell.log().count(&next), 0);
        assert_eq!(shell.log().count("restarting"), restarts as usize);
    }
}

#[test]
fn a_job_in_the_background_has_no_stub_and_ends_with_the_terminal_too() {
    let Some(mut shell) = Shell::start() else {
        return;
    };
    shell.start_service_in_background(&Config::new(), "$api 2> $log &");
    shell.hang_up();
    shell.log().wait_for_end();
    assert_eq!(shell.log().count("restarting"), 0);
}

#[test]
fn what_was_started_to_outlive_the_terminal_does_and_restarts_at_a_hangup() {
    let Some(mut shell) = Shell::start() else {
        return;
    };
    let command = "nohup $api > /dev/null 2> $log &";
    shell.start_service_in_background(&Config::new(), command);
    // The shell passes it on to its jobs.
    shell.hang_up();
    shell.generation(2).hup();
    shell.generation(3);
    assert_eq!(shell.connect().get("/").unwrap().generation(), 3);
}

/// The kernel tells it, and the shell does.
#[test]
fn the_end_of_the_terminal_while_the_first_process_drains_is_one_stop() {
    for _ in 0..5 {
        let Some(mut shell) = with_job() else {
            return;
        };
        let mut older = Client::with_request_in_flight(|| shell.connect());
        restart_to(&shell, 2);
        let mut client = Client::with_request_in_flight(|| shell.connect());
        shell.hang_up();
        shell.log().wait_for("stopping; ");
        shell.wait_end();
        assert_eq!(client.finish_request(), 2);
        assert_eq!(older.finish_request(), 1);
        shell.log().wait_for_end();
        assert_eq!(shell.log().count("stopping at once"), 0);
    }
}
