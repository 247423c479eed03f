//! SUBSCRIBE: each filter is checked by itself; those that pass go to the driver, and SUBACK tells of all.

use std::sync::Arc;

use mqtt::topic::SharedFilter;
use mqtt::{PacketId, Properties, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, topic};
use state::{Subscription, SubscriptionOptions, UnixMs};

use crate::authorize::authorizer::{AskedAction, Verdict};
use crate::authorize::bounds::Bound;
use crate::session::{
    Added, Answer, Effect, Manner, Noted, Outputs, Request, RequestKind, Session, SubscribeItem,
};

/// Why there is no subscription.
enum Unfit {
    Bound(Bound),
    Code(ReasonCode),
}

/// The filter that a subscription is about, without the Share Name.
fn plain(filter: &str) -> &str {
    match SharedFilter::parse(filter) {
        Ok(Some(shared)) => shared.filter,
        _ => filter,
    }
}

fn manner_of(qos: QoS) -> Manner {
    Manner { action: AskedAction::Subscribe, qos, retain: false }
}

impl Session {
    pub(crate) fn on_subscribe(&mut self, subscribe: &Subscribe<'_>, now: UnixMs, out: &mut Outputs<'_>) {
        let id = subscribe.packet_id;
        let refused = if self.is_taken(id) {
            Some(ReasonCode::PacketIdentifierInUse)
        } else if self.has_no_room_for_request() {
            Some(ReasonCode::QuotaExceeded)
        } else {
            None
        };
        if let Some(code) = refused {
            let codes = vec![code; subscribe.iter().count()];
            // Not in its turn: its identifier may be that of another.
            self.put_suback(id, &codes, out);
            return;
        }
        let subscription_id = subscribe.subscription_id().unwrap_or(0);
        let (mut items, mut filters, mut added) = (Vec::new(), Vec::new(), Added::default());
        for (filter, options) in subscribe.iter() {
            let noted = self.filters.get_or_insert_default().note(filter);
            filters.push(noted);
            let subscription = match self.vet_filter(filter, options.qos, noted, &added) {
                Err(Unfit::Code(code)) => Err(code),
                Err(Unfit::Bound(bound)) => {
                    out.effects.push(Effect::Limited(bound));
                    Err(bound.of_filter())
                }
                Ok(qos) => {
                    added.insert(noted, self.filters.as_deref());
                    let options = SubscriptionOptions {
                        qos,
                        // v5 [MQTT-3.8.3-4]
                        no_local: options.no_local || (self.is_bridge && !topic::is_shared(filter)),
                        retain_as_published: options.retain_as_published || self.is_bridge,
                        subscription_id,
                    };
                    Ok(Subscription { filter: Arc::from(filter), options })
                }
            };
            // v5 section 4.8.2: Shared Subscriptions get no retained messages.
            let retain_handling = match options.retain_handling {
                _ if topic::is_shared(filter) => RetainHandling::DoNotSend,
                // It was not answered, so nothing was sent; another worker may have carried it out all the same.
                RetainHandling::SendIfNew if self.is_in_backlog() => RetainHandling::Send,
                handling => handling,
            };
            items.push(SubscribeItem { subscription, retain_handling, asked_at: 0 });
        }
        if added.is_empty() {
            let codes =
                items.iter().filter_map(|item| item.subscription.as_ref().err().copied()).collect::<Vec<_>>();
            self.refuse_request(id, RequestKind::Subscribe, &codes, out);
            return;
        }
        if items.iter().any(|item| item.retain_handling != RetainHandling::DoNotSend) {
            let asked_at = self.open_retained(now);
            items.iter_mut().for_each(|item| item.asked_at = asked_at);
        }
        self.begin_request(id, RequestKind::Subscribe, filters);
        out.effects.push(Effect::Request(id, Request::Subscribe(items)));
    }

    /// Subscriptions are in force, gone, or refused: SUBACK or UNSUBACK in its turn, after the former their retained messages.
    // v5 [MQTT-3.8.4-2], v5 [MQTT-3.10.4-4], v5 [MQTT-3.10.4-5]
    pub(crate) fn on_responded(
        &mut self,
        id: PacketId,
        kind: RequestKind,
        codes: &[ReasonCode],
        out: &mut Outputs<'_>,
    ) {
        if !self.filters.as_mut().is_some_and(|filters| filters.finish(id, kind, codes)) {
            return;
        }
        self.put_answers(out);
        if kind == RequestKind::Subscribe {
            self.retained_asked = 0;
            self.ask_retained(out);
        }
    }

    /// Writes SUBACK and UNSUBACK packets whose turn has come.
    pub(crate) fn put_answers(&mut self, out: &mut Outputs<'_>) {
        while !self.closed
            && let Some(Answer { id, kind, codes }) = self.filters.as_mut().and_then(|f| f.next_answer())
        {
            match kind {
                RequestKind::Subscribe => self.put_suback(id, &codes, out),
                RequestKind::Unsubscribe => self.put_unsuback(id, &codes, out),
            }
        }
    }

