//! Listeners: several of every kind, kept, added and removed over restarts.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::kit::{
    Address, Client, Config, Connections, End, Failure, Launch, Load, Service, Whom, can_open,
};

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

fn assert_all_answer(service: &Service, generation: u64) {
    for address in service.addresses() {
        let answer = Client::connect(&address).unwrap().get("/").unwrap();
        assert_eq!(answer.generation(), generation, "{address}");
    }
}

fn assert_refused(address: &Address) {
    assert_eq!(
        Client::connect(address).err(),
        Some(Failure::Refused),
        "{address}"
    );
}

/// A launch, and an address of each kind.
fn of_each_kind() -> (Launch, Config) {
    let launch = Launch::api(Config::new());
    let path = unix(&launch.dir().join("api.sock"));
    let config = Config::on(&["127.0.0.1:0", "[::1]:0", &path]);
    (launch.config(config.clone()), config)
}

#[test]
fn every_kind_answers_in_every_generation_at_the_same_address() {
    let (launch, _) = of_each_kind();
    let service = launch.start();
    let addresses = service.addresses();
    assert_eq!(addresses.len(), 3);
    for generation in 1..=4 {
        assert_all_answer(&service, generation);
        service.restart_to_the_end();
        assert_eq!(service.addresses(), addresses);
    }
}

#[test]
fn several_addresses_with_port_0_keep_their_ports_each() {
    let service = Service::start(Config::on(&["127.0.0.1:0", "127.0.0.1:0", "0.0.0.0:0"]));
    let addresses = service.addresses();
    assert_ne!(addresses[0], addresses[1]);
    service.restart_to_the_end();
    service.restart_to_the_end();
    assert_eq!(service.addresses(), addresses);
    assert_all_answer(&service, 3);
}

#[test]
fn a_host_name_is_looked_up_and_its_address_kept() {
    let service = Service::start(Config::on(&["localhost:0"]));
    let addresses = service.addresses();
    service.restart_to_the_end();
    assert_eq!(service.addresses(), addresses);
    assert_all_answer(&service, 2);
}

#[test]
fn the_order_in_the_configuration_does_not_matter() {
    let (launch, _) = of_each_kind();
    let path = unix(&launch.dir().join("api.sock"));
    let service = launch.start();
    let mut addresses = service.addresses();
    service.configure(&Config::on(&[&path, "[::1]:0", "127.0.0.1:0"]));
    service.restart_to_the_end();
    addresses.reverse();
    assert_eq!(service.addresses(), addresses);
    assert_all_answer(&service, 2);
}

#[test]
fn an_added_address_answers_when_the_successor_serves() {
    let service = Service::start(Config::new());
    let before = service.address();
    let path = service.dir().join("added.sock");
    service.configure(&Config::on(&["127.0.0.1:0", "[::1]:0", &unix(&path)]));
    service.restart();
    assert_eq!(service.address(), before);
    assert_eq!(service.addresses().len(), 3);
    assert_all_answer(&service, 2);
}

#[test]
fn a_removed_address_is_closed_and_the_others_stay() {
    let (launch, _) = of_each_kind();
    let service = launch.start();
    let before = service.addresses();
    let path = service.dir().join("api.sock");
    service.configure(&Config::on(&["[::1]:0"]));
    service.restart_to_the_end();
    assert_eq!(service.addresses(), before[1..2]);
    assert_all_answer(&service, 2);
    assert_refused(&before[0]);
    assert_refused(&before[2]);
    assert!(!path.exists(), "the file of the removed address is removed");
}

#[test]
fn what_waited_at_a_removed_address_is_served() {
    let (launch, _) = of_each_kind();
    let service = launch.start();
    let before = service.addresses();
    let predecessor = service.current();
    service.configure(&Config::on(&["[::1]:0"]));
    predecessor.freeze();
    let clients = before
        .iter()
        .map(|address| Client::connect(address).unwrap());
    let mut clients: Vec<Client> = clients.collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    }
    predecessor.hup();
    predecessor.thaw();
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().status, 200);
    }
}

