//! The source against a real directory: Debian's `slapd`, with a database of its own in a folder of the test, over LDAP,
//! StartTLS and LDAPS.

use std::time::Instant;

use bytes::Bytes;
use mqtt::ProtocolVersion;
use prometheus_client::registry::Registry;
use testkit::directory::{Contents, Directory};

use super::*;
use crate::eventually::until;
use crate::http_client::server::Certificates;
use crate::metrics::Metrics;
use crate::slowdown::SlowDown;
use crate::{AuthConfig, Authenticator as _, AuthorizationConfig, Decision, Local};

const SUFFIX: &str = "dc=example,dc=org";

/// Users, and groups that hold them.
const ENTRIES: &str = r"dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups

dn: ou=other,dc=example,dc=org
objectClass: organizationalUnit
ou: other

dn: cn=service,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: service
userPassword: service-secret

dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
departmentNumber: 7
userPassword: right
memberOf: cn=operators,ou=groups,dc=example,dc=org
memberOf: cn=readers,ou=other,dc=example,dc=org

dn: uid=a\2cb\2a(c),ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: a,b*(c)
cn: Odd
sn: O
userPassword: right

dn: uid=twin,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: twin
cn: Twin
sn: T
userPassword: right

dn: uid=twin,ou=other,dc=example,dc=org
objectClass: inetOrgPerson
uid: twin
cn: Twin
sn: T
userPassword: right

dn: cn=operators,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: operators
member: uid=alice,ou=people,dc=example,dc=org

dn: cn=readers,ou=other,dc=example,dc=org
objectClass: groupOfNames
cn: readers
member: uid=alice,ou=people,dc=example,dc=org
";

fn start() -> Directory {
    let rules = format!(
        "overlay memberof\naccess to attrs=userPassword by anonymous auth by * none\n\
         access to * by self read by dn.exact=\"cn=service,{SUFFIX}\" read by * none\n"
    );
    let modules = "moduleload memberof\n";
    let wordy = format!(
        "dn: uid=wordy,ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: wordy\ncn: Wordy\nsn: W\nuserPassword: right\n\
         description: {}\n",
        "x".repeat(ATTRIBUTE_BYTES_MAX + 1)
    );
    let entries = &format!("{ENTRIES}\n{wordy}");
    Directory::start(Contents { suffix: SUFFIX, entries, modules, rules: &rules })
}

fn ldap(directory: &Directory) -> String {
    format!("url = '{}'\n", directory.ldap())
}

fn ca(directory: &Directory) -> String {
    format!("ca_file = '{}'\n", directory.ca_file().display())
}

/// Searches as the service.
fn searching(directory: &Directory, more: &str) -> String {
    let file = directory.write("service", "service-secret\n");
    format!(
        "{}search_base = '{SUFFIX}'\nservice_dn = 'cn=service,{SUFFIX}'\nservice_password_file = '{}'\n{more}",
        ldap(directory),
        file.display()
    )
}

fn source(settings: &str) -> LdapSource {
    let config: LdapConfig = toml::from_str(settings).unwrap();
    let context = SourceContext {
        metrics: Metrics::register(&mut Registry::default()),
        slow_down: Arc::new(SlowDown::new(10, Duration::from_secs(10), 1000)),
    };
    LdapSource::start(&config, &context).unwrap()
}

fn request(user: &str, password: &str) -> Request {
    Request {
        client_id: "c".into(),
        username: Some(user.into()),
        password: Some(Bytes::copy_from_slice(password.as_bytes())),
        peer: "127.0.0.1:4711".parse().unwrap(),
        is_local: true,
        listener: "mqtt".into(),
        certificate: None,
        protocol: ProtocolVersion::V5,
        clean_start: true,
    }
}

async fn decide(source: &LdapSource, user: &str, password: &str) -> Verdict {
    source.decide(&request(user, password)).await
}

fn grant(subject: &str, groups: &[&str]) -> Verdict {
    let groups = groups.iter().map(|group| Arc::from(*group)).collect();
    Verdict::Allow(Grant { groups, ..Grant::of(subject.into()) })
}

const WRONG: Verdict = Verdict::Deny(DenyReason::BadCredentials);
const NAMED: &str = "user_dn = 'uid=${username},ou=people,dc=example,dc=org'\n";
const NO_CACHE: &str = "cache = { allowed_ttl_s = 0, denied_ttl_s = 0 }\n";

