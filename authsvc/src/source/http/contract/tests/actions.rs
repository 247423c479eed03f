//! The same for single actions: `aclcheck`, authorizers, `topic_path`, `auth_on_publish` and `auth_on_subscribe`.

use link::Attributes;

use super::*;
use crate::action::{Action, ActionName, ActionVerdict};

const TOPIC: &str = "site/a b&c/ü";

fn action(name: ActionName, topic: &str, told: &[(&str, &str)]) -> Action {
    let attributes: Attributes = told.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Action {
        client_id: "sensor-1".into(),
        subject: "alice".into(),
        attributes: (!attributes.is_empty()).then(|| Arc::new(attributes)),
        action: name,
        topic: topic.into(),
        qos: QoS::AtLeastOnce,
        retain: false,
    }
}

fn publish() -> Action {
    action(ActionName::Publish, TOPIC, &[])
}

fn subscribe() -> Action {
    action(ActionName::Subscribe, TOPIC, &[])
}

/// Asks about `action` by the contract of `settings`, in which `BASE` is the server.
async fn rule(settings: &str, action: &Action, answers: &[String]) -> (Vec<String>, Result<Ruled, Fault>) {
    let server = Reference::start(answers).await;
    let settings = settings.replace("BASE", &format!("http://{}", server.address));
    let config: HttpConfig = toml::from_str(&settings).unwrap();
    HttpSource::check(&config).unwrap();
    let client = HttpClient::new("auth.http", &HttpClientConfig::default()).unwrap();
    let facts = Facts::of_action(action).unwrap();
    let ruled = Contract::new(&config).unwrap().rule(&facts, action, &client).await;
    (server.asked(), ruled)
}

async fn asks(settings: &str, action: &Action, answers: &[String], golden: &[&str]) {
    let (asked, _) = rule(settings, action, answers).await;
    assert_eq!(asked, golden, "{settings}");
}

async fn says(settings: &str, action: &Action, answers: &[String], expected: Result<ActionVerdict, Fault>) {
    let (_, ruled) = rule(settings, action, answers).await;
    assert_eq!(ruled.map(|(verdict, _)| verdict), expected, "{settings}\n{answers:?}");
}

const YES: Result<ActionVerdict, Fault> = Ok(ALLOWED);
const NO: Result<ActionVerdict, Fault> = Ok(ActionVerdict::Deny);
const NO_SAY: Result<ActionVerdict, Fault> = Ok(ActionVerdict::Ignore);
const FAILING: Result<ActionVerdict, Fault> = Err(Fault::Failing);
const MALFORMED: Result<ActionVerdict, Fault> = Err(Fault::Malformed);

const EMQX5: &str = "contract = 'emqx5'\nurl = 'BASE/auth'\nacl_url = 'BASE/authz'";

