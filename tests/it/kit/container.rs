//! A service in a PID namespace of its own, as process 1 of a container.

use super::program::skip;
use super::{Address, Client, Config, End, Launch, Process, Program, Service, pid_in};

/// The service, and the namespace around it, which ends with its process 1.
pub(crate) struct Container {
    service: Service,
    init: Process,
    address: Address,
}

impl Container {
    /// Starts a service as process 1; `None` if that is impossible here, and
    /// said.
    pub(crate) fn start(config: Config) -> Option<Self> {
        Container::launch(Launch::api(config))
    }

    pub(crate) fn launch(launch: Launch) -> Option<Self> {
        const NAMESPACE: [&str; 4] = ["unshare", "--pid", "--fork", "--mount-proc"];
        let [name, arguments @ ..] = NAMESPACE;
        let mut attempt = Program::find(name)?
            .arguments(arguments)
            .arguments(["true"])
            .start();
        attempt.say("");
        let (end, written) = attempt.end();
        if end != End::Exit(0) {
            skip(name, &format!("a PID namespace: {}", written.errors));
            return None;
        }
        // With the program in front of it, it dies too if that is killed.
        let mut words = NAMESPACE.to_vec();
        words.push("--kill-child");
        let service = launch.wrapper(&words).spawn();
        let line = service.log().wait_for("generation 1 is serving on ");
        let (_, address) = line.split_once(" is serving on ").unwrap();
        Some(Container {
            init: service.first().only_child(),
            address: address.parse().unwrap(),
            service,
        })
    }

    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// Process 1, as it is seen from outside.
    pub(crate) fn init(&self) -> &Process {
        &self.init
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.address).expect("the service listens")
    }

    /// Asks process 1 for a restart, and waits until generation `number` is
    /// the main one and its predecessor is gone.
    pub(crate) fn restart_to(&self, number: u64) {
        self.init.hup();
        self.wait_generation(number);
    }

    /// Asks process 1 for a restart, while the predecessor has something in
    /// flight, and waits until generation `number` is the main one.
    pub(crate) fn restart_while_draining(&self, number: u64) {
        self.init.hup();
        let log = self.service.log();
        log.wait_for(&format!("generation {number} is serving on "));
        // The predecessor does not say that it has heard of the publication;
        // but the successor begins a restart only when it has said so.
        log.wait_until("the publication", |lines| {
            let proven = lines
                .iter()
                .filter(|line| line.contains(" has passed its probation"));
            (proven.count() as u64 >= number - 1).then_some(())
        });
    }

    /// Waits until generation `number` is the main one and its predecessor is
    /// gone.
    fn wait_generation(&self, number: u64) {
        let log = self.service.log();
        log.wait_for(&format!("generation {number} is serving on "));
        log.wait_for(&format!("generation {} exits ", number - 1));
        if number == 2 {
            self.init.wait_stub();
        }
    }

    /// The process of a generation.
    pub(crate) fn generation(&self, number: u64) -> Process {
        let words = format!("generation {number} is serving on ");
        let pid = pid_in(&self.service.log().wait_for(&words));
        self.init.neighbour(pid)
    }

    /// Waits for the end of process 1, and tells what kind it was.
    pub(crate) fn wait_end(&self) -> End {
        self.service.first().wait_exit()
    }
}