#[tokio::test]
async fn who_can_bind_is_let_in() {
    let directory = start();
    let named = source(&format!("{}{NAMED}", ldap(&directory)));
    assert_eq!(decide(&named, "alice", "right").await, grant("alice", &[]));
    assert_eq!(decide(&named, "alice", "wrong").await, WRONG);
    assert_eq!(decide(&named, "nobody", "right").await, WRONG);
    let searching = source(&searching(&directory, "attributes = ['departmentNumber']\n"));
    let Verdict::Allow(found) = decide(&searching, "alice", "right").await else {
        panic!("alice is refused")
    };
    assert_eq!(found.attributes.get("departmentNumber").map(|value| &**value), Some("7"));
    assert_eq!(decide(&searching, "alice", "wrong").await, WRONG);
    assert_eq!(decide(&searching, "nobody", "right").await, Verdict::Unknown);
    assert_eq!(decide(&searching, "twin", "right").await, Verdict::Deny(DenyReason::NotAuthorized));
}

// The directory answers; what is wrong with one of its users holds up no other.
#[tokio::test]
async fn a_user_of_whom_it_says_too_much_is_refused_alone() {
    let directory = start();
    let source = source(&searching(&directory, &format!("attributes = ['description']\n{NO_CACHE}")));
    for _ in 0..20 {
        assert_eq!(decide(&source, "wordy", "right").await, Verdict::Deny(DenyReason::NotAuthorized));
    }
    assert_eq!(decide(&source, "alice", "right").await, grant("alice", &[]));
}

#[tokio::test]
async fn who_guesses_cannot_tell_who_is_known() {
    let directory = start();
    let config = AuthConfig {
        ldap: Some(toml::from_str(&searching(&directory, NO_CACHE)).unwrap()),
        ..AuthConfig::default()
    };
    let rules = AuthorizationConfig::default();
    let local = Local::start(&config, &rules, &mut Registry::default()).unwrap();
    let mut told = Vec::new();
    for user in ["alice", "nobody"] {
        let mut decisions = Vec::new();
        for n in 0..20 {
            decisions.push(local.authenticate(request(user, &format!("guess-{n}"))).await);
        }
        told.push(decisions);
    }
    assert_eq!(told[0], told[1]);
    let slowed_down = Decision::Deny(DenyReason::SlowedDown);
    assert_eq!(told[1].iter().filter(|decision| **decision == slowed_down).count(), 10);
}

#[tokio::test]
async fn an_empty_password_is_no_password() {
    let directory = start();
    for settings in [format!("{}{NAMED}", ldap(&directory)), searching(&directory, "")] {
        assert_eq!(decide(&source(&settings), "alice", "").await, WRONG);
    }
}

#[tokio::test]
async fn a_user_is_called_as_the_directory_calls_it() {
    let directory = start();
    for settings in [format!("{}{NAMED}", ldap(&directory)), searching(&directory, "")] {
        assert_eq!(decide(&source(&settings), "ALICE", "right").await, grant("alice", &[]));
    }
    let as_it_came = format!("{}{NAMED}username_attribute = ''\n", ldap(&directory));
    assert_eq!(decide(&source(&as_it_came), "ALICE", "right").await, grant("ALICE", &[]));
}

#[tokio::test]
async fn no_name_changes_what_is_asked() {
    let directory = start();
    let (named, searching) =
        (source(&format!("{}{NAMED}", ldap(&directory))), source(&searching(&directory, "")));
    for source in [&named, &searching] {
        assert_eq!(decide(source, "a,b*(c)", "right").await, grant("a,b*(c)", &[]));
    }
    for name in ["*", "ali*", "alice)(uid=*", "alice)(|(uid=*)", "\\2a", "x\\"] {
        assert_eq!(decide(&searching, name, "right").await, Verdict::Unknown, "{name:?}");
    }
    for name in ["alice,ou=people", "alice+cn=Alice", "x,ou=other", "#alice", " alice\\"] {
        assert_eq!(decide(&named, name, "right").await, WRONG, "{name:?}");
    }
}

