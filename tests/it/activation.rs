//! Socket activation: sockets that were opened by somebody else and passed as
//! sd_listen_fds(3) describes it. Here a shell passes them; `systemd.rs` has
//! the real thing.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use rustix::net::{AddressFamily, SocketType, socket};

use crate::kit::{Address, Client, Config, Launch, Service};

/// Passes standard input as descriptor 3 under this name.
fn pass(socket: impl Into<OwnedFd>, names: &str) -> Launch {
    Launch::api(Config::on(&["systemd:web"]))
        .stdin(socket)
        .prelude(&format!(
            "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={names}; exec 3<&0 </dev/null"
        ))
}

fn bind() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    (listener, address)
}

fn assert_answers(address: &Address, generation: u64) {
    let answer = Client::connect(address).unwrap().get("/").unwrap();
    assert_eq!(answer.generation(), generation);
}

#[test]
fn a_socket_is_asked_for_by_its_name_and_is_there_in_every_generation() {
    let (listener, address) = bind();
    let service = pass(listener, "web").start();
    let mut client = service.connect();
    for generation in 1..=4 {
        assert_eq!(service.addresses(), std::slice::from_ref(&address));
        assert_answers(&address, generation);
        assert_eq!(client.get("/").unwrap().generation(), generation);
        service.restart_to_the_end();
    }
}

#[test]
fn connections_that_came_before_the_process_are_served() {
    let (listener, address) = bind();
    let mut client = Client::connect(&address).unwrap();
    let _service = pass(listener, "web").start();
    assert_eq!(client.get("/").unwrap().generation(), 1);
}

#[test]
fn it_can_stand_beside_sockets_that_are_bound_here() {
    let (listener, address) = bind();
    let config = Config::on(&["127.0.0.1:0", "systemd:web"]);
    let service = pass(listener, "web").config(config).start();
    let addresses = service.addresses();
    assert_eq!(addresses[1], address);
    service.restart_to_the_end();
    assert_eq!(service.addresses(), addresses);
    for address in &addresses {
        assert_answers(address, 2);
    }
}

#[test]
fn several_sockets_of_one_name_are_all_listened_on() {
    let (listener, address) = bind();
    let twice = "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:web; \
        exec 3<&0 4<&0 </dev/null";
    let service = pass(listener, "web").prelude(twice).start();
    for _ in 0..2 {
        assert_eq!(service.addresses(), [address.clone(), address.clone()]);
        service.restart_to_the_end();
    }
}

#[test]
fn a_socket_without_a_name_is_called_unknown() {
    for names in ["", "''", ":"] {
        let (listener, address) = bind();
        let config = Config::on(&["systemd:unknown"]);
        let _service = pass(listener, names).config(config).start();
        assert_answers(&address, 1);
    }
}

#[test]
fn a_unix_socket_is_left_where_it_is() {
    let launch = Launch::api(Config::new());
    let path = launch.dir().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let address = Address::Unix(path.clone());
    let service = pass(listener, "web").start();
    for generation in 1..=3 {
        assert_eq!(service.addresses(), std::slice::from_ref(&address));
        assert_answers(&address, generation);
        service.restart_to_the_end();
    }
    service.stop();
    assert!(path.exists());
}

#[test]
fn a_name_that_was_not_passed_is_an_error_that_says_so() {
    let (listener, _) = bind();
    pass(listener, "admin")
        .spawn()
        .assert_gives_up(&["`systemd:web`", "passed no such socket"]);
    Launch::api(Config::on(&["systemd:web"]))
        .spawn()
        .assert_gives_up(&["`systemd:web`", "passed no such socket"]);
}

#[test]
fn a_successor_that_asks_for_a_name_that_was_not_passed_changes_nothing() {
    let (listener, _) = bind();
    let service = pass(listener, "web").start();
    service.configure(&Config::on(&["systemd:web", "systemd:admin"]));
    service
        .restart_in_vain()
        .assert_says("`systemd:admin`: systemd has passed no such socket");
    service.assert_undisturbed();
    // Nor does one whose predecessor has no such socket at all.
    let service = Service::start(Config::new());
    service.configure(&Config::on(&["systemd:web"]));
    service
        .restart_in_vain()
        .assert_says("`systemd:web`: systemd has passed no such socket");
    service.assert_undisturbed();
}

