//! How entries of the log and of inboxes are written: a version, then little-endian fields, lengths before what they
//! count. A message that several notes of an entry carry is written once. Reading never trusts a length.

use std::collections::HashMap;
use std::sync::Arc;

use mqtt::QoS;

use super::super::codec;
use crate::reader::{Malformed, Reader};
use crate::{
    ConnectionId, Delivery, Listener, Message, Noted, Number, PublishingSession, RouteChange, Stamp,
    StoreError, StoredSession, Subscription, SubscriptionIds, Via, Wants, WorkerId,
};

const VERSION: u8 = 1;

const SUBSCRIBED: u8 = 0;
const UNSUBSCRIBED: u8 = 1;
const GONE: u8 = 2;
const LISTENING: u8 = 3;
const DEAF: u8 = 4;
const LEFT: u8 = 5;

const MESSAGE: u8 = 0;
const QUEUED: u8 = 1;
const TAKEN_OVER: u8 = 2;

/// [`Wants::Qos0Only`], where [`Wants::UpTo`] has its QoS.
const QOS_0_ONLY: u8 = 255;
const FLAG_RETAIN: u8 = 0b0000_0100;
/// Earlier versions neither write nor look at it.
const FLAG_READ: u8 = 0b0000_1000;

type Result<T> = std::result::Result<T, Malformed>;

fn damaged(_: Malformed) -> StoreError {
    StoreError::Damaged { what: "entry from another worker" }
}

/// An entry of the log.
pub(super) fn changes(changes: &[RouteChange]) -> Vec<u8> {
    let mut out = EntryWriter::new();
    for change in changes {
        out.change(change);
    }
    out.0
}

/// Reads an entry of the log.
pub(super) fn read_changes(bytes: &[u8]) -> std::result::Result<Vec<RouteChange>, StoreError> {
    read_entry(bytes, |reader| {
        let mut found = Vec::new();
        while !reader.is_empty() {
            found.push(reader.change()?);
        }
        Ok(found)
    })
}

/// Reads an entry behind its version.
fn read_entry<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T>,
) -> std::result::Result<T, StoreError> {
    let mut reader = Reader(bytes);
    let version = reader.u8().and_then(|version| if version == VERSION { Ok(()) } else { Err(Malformed) });
    version.and_then(|()| read(&mut reader)).map_err(damaged)
}

/// An entry of an inbox.
pub(super) fn notes(notes: &[Noted]) -> Vec<u8> {
    let mut bodies: Vec<&Arc<Message>> = Vec::new();
    let mut places: HashMap<*const Message, u32> = HashMap::new();
    for note in notes {
        if let Noted::Message { message, .. } | Noted::Queued { delivery: Delivery { message, .. }, .. } =
            note
        {
            places.entry(Arc::as_ptr(message)).or_insert_with(|| {
                bodies.push(message);
                bodies.len() as u32 - 1
            });
        }
    }
    let mut out = EntryWriter::new();
    out.u32(bodies.len());
    for body in bodies {
        out.bytes(&codec::body(body));
    }
    let place = |message: &Arc<Message>| places.get(&Arc::as_ptr(message)).copied().unwrap_or(0) as usize;
    for note in notes {
        match note {
            Noted::Message { stamp, message, is_plain, shares } => {
                out.0.extend_from_slice(&[MESSAGE, u8::from(*is_plain)]);
                out.stamp(stamp);
                out.u32(place(message));
                out.u32(shares.len());
                shares.iter().for_each(|share| out.text(share));
            }
            Noted::Queued { session, number, delivery } => {
                out.0.push(QUEUED);
                out.session(session);
                out.u64(number.0);
                out.u32(place(&delivery.message));
                let read = if delivery.via == Via::Retained { FLAG_READ } else { 0 };
                out.0.push(delivery.qos.as_u8() | if delivery.retain { FLAG_RETAIN } else { 0 } | read);
                let ids = delivery.subscription_ids.as_slice();
                out.u32(ids.len());
                ids.iter().for_each(|id| out.u32(*id as usize));
            }
            Noted::TakenOver { client_id, connection_id } => {
                out.0.push(TAKEN_OVER);
                out.text(client_id);
                out.0.extend_from_slice(&connection_id.0.to_le_bytes());
            }
        }
    }
    out.0
}

/// Reads an entry of an inbox.
pub(super) fn read_notes(bytes: &[u8]) -> std::result::Result<Vec<Noted>, StoreError> {
    read_entry(bytes, notes_of)
}

