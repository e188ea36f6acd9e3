//! A page in a headless browser, watched through the browser's DevTools.

use std::net::{SocketAddr, TcpStream};

use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::Message;
use serde_json::{Value, json};
use smol::Async;
use smol::stream::StreamExt as _;

use super::{Running, within};

/// A page that has been loaded.
pub(crate) struct Page {
    socket: WebSocketStream<Async<TcpStream>>,
    /// The number of our last command, which its answer repeats.
    number: u64,
    /// How commands name the page, once it is there.
    session: Option<String>,
    /// Events that came while something else was waited for.
    events: Vec<String>,
}

impl Page {
    /// Opens `url` in a browser that was started with
    /// `--remote-debugging-port=0`, and waits until it is loaded.
    pub(crate) fn open(browser: &Running, url: &str) -> Self {
        let line = browser.errors().wait_for("DevTools listening on ws://");
        let (_, endpoint) = line.split_once(" on ").unwrap();
        let address = endpoint.trim_start_matches("ws://").split('/').next();
        let address: SocketAddr = address.unwrap().parse().unwrap();
        let socket = within(async {
            let stream = Async::<TcpStream>::connect(address).await.unwrap();
            async_tungstenite::client_async(endpoint, stream).await
        });
        let (socket, _) = socket.expect("the browser speaks WebSocket");
        let mut page = Page {
            socket,
            number: 0,
            session: None,
            events: Vec::new(),
        };
        // Empty at first: a command that overtakes the loading of a page would
        // be lost with what was there before.
        let target = page.command("Target.createTarget", json!({ "url": "about:blank" }));
        let id = &target["targetId"];
        let parameters = json!({ "targetId": id, "flatten": true });
        let session = page.command("Target.attachToTarget", parameters);
        page.session = session["sessionId"].as_str().map(str::to_owned);
        page.command("Page.enable", json!({}));
        page.command("Page.navigate", json!({ "url": url }));
        page.wait_for_event("Page.loadEventFired");
        page
    }

    /// What a script of ours in the page comes to; a promise is waited for.
    pub(crate) fn evaluate(&mut self, script: &str) -> Value {
        let parameters = json!({
            "expression": script,
            "awaitPromise": true,
            "returnByValue": true,
        });
        let mut answer = self.command("Runtime.evaluate", parameters);
        let exception = &answer["exceptionDetails"];
        assert!(exception.is_null(), "{script}: {exception}");
        answer["result"]["value"].take()
    }

    fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut command = json!({
            "id": self.number,
            "method": method,
            "params": parameters,
        });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        within(async {
            let message = Message::text(command.to_string());
            self.socket.send(message).await.unwrap();
            loop {
                let mut message = self.next().await;
                if message["id"] == self.number {
                    let error = &message["error"];
                    assert!(error.is_null(), "{command}: {error}");
                    return message["result"].take();
                }
                self.events.extend(name_of(&message));
            }
        })
    }

    fn wait_for_event(&mut self, name: &str) {
        if self.events.iter().any(|event| event == name) {
            return;
        }
        within(async { while name_of(&self.next().await).as_deref() != Some(name) {} });
    }

    async fn next(&mut self) -> Value {
        let message = self.socket.next().await;
        let message = message.expect("the browser lives").unwrap();
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }
}

fn name_of(event: &Value) -> Option<String> {
    event["method"].as_str().map(str::to_owned)
}
