//! How records are written: little-endian numbers, lengths before bytes. Reading never trusts a length.

use std::sync::Arc;

use bytes::Bytes;
use mqtt::{PacketId, ProtocolVersion, QoS};

pub(super) use crate::reader::{Malformed, Reader};
use crate::tables::Extra;
use crate::tables::journal::{RecordMark, SessionRecord, WillRecord};
use crate::{
    ConnectionId, Delivery, DueLeft, Message, MessageHeader, Owner, Principal, QueueLimits, SubscriptionIds,
    SubscriptionOptions, Via,
};

type Result<T> = std::result::Result<T, Malformed>;

const FLAG_RETAIN: u8 = 0b0000_0100;
const FLAG_EXPIRES: u8 = 0b0000_1000;
const FLAG_IDS: u8 = 0b0001_0000;
const FLAG_APART: u8 = 0b0010_0000;
/// Absent in what earlier versions wrote.
const FLAG_READ: u8 = 0b0100_0000;
/// Likewise; the share follows.
const FLAG_SHARE: u8 = 0b1000_0000;

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, value: &str) {
    put_u32(out, u32::try_from(value.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(value.as_bytes());
}

/// Writes a message.
pub(super) fn put_message(out: &mut Vec<u8>, message: &Message) {
    let (bytes, topic_len, properties_len) = message.parts();
    let MessageHeader { qos, retain, published_at, expires_at } = message.header();
    let mut flags = qos.as_u8();
    flags |= if retain { FLAG_RETAIN } else { 0 };
    flags |= if expires_at.is_some() { FLAG_EXPIRES } else { 0 };
    out.push(flags);
    put_u64(out, published_at);
    if let Some(at) = expires_at {
        put_u64(out, at);
    }
    out.extend_from_slice(&topic_len.to_le_bytes());
    put_u32(out, properties_len);
    put_u32(out, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}

/// The head of a written message, and its bytes.
struct MessageParts<'a> {
    header: MessageHeader,
    topic_len: u16,
    properties_len: u32,
    bytes: &'a [u8],
}

fn message_parts<'a>(reader: &mut Reader<'a>) -> Result<MessageParts<'a>> {
    let flags = reader.u8()?;
    let qos = QoS::from_bits(flags).ok_or(Malformed)?;
    let published_at = reader.u64()?;
    let expires_at = if flags & FLAG_EXPIRES == 0 { None } else { Some(reader.u64()?) };
    let topic_len = reader.u16()?;
    let properties_len = reader.u32()?;
    let header = MessageHeader { qos, retain: flags & FLAG_RETAIN != 0, published_at, expires_at };
    Ok(MessageParts { header, topic_len, properties_len, bytes: reader.bytes()? })
}

/// Reads a message.
pub(super) fn message(reader: &mut Reader<'_>) -> Result<Arc<Message>> {
    owned_message(reader).map(Arc::new)
}

fn owned_message(reader: &mut Reader<'_>) -> Result<Message> {
    let MessageParts { header, topic_len, properties_len, bytes } = message_parts(reader)?;
    let bytes = Bytes::copy_from_slice(bytes);
    Message::from_parts(bytes, topic_len, properties_len, header).ok_or(Malformed)
}

/// Writes a retained message, and whose it is.
pub(super) fn put_retained(out: &mut Vec<u8>, message: &Message) {
    put_message(out, message);
    put_principal(out, message.owner().map(|owner| &owner.principal));
}

/// Reads a retained message.
pub(super) fn retained(bytes: &[u8]) -> Result<Arc<Message>> {
    let mut reader = Reader(bytes);
    let message = owned_message(&mut reader)?;
    let owner = principal(&mut reader)?.map(|principal| Owner { principal, messages_max: None });
    Ok(Arc::new(match owner {
        Some(owner) => message.with_owner(owner),
        None => message,
    }))
}

/// What a queue record holds beside its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) extra: Extra,
    /// The key and size of a body that is elsewhere.
    pub(super) apart: Option<(u64, u32)>,
}

/// Writes the head of a queue record; the message follows, unless it is elsewhere.
pub(super) fn put_record_head(out: &mut Vec<u8>, delivery: &Delivery, apart: Option<(u64, u32)>) {
    let ids = delivery.subscription_ids.as_slice();
    let mut flags = delivery.qos.as_u8();
    flags |= if delivery.retain { FLAG_RETAIN } else { 0 };
    flags |= match delivery.via {
        Via::Subscription => 0,
        Via::Retained => FLAG_READ,
        Via::Share(_) => FLAG_SHARE,
    };
    flags |= if ids.is_empty() { 0 } else { FLAG_IDS };
    flags |= if apart.is_some() { FLAG_APART } else { 0 };
    out.push(flags);
    if !ids.is_empty() {
        put_u32(out, u32::try_from(ids.len()).unwrap_or(u32::MAX));
        for id in ids {
            put_u32(out, *id);
        }
    }
    if let Some((body, size)) = apart {
        put_u64(out, body);
        put_u32(out, size);
    }
    if let Via::Share(share) = &delivery.via {
        put_str(out, share);
    }
}