    /// A request comes that is answered with these codes, whatever becomes of others: in its turn.
    pub(crate) fn refuse_request(
        &mut self,
        id: PacketId,
        kind: RequestKind,
        codes: &[ReasonCode],
        out: &mut Outputs<'_>,
    ) {
        self.begin_request(id, kind, Vec::new());
        if let Some(filters) = &mut self.filters {
            filters.finish(id, kind, codes);
        }
        self.put_answers(out);
    }

    /// Notes a request that is under way, and its place among what is to be acknowledged.
    pub(crate) fn begin_request(&mut self, id: PacketId, kind: RequestKind, filters: Vec<Noted>) {
        let acks_before = self.inbound.as_ref().map_or(0, |inbound| inbound.owed());
        self.filters.get_or_insert_default().begin(id, kind, filters, acks_before);
    }

    /// Whether a request that is under way has to wait for an earlier one.
    pub(crate) fn is_behind_request(&self, id: PacketId) -> bool {
        self.filters.as_ref().is_some_and(|filters| filters.is_behind(id))
    }

    /// Whether so much of SUBSCRIBE and UNSUBSCRIBE is under way that no more is taken.
    pub(crate) fn has_no_room_for_request(&self) -> bool {
        let bounds = self.bounds();
        let (max, bytes_max) = (bounds.subscriptions_max(), bounds.session_bytes_max());
        self.filters.as_ref().is_some_and(|filters| !filters.has_room_for_request(max, bytes_max))
    }

    /// The QoS that is granted, which may be lower than the one that is asked for (v5 section 3.8.4), or why there is none.
    fn vet_filter(&self, filter: &str, wanted: QoS, noted: Noted, added: &Added) -> Result<QoS, Unfit> {
        let bounds = self.bounds();
        self.check_filter(filter)?;
        // v5 [MQTT-3.2.2-10]: what is asked for is no reason to refuse.
        let qos = self.granted_qos(filter, wanted.min(bounds.qos_max())).map_err(Unfit::Code)?;
        let beside = self.bytes_beside_filters();
        let bound = self.filters.as_ref().and_then(|filters| filters.bound_of(noted, added, bounds, beside));
        bound.map_or(Ok(qos), |bound| Err(Unfit::Bound(bound)))
    }

    fn check_filter(&self, filter: &str) -> Result<(), Unfit> {
        let bounds = self.bounds();
        // `$share` and the Share Name are no levels of the topic.
        let share_levels = if topic::is_shared(filter) { 2 } else { 0 };
        if let Some(bound) = bounds.exceeded_by_topic(filter, share_levels) {
            return Err(Unfit::Bound(bound));
        }
        if topic::is_shared(filter) && !bounds.shared_subscriptions() {
            return Err(Unfit::Code(ReasonCode::SharedSubscriptionsNotSupported));
        }
        Ok(())
    }

    fn granted_qos(&self, filter: &str, wanted: QoS) -> Result<QoS, ReasonCode> {
        let granted = match self.authority.on_subscribe(filter, wanted) {
            Some((qos, link::Effect::Ask)) => match self.answer_to(plain(filter), manner_of(qos)) {
                Some(Verdict::Allow(qos_max)) => Some(qos.min(qos_max)),
                Some(Verdict::Deny) => None,
                Some(Verdict::Ignore) => self.authority.on_subscribe_unasked(filter, wanted),
                // The specification has no code for it; the request is valid, and not accepted.
                Some(Verdict::Unavailable) | None => return Err(ReasonCode::ImplementationSpecificError),
            },
            Some((qos, _)) => Some(qos),
            None => None,
        };
        granted.ok_or(ReasonCode::NotAuthorized)
    }

    /// What is to be asked about before this is handled, if anything is.
    pub(crate) fn question_of_filter<'a>(&self, filter: &'a str, wanted: QoS) -> Option<(&'a str, Manner)> {
        self.check_filter(filter).ok()?;
        match self.authority.on_subscribe(filter, wanted.min(self.bounds().qos_max()))? {
            (qos, link::Effect::Ask) => Some((plain(filter), manner_of(qos))),
            _ => None,
        }
    }

    // v5 [MQTT-3.9.3-1]
    fn put_suback(&mut self, id: PacketId, codes: &[ReasonCode], out: &mut Outputs<'_>) {
        let suback = SubAck { packet_id: id, properties: Properties::EMPTY, codes: codes.into() };
        let version = self.version;
        self.put_if_it_fits(suback.encoded_len(version), out, |buffer| suback.encode(version, buffer));
    }
}
