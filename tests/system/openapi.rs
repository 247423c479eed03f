//! The published description of the service against the service: schemathesis makes requests of it, right and wrong ones, and looks
//! whether the answers are those that it describes.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::Server;
use crate::harness::server::addresses_file;
use crate::harness::users::passwd;
use crate::interop::{libraries, text};

const DESCRIPTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi/authsvc.yaml");
const SECRET: &str = "tg-secret-of enough bytes";

fn start(dir: &Path) -> Server {
    let keys = dir.join("keys");
    let made = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("certs").arg(&keys).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let (users, secret) = (dir.join("users"), dir.join("secret"));
    passwd(&users, "anna", &[]);
    fs::write(&secret, SECRET).unwrap();
    let config = format!(
        "service.listen = \"127.0.0.1:0\"\nservice.secret_file = {secret:?}\nservice.request_timeout_ms = 60000\n\
         passport.signing_key_file = {:?}\nauth.password_file = {users:?}\nauth.hash_timeout_ms = 60000\n\
         admin.listen = \"127.0.0.1:0\"\nruntime.addresses_file = {:?}\n",
        keys.join("passport.key"),
        addresses_file(dir)
    );
    Server::launch("authsvc", dir, &keys.join("ca.pem"), &config)
}

#[test]
fn the_service_is_what_its_description_says() {
    let dir = TempDir::new().unwrap();
    let server = start(dir.path());
    let checked = Command::new(libraries().join("schemathesis/bin/schemathesis"))
        .args(["run", DESCRIPTION, "--url", &format!("http://{}", server.address_of("service"))])
        .args(["--header", &format!("Authorization: Bearer {SECRET}")])
        .args(["--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", "40"])
        // A question for revocations may wait for news.
        .args(["--seed", "1", "--request-timeout", "60", "--max-response-time", "60", "--no-color"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", text(&checked));
}