#[test]
fn what_is_not_a_listening_stream_is_left_alone_and_named() {
    let datagram = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let file = OwnedFd::from(File::open("/dev/null").unwrap());
    for descriptor in [datagram, stream, file] {
        pass(descriptor, "web").spawn().assert_gives_up(&[
            "descriptor 3, which systemd passed as `web`, is not a listening stream socket",
        ]);
    }
    let (listener, _) = bind();
    let service = pass(listener, "web")
        .prelude(
            "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:log; \
             exec 3<&0 4</dev/zero </dev/null",
        )
        .start();
    assert_eq!(
        service.first().descriptor(4).to_str(),
        Some("/dev/zero"),
        "the application may use it"
    );
    let successor = service.restart_to_the_end();
    let kinds = successor.kinds_of_descriptors();
    assert_eq!(kinds.get("/dev/zero"), None, "it is not inherited");
}

#[test]
fn what_is_not_open_is_named() {
    let (listener, _) = bind();
    pass(listener, "web")
        .prelude("export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=admin:web; exec 3<&0 </dev/null")
        .spawn()
        // Descriptor 4 is one of the process itself by now, or nothing.
        .assert_gives_up(&["descriptor 4, which systemd passed as `web`, is not"]);
}

#[test]
fn what_is_meant_for_another_process_is_not_taken() {
    for lie in [
        "LISTEN_PID=1 LISTEN_FDS=1",
        "LISTEN_FDS=1",
        "LISTEN_PID=$$",
        "LISTEN_PID=self LISTEN_FDS=1",
        "LISTEN_PID=$$ LISTEN_FDS=many",
        "LISTEN_PID=$$ LISTEN_FDS=-1",
        "LISTEN_PID=$$ LISTEN_FDS=4294967290",
        "LISTEN_PID=$$ LISTEN_FDS=18446744073709551615",
    ] {
        let (listener, _) = bind();
        pass(listener, "web")
            .prelude(&format!(
                "export {lie} LISTEN_FDNAMES=web; exec 3<&0 </dev/null"
            ))
            .spawn()
            .assert_gives_up(&["`systemd:web`"]);
    }
}

#[test]
fn a_socket_that_is_not_asked_for_comes_back_when_it_is() {
    let (listener, address) = bind();
    let service = pass(listener, "web").start();
    service.configure(&Config::new());
    for _ in 0..2 {
        service.restart_to_the_end();
        assert_eq!(service.addresses().len(), 1);
        assert_ne!(service.address(), address);
    }
    service
        .log()
        .wait_for("which systemd passed as `web`, is not asked for");
    // It waits in the queue, which is never closed.
    let mut client = Client::connect(&address).unwrap();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    service.configure(&Config::on(&["systemd:web"]));
    service.restart_to_the_end();
    assert_eq!(client.answer().unwrap().generation(), 4);
    assert_eq!(service.addresses(), [address]);
}

#[test]
fn a_socket_that_was_never_asked_for_is_there_when_it_is() {
    let (listener, address) = bind();
    let service = pass(listener, "web").config(Config::new()).start();
    service.restart_to_the_end();
    service.configure(&Config::on(&["systemd:web"]));
    service.restart_to_the_end();
    assert_eq!(service.addresses(), std::slice::from_ref(&address));
    assert_answers(&address, 3);
}

#[test]
fn a_socket_can_be_asked_for_by_its_address_and_by_its_name_again() {
    let (listener, address) = bind();
    let service = pass(listener, "web").start();
    let mut client = service.connect();
    let by_address = Config::on(&[&address.to_string()]);
    let by_name = Config::on(&["systemd:web"]);
    for (generation, config) in (2..).zip([&by_address, &by_address, &by_name, &by_name]) {
        service.configure(config);
        service.restart_to_the_end();
        assert_eq!(service.addresses(), std::slice::from_ref(&address));
        assert_eq!(client.get("/").unwrap().generation(), generation);
    }
}

#[test]
fn no_descriptor_is_left_over() {
    let (listener, _) = bind();
    // Asked for, and not asked for.
    let by_name = pass(listener.try_clone().unwrap(), "web").start();
    let other = pass(listener, "web").config(Config::new()).start();
    let bound_here = Service::start(Config::new());
    let client = bound_here.settle();
    let usual = bound_here.current().kinds_of_descriptors();
    drop(client);
    // And the one that nobody has asked for yet.
    let mut spare = usual.clone();
    *spare.get_mut("socket").unwrap() += 1;
    let look = |service: &Service, expected| {
        let _client = service.settle();
        // That its predecessor is gone is noticed soon.
        service.current().wait_for_descriptors(expected);
    };
    look(&by_name, &usual);
    for _ in 0..3 {
        by_name.restart_to_the_end();
        other.restart_to_the_end();
        look(&by_name, &usual);
        look(&other, &spare);
    }
}
