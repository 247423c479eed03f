//! Client certificates: by the common name, each kind of alternative name, and the fingerprint.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{Credential, Setup, Shown, WRONG, hold, rules};

/// An authority, and certificates of it.
pub(super) struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let (dir, key) = (TempDir::new().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate with this name wherever there may be one, and its fingerprint.
    pub(super) fn issue(&self, name: &str) -> (Shown, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![
            SanType::DnsName(name.try_into().unwrap()),
            SanType::URI(format!("urn:device:{name}").try_into().unwrap()),
            SanType::Rfc822Name(name.try_into().unwrap()),
        ];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let shown =
            Shown { certificate: self.file(&format!("{name}.pem")), key: self.file(&format!("{name}.key")) };
        fs::write(&shown.certificate, certificate.pem()).unwrap();
        fs::write(&shown.key, key.serialize_pem()).unwrap();
        let fingerprint =
            Sha256::digest(certificate.der()).iter().map(|byte| format!("{byte:02x}")).collect();
        (shown, fingerprint)
    }
}

fn setup(authority: &Arc<Authority>, identity: &str, more: &str) -> Setup {
    let ca: &Path = &authority.file("ca.pem");
    let (alice, admin) = (authority.issue("alice"), authority.issue("admin"));
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
    let of = |identity: &str, more: &str| setup(&Arc::new(Authority::new()), identity, more);
    hold(vec![
        of("common_name", ""),
        of("dns", ""),
        of("uri", "certificate_prefix = 'urn:device:'\n"),
        of("email", ""),
        of("fingerprint", ""),
    ]);
}
