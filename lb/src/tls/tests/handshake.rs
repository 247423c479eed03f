//! Handshakes: what is agreed, what is refused, and what the peer is told.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// The first bytes of a fatal alert in the clear.
const ALERT: [u8; 1] = [0x15];

async fn offer(acceptor: &TlsAcceptor, bytes: &[u8]) -> (TlsError, Vec<u8>) {
    let (near, mut far) = duplex(256 * 1024);
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let Err(error) = acceptor.accept(near).await else { panic!("accepted") };
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    (error, answer)
}

#[tokio::test]
async fn facts_tell_what_was_agreed() {
    let fixture = Fixture::new();
    let acceptor = fixture.server().acceptor();
    for version in BOTH {
        let mut client = fixture.client().with_version(version);
        client.alpn = Some(b"mqtt");
        let (mut server, _client) = connect(&acceptor, client.config()).await.unwrap();
        let facts = server.facts().unwrap();
        assert_eq!(facts.server_name.as_deref(), Some("localhost"));
        assert_eq!(facts.version, version_of(version));
        assert_eq!(facts.alpn.as_deref(), Some(&b"mqtt"[..]));
        assert_eq!(facts.certificate, None);
        assert!(!facts.resumed);
        assert_eq!(server.facts().unwrap().server_name, None, "not kept");
    }
}

