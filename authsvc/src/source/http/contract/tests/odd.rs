//! What is not the default of a contract: other methods and encodings, names that must be encoded wherever they stand, and answers
//! that are cut off, too long, nested too deep, from elsewhere or no HTTP. The files in `golden/` were encoded by another tool.

use super::*;

/// Who has to be encoded everywhere.
fn odd() -> Facts {
    Facts {
        username: Some("ü \"a&b=c/d+e%2f#?".into()),
        password: "p'w\\\t€".as_bytes().into(),
        client_id: "{x}".into(),
        ..Facts::sample()
    }
}

#[tokio::test]
async fn names_are_encoded_for_where_they_stand() {
    let emqx5 = "contract = 'emqx5'\nurl = 'BASE/auth/${username}?id=${clientid}'";
    let rabbitmq = "contract = 'rabbitmq'\nurl = 'BASE/auth/user'";
    for (settings, golden) in [
        (emqx5, include_str!("../golden/emqx5_odd.http")),
        (EMQX4, include_str!("../golden/emqx4_odd.http")),
        (GO_AUTH, include_str!("../golden/go_auth_odd.http")),
        (rabbitmq, include_str!("../golden/rabbitmq_odd.http")),
        (VERNEMQ, include_str!("../golden/vernemq_odd.http")),
    ] {
        sends(settings, &odd(), &[text("403 Forbidden", "deny")], &[golden]).await;
    }
}

// RFC 3986 section 5.2.4: an endpoint would answer for another resource.
#[tokio::test]
async fn nobody_is_asked_about_whose_name_would_lead_elsewhere() {
    for name in [".", ".."] {
        for settings in
            ["contract = 'emqx5'\nurl = 'BASE/u/${username}/may'", "contract = 'emqx4'\nurl = 'BASE/u/%u'"]
        {
            let facts = Facts { username: Some(name.into()), ..Facts::sample() };
            sends(settings, &facts, &[], &[]).await;
        }
    }
}

#[tokio::test]
async fn emqx_is_asked_by_other_methods_and_in_other_encodings() {
    let nested = "contract = 'emqx5'\nurl = 'BASE/auth'\nheaders = { X-Request-Source = '${clientid}' }\n\
                  body = { password = '${password}', device = { id = '${clientid}', tags = ['${peerhost}', 7, true] } }";
    sends(nested, &Facts::sample(), &[json("{}")], &[include_str!("../golden/emqx5_nested.http")]).await;
    let put = format!("{EMQX4_SUPERUSER}\nmethod = 'put'\nheaders = {{ content-type = 'application/json' }}");
    let golden =
        [include_str!("../golden/emqx4_auth_json.http"), include_str!("../golden/emqx4_superuser_json.http")];
    sends(&put, &Facts::sample(), &[text("200 OK", ""), text("200 OK", "")], &golden).await;
}

#[tokio::test]
async fn mosquitto_go_auth_is_asked_by_other_methods() {
    let ok = [text("200 OK", ""), text("200 OK", "")];
    let get = format!("{GO_AUTH}\nmethod = 'get'");
    sends(&get, &Facts::sample(), &ok, &[include_str!("../golden/go_auth_getuser_get.http")]).await;
    let put = go_auth("method = 'put'\nparams = 'form'");
    let golden = [
        include_str!("../golden/go_auth_getuser_put.http"),
        include_str!("../golden/go_auth_superuser_form.http"),
    ];
    sends(&put, &Facts::sample(), &ok, &golden).await;
}

#[tokio::test]
async fn rabbitmq_is_asked_about_a_virtual_host_by_get() {
    let get = format!("{RABBITMQ}\nvhost = 'mqtt'\nmethod = 'get'");
    let ok = [text("200 OK", "allow monitoring policymaker"), text("200 OK", "allow")];
    let golden = [
        include_str!("../golden/rabbitmq_user_of_mqtt_get.http"),
        include_str!("../golden/rabbitmq_vhost_get.http"),
    ];
    sends(&get, &Facts::sample(), &ok, &golden).await;
}