#[tokio::test]
async fn an_authorizer_of_emqx5_is_asked_as_described() {
    let ok = [json(r#"{"result": "allow"}"#)];
    asks(EMQX5, &publish(), &ok, &[include_str!("../golden/emqx5_authz.http")]).await;
    let all = "contract = 'emqx5'\nurl = 'BASE/auth'\nacl_url = 'BASE/authz?c=${clientid}'\n\
               acl_headers = { X-Topic = '${topic}' }\n\
               acl_body = { qos = '${qos}', retain = '${retain}', host = '${peerhost}', proto = '${proto_name}', \
               mountpoint = '${mountpoint}', attr = '${client_attrs.site}', dn = '${cert_subject}' }";
    let told = [
        ("peerhost", "192.0.2.7"),
        ("client_attrs.site", "north"),
        ("cert_subject", "O=Example, CN=sensor-1.example"),
    ];
    let retained = Action { retain: true, ..action(ActionName::Publish, "site", &told) };
    asks(all, &retained, &ok, &[include_str!("../golden/emqx5_authz_all.http")]).await;
}

#[tokio::test]
async fn answers_of_an_emqx5_authorizer_mean_what_is_documented() {
    for action in [publish(), subscribe()] {
        let means = |answer, expected| {
            let action = action.clone();
            async move { says(EMQX5, &action, &[answer], expected).await }
        };
        means(answer("204 No Content", "text/plain", ""), YES).await;
        means(json(r#"{"result": "allow"}"#), YES).await;
        means(json(r#"{"result": "deny"}"#), NO).await;
        means(json(r#"{"result": "ignore"}"#), NO_SAY).await;
        means(json(r#"{"result": "perhaps"}"#), NO_SAY).await;
        means(json("{}"), NO_SAY).await;
        means(text("403 Forbidden", r#"{"result": "allow"}"#), NO_SAY).await;
        means(text("429 Too Many Requests", ""), FAILING).await;
        means(text("503 Away", ""), FAILING).await;
        means(text("302 Found", ""), MALFORMED).await;
        means(text("200 OK", r#"{"result": "allow"}"#), MALFORMED).await;
        means(json("allow"), MALFORMED).await;
        means(json(&format!(r#"{{"result": "{}"}}"#, "x".repeat(1 << 20))), MALFORMED).await;
    }
}

const EMQX4: &str = "contract = 'emqx4'\nurl = 'BASE/auth'\nacl_url = 'BASE/acl'";

#[tokio::test]
async fn the_acl_of_emqx4_is_asked_for_and_understood_as_described() {
    let told = action(ActionName::Publish, TOPIC, &[("peerhost", "192.0.2.7")]);
    asks(EMQX4, &told, &[text("200 OK", "")], &[include_str!("../golden/emqx4_acl.http")]).await;
    for (answer, expected) in [
        (text("200 OK", ""), YES),
        (text("200 OK", "ignore"), NO_SAY),
        (text("403 Forbidden", ""), NO),
        (text("401 Unauthorized", ""), NO),
        (text("500 Oh", ""), FAILING),
        (text("302 Found", ""), MALFORMED),
    ] {
        says(EMQX4, &subscribe(), &[answer], expected).await;
    }
    let get = format!("{EMQX4}\nacl_method = 'get'\nacl_body = {{ a = '%A', t = '%t' }}");
    let (asked, _) = rule(&get, &subscribe(), &[text("200 OK", "")]).await;
    assert!(asked[0].starts_with("GET /acl?a=1&t=site%2Fa+b%26c%2F%C3%BC HTTP/1.1"), "{asked:?}");
}

const GO_AUTH: &str = "contract = 'mosquitto-go-auth'\nurl = 'BASE/user'\nacl_url = 'BASE/acl'";

#[tokio::test]
async fn aclcheck_is_asked_for_each_access() {
    let yes = || text("200 OK", "");
    asks(GO_AUTH, &publish(), &[yes()], &[include_str!("../golden/go_auth_aclcheck_write.http")]).await;
    let form = format!("{GO_AUTH}\nparams = 'form'");
    let both = [
        include_str!("../golden/go_auth_aclcheck_subscribe.http"),
        include_str!("../golden/go_auth_aclcheck_read.http"),
    ];
    asks(&form, &subscribe(), &[yes(), yes()], &both).await;
    says(GO_AUTH, &publish(), &[yes()], YES).await;
    says(GO_AUTH, &publish(), &[text("403 Forbidden", "")], NO).await;
    says(GO_AUTH, &publish(), &[text("500 Oh", "")], FAILING).await;
    says(GO_AUTH, &subscribe(), &[yes(), yes()], YES).await;
    says(GO_AUTH, &subscribe(), &[yes(), text("401 Unauthorized", "")], NO).await;
    says(GO_AUTH, &subscribe(), &[text("401 Unauthorized", ""), yes()], NO).await;
    says(GO_AUTH, &subscribe(), &[yes(), text("502 Oh", "")], FAILING).await;
    let by_json = format!("{GO_AUTH}\nanswer = 'json'");
    says(&by_json, &publish(), &[json(r#"{"ok": true, "error": ""}"#)], YES).await;
    says(&by_json, &publish(), &[json(r#"{"ok": false, "error": "no"}"#)], NO).await;
    says(&by_json, &publish(), &[json("yes")], MALFORMED).await;
    let by_text = format!("{GO_AUTH}\nanswer = 'text'");
    says(&by_text, &publish(), &[text("200 OK", "ok")], YES).await;
    says(&by_text, &publish(), &[text("200 OK", "no")], NO).await;
}

const RABBITMQ: &str = "contract = 'rabbitmq'\nurl = 'BASE/user'\nacl_url = 'BASE/topic'";

#[tokio::test]
async fn topic_path_is_asked_in_the_spelling_of_rabbitmq() {
    let tags = [("groups", "administrator monitoring")];
    let yes = [text("200 OK", "allow")];
    let write = action(ActionName::Publish, TOPIC, &tags);
    asks(RABBITMQ, &write, &yes, &[include_str!("../golden/rabbitmq_topic_write.http")]).await;
    let read = action(ActionName::Subscribe, "site/+/#", &tags);
    asks(RABBITMQ, &read, &yes, &[include_str!("../golden/rabbitmq_topic_read.http")]).await;
    for (answer, expected) in [
        (text("200 OK", "allow"), YES),
        (text("201 Created", "Allow\n"), YES),
        (text("200 OK", "deny"), NO),
        (text("200 OK", "deny not yours"), NO),
        (text("200 OK", "allowed"), MALFORMED),
        (text("403 Forbidden", "allow"), MALFORMED),
        (text("500 Oh", "allow"), FAILING),
    ] {
        says(RABBITMQ, &publish(), &[answer], expected).await;
    }
}

const VERNEMQ: &str = "contract = 'vernemq'\nurl = 'BASE/hooks'\nacl_url = 'BASE/acl'";

#[tokio::test]
async fn vernemq_is_asked_by_the_hook_of_action_and_version() {
    let ok = [json(r#"{"result": "ok"}"#)];
    let v5 = [("version", "5")];
    for (action, golden) in [
        (publish(), include_str!("../golden/vernemq_publish.http")),
        (action(ActionName::Publish, TOPIC, &v5), include_str!("../golden/vernemq_publish_m5.http")),
        (subscribe(), include_str!("../golden/vernemq_subscribe.http")),
        (action(ActionName::Subscribe, TOPIC, &v5), include_str!("../golden/vernemq_subscribe_m5.http")),
    ] {
        asks(VERNEMQ, &action, &ok, &[golden]).await;
    }
}

#[tokio::test]
async fn answers_of_vernemq_mean_what_is_documented_and_nothing_is_rewritten() {
    for (said, published, subscribed) in [
        (r#"{"result": "ok"}"#, YES, YES),
        (r#"{"result": "next"}"#, NO_SAY, NO_SAY),
        (r#"{"result": {"error": "not_allowed"}}"#, NO, NO),
        (r#"{"result": "yes"}"#, MALFORMED, MALFORMED),
        (r#"{"result": "ok", "modifiers": {"topic": "site/a b&c/ü", "qos": 1, "retain": false}}"#, YES, YES),
        (r#"{"result": "ok", "modifiers": {"throttle": 100}}"#, YES, YES),
        (r#"{"result": "ok", "modifiers": {"topic": "elsewhere"}}"#, NO, YES),
        (r#"{"result": "ok", "modifiers": {"qos": 2}}"#, NO, YES),
        (r#"{"result": "ok", "modifiers": {"payload": "aGVsbG8="}}"#, NO, YES),
    ] {
        says(VERNEMQ, &publish(), &[json(said)], published).await;
        says(VERNEMQ, &subscribe(), &[json(said)], subscribed).await;
    }
    let of = |qos: &str| format!(r#"[{{"topic": "{TOPIC}", "qos": {qos}}}]"#);
    let granted = |qos| Ok(ActionVerdict::Allow(qos));
    for (topics, expected) in [
        (of("0"), granted(QoS::AtMostOnce)),
        (of("2"), granted(QoS::ExactlyOnce)),
        (of("128"), NO),
        (of("135"), NO),
        (of("\"1\""), NO),
        (r#"[{"topic": "elsewhere", "qos": 1}]"#.to_owned(), NO),
        ("[]".to_owned(), NO),
        ("7".to_owned(), NO),
    ] {
        let before_5 = json(&format!(r#"{{"result": "ok", "topics": {topics}}}"#));
        let m5 = json(&format!(r#"{{"result": "ok", "modifiers": {{"topics": {topics}}}}}"#));
        says(VERNEMQ, &subscribe(), &[before_5], expected).await;
        says(VERNEMQ, &subscribe(), &[m5], expected).await;
    }
    says(VERNEMQ, &publish(), &[text("401 Unauthorized", "")], MALFORMED).await;
    says(VERNEMQ, &publish(), &[text("502 Bad Gateway", "")], FAILING).await;
    let ok = r#"{"result": "ok"}"#;
    let kept =
        format!("HTTP/1.1 200 OK\r\ncache-control: max-age=45\r\ncontent-length: {}\r\n\r\n{ok}", ok.len());
    let (_, ruled) = rule(VERNEMQ, &publish(), &[kept]).await;
    assert_eq!(ruled, Ok((ALLOWED, Some(Duration::from_secs(45)))));
}

#[test]
fn keys_about_actions_are_checked() {
    let told = |more: &str| {
        let settings = format!("contract = 'emqx5'\nurl = 'http://127.0.0.1/'\n{more}");
        let config: HttpConfig = toml::from_str(&settings).unwrap();
        HttpSource::check(&config).unwrap_err().to_string()
    };
    assert_eq!(told("acl_body = {}"), "auth.http.acl_body needs acl_url");
    assert_eq!(told("acl_cache = { allowed_ttl_s = 1 }"), "auth.http.acl_cache needs acl_url");
    let with = |more: &str| told(&format!("acl_url = 'http://127.0.0.1/acl'\n{more}"));
    assert!(
        with("acl_cache = { denied_ttl_s = 100000 }")
            .starts_with("auth.http.acl_cache.denied_ttl_s = 100000: ")
    );
    assert!(with("acl_body = { p = '${password}' }").starts_with("auth.http.acl_body has"));
    assert!(with("acl_headers = { host = 'x' }").starts_with("auth.http.acl_headers have"));
    assert!(with("body = { t = '${topic}' }").starts_with("auth.http.body has"));
    assert!(with("body = { t = '${client_attrs.site}' }").starts_with("auth.http.body has"));
    assert!(
        told("acl_url = 'http://a.example/acl'").starts_with("auth.http.acl_url must begin with https://")
    );
    let rabbit: HttpConfig = toml::from_str(
        "contract = 'rabbitmq'\nurl = 'http://127.0.0.1/'\nacl_url = 'http://127.0.0.1/'\nacl_method = 'get'",
    )
    .unwrap();
    let error = HttpSource::check(&rabbit).unwrap_err().to_string();
    assert_eq!(error, "auth.http.acl_method is of another contract than this; remove it");
}
