//! How a client's bytes are cut into packets means nothing.

use crate::kit::{Answer, Client, Config, Service};

/// Requests with bodies of every framing, of which handlers read all, nothing,
/// or nothing there is, and responses of every framing; on one connection.
const REQUESTS: [(&str, &str); 10] = [
    ("GET", "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        "POST",
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    ),
    (
        "POST",
        "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
         5;x=\"y z\"\r\nhello\r\n00b\r\n, and more!\r\n0\r\ntrailer: x\r\n\r\n",
    ),
    ("HEAD", "HEAD /stream?n=3 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("GET", "GET /stream?n=3 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("GET", "GET /empty HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        "POST",
        "\r\nPOST /pid HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
         6\r\nunread\r\n0\r\n\r\n",
    ),
    (
        "POST",
        "POST /absent HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nunread",
    ),
    ("GET", "GET /not-modified HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        "GET",
        "GET /bytes?n=9 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ),
];

/// Sends the requests, cut at `cuts`, which rise.
fn play(service: &Service, witness: &mut Client, cuts: &[usize]) -> Vec<(u16, bool, Vec<u8>)> {
    let bytes = REQUESTS.map(|(_, request)| request).concat();
    let mut client = service.connect();
    let mut start = 0;
    for &cut in cuts {
        client.send(&bytes[start..cut]).unwrap();
        // The service has one thread: when it answers another client that has
        // asked later, it has seen this packet.
        witness.get("/pid").unwrap();
        start = cut;
    }
    client.send(&bytes[start..]).unwrap();
    let answers = REQUESTS.map(|(method, _)| {
        let answer: Answer = client
            .answer_to(method)
            .unwrap_or_else(|failure| panic!("cut at {cuts:?}: {failure:?}"));
        (answer.status, answer.closes(), answer.body)
    });
    client.wait_for_close().unwrap();
    answers.into()
}

#[test]
fn any_cut_gives_the_same_responses() {
    let service = Service::start(Config::new());
    let mut witness = service.connect();
    let whole = play(&service, &mut witness, &[]);
    let statuses: Vec<u16> = whole.iter().map(|(status, ..)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 204, 405, 404, 304, 200]);
    assert_eq!(whole[2].2, b"hello, and more!");
    let length = REQUESTS.map(|(_, request)| request.len()).iter().sum();
    for cut in 1..length {
        let answers = play(&service, &mut witness, &[cut]);
        assert_eq!(answers, whole, "cut at {cut}");
    }
}

#[test]
fn any_number_of_cuts_gives_the_same_responses() {
    const SEED: u64 = 0x6865_6972_6c6f_6f6d;
    let service = Service::start(Config::new());
    let mut witness = service.connect();
    let whole = play(&service, &mut witness, &[]);
    let length: usize = REQUESTS.map(|(_, request)| request.len()).iter().sum();
    let mut state = SEED;
    for round in 0..60 {
        // Few cuts far apart, many close to each other, and all in between.
        let sparse = 2 + round;
        let cuts: Vec<usize> = (1..length)
            .filter(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.is_multiple_of(sparse)
            })
            .collect();
        let answers = play(&service, &mut witness, &cuts);
        assert_eq!(
            answers, whole,
            "seed {SEED:#x}, round {round}, cut at {cuts:?}"
        );
    }
}
