//! Clients that mean harm: whatever they do, others are served throughout, and
//! memory and descriptors return to where they were.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};

use crate::kit::{Address, Config, Connections, Load, PATIENCE, Service, possible_descriptors};

/// How much more memory a service may have after an attack: what was in use at
/// its height, some of which the allocator keeps for the next time.
const KEPT_KIB: u64 = 16 * 1024;

/// How much more it may have after the same attack once again: nothing, were it
/// not for chance.
const LEAKED_KIB: u64 = 3 * 1024;

/// Lets clients attack a service, twice, and checks each time that they have
/// left nothing behind and harmed nobody.
///
/// What `attack` returns is held until that is done: attackers who let go of
/// nothing.
fn besiege<T>(config: Config, attack: impl Fn(&Siege) -> T) {
    let siege = Siege::begin(config);
    let mut kept = 0;
    for most in [KEPT_KIB, LEAKED_KIB] {
        let attackers = attack(&siege);
        siege.wait_for_peace();
        let growth = siege.growth_kib();
        eprintln!("{growth} KiB more than {}", siege.memory_kib);
        assert!(
            growth <= kept + most,
            "{growth} KiB more than before, after {kept} KiB more"
        );
        kept = growth;
        drop(attackers);
    }
    let tally = siege.load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
}

/// A service under attack, and two clients that mean well.
struct Siege {
    service: Service,
    load: Load,
    /// Before the attack.
    descriptors: usize,
    memory_kib: u64,
}

impl Siege {
    fn begin(config: Config) -> Self {
        let service = Service::start(config);
        let load = Load::start(&service.address(), Connections::KeptAlive, 2);
        load.wait_for_requests(100);
        load.wait_for_each_client();
        let process = service.current();
        Siege {
            descriptors: process.descriptors().len(),
            memory_kib: process.memory_kib(),
            service,
            load,
        }
    }

    /// A connection of a client that means harm.
    fn connect(&self) -> TcpStream {
        let Address::Tcp(address) = self.service.address() else {
            panic!("the service listens on TCP");
        };
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// As many connections as asked for, if there may be as many.
    fn connect_many(&self, number: usize) -> Vec<TcpStream> {
        (0..at_most(number)).map(|_| self.connect()).collect()
    }

    /// How much more memory than before the service has.
    fn growth_kib(&self) -> u64 {
        let memory = self.service.current().memory_kib();
        memory.saturating_sub(self.memory_kib)
    }

    /// Waits until the service has let go of all attackers.
    fn wait_for_peace(&self) {
        let process = self.service.current();
        let deadline = Instant::now() + PATIENCE;
        // Nothing reports this, but each turn waits for answers, and these show
        // that others are served.
        loop {
            self.load.wait_for_requests(10);
            let open = process.descriptors().len();
            if open <= self.descriptors {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{open} descriptors, not {}",
                self.descriptors
            );
        }
    }
}

/// How many of so many connections this process may have.
fn at_most(number: usize) -> usize {
    // The tests of this process run side by side.
    let limit = possible_descriptors();
    let possible = usize::try_from(limit / 8).unwrap_or(usize::MAX);
    if possible < number {
        eprintln!("{possible} connections, not {number}: there may be {limit} descriptors");
    }
    possible.min(number)
}

/// Everything up to the end of the connection, in whatever way it comes.
fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection does not end: {error}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn assert_status(answer: &str, statuses: &[u16]) {
    let status = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok());
    assert!(
        status.is_some_and(|status| statuses.contains(&status)),
        "not {statuses:?}: {answer}"
    );
}

#[test]
fn heads_that_come_slowly_are_given_up() {
    besiege(Config::new().limit("head_timeout_ms", 1000), |siege| {
        // Each begins at once: who has said nothing in time gets no answer.
        let attack = |mut attacker: TcpStream| {
            let begun = attacker.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n");
            begun.map(|()| attacker).unwrap()
        };
        let attackers = (0..at_most(500)).map(|_| attack(siege.connect()));
        let mut attackers: Vec<TcpStream> = attackers.collect();
        for round in 0..3 {
            siege.load.wait_for_requests(30);
            for attacker in &mut attackers {
                // It does not help them that there is always a bit more.
                let _ = attacker.write_all(format!("x-{round}: y\r\n").as_bytes());
            }
        }
        for attacker in &mut attackers {
            assert_status(&read_to_end(attacker), &[408]);
        }
    });
}

#[test]
fn bodies_that_come_slowly_are_given_up() {
    // Only for the body: whoever is slow to begin would get no answer.
    let config = Config::new()
        .limit("head_timeout_ms", 60_000)
        .limit("body_timeout_ms", 500);
    besiege(config, |siege| {
        let mut attackers = siege.connect_many(500);
        for attacker in &mut attackers {
            let head = b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\nslow";
            attacker.write_all(head).unwrap();
        }
        siege.load.wait_for_requests(50);
        for attacker in &mut attackers {
            assert_status(&read_to_end(attacker), &[408]);
        }
    });
}

