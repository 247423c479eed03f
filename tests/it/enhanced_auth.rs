//! Enhanced authentication: AUTH with SCRAM-SHA-256, re-authentication, and what is refused.

use std::sync::OnceLock;

use tempfile::TempDir;

use crate::harness::bytes::{Connect, PINGREQ, PINGRESP, auth};
use crate::harness::property as p;
use crate::harness::scram::{METHOD, Scram};
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, Server, Transport, unique};

const USER: &str = "anna";

/// A server that knows one user.
fn server() -> &'static Server {
    static SERVER: OnceLock<(TempDir, Server)> = OnceLock::new();
    &SERVER
        .get_or_init(|| {
            let dir = TempDir::new().unwrap();
            let file = dir.path().join("passwords");
            passwd(&file, USER, &[]);
            let server = Server::start(&format!("[auth]\npassword_file = \"{}\"\n", file.display()));
            (dir, server)
        })
        .1
}

fn open() -> Client {
    Client::open(server(), Transport::Tls)
}

fn method(method: &str, data: &str) -> Vec<u8> {
    [p::text(p::AUTH_METHOD, method), p::text(p::AUTH_DATA, data)].concat()
}

/// Sends CONNECT with the first message and returns the server's first message.
fn begin(client: &mut Client, scram: &Scram) -> String {
    client.send(&Connect::v5(&unique("c")).with(method(METHOD, &scram.first())).bytes());
    let challenge = client.read_packet().auth();
    // v5 [MQTT-4.12.0-2], [MQTT-4.12.0-5]
    assert_eq!(challenge.reason, 0x18);
    assert_eq!(challenge.properties.text(p::AUTH_METHOD), Some(METHOD));
    challenge.properties.text(p::AUTH_DATA).unwrap().to_owned()
}

/// A connection authenticated by SCRAM.
fn authenticated() -> Client {
    let mut client = open();
    let mut scram = Scram::new(USER, PASSWORD, &unique("nonce"));
    let challenge = begin(&mut client, &scram);
    client.send(&auth(0x18, &method(METHOD, &scram.answer(&challenge))));
    let connack = client.expect_connack();
    assert_eq!(connack.code, 0);
    // v5 [MQTT-4.12.0-5]
    assert_eq!(connack.properties.text(p::AUTH_METHOD), Some(METHOD));
    let proof = connack.properties.text(p::AUTH_DATA).expect("the server's proof");
    assert!(scram.accepts(proof), "the server knows the password: {proof}");
    client
}

#[test]
fn scram_exchange_ends_in_connack_with_the_servers_proof() {
    let mut client = authenticated();
    client.expect_alive();
    client.leave();
}

#[test]
fn wrong_password_is_refused() {
    // v5 [MQTT-4.12.0-4]
    for (user, password) in [(USER, "wrong"), ("nobody", PASSWORD)] {
        let mut client = open();
        let mut scram = Scram::new(user, password, &unique("nonce"));
        let challenge = begin(&mut client, &scram);
        client.send(&auth(0x18, &method(METHOD, &scram.answer(&challenge))));
        let connack = client.expect_connack();
        assert!([0x86, 0x87].contains(&connack.code), "{connack:?}");
        client.expect_close();
    }
}

#[test]
fn unknown_method_is_refused() {
    // v5 [MQTT-4.12.0-1]
    let mut client = open();
    client.send(&Connect::v5(&unique("c")).with(method("GS2-KRB5", "x")).bytes());
    assert_eq!(client.expect_connack().code, 0x8C);
    client.expect_close();
}

#[test]
fn method_must_not_change_during_the_exchange() {
    // v5 [MQTT-4.12.0-5]
    let mut client = open();
    let mut scram = Scram::new(USER, PASSWORD, &unique("nonce"));
    let challenge = begin(&mut client, &scram);
    client.send(&auth(0x18, &method("SCRAM-SHA-1", &scram.answer(&challenge))));
    let connack = client.expect_connack();
    assert!(connack.code >= 0x80, "{connack:?}");
    client.expect_close();
}

#[test]
fn only_auth_may_follow_connect_during_the_exchange() {
    // v5 [MQTT-3.1.2-30], [MQTT-3.1.4-6]
    let mut client = open();
    begin(&mut client, &Scram::new(USER, PASSWORD, &unique("nonce")));
    client.send(PINGREQ);
    assert_eq!(client.expect_connack().code, 0x82);
    client.expect_close();
}

