//! Clients that other people have written find a server they understand, and do
//! not notice its restarts.
//!
//! A test whose client is not installed says so and is skipped; see
//! [`Program::find`].

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::kit::{Config, End, Launch, PATIENCE, Page, Program, Service};

// curl

/// Makes curl report each transfer on standard error, where it does not mix
/// with bodies.
const REPORT: &str = "%{stderr}%{http_code}, %{num_connects} connected, \
    generation %header{x-generation}\\n";

fn report(status: u16, connected: u64, generation: u64) -> String {
    format!("{status}, {connected} connected, generation {generation}")
}

/// curl without the user's settings, for transfers one after another.
fn curl() -> Option<Program> {
    let curl = Program::find("curl")?;
    // `--disable` is heeded in the first place only.
    Some(curl.arguments(["--disable", "--silent", "--show-error", "--no-buffer"]))
}

/// The options of one transfer. They hold for several addresses too, but not
/// beyond `--next`.
fn transfer<'a>(options: &[&'a str]) -> Vec<&'a str> {
    [&["--write-out", REPORT], options].concat()
}

#[test]
fn curl_gets_several_answers_on_one_connection() {
    let Some(curl) = curl() else { return };
    let service = Service::start(Config::new());
    let targets = [
        "/",
        "/stream?n=2",
        "/empty",
        "/not-modified",
        "/bytes?n=3",
        "/nothing",
        "/error",
        "/",
    ];
    let written = curl
        .arguments(transfer(&[]))
        .arguments(targets.map(|target| service.url(target)))
        .run();
    let reports: Vec<&str> = written.errors.lines().collect();
    let statuses = [
        (200, 1),
        (200, 0),
        (204, 0),
        (304, 0),
        (200, 0),
        (404, 0),
        (500, 0),
        (200, 0),
    ];
    let expected = statuses.map(|(status, connected)| {
        let report = report(status, connected, 1);
        match status {
            // This answer is the library's.
            500 => report.trim_end_matches('1').to_owned(),
            _ => report,
        }
    });
    assert_eq!(reports, expected);
    assert!(
        written
            .output
            .starts_with("helloline 1\nline 2\nxxxthere is nothing here\n"),
        "{}",
        written.output
    );
    assert!(written.output.ends_with("hello"), "{}", written.output);
}

#[test]
fn curl_posts() {
    let Some(curl) = curl() else { return };
    let service = Service::start(Config::new());
    let written = curl
        .arguments(transfer(&["--data", "a=1&b=2", &service.url("/echo")]))
        .run();
    assert_eq!(written.output, "a=1&b=2");
    assert_eq!(written.errors, report(200, 1, 1));
}

#[test]
fn curl_uploads_what_it_is_given_while_it_is_given() {
    let Some(curl) = curl() else { return };
    let service = Service::start(Config::new());
    let upload = ["--verbose", "--request", "POST", "--upload-file", "-"];
    let mut curl = curl
        .arguments(transfer(&upload))
        .arguments([service.url("/echo")])
        .start();
    curl.say("one ");
    curl.errors().wait_for("> Transfer-Encoding: chunked");
    curl.say("two ");
    curl.say("three");
    assert_eq!(curl.finish().output, "one two three");
}

#[test]
fn curl_is_served_in_http_1_0() {
    let Some(curl) = curl() else { return };
    let service = Service::start(Config::new());
    let written = curl
        .arguments(transfer(&["--http1.0", "--include"]))
        .arguments(["/stream?n=2", "/"].map(|target| service.url(target)))
        .run();
    let output = written.output.to_ascii_lowercase();
    assert!(output.contains("\nline 1\nline 2\n"), "{output}");
    assert!(output.ends_with("\nhello"), "{output}");
    assert!(!output.contains("transfer-encoding"), "{output}");
    // The first connection ended with its answer.
    let reports: Vec<&str> = written.errors.lines().collect();
    assert_eq!(reports, [report(200, 1, 1), report(200, 1, 1)]);
}

