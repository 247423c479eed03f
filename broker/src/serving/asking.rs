//! Actions that are asked about ([`link::Effect::Ask`]): the packet waits where it lies, and with it what follows on its
//! connection (ARCHITECTURE, rule 31), until the answers are there; then it goes on as if they had been there before. A Will is
//! asked about before the store is asked for the session.

use std::sync::Arc;
use std::time::Instant;

use link::{Effect, Open};
use mqtt::frame::Frame;
use mqtt::{PacketType, ReasonCode};
use tokio::sync::oneshot;

use crate::authorize::Authority;
use crate::authorize::authorizer::{AskedAction, Question, Reply, Ruling, Verdict};
use crate::directory::Item;
use crate::hub::Hub;
use crate::serving::Serving;
use crate::session::handler::connect::Terms;
use crate::session::{Answered, Manner};

/// Questions of one client at a time: a SUBSCRIBE may have thousands of filters.
const QUESTIONS_MAX: usize = 16;

/// How far the packet is that waits for answers.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    /// Questions without an answer.
    under_way: usize,
    /// The packet that was looked at last was not let through.
    is_waiting: bool,
    /// So often the passport has changed: what was asked before counts no more.
    passports: u64,
}

impl Serving {
    /// Whether anything is asked about for this client.
    pub(crate) fn asks(&self) -> bool {
        self.session.authority.asks()
    }

    /// Whether this packet may be handed in: either nothing of it is asked about, or the answers are there. Otherwise they are asked
    /// for.
    pub(crate) fn clears(&mut self, hub: &Arc<Hub>, packet: Frame<'_>) -> bool {
        if self.is_taken_over || !matches!(packet.packet_type(), PacketType::Publish | PacketType::Subscribe)
        {
            return true;
        }
        let now = hub.now();
        let asking = &mut self.rare.get_or_insert_default().asking;
        if asking.under_way > 0 {
            self.is_holding = true;
            return false;
        }
        if !asking.is_waiting {
            self.session.settle_answers(now);
        }
        let (open, known) = self.session.questions(packet, now);
        asking.is_waiting = !open.is_empty();
        if open.is_empty() {
            hub.metrics.asks_known.inc_by(known);
            return true;
        }
        self.is_holding = true;
        let (passports, passport) = (asking.passports, Arc::clone(self.session.authority.passport()));
        asking.under_way = open.len().min(QUESTIONS_MAX);
        for (topic, manner) in open.into_iter().take(QUESTIONS_MAX) {
            let (session, attachment) = (Arc::clone(&self.handle), self.attachment);
            let answered = Arc::clone(&topic);
            let reply = move |ruling| {
                let answered = Answered { topic: answered, manner, ruling, passports };
                session.answer(attachment, Item::Answered(Box::new(answered)));
            };
            hub.ask_about(Question::new(Arc::clone(&passport), topic, manner), reply);
        }
        false
    }

    /// An answer has come.
    pub(crate) fn take_ruling(&mut self, hub: &Hub, answered: &Answered) {
        let asking = &mut self.rare.get_or_insert_default().asking;
        asking.under_way = asking.under_way.saturating_sub(1);
        if answered.passports == asking.passports {
            self.session.learn(&answered.topic, answered.manner, answered.ruling, hub.now());
        }
        if asking.under_way == 0 {
            // What waits is looked at again.
            self.is_holding = false;
        }
    }

    /// The passport has changed: what was asked about under the one before is asked about again.
    pub(crate) fn ask_anew(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.asking.passports += 1;
        }
    }
}

impl Question {
    fn new(passport: Arc<link::Passport>, topic: Arc<str>, manner: Manner) -> Self {
        Self { passport, action: manner.action, topic, qos: manner.qos, retain: manner.retain }
    }
}

impl Hub {
    /// Asks, and has the answer told to `reply`, at the latest when whoever is asked gives up.
    fn ask_about(&self, question: Question, reply: impl FnOnce(Ruling) + Send + 'static) {
        let (begun, action) = (Instant::now(), question.action);
        let (asks, seconds) = (self.metrics.asks.clone(), self.metrics.ask_seconds.clone());
        let counted = move |ruling: Ruling| {
            asks.count((action.label(), ruling.verdict.label()));
            seconds.observe(begun.elapsed().as_secs_f64());
            reply(ruling);
        };
        match self.authorizer.get() {
            Some(authorizer) => authorizer.ask(question, Reply::new(counted)),
            None => {
                tracing::debug!("rules ask about an action, and nobody here can be asked");
                counted(Ruling::NONE);
            }
        }
    }

    /// Asks about the Will of a CONNECT, if its rules leave it undecided.
    pub(crate) fn ask_about_will(&self, open: &Open, terms: &Terms) -> Option<oneshot::Receiver<Ruling>> {
        let will = terms.publication()?;
        if Authority::new(Arc::clone(&open.passport)).on_publish(will) != Effect::Ask {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        let manner = Manner { action: AskedAction::Publish, qos: will.qos, retain: will.retain };
        let question = Question::new(Arc::clone(&open.passport), will.topic.into(), manner);
        self.ask_about(question, move |ruling| {
            // Its client may have gone.
            let _ = answer.send(ruling);
        });
        Some(answered)
    }
}

/// What becomes of a CONNECT by the answer about its Will: the Reason Code with which it is refused, if it is.
pub(crate) fn refusal_by(ruling: Ruling, open: &Open, terms: &Terms) -> Option<ReasonCode> {
    let will = terms.publication()?;
    let authority = Authority::new(Arc::clone(&open.passport));
    match ruling.verdict {
        Verdict::Allow(_) => None,
        Verdict::Ignore if authority.on_publish_unasked(will) == Effect::Allow => None,
        Verdict::Deny | Verdict::Ignore => Some(ReasonCode::NotAuthorized),
        Verdict::Unavailable => Some(ReasonCode::ServerUnavailable),
    }
}
