//! What a listener is configured with, of an authority of a test.

use std::path::PathBuf;

use rustls::RootCertStore;
pub(super) use testkit::authority::{Authority, Issued};

use super::{CertificateFiles, ClientCertificateConfig, ClientCertificateMode};

/// An authority as the configuration of a listener names it.
pub(super) trait Configured {
    /// Writes a certificate and its key.
    fn store(&self, name: &str, issued: &Issued) -> CertificateFiles;

    /// Those who trust it.
    fn roots(&self) -> RootCertStore;

    /// Asks clients for certificates of this authority.
    fn client_certificates(&self, mode: ClientCertificateMode) -> ClientCertificateConfig;

    /// Writes a revocation list of `serials`, whose next one is due at the beginning of a year.
    fn revoke_until(&self, serials: &[u64], year: i32) -> PathBuf;

    /// The same for good.
    fn revoke(&self, serials: &[u64]) -> PathBuf {
        self.revoke_until(serials, 4000)
    }
}

impl Configured for Authority {
    fn store(&self, name: &str, issued: &Issued) -> CertificateFiles {
        let (certificate_file, key_file) = self.keep(name, issued);
        CertificateFiles { certificate_file, key_file, server_names: Vec::new(), ocsp_file: None }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der().into()).unwrap();
        roots
    }

    fn client_certificates(&self, mode: ClientCertificateMode) -> ClientCertificateConfig {
        ClientCertificateConfig {
            mode,
            ca_file: Some(self.write("ca.pem", self.pem())),
            crl_files: Vec::new(),
        }
    }

    fn revoke_until(&self, serials: &[u64], year: i32) -> PathBuf {
        self.write("revoked.crl", self.revoked_until(serials, year))
    }
}
