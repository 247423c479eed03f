//! An HTTP endpoint of EMQX 5 that lets everybody in and is asked about their actions; how it is and what it says, a test changes.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::reference::{self, Asked, Said};

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
        let state = State { condition: Condition::Well, allowed: "shared/", asked: Vec::new() };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let answering = state.clone();
        Self { address: reference::endpoint(move |asked| answer(asked, &answering)), state }
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

fn answer(asked: &Asked, (state, changed): &(Mutex<State>, Condvar)) -> Said {
    let body = asked.json();
    if asked.path == "/auth" {
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
