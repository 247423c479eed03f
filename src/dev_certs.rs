//! For development: a CA with certificates for devices' connections, another for those between tiers, and the key pair that
//! passports are signed with. ECDSA P-256 (passports: Ed25519), ten years. Not for production: the CAs' keys lie beside
//! their certificates.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use files::private::{self, Readers};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, date_time_ymd,
};

/// The authority's certificate.
pub(crate) const CA: &str = "ca.pem";
/// Its key.
const CA_KEY: &str = "ca.key";
/// The server's certificate.
pub(crate) const SERVER: &str = "server.pem";
/// Its key.
pub(crate) const SERVER_KEY: &str = "server.key";
/// A client's certificate.
const CLIENT: &str = "client.pem";
/// Its key.
const CLIENT_KEY: &str = "client.key";

/// The authority of links.
const LINK_CA: &str = "link-ca.pem";
/// Its key.
const LINK_CA_KEY: &str = "link-ca.key";
/// The certificate of edges.
const EDGE: &str = "edge.pem";
/// Its key.
const EDGE_KEY: &str = "edge.key";
/// The certificate of workers.
const WORKER: &str = "worker.pem";
/// Its key.
const WORKER_KEY: &str = "worker.key";
/// The certificate of the service of authentication.
const AUTHSVC: &str = "authsvc.pem";
/// Its key.
const AUTHSVC_KEY: &str = "authsvc.key";
/// What passports are signed with.
const PASSPORT_KEY: &str = "passport.key";
/// What workers verify them with.
const PASSPORT: &str = "passport.pem";

/// Every file, and what it is.
pub(crate) const FILES: [(&str, &str); 16] = [
    (CA, "the authority: clients trust it (--cafile)"),
    (CA_KEY, "its private key"),
    (SERVER, "the server's certificate"),
    (SERVER_KEY, "its private key"),
    (CLIENT, "a client's certificate (--cert), common name device"),
    (CLIENT_KEY, "its private key (--key)"),
    (
        LINK_CA,
        "the authority of what tiers show each other (ca_file of [workers.tls], [link.tls], [authsvc])",
    ),
    (LINK_CA_KEY, "its private key"),
    (EDGE, "the certificate that edges show to workers, and to the service of authentication"),
    (EDGE_KEY, "its private key"),
    (WORKER, "the certificate that workers show to edges, for this machine and the name worker"),
    (WORKER_KEY, "its private key"),
    (
        AUTHSVC,
        "the certificate that the service of authentication shows, for this machine and the name authsvc",
    ),
    (AUTHSVC_KEY, "its private key"),
    (PASSPORT_KEY, "the private key that passports are signed with (signing_key_file)"),
    (PASSPORT, "the public key that workers verify them with ([passport] verify_key_files)"),
];

/// How long certificates are good.
const VALIDITY: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Devices with a slow clock should accept a certificate made just now.
const BACKDATE: Duration = Duration::from_secs(24 * 60 * 60);

/// The subjects of the authorities. Constant, so that certificates can be added under one made earlier.
const CA_NAME: &str = "Tidegate development CA";
const LINK_CA_NAME: &str = "Tidegate development link CA";

/// The name by which a worker may be known instead of its address.
const WORKER_NAME: &str = "worker";
/// The same of the service of authentication.
const AUTHSVC_NAME: &str = "authsvc";

/// A certificate to be made: its two files and what is in it.
type Leaf = ([&'static str; 2], CertificateParams);

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevCertError {
    /// A file or the directory.
    #[error("cannot use {path:?} for development certificates: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key that is there is no key, or a certificate could not be signed.
    #[error("cannot make development certificates: {0}")]
    Make(#[from] rcgen::Error),
    /// A certificate is missing, and the authority's key is not there to sign one.
    #[error("cannot make {leaf}, since {key_file}, which signs it, is missing: put either of the two there")]
    Unsigned {
        /// The certificate.
        leaf: &'static str,
        /// The authority's key.
        key_file: &'static str,
    },
    /// Half of a pair was taken away.
    #[error(
        "{certificate_file} is there without its key {key_file}: put the key there, or take the other away"
    )]
    Keyless {
        /// The certificate, or the public key.
        certificate_file: &'static str,
        /// Its key.
        key_file: &'static str,
    },
}

/// Makes what is missing in `dir` for devices' connections and answers the names of the files made. What is there is never
/// written over, so certificates of the operator's own may be in its place. What is not secret is for `readers`.
pub(crate) fn ensure(dir: &Path, readers: Readers) -> Result<Vec<&'static str>, DevCertError> {
    ensure_for(&[], dir, readers)
}

/// The same; a server's certificate that is made bears `names` (DNS names and addresses) too.
pub(crate) fn ensure_for(
    names: &[String],
    dir: &Path,
    readers: Readers,
) -> Result<Vec<&'static str>, DevCertError> {
    let mut made = Made { files: Vec::new(), dir, readers };
    let leaves = [([SERVER, SERVER_KEY], server(None, names)?), ([CLIENT, CLIENT_KEY], client("device")?)];
    ensure_authority([CA, CA_KEY], CA_NAME, leaves, &mut made)?;
    Ok(made.files)
}

/// The same for what tiers show each other, and for passports.
pub(crate) fn ensure_links(dir: &Path, readers: Readers) -> Result<Vec<&'static str>, DevCertError> {
    let mut made = Made { files: Vec::new(), dir, readers };
    let leaves = [
        ([EDGE, EDGE_KEY], client("edge")?),
        ([WORKER, WORKER_KEY], server(Some(WORKER_NAME), &[])?),
        ([AUTHSVC, AUTHSVC_KEY], server(Some(AUTHSVC_NAME), &[])?),
    ];
    ensure_authority([LINK_CA, LINK_CA_KEY], LINK_CA_NAME, leaves, &mut made)?;
    if made.misses_of([PASSPORT, PASSPORT_KEY])? {
        let key = made.key(PASSPORT_KEY, || KeyPair::generate_for(&PKCS_ED25519))?;
        made.write_public(PASSPORT, &key.public_key_pem())?;
    }
    Ok(made.files)
}