#[test]
fn a_large_response_that_nobody_reads_is_not_held_in_memory() {
    besiege(Config::new().limit("write_timeout_ms", 500), |siege| {
        let attackers = siege.connect_many(40);
        for mut attacker in &attackers {
            set_socket_recv_buffer_size(attacker, 4096).unwrap();
            attacker
                .write_all(b"GET /bytes?n=100000000 HTTP/1.1\r\nhost: test\r\n\r\n")
                .unwrap();
        }
        siege.load.wait_for_requests(50);
        let growth = siege.growth_kib();
        assert!(growth < 12 * 1024, "{growth} KiB for 40 slow readers");
        // They do not read then, either.
        attackers
    });
}

#[test]
fn ten_thousand_clients_that_close_at_once_leave_nothing() {
    besiege(Config::new(), |siege| {
        for _ in 0..10_000 {
            drop(siege.connect());
        }
    });
}

#[test]
fn resets_at_any_moment_leave_nothing() {
    besiege(Config::new(), |siege| {
        let openings = [
            "",
            "GET / HT",
            "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n12345",
            "GET /bytes?n=10000000 HTTP/1.1\r\nhost: test\r\n\r\n",
            "GET /stream?n=1000000 HTTP/1.1\r\nhost: test\r\n\r\n",
            "GET /slow?ms=100 HTTP/1.1\r\nhost: test\r\n\r\n",
            "nonsense\r\n\r\n",
        ];
        for round in 0..300 {
            for opening in openings {
                let mut attacker = siege.connect();
                attacker.write_all(opening.as_bytes()).unwrap();
                let answered = opening.contains("/bytes") || opening.contains("/stream");
                if answered && round % 2 == 0 {
                    // In the midst of the response, every other time.
                    attacker.read_exact(&mut [0; 100]).unwrap();
                }
                // Closing is resetting now.
                set_socket_linger(&attacker, Some(Duration::ZERO)).unwrap();
            }
        }
    });
}

#[test]
fn clients_that_close_one_half_are_answered_and_let_go() {
    besiege(Config::new(), |siege| {
        let stories: [(&str, &[u16]); 4] = [
            ("", &[]),
            ("GET / HT", &[400]),
            (
                "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n12345",
                &[400],
            ),
            ("GET / HTTP/1.1\r\nhost: test\r\n\r\n", &[200]),
        ];
        let mut attackers = Vec::new();
        for (mut attacker, (opening, statuses)) in siege
            .connect_many(500)
            .into_iter()
            .zip(stories.into_iter().cycle())
        {
            attacker.write_all(opening.as_bytes()).unwrap();
            attacker.shutdown(Shutdown::Write).unwrap();
            attackers.push((attacker, statuses));
        }
        for (attacker, statuses) in &mut attackers {
            let answer = read_to_end(attacker);
            match statuses {
                [] => assert_eq!(answer, ""),
                [..] => assert_status(&answer, statuses),
            }
        }
    });
}

#[test]
fn clients_that_do_not_close_after_the_last_response_are_let_go() {
    besiege(Config::new().limit("head_timeout_ms", 500), |siege| {
        let attackers = siege.connect_many(500);
        for (mut attacker, opening) in attackers
            .iter()
            .zip(["", "nonsense\r\n\r\n"].into_iter().cycle())
        {
            attacker.write_all(opening.as_bytes()).unwrap();
        }
        // They hold on to their ends for as long as they can.
        attackers
    });
}

#[test]
fn a_head_without_an_end_is_refused_early() {
    const PIECE: usize = 64 * 1024;
    for (opening, status) in [("GET /", 414), ("GET / HTTP/1.1\r\nhost: test\r\nx: ", 431)] {
        besiege(Config::new(), |siege| {
            let mut attacker = siege.connect();
            attacker.write_all(opening.as_bytes()).unwrap();
            let piece = [b'x'; PIECE];
            let mut sent = 0;
            // As much as the largest head that is allowed, and no more.
            while sent < 64 * 1024 {
                attacker.write_all(&piece).unwrap();
                sent += PIECE;
            }
            let reading = thread::spawn({
                let mut reader = attacker.try_clone().unwrap();
                move || read_to_end(&mut reader)
            });
            let mut most = 0;
            while sent < 200 << 20 && attacker.write_all(&piece).is_ok() {
                sent += PIECE;
                if sent.is_multiple_of(1 << 20) {
                    most = most.max(siege.growth_kib());
                }
            }
            drop(attacker);
            eprintln!("{sent} bytes were taken, {most} KiB were used");
            assert!(most <= 1024, "{most} KiB for one head");
            assert_status(&reading.join().unwrap(), &[status]);
        });
    }
}
