//! One table of what alice may do, held against each source of identities that there is: whoever tells who she is, the same CONNECT,
//! PUBLISH, Will and SUBSCRIBE are let through and the same are not, in both versions of the protocol, for clients of the test and for
//! Mosquitto's. Each server logs everything that it can, and no secret is in it.
//!
//! Alice may publish and subscribe below `own/alice`, and subscribe to `shared/#`; the admin may do everything.

mod certificate;
mod contract;
mod directory;
mod outcome;
mod password;
mod through_tiers;

mod token;

use std::any::Any;
use std::path::PathBuf;
use std::process::Command;

use testkit::authority::Issued;

use crate::harness::bytes::{Connect, V5};
use crate::harness::property as p;
use crate::harness::{Client, Server, Transport, secret};

/// By what a client shows who it is.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    Nothing,
    Password(String, String),
    /// A token as the password, without a user name where the version allows that.
    Token(String),
    /// A token in an exchange of MQTT 5, by this method.
    Exchange(&'static str, String),
    Certificate(Shown),
}

/// PEM files of a client's certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    certificate: PathBuf,
    key: PathBuf,
    issued: Issued,
}

/// What a refusal says: Reason Code of MQTT 5, and what came before.
pub(crate) type Refusal = (u8, u8);

pub(crate) const WRONG: Refusal = (0x86, 4);
pub(crate) const NOT_AUTHORIZED: Refusal = (0x87, 5);

/// What a SUBSCRIBE that reaches past what may be received is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It is refused.
    Refused,
    /// It is granted, and each message looked at: so Mosquitto's ACL files have it.
    Granted,
}

/// A source, and who is known to it.
pub(crate) struct Setup {
    /// Told when something is not as it should be.
    pub(crate) name: String,
    pub(crate) config: String,
    /// What alice is called here.
    pub(crate) alice_is: String,
    pub(crate) alice: Credential,
    pub(crate) admin: Credential,
    /// Who is not let in, and what it is told.
    pub(crate) refused: Vec<(Credential, Refusal)>,
    pub(crate) reach: Reach,
    /// Kept as long as the source is asked.
    pub(crate) _keep: Box<dyn Any + Send + Sync>,
}

impl Setup {
    pub(crate) fn new(name: &str, config: String, alice: Credential, admin: Credential) -> Self {
        Self {
            name: name.to_owned(),
            config,
            alice_is: "alice".to_owned(),
            alice,
            admin,
            refused: vec![(Credential::Nothing, NOT_AUTHORIZED)],
            reach: Reach::Refused,
            _keep: Box::new(()),
        }
    }

    /// These are refused too.
    pub(crate) fn refuses(mut self, refused: impl IntoIterator<Item = (Credential, Refusal)>) -> Self {
        self.refused.extend(refused);
        self
    }

    pub(crate) fn keeping(mut self, keep: impl Any + Send + Sync) -> Self {
        self._keep = Box::new(keep);
        self
    }
}

/// The rules of a source that brings none: for users, or for groups.
pub(crate) fn rules(alice: &str, admin: &str) -> String {
    format!(
        "[[authorization.rule]]\nwho = ['{admin}']\neffect = 'allow'\naction = 'all'\ntopics = ['#']\n\
         [[authorization.rule]]\nwho = ['{alice}']\neffect = 'allow'\naction = 'subscribe'\ntopics = ['shared/#']\n\
         [[authorization.rule]]\nwho = ['*']\neffect = 'allow'\naction = 'all'\ntopics = ['own/%u/#']\n"
    )
}

/// The same as a claim of a token.
pub(crate) fn rules_claim(admin: bool) -> serde_json::Value {
    if admin {
        serde_json::json!([{"effect": "allow", "action": "all", "topics": ["#"]}])
    } else {
        serde_json::json!([
            {"effect": "allow", "action": "all", "topics": ["own/%u/#"]},
            {"effect": "allow", "action": "subscribe", "topics": ["shared/#"]},
        ])
    }
}

impl Credential {
    pub(crate) fn password(user: &str, password: &str) -> Self {
        Self::Password(user.to_owned(), password.to_owned())
    }

    /// The versions of the protocol in which a client can show it.
    fn versions(&self) -> &'static [u8] {
        if matches!(self, Self::Exchange(..)) { &[V5] } else { &[4, V5] }
    }

    fn transport(&self) -> Transport {
        if matches!(self, Self::Certificate(_)) { Transport::Tls } else { Transport::Tcp }
    }

    /// A connection on which nothing was sent yet.
    fn open(&self, server: &Server) -> Client {
        match self {
            Self::Certificate(shown) => Client::open_as(server, self.transport(), &shown.issued),
            _ => Client::open(server, self.transport()),
        }
    }

    /// A CONNECT with it.
    fn shown(&self, connect: Connect) -> Connect {
        match self {
            Self::Nothing | Self::Certificate(_) => connect,
            Self::Password(user, password) => connect.user(user, password),
            Self::Token(token) if connect.version() == V5 => connect.password_only(token),
            Self::Token(token) => connect.user("any", token),
            Self::Exchange(method, token) => {
                connect.with([p::text(p::AUTH_METHOD, method), p::text(p::AUTH_DATA, token)].concat())
            }
        }
    }

    /// One of Mosquitto's clients that shows it.
    fn mosquitto(&self, program: &str, server: &Server, version: u8) -> Command {
        let port = server.address(self.transport()).port().to_string();
        let mut command = Command::new(program);
        command.args(["-h", "localhost", "-p", &port, "-V", if version == V5 { "5" } else { "311" }]);
        match self {
            Self::Nothing => {}
            Self::Password(user, password) => {
                command.args(["-u", user, "-P", password]);
            }
            Self::Token(token) => {
                command.args(["-u", "any", "-P", token]);
            }
            Self::Exchange(method, token) => {
                command.args(["-D", "connect", "authentication-method", method]);
                command.args(["-D", "connect", "authentication-data", token]);
            }
            Self::Certificate(Shown { certificate, key, .. }) => {
                command.arg("--cafile").arg(server.ca_file());
                command.arg("--cert").arg(certificate).arg("--key").arg(key);
            }
        }
        command
    }
}

/// What each server says besides; a debug build on a busy machine hashes slowly.
const ALL: &str = "[log]\nlevel = 'trace'\n[edge]\nauthenticate_timeout_ms = 60000\n";

/// Holds the table against each of these, two at a time.
fn hold(setups: Vec<Setup>) {
    let left = parking_lot::Mutex::new(setups.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // Not in the condition of `while`, which would keep the lock.
                loop {
                    let Some(setup) = left.lock().next() else { return };
                    let server = Server::start(&format!("{ALL}{}", setup.config));
                    outcome::expect(&setup, &server);
                    expect_check_without_secrets(&setup, &server);
                }
            });
        }
    });
}

/// `--check` prints the configuration in force, without what it keeps secret.
fn expect_check_without_secrets(setup: &Setup, server: &Server) {
    let file: PathBuf = server.dir().join("tidegate.toml");
    let printed = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("--config")
        .arg(file)
        .arg("--check")
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}: {printed:?}", setup.name);
    let text = [printed.stdout, printed.stderr].concat();
    secret::expect_none(&format!("{}: --check", setup.name), &String::from_utf8_lossy(&text));
}