fn notes_of(reader: &mut Reader<'_>) -> Result<Vec<Noted>> {
    let bodies = reader.list(|reader| codec::read_body(Reader(reader.bytes()?)))?;
    let body = |place: u32| bodies.get(place as usize).map(Arc::clone).ok_or(Malformed);
    let mut found = Vec::new();
    while !reader.is_empty() {
        found.push(match reader.u8()? {
            MESSAGE => {
                let is_plain = reader.u8()? != 0;
                let stamp = reader.stamp()?;
                let message = body(reader.u32()?)?;
                let shares = reader.list(Reader::text)?;
                Noted::Message { stamp, message, is_plain, shares }
            }
            QUEUED => {
                let session = reader.session()?;
                let number = Number(reader.u64()?);
                let message = body(reader.u32()?)?;
                let flags = reader.u8()?;
                let ids = reader.list(Reader::u32)?;
                let delivery = Delivery {
                    message,
                    qos: QoS::from_bits(flags).ok_or(Malformed)?,
                    retain: flags & FLAG_RETAIN != 0,
                    subscription_ids: SubscriptionIds::from_slice(&ids),
                    via: if flags & FLAG_READ == 0 { Via::Subscription } else { Via::Retained },
                };
                Noted::Queued { session, number, delivery }
            }
            TAKEN_OVER => {
                Noted::TakenOver { client_id: reader.text()?, connection_id: ConnectionId(reader.u128()?) }
            }
            _ => return Err(Malformed),
        });
    }
    Ok(found)
}

/// What a listener gets, as one byte and as it is stored beside the filter.
pub(super) fn wants(wants: Wants) -> u8 {
    match wants {
        Wants::Qos0Only => QOS_0_ONLY,
        Wants::UpTo(qos) => qos.as_u8(),
    }
}

/// Reads [`wants`].
pub(super) fn read_wants(byte: u8) -> Option<Wants> {
    match byte {
        QOS_0_ONLY => Some(Wants::Qos0Only),
        bits => QoS::from_bits(bits).map(Wants::UpTo),
    }
}

struct EntryWriter(Vec<u8>);

impl EntryWriter {
    fn new() -> Self {
        Self(vec![VERSION])
    }

    fn u32(&mut self, value: usize) {
        self.0.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn session(&mut self, session: &StoredSession) {
        self.text(&session.client_id);
        self.u64(session.incarnation);
    }

    fn stamp(&mut self, stamp: &Stamp) {
        self.u64(stamp.sender.0);
        self.u64(stamp.number);
        self.u64(stamp.at_us);
        self.0.push(u8::from(stamp.publisher.is_some()));
        if let Some(publisher) = stamp.publisher {
            self.u64(publisher.incarnation);
            self.u64(publisher.epoch);
        }
    }

    fn change(&mut self, change: &RouteChange) {
        match change {
            RouteChange::Subscribed { session, epoch, subscriptions } => {
                self.0.push(SUBSCRIBED);
                self.session(session);
                self.u64(*epoch);
                self.u32(subscriptions.len());
                for subscription in subscriptions {
                    self.text(&subscription.filter);
                    self.bytes(&codec::options(&subscription.options));
                }
            }
            RouteChange::Unsubscribed { session, epoch, filters } => {
                self.0.push(UNSUBSCRIBED);
                self.session(session);
                self.u64(*epoch);
                self.u32(filters.len());
                filters.iter().for_each(|filter| self.text(filter));
            }
            RouteChange::Gone(session) => {
                self.0.push(GONE);
                self.session(session);
            }
            RouteChange::Listening(Listener { worker, filter, wants }) => {
                self.0.push(LISTENING);
                self.u64(worker.0);
                self.text(filter);
                self.0.push(self::wants(*wants));
            }
            RouteChange::Deaf { worker, filter } => {
                self.0.push(DEAF);
                self.u64(worker.0);
                self.text(filter);
            }
            RouteChange::Left(worker) => {
                self.0.push(LEFT);
                self.u64(worker.0);
            }
        }
    }
}

impl Reader<'_> {
    fn text(&mut self) -> Result<Arc<str>> {
        self.str().map(Arc::from)
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        (0..self.u32()?).map(|_| item(self)).collect()
    }

    fn session(&mut self) -> Result<Arc<StoredSession>> {
        Ok(Arc::new(StoredSession { client_id: self.text()?, incarnation: self.u64()? }))
    }

