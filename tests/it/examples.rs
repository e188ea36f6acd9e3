//! The examples do what their heads say.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use heirloom::http_types::{self, Method, Request, Url};
use smol::Async;

use crate::kit::{
    Address, Answer, Client, Config, End, Failure, Launch, PATIENCE, Process, Service, Tether,
};

#[test]
fn hello_says_where_it_listens_and_what_to_type_and_what_it_says_works() {
    let service = Launch::example("hello", "127.0.0.1:0").spawn_as_it_is();
    let line = service.log().wait_for("listening on ");
    let pid = service.first().pid();
    for words in [format!("kill -HUP {pid}"), format!("kill -TERM {pid}")] {
        assert!(line.contains(&words), "{words:?} is missing: {line}");
    }
    let address: Address = word_after(&line, "listening on ").parse().unwrap();
    let answer = Client::connect(&address).unwrap().get("/").unwrap();
    assert_eq!(answer.text(), "Hello, world!\n");

    let place = service.log().here();
    service.first().hup();
    let line = service.log().wait_for_after(place, "listening on ");
    assert_eq!(
        word_after(&line, "listening on ").parse(),
        Ok(address.clone())
    );
    assert_eq!(service.first().wait_exit(), End::Exit(0));
    Client::connect(&address).unwrap().get("/").unwrap();

    let successor = word_after(&line, "kill -TERM ").parse().unwrap();
    let successor = Process::open(successor);
    successor.term();
    assert_eq!(successor.wait_exit(), End::Exit(0));
    service.log().wait_for_end();
}

#[test]
fn hello_says_why_it_cannot_listen() {
    let service = Launch::example("hello", "127.0.0.1:http").spawn_as_it_is();
    service.assert_gives_up(&["`127.0.0.1:http`"]);
}

/// A service that tells in one line where it listens, and the process that
/// does.
struct Announced {
    service: Service,
    address: Address,
}

impl Announced {
    fn start(example: &str) -> Self {
        let service = Launch::example(example, "127.0.0.1:0").spawn_as_it_is();
        let line = service.log().wait_for("listening on ");
        let address = word_after(&line, "listening on ").parse().unwrap();
        Announced { service, address }
    }

    /// Restarts the service; returns the successor.
    fn restart(&self, predecessor: &Process) -> Process {
        let place = self.service.log().here();
        predecessor.hup();
        let line = self.service.log().wait_for_after(place, "listening on ");
        Process::open(word_after(&line, "kill -TERM ").parse().unwrap())
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let Address::Tcp(address) = self.address else {
            panic!("{}", self.address);
        };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(stream)
    }
}

/// Sends text and reads the line that answers it.
fn say(connection: &mut BufReader<TcpStream>, text: &str) -> String {
    connection.get_mut().write_all(text.as_bytes()).unwrap();
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    line
}

/// Says lines until a process has answered that is this one.
fn say_until_answered_by(connection: &mut BufReader<TcpStream>, process: &Process) {
    let expected = format!("{}: hello\n", process.pid());
    while say(connection, "hello\n") != expected {}
}

#[test]
fn tcp_echo_keeps_its_connections_through_restarts() {
    let echo = Announced::start("tcp_echo");
    let mut connections: Vec<_> = (0..5).map(|_| echo.connect()).collect();
    let mut process = Process::open(echo.service.first().pid());
    for _ in 0..3 {
        for connection in &mut connections {
            say_until_answered_by(connection, &process);
            // Half a line moves with its connection.
            connection.get_mut().write_all(b"good ").unwrap();
        }
        let successor = echo.restart(&process);
        assert_eq!(process.wait_exit(), End::Exit(0));
        process = successor;
        for connection in &mut connections {
            let answer = say(connection, "bye\n");
            assert_eq!(answer, format!("{}: good bye\n", process.pid()));
        }
    }
    process.term();
    let mut rest = String::new();
    for connection in &mut connections {
        assert_eq!(connection.read_line(&mut rest).unwrap(), 0, "{rest}");
    }
    assert_eq!(process.wait_exit(), End::Exit(0));
    echo.service.log().wait_for_end();
}

#[test]
fn tcp_echo_has_its_connections_back_from_a_successor_that_is_killed() {
    let echo = Announced::start("tcp_echo");
    let mut connections: Vec<_> = (0..3).map(|_| echo.connect()).collect();
    let first = Process::open(echo.service.first().pid());
    for connection in &mut connections {
        say_until_answered_by(connection, &first);
    }
    let successor = echo.restart(&first);
    // It is at work on the one that has moved, so that one is not counted on.
    say_until_answered_by(&mut connections.remove(0), &successor);
    // The probation does not end while nobody is there to end it.
    first.freeze();
    successor.kill();
    assert_eq!(successor.wait_exit(), End::Unknown);
    first.thaw();
    for connection in &mut connections {
        say_until_answered_by(connection, &first);
    }
}

