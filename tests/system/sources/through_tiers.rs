//! The same table with everything in processes of its own: alice at one edge, the admin at another, a service of authentication that asks
//! a chain of sources, of which each knows somebody else, and workers that know neither.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use testkit::authority::Authority;
use testkit::directory::Directory;

use super::certificate::issue;
use super::token::{SECRET, claims, hs256};
use super::{Credential, NOT_AUTHORIZED, Setup, WRONG, outcome};
use crate::harness::directory::{SUFFIX, directory};
use crate::harness::reference::{Asked, endpoint};
use crate::harness::server::addresses_file;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Server, secret};
use crate::servers::free_port;
use crate::tiers::{Shape, Tiers, ask, wait_until_ready};

/// Who is of which source, in the order in which they are asked.
const USERS: [&str; 5] = ["of-certificate", "of-file", "of-token", "of-http", "of-ldap"];

const RULES: &str = "[[authorization.rule]]\nwho = ['admin']\neffect = 'allow'\naction = 'all'\ntopics = ['#']\n\
                     [[authorization.rule]]\nwho = ['of-certificate', 'of-file', 'group:staff']\neffect = 'allow'\n\
                     action = 'subscribe'\ntopics = ['shared/#']\n\
                     [[authorization.rule]]\nwho = ['*']\neffect = 'allow'\naction = 'all'\ntopics = ['own/%u/#']\n";

/// An endpoint for EMQX 5 that knows one of them.
fn emqx5(asked: &Asked) -> (u16, String) {
    let body = asked.json();
    let answer = match (body["username"].as_str(), body["password"] == PASSWORD) {
        (Some("of-http"), true) => json!({"result": "allow", "acl": [
            {"permission": "allow", "action": "subscribe", "topic": "shared/#"},
        ]}),
        (Some("of-http"), false) => json!({"result": "deny"}),
        _ => json!({"result": "ignore"}),
    };
    (200, answer.to_string())
}

/// The service, with files and sources of these.
fn service(dir: &Path, directory: &Directory) -> Server {
    let keys = dir.join("keys");
    let made = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("certs").arg(&keys).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let (users, secret) = (dir.join("users"), dir.join("secret"));
    for user in ["of-file", "admin"] {
        passwd(&users, user, &["--no-scram"]);
    }
    fs::write(&secret, SECRET).unwrap();
    let own = dir.join("authsvc");
    fs::create_dir(&own).unwrap();
    let config = format!(
        "[log]\nlevel = 'trace'\n[runtime]\naddresses_file = {:?}\n[admin]\nlisten = '127.0.0.1:0'\n\
         [service]\nlisten = '127.0.0.1:{}'\nrequest_timeout_ms = 60000\n\
         tls = {{ certificate_file = '{keys}/authsvc.pem', key_file = '{keys}/authsvc.key', client_ca_file = '{keys}/link-ca.pem' }}\n\
         [passport]\nsigning_key_file = '{keys}/passport.key'\n\
         [auth]\nhash_timeout_ms = 60000\npassword_file = {users:?}\ncertificate = 'uri'\n\
         certificate_prefix = 'urn:device:'\n\
         [auth.jwt]\nsecret_file = {secret:?}\nissuer = []\naudience = ['mqtt']\nrules_claim = 'acl'\n\
         [auth.http]\ncontract = 'emqx5'\nurl = 'http://{}/auth'\n\
         [auth.ldap]\nurl = '{}'\nsearch_base = '{SUFFIX}'\ngroup_base = '{SUFFIX}'\ngroup_filter = '(member=${{dn}})'\n{RULES}",
        addresses_file(&own),
        free_port(),
        endpoint(emqx5),
        directory.ldap(),
        keys = keys.display(),
    );
    let server = Server::launch("authsvc", &own, &keys.join("ca.pem"), &config);
    wait_until_ready(&server);
    server
}

fn shape(service: &Server, keys: &Path, authority: &Authority) -> Shape {
    let (url, keys) = (format!("https://{}", service.address_of("service")), keys.display());
    let mut shape = Shape::new(2, 2);
    shape.edge_extra = format!(
        "log.level = 'trace'\nedge.authenticate_timeout_ms = 60000\n\
         authsvc = {{ urls = ['{url}'], ca_file = '{keys}/link-ca.pem', certificate_file = '{keys}/edge.pem', \
         key_file = '{keys}/edge.key', timeout_ms = 60000 }}\n\
         tls.client_certificates = {{ mode = 'optional', ca_file = {:?} }}\n",
        authority.path("ca.pem")
    );
    shape.worker_extra = format!(
        "log.level = 'trace'\npassport.jwks_url = '{url}/.well-known/jwks.json'\n\
         passport.jwks_ca_file = '{keys}/link-ca.pem'\npassport.jwks_interval_s = 1\n"
    );
    shape.signs_at_edges = false;
    shape
}

#[test]
fn each_of_a_chain_of_sources_through_edges_a_service_and_workers() {
    let (dir, authority) = (TempDir::new().unwrap(), Authority::new("devices"));
    let directory = directory(PASSWORD, &["of-ldap"], &[("staff", "of-ldap")]);
    let service = service(dir.path(), &directory);
    let tiers = Tiers::start_single(&shape(&service, &dir.path().join("keys"), &authority));
    for user in USERS {
        let by = |password: &str| Credential::password(user, password);
        let (alice, wrong) = match user {
            "of-certificate" => (Credential::Certificate(issue(&authority, user).0), WRONG),
            "of-token" => (Credential::Token(hs256(SECRET, &claims(user))), WRONG),
            "of-http" => (by(PASSWORD), NOT_AUTHORIZED),
            _ => (by(PASSWORD), WRONG),
        };
        let setup =
            Setup::new(user, String::new(), alice, Credential::password("admin", PASSWORD)).refuses([
                (by("tg-secret-guess"), wrong),
                (Credential::password(&format!("not-{user}"), PASSWORD), WRONG),
            ]);
        let setup = Setup { alice_is: user.to_owned(), ..setup };
        outcome::expect_at(&setup, [&tiers.edges[0], &tiers.edges[1]]);
    }
    for server in tiers.edges.iter().chain(&tiers.workers).chain([&service]) {
        secret::expect_none("a tier: /metrics", &ask(server, "/metrics").1);
    }
}