    fn stamp(&mut self) -> Result<Stamp> {
        let (sender, number, at_us) = (WorkerId(self.u64()?), self.u64()?, self.u64()?);
        let publisher = match self.u8()? {
            0 => None,
            _ => Some(PublishingSession { incarnation: self.u64()?, epoch: self.u64()? }),
        };
        Ok(Stamp { sender, number, publisher, at_us })
    }

    fn change(&mut self) -> Result<RouteChange> {
        Ok(match self.u8()? {
            SUBSCRIBED => {
                let (session, epoch) = (self.session()?, self.u64()?);
                let subscriptions = self.list(|reader| {
                    let filter = reader.text()?;
                    Ok(Subscription {
                        filter,
                        options: codec::read_options(reader.bytes()?).map_err(|_| Malformed)?,
                    })
                })?;
                RouteChange::Subscribed { session, epoch, subscriptions }
            }
            UNSUBSCRIBED => RouteChange::Unsubscribed {
                session: self.session()?,
                epoch: self.u64()?,
                filters: self.list(Self::text)?,
            },
            GONE => RouteChange::Gone(self.session()?),
            LISTENING => RouteChange::Listening(Listener {
                worker: WorkerId(self.u64()?),
                filter: self.text()?,
                wants: read_wants(self.u8()?).ok_or(Malformed)?,
            }),
            DEAF => RouteChange::Deaf { worker: WorkerId(self.u64()?), filter: self.text()? },
            LEFT => RouteChange::Left(WorkerId(self.u64()?)),
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::SubscriptionOptions;

    fn session() -> Arc<StoredSession> {
        Arc::new(StoredSession { client_id: Arc::from("é"), incarnation: u64::MAX })
    }

    fn listener(filter: &str, wants: Wants) -> Listener {
        Listener { worker: WorkerId(3), filter: Arc::from(filter), wants }
    }

    #[test]
    fn changes_come_back() {
        let options = SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: false,
            subscription_id: 9,
        };
        let subscription = Subscription { filter: Arc::from("a/#"), options };
        let all = vec![
            RouteChange::Subscribed {
                session: session(),
                epoch: 7,
                subscriptions: vec![subscription.clone(), subscription],
            },
            RouteChange::Unsubscribed {
                session: session(),
                epoch: 8,
                filters: vec![Arc::from("x"), Arc::from("")],
            },
            RouteChange::Gone(session()),
            RouteChange::Listening(listener("$share/g/x", Wants::UpTo(QoS::AtLeastOnce))),
            RouteChange::Listening(listener("x", Wants::Qos0Only)),
            RouteChange::Deaf { worker: WorkerId(3), filter: Arc::from("x") },
            RouteChange::Left(WorkerId(u64::MAX)),
        ];
        assert_eq!(read_changes(&changes(&all)).expect("changes"), all);
    }

    #[test]
    fn notes_come_back_and_share_their_message() {
        let message =
            Arc::new(Message::new("t", &[1], &[7; 1000], QoS::AtLeastOnce, true, 5).with_expiry(Some(3)));
        let delivery = Delivery {
            message: Arc::clone(&message),
            qos: QoS::AtLeastOnce,
            retain: true,
            subscription_ids: SubscriptionIds::from_slice(&[1, 268_435_455]),
            via: Via::Retained,
        };
        let publisher = Some(PublishingSession { incarnation: u64::MAX, epoch: 6 });
        let stamp = Stamp { sender: WorkerId(9), number: 8, publisher, at_us: 5 };
        let all = [
            Noted::Message {
                stamp,
                message: Arc::clone(&message),
                is_plain: true,
                shares: vec![Arc::from("$share/g/t")],
            },
            Noted::Message {
                stamp: Stamp { publisher: None, ..stamp },
                message: Arc::clone(&message),
                is_plain: false,
                shares: Vec::new(),
            },
            Noted::Queued { session: session(), number: Number(77), delivery: delivery.clone() },
            Noted::TakenOver { client_id: Arc::from("c"), connection_id: ConnectionId(u128::MAX) },
        ];
        let bytes = notes(&all);
        assert!(bytes.len() < 1400, "the message is there once: {}", bytes.len());
        let found = read_notes(&bytes).expect("notes");
        assert_eq!(format!("{found:?}"), format!("{all:?}"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            bytes[0] = VERSION;
            let _ = read_changes(&bytes);
            let _ = read_notes(&bytes);
            bytes.splice(1..1, 0_u32.to_le_bytes());
            let _ = read_notes(&bytes);
        }
    }
}