#[test]
fn hyper_app_finishes_what_is_in_flight_and_hands_over_who_has_said_nothing() {
    let app = Announced::start("hyper_app");
    let first = Process::open(app.service.first().pid());
    let mut silent = Client::connect(&app.address).unwrap();
    let mut halfway = Client::connect(&app.address).unwrap();
    let mut served = Client::connect(&app.address).unwrap();
    let pid = |answer: Result<Answer, Failure>| -> i32 {
        let answer = answer.unwrap();
        let (_, pid) = answer.text().rsplit_once(' ').unwrap();
        pid.trim().parse().unwrap()
    };
    assert_eq!(pid(served.get("/one")), first.pid());
    assert_eq!(pid(halfway.get("/two")), first.pid());
    halfway.send("GET /three HTTP/1.1\r\nhost: ").unwrap();
    let successor = app.restart(&first);
    served.wait_for_close().unwrap();
    halfway.send("test\r\n\r\n").unwrap();
    match halfway.answer() {
        Ok(answer) => assert!(
            answer.closes() && answer.text().contains("/three"),
            "{answer:?}"
        ),
        // hyper may take half a head for nothing.
        Err(failure) => assert!(matches!(failure, Failure::Closed | Failure::Reset)),
    }
    assert_eq!(first.wait_exit(), End::Exit(0));
    // Only now is it certain that it has moved: a request that comes before it
    // is called is still answered by the predecessor.
    assert_eq!(pid(silent.get("/four")), successor.pid());
    let again = Client::connect(&app.address).unwrap().get("/five");
    assert_eq!(pid(again), successor.pid());
}

/// What stands between `words` and the next blank or punctuation.
fn word_after<'a>(line: &'a str, words: &str) -> &'a str {
    let (_, after) = line.split_once(words).unwrap();
    after.split([' ', ',', ';', ')']).next().unwrap()
}

#[test]
fn api_without_arguments_says_how_to_use_it() {
    let service = Launch::api(Config::new()).no_arguments().spawn_as_it_is();
    service.assert_gives_up(&["usage: api [--check] --config FILE"]);
}

#[test]
fn api_names_a_configuration_that_is_missing() {
    let service = Launch::api(Config::new()).spawn_as_it_is();
    service.assert_gives_up(&["api.toml: No such file or directory"]);
}

#[test]
fn api_names_the_file_and_the_line_of_a_mistake() {
    let mistakes = [
        ("listen = [\"127.0.0.1:0\"", "line 1"),
        (
            "listen = [\"127.0.0.1:0\"]\ncolour = \"red\"",
            "line 2, `colour = \"red\"`",
        ),
        (
            "listen = [\"127.0.0.1:0\"]\nlisten = []",
            "line 2, `listen = []`",
        ),
        ("listen = \"127.0.0.1:0\"", "line 1, `listen = "),
        (
            "listen = [\"127.0.0.1:0\"]\ninit_ms = \"soon\"",
            "line 2, `init_ms = ",
        ),
        (
            "listen = [\"127.0.0.1:0\"]\ninit_ms = -1",
            "line 2, `init_ms = -1`",
        ),
        (
            "listen = [\"127.0.0.1:0\"]\nfault = \"big\"",
            "line 2, `fault = \"big\"`",
        ),
        ("greeting = \"hello\"", "listen"),
        ("listen = []", "`listen` names no address"),
        (
            "listen = [\"127.0.0.1:0\"]\nfault = \"bad-config\"",
            "`fault`",
        ),
    ];
    for (text, place) in mistakes {
        let service = Launch::api(Config::new()).spawn_with(text);
        service.assert_gives_up(&["api.toml: ", place]);
    }
}

#[test]
fn api_serves_as_the_first_process_with_a_fault_that_is_meant_for_successors() {
    for fault in ["exit", "hang", "panic-after-ready"] {
        let service = Service::start(Config::new().fault(fault));
        assert_eq!(service.get("/").generation(), 1, "{fault}");
    }
}

#[test]
fn api_answers_each_route() {
    let service = Service::start(Config::new().greeting("Grüß Gott"));
    let mut client = service.connect();
    let mut get = |target: &str| {
        let answer = client.get(target).unwrap();
        assert_eq!(answer.pid(), service.first().pid(), "GET {target}");
        assert_eq!(answer.generation(), 1, "GET {target}");
        answer
    };
    assert_eq!(get("/").text(), "Grüß Gott");
    assert_eq!(get("/pid").text(), service.first().pid().to_string());
    assert_eq!(get("/slow?ms=1").text(), "done\n");
    assert_eq!(get("/slow?m%73=%31").text(), "done\n");
    assert_eq!(get("/%70id").status, 200);
    assert_eq!(get("/stream?n=3").text(), "line 1\nline 2\nline 3\n");
    assert_eq!(
        get("/stream?n=3").header("transfer-encoding"),
        Some("chunked")
    );
    assert_eq!(get("/stream?n=0").text(), "");
    assert_eq!(get("/bytes?n=100000").body, vec![b'x'; 100_000]);
    assert_eq!(
        get("/bytes?n=100000").header("content-length"),
        Some("100000")
    );
    assert_eq!(get("/empty").status, 204);
    assert_eq!(get("/not-modified").status, 304);
    assert_eq!(get("/ws").status, 426);
    let page = get("/page");
    assert_eq!(page.header("content-type"), Some("text/html;charset=utf-8"));
    assert!(page.text().contains("</html>"));
    let refused = [
        ("/nowhere", 404),
        ("/pid/", 404),
        ("/echo", 405),
        ("/slow", 400),
        ("/slow?ms", 400),
        ("/slow?ms=soon", 400),
        ("/slow?ms=-1", 400),
        ("/slow?ms=99999999999999999999", 400),
        ("/slow?ms=%zz", 400),
        ("/slow?ms=1%", 400),
        ("/slow?%ff=1", 400),
        ("/%ff", 400),
        ("/stream", 400),
    ];
    for (target, status) in refused {
        assert_eq!(get(target).status, status, "GET {target}");
    }
}