#[tokio::test]
async fn aes_128_is_chosen_unless_the_client_wants_chacha20() {
    let fixture = Fixture::new();
    let acceptor = fixture.server().acceptor();
    let table = [
        (
            BOTH[0],
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
        (BOTH[1], CipherSuite::TLS13_AES_256_GCM_SHA384, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (
            BOTH[0],
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        (BOTH[1], CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ];
    for (version, first, expected) in table {
        let mut client = fixture.client().with_version(version);
        client.first_suite = Some(first);
        let (mut server, _client) = connect(&acceptor, client.config()).await.unwrap();
        assert_eq!(server.facts().unwrap().cipher_suite, expected);
    }
}

// ClientHellos with a post-quantum key are longer than a segment.
#[tokio::test]
async fn a_client_hello_in_pieces_has_its_wishes_followed() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.alpn = Some(b"h2");
    client.first_suite = Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    let wrap = |io| Trickle::new(io, 7);
    let outcome =
        connect_through(&fixture.server().acceptor(), client.config(), "localhost", 64 * 1024, wrap).await;
    let (mut server, _client) = outcome.unwrap();
    assert_eq!(server.facts().unwrap().cipher_suite, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
}

#[tokio::test]
async fn suites_and_groups_can_be_set() {
    let mut fixture = Fixture::new();
    let suites = ["TLS_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"];
    fixture.config.cipher_suites = suites.map(str::to_owned).into();
    fixture.config.groups = vec!["secp384r1".to_owned()];
    let acceptor = fixture.server().acceptor();
    for version in BOTH {
        let (mut server, client) =
            connect(&acceptor, fixture.client().with_version(version).config()).await.unwrap();
        let suite = server.facts().unwrap().cipher_suite;
        assert!(format!("{suite:?}").ends_with("AES_256_GCM_SHA384"), "{suite:?}");
        let group = client.get_ref().1.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), rustls::NamedGroup::secp384r1);
    }
    fixture.config.cipher_suites = vec!["TLS_CHACHA20_POLY1305_SHA256".to_owned()];
    let old = fixture.client().with_version(&version::TLS12);
    let error = connect(&fixture.server().acceptor(), old.config()).await.server.err().unwrap();
    assert!(matches!(error, TlsError::NoCommonVersion), "{error:?}");
}

#[tokio::test]
async fn client_without_alpn_is_accepted() {
    let fixture = Fixture::new();
    let (mut server, _client) =
        connect(&fixture.server().acceptor(), fixture.client().config()).await.unwrap();
    assert_eq!(server.facts().unwrap().alpn, None);
}

#[tokio::test]
async fn client_with_other_protocols_only_is_let_in_unless_that_is_strict() {
    let mut fixture = Fixture::new();
    for version in BOTH {
        let mut client = fixture.client().with_version(version);
        client.alpn = Some(b"x-amzn-mqtt-ca");
        let (mut server, client) = connect(&fixture.server().acceptor(), client.config()).await.unwrap();
        assert_eq!(server.facts().unwrap().alpn, None);
        assert_eq!(client.get_ref().1.alpn_protocol(), None);
    }
    fixture.config.alpn_strict = true;
    for version in BOTH {
        let mut client = fixture.client().with_version(version);
        client.alpn = Some(b"h2");
        let outcome = connect(&fixture.server().acceptor(), client.config()).await;
        let error = outcome.server.err().unwrap();
        assert!(matches!(error, TlsError::NoCommonAlpn), "{error:?}");
        assert_eq!(error.failure(), TlsFailure::Alpn);
        let told = outcome.client.err().unwrap().to_string();
        assert!(told.contains("NoApplicationProtocol"), "{told}");
    }
}

#[tokio::test]
async fn websocket_listener_agrees_to_http_and_to_mqtt() {
    let fixture = Fixture::new();
    let server = TlsServer::load(fixture.config.clone(), Application::WebSocket).unwrap();
    for protocol in [&b"http/1.1"[..], b"mqtt"] {
        let mut client = fixture.client();
        client.alpn = Some(protocol);
        let (mut stream, _client) = connect(&server.acceptor(), client.config()).await.unwrap();
        assert_eq!(stream.facts().unwrap().alpn.as_deref(), Some(protocol));
    }
}

#[tokio::test]
async fn version_below_the_minimum_is_refused() {
    let mut fixture = Fixture::new();
    fixture.config.min_version = MinVersion::Tls13;
    let client = fixture.client().with_version(&version::TLS12);
    let outcome = connect(&fixture.server().acceptor(), client.config()).await;
    let error = outcome.server.err().unwrap();
    assert!(matches!(error, TlsError::NoCommonVersion), "{error:?}");
    assert!(outcome.client.err().unwrap().to_string().contains("ProtocolVersion"));
}

#[tokio::test]
async fn certificate_is_chosen_by_server_name() {
    let mut fixture = Fixture::new();
    let exact = fixture.authority.issue("exact", &["mqtt.example.com"]);
    let wild = fixture.authority.issue("wild", &["*.example.com"]);
    let named = fixture.authority.issue("named", &["edge.example.org"]);
    fixture.config.certificates.push(fixture.authority.store("exact", &exact));
    fixture.config.certificates.push(fixture.authority.store("wild", &wild));
    let mut by_config = fixture.authority.store("named", &named);
    by_config.server_names = vec!["Edge.Example.ORG".to_owned()];
    fixture.config.certificates.push(by_config);
    let acceptor = fixture.server().acceptor();
    for (name, expected) in [
        ("mqtt.example.com", &exact),
        ("MQTT.example.com", &exact),
        ("other.example.com", &wild),
        ("edge.example.org", &named),
    ] {
        let config = fixture.client().config();
        let (mut server, client) =
            connect_through(&acceptor, config, name, 64 * 1024, |io| io).await.unwrap();
        let shown = client.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        assert_eq!(shown, expected.der, "{name}");
        assert_eq!(server.facts().unwrap().server_name.as_deref(), Some(name.to_ascii_lowercase().as_str()));
    }
    // A name that no certificate is for gets the first one, which the client then refuses.
    let config = fixture.client().config();
    let outcome = connect_through(&acceptor, config, "a.b.example.com", 64 * 1024, |io| io).await;
    assert!(outcome.client.is_err());
    let error = outcome.server.err().unwrap();
    assert_eq!(error.failure(), TlsFailure::Alert, "{error:?}");
}

#[tokio::test]
async fn bytes_that_are_not_tls_get_an_alert() {
    let fixture = Fixture::new();
    let acceptor = fixture.server().acceptor();
    for bytes in
        [&b"\x10\x1f\0\x04MQTT\x05\x02\0\x3c"[..], b"GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n", &[0xff; 300]]
    {
        let (error, answer) = offer(&acceptor, bytes).await;
        assert_eq!(error.failure(), TlsFailure::NotTls, "{error:?}");
        assert!(answer.starts_with(&ALERT), "{answer:?}");
    }
}

#[tokio::test]
async fn client_hello_of_garbage_is_refused_whatever_it_holds() {
    let fixture = Fixture::new();
    let acceptor = fixture.server().acceptor();
    for length in [1_usize, 4, 40, 4_000] {
        // A record that says handshake, a message that says ClientHello, and nonsense inside.
        let mut bytes = vec![0x16, 3, 1];
        bytes.extend_from_slice(&u16::try_from(length + 4).unwrap().to_be_bytes());
        bytes.extend_from_slice(&[1, 0]);
        bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        bytes.extend(pattern(length));
        let (error, answer) = offer(&acceptor, &bytes).await;
        assert_eq!(error.failure(), TlsFailure::NotTls, "{error:?}");
        assert!(answer.starts_with(&ALERT));
    }
}

#[tokio::test]
async fn end_of_stream_in_any_handshake_state_is_going_away() {
    let fixture = Fixture::new();
    let acceptor = fixture.server().acceptor();
    let (error, _) = offer(&acceptor, &[]).await;
    assert!(matches!(error, TlsError::WentAway));
    let (error, _) = offer(&acceptor, &[0x16, 3, 1, 0x02, 0x00, 1, 0]).await;
    assert!(matches!(error, TlsError::WentAway));
}

#[tokio::test]
async fn handshake_message_without_end_is_bounded() {
    let fixture = Fixture::new();
    let acceptor = fixture.server().acceptor();
    // One ClientHello of 60,000 bytes in records of 1,000.
    let mut bytes = Vec::new();
    for record in 0..60 {
        bytes.extend_from_slice(&[0x16, 3, 1, 0x03, 0xe8]);
        let mut body = vec![0; 1_000];
        if record == 0 {
            body[..4].copy_from_slice(&[1, 0, 0xea, 0x5c]);
        }
        bytes.extend_from_slice(&body);
    }
    let (error, _) = offer(&acceptor, &bytes).await;
    assert!(matches!(error, TlsError::TooLarge), "{error:?}");
}

#[tokio::test]
async fn tickets_leave_with_the_first_data() {
    let fixture = Fixture::new();
    let acceptor = fixture.server().acceptor();
    let client = fixture.client().with_version(&version::TLS13);
    let (mut server, mut client) = connect(&acceptor, client.config()).await.unwrap();
    assert!(server.has_unsent());
    server.write_all(b"CONNACK").await.unwrap();
    assert!(!server.has_unsent());
    let mut answer = [0; 7];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"CONNACK");
    assert_eq!(client.get_ref().1.tls13_tickets_received(), 1);
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    let fixture = Fixture::new();
    let pem = std::fs::read_to_string(fixture.authority.path("server.pem")).unwrap();
    let problem = |name: &str, text: &str| {
        let path = fixture.authority.path(name);
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let line = TlsServer::load(fixture.config.clone(), Application::Mqtt).err().unwrap().to_string();
        std::fs::write(&path, before).unwrap();
        line
    };
    let begin = "-----BEGIN CERTIFICATE-----";
    let cases = [
        (
            "server.pem",
            format!("\n{begin}\nAA!A\n-----END CERTIFICATE-----\n"),
            ": line 3: '!' is not base64",
        ),
        (
            "server.pem",
            pem[..300].to_owned(),
            ": line 1: the CERTIFICATE that begins here has no end: the file breaks off",
        ),
        (
            "server.pem",
            format!("\n{begin}\nAAAA\n-----END CERTIFICATE-----\n"),
            ": line 2: the certificate cannot be parsed: ",
        ),
        ("server.key", pem.clone(), ": holds no private key in PEM, only CERTIFICATE (line 1)"),
        (
            "server.key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
            ": line 1: the private key cannot be used: ",
        ),
    ];
    for (name, text, expected) in cases {
        let line = problem(name, &text);
        assert!(line.contains(&format!("{name}{expected}")), "{line}");
    }
}

#[test]
fn bad_configuration_is_one_line_that_names_key_and_file() {
    let fixture = Fixture::new();
    let problem = |adjust: &dyn Fn(&mut TlsConfig)| {
        let mut config = fixture.config.clone();
        adjust(&mut config);
        let line = TlsServer::load(config, Application::Mqtt).err().unwrap().to_string();
        assert!(!line.contains('\n'));
        line
    };
    assert_eq!(
        problem(&|config| config.certificates.clear()),
        "certificates: at least one certificate is needed"
    );
    let line = problem(&|config| config.certificates[0].key_file = "/nonexistent/key.pem".into());
    assert!(line.starts_with("certificates.key_file: cannot read /nonexistent/key.pem: "), "{line}");
    let other = fixture.authority.store("other", &fixture.authority.issue("other", &["other"]));
    let line = problem(&|config| config.certificates[0].key_file.clone_from(&other.key_file));
    assert!(line.contains("other.key: is not the key of ") && line.contains("server.pem"), "{line}");
    let line =
        problem(&|config| config.tickets.secret_file = Some(fixture.authority.write("secret", [7; 31])));
    assert!(
        line.starts_with("tickets.secret_file: ") && line.ends_with("must hold at least 32 bytes"),
        "{line}"
    );
    let line = problem(&|config| config.groups = vec!["P-256".to_owned()]);
    assert!(line.starts_with("groups: \"P-256\" is none of X25519MLKEM768, "), "{line}");
    let line = problem(&|config| config.certificate_warning_days = 4_000);
    assert!(line.starts_with("certificate_warning_days: "), "{line}");
    let line = problem(&|config| config.list_warning_hours = 9_000);
    assert!(line.starts_with("list_warning_hours: "), "{line}");
    let line = problem(&|config| config.tickets.rotate_s = 1);
    assert!(line.starts_with("tickets.rotate_s: "), "{line}");
    let line = problem(&|config| config.fragment_bytes_max = Some(100));
    assert!(line.starts_with("fragment_bytes_max: "), "{line}");
    let line = problem(&|config| config.client_certificates.mode = ClientCertificateMode::Required);
    assert!(line.starts_with("client_certificates.ca_file: "), "{line}");
}
