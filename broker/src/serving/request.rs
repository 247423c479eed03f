//! SUBSCRIBE and UNSUBSCRIBE packets, which for a session in the store wait for that and for other workers. What follows one on
//! its connection may be seen to depend on it, so it waits too (ARCHITECTURE, rule 31): not here, but where it lies, so that
//! it is bounded by what the connection may have on its way.

use std::sync::Arc;

use link::ConnectionId;
use mqtt::{PacketId, PacketType, ReasonCode, RetainHandling};
use state::StoreError;

use crate::hub::Hub;
use crate::hub::work::call::Op;
use crate::serving::Serving;
use crate::session::{Input, Outputs, RequestKind, SubscribeItem};

/// One that the store is busy with.
pub(crate) struct Request {
    packet_id: PacketId,
    asks: Asks,
    /// Otherwise it waits for an earlier one about the same filter.
    is_asked: bool,
}

enum Asks {
    Subscribe(Vec<SubscribeItem>),
    Unsubscribe(Vec<Arc<str>>),
}

impl Request {
    /// Whether it is a SUBSCRIBE.
    pub(crate) fn subscribes(&self) -> bool {
        self.kind() == RequestKind::Subscribe
    }

    fn kind(&self) -> RequestKind {
        match self.asks {
            Asks::Subscribe(_) => RequestKind::Subscribe,
            Asks::Unsubscribe(_) => RequestKind::Unsubscribe,
        }
    }