#[test]
fn a_handler_that_fails_is_a_500_and_its_connection_lives() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    for target in ["/error", "/panic", "/error"] {
        assert_eq!(client.get(target).unwrap().status, 500, "GET {target}");
        assert_eq!(client.get("/").unwrap().text(), "hello");
    }
    service.assert_undisturbed();
}

#[test]
fn api_echoes_bodies_of_any_size() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    for size in [0, 1, 1_000, 100_000] {
        let body = "x".repeat(size);
        assert_eq!(client.post("/echo", &body).unwrap().text(), body);
    }
}

#[test]
fn api_understands_head_wherever_get() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    for target in [
        "/",
        "/pid",
        "/slow?ms=1",
        "/stream?n=3",
        "/bytes?n=9",
        "/empty",
        "/not-modified",
        "/page",
    ] {
        let head = client.request("HEAD", target).unwrap();
        let get = client.get(target).unwrap();
        assert_eq!(head.status, get.status, "HEAD {target}");
        assert_eq!(
            head.header("content-length"),
            get.header("content-length"),
            "HEAD {target}"
        );
    }
}

#[test]
fn api_names_the_methods_that_a_path_allows() {
    let service = Service::start(Config::new());
    let mut client = service.connect();
    let allowed = |answer: Answer| {
        assert_eq!((answer.status, answer.pid()), (405, service.first().pid()));
        answer.header("allow").map(str::to_owned)
    };
    assert_eq!(
        allowed(client.request("DELETE", "/").unwrap()).as_deref(),
        Some("GET, HEAD")
    );
    assert_eq!(
        allowed(client.post("/pid", "").unwrap()).as_deref(),
        Some("GET, HEAD")
    );
    assert_eq!(
        allowed(client.request("GET", "/echo").unwrap()).as_deref(),
        Some("POST")
    );
    assert_eq!(client.request("DELETE", "/nowhere").unwrap().status, 404);
}

/// Another client than ours, so that the suite does not agree with itself only.
#[test]
fn api_is_understood_by_the_client_of_async_h1() {
    let service = Service::start(Config::new());
    let ask = |method: Method, target: &str, body: &str| {
        let Address::Tcp(address) = service.address() else {
            panic!("a TCP address")
        };
        let url = Url::parse(&format!("http://{address}{target}")).unwrap();
        let mut request = Request::new(method, url);
        request.set_body(body);
        smol::block_on(async {
            let stream = Async::<TcpStream>::connect(address).await?;
            let mut response = async_h1::connect(stream, request).await?;
            let text = response.body_string().await?;
            Ok::<_, http_types::Error>((response.status() as u16, text))
        })
        .unwrap()
    };
    assert_eq!(ask(Method::Get, "/", ""), (200, "hello".to_owned()));
    service.restart();
    assert_eq!(
        ask(Method::Post, "/echo", "to and fro"),
        (200, "to and fro".to_owned())
    );
    assert_eq!(
        ask(Method::Get, "/stream?n=2", ""),
        (200, "line 1\nline 2\n".to_owned())
    );
    assert_eq!(ask(Method::Get, "/empty", ""), (204, String::new()));
    assert_eq!(ask(Method::Get, "/nowhere", "").0, 404);
}

#[test]
fn the_client_of_the_kit_names_what_goes_wrong() {
    let service = Service::start(Config::new());
    let address = service.address();
    let mut client = service.connect();
    client.get("/").unwrap();
    service.first().kill();
    service.log().wait_for_end();
    assert!(matches!(
        client.get("/"),
        Err(Failure::Closed | Failure::Reset)
    ));
    assert_eq!(Client::connect(&address).err(), Some(Failure::Refused));
}

#[test]
fn services_end_with_the_tests_that_are_killed() {
    let service = Service::start(Config::new());
    let tether = Tether::new();
    tether.hold(service.group());
    service.restart();
    tether.let_go();
    service.log().wait_for_end();
}
