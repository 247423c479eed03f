//! How messages are written into Redis: a version, the size as queues count it, then little-endian fields, lengths before
//! bytes. The functions read the version, the size and the kind; reading here never trusts a length.

use std::sync::Arc;

use bytes::Bytes;
use mqtt::QoS;

use crate::reader::{Malformed, Reader};
use crate::{
    Delivery, Message, MessageHeader, Owner, Principal, Record, StoreError, SubscriptionIds,
    SubscriptionOptions, Via,
};

const VERSION: u8 = 1;
const KIND_MESSAGE: u8 = 0;
const KIND_RELEASED: u8 = 1;
const FLAG_RETAIN: u8 = 0b0000_0100;
/// Of a record. Earlier versions neither write nor look at it.
const FLAG_READ: u8 = 0b0000_1000;
/// Of a retained message: it has a seat. In queues these bits say by which share a message came.
const FLAG_SEATED: u8 = 0b0001_0000;

const DAMAGED: StoreError = StoreError::Damaged { what: "message" };

type Result<T> = std::result::Result<T, StoreError>;

/// The front of a queue record, which differs from session to session.
pub(super) fn record_head(delivery: &Delivery) -> Vec<u8> {
    let mut out = Vec::new();
    write_record_head(&mut out, delivery);
    out
}

/// A whole queue record.
pub(super) fn write_record(out: &mut Vec<u8>, delivery: &Delivery) {
    write_record_head(out, delivery);
    write_body(out, &delivery.message);
}

fn write_record_head(out: &mut Vec<u8>, delivery: &Delivery) {
    let via = if delivery.via == Via::Retained { FLAG_READ } else { 0 };
    let flags = flags(delivery.qos, delivery.retain) | via;
    write_head(out, delivery.message.size(), flags, delivery.subscription_ids.as_slice());
}

