//! HTTP endpoints that were written for other brokers, by their public descriptions, and the source that asks them.

use serde_json::json;

use super::{Credential, NOT_AUTHORIZED, Refusal, Setup, WRONG, hold, rules};
use crate::harness::reference::{Asked, Said, endpoint};

const PASSWORD: &str = "tg-secret-only & in = this + test";

/// Whether the endpoint knows them.
fn knows(user: Option<&str>, password: Option<&str>) -> bool {
    matches!(user, Some("alice" | "admin")) && password == Some(PASSWORD)
}

fn knows_form(asked: &Asked) -> bool {
    knows(asked.field("username").as_deref(), asked.field("password").as_deref())
}

fn knows_json(asked: &Asked) -> bool {
    let body = asked.json();
    knows(body["username"].as_str(), body["password"].as_str())
}

fn is_admin(asked: &Asked) -> bool {
    asked.field("username").as_deref() == Some("admin") || asked.json()["username"] == "admin"
}

fn status(is_yes: bool) -> Said {
    (if is_yes { 200 } else { 403 }, String::new())
}

/// A source whose endpoint answers this; `wrong` is what a wrong password is answered.
fn setup(
    name: &str,
    answer: impl Fn(&Asked) -> Said + Send + Sync + 'static,
    settings: &str,
    wrong: Refusal,
) -> Setup {
    let base = format!("http://{}", endpoint(answer));
    let config = format!("[auth.http]\n{}", settings.replace("BASE", &base));
    let by = |user: &str, password: &str| Credential::password(user, password);
    Setup::new(name, config, by("alice", PASSWORD), by("admin", PASSWORD)).refuses([
        (by("alice", "tg-secret-guess"), wrong),
        (by("alice", ""), wrong),
        (by("nobody", PASSWORD), wrong),
    ])
}

fn emqx5(asked: &Asked) -> Said {
    let answer = match asked.json()["username"].as_str() {
        _ if !knows_json(asked) => json!({"result": "deny"}),
        Some("admin") => json!({"result": "allow", "is_superuser": true}),
        _ => json!({"result": "allow", "acl": [
            {"permission": "allow", "action": "all", "topic": "own/${username}/#"},
            {"permission": "allow", "action": "subscribe", "topics": ["shared/#"]},
        ]}),
    };
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/auth"));
    assert_eq!(asked.headers["x-api-key"], "tg-secret-key of the endpoint");
    (200, answer.to_string())
}

#[test]
fn an_endpoint_for_emqx_5() {
    let settings =
        "contract = 'emqx5'\nurl = 'BASE/auth'\nheaders = { x-api-key = 'tg-secret-key of the endpoint' }\n";
    let ignoring = |asked: &Asked| {
        let (status, said) = emqx5(asked);
        (status, said.replace("deny", "ignore"))
    };
    hold(vec![
        setup("an endpoint for EMQX 5", emqx5, settings, NOT_AUTHORIZED),
        setup("an endpoint for EMQX 5 that ignores", ignoring, settings, WRONG),
    ]);
}

fn emqx4(asked: &Asked) -> Said {
    match asked.path.as_str() {
        "/mqtt/auth" => (if knows_form(asked) { 200 } else { 401 }, String::new()),
        "/mqtt/superuser" => status(is_admin(asked)),
        path => panic!("{path}"),
    }
}

#[test]
fn an_endpoint_for_emqx_4_and_nanomq() {
    let settings = "contract = 'emqx4'\nurl = 'BASE/mqtt/auth'\nsuperuser_url = 'BASE/mqtt/superuser'\n";
    let rules = rules("alice", "nobody");
    hold(vec![
        setup("an endpoint for EMQX 4", emqx4, &format!("{settings}{rules}"), WRONG),
        setup("an endpoint for NanoMQ, by GET", emqx4, &format!("{settings}method = 'get'\n{rules}"), WRONG),
    ]);
}

/// An endpoint for mosquitto-go-auth that is told and answers in this way.
fn go_auth(params: &str, answer: &str) -> Setup {
    let (is_form, mode) = (params == "form", answer.to_owned());
    let endpoint = move |asked: &Asked| {
        let is_yes = match asked.path.as_str() {
            "/user" if is_form => knows_form(asked),
            "/user" => knows_json(asked),
            "/superuser" => is_admin(asked),
            path => panic!("{path}"),
        };
        match mode.as_str() {
            "status" => status(is_yes),
            "json" => (200, json!({"ok": is_yes, "error": if is_yes { "" } else { "unknown" }}).to_string()),
            _ => (200, if is_yes { "ok" } else { "unknown" }.to_owned()),
        }
    };
    let settings = format!(
        "contract = 'mosquitto-go-auth'\nurl = 'BASE/user'\nsuperuser_url = 'BASE/superuser'\nparams = '{params}'\n\
         answer = '{answer}'\n{}",
        rules("alice", "nobody")
    );
    setup(&format!("an endpoint for mosquitto-go-auth, {params} and {answer}"), endpoint, &settings, WRONG)
}

#[test]
fn an_endpoint_for_mosquitto_go_auth() {
    let all = ["json", "form"].map(|params| ["status", "json", "text"].map(|answer| go_auth(params, answer)));
    hold(all.into_iter().flatten().collect());
}

fn rabbitmq(asked: &Asked) -> Said {
    let said = match (asked.path.as_str(), asked.field("username").as_deref()) {
        ("/auth/vhost", _) if asked.field("vhost").as_deref() == Some("/") => "allow",
        ("/auth/user", Some("alice")) if knows_form(asked) => "allow staff",
        ("/auth/user", Some("admin")) if knows_form(asked) => "allow everything",
        _ => "deny",
    };
    (200, said.to_owned())
}

#[test]
fn an_endpoint_for_rabbitmq() {
    let rules = rules("group:staff", "group:everything");
    let settings = |more: &str| {
        format!("contract = 'rabbitmq'\nurl = 'BASE/auth/user'\nvhost_url = 'BASE/auth/vhost'\n{more}{rules}")
    };
    hold(vec![
        setup("an endpoint for RabbitMQ", rabbitmq, &settings(""), WRONG),
        setup("an endpoint for RabbitMQ, by GET", rabbitmq, &settings("method = 'get'\n"), WRONG),
    ]);
}

fn vernemq(asked: &Asked) -> Said {
    let hook = asked.headers["vernemq-hook"].as_str();
    assert!(matches!(hook, "auth_on_register" | "auth_on_register_m5"), "{hook}");
    let said = if knows_json(asked) {
        json!({"result": "ok"})
    } else {
        json!({"result": {"error": "invalid_credentials"}})
    };
    (200, said.to_string())
}

#[test]
fn an_endpoint_for_vernemq() {
    let settings = format!("contract = 'vernemq'\nurl = 'BASE/hooks'\n{}", rules("alice", "admin"));
    hold(vec![setup("an endpoint for VerneMQ", vernemq, &settings, WRONG)]);
}