#[test]
fn curl_is_told_to_continue_before_it_sends_a_large_body() {
    let Some(curl) = curl() else { return };
    let service = Service::start(Config::new());
    let file = service.dir().join("large");
    let body = "0123456789abcdef".repeat(256 * 1024);
    fs::write(&file, &body).unwrap();
    let written = curl
        .arguments(transfer(&["--verbose", "--header", "Expect: 100-continue"]))
        // Longer than a test waits, so that curl cannot go on unasked.
        .arguments(["--expect100-timeout", "600"])
        .arguments(["--data-binary", &format!("@{}", file.display())])
        .arguments([service.url("/echo")])
        .run();
    assert!(written.output == body, "the echo is another body");
    let errors = written.errors;
    assert!(errors.contains("< HTTP/1.1 100 Continue"), "{errors}");
    assert!(errors.contains(&report(200, 1, 1)), "{errors}");
}

#[test]
fn curl_that_expects_to_continue_is_refused_without_sending_its_body() {
    let Some(curl) = curl() else { return };
    let service = Service::start(Config::new().limit("max_body_bytes", 1000));
    let file = service.dir().join("large");
    fs::write(&file, [b'x'; 1001]).unwrap();
    let written = curl
        .arguments(transfer(&["--verbose", "--header", "Expect: 100-continue"]))
        .arguments(["--expect100-timeout", "600", "--output", "-"])
        .arguments(["--data-binary", &format!("@{}", file.display())])
        .arguments([service.url("/echo")])
        .run();
    let errors = written.errors;
    assert!(errors.contains("< HTTP/1.1 413 "), "{errors}");
    assert!(!errors.contains("100 Continue"), "{errors}");
}

#[test]
fn curl_asks_for_heads() {
    let Some(curl) = curl() else { return };
    let service = Service::start(Config::new());
    let targets = ["/bytes?n=1000", "/stream?n=1000", "/"];
    let written = curl
        .arguments(transfer(&["--head"]))
        .arguments(targets.map(|target| service.url(target)))
        .run();
    let output = written.output.to_ascii_lowercase();
    assert!(output.contains("content-length: 1000"), "{output}");
    assert_eq!(output.matches("http/1.1 200 ok").count(), 3, "{output}");
    let reports: Vec<&str> = written.errors.lines().collect();
    let expected = [1, 0, 0].map(|connected| report(200, connected, 1));
    assert_eq!(reports, expected);
}

#[test]
fn curl_talks_to_a_unix_socket_before_and_after_a_restart() {
    let Some(before) = curl() else { return };
    let launch = Launch::api(Config::new());
    let socket = launch.dir().join("api.sock");
    let config = Config::on(&[&format!("unix:{}", socket.display())]);
    let service = launch.config(config).start();
    let ask = |curl: Program| {
        curl.arguments([OsStr::new("--unix-socket"), socket.as_os_str()])
            .arguments(transfer(&["http://127.0.0.1/", "http://127.0.0.1/"]))
            .run()
    };
    let answered = ask(before);
    assert_eq!(answered.output, "hellohello");
    assert_eq!(
        answered.errors,
        [report(200, 1, 1), report(200, 0, 1)].join("\n")
    );
    service.restart();
    let answered = ask(curl().unwrap());
    assert_eq!(
        answered.errors,
        [report(200, 1, 2), report(200, 0, 2)].join("\n")
    );
}

#[test]
fn curl_finishes_its_upload_with_the_predecessor_and_goes_on_with_the_successor() {
    let Some(curl) = curl() else { return };
    let service = Service::start(Config::new());
    let (page, echo) = (service.url("/"), service.url("/echo"));
    let mut curl = curl
        .arguments(transfer(&[&page, "--next"]))
        .arguments(transfer(&["--verbose", "--request", "POST"]))
        .arguments(["--upload-file", "-", &echo, "--next"])
        .arguments(transfer(&[&page]))
        .start();
    curl.errors().wait_for("> Transfer-Encoding: chunked");
    service.restart();
    curl.say("in flight");
    let written = curl.finish();
    assert_eq!(written.output, "helloin flighthello");
    let reports: Vec<&str> = written
        .errors
        .lines()
        .filter(|line| line.contains(" connected, "))
        .collect();
    let expected = [report(200, 1, 1), report(200, 0, 1), report(200, 0, 2)];
    assert_eq!(reports, expected);
}