/// Reads the head of a queue record.
pub(super) fn record_head(reader: &mut Reader<'_>) -> Result<RecordHead> {
    let flags = reader.u8()?;
    let qos = QoS::from_bits(flags).ok_or(Malformed)?;
    let ids = if flags & FLAG_IDS == 0 {
        SubscriptionIds::NONE
    } else {
        let count = reader.u32()? as usize;
        SubscriptionIds::from_slice(&reader.u32s(count)?)
    };
    let apart = if flags & FLAG_APART == 0 { None } else { Some((reader.u64()?, reader.u32()?)) };
    let via = match flags & (FLAG_READ | FLAG_SHARE) {
        0 => Via::Subscription,
        FLAG_READ => Via::Retained,
        _ => Via::Share(Arc::from(reader.str()?)),
    };
    let extra = Extra { ids, via };
    Ok(RecordHead { qos, retain: flags & FLAG_RETAIN != 0, extra, apart })
}

/// Steps over the message of a queue record; answers its size as [`Message::size`] counts it.
pub(super) fn skip_message(reader: &mut Reader<'_>) -> Result<usize> {
    message_parts(reader).map(|parts| parts.bytes.len() + size_of::<Message>())
}

/// Writes marks.
pub(super) fn put_marks(out: &mut Vec<u8>, marks: &[(u64, RecordMark)]) {
    for (number, mark) in marks {
        put_u64(out, *number);
        out.push(match mark {
            RecordMark::Released => 0,
            RecordMark::Acknowledged => 1,
        });
    }
}

/// Reads marks.
pub(super) fn marks(bytes: &[u8]) -> Result<Vec<(u64, RecordMark)>> {
    let mut reader = Reader(bytes);
    let mut marks = Vec::with_capacity(bytes.len() / 9);
    while !reader.is_empty() {
        let number = reader.u64()?;
        let mark = match reader.u8()? {
            0 => RecordMark::Released,
            1 => RecordMark::Acknowledged,
            _ => return Err(Malformed),
        };
        marks.push((number, mark));
    }
    Ok(marks)
}

/// Writes Packet Identifiers.
pub(super) fn put_received(out: &mut Vec<u8>, received: &[PacketId]) {
    for id in received {
        out.extend_from_slice(&id.as_u16().to_le_bytes());
    }
}

/// Reads Packet Identifiers.
pub(super) fn received(bytes: &[u8]) -> Result<Vec<PacketId>> {
    let (ids, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err(Malformed);
    }
    ids.iter().map(|id| PacketId::new(u16::from_le_bytes(*id)).ok_or(Malformed)).collect()
}

/// Writes the options of a subscription.
pub(super) fn put_options(out: &mut Vec<u8>, options: &SubscriptionOptions) {
    let flags =
        options.qos.as_u8() | u8::from(options.no_local) << 2 | u8::from(options.retain_as_published) << 3;
    out.push(flags);
    put_u32(out, options.subscription_id);
}

/// Reads the options of a subscription.
pub(super) fn options(bytes: &[u8]) -> Result<SubscriptionOptions> {
    let mut reader = Reader(bytes);
    let flags = reader.u8()?;
    Ok(SubscriptionOptions {
        qos: QoS::from_bits(flags).ok_or(Malformed)?,
        no_local: flags & 0b0100 != 0,
        retain_as_published: flags & 0b1000 != 0,
        subscription_id: reader.u32()?,
    })
}

/// Writes a session.
pub(super) fn put_session(out: &mut Vec<u8>, record: &SessionRecord) {
    put_str(out, &record.client_id);
    put_u64(out, record.epoch);
    out.extend_from_slice(&record.connection_id.0.to_le_bytes());
    out.push(u8::from(record.connected));
    put_u64(out, record.expires_at.unwrap_or(u64::MAX));
    put_u32(out, record.expiry_s);
    put_u64(out, record.limits.messages_max);
    put_u64(out, record.limits.bytes_max);
    out.push(record.protocol.level());
    out.extend_from_slice(&record.receive_maximum.to_le_bytes());
    put_u64(out, record.sent);
    // Absent in what earlier versions wrote; they do not read this far.
    out.push(u8::from(record.is_memory_queue));
    put_principal(out, record.principal.as_ref());
}

