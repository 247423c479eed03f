//! Client certificates: by the common name, each kind of alternative name, and the fingerprint.

use std::path::Path;
use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use sha2::{Digest as _, Sha256};
use testkit::authority::Authority;

use super::{Credential, Setup, Shown, WRONG, hold, rules};

/// A certificate with this name wherever there may be one, and its fingerprint.
pub(super) fn issue(authority: &Authority, name: &str) -> (Shown, String) {
    let issued = authority.issue_with(name, &[], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![
            SanType::DnsName(name.try_into().unwrap()),
            SanType::URI(format!("urn:device:{name}").try_into().unwrap()),
            SanType::Rfc822Name(name.try_into().unwrap()),
        ];
    });
    let (certificate, key) = authority.keep(name, &issued);
    let fingerprint = Sha256::digest(&issued.der).iter().map(|byte| format!("{byte:02x}")).collect();
    (Shown { certificate, key, issued }, fingerprint)
}

fn setup(authority: &Arc<Authority>, identity: &str, more: &str) -> Setup {
    let ca: &Path = &authority.path("ca.pem");
    let (alice, admin) = (issue(authority, "alice"), issue(authority, "admin"));
    let is = |name: &str, fingerprint: &str| {
        if identity == "fingerprint" { fingerprint.to_owned() } else { name.to_owned() }
    };
    let (alice_is, admin_is) = (is("alice", &alice.1), is("admin", &admin.1));
    let config = format!(
        "[auth]\ncertificate = '{identity}'\n{more}[tls]\nclient_certificates = {{ mode = 'optional', ca_file = {ca:?} }}\n{}",
        rules(&alice_is, &admin_is)
    );
    let (alice, admin) = (Credential::Certificate(alice.0), Credential::Certificate(admin.0));
    let guess = Credential::password("alice", "tg-secret-guess");
    let setup = Setup::new(&format!("certificates by {identity}"), config, alice, admin);
    Setup { alice_is, ..setup }.keeping(authority.clone()).refuses([(guess, WRONG)])
}

#[test]
fn names_of_client_certificates() {
    // Each set-up issues its own, so that files are not shared.
    let of = |identity: &str, more: &str| setup(&Arc::new(Authority::new("devices")), identity, more);
    hold(vec![
        of("common_name", ""),
        of("dns", ""),
        of("uri", "certificate_prefix = 'urn:device:'\n"),
        of("email", ""),
        of("fingerprint", ""),
    ]);
}