#[test]
fn malformed_exchange_is_refused() {
    for data in ["n,,", "n,,n=anna", "p=tls-unique,,n=anna,r=x", "\u{1}"] {
        let mut client = open();
        client.send(&Connect::v5(&unique("c")).with(method(METHOD, data)).bytes());
        let connack = client.expect_connack();
        assert!(connack.code >= 0x80, "{data:?}: {connack:?}");
        client.expect_close();
    }
}

#[test]
fn client_may_authenticate_again() {
    // v5 [MQTT-4.12.1-1]
    let mut client = authenticated();
    let mut scram = Scram::new(USER, PASSWORD, &unique("nonce"));
    client.send(&auth(0x19, &method(METHOD, &scram.first())));
    let challenge = client.read_packet().auth();
    assert_eq!(challenge.reason, 0x18);
    // Other packets are served meanwhile (section 4.12.1).
    client.send(PINGREQ);
    client.expect(PINGRESP);
    client
        .send(&auth(0x18, &method(METHOD, &scram.answer(challenge.properties.text(p::AUTH_DATA).unwrap()))));
    let done = client.read_packet().auth();
    assert_eq!(done.reason, 0x00);
    assert_eq!(done.properties.text(p::AUTH_METHOD), Some(METHOD));
    assert!(scram.accepts(done.properties.text(p::AUTH_DATA).unwrap()));
    client.expect_alive();
}

#[test]
fn failed_reauthentication_disconnects() {
    // v5 [MQTT-4.12.1-2]
    let mut client = authenticated();
    let mut scram = Scram::new(USER, "wrong", &unique("nonce"));
    client.send(&auth(0x19, &method(METHOD, &scram.first())));
    let challenge = client.read_packet().auth();
    client
        .send(&auth(0x18, &method(METHOD, &scram.answer(challenge.properties.text(p::AUTH_DATA).unwrap()))));
    client.expect_disconnect(0x87);
}

#[test]
fn reauthentication_by_another_method_is_a_protocol_error() {
    // v5 [MQTT-4.12.1-1]
    let mut client = authenticated();
    client.send(&auth(0x19, &method("OTHER", "x")));
    let reason = client.read_packet().disconnect().reason;
    assert!([0x82, 0x8C].contains(&reason), "{reason:#04x}");
    client.expect_close();
}

#[test]
fn answers_fit_the_maximum_packet_size_of_the_client() {
    // v5 [MQTT-3.15.2-2], [MQTT-3.15.2-3]: neither Reason String nor User Property.
    let mut client = open();
    let scram = Scram::new(USER, PASSWORD, &unique("nonce"));
    let connect = Connect::v5(&unique("c"))
        .with(p::four(p::MAXIMUM_PACKET_SIZE, 200))
        .with(method(METHOD, &scram.first()));
    client.send(&connect.bytes());
    let packet = client.read_packet();
    assert!(packet.bytes().len() <= 200);
    assert!(!packet.auth().properties.has(p::REASON_STRING));
}

#[test]
fn user_name_and_password_work_beside_it() {
    // v5 [MQTT-3.1.2-17], [MQTT-3.1.2-19], [MQTT-3.1.4-2]; v3.1.1 return code 4 or 5
    let mut client = open();
    client.send(&Connect::v5(&unique("c")).user(USER, PASSWORD).bytes());
    let connack = client.expect_connack();
    assert_eq!(connack.code, 0);
    // v5 [MQTT-4.12.0-6]
    assert!(!connack.properties.has(p::AUTH_METHOD));
    client.leave();
    let cases = [
        Connect::v5(&unique("c")).user(USER, "wrong"),
        Connect::v5(&unique("c")).user("nobody", PASSWORD),
        Connect::v5(&unique("c")).user_only(USER),
        Connect::v5(&unique("c")),
    ];
    for connect in cases {
        let mut client = open();
        client.send(&connect.bytes());
        let connack = client.expect_connack();
        assert!([0x86, 0x87].contains(&connack.code), "{connack:?}");
        client.expect_close();
    }
    for version in [3, 4] {
        let mut client = open();
        client.version = version;
        client.send(&Connect::new(version, &unique("c")).user(USER, "wrong").bytes());
        let connack = client.expect_connack();
        assert!([4, 5].contains(&connack.code), "{connack:?}");
        client.expect_close();
        let mut client = open();
        client.version = version;
        client.send(&Connect::new(version, &unique("c")).user(USER, PASSWORD).bytes());
        assert_eq!(client.expect_connack().code, 0);
    }
}