/// Reads a session.
pub(super) fn session(bytes: &[u8]) -> Result<SessionRecord> {
    let mut reader = Reader(bytes);
    Ok(SessionRecord {
        client_id: Arc::from(reader.str()?),
        epoch: reader.u64()?,
        connection_id: ConnectionId(reader.u128()?),
        connected: reader.u8()? != 0,
        expires_at: Some(reader.u64()?).filter(|at| *at != u64::MAX),
        expiry_s: reader.u32()?,
        limits: QueueLimits { messages_max: reader.u64()?, bytes_max: reader.u64()? },
        protocol: ProtocolVersion::from_level(reader.u8()?).ok_or(Malformed)?,
        receive_maximum: reader.u16()?,
        sent: reader.u64()?,
        is_memory_queue: !reader.is_empty() && reader.u8()? != 0,
        principal: principal(&mut reader)?,
    })
}

/// Writes whose something is, if that is known.
fn put_principal(out: &mut Vec<u8>, principal: Option<&Principal>) {
    out.push(u8::from(principal.is_some()));
    if let Some(Principal(name)) = principal {
        put_str(out, name);
    }
}

/// Reads [`put_principal`], which earlier versions did not write.
fn principal(reader: &mut Reader<'_>) -> Result<Option<Principal>> {
    let is_known = !reader.is_empty() && reader.u8()? != 0;
    Ok(if is_known { Some(Principal(Arc::from(reader.str()?))) } else { None })
}

/// Writes how many messages the owner of a Will that is to be retained may have; nothing can be that many that is bounded.
fn put_messages_max(out: &mut Vec<u8>, message: &Message) {
    put_u64(out, message.owner().and_then(|owner| owner.messages_max).unwrap_or(u64::MAX));
}

/// Reads [`put_messages_max`], which earlier versions did not write, behind whose the message is.
fn with_owner(reader: &mut Reader<'_>, message: Message, whose: Option<Principal>) -> Result<Arc<Message>> {
    let max = if reader.is_empty() { u64::MAX } else { reader.u64()? };
    let messages_max = Some(max).filter(|max| *max != u64::MAX);
    let owner = whose.filter(|_| message.retain()).map(|principal| Owner { principal, messages_max });
    Ok(Arc::new(match owner {
        Some(owner) => message.with_owner(owner),
        None => message,
    }))
}

/// Writes a Will.
pub(super) fn put_will(out: &mut Vec<u8>, record: &WillRecord) {
    put_u32(out, record.delay_s);
    put_u64(out, record.due_at.unwrap_or(u64::MAX));
    put_message(out, &record.message);
    // Absent in what earlier versions wrote; they do not read this far.
    put_principal(out, record.message.owner().map(|owner| &owner.principal));
    put_messages_max(out, &record.message);
}

/// Reads a Will.
pub(super) fn will(bytes: &[u8]) -> Result<WillRecord> {
    let mut reader = Reader(bytes);
    let delay_s = reader.u32()?;
    let due_at = Some(reader.u64()?).filter(|at| *at != u64::MAX);
    let message = owned_message(&mut reader)?;
    let whose = principal(&mut reader)?;
    Ok(WillRecord { message: with_owner(&mut reader, message, whose)?, delay_s, due_at })
}

/// Writes a Will whose session is gone.
pub(super) fn put_orphan(out: &mut Vec<u8>, client_id: &str, whose: Option<&Principal>, message: &Message) {
    put_str(out, client_id);
    put_message(out, message);
    put_principal(out, whose);
    put_messages_max(out, message);
}

/// Writes a message that a member of a share left.
pub(super) fn put_left(out: &mut Vec<u8>, left: &DueLeft) {
    put_str(out, &left.session.client_id);
    put_str(out, &left.share);
    put_message(out, &left.message);
}

/// Reads a message that a member of a share left: who left it, of which share.
pub(super) fn left(bytes: &[u8]) -> Result<(Arc<str>, Arc<str>, Arc<Message>)> {
    let mut reader = Reader(bytes);
    Ok((Arc::from(reader.str()?), Arc::from(reader.str()?), message(&mut reader)?))
}

/// Reads a Will whose session is gone.
pub(super) fn orphan(bytes: &[u8]) -> Result<(Arc<str>, Arc<Message>, Option<Principal>)> {
    let mut reader = Reader(bytes);
    let client_id = Arc::from(reader.str()?);
    let message = owned_message(&mut reader)?;
    let whose = principal(&mut reader)?;
    Ok((client_id, with_owner(&mut reader, message, whose.clone())?, whose))
}