#[tokio::test]
async fn vernemq_is_told_that_there_is_no_user_name() {
    let nameless = Facts {
        username: None,
        password: Bytes::new(),
        clean_start: false,
        version: ProtocolVersion::V31,
        ..Facts::sample()
    };
    let golden = [include_str!("../golden/vernemq_register_without_user.http")];
    sends(VERNEMQ, &nameless, &[json(r#"{"result": "ok"}"#)], &golden).await;
}

/// Each contract, with an answer that lets the client in.
fn contracts() -> Vec<(String, &'static str, &'static str)> {
    let go_auth = |answer: &str| format!("{GO_AUTH}\nanswer = '{answer}'");
    vec![
        (EMQX5.to_owned(), "application/json", r#"{"result": "allow"}"#),
        (EMQX4.to_owned(), "text/plain", ""),
        (go_auth("status"), "text/plain", ""),
        (go_auth("json"), "application/json", r#"{"ok": true}"#),
        (go_auth("text"), "text/plain", "ok"),
        ("contract = 'rabbitmq'\nurl = 'BASE/auth/user'".to_owned(), "text/plain", "allow"),
        (VERNEMQ.to_owned(), "application/json", r#"{"result": "ok"}"#),
    ]
}

#[tokio::test]
async fn an_answer_in_pieces_is_one() {
    for (settings, kind, body) in contracts() {
        let pieces: String =
            body.chars().map(|piece| format!("1\r\n{piece}\r\n")).chain(["0\r\n\r\n".to_owned()]).collect();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
        means(&settings, &[head + &pieces], allow()).await;
        means(&settings, &[answer("200 OK", kind, body)], allow()).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_too_long_or_no_http_lets_nobody_in() {
    let client = client();
    for (settings, kind, body) in contracts() {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n");
        let long = body.to_owned() + &" ".repeat(70_000);
        let chunk = format!("{:x}\r\n{long}\r\n", long.len());
        let wild = [
            // The connection ends before what was announced has come.
            format!("{head}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len() + 1),
            format!("{head}connection: close\r\ntransfer-encoding: chunked\r\n\r\n1\r\n"),
            answer("200 OK", kind, &long),
            format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"),
            format!("{head}content-length: 18446744073709551616\r\n\r\n{body}"),
            format!("{head}content-length: 1\r\ncontent-length: 2\r\n\r\n{body}"),
            format!("{head}x: {}\r\ncontent-length: {}\r\n\r\n{body}", "x".repeat(1_000_000), body.len()),
            format!("{head}{}content-length: {}\r\n\r\n{body}", "x: y\r\n".repeat(10_000), body.len()),
            "HTTP/1.1 200\u{0} OK\r\n\r\n".to_owned(),
            "220 mail.example ESMTP\r\n\r\n".to_owned(),
            "\u{16}\u{3}\u{1}\u{0}\r\n\r\n".to_owned(),
        ];
        for answer in wild {
            let (asked, answered) =
                ask_by(&client, &settings, &Facts::sample(), std::slice::from_ref(&answer)).await;
            let shown: String = answer.chars().take(120).collect();
            assert!(
                answered.is_err() && asked.len() <= 2,
                "{settings}\n{shown}\n{:?}",
                answered.map(|a| a.verdict)
            );
        }
    }
}

#[tokio::test]
async fn nobody_is_sent_elsewhere() {
    let client = client();
    for (settings, kind, body) in contracts() {
        let away = format!(
            "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (asked, answered) =
            ask_by(&client, &settings, &Facts::sample(), &[away, answer("200 OK", kind, body)]).await;
        assert_eq!(asked.len(), 1, "{settings}");
        let is_let_in = matches!(answered, Ok(Reply { verdict: Verdict::Allow(_), .. }));
        assert!(!is_let_in, "{settings}");
    }
}

#[tokio::test]
async fn a_body_that_is_none_of_the_contract_lets_nobody_in() {
    let deep = format!("{{\"result\": {}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    let read: Vec<_> = contracts().into_iter().filter(|(_, _, body)| !body.is_empty()).collect();
    assert_eq!(read.len(), 5, "the others go by the status");
    let client = client();
    for (settings, kind, body) in read {
        for wild in [
            "",
            "null",
            "true",
            "\"ok\"",
            "{\"result\": true, \"ok\": \"true\"}",
            "{\"result\": \"ok\\u0000\", \"ok\": 1}",
            "{\"result\": \"ALLOW\", \"ok\": null}",
            "{\"error\": \"\", \"OK\": true, \"Result\": \"allow\"}",
            &deep,
            &format!("{body}x"),
            &format!("\u{feff}{body}"),
        ] {
            let (_, answered) =
                ask_by(&client, &settings, &Facts::sample(), &[answer("200 OK", kind, wild)]).await;
            let is_let_in = matches!(answered, Ok(Reply { verdict: Verdict::Allow(_), .. }));
            let shown: String = wild.chars().take(60).collect();
            assert!(!is_let_in, "{settings}\n{shown}");
        }
    }
}
