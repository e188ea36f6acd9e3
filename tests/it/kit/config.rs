//! The configuration file of the `api` example.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

/// What a test writes into the file; what it leaves out is left out there too.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Config {
    listen: Vec<String>,
    admin: Option<String>,
    reuse_port: Option<bool>,
    greeting: String,
    ready_timeout_ms: Option<u64>,
    drain_timeout_ms: Option<u64>,
    probation_ms: Option<u64>,
    shutdown_delay_ms: Option<u64>,
    hand_over: Option<bool>,
    state_kb: Option<u64>,
    max_state_kb: Option<u64>,
    pid_file: Option<String>,
    control_socket: Option<String>,
    pid_one_stub: Option<bool>,
    takeover: Option<bool>,
    check: Option<Vec<String>>,
    check_timeout_ms: Option<u64>,
    veto_file: Option<String>,
    environment_file: Option<String>,
    init_ms: Option<u64>,
    ready_ms: Option<u64>,
    ballast_mb: Option<u64>,
    fault: Option<String>,
    /// The limits of connections, by their keys.
    #[serde(flatten)]
    limits: BTreeMap<&'static str, u64>,
    kill: Option<Kill>,
    environment: BTreeMap<&'static str, toml::Value>,
}

#[derive(Clone, Debug, Serialize)]
struct Kill {
    generation: u64,
    at: String,
    whom: Whom,
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Whom {
    #[serde(rename = "self")]
    Itself,
    Other,
}

impl Config {
    /// Listens on a free port of the loopback, and watches no successor, which
    /// makes restarts quick; the tests of the probation ask for one.
    pub(crate) fn new() -> Self {
        Config::on(&["127.0.0.1:0"])
    }

    pub(crate) fn on(addresses: &[&str]) -> Self {
        Config {
            listen: addresses.iter().map(ToString::to_string).collect(),
            admin: None,
            reuse_port: None,
            greeting: "hello".to_owned(),
            ready_timeout_ms: None,
            drain_timeout_ms: None,
            probation_ms: Some(0),
            shutdown_delay_ms: None,
            hand_over: None,
            state_kb: None,
            max_state_kb: None,
            pid_file: None,
            control_socket: None,
            pid_one_stub: None,
            takeover: None,
            check: None,
            check_timeout_ms: None,
            veto_file: None,
            environment_file: None,
            init_ms: None,
            ready_ms: None,
            ballast_mb: None,
            fault: None,
            kill: None,
            limits: BTreeMap::new(),
            environment: BTreeMap::new(),
        }
    }

    pub(crate) fn also_on(mut self, address: &str) -> Self {
        self.listen.push(address.to_owned());
        self
    }

    pub(crate) fn limit(mut self, key: &'static str, value: u64) -> Self {
        self.limits.insert(key, value);
        self
    }

    /// One listener more, with the name `admin`.
    pub(crate) fn admin(mut self, address: &str) -> Self {
        self.admin = Some(address.to_owned());
        self
    }

    pub(crate) fn reuse_port(mut self) -> Self {
        self.reuse_port = Some(true);
        self
    }

    pub(crate) fn ready_ms(mut self, time: u64) -> Self {
        self.ready_ms = Some(time);
        self
    }

    pub(crate) fn greeting(mut self, greeting: &str) -> Self {
        self.greeting = greeting.to_owned();
        self
    }

    pub(crate) fn ready_timeout_ms(mut self, timeout: u64) -> Self {
        self.ready_timeout_ms = Some(timeout);
        self
    }

    pub(crate) fn drain_timeout_ms(mut self, timeout: u64) -> Self {
        self.drain_timeout_ms = Some(timeout);
        self
    }

    pub(crate) fn default_probation(mut self) -> Self {
        self.probation_ms = None;
        self
    }

    pub(crate) fn probation_ms(mut self, probation: u64) -> Self {
        self.probation_ms = Some(probation);
        self
    }

    pub(crate) fn shutdown_delay_ms(mut self, delay: u64) -> Self {
        self.shutdown_delay_ms = Some(delay);
        self
    }

    /// Connections end with their process instead of moving to the successor.
    pub(crate) fn no_hand_over(mut self) -> Self {
        self.hand_over = Some(false);
        self
    }

    pub(crate) fn state_kb(mut self, size: u64) -> Self {
        self.state_kb = Some(size);
        self
    }

    pub(crate) fn max_state_kb(mut self, size: u64) -> Self {
        self.max_state_kb = Some(size);
        self
    }

    pub(crate) fn pid_file(mut self, path: &str) -> Self {
        self.pid_file = Some(path.to_owned());
        self
    }

    pub(crate) fn control_socket(mut self, path: &Path) -> Self {
        self.control_socket = Some(path.to_str().expect("the path is UTF-8").to_owned());
        self
    }

    /// Whether the first process stays.
    pub(crate) fn pid_one_stub(mut self, stays: bool) -> Self {
        self.pid_one_stub = Some(stays);
        self
    }

    /// Lets processes that others have started take over.
    pub(crate) fn takeover(mut self) -> Self {
        self.takeover = Some(true);
        self
    }

    /// Has this command checked before each restart.
    pub(crate) fn check(mut self, words: &[&str]) -> Self {
        self.check = Some(words.iter().map(ToString::to_string).collect());
        self
    }

    /// Has a shell do this before each restart.
    pub(crate) fn check_script(self, script: &str) -> Self {
        self.check(&["/bin/sh", "-c", script])
    }

    pub(crate) fn check_timeout_ms(mut self, timeout: u64) -> Self {
        self.check_timeout_ms = Some(timeout);
        self
    }

    pub(crate) fn veto_file(mut self, path: &Path) -> Self {
        self.veto_file = Some(path.to_str().expect("the path is UTF-8").to_owned());
        self
    }

    pub(crate) fn environment_file(mut self, path: &Path) -> Self {
        self.environment_file = Some(path.to_str().expect("the path is UTF-8").to_owned());
        self
    }

    /// Has the application give a successor this variable.
    pub(crate) fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.environment.insert(name, value.into());
        self
    }

    /// Has the application take this variable from a successor.
    pub(crate) fn no_variable(mut self, name: &'static str) -> Self {
        self.environment.insert(name, false.into());
        self
    }

    pub(crate) fn init_ms(mut self, time: u64) -> Self {
        self.init_ms = Some(time);
        self
    }

    pub(crate) fn ballast_mb(mut self, size: u64) -> Self {
        self.ballast_mb = Some(size);
        self
    }

    pub(crate) fn fault(mut self, fault: &str) -> Self {
        self.fault = Some(fault.to_owned());
        self
    }

    /// Has a process killed when `generation` logs `at`: that process itself,
    /// or the one that the record names.
    pub(crate) fn kill(mut self, generation: u64, at: &str, whom: Whom) -> Self {
        self.kill = Some(Kill {
            generation,
            at: at.to_owned(),
            whom,
        });
        self
    }

    pub(crate) fn to_toml(&self) -> String {
        toml::to_string(self).expect("every configuration can be written")
    }
}
