//! Restarts with so few descriptors that it hurts: what fits moves, the rest is
//! served to its end, no request fails, and the next restart works.

use std::rc::Rc;
use std::sync::{PoisonError, RwLockWriteGuard};

use crate::kit::{
    Batch, Client, Config, Connections, End, FalseSuccessor, Launch, Load, ON_THE_WAY, Process,
    Service, Whom, can_open,
};

const GET: &str = "GET /pid HTTP/1.1\r\nhost: test\r\n\r\n";

fn acquainted(service: &Service) -> Client {
    let mut client = service.connect();
    client.get("/").unwrap();
    client
}

fn all_acquainted(service: &Service, number: usize) -> Vec<Client> {
    (0..number).map(|_| acquainted(service)).collect()
}

/// Restarts a service into a process that can open so many descriptors more
/// than it has when it reads its configuration, and waits until the connections
/// that can move have.
fn restart_with_descriptors(service: &Service, config: &Config, more: usize) -> Rc<Process> {
    let place = service.log().here();
    let held = service.restart_held();
    service.leave_descriptors_to(&service.current().only_child(), more);
    held.release(config);
    service.log().wait_for_after(place, " has handed over: ");
    service.wait_next_generation()
}

/// Asks on each connection; returns those of which the successor has become the
/// owner. The others are told to close by their owner, and it does.
fn moved(mut clients: Vec<Client>, predecessor: &Process, successor: &Process) -> Vec<Client> {
    // At once, because those that stay are not kept for long.
    clients.iter_mut().for_each(|it| it.send(GET).unwrap());
    let mut moved = Vec::new();
    for mut client in clients {
        let answer = client.answer().unwrap();
        if answer.pid() == successor.pid() {
            assert!(!answer.closes(), "{answer:?}");
            moved.push(client);
        } else {
            assert_eq!(answer.pid(), predecessor.pid());
            assert!(answer.closes(), "{answer:?}");
            client.wait_for_close().unwrap();
        }
    }
    moved
}

#[test]
fn what_fits_moves_and_the_rest_is_closed_politely() {
    let config = Config::new().probation_ms(100);
    let service = Service::start(config.clone());
    let first = service.current();
    let mut clients = all_acquainted(&service, 40);
    let mut idle = clients.split_off(35);
    let second = restart_with_descriptors(&service, &config, 30);
    let clients = moved(clients, &first, &second);
    let number = clients.len();
    assert!((5..30).contains(&number), "{number} have moved");
    // The newest connections are the last ones to move, so these have not.
    idle.iter_mut().for_each(|it| it.wait_for_close().unwrap());
    assert_eq!(first.wait_exit(), End::Exit(0));
    // There is room for new ones, and for a successor, which is as poor.
    let mut others = all_acquainted(&service, 5);
    let place = service.log().here();
    let third = service.restart();
    service.log().wait_for_after(place, " has handed over: ");
    for client in &mut others {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    drop(others);
    let clients = moved(clients, &second, &third);
    let number = clients.len();
    assert!((5..30).contains(&number), "{number} have moved");
    assert_eq!(second.wait_exit(), End::Exit(0));
    assert_eq!(service.get("/").generation(), 3);
}

/// A service accepts no connection with its last descriptors, because a
/// restart needs some.
#[test]
fn a_service_that_has_run_full_can_be_replaced() {
    let service = Service::start(Config::new());
    service.leave_descriptors(22);
    let mut clients: Vec<Client> = (0..40).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send(GET).unwrap();
    }
    service.log().wait_for("cannot accept connections on ");
    service.restart();
    // Each that ends makes room for one that waits.
    for mut client in clients {
        assert_eq!(client.answer().unwrap().status, 200);
    }
    assert_eq!(service.get("/").generation(), 2);
    assert_eq!(service.log().count("Too many open files"), 0);
}

