//! A directory: Debian's `slapd` with a database of its own in a folder of the test, by LDAP, StartTLS and LDAPS.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::authority::Authority;

/// How long it may take until it listens.
const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// What is in a directory, and who may see it.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Where everything in it is.
    pub suffix: &'a str,
    /// In LDIF.
    pub entries: &'a str,
    /// Lines of its configuration before its database: modules.
    pub modules: &'a str,
    /// Lines of its configuration about its database: who may see what.
    pub rules: &'a str,
}

/// A running directory; it ends with the test.
pub struct Directory {
    process: Child,
    /// Has its files, too.
    authority: Authority,
    plain: u16,
    tls: u16,
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The program, where Debian has it, and others who have it.
fn tool(name: &str) -> PathBuf {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/libexec"];
    let found = folders.iter().map(|folder| PathBuf::from(folder).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed (Debian's package slapd)"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Directory {
    /// One that has these, and a certificate for 127.0.0.1.
    pub fn start(contents: Contents<'_>) -> Self {
        let authority = Authority::new("directories");
        authority.keep("server", &authority.issue("directory", &["127.0.0.1"]));
        std::fs::create_dir(authority.path("data")).unwrap();
        let entries = authority.write("entries.ldif", contents.entries);
        let configuration = authority.write("slapd.conf", configuration(&authority, contents));
        let mut add = Command::new(tool("slapadd"));
        let added = add.arg("-f").arg(configuration).arg("-l").arg(entries).output().unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let (plain, tls) = (free_port(), free_port());
        Self { process: run(&authority, plain, tls), authority, plain, tls }
    }

    /// Ends it; it keeps what it has, and its ports.
    pub fn stop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }

    /// Starts it again after [`Directory::stop`].
    pub fn start_again(&mut self) {
        self.process = run(&self.authority, self.plain, self.tls);
    }

    /// Where it is, without TLS or by StartTLS.
    pub fn ldap(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.plain)
    }

    /// Where it is by TLS.
    pub fn ldaps(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.tls)
    }

    /// The authority that its certificate comes from.
    pub fn ca_file(&self) -> PathBuf {
        self.authority.path("ca.pem")
    }

    /// Writes a file beside its own.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        self.authority.write(name, text)
    }
}

fn run(authority: &Authority, plain: u16, tls: u16) -> Child {
    let process = Command::new(tool("slapd"))
        .args(["-d", "0", "-h", &format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls}"), "-f"])
        .arg(authority.path("slapd.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while [plain, tls].iter().any(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()) {
        assert!(begun.elapsed() < STARTED_WITHIN, "slapd does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    process
}

fn configuration(authority: &Authority, Contents { suffix, modules, rules, .. }: Contents<'_>) -> String {
    let schema = |name: &str| format!("include /etc/ldap/schema/{name}.schema\n");
    let schemas = ["core", "cosine", "inetorgperson"].map(schema).concat();
    let path = |name: &str| authority.path(name).display().to_string();
    format!(
        "{schemas}modulepath /usr/lib/ldap\nmoduleload back_mdb\n{modules}\
         TLSCACertificateFile {}\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\n\
         database mdb\nsuffix {suffix}\ndirectory {}\n{rules}",
        path("ca.pem"),
        path("server.pem"),
        path("server.key"),
        path("data"),
    )
}
