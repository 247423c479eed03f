//! Who a worker asks about the actions that rules leave undecided: the sources of this process, or a service.

use std::sync::Arc;

use authsvc::{Action, ActionName, ActionRuling, ActionVerdict};
use broker::{AskedAction, Authorizer, Question, Reply, Ruling, Verdict};
use tokio::runtime::Handle;

use crate::authentication::Authentication;

/// See the module. A question is a task, which ends within a time that settings bound.
pub(crate) struct ActionAuthorizer {
    who: Authentication,
    runtime: Handle,
}

impl ActionAuthorizer {
    /// Asks `who`. Must be called in a runtime.
    pub(crate) fn new(who: Authentication) -> Arc<Self> {
        Arc::new(Self { who, runtime: Handle::current() })
    }
}

impl Authorizer for ActionAuthorizer {
    fn ask(&self, question: Question, reply: Reply) {
        let who = self.who.clone();
        // Dropped at the end of the process, the reply says that there is no answer.
        self.runtime.spawn(async move {
            let ruling = who.authorize(&action_of(question)).await;
            reply.send(ruling_of(ruling));
        });
    }
}

fn action_of(question: Question) -> Action {
    let passport = &question.passport;
    Action {
        client_id: Arc::clone(&passport.client_id),
        subject: Arc::clone(&passport.subject),
        attributes: passport.attributes.clone(),
        action: match question.action {
            AskedAction::Publish => ActionName::Publish,
            AskedAction::Subscribe => ActionName::Subscribe,
        },
        topic: question.topic,
        qos: question.qos,
        retain: question.retain,
    }
}

fn ruling_of(ruling: ActionRuling) -> Ruling {
    let verdict = match ruling.verdict {
        ActionVerdict::Allow(qos) => Verdict::Allow(qos),
        ActionVerdict::Deny => Verdict::Deny,
        ActionVerdict::Ignore => Verdict::Ignore,
        ActionVerdict::Unavailable => Verdict::Unavailable,
    };
    Ruling { verdict, lifetime: ruling.lifetime }
}
