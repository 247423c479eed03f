//! SUBSCRIBE and UNSUBSCRIBE packets, which for a session in the store wait for that and for other workers. What follows one on
//! its connection may be seen to depend on it, so it waits too (ARCHITECTURE, rule 31): not here, but where it lies, so that
//! it is bounded by what the connection may have on its way.

use std::sync::Arc;

use mqtt::{PacketId, PacketType, ReasonCode, RetainHandling};
use state::StoreError;

use crate::hub::Hub;
use crate::hub::work::call::Op;
use crate::serving::Serving;
use crate::session::{Input, Outputs, Request, RequestKind, SubscribeItem};

/// One that the store is busy with.
pub(crate) struct UnderWay {
    packet_id: PacketId,
    request: Arc<Request>,
    /// Otherwise it waits for an earlier one about the same filter.
    is_asked: bool,
}

impl UnderWay {
    /// Whether it is a SUBSCRIBE.
    pub(crate) fn subscribes(&self) -> bool {
        self.kind() == RequestKind::Subscribe
    }

    fn kind(&self) -> RequestKind {
        self.request.kind()
    }

    fn op(&self) -> Op {
        Op::Request(self.packet_id, Arc::clone(&self.request))
    }
}

impl Serving {
    /// Whether a packet of this type may be handed in now. Acknowledgements depend on no subscription, and requests of one kind
    /// are carried out side by side; everything else waits for the requests before it.
    pub(crate) fn takes(&mut self, packet: PacketType) -> bool {
        let Some(under_way) = self.under_way else { return true };
        let takes = match packet {
            PacketType::PubAck | PacketType::PubRec | PacketType::PubComp => true,
            PacketType::Subscribe => under_way == RequestKind::Subscribe,
            PacketType::Unsubscribe => under_way == RequestKind::Unsubscribe,
            _ => false,
        };
        self.is_holding |= !takes;
        takes
    }

    pub(crate) fn request(
        &mut self,
        hub: &Arc<Hub>,
        packet_id: PacketId,
        request: Request,
        out: &mut Outputs<'_>,
    ) {
        if self.fence().is_none() {
            let existed: Vec<bool> = match &request {
                Request::Subscribe(_) => Vec::new(),
                // No new message for them from here on: v5 [MQTT-3.10.4-2].
                Request::Unsubscribe { filters, .. } => {
                    filters.iter().map(|filter| hub.directory.unsubscribe(&self.handle, filter)).collect()
                }
            };
            return self.respond(hub, packet_id, &request, Ok(&existed), out);
        }
        let is_asked = !self.session.is_behind_request(packet_id);
        let request = UnderWay { packet_id, request: Arc::new(request), is_asked };
        self.under_way = Some(request.kind());
        if is_asked {
            self.call(hub, 0, request.op());
        }
        self.rare().requests.push(request);
    }

    /// The store has answered a request.
    pub(crate) fn take_answer(
        &mut self,
        hub: &Arc<Hub>,
        packet_id: PacketId,
        kind: RequestKind,
        result: Result<&[bool], &StoreError>,
        out: &mut Outputs<'_>,
    ) {
        let requests = &mut self.rare().requests;
        let is_it = |request: &UnderWay| request.packet_id == packet_id && request.kind() == kind;
        let Some(at) = requests.iter().position(is_it) else { return };
        let UnderWay { request, .. } = requests.remove(at);
        self.respond(hub, packet_id, &request, result, out);
        // What waits is looked at again.
        self.is_holding = false;
        self.ask_next(hub);
    }

    /// Asks the store with those that waited for one that was answered.
    fn ask_next(&mut self, hub: &Arc<Hub>) {
        let mut requests = std::mem::take(&mut self.rare().requests);
        self.under_way = requests.last().map(UnderWay::kind);
        for request in requests.iter_mut().filter(|request| !request.is_asked) {
            if !self.session.is_behind_request(request.packet_id) {
                request.is_asked = true;
                self.call(hub, 0, request.op());
            }
        }
        if !requests.is_empty() {
            self.rare().requests = requests;
        }
    }

    /// A request is carried out, or refused: it is answered, then come retained messages. `result` is the store's word on which
    /// filters were there, and then the index has followed; subscriptions of a session in memory come there now.
    fn respond(
        &mut self,
        hub: &Arc<Hub>,
        packet_id: PacketId,
        request: &Request,
        result: Result<&[bool], &StoreError>,
        out: &mut Outputs<'_>,
    ) {
        let codes = match request {
            Request::Subscribe(items) => self.subscribed(hub, items, result),
            Request::Unsubscribe { filters, is_again } => self.unsubscribed(filters, *is_again, result),
        };
        self.session.handle(Input::Responded(packet_id, request.kind(), codes), hub.now(), out);
    }

    fn subscribed(
        &mut self,
        hub: &Hub,
        items: &[SubscribeItem],
        result: Result<&[bool], &StoreError>,
    ) -> Vec<ReasonCode> {
        let (mut stored, failed) = match result {
            Ok(existed) => (existed.iter(), None),
            Err(StoreError::SubscriptionQuota) => ([].iter(), Some(ReasonCode::QuotaExceeded)),
            Err(_) => ([].iter(), Some(ReasonCode::UnspecifiedError)),
        };
        let code = |SubscribeItem { subscription, retain_handling, asked_at }: &SubscribeItem| {
            let subscription = match (subscription, failed) {
                (Ok(subscription), None) => subscription,
                (Ok(_), Some(code)) | (&Err(code), _) => return code,
            };
            let existed = match stored.next() {
                Some(&existed) => existed,
                None => hub.directory.subscribe(&self.handle, subscription),
            };
            let wanted = match retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => !existed,
                RetainHandling::DoNotSend => false,
            };
            if wanted {
                let bounds = (hub.config.subscriptions_max, hub.config.session_bytes_max);
                self.rare().retained.begin(subscription, *asked_at, bounds);
            }
            ReasonCode::granted(subscription.options.qos)
        };
        items.iter().map(code).collect()
    }

    fn unsubscribed(
        &mut self,
        filters: &[Arc<str>],
        is_again: bool,
        result: Result<&[bool], &StoreError>,
    ) -> Vec<ReasonCode> {
        let Ok(existed) = result else { return vec![ReasonCode::UnspecifiedError; filters.len()] };
        if let Some(rare) = &mut self.rare {
            rare.retained.forget(filters);
        }
        let code = |&existed: &bool| {
            if existed || is_again { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted }
        };
        existed.iter().map(code).collect()
    }
}