#[test]
fn curl_with_an_idle_connection_goes_on_with_the_successor() {
    let Some(curl) = curl() else { return };
    let service = Service::start(Config::new());
    let (page, echo) = (service.url("/"), service.url("/echo"));
    // curl opens the file only when it has had the first answer, and waits
    // there for the test.
    let fifo = service.dir().join("body");
    mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    let curl = curl
        .arguments(transfer(&[&page, "--next"]))
        .arguments(transfer(&["--request", "POST", "--upload-file"]))
        .arguments([fifo.as_os_str(), echo.as_ref(), "--next".as_ref()])
        .arguments(transfer(&[&page]))
        .start();
    curl.errors().wait_for(&report(200, 1, 1));
    service.restart_to_the_end();
    write_to_fifo(&fifo, "afterwards");
    let written = curl.finish();
    assert_eq!(written.output, "helloafterwardshello");
    let reports: Vec<&str> = written.errors.lines().collect();
    let expected = [report(200, 1, 1), report(200, 0, 2), report(200, 0, 2)];
    assert_eq!(reports, expected);
}

/// Writes once somebody reads.
fn write_to_fifo(fifo: &Path, text: &str) {
    let (done, opened) = mpsc::channel();
    let fifo = fifo.to_owned();
    // Opening a FIFO for writing waits for a reader, and has no deadline.
    thread::spawn(move || done.send(File::options().write(true).open(fifo)));
    let opened = opened.recv_timeout(PATIENCE);
    let mut opened = opened.expect("nobody reads the FIFO").unwrap();
    opened.write_all(text.as_bytes()).unwrap();
}

// Python

/// What the scripts have in common.
const PYTHON: &str = r#"
import http.client, sys

connection = http.client.HTTPConnection(sys.argv[1], timeout=30)

def answer(body):
    response = connection.getresponse()
    read = response.read()
    assert response.status == 200, response.status
    assert read == body, read
    return response

def tell(response):
    print("generation", response.headers["x-generation"], flush=True)
"#;

fn python(script: &str, service: &Service) -> Option<Program> {
    let python = Program::find("python3")?;
    let script = [PYTHON, script].concat();
    let authority = service.address().to_string();
    // Isolated, so that no module of the user's gets in between.
    Some(python.arguments(["-I", "-c", &script, &authority]))
}

#[test]
fn python_sends_several_requests_on_one_connection() {
    let service = Service::start(Config::new());
    let script = r#"
connection.connect()
ours = connection.sock.getsockname()
for turn in range(10):
    connection.request("GET", "/")
    answer(b"hello")
    connection.request("GET", "/stream?n=3")
    answer(b"line 1\nline 2\nline 3\n")
    connection.request("HEAD", "/bytes?n=1000")
    assert answer(b"").headers["content-length"] == "1000"
    connection.request("POST", "/echo", body=b"a length")
    answer(b"a length")
    pieces = [b"no length, ", b"%d" % turn, b", " * 100_000]
    connection.request("POST", "/echo", body=iter(pieces), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})
    answer(b"".join(pieces))
    connection.request("GET", "/empty")
    response = connection.getresponse()
    assert (response.status, response.read()) == (204, b"")
    assert connection.sock.getsockname() == ours
"#;
    let Some(python) = python(script, &service) else {
        return;
    };
    python.run();
    service.assert_undisturbed();
}

#[test]
fn python_goes_on_with_the_successor() {
    let service = Service::start(Config::new());
    let script = r#"
connection.request("GET", "/")
tell(answer(b"hello"))
for restart in range(3):
    connection.putrequest("POST", "/echo")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    connection.send(b"3\r\nin \r\n")
    print("in flight", restart, flush=True)
    sys.stdin.readline()
    connection.send(b"6\r\nflight\r\n0\r\n\r\n")
    tell(answer(b"in flight"))
    connection.request("GET", "/")
    tell(answer(b"hello"))
"#;
    let Some(python) = python(script, &service) else {
        return;
    };
    let mut python = python.start();
    for restart in 0..3 {
        python.output().wait_for(&format!("in flight {restart}"));
        service.restart();
        python.say("\n");
    }
    let output = python.finish().output;
    let generations: Vec<&str> = output
        .lines()
        .filter_map(|line| line.strip_prefix("generation "))
        .collect();
    assert_eq!(generations, ["1", "1", "2", "2", "3", "3", "4"]);
}