/// The descriptors that a message brings do not all fit in, so the last ones
/// are lost on the way.
#[test]
fn what_is_lost_on_the_way_is_served_to_its_end_by_the_predecessor() {
    let config = Config::new().probation_ms(100).fault("hang-after-ready");
    let service = Service::start(config);
    let predecessor = service.current();
    let clients = all_acquainted(&service, 20);
    let place = service.log().here();
    predecessor.hup();
    let successor = service.wait_next_generation();
    // It has promised room for all of them.
    successor.wait_frozen();
    service.leave_descriptors_to(&successor, 5);
    successor.thaw();
    service.log().wait_for(" connections could be adopted");
    service
        .log()
        .wait_for_after(place, "5 connections handed over, 15 kept");
    let clients = moved(clients, &predecessor, &successor);
    assert_eq!(clients.len(), 5);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    // It has hardly any for others, before these go and after it.
    let mut waiting: Vec<Client> = (0..5).map(|_| service.connect()).collect();
    waiting.iter_mut().for_each(|it| it.send(GET).unwrap());
    service.log().wait_for("cannot accept connections on ");
    drop(clients);
    for mut client in waiting {
        assert_eq!(client.answer().unwrap().pid(), successor.pid());
    }
}

/// However few descriptors there are: either the successor serves, or the
/// restart has failed. `limit` limits one of the two processes.
fn few_are_enough_or_too_few(limit: impl Fn(&Service, &Config, usize)) {
    let config = Config::new().probation_ms(20);
    let service = Service::start(config.clone());
    let mut outcomes = Vec::new();
    for more in 0..=14 {
        let mut clients = all_acquainted(&service, 3);
        let predecessor = service.current();
        let place = service.log().here();
        limit(&service, &config, more);
        let is_success = service.wait_outcome_after(place);
        if !is_success {
            service.limit_descriptors(1000);
        }
        // With no matter how few a successor accepts.
        assert_eq!(service.get("/pid").pid(), service.current().pid());
        for client in &mut clients {
            assert_eq!(client.get("/").unwrap().status, 200);
        }
        drop(clients);
        match is_success {
            true => assert_eq!(predecessor.wait_exit(), End::Exit(0)),
            false => service.assert_undisturbed(),
        }
        outcomes.push(is_success);
        service.limit_descriptors(1000);
    }
    // The first attempt fails, the last one works, and there is one place where
    // that changes.
    let first = outcomes.iter().position(|it| *it);
    assert!(first.is_some_and(|it| it > 0), "{outcomes:?}");
    assert!(outcomes.is_sorted(), "{outcomes:?}");
}

#[test]
fn a_successor_has_enough_descriptors_or_gives_up() {
    few_are_enough_or_too_few(|service, config, more| {
        let held = service.restart_held();
        service.leave_descriptors_to(&service.current().only_child(), more);
        held.release(config);
    });
}

#[test]
fn a_predecessor_has_enough_descriptors_or_serves_on() {
    few_are_enough_or_too_few(|service, _, more| {
        service.leave_descriptors(more);
        service.current().hup();
    });
}

#[test]
fn thirty_generations_are_content_with_as_few() {
    let service = Service::start(Config::new().probation_ms(20));
    service.leave_descriptors(24);
    let mut clients = all_acquainted(&service, 5);
    let descriptors = service.settled_descriptors();
    let highest = service.current().highest_socket();
    for _ in 2..=30 {
        let predecessor = service.current();
        let place = service.log().here();
        let successor = service.restart();
        let moved = "5 connections handed over, 0 kept";
        service.log().wait_for_after(place, moved);
        for client in &mut clients {
            let answer = client.get("/").unwrap();
            assert_eq!(answer.pid(), successor.pid());
            assert!(!answer.closes(), "{answer:?}");
        }
        assert_eq!(predecessor.wait_exit(), End::Exit(0));
        successor.wait_for_descriptors(&descriptors);
        // What comes from the predecessor is received while the channel and
        // other things are open, so the numbers may differ.
        let highest_now = successor.highest_socket();
        assert!(highest_now <= highest + 10, "{highest} {highest_now}");
    }
    assert_eq!(service.log().count(" WARN "), 0);
    assert_eq!(service.log().count(" ERROR "), 0);
}

