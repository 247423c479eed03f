//! Which keyspace holds what, and under which keys. Numbers in keys are big-endian, so that they sort.
//! Nothing in `queue` and `marks` is ever deleted one by one: compaction leaves out what is dead (see `garbage`).
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `sessions` | session, part; `RESERVED`, part | the part; the bound of reserved keys, the clocks |
//! | | session, part, unique | a Will that outlived the session; a message of a share that it left |
//! | `subscriptions` | session, Topic Filter | options |
//! | `queue` | session, last number | consecutive records of one batch; dead when the head is past the last number |
//! | `marks` | session, last number, unique | later states of records; dead like them |
//! | `bodies` | body | a message |
//! | `retained` | Topic Name | a message |

use crate::tables::SessionKey;

/// A keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Keyspace {
    Sessions,
    Subscriptions,
    Queue,
    Marks,
    Bodies,
    Retained,
}

impl Keyspace {
    /// In the order of the discriminants.
    pub(super) const ALL: [Self; 6] =
        [Self::Sessions, Self::Subscriptions, Self::Queue, Self::Marks, Self::Bodies, Self::Retained];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Subscriptions => "subscriptions",
            Self::Queue => "queue",
            Self::Marks => "marks",
            Self::Bodies => "bodies",
            Self::Retained => "retained",
        }
    }

    /// Whether its keys begin with session and number, and die with the head of the session's queue.
    pub(super) fn is_numbered(name: &str) -> bool {
        name == Self::Queue.name() || name == Self::Marks.name()
    }
}

/// A part of a session in [`Keyspace::Sessions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Record,
    Head,
    Received,
    Will,
    /// A Will that outlived its session; its key goes on with a number of its own.
    Orphan,
    /// A message that a member of a share left, likewise.
    Left,
}

impl Part {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Record, Self::Head, Self::Received, Self::Will, Self::Orphan, Self::Left]
            .get(usize::from(byte))
            .copied()
    }
}

/// Where what belongs to no session stands, in place of one.
pub(super) const RESERVED: SessionKey = SessionKey(u64::MAX);

/// The key of the bound of reserved keys.
pub(super) fn reserved_keys() -> [u8; 9] {
    session_part(RESERVED, Part::Record)
}

/// The key of what the clocks showed last.
pub(super) fn clocks() -> [u8; 9] {
    session_part(RESERVED, Part::Head)
}

/// The key of a part of a session.
pub(super) fn session_part(session: SessionKey, part: Part) -> [u8; 9] {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&session.0.to_be_bytes());
    key[8] = part as u8;
    key
}

/// The key of a Will that outlived its session.
pub(super) fn orphan(session: SessionKey, own: u64) -> [u8; 17] {
    outliving(session, Part::Orphan, own)
}

/// The key of a message that a member of a share left.
pub(super) fn left(session: SessionKey, own: u64) -> [u8; 17] {
    outliving(session, Part::Left, own)
}

fn outliving(session: SessionKey, part: Part, own: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[..9].copy_from_slice(&session_part(session, part));
    key[9..].copy_from_slice(&own.to_be_bytes());
    key
}

/// Reads [`session_part`], [`orphan`] and [`left`], whose last number is 0 for the former.
pub(super) fn parse_session_part(key: &[u8]) -> Option<(SessionKey, Part, u64)> {
    let (session, rest) = key.split_first_chunk()?;
    let (part, own) = rest.split_first()?;
    let part = Part::from_byte(*part)?;
    let own = match part {
        Part::Orphan | Part::Left => u64::from_be_bytes(own.try_into().ok()?),
        _ if own.is_empty() => 0,
        _ => return None,
    };
    Some((SessionKey(u64::from_be_bytes(*session)), part, own))
}

/// The key of a subscription.
pub(super) fn subscription(session: SessionKey, filter: &str) -> Vec<u8> {
    [&session.0.to_be_bytes(), filter.as_bytes()].concat()
}

/// Reads [`subscription`].
pub(super) fn parse_subscription(key: &[u8]) -> Option<(SessionKey, &str)> {
    let (session, filter) = key.split_first_chunk()?;
    Some((SessionKey(u64::from_be_bytes(*session)), std::str::from_utf8(filter).ok()?))
}

/// The key of consecutive queue records.
pub(super) fn numbered(session: SessionKey, last: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&session.0.to_be_bytes());
    key[8..].copy_from_slice(&last.to_be_bytes());
    key
}

/// The key of marks.
pub(super) fn marks(session: SessionKey, last: u64, unique: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&numbered(session, last));
    key[16..].copy_from_slice(&unique.to_be_bytes());
    key
}

/// Reads what [`numbered`] and [`marks`] begin with.
pub(super) fn parse_numbered(key: &[u8]) -> Option<(SessionKey, u64)> {
    let (session, rest) = key.split_first_chunk()?;
    let last = rest.first_chunk()?;
    Some((SessionKey(u64::from_be_bytes(*session)), u64::from_be_bytes(*last)))
}
