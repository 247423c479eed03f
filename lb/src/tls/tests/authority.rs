//! A certificate authority with its files in a directory of its own.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::RootCertStore;
use tempfile::TempDir;

use super::{CertificateFiles, ClientCertificateConfig, ClientCertificateMode};

pub(super) struct Authority {
    common_name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate with its key.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) pem: String,
    pub(super) der: Vec<u8>,
    pub(super) key_pem: String,
    pub(super) key_der: Vec<u8>,
}

fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

impl Authority {
    pub(super) fn new(common_name: &str) -> Self {
        Self::with_key(common_name, KeyPair::generate().unwrap(), (1975, 4096))
    }

    /// One that is good from the first day of one year to the first one of another.
    pub(super) fn lasting(common_name: &str, from: i32, until: i32) -> Self {
        Self::with_key(common_name, KeyPair::generate().unwrap(), (from, until))
    }

    /// The same with another certificate of its own.
    pub(super) fn renewed(&self) -> Self {
        let key = KeyPair::try_from(self.issuer.key().serialize_der()).unwrap();
        Self::with_key(&self.common_name, key, (1975, 4096))
    }

    fn with_key(common_name: &str, key: KeyPair, (from, until): (i32, i32)) -> Self {
        let mut params = named(common_name, &[]);
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from(rand::random::<u64>()));
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        Self { common_name: common_name.to_owned(), issuer, directory: TempDir::new().unwrap() }
    }

    pub(super) fn issue(&self, common_name: &str, names: &[&str]) -> Issued {
        self.issue_with(common_name, names, |_| {})
    }

    pub(super) fn issue_with(
        &self,
        common_name: &str,
        names: &[&str],
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let mut params = named(common_name, names);
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            pem: certificate.pem(),
            der: certificate.der().to_vec(),
            key_pem: key.serialize_pem(),
            key_der: key.serialize_der(),
        }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(super) fn store(&self, name: &str, issued: &Issued) -> CertificateFiles {
        CertificateFiles {
            certificate_file: self.write(&format!("{name}.pem"), &issued.pem),
            key_file: self.write(&format!("{name}.key"), &issued.key_pem),
            server_names: Vec::new(),
            ocsp_file: None,
        }
    }

    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// Asks clients for certificates of this authority.
    pub(super) fn client_certificates(&self, mode: ClientCertificateMode) -> ClientCertificateConfig {
        ClientCertificateConfig {
            mode,
            ca_file: Some(self.write("ca.pem", self.issuer.pem())),
            crl_files: Vec::new(),
        }
    }

    /// Writes a revocation list of `serials`.
    pub(super) fn revoke(&self, serials: &[u64]) -> PathBuf {
        self.revoke_until(serials, 4000)
    }

    /// The same, whose next one is due at the beginning of a year.
    pub(super) fn revoke_until(&self, serials: &[u64], year: i32) -> PathBuf {
        let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 6, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 6, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write("revoked.crl", list.signed_by(&self.issuer).unwrap().pem().unwrap())
    }
}
