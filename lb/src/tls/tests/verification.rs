//! Client certificates: who is let in, what is known about them, and that tickets do not carry the rest past.

use authsvc::AlternativeName;
use rcgen::{SerialNumber, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn asking(mode: ClientCertificateMode) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.config.client_certificates = fixture.authority.client_certificates(mode);
    fixture
}

async fn refusal(fixture: &Fixture, client: Client) -> TlsError {
    let outcome = connect(&fixture.server().acceptor(), client.config()).await;
    let error = outcome.server.err().unwrap();
    assert!(error.failure().label().contains("client_certificate"), "{error:?}");
    error
}

#[tokio::test]
async fn required_certificate_is_required() {
    let fixture = asking(ClientCertificateMode::Required);
    for version in BOTH {
        let error = refusal(&fixture, fixture.client().with_version(version)).await;
        assert!(matches!(error, TlsError::NoClientCertificate), "{error:?}");
    }
}

#[tokio::test]
async fn facts_tell_who_the_client_is() {
    for mode in [ClientCertificateMode::Required, ClientCertificateMode::Optional] {
        let fixture = asking(mode);
        let device = fixture.authority.issue("device-17", &["device-17.fleet.example", "17.example"]);
        for version in BOTH {
            let client = fixture.client().with_version(version).with_identity(&device);
            let (mut server, _client) = connect(&fixture.server().acceptor(), client.config()).await.unwrap();
            let certificate = server.facts().unwrap().certificate.unwrap();
            assert_eq!(&*certificate.subject, "device-17");
            assert_eq!(&*certificate.distinguished_name, "CN=device-17");
            let names =
                ["device-17.fleet.example", "17.example"].map(|name| AlternativeName::Dns(name.into()));
            assert_eq!(certificate.alternative_names, names);
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &device.der);
            let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!(&*certificate.fingerprint, hex);
        }
    }
}

#[tokio::test]
async fn optional_certificate_may_be_missing_but_not_bad() {
    let fixture = asking(ClientCertificateMode::Optional);
    let (mut server, _client) =
        connect(&fixture.server().acceptor(), fixture.client().config()).await.unwrap();
    assert_eq!(server.facts().unwrap().certificate, None);
    let stranger = Authority::new("another CA").issue("device", &[]);
    let error = refusal(&fixture, fixture.client().with_identity(&stranger)).await;
    assert!(matches!(error, TlsError::ClientCertificateUnknownIssuer), "{error:?}");
}

#[tokio::test]
async fn expired_certificate_is_refused() {
    let fixture = asking(ClientCertificateMode::Required);
    let expired = fixture.authority.issue_with("device", &[], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let error = refusal(&fixture, fixture.client().with_identity(&expired)).await;
    assert!(matches!(error, TlsError::ClientCertificateExpired), "{error:?}");
}

#[tokio::test]
async fn revoked_certificate_is_refused_and_others_are_not() {
    let mut fixture = asking(ClientCertificateMode::Required);
    fixture.config.client_certificates.crl_files = vec![fixture.authority.revoke(&[17])];
    let numbered = |serial: u64| {
        fixture
            .authority
            .issue_with("device", &[], |params| params.serial_number = Some(SerialNumber::from(serial)))
    };
    let error = refusal(&fixture, fixture.client().with_identity(&numbered(17))).await;
    assert!(matches!(error, TlsError::ClientCertificateRevoked), "{error:?}");
    let client = fixture.client().with_identity(&numbered(18));
    connect(&fixture.server().acceptor(), client.config()).await.unwrap();
}

/// What `openssl ca -gencrl` makes without `crl_extensions`.
const LIST_OF_VERSION_1: &str = "\
-----BEGIN X509 CRL-----
MIGTMDswCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EXDTI2MTIwMTAyMzYzNVoY
DzIxMjYxMTA3MDIzNjM1WjAKBggqhkjOPQQDAgNIADBFAiEAtHOOmlz937TSx6o1
zcGKgCtZ/DXdVdyGTC0uHeZ/rKgCIAPH0J7wsi5aspXN2NQF+IHMu9UEjCRV5tkw
ZWwksNhk
-----END X509 CRL-----
";

#[test]
fn a_revocation_list_of_version_1_is_told_from_one_that_is_none() {
    let mut fixture = asking(ClientCertificateMode::Required);
    let list = fixture.authority.revoke(&[]);
    fixture.config.client_certificates.crl_files = vec![list.clone()];
    let server = fixture.server();
    std::fs::write(&list, LIST_OF_VERSION_1).unwrap();
    let told = reload(&server).unwrap_err().to_string();
    assert!(told.contains("line 1") && told.contains("version 1"), "{told}");
}

#[tokio::test]
async fn revocation_ends_the_tickets_that_stand_for_it() {
    let mut fixture = asking(ClientCertificateMode::Required);
    fixture.config.client_certificates.crl_files = vec![fixture.authority.revoke(&[])];
    let device = fixture
        .authority
        .issue_with("device", &[], |params| params.serial_number = Some(SerialNumber::from(17_u64)));
    for version in BOTH {
        fixture.authority.revoke(&[]);
        let server = fixture.server();
        let acceptor = server.acceptor();
        let client = fixture.client().with_version(version).with_identity(&device).config();
        for resumed in [false, true] {
            let (mut near, mut far) = connect(&acceptor, Arc::clone(&client)).await.unwrap();
            let facts = near.facts().unwrap();
            assert_eq!(facts.resumed, resumed);
            assert_eq!(&*facts.certificate.unwrap().subject, "device", "also when it was not sent again");
            near.write_all(b"x").await.unwrap();
            far.read_exact(&mut [0]).await.unwrap();
        }
        fixture.authority.revoke(&[17]);
        reload(&server).unwrap();
        let outcome = connect(&acceptor, client).await;
        let error = outcome.server.err().unwrap();
        assert!(matches!(error, TlsError::ClientCertificateRevoked), "{error:?}");
    }
}

#[tokio::test]
async fn ticket_of_a_listener_that_asks_for_nothing_opens_no_other() {
    let mut fixture = Fixture::new();
    fixture.config.tickets.secret_file = Some(fixture.authority.write("secret", [7; 32]));
    let open = fixture.server();
    fixture.config.client_certificates =
        fixture.authority.client_certificates(ClientCertificateMode::Required);
    let closed = fixture.server();
    for version in BOTH {
        let client = fixture.client().with_version(version).config();
        let (mut near, mut far) = connect(&open.acceptor(), Arc::clone(&client)).await.unwrap();
        near.write_all(b"x").await.unwrap();
        far.read_exact(&mut [0]).await.unwrap();
        let error = connect(&closed.acceptor(), client).await.server.err().unwrap();
        assert!(matches!(error, TlsError::NoClientCertificate), "{error:?}");
    }
}