#[test]
fn what_comes_to_a_removed_address_in_the_probation_is_served_after_it() {
    let config = Config::on(&["127.0.0.1:0", "[::1]:0"]);
    let service = Launch::api(config.probation_ms(20_000)).start();
    let removed = service.address();
    let predecessor = service.current();
    service.configure(&Config::on(&["[::1]:0"]));
    let successor = service.restart();
    // Nobody accepts here, but it must be there for a rollback.
    let mut clients: Vec<Client> = (0..10)
        .map(|_| Client::connect(&removed).unwrap())
        .collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    }
    // To stop on purpose ends the probation.
    successor.term();
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().pid(), predecessor.pid());
    }
    drop(clients);
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    service.log().wait_for_end();
}

/// Otherwise the clients of IPv6 would be left out, and nobody told.
#[test]
fn a_listener_for_ipv4_alone_is_not_taken_for_one_for_everybody() {
    let service = Service::start(Config::on(&["0.0.0.0:0"]));
    let address = service.address().to_string();
    let port = address.rsplit(':').next().unwrap();
    service.configure(&Config::on(&[&format!(":{port}")]));
    service
        .restart_in_vain()
        .assert_says(&format!("could not bind `:{port}`"));
    service.assert_undisturbed();
}

#[test]
fn an_added_address_that_is_taken_is_named_and_the_predecessor_serves_on() {
    let service = Service::start(Config::new());
    let before = service.address();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    service.configure(&Config::on(&["127.0.0.1:0", &address]));
    let failure = service.restart_in_vain();
    failure.assert_says(&format!("`{address}`"));
    failure.assert_says("Address already in use");
    service.assert_undisturbed();
    drop(taken);
    service.restart();
    assert_eq!(service.address(), before);
    assert_eq!(service.addresses()[1].to_string(), address);
    assert_all_answer(&service, 2);
}

#[test]
fn a_failed_restart_takes_its_added_addresses_away() {
    let service = Service::start(Config::new());
    let added = service.dir().join("added.sock");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    service.configure(&Config::on(&["127.0.0.1:0", &unix(&added), &address]));
    service.restart_in_vain();
    service.assert_undisturbed();
    assert!(
        !added.exists(),
        "the file of the address that was bound in vain is removed"
    );
}

#[test]
fn an_address_that_is_taken_keeps_the_first_process_from_starting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let service = Launch::api(Config::on(&[&address])).spawn();
    service.assert_gives_up(&[&format!("`{address}`"), "Address already in use"]);
}

#[test]
fn a_unix_path_is_removed_by_its_last_owner_only() {
    let (launch, _) = of_each_kind();
    let path = launch.dir().join("api.sock");
    let service = launch.start();
    let inode = fs::metadata(&path).unwrap().ino();
    for _ in 0..2 {
        service.restart_to_the_end();
        assert_eq!(
            fs::metadata(&path).unwrap().ino(),
            inode,
            "the same socket file"
        );
    }
    service.stop();
    assert!(!path.exists(), "the last owner has removed it");
}

#[test]
fn a_unix_path_that_is_someone_elses_by_now_is_left_alone() {
    let (launch, _) = of_each_kind();
    let path = launch.dir().join("api.sock");
    let service = launch.start();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    service.stop();
    assert!(path.exists(), "the file is that of another service");
}

#[test]
fn a_stale_unix_path_is_replaced() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("stale.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    let service = launch.config(Config::on(&[&unix(&path)])).start();
    assert_all_answer(&service, 1);
}

#[test]
fn a_stale_unix_path_is_replaced_by_a_successor_too() {
    let service = Service::start(Config::new());
    let path = service.dir().join("stale.sock");
    drop(UnixListener::bind(&path).unwrap());
    service.configure(&Config::on(&["127.0.0.1:0", &unix(&path)]));
    service.restart();
    assert_all_answer(&service, 2);
}

/// A process that is killed closes its descriptors one after another, and the
/// channel may be the first. With many connections, that takes a while.
#[test]
fn a_unix_path_of_a_predecessor_that_dies_empty_handed_is_replaced() {
    if !can_open(400) {
        return;
    }
    let launch = Launch::api(Config::new());
    let config = Config::on(&[&unix(&launch.dir().join("api.sock"))]);
    let config = config.kill(1, "performing SendListeners", Whom::Itself);
    let service = launch.config(config).start();
    let mut clients: Vec<Client> = (0..300).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.get("/").unwrap();
    }
    service.restart();
    assert_all_answer(&service, 2);
}