// Node

fn node(script: &str, service: &Service) -> Option<Program> {
    let node = Program::find("node")?;
    let url = service.url("");
    Some(node.arguments(["--input-type=module", "--eval", script, &url]))
}

#[test]
fn node_fetches_in_parallel_and_keeps_its_connections() {
    let service = Service::start(Config::new());
    let script = r#"
import assert from "node:assert";
import channel from "node:diagnostics_channel";

const base = process.argv[1];
let connections = 0, requests = 0;
channel.subscribe("undici:client:connected", () => { connections += 1; });
async function text(path, options) {
  requests += 1;
  const response = await fetch(base + path, options);
  assert(response.ok, `${path}: ${response.status}`);
  return await response.text();
}
async function work(name) {
  for (let turn = 0; turn < 10; turn += 1) {
    assert.equal(await text("/"), "hello");
    assert.equal(await text("/stream?n=2"), "line 1\nline 2\n");
    assert.equal(await text("/bytes?n=100000", { method: "HEAD" }), "");
    const body = `${name}, ${turn}`;
    assert.equal(await text("/echo", { method: "POST", body }), body);
    assert.equal(await text("/empty"), "");
  }
}
await Promise.all(["a", "b", "c", "d"].map(work));
console.log(`${connections} connections for ${requests} requests`);
assert(connections > 0 && connections <= requests / 4);
"#;
    let Some(node) = node(script, &service) else {
        return;
    };
    node.run();
    service.assert_undisturbed();
}

#[test]
fn node_streams_the_body_of_a_request() {
    let service = Service::start(Config::new());
    let script = r#"
import assert from "node:assert";

const base = process.argv[1];
const piece = new Uint8Array(10_000).fill(120);
let left = 100;
const body = new ReadableStream({
  pull(controller) {
    if (left === 0) return controller.close();
    left -= 1;
    controller.enqueue(piece);
  },
});
const response = await fetch(`${base}/echo`, { method: "POST", body, duplex: "half" });
assert.equal(response.status, 200);
assert.equal(await response.text(), "x".repeat(1_000_000));
"#;
    let Some(node) = node(script, &service) else {
        return;
    };
    node.run();
}

#[test]
fn node_fetches_on_through_three_restarts() {
    let service = Service::start(Config::new());
    let script = r#"
const base = process.argv[1];
const generations = new Set();
let stop = false, failed = 0;
process.stdin.on("end", () => { stop = true; }).resume();
async function work(name) {
  for (let turn = 0; !stop; turn += 1) {
    try {
      const body = `${name}, ${turn}`;
      const response = await fetch(`${base}/echo`, { method: "POST", body });
      if (await response.text() !== body) throw new Error("another echo");
      const generation = response.headers.get("x-generation");
      if (!generations.has(generation)) console.log(`generation ${generation}`);
      generations.add(generation);
    } catch (error) {
      failed += 1;
      console.error(error);
    }
  }
}
await Promise.all(["a", "b", "c", "d"].map(work));
console.log(`failed: ${failed}`);
"#;
    let Some(node) = node(script, &service) else {
        return;
    };
    let node = node.start();
    node.output().wait_for("generation 1");
    for generation in 2..=4 {
        service.restart();
        node.output().wait_for(&format!("generation {generation}"));
    }
    let written = node.finish();
    let last = written.output.lines().last();
    assert_eq!(last, Some("failed: 0"), "{}", written.errors);
}

// ab

fn ab(options: &[&str], service: &Service) -> Option<Program> {
    let ab = Program::find("ab")?;
    Some(ab.arguments(options).arguments([service.url("/")]))
}

/// A figure of the report of ab.
fn figure(report: &str, name: &str) -> Option<u64> {
    let mut lines = report.lines();
    let figure = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    figure.trim().parse().ok()
}

