//! Connections that speak another protocol: they work, they count, and they are
//! told of a drain.

use std::net::TcpStream;

use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use smol::Async;
use smol::stream::StreamExt as _;

use crate::kit::{Address, Config, End, Service, within};

type WebSocket = WebSocketStream<Async<TcpStream>>;

#[test]
fn a_web_socket_echoes() {
    let service = Service::start(Config::new());
    within(async {
        let mut socket = open(&service).await;
        for message in [
            Message::text("hello"),
            Message::binary(vec![0; 100_000]),
            Message::text(""),
        ] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(next(&mut socket).await, message);
        }
        socket.close(None).await.unwrap();
        assert!(next(&mut socket).await.is_close());
    });
    service.assert_undisturbed();
}

#[test]
fn a_web_socket_is_told_of_a_restart_and_its_process_waits_for_it() {
    let service = Service::start(Config::new());
    let predecessor = service.current();
    within(async {
        let mut socket = open(&service).await;
        service.restart();
        let Message::Close(Some(farewell)) = next(&mut socket).await else {
            panic!("the farewell is missing");
        };
        assert_eq!(farewell.code, CloseCode::Away);
        // We have not answered it yet, so the connection is open.
        assert!(predecessor.is_alive());
        assert!(socket.next().await.is_none());
    });
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
}

#[test]
fn a_web_socket_that_does_not_go_is_cut_at_the_deadline() {
    let service = Service::start(Config::new().drain_timeout_ms(200));
    let predecessor = service.current();
    let socket = within(open(&service));
    service.restart();
    assert_eq!(predecessor.wait_exit(), End::Exit(0));
    service.log().wait_for("upgraded for");
    drop(socket);
}

async fn open(service: &Service) -> WebSocket {
    let Address::Tcp(address) = service.address() else {
        panic!("not a TCP address");
    };
    let stream = Async::<TcpStream>::connect(address).await.unwrap();
    let (socket, _) = async_tungstenite::client_async(format!("ws://{address}/ws"), stream)
        .await
        .unwrap();
    socket
}

async fn next(socket: &mut WebSocket) -> Message {
    socket.next().await.expect("a message").unwrap()
}