#[test]
fn no_request_is_lost_under_load() {
    for connections in [Connections::KeptAlive, Connections::NewForEach] {
        let service = Service::start(Config::new().probation_ms(20));
        service.leave_descriptors(24);
        let load = Load::start(&service.address(), connections, 8);
        for _ in 0..10 {
            load.wait_for_requests(100);
            service.restart_to_the_end();
        }
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{tally}");
    }
}

/// As many descriptors may be under way as one process may have open, counted
/// over all processes of a user (unix(7)).
mod under_way {
    use super::*;

    /// A service with 160 clients, of which four messages full are under way to
    /// a successor when its limit is lowered to less than that.
    struct Scene {
        _way: RwLockWriteGuard<'static, ()>,
        service: Service,
        clients: Vec<Client>,
        successor: FalseSuccessor,
    }

    fn alone_on_the_way() -> RwLockWriteGuard<'static, ()> {
        ON_THE_WAY.write().unwrap_or_else(PoisonError::into_inner)
    }

    impl Scene {
        fn set() -> Option<Self> {
            Scene::set_on(alone_on_the_way())
        }

        fn set_on(way: RwLockWriteGuard<'static, ()>) -> Option<Self> {
            if !can_open(200) {
                return None;
            }
            // The records in which connections wait for a way are told.
            let config = Config::new()
                .probation_ms(60_000)
                .kill(1, "no such record", Whom::Itself);
            let launch = Launch::api(config).linked_binary().unprivileged()?;
            let service = launch.start();
            let clients = all_acquainted(&service, 160);
            let successor = service.restart_into_false_successor();
            successor.take_over(1000);
            service.log().wait_until("four messages", |lines| {
                let sent = lines.iter().filter(|it| it.contains("sent `connections`"));
                (sent.count() == 4).then_some(())
            });
            successor.limit_descriptors_of_predecessor(20);
            Some(Scene {
                _way: way,
                service,
                clients,
                successor,
            })
        }

        /// Takes a batch and says so; returns whose connections were in it, or
        /// nothing if no more will come.
        fn adopt(&self) -> Option<Vec<String>> {
            let heard = self.successor.channel().hear()?;
            let batch = Batch::from(heard)?;
            self.successor.adopt(&batch);
            Some(batch.peers().map(str::to_owned).collect())
        }

        /// The successor is lost, and those that it had are served as before.
        fn assert_all_are_served_on(&mut self) {
            self.successor.die();
            self.service.wait_failure_of(&self.successor);
            for client in &mut self.clients {
                assert!(!client.get("/").unwrap().closes());
            }
        }
    }

    const OBSTACLE: &str = "at the moment: Too many references";

    #[test]
    fn too_many_connections_wait_until_there_is_a_way() {
        let Some(mut scene) = Scene::set() else {
            return;
        };
        let mut moved = scene.adopt().unwrap();
        scene.service.log().wait_for(OBSTACLE);
        // The other three that were under way, and all that were not.
        let mut batches = 0;
        while moved.len() < 160 {
            let more = scene.adopt().unwrap();
            batches += 1;
            assert!(batches <= 3 || more.len() <= 16, "smaller than before");
            moved.extend(more);
        }
        scene.assert_all_are_served_on();
    }

    #[test]
    fn too_many_connections_are_served_to_their_end_if_there_is_no_way() {
        let Some(mut scene) = Scene::set() else {
            return;
        };
        let mut moved = scene.adopt().unwrap();
        let line = "connections cannot be handed over, so they drain: Too many references";
        scene.service.log().wait_for(line);
        while let Some(more) = scene.adopt() {
            moved.extend(more);
        }
        let pid = scene.service.current().pid();
        let is_here = |client: &mut Client| moved.iter().all(|peer| *peer != client.name());
        let mut here: Vec<Client> = scene.clients.extract_if(.., is_here).collect();
        assert!(!here.is_empty());
        here.iter_mut().for_each(|it| it.send(GET).unwrap());
        for mut client in here {
            let answer = client.answer().unwrap();
            assert_eq!(answer.pid(), pid);
            assert!(answer.closes(), "{answer:?}");
            client.wait_for_close().unwrap();
        }
        scene.assert_all_are_served_on();
    }

    /// Another service of the same user, with a limit that is below what is
    /// under way in a scene: the first of the four messages is sent as soon as
    /// there is one connection for it.
    fn neighbour() -> Option<Service> {
        // A probation that is over before there is a way.
        let config = Config::new()
            .probation_ms(1)
            .kill(1, "no such record", Whom::Itself);
        let launch = Launch::api(config).linked_binary().unprivileged()?;
        Some(launch.prelude("ulimit -S -n 60").start())
    }

    /// Makes a way for a service as soon as that waits for one.
    fn make_way(scene: &Scene, service: &Service) {
        let line = "nothing can be passed on at the moment: Too many references";
        service.log().wait_for(line);
        for _ in 0..4 {
            scene.adopt().unwrap();
        }
    }

    #[test]
    fn a_successor_is_started_when_there_is_a_way_to_welcome_it() {
        let Some(scene) = Scene::set() else { return };
        let Some(service) = neighbour() else { return };
        service.current().hup();
        make_way(&scene, &service);
        service.wait_next_generation();
        assert_eq!(service.failed_restarts(), 0);
    }

    #[test]
    fn listeners_are_sent_when_there_is_a_way() {
        let way = alone_on_the_way();
        let Some(service) = neighbour() else { return };
        let successor = service.restart_into_false_successor();
        successor.channel().expect("welcome");
        let Some(scene) = Scene::set_on(way) else {
            return;
        };
        successor.say(successor.claim());
        make_way(&scene, &service);
        successor.channel().expect("listeners");
    }

    #[test]
    fn a_successor_serves_when_there_is_a_way_for_the_ledger() {
        let way = alone_on_the_way();
        let Some(service) = neighbour() else { return };
        let mut client = acquainted(&service);
        let successor = service.restart_into_false_successor();
        let listeners = successor.take_listeners();
        let Some(scene) = Scene::set_on(way) else {
            return;
        };
        successor.be_ready(&listeners, 1000);
        // Nobody accepts meanwhile, but what is open is served.
        assert!(!client.get("/").unwrap().closes());
        make_way(&scene, &service);
        let serve = successor.channel().expect("serve");
        assert_eq!(serve.descriptors.len(), 1);
        // Nothing has come before it, neither connections nor `publish`.
        let heard = std::iter::from_fn(|| successor.channel().hear());
        let batch = heard.filter_map(Batch::from).next().unwrap();
        assert_eq!(batch.peers().collect::<Vec<_>>(), [client.name()]);
    }

    /// The successor has said that it keeps the listener, and never serves.
    #[test]
    fn who_comes_while_there_is_no_way_is_served_before_a_stop() {
        let way = alone_on_the_way();
        let Some(service) = neighbour() else { return };
        let successor = service.restart_into_false_successor();
        let listeners = successor.take_listeners();
        let Some(_scene) = Scene::set_on(way) else {
            return;
        };
        successor.be_ready(&listeners, 1000);
        let line = "nothing can be passed on at the moment: Too many references";
        service.log().wait_for(line);
        let predecessor = service.current();
        let mut client = service.connect();
        client.send(GET).unwrap();
        predecessor.term();
        drop(listeners);
        assert_eq!(client.answer().unwrap().pid(), predecessor.pid());
        successor.channel().expect("dismissed");
    }

    #[test]
    fn a_restart_fails_if_there_is_no_way_for_too_long() {
        let way = alone_on_the_way();
        let Some(service) = neighbour() else { return };
        let successor = service.restart_into_false_successor();
        successor.channel().expect("welcome");
        let Some(_scene) = Scene::set_on(way) else {
            return;
        };
        successor.say(successor.claim());
        let failed = service.wait_failure_of(&successor);
        failed.assert_says("it could not be sent to: Too many references");
        service.assert_undisturbed();
    }
}