#[tokio::test]
async fn groups_come_from_an_attribute_or_a_search() {
    let directory = start();
    let below = format!("group_base = 'ou=groups,{SUFFIX}'\n");
    let filter = "group_filter = '(&(objectClass=groupOfNames)(member=${dn}))'\n";
    for (more, groups) in [
        ("group_attribute = 'memberOf'\n".to_owned(), &["operators", "readers"][..]),
        (format!("group_attribute = 'MEMBEROF'\n{below}"), &["operators"]),
        (format!("{filter}{below}"), &["operators"]),
        (format!("{filter}group_base = '{SUFFIX}'\n"), &["operators", "readers"]),
    ] {
        assert_eq!(
            decide(&source(&searching(&directory, &more)), "alice", "right").await,
            grant("alice", groups),
            "{more}"
        );
    }
    let by_itself = format!("{}{NAMED}group_attribute = 'memberOf'\n", ldap(&directory));
    assert_eq!(
        decide(&source(&by_itself), "alice", "right").await,
        grant("alice", &["operators", "readers"])
    );
}

#[tokio::test]
async fn tls_is_by_ldaps_or_starttls_and_wants_the_right_authority() {
    let directory = start();
    let ldaps = format!("url = '{}'\n{NAMED}", directory.ldaps());
    let starttls = format!("{}starttls = true\n{NAMED}", ldap(&directory));
    let other = Certificates::make(false);
    let others = format!("ca_file = '{}'\n", other.file("ca.pem").display());
    for settings in [ldaps, starttls] {
        let right = source(&format!("{settings}{}", ca(&directory)));
        assert_eq!(decide(&right, "alice", "right").await, grant("alice", &[]));
        assert_eq!(decide(&right, "alice", "wrong").await, WRONG);
        let wrong = source(&format!("{settings}{others}"));
        assert_eq!(decide(&wrong, "alice", "right").await, Verdict::Deny(DenyReason::Unavailable));
    }
}

#[tokio::test]
async fn a_directory_that_is_away_is_asked_again_when_it_is_back() {
    let mut directory = start();
    let source = source(&searching(&directory, NO_CACHE));
    assert_eq!(decide(&source, "alice", "right").await, grant("alice", &[]));
    directory.stop();
    for _ in 0..6 {
        let begun = Instant::now();
        assert_eq!(decide(&source, "alice", "right").await, Verdict::Deny(DenyReason::Unavailable));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
    directory.start_again();
    until("it is asked again", async || decide(&source, "alice", "right").await == grant("alice", &[])).await;
}

#[tokio::test]
async fn a_directory_that_hangs_holds_nobody_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("url = 'ldap://{}'\ntimeout_ms = 200\n", silent.local_addr().unwrap());
    let begun = Instant::now();
    assert_eq!(
        decide(&source(&format!("{url}{NAMED}")), "alice", "right").await,
        Verdict::Deny(DenyReason::Unavailable)
    );
    let ignoring = source(&format!("{url}{NAMED}when_away = 'ignore'\n"));
    assert_eq!(decide(&ignoring, "alice", "right").await, Verdict::Ignore);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn what_is_wrong_is_named() {
    let told = |settings: &str| {
        let config: LdapConfig = toml::from_str(settings).unwrap();
        config.check().unwrap_err().to_string()
    };
    let local = "url = 'ldap://127.0.0.1'\n";
    for (settings, expected) in [
        (format!("url = 'ldap://ldap.example'\n{NAMED}"), "url must be ldaps://, or have starttls"),
        (format!("url = 'http://ldap.example'\n{NAMED}"), "url must begin with ldaps://"),
        (format!("url = 'ldaps://ldap.example/dc=x'\n{NAMED}"), "url must have nothing but a host"),
        (format!("url = 'ldaps://ldap.example'\nstarttls = true\n{NAMED}"), "starttls is for ldap:// only"),
        (local.to_owned(), "user_dn or search_base is needed"),
        (format!("{local}user_dn = 'cn=all'"), "user_dn must have ${username} in it"),
        (format!("{local}{NAMED}search_base = 'dc=x'"), "search_base is instead of user_dn"),
        (
            format!("{local}search_base = 'dc=x'\nsearch_filter = 'uid=${{username}}('"),
            "search_filter is no filter",
        ),
        (format!("{local}{NAMED}group_filter = '(member=${{dn}})'"), "group_filter needs group_base"),
        (
            format!("{local}{NAMED}service_dn = 'cn=x'"),
            "service_dn and service_password_file need each other",
        ),
        (format!("{local}{NAMED}timeout_ms = 0"), "timeout_ms = 0: must be 1 to 300000"),
    ] {
        let text = told(&settings);
        assert!(text.starts_with(&format!("auth.ldap.{expected}")), "{settings}: {text}");
    }
}
