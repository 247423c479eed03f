//! `tidegate init`: makes, once, what a stack of several processes needs before any of it starts: certificates and keys for all tiers,
//! the secret of TLS tickets, the operator's token, and a first user. `tidegate welcome` says how that user connects.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use authsvc::Editor;
use files::private::{self, Readers};
use rand::Rng as _;
use rand::distr::Alphanumeric;

use crate::cli::{Init, Welcome, print};
use crate::dev_certs;
use crate::exit::Failure;
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
