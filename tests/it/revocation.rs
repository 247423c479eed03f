//! Who is revoked goes, by an operator's word or because the password file no longer says so; nobody else does.

use std::fs;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::bytes::Connect;
use crate::harness::transport::tcp;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, DEADLINE, Server, Target, Transport, unique};

const TOKEN: &str = "tg-secret-the operator's token";
/// How long it may take until who was revoked has gone.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// A server with two users and an operator.
fn start(dir: &TempDir) -> Server {
    for user in ["anna", "bert"] {
        passwd(&dir.path().join("users"), user, &[]);
    }
    let token = dir.path().join("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    // The environment, since what is appended to the file cannot add to a section that is there.
    let mut server = Server::start(&format!(
        "[auth]\npassword_file = {:?}\nhash_timeout_ms = 60000\n[edge]\nauthenticate_timeout_ms = 60000\n",
        dir.path().join("users")
    ));
    server.restart_with(vec![("TIDEGATE__ADMIN__TOKEN_FILE", token.into_os_string())]);
    server
}

/// The status of the answer to an order.
fn order(server: &Server, token: &str, order: &str) -> u16 {
    let mut stream = tcp(server.address_of("admin"));
    let length = order.len();
    write!(
        stream,
        "POST /v1/revocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {length}\r\n\r\n{order}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

fn connect(server: &Server, user: &str, client_id: &str) -> Client {
    let at = Target { server, transport: Transport::Tls };
    at.connect(&Connect::stored(client_id).user(user, PASSWORD))
}

fn gone(device: &mut Client, reason: u8) {
    let Ok(packet) = device.poll(REVOKED_WITHIN) else { panic!("it is still there, or gone without a word") };
    assert_eq!(packet.disconnect().reason, reason);
}

#[test]
fn an_operator_ends_connections_and_keeps_clients_out_for_a_while() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir);
    let ids = ["a", "b", "c"].map(unique);
    let mut anna = connect(&server, "anna", &ids[0]);
    let mut bert = [connect(&server, "bert", &ids[1]), connect(&server, "bert", &ids[2])];
    let by_name = format!("{{\"client_id\":\"{}\",\"lasts_s\":600}}", ids[1]);
    assert_eq!(order(&server, "another token, as long", &by_name), 401);
    assert_eq!(order(&server, TOKEN, "{\"client\":\"x\"}"), 400);
    bert[0].expect_alive();

    assert_eq!(order(&server, TOKEN, &by_name), 200);
    gone(&mut bert[0], 0x98);
    bert[1].expect_alive();
    let mut again = Client::open(&server, Transport::Tcp);
    again.send(&Connect::v5(&ids[1]).user("bert", PASSWORD).bytes());
    assert_eq!(again.expect_connack().code, 0x8a, "not for a while");
    again.expect_close();

    assert_eq!(order(&server, TOKEN, "{\"user\":\"bert\"}"), 200);
    gone(&mut bert[1], 0x98);
    connect(&server, "bert", &ids[2]).expect_alive();
    anna.expect_alive();
}

#[test]
fn who_was_kept_out_for_a_while_is_so_after_the_process_was_killed() {
    let dir = TempDir::new().unwrap();
    let mut server = start(&dir);
    let env = [("TIDEGATE__ADMIN__TOKEN_FILE", "token"), ("TIDEGATE__AUTH__REVOCATIONS_FILE", "revoked")];
    let restart = |server: &mut Server| {
        server.restart_with(env.map(|(key, file)| (key, dir.path().join(file).into_os_string())).to_vec());
    };
    restart(&mut server);
    let code = |server: &Server, user: &str, id: &str| {
        let mut client = Client::open(server, Transport::Tcp);
        client.send(&Connect::v5(id).user(user, PASSWORD).bytes());
        client.expect_connack().code
    };
    let [kept_out, ended] = ["a", "b"].map(unique);
    assert_eq!(order(&server, TOKEN, "{\"user\":\"bert\",\"lasts_s\":600}"), 200);
    assert_eq!(order(&server, TOKEN, &format!("{{\"client_id\":\"{kept_out}\",\"lasts_s\":600}}")), 200);
    assert_eq!(order(&server, TOKEN, &format!("{{\"client_id\":\"{ended}\"}}")), 200);
    for _ in 0..2 {
        restart(&mut server);
        assert_eq!(code(&server, "bert", &unique("c")), 0x8a);
        assert_eq!(code(&server, "anna", &kept_out), 0x8a);
        assert_eq!(code(&server, "anna", &ended), 0);
        assert_eq!(code(&server, "anna", &unique("c")), 0);
    }
    // It is in force, though it cannot be written down, and the operator is told.
    fs::remove_file(dir.path().join("revoked")).unwrap();
    fs::create_dir(dir.path().join("revoked")).unwrap();
    assert_eq!(order(&server, TOKEN, "{\"user\":\"anna\",\"lasts_s\":600}"), 500);
    assert_eq!(code(&server, "anna", &unique("c")), 0x8a);
}

#[test]
fn a_user_who_is_removed_or_has_another_password_goes() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir);
    let mut anna = connect(&server, "anna", &unique("a"));
    let mut bert = connect(&server, "bert", &unique("b"));
    passwd(&dir.path().join("users"), "bert", &["--delete"]);
    let deadline = Instant::now() + 3 * DEADLINE;
    let Ok(packet) = bert.poll_until(deadline) else { panic!("it is still there, or gone without a word") };
    assert_eq!(packet.disconnect().reason, 0x87);
    anna.expect_alive();
    // Written anew with another salt.
    passwd(&dir.path().join("users"), "anna", &[]);
    let deadline = Instant::now() + 3 * DEADLINE;
    let Ok(packet) = anna.poll_until(deadline) else { panic!("it is still there, or gone without a word") };
    assert_eq!(packet.disconnect().reason, 0x87);
}
