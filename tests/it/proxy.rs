//! Behind a load balancer: HAProxy in front of three instances, with the
//! configuration that `examples/deploy` recommends.

use std::fs;
use std::time::Instant;

use tempfile::TempDir;

use crate::kit::{
    Address, Client, Config, Connections, End, Load, PATIENCE, Program, Running, Service, can_open,
};

/// Longer than it takes HAProxy to notice that an instance is not ready.
const DELAY: u64 = 1_000;

fn instance(address: &str) -> Service {
    Service::start(Config::on(&[address]).shutdown_delay_ms(DELAY))
}

/// HAProxy, listening on a UNIX socket.
struct Proxy {
    _running: Running,
    address: Address,
    _dir: TempDir,
}

impl Proxy {
    /// `None` if it is not installed.
    fn start(instances: &[Service]) -> Option<Self> {
        let program = Program::find("haproxy")?;
        let dir = TempDir::with_prefix("heirloom-").unwrap();
        let socket = dir.path().join("haproxy.sock");
        // What is recommended is what is tried, but for the addresses.
        let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(".".into());
        let recommended = fs::read_to_string(root + "/examples/deploy/haproxy.cfg").unwrap();
        let mut config = String::new();
        let mut instances = instances.iter();
        for line in recommended.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["bind", _] => config += &format!("bind unix@{}", socket.display()),
                ["server", name, _] => {
                    let address = instances.next().unwrap().address();
                    config += &format!("server {name} {address}");
                }
                _ => config += line,
            }
            config.push('\n');
        }
        assert!(instances.next().is_none());
        let path = dir.path().join("haproxy.cfg");
        fs::write(&path, config).unwrap();
        let running = program.arguments(["-db", "-f"]).arguments([&path]).start();
        let proxy = Proxy {
            _running: running,
            address: Address::Unix(socket),
            _dir: dir,
        };
        Some(proxy)
    }

    /// Asks until this process has answered.
    fn wait_until_it_sends_to(&self, pid: i32) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // It may not listen yet, or know of nobody that is ready.
            let answer = Client::connect(&self.address).and_then(|mut client| client.get("/pid"));
            if answer.is_ok_and(|answer| answer.status == 200 && answer.pid() == pid) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("HAProxy does not send anybody to {pid}");
    }
}

#[test]
fn instances_behind_haproxy_are_restarted_and_replaced_without_a_failed_request() {
    if !can_open(300) {
        return;
    }
    let mut instances = [(); 3].map(|()| instance("127.0.0.1:0"));
    let Some(proxy) = Proxy::start(&instances) else {
        return;
    };
    for instance in &instances {
        proxy.wait_until_it_sends_to(instance.current().pid());
    }
    for connections in [Connections::KeptAlive, Connections::NewForEach] {
        let load = Load::start(&proxy.address, connections, 4);
        for instance_in_turn in &mut instances {
            load.wait_for_requests(100);
            let successor = instance_in_turn.restart_to_the_end();
            proxy.wait_until_it_sends_to(successor.pid());

            load.wait_for_requests(100);
            let address = instance_in_turn.address().to_string();
            let process = instance_in_turn.current();
            process.term();
            assert_eq!(process.wait_exit(), End::Exit(0));
            instance_in_turn.log().wait_for_end();
            *instance_in_turn = instance(&address);
            proxy.wait_until_it_sends_to(instance_in_turn.current().pid());
        }
        load.wait_for_requests(100);
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{connections:?}: {tally}");
    }
}