fn write_head(out: &mut Vec<u8>, size: usize, flags: u8, ids: &[u32]) {
    out.reserve(9 + 4 * ids.len());
    out.push(VERSION);
    out.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
    out.push(KIND_MESSAGE);
    out.push(flags);
    let count = u16::try_from(ids.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    for id in &ids[..usize::from(count)] {
        out.extend_from_slice(&id.to_le_bytes());
    }
}

fn flags(qos: QoS, retain: bool) -> u8 {
    qos.as_u8() | if retain { FLAG_RETAIN } else { 0 }
}

/// The rest of a record: the message itself.
pub(super) fn body(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    write_body(&mut out, message);
    out
}

fn write_body(out: &mut Vec<u8>, message: &Message) {
    let (bytes, topic_len, properties_len) = message.parts();
    let header = message.header();
    out.reserve(23 + bytes.len());
    out.push(flags(header.qos, header.retain));
    out.extend_from_slice(&header.published_at.to_le_bytes());
    out.extend_from_slice(&header.expires_at.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&topic_len.to_le_bytes());
    out.extend_from_slice(&properties_len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A message on its own: a retained one.
pub(super) fn message(message: &Message) -> Vec<u8> {
    on_its_own(message, 0, &[])
}

/// A Will. In the place of Subscription Identifiers, of which it has none, stands how many messages its owner may retain, if that is
/// bounded. Earlier versions neither write nor look at it.
pub(super) fn will(message: &Message) -> Vec<u8> {
    let max = message.owner().and_then(|owner| owner.messages_max);
    let max = max.map(|max| u32::try_from(max).unwrap_or(u32::MAX));
    on_its_own(message, 0, max.as_slice())
}

/// Reads a Will, which is this principal's: to be retained as its message.
pub(super) fn read_will(bytes: &[u8], principal: Option<&Principal>) -> Result<Arc<Message>> {
    let Record::Message(Delivery { message, subscription_ids, .. }) = read_record(bytes)? else {
        return Err(DAMAGED);
    };
    let Some(principal) = principal.filter(|_| message.retain()) else { return Ok(message) };
    let messages_max = subscription_ids.as_slice().first().map(|max| u64::from(*max));
    let owner = Owner { principal: principal.clone(), messages_max };
    Ok(Arc::new(Arc::unwrap_or_clone(message).with_owner(owner)))
}

/// A retained message that has a seat.
pub(super) fn seated(message: &Message) -> Vec<u8> {
    on_its_own(message, FLAG_SEATED, &[])
}

fn on_its_own(message: &Message, more_flags: u8, numbers: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    write_head(&mut out, message.size(), flags(message.qos(), message.retain()) | more_flags, numbers);
    write_body(&mut out, message);
    out
}

/// Reads a message on its own.
pub(super) fn read_message(bytes: &[u8]) -> Result<Arc<Message>> {
    match read_record(bytes)? {
        Record::Message(delivery) => Ok(delivery.message),
        Record::Released => Err(DAMAGED),
    }
}

/// Reads a queue record.
pub(super) fn read_record(bytes: &[u8]) -> Result<Record> {
    record(Reader(bytes)).map_err(|Malformed| DAMAGED)
}

fn record(mut reader: Reader<'_>) -> std::result::Result<Record, Malformed> {
    if reader.u8()? != VERSION {
        return Err(Malformed);
    }
    let _size = reader.u32()?;
    match reader.u8()? {
        KIND_RELEASED => return Ok(Record::Released),
        KIND_MESSAGE => {}
        _ => return Err(Malformed),
    }
    let flags = reader.u8()?;
    let (qos, retain) = (QoS::from_bits(flags).ok_or(Malformed)?, flags & FLAG_RETAIN != 0);
    let via = if flags & FLAG_READ == 0 { Via::Subscription } else { Via::Retained };
    let count = reader.u16()?;
    let subscription_ids = SubscriptionIds::from_slice(&reader.u32s(count.into())?);
    let message = read_body(reader)?;
    Ok(Record::Message(Delivery { message, qos, retain, subscription_ids, via }))
}

/// The options of a subscription.
pub(super) fn options(options: &SubscriptionOptions) -> Vec<u8> {
    let flags =
        options.qos.as_u8() | u8::from(options.no_local) << 2 | u8::from(options.retain_as_published) << 3;
    let mut out = vec![VERSION, flags];
    out.extend_from_slice(&options.subscription_id.to_le_bytes());
    out
}

/// Reads the options of a subscription.
pub(super) fn read_options(bytes: &[u8]) -> Result<SubscriptionOptions> {
    const DAMAGED: StoreError = StoreError::Damaged { what: "subscription" };
    let [VERSION, flags, id @ ..] = bytes else { return Err(DAMAGED) };
    Ok(SubscriptionOptions {
        qos: QoS::from_bits(*flags).ok_or(DAMAGED)?,
        no_local: flags & 0b0100 != 0,
        retain_as_published: flags & 0b1000 != 0,
        subscription_id: u32::from_le_bytes(id.try_into().map_err(|_| DAMAGED)?),
    })
}

/// Reads a message as [`body`] wrote it.
pub(super) fn read_body(mut reader: Reader<'_>) -> std::result::Result<Arc<Message>, Malformed> {
    let flags = reader.u8()?;
    let (qos, retain) = (QoS::from_bits(flags).ok_or(Malformed)?, flags & FLAG_RETAIN != 0);
    let published_at = reader.u64()?;
    let expires_at = Some(reader.u64()?).filter(|at| *at != 0);
    let (topic_len, properties_len) = (reader.u16()?, reader.u32()?);
    let header = MessageHeader { qos, retain, published_at, expires_at };
    let bytes = Bytes::copy_from_slice(reader.0);
    Message::from_parts(bytes, topic_len, properties_len, header).map(Arc::new).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_the_one_that_the_functions_read() {
        let message = Message::new("t", &[], b"x", QoS::AtLeastOnce, true, 5);
        let bytes = super::message(&message);
        assert_eq!(bytes[0], 1);
        assert_eq!(u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize, message.size());
        assert_eq!(bytes[5..9], [0, 0b101, 0, 0]);
        assert!(matches!(read_record(&[1, 0, 0, 0, 0, 1]), Ok(Record::Released)));
    }

    #[test]
    fn a_will_keeps_what_its_owner_may_retain_and_one_of_an_earlier_version_has_no_bound() {
        let alice = Principal("alice".into());
        let message = Message::new("t", &[1, 2], b"x", QoS::AtLeastOnce, true, 5).with_expiry(Some(9));
        for messages_max in [None, Some(1), Some(u64::from(u32::MAX))] {
            let owner = Owner { principal: alice.clone(), messages_max };
            let bytes = will(&message.clone().with_owner(owner.clone()));
            let found = read_will(&bytes, Some(&alice)).unwrap();
            assert_eq!((&*found, found.owner()), (&message, Some(&owner)));
            assert_eq!(*read_message(&bytes).unwrap(), message, "as earlier versions read it");
            assert_eq!(read_will(&bytes, None).unwrap().owner(), None);
        }
        let earlier = read_will(&super::message(&message), Some(&alice)).unwrap();
        assert_eq!(earlier.owner(), Some(&Owner { principal: alice, messages_max: None }));
    }

    proptest! {
        #[test]
        fn deliveries_come_back(
            topic in "[a-z/]{0,20}",
            payload in proptest::collection::vec(any::<u8>(), 0..50),
            expiry in proptest::option::of(1_u32..9),
            ids in proptest::collection::vec(1_u32..268_435_456, 0..4),
            retain: bool,
            is_read: bool,
        ) {
            let message = Message::new(&topic, &[1, 2], &payload, QoS::ExactlyOnce, !retain, 77).with_expiry(expiry);
            let delivery = Delivery {
                message: Arc::new(message),
                qos: QoS::AtLeastOnce,
                retain,
                subscription_ids: SubscriptionIds::from_slice(&ids),
                via: if is_read { Via::Retained } else { Via::Subscription },
            };
            let mut bytes = record_head(&delivery);
            bytes.extend_from_slice(&body(&delivery.message));
            let Ok(Record::Message(found)) = read_record(&bytes) else { panic!("a message") };
            prop_assert_eq!(found, delivery);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = read_record(&bytes);
            let mut versioned = vec![1, 9, 0, 0, 0, 0];
            versioned.extend_from_slice(&bytes);
            let _ = read_record(&versioned);
            let _ = read_options(&bytes);
        }
    }
}