/// The authority's key may have been taken out, and the authority with it, when nothing is left to sign.
fn ensure_authority(
    files: [&'static str; 2],
    name: &str,
    leaves: impl IntoIterator<Item = Leaf>,
    made: &mut Made<'_>,
) -> Result<(), DevCertError> {
    make_dir(made.dir, made.readers).map_err(|source| file_error(made.dir, source))?;
    let leaves: Vec<Leaf> = leaves.into_iter().collect();
    let mut unsigned = Vec::new();
    for (files, parameters) in &leaves {
        if made.misses_of(*files)? {
            unsigned.push((*files, parameters));
        }
    }
    let [certificate_file, key_file] = files;
    let nothing_is_there = unsigned.len() == leaves.len() && !made.has(certificate_file);
    if !made.has(key_file) && !nothing_is_there {
        return match unsigned.first() {
            Some(&([leaf, _], _)) => Err(DevCertError::Unsigned { leaf, key_file }),
            None => Ok(()),
        };
    }
    let key = made.key(key_file, new_key)?;
    if !made.has(certificate_file) {
        made.write_public(certificate_file, &authority(name).self_signed(&key)?.pem())?;
    }
    let issuer = Issuer::new(authority(name), key);
    for ([certificate_file, key_file], parameters) in unsigned {
        let key = made.key(key_file, new_key)?;
        made.write_public(certificate_file, &parameters.signed_by(&key, &issuer)?.pem())?;
    }
    Ok(())
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

fn authority(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    with_validity(parameters)
}

/// For this machine, for `name` if it has one, and for `others`.
fn server(name: Option<&str>, others: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(host_name().filter(|host| host != "localhost" && Some(host.as_str()) != name));
    names.extend(name.map(str::to_owned));
    let mut parameters = CertificateParams::new(distinct(names, others))?;
    parameters.distinguished_name.push(DnType::CommonName, name.unwrap_or("localhost"));
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(leaf(parameters))
}

/// `names` and those of `others` that are not among them.
fn distinct(mut names: Vec<String>, others: &[String]) -> Vec<String> {
    for other in others {
        if !names.contains(other) {
            names.push(other.clone());
        }
    }
    names
}

fn client(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(leaf(parameters))
}

fn leaf(mut parameters: CertificateParams) -> CertificateParams {
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.use_authority_key_identifier_extension = true;
    with_validity(parameters)
}

fn with_validity(parameters: CertificateParams) -> CertificateParams {
    validity_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), parameters)
}

/// From a day before now on, for ten years. A clock that shows a time before this release is not set yet (a board without a
/// battery begins in 1970): the ten years begin with the release then, so that certificates are still good when it is.
fn validity_at(since_epoch: Duration, mut parameters: CertificateParams) -> CertificateParams {
    let now = date_time_ymd(1970, 1, 1) + since_epoch;
    parameters.not_before = now - BACKDATE;
    parameters.not_after = now.max(date_time_ymd(2026, 1, 1)) + VALIDITY;
    parameters
}

/// This machine's name, if it is one that a certificate can hold.
fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    valid.then(|| name.to_owned())
}

/// What was made, and where.
struct Made<'a> {
    files: Vec<&'static str>,
    dir: &'a Path,
    readers: Readers,
}

impl Made<'_> {
    fn has(&self, file: &str) -> bool {
        self.dir.join(file).exists()
    }

    /// Whether the pair has to be completed. Its key is written first, so one that is missing has been taken away, and what
    /// is there is not ours to replace.
    fn misses_of(&self, [certificate_file, key_file]: [&'static str; 2]) -> Result<bool, DevCertError> {
        match (self.has(certificate_file), self.has(key_file)) {
            (true, false) => Err(DevCertError::Keyless { certificate_file, key_file }),
            (has_certificate, _) => Ok(!has_certificate),
        }
    }

    /// The key that is there, or one that is made.
    fn key(
        &mut self,
        file: &'static str,
        make: impl FnOnce() -> Result<KeyPair, rcgen::Error>,
    ) -> Result<KeyPair, DevCertError> {
        let path = self.dir.join(file);
        if self.has(file) {
            let text = fs::read_to_string(&path).map_err(|source| file_error(&path, source))?;
            return Ok(KeyPair::from_pem(&text)?);
        }
        let key = make()?;
        self.write(file, &key.serialize_pem(), Readers::Owner)?;
        Ok(key)
    }

    fn write_public(&mut self, file: &'static str, text: &str) -> Result<(), DevCertError> {
        self.write(file, text, self.readers)
    }

    fn write(&mut self, file: &'static str, text: &str, readers: Readers) -> Result<(), DevCertError> {
        let path = self.dir.join(file);
        private::replace(&path, readers, |file| file.write_all(text.as_bytes()))
            .map_err(|source| file_error(&path, source))?;
        self.files.push(file);
        Ok(())
    }
}

/// Makes the directory; nobody else may put a certificate there.
fn make_dir(dir: &Path, readers: Readers) -> io::Result<()> {
    let is_there = dir.exists();
    private::make_dir(dir)?;
    #[cfg(unix)]
    if !is_there && readers == Readers::Everybody {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn file_error(path: &Path, source: io::Error) -> DevCertError {
    DevCertError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
