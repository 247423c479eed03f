//! A development CA, a server certificate for this machine and a client certificate. ECDSA P-256, ten years.
//! Not for production: the CA's key lies beside its certificate.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
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

/// Every file, and what it is.
pub(crate) const FILES: [(&str, &str); 6] = [
    (CA, "the authority: clients trust it (--cafile)"),
    (CA_KEY, "its private key"),
    (SERVER, "the server's certificate"),
    (SERVER_KEY, "its private key"),
    (CLIENT, "a client's certificate (--cert), common name device"),
    (CLIENT_KEY, "its private key (--key)"),
];

/// How long certificates are good.
const VALIDITY: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Devices with a slow clock should accept a certificate made just now.
const BACKDATE: Duration = Duration::from_secs(24 * 60 * 60);

/// The subject of the authority. Constant, so that certificates can be added under one made earlier.
const CA_NAME: &str = "Tidegate development CA";

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
}

/// Makes what is missing in `dir` and answers the names of the files made. A pair of which one half is missing is made
/// anew, and with a new authority everything.
pub(crate) fn ensure(dir: &Path) -> Result<Vec<&'static str>, DevCertError> {
    fs::create_dir_all(dir).map_err(|source| file_error(dir, source))?;
    let mut made = Vec::new();
    let ca_is_new = !(dir.join(CA).exists() && dir.join(CA_KEY).exists());
    let key = if ca_is_new {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = authority().self_signed(&key)?;
        write_pair(dir, [CA, CA_KEY], &certificate.pem(), &key, &mut made)?;
        key
    } else {
        let path = dir.join(CA_KEY);
        KeyPair::from_pem(&fs::read_to_string(&path).map_err(|source| file_error(&path, source))?)?
    };
    let issuer = Issuer::new(authority(), key);
    for (files, parameters) in [([SERVER, SERVER_KEY], server()?), ([CLIENT, CLIENT_KEY], client()?)] {
        if ca_is_new || files.iter().any(|file| !dir.join(file).exists()) {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let certificate = parameters.signed_by(&key, &issuer)?;
            write_pair(dir, files, &certificate.pem(), &key, &mut made)?;
        }
    }
    Ok(made)
}

fn authority() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, CA_NAME);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    with_validity(parameters)
}

fn server() -> Result<CertificateParams, rcgen::Error> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(host_name().filter(|name| name != "localhost"));
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, "localhost");
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(leaf(parameters))
}

fn client() -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(DnType::CommonName, "device");
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(leaf(parameters))
}

fn leaf(mut parameters: CertificateParams) -> CertificateParams {
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.use_authority_key_identifier_extension = true;
    with_validity(parameters)
}

fn with_validity(mut parameters: CertificateParams) -> CertificateParams {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + now;
    parameters.not_before = now - BACKDATE;
    parameters.not_after = now + VALIDITY;
    parameters
}

/// This machine's name, if it is one that a certificate can hold.
fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    valid.then(|| name.to_owned())
}

/// The key is there before its certificate, so that a pair is whole when the certificate is.
fn write_pair(
    dir: &Path,
    [certificate_file, key_file]: [&'static str; 2],
    certificate: &str,
    key: &KeyPair,
    made: &mut Vec<&'static str>,
) -> Result<(), DevCertError> {
    for (file, text, mode) in
        [(key_file, key.serialize_pem().as_str(), 0o600), (certificate_file, certificate, 0o644)]
    {
        let path = dir.join(file);
        write_new(&path, text, mode).map_err(|source| file_error(&path, source))?;
        made.push(file);
    }
    Ok(())
}

/// Replaces the file as a whole, with these permissions from its first byte on.
fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let next = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    // Process ids come again, in a container with every start: what an earlier one left must not be in the way.
    if let Err(error) = fs::remove_file(&next)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = options.open(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, path)
}

fn file_error(path: &Path, source: io::Error) -> DevCertError {
    DevCertError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
