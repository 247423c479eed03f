//! Directories: who can bind there, found by name or by a search, over LDAP, StartTLS and LDAPS.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;
use testkit::directory::Directory;

use super::{Credential, Setup, WRONG, hold, rules};
use crate::harness::directory::{SUFFIX, directory};

const PASSWORD: &str = "tg-secret-of the directory";

fn setup(name: &str, directory: &Arc<Directory>, url: &str, settings: &str, rules: &str) -> Setup {
    let config = format!("[auth.ldap]\nurl = '{url}'\n{settings}{rules}");
    let by = |user: &str, password: &str| Credential::password(user, password);
    Setup::new(name, config, by("alice", PASSWORD), by("admin", PASSWORD)).keeping(directory.clone()).refuses(
        [
            (by("alice", "tg-secret-guess"), WRONG),
            (by("alice", ""), WRONG),
            (by("nobody", PASSWORD), WRONG),
            (by("a*", PASSWORD), WRONG),
        ],
    )
}

#[test]
fn users_and_groups_of_a_directory() {
    let users = ["alice", "admin", "tidegate"];
    let directory = Arc::new(directory(PASSWORD, &users, &[("staff", "alice"), ("everything", "admin")]));
    let keep = TempDir::new().unwrap();
    let file = keep.path().join("service-password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let named = format!("user_dn = 'uid=${{username}},{SUFFIX}'\n");
    let searched = format!(
        "search_base = '{SUFFIX}'\nservice_dn = 'uid=tidegate,{SUFFIX}'\nservice_password_file = {file:?}\n"
    );
    let groups = format!("group_base = '{SUFFIX}'\ngroup_filter = '(member=${{dn}})'\n");
    let (by_user, by_group) = (rules("alice", "admin"), rules("group:staff", "group:everything"));
    let ca = format!("ca_file = {:?}\n", directory.ca_file());
    let (ldap, ldaps) = (directory.ldap(), directory.ldaps());
    let at =
        |name: &str, url: &str, settings: &str, rules: &str| setup(name, &directory, url, settings, rules);
    hold(vec![
        at("a directory, by name", &ldap, &named, &by_user),
        at("a directory, by a search, with groups", &ldap, &format!("{searched}{groups}"), &by_group),
        at("a directory, by StartTLS", &ldap, &format!("{named}{groups}starttls = true\n{ca}"), &by_group),
        at("a directory, by LDAPS", &ldaps, &format!("{searched}{ca}"), &by_user),
    ]);
}
