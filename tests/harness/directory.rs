//! A directory: Debian's slapd with users and groups of a test, by LDAP and LDAPS. Ends with the test.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::until;

/// Where everything in it is.
pub(crate) const SUFFIX: &str = "dc=example";

/// A running slapd.
pub(crate) struct Directory {
    process: Child,
    dir: TempDir,
    plain: u16,
    tls: u16,
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Directory {
    /// One with these users (`uid=NAME,dc=example`), who all have this password, and groups of one member each.
    pub(crate) fn start(password: &str, users: &[&str], groups: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        write_certificates(dir.path());
        fs::write(dir.path().join("slapd.conf"), configuration(dir.path())).unwrap();
        fs::write(dir.path().join("entries.ldif"), entries(password, users, groups)).unwrap();
        let file = |name: &str| dir.path().join(name).into_os_string();
        let added = Command::new("/usr/sbin/slapadd")
            .arg("-f")
            .arg(file("slapd.conf"))
            .arg("-l")
            .arg(file("entries.ldif"))
            .output()
            .expect("slapadd (Debian's package slapd)");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (plain, tls) = (port(), port());
        let process = Command::new("/usr/sbin/slapd")
            .args(["-d", "0", "-h", &format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls}"), "-f"])
            .arg(file("slapd.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let directory = Self { process, dir, plain, tls };
        for port in [plain, tls] {
            until(|| TcpStream::connect(("127.0.0.1", port)).ok(), || "slapd listens".to_owned());
        }
        directory
    }

    pub(crate) fn ldap(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.plain)
    }

    pub(crate) fn ldaps(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.tls)
    }

    /// The authority that its certificate comes from.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

fn write_certificates(dir: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(dir.join("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let (issuer, key) = (Issuer::new(authority, key), KeyPair::generate().unwrap());
    let names = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(dir.join("server.pem"), names.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
}

fn configuration(dir: &Path) -> String {
    let schema = |name: &str| format!("include /etc/ldap/schema/{name}.schema\n");
    let schemas: String = ["core", "cosine", "inetorgperson"].map(schema).concat();
    let dir = dir.display();
    format!(
        "{schemas}modulepath /usr/lib/ldap\nmoduleload back_mdb\nTLSCACertificateFile {dir}/ca.pem\n\
         TLSCertificateFile {dir}/server.pem\nTLSCertificateKeyFile {dir}/server.key\n\
         database mdb\nsuffix {SUFFIX}\ndirectory {dir}/data\n\
         access to attrs=userPassword by anonymous auth\naccess to * by * read\n"
    )
}

fn entries(password: &str, users: &[&str], groups: &[(&str, &str)]) -> String {
    let mut entries = format!(
        "dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n"
    );
    for user in users {
        entries += &format!(
            "dn: uid={user},{SUFFIX}\nobjectClass: inetOrgPerson\nuid: {user}\ncn: {user}\nsn: {user}\n\
             userPassword: {password}\n\n"
        );
    }
    for (group, member) in groups {
        entries += &format!(
            "dn: cn={group},{SUFFIX}\nobjectClass: groupOfNames\ncn: {group}\nmember: uid={member},{SUFFIX}\n\n"
        );
    }
    entries
}
