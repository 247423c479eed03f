//! An HTTP endpoint of EMQX 5 that lets everybody in and is asked about their actions; how it is and what it says, a test changes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

/// How the endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Well,
    /// Each answer takes so long.
    Slow(Duration),
    Failing,
    Hanging,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) condition: Condition,
    /// May be done below this and `own/`.
    pub(crate) allowed: &'static str,
    /// Questions about actions.
    pub(crate) asked: Vec<Value>,
}

/// An endpoint of EMQX 5 that lets everybody in.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<(Mutex<State>, Condvar)>,
}

impl Endpoint {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { condition: Condition::Well, allowed: "shared/", asked: Vec::new() };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let serving = state.clone();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let state = serving.clone();
                std::thread::spawn(move || serve(socket, &state));
            }
        });
        Self { address, state }
    }

    pub(crate) fn is(&self, condition: Condition) {
        self.state.0.lock().unwrap().condition = condition;
        self.state.1.notify_all();
    }

    pub(crate) fn allow(&self, allowed: &'static str) {
        self.state.0.lock().unwrap().allowed = allowed;
    }

    pub(crate) fn asked(&self) -> usize {
        self.state.0.lock().unwrap().asked.len()
    }

    /// The section that names it, with more settings.
    pub(crate) fn section(&self, more: &str) -> String {
        let address = self.address;
        format!(
            "[auth.http]\ncontract = 'emqx5'\nurl = 'http://{address}/auth'\nacl_url = 'http://{address}/acl'\n\
             acl_body = {{ user = '${{username}}', topic = '${{topic}}', action = '${{action}}', qos = '${{qos}}', \
             host = '${{peerhost}}', site = '${{client_attrs.site}}' }}\n{more}"
        )
    }
}

fn serve(mut socket: TcpStream, state: &(Mutex<State>, Condvar)) {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        let whole = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let length = head.to_lowercase().split_once("content-length: ")?.1.to_owned();
            let length: usize = length.lines().next()?.parse().ok()?;
            (body.len() >= length).then(|| (head.to_owned(), body.to_owned()))
        });
        if let Some((head, body)) = whole {
            read.clear();
            let body: Value = serde_json::from_str(&body).unwrap();
            let (status, said) = answer(&head, &body, state);
            let length = said.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            if socket.write_all(format!("{head}{said}").as_bytes()).is_err() {
                return;
            }
        }
        match socket.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(length) => read.extend_from_slice(&chunk[..length]),
        }
    }
}

fn answer(head: &str, body: &Value, (state, changed): &(Mutex<State>, Condvar)) -> (u16, String) {
    if head.starts_with("POST /auth") {
        let is_superuser = body["username"] == "observer";
        let attrs = r#"{"site": "north", "unused": "x"}"#;
        let said =
            format!(r#"{{"result": "allow", "is_superuser": {is_superuser}, "client_attrs": {attrs}}}"#);
        return (200, said);
    }
    let mut state = state.lock().unwrap();
    state.asked.push(body.clone());
    while state.condition == Condition::Hanging {
        state = changed.wait(state).unwrap();
    }
    let (condition, allowed) = (state.condition, state.allowed);
    drop(state);
    match condition {
        Condition::Slow(pause) => std::thread::sleep(pause),
        Condition::Failing => return (500, String::new()),
        Condition::Well | Condition::Hanging => {}
    }
    let topic = body["topic"].as_str().unwrap();
    let own = format!("own/{}/", body["user"].as_str().unwrap());
    let is_allowed = topic.starts_with(&own) || topic.starts_with(allowed);
    (200, format!(r#"{{"result": "{}"}}"#, if is_allowed { "allow" } else { "deny" }))
}