#[test]
fn a_unix_path_where_another_service_listens_is_refused() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("live.sock");
    let other = UnixListener::bind(&path).unwrap();
    let service = launch.config(Config::on(&[&unix(&path)])).spawn();
    service.assert_gives_up(&[&path.display().to_string()]);
    // The other service is still found there.
    other.set_nonblocking(true).unwrap();
    while other.accept().is_ok() {}
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert!(other.accept().is_ok());
}

#[test]
fn a_unix_path_where_a_file_is_is_refused_and_the_file_left_alone() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("precious.txt");
    fs::write(&path, "precious").unwrap();
    let service = launch.config(Config::on(&[&unix(&path)])).spawn();
    service.assert_gives_up(&[&path.display().to_string()]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_unix_path_that_a_successor_may_not_have_is_a_failed_restart() {
    let service = Service::start(Config::new());
    let path = service.dir().join("live.sock");
    let _other = UnixListener::bind(&path).unwrap();
    service.configure(&Config::on(&["127.0.0.1:0", &unix(&path)]));
    let failure = service.restart_in_vain();
    failure.assert_says(&path.display().to_string());
    service.assert_undisturbed();
    assert!(path.exists());
}

#[test]
fn more_addresses_than_one_message_holds_are_handed_over() {
    let service = Service::start(Config::on(&["127.0.0.1:0"; 150]));
    let addresses = service.addresses();
    service.restart_to_the_end();
    assert_eq!(service.addresses(), addresses);
    assert_all_answer(&service, 2);
}

#[test]
fn a_successor_that_may_not_open_enough_descriptors_is_a_failed_restart() {
    let service = Service::start(Config::on(&["127.0.0.1:0"; 40]));
    // The service has its descriptors already; its successor starts with less.
    service.limit_descriptors(30);
    service.restart_in_vain();
    service.limit_descriptors(200);
    service.assert_undisturbed();
    service.restart();
    assert_all_answer(&service, 2);
}

#[test]
fn the_queue_of_a_listener_is_deep() {
    if !can_open(250) {
        return;
    }
    let service = Service::start(Config::new());
    service.first().freeze();
    // The default of the standard library, 128, would let clients wait for
    // their SYN to be sent again.
    let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let mut clients: Vec<Client> = (0..most.min(200)).map(|_| service.connect()).collect();
    service.first().thaw();
    for client in &mut clients {
        client.get("/").unwrap();
    }
}

#[test]
fn a_request_tells_through_which_listener_it_came_in_every_generation() {
    let address = "127.0.0.1:0";
    let service = Service::start(Config::on(&[address]).admin(address));
    let [public, admin] = service.addresses().try_into().unwrap();
    let mut public = Client::connect(&public).unwrap();
    let mut admin = Client::connect(&admin).unwrap();
    for _ in 0..3 {
        assert_eq!(public.get("/listener").unwrap().text(), address);
        assert_eq!(admin.get("/listener").unwrap().text(), "admin");
        service.restart_to_the_end();
        // The connections are the same; so are the names of new ones.
        let fresh = Client::connect(&service.addresses()[1])
            .unwrap()
            .get("/listener");
        assert_eq!(fresh.unwrap().text(), "admin");
    }
}

#[test]
fn instances_that_share_a_port_are_restarted_each_on_its_own_and_lose_nothing() {
    let first = Service::start(Config::new().reuse_port());
    let address = first.address().to_string();
    // Without the option the port is taken.
    let refused = Launch::api(Config::on(&[&address])).spawn();
    refused.assert_gives_up(&[&address]);
    let second = Service::start(Config::on(&[&address]).reuse_port());
    let load = Load::start(&first.address(), Connections::NewForEach, 4);
    for _ in 0..5 {
        for instance in [&first, &second] {
            load.wait_for_requests(50);
            instance.restart();
        }
    }
    load.wait_for_requests(50);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    // Both had their share.
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        seen.insert(first.get("/pid").pid());
    }
    assert_eq!(seen, [first.current().pid(), second.current().pid()].into());
}
