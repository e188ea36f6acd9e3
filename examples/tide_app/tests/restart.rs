//! The application answers through a restart, on the same connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// All generations, which end with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // All generations are in the group of the first.
        signal("KILL", &format!("-{}", self.0.id()));
        let _ = self.0.wait();
    }
}

fn signal(name: &str, process: &str) {
    let mut kill = Command::new("kill");
    let kill = kill.args(["-s", name, "--", process]);
    assert!(kill.status().unwrap().success(), "kill -{name} {process}");
}

fn ask(connection: &mut BufReader<TcpStream>, path: &str) -> String {
    write!(
        connection.get_mut(),
        "GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"
    )
    .unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        if line == "\r\n" {
            break;
        }
        assert!(!line.is_empty(), "the connection was closed");
        assert_ne!(line, "connection: close\r\n");
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

#[test]
fn the_application_answers_through_a_restart_on_the_same_connection() {
    use std::os::unix::process::CommandExt;

    let mut child = Command::new(env!("CARGO_BIN_EXE_tide_app"))
        .arg("127.0.0.1:0")
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let service = Service(child);
    let first = service.0.id().to_string();
    // "listening on ADDRESS as PID; …", and the end of the pipe would be an
    // error.
    let mut announced = || -> (String, String) {
        let line = lines.next().unwrap().unwrap();
        let words: Vec<&str> = line.split([' ', ';']).collect();
        (words[2].to_owned(), words[4].to_owned())
    };
    let (address, pid) = announced();
    assert_eq!(pid, first);
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut connection = BufReader::new(stream);
    assert_eq!(ask(&mut connection, "/hello/world"), "Hello, world!\n");
    assert_eq!(ask(&mut connection, "/pid"), format!("{first}\n"));

    signal("HUP", &first);
    let (_, successor) = announced();
    assert_ne!(successor, first);
    // Until it has moved, the predecessor answers.
    while ask(&mut connection, "/pid") != format!("{successor}\n") {}
    assert_eq!(ask(&mut connection, "/"), "Hello, Tide!\n");
}
