//! A certificate authority with files in a folder of its own: certificates for whoever shows one, and lists of what is revoked.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ED25519, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use tempfile::TempDir;

/// An authority; its folder goes with it.
pub struct Authority {
    common_name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, in PEM.
    pub pem: String,
    /// The certificate, in DER.
    pub der: Vec<u8>,
    /// Its key, in PEM.
    pub key_pem: String,
    /// Its key, in DER: PKCS #8.
    pub key_der: Vec<u8>,
}

fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

impl Authority {
    /// One that is good for any time, with its certificate in `ca.pem`.
    pub fn new(common_name: &str) -> Self {
        Self::with_key(common_name, KeyPair::generate().unwrap(), (1975, 4096))
    }

    /// One that is good from the first day of one year to the first one of another.
    pub fn lasting(common_name: &str, from: i32, until: i32) -> Self {
        Self::with_key(common_name, KeyPair::generate().unwrap(), (from, until))
    }

    /// The same authority with another certificate of its own.
    pub fn renewed(&self) -> Self {
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
        let authority = Self { common_name: common_name.to_owned(), issuer, folder: TempDir::new().unwrap() };
        authority.write("ca.pem", authority.pem());
        authority
    }

    /// A certificate for whoever has one of these names.
    pub fn issue(&self, common_name: &str, names: &[&str]) -> Issued {
        self.issue_with(common_name, names, |_| {})
    }

    /// The same with a serial number.
    pub fn issue_numbered(&self, common_name: &str, serial: u64) -> Issued {
        self.issue_with(common_name, &[], |params| params.serial_number = Some(SerialNumber::from(serial)))
    }

    /// The same with whatever a test changes.
    pub fn issue_with(
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

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its own certificate, in DER.
    pub fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// A list of what is revoked, in PEM.
    pub fn revoked(&self, serials: &[u64]) -> String {
        self.revoked_until(serials, 4000)
    }

    /// The same, whose next one is due at the beginning of a year.
    pub fn revoked_until(&self, serials: &[u64], year: i32) -> String {
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
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A file in its folder, whether it is there or not.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into its folder.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes a certificate to `NAME.pem` and its key to `NAME.key`, in its folder.
    pub fn keep(&self, name: &str, issued: &Issued) -> (PathBuf, PathBuf) {
        let certificate = self.write(&format!("{name}.pem"), &issued.pem);
        (certificate, self.write(&format!("{name}.key"), &issued.key_pem))
    }
}

/// A new key by which passports are signed, in PEM.
pub fn passport_key() -> String {
    KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem()
}

/// Writes a new one.
pub fn write_passport_key(path: &Path) {
    fs::write(path, passport_key()).unwrap();
}
