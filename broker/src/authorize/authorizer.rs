//! Who is asked about single actions that rules leave undecided ([`link::Effect::Ask`]), outside of this crate: it may take its
//! time, and never holds up a thread.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use link::Passport;
use mqtt::QoS;

/// Asked about actions of clients.
pub trait Authorizer: Send + Sync + 'static {
    /// Finds out and tells `reply`, whatever happens within a time that the implementation bounds. Returns at once.
    fn ask(&self, question: Question, reply: Reply);
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AskedAction {
    /// PUBLISH, or a Will Message.
    Publish,
    /// SUBSCRIBE.
    Subscribe,
}

impl AskedAction {
    /// As metrics write it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

/// One action of one client.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who it is.
    pub passport: Arc<Passport>,
    /// What it does.
    pub action: AskedAction,
    /// The Topic Name, or the Topic Filter; of a Shared Subscription its own, without the Share Name.
    pub topic: Arc<str>,
    /// Of the message, or the one that the subscription asks for.
    pub qos: QoS,
    /// The message is to be retained.
    pub retain: bool,
}

/// What comes of a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed; a subscription with no more than this QoS.
    Allow(QoS),
    /// Forbidden.
    Deny,
    /// Whoever was asked has no say in it: the rules after the one that asks decide.
    Ignore,
    /// There is no answer.
    Unavailable,
}

impl Verdict {
    /// As metrics write it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Allow(_) => "allowed",
            Self::Deny => "denied",
            Self::Ignore => "ignored",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A [`Verdict`], and for how long it may be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// What was decided.
    pub verdict: Verdict,
    /// For how long that holds for the same action under the same passport; zero for this once.
    pub lifetime: Duration,
}

impl Ruling {
    /// No answer.
    pub const NONE: Self = Self { verdict: Verdict::Unavailable, lifetime: Duration::ZERO };
}

/// Where the answer goes. Dropped, it is told that there is none.
pub struct Reply(Option<Box<dyn FnOnce(Ruling) + Send>>);

impl Reply {
    /// One that hands the answer to `take`, which must return at once.
    pub fn new(take: impl FnOnce(Ruling) + Send + 'static) -> Self {
        Self(Some(Box::new(take)))
    }

    /// Gives the answer.
    pub fn send(mut self, ruling: Ruling) {
        if let Some(take) = self.0.take() {
            take(ruling);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(take) = self.0.take() {
            take(Ruling::NONE);
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}