/// Whether all requests have been answered alike, and with success.
fn assert_spotless(report: &str, requests: u64) {
    assert_eq!(
        figure(report, "Complete requests"),
        Some(requests),
        "{report}"
    );
    assert_eq!(figure(report, "Failed requests"), Some(0), "{report}");
    assert_eq!(figure(report, "Non-2xx responses"), None, "{report}");
}

#[test]
fn ab_has_no_failed_request_with_a_connection_for_each() {
    let service = Service::start(Config::new());
    let Some(ab) = ab(&["-q", "-n", "1000", "-c", "8"], &service) else {
        return;
    };
    assert_spotless(&ab.run().output, 1000);
    service.assert_undisturbed();
}

#[test]
fn ab_has_no_failed_request_with_connections_kept_alive() {
    let service = Service::start(Config::new());
    let Some(ab) = ab(&["-q", "-k", "-n", "1000", "-c", "8"], &service) else {
        return;
    };
    let report = ab.run().output;
    assert_spotless(&report, 1000);
    let kept = figure(&report, "Keep-Alive requests");
    assert_eq!(kept, Some(1000), "{report}");
}

#[test]
fn ab_has_no_failed_request_through_a_restart() {
    for more in [[].as_slice(), &["-k"]] {
        let service = Service::start(Config::new());
        // So many that it is not done before the restart is.
        let options = [&["-n", "5000", "-c", "8"], more].concat();
        let Some(ab) = ab(&options, &service) else {
            return;
        };
        let ab = ab.start();
        ab.errors().wait_for("Completed 500 requests");
        service.restart();
        let late = ab.errors().count("Finished 5000 requests");
        assert_eq!(late, 0, "ab was done before the restart");
        assert_spotless(&ab.finish().output, 5000);
    }
}

// Chromium

/// Chromium as it can run everywhere, root and containers included, and without
/// anything to say to other hosts.
fn chromium(service: &Service) -> Option<Program> {
    let chromium = Program::find("chromium")?;
    let profile = service.dir().join("profile");
    let options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-breakpad",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-extensions",
        "--disable-sync",
        "--no-default-browser-check",
        "--no-first-run",
        "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ];
    let chromium = chromium
        // It keeps more than its profile there.
        .environment("HOME", service.dir())
        .arguments(options)
        .arguments([format!("--user-data-dir={}", profile.display())]);
    Some(chromium)
}

/// The text of the element of the page that has this id.
fn shown<'a>(document: &'a str, id: &str) -> &'a str {
    let (_, after) = document
        .split_once(&format!("id=\"{id}\">"))
        .unwrap_or_else(|| panic!("{id} is missing: {document}"));
    after.split('<').next().unwrap_or_default()
}

#[test]
fn chromium_shows_the_page() {
    let service = Service::start(Config::new());
    let Some(chromium) = chromium(&service) else {
        return;
    };
    let document = chromium
        .arguments(["--virtual-time-budget=2000", "--dump-dom"])
        .arguments([service.url("/page")])
        .run()
        .output;
    let pid = service.current().pid().to_string();
    assert_eq!(shown(&document, "generation"), "1", "{document}");
    assert_eq!(shown(&document, "pid"), pid, "{document}");
    assert_eq!(shown(&document, "failed"), "0", "{document}");
    let answered: u64 = shown(&document, "answered").parse().unwrap();
    assert!(answered > 1, "{document}");
}

#[test]
fn chromium_shows_three_restarts_and_no_failure() {
    let service = Service::start(Config::new());
    let Some(chromium) = chromium(&service) else {
        return;
    };
    let browser = chromium
        .arguments(["--remote-debugging-port=0", "about:blank"])
        .start();
    let mut page = Page::open(&browser, &service.url("/page"));
    for generation in 1..=4 {
        if generation > 1 {
            let predecessor = service.current();
            service.restart();
            assert_eq!(predecessor.wait_exit(), End::Exit(0));
        }
        let script = format!(
            r#"new Promise((done) => {{
                const text = (id) => document.getElementById(id).textContent;
                const look = () => {{
                    if (text("generation") !== "{generation}") return setTimeout(look, 10);
                    done(text("failed"));
                }};
                look();
            }})"#
        );
        assert_eq!(page.evaluate(&script), "0", "generation {generation}");
    }
}
