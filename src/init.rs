//! `tidegate init`: makes, once, what a stack of several processes needs before any of it starts: certificates and keys for all tiers,
//! the secret of TLS tickets, the operator's token, and a first user. `tidegate welcome` says how that user connects.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use authsvc::Editor;
use clap::Args;
use files::private::{self, Readers};
use rand::Rng as _;
use rand::distr::Alphanumeric;

use crate::dev_certs;
use crate::exit::Failure;
use crate::output::print;
use crate::passwd;

/// The secret that edges derive their ticket keys from.
const TICKETS: &str = "tickets.secret";
/// What an operator shows to `admin.token_file`.
const TOKEN: &str = "admin.token";
/// The password file.
const USERS: &str = "users";
/// The first user's name and password, `USER:PASSWORD`, until the operator removes it.
const FIRST_USER: &str = "first-user";

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Characters of the first password: 119 bits.
const PASSWORD_CHARS: usize = 20;
/// Characters of the operator's token: 190 bits.
const TOKEN_CHARS: usize = 32;
/// What is read of [`FIRST_USER`].
const FIRST_USER_BYTES_MAX: u64 = 1024;

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where to put everything.
    pub(crate) dir: PathBuf,
    /// A DNS name or address by which devices reach the edges, for their certificate, beside those of this machine; can be given
    /// more than once.
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// The first user, whose password is made.
    #[arg(long, value_name = "NAME", default_value = "device")]
    pub(crate) user: String,
}

/// Arguments of `welcome`.
#[derive(Debug, Args)]
pub(crate) struct Welcome {
    /// Where `init` has put everything.
    pub(crate) dir: PathBuf,
    /// The name or address by which devices reach the edges.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub(crate) host: String,
    /// Where edges listen for MQTT over TLS: a port, or the first and the last of several (8883-8884).
    #[arg(long, value_name = "PORTS", default_value = "8883")]
    pub(crate) mqtts_ports: String,
    /// The same for MQTT over WebSocket and TLS.
    #[arg(long, value_name = "PORTS", default_value = "8084")]
    pub(crate) wss_ports: String,
    /// The command that copies the authority's certificate to ca.pem, where `cp` is not enough.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) copy: Option<String>,
}

/// Makes what is missing. What is there stays as it is.
pub(crate) fn run(arguments: &Init) -> Result<(), Failure> {
    let dir = &arguments.dir;
    let mut made = dev_certs::ensure_for(&arguments.names, dir, Readers::Everybody).map_err(Failure::io)?;
    made.extend(dev_certs::ensure_links(dir, Readers::Everybody).map_err(Failure::io)?);
    if !dir.join(TICKETS).exists() {
        write(dir, TICKETS, &rand::random::<[u8; SECRET_BYTES]>())?;
        made.push(TICKETS);
    }
    if !dir.join(TOKEN).exists() {
        write(dir, TOKEN, format!("{}\n", letters(TOKEN_CHARS)).as_bytes())?;
        made.push(TOKEN);
    }
    if !dir.join(USERS).exists() {
        make_user(dir, &arguments.user)?;
        made.extend([USERS, FIRST_USER]);
    }
    let text = match made.len() {
        0 => format!("everything is there already in {}\n", dir.display()),
        _ => made
            .iter()
            .fold(String::new(), |text, file| text + &format!("made  {}\n", dir.join(file).display())),
    };
    print(&text)
}

/// The password in the clear comes first: where only it was written, both are made anew.
fn make_user(dir: &Path, user: &str) -> Result<(), Failure> {
    let password = letters(PASSWORD_CHARS);
    let mut editor = Editor::open(&dir.join(USERS)).map_err(passwd::failure)?;
    editor.set(user, password.as_bytes(), Some(authsvc::SCRAM_ITERATIONS)).map_err(passwd::failure)?;
    write(dir, FIRST_USER, format!("{user}:{password}\n").as_bytes())?;
    editor.save().map_err(passwd::failure)
}

/// Random letters and digits.
fn letters(count: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(count).map(char::from).collect()
}

fn write(dir: &Path, file: &str, content: &[u8]) -> Result<(), Failure> {
    let path = dir.join(file);
    private::replace(&path, Readers::Owner, |file| file.write_all(content))
        .map_err(|error| Failure::io(format!("cannot write {}: {error}", path.display())))
}

/// Says how to connect, as commands that can be copied.
pub(crate) fn welcome(arguments: &Welcome) -> Result<(), Failure> {
    let (user, password) = first_user(&arguments.dir)?;
    let Welcome { host, mqtts_ports, wss_ports, .. } = arguments;
    let options = format!("-h {host} -p {} --cafile ca.pem -u {user} -P {password}", first_port(mqtts_ports));
    let mut text = format!("tidegate {} is up. Devices connect like this:\n\n", env!("CARGO_PKG_VERSION"));
    // Writing to a String cannot fail.
    let _ = match &arguments.copy {
        Some(command) => writeln!(text, "  {command}"),
        None => writeln!(text, "  cp {} ca.pem", arguments.dir.join(dev_certs::CA).display()),
    };
    let _ = writeln!(text, "  mosquitto_sub {options} -t 'hello/#' -v");
    let _ = writeln!(text, "  mosquitto_pub {options} -t hello/world -m 'hi'");
    let port = first_port(wss_ports);
    let _ = writeln!(text, "\n  wss://{host}:{port}/mqtt   (subprotocol mqtt, with ca.pem trusted)\n");
    print(&text)
}

/// Name and password; a placeholder where the operator has removed them.
fn first_user(dir: &Path) -> Result<(String, String), Failure> {
    use std::io::Read as _;
    let path = dir.join(FIRST_USER);
    let mut text = String::new();
    match std::fs::File::open(&path).map(|file| file.take(FIRST_USER_BYTES_MAX)) {
        Ok(mut file) => file.read_to_string(&mut text).map(drop),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| Failure::io(format!("cannot read {}: {error}", path.display())))?;
    let (user, password) = text.trim_end().split_once(':').unwrap_or(("USER", "PASSWORD"));
    Ok((user.to_owned(), password.to_owned()))
}

/// Of `8883` or `8883-8884`.
fn first_port(ports: &str) -> &str {
    ports.split('-').next().unwrap_or(ports)
}