    fn op(&self) -> Op {
        match &self.asks {
            Asks::Subscribe(items) => {
                let subscriptions = items.iter().filter_map(|item| item.subscription.clone().ok()).collect();
                Op::Subscribe(self.packet_id, subscriptions)
            }
            Asks::Unsubscribe(filters) => Op::Unsubscribe(self.packet_id, filters.clone()),
        }
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

    pub(crate) fn subscribe(
        &mut self,
        hub: &Arc<Hub>,
        connection: ConnectionId,
        packet_id: PacketId,
        items: Vec<SubscribeItem>,
        out: &mut Outputs<'_>,
    ) {
        if self.fence().is_none() {
            self.subscribed(hub, packet_id, &items, &[], out);
        } else {
            self.request(hub, connection, packet_id, Asks::Subscribe(items));
        }
    }

    pub(crate) fn unsubscribe(
        &mut self,
        hub: &Arc<Hub>,
        connection: ConnectionId,
        packet_id: PacketId,
        filters: Vec<Arc<str>>,
        out: &mut Outputs<'_>,
    ) {
        if self.fence().is_none() {
            // No new message for them from here on: v5 [MQTT-3.10.4-2].
            let existed: Vec<bool> =
                filters.iter().map(|filter| hub.directory.unsubscribe(&self.handle, filter)).collect();
            self.unsubscribed(hub, packet_id, &filters, &existed, out);
        } else {
            self.request(hub, connection, packet_id, Asks::Unsubscribe(filters));
        }
    }

    fn request(&mut self, hub: &Arc<Hub>, connection: ConnectionId, packet_id: PacketId, asks: Asks) {
        let is_asked = !self.session.is_behind_request(packet_id);
        let request = Request { packet_id, asks, is_asked };
        self.under_way = Some(request.kind());
        if is_asked {
            self.call(hub, connection, 0, request.op());
        }
        self.rare().requests.push(request);
    }

    /// The store has answered a request.
    pub(crate) fn take_answer(
        &mut self,
        hub: &Arc<Hub>,
        connection: ConnectionId,
        packet_id: PacketId,
        kind: RequestKind,
        result: Result<Vec<bool>, StoreError>,
        out: &mut Outputs<'_>,
    ) {
        let requests = &mut self.rare().requests;
        let is_it = |request: &Request| request.packet_id == packet_id && request.kind() == kind;
        let Some(at) = requests.iter().position(is_it) else { return };
        let request = requests.remove(at);
        match request.asks {
            Asks::Subscribe(items) => self.store_subscribed(hub, packet_id, items, result, out),
            Asks::Unsubscribe(filters) => self.store_unsubscribed(hub, packet_id, &filters, result, out),
        }
        // What waits is looked at again.
        self.is_holding = false;
        self.ask_next(hub, connection);
    }

    /// Asks the store with those that waited for one that was answered.
    fn ask_next(&mut self, hub: &Arc<Hub>, connection: ConnectionId) {
        let mut requests = std::mem::take(&mut self.rare().requests);
        self.under_way = requests.last().map(Request::kind);
        for request in requests.iter_mut().filter(|request| !request.is_asked) {
            if !self.session.is_behind_request(request.packet_id) {
                request.is_asked = true;
                self.call(hub, connection, 0, request.op());
            }
        }
        if !requests.is_empty() {
            self.rare().requests = requests;
        }
    }

    /// Subscriptions are where they must be: SUBACK, then retained messages. `existed` is the store's word on which filters
    /// were there, and then they are in the index; those of a session in memory come there now.
    fn subscribed(
        &mut self,
        hub: &Arc<Hub>,
        packet_id: PacketId,
        items: &[SubscribeItem],
        existed: &[bool],
        out: &mut Outputs<'_>,
    ) {
        let mut codes = Vec::with_capacity(items.len());
        let mut stored = existed.iter().copied();
        for SubscribeItem { subscription, retain_handling } in items {
            match subscription {
                Ok(subscription) => {
                    let existed = match stored.next() {
                        Some(existed) => existed,
                        None => hub.directory.subscribe(&self.handle, subscription),
                    };
                    let wanted = match retain_handling {
                        RetainHandling::Send => true,
                        RetainHandling::SendIfNew => !existed,
                        RetainHandling::DoNotSend => false,
                    };
                    if wanted {
                        let config = &hub.config;
                        let (max, bytes_max) = (config.subscriptions_max, config.session_bytes_max);
                        self.rare().retained.begin(subscription, max, bytes_max);
                    }
                    codes.push(ReasonCode::granted(subscription.options.qos));
                }
                Err(code) => codes.push(*code),
            }
        }
        self.session.handle(Input::Subscribed(packet_id, codes), hub.now(), out);
    }

    fn unsubscribed(
        &mut self,
        hub: &Hub,
        packet_id: PacketId,
        filters: &[Arc<str>],
        existed: &[bool],
        out: &mut Outputs<'_>,
    ) {
        if let Some(rare) = &mut self.rare {
            rare.retained.forget(filters);
        }
        let code = |&existed: &bool| {
            if existed { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted }
        };
        let codes = existed.iter().map(code).collect();
        self.session.handle(Input::Unsubscribed(packet_id, codes), hub.now(), out);
    }

    fn store_subscribed(
        &mut self,
        hub: &Arc<Hub>,
        packet_id: PacketId,
        mut items: Vec<SubscribeItem>,
        result: Result<Vec<bool>, StoreError>,
        out: &mut Outputs<'_>,
    ) {
        let existed = match result {
            Ok(existed) => existed,
            Err(error) => {
                let code = match error {
                    StoreError::SubscriptionQuota => ReasonCode::QuotaExceeded,
                    _ => ReasonCode::UnspecifiedError,
                };
                for item in &mut items {
                    item.subscription = item.subscription.clone().and(Err(code));
                }
                Vec::new()
            }
        };
        self.subscribed(hub, packet_id, &items, &existed, out);
    }

    fn store_unsubscribed(
        &mut self,
        hub: &Hub,
        packet_id: PacketId,
        filters: &[Arc<str>],
        result: Result<Vec<bool>, StoreError>,
        out: &mut Outputs<'_>,
    ) {
        match result {
            Ok(existed) => self.unsubscribed(hub, packet_id, filters, &existed, out),
            Err(_) => {
                let codes = vec![ReasonCode::UnspecifiedError; filters.len()];
                self.session.handle(Input::Unsubscribed(packet_id, codes), hub.now(), out);
            }
        }
    }
}
