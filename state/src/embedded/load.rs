//! Reads the tables back. The time grows with what is live: dead queue records are stepped over by seeking.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use fjall::Slice;

use super::codec::{self, Malformed, Reader};
use super::damage::Damage;
use super::disk::{Disk, chunk_count};
use super::layout::{self, Keyspace, Part};
use super::mark::PROGRESS_KEY;
use super::recovery::DiskError;
use crate::tables::journal::{SessionRecord, WillRecord};
use crate::tables::restore::{RestoredSession, RestoredSlot};
use crate::tables::retained::Retained;
use crate::tables::{BodyKey, SessionKey, Tables, Whose};
use crate::{DueLeft, StoredSession, Subscription, UnixMs, Via};

/// After this many dead records in a row it is cheaper to seek.
const DEAD_RUN_MAX: u32 = 8;

/// More keys than are given out between two records of that.
const LOST_KEYS_MAX: u64 = 1 << 40;

/// Why loading failed.
pub(super) enum LoadError {
    Database(fjall::Error),
    Damaged(&'static str),
}

impl From<fjall::Error> for LoadError {
    fn from(error: fjall::Error) -> Self {
        Self::Database(error)
    }
}

impl From<LoadError> for DiskError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Database(source) => Self::of_reading(source),
            LoadError::Damaged(what) => Self::Damaged(Damage::Record(what)),
        }
    }
}

type Result<T> = std::result::Result<T, LoadError>;

fn damaged(what: &'static str) -> impl FnOnce(Malformed) -> LoadError {
    move |Malformed| LoadError::Damaged(what)
}

/// Parts of a session, as they are found.
#[derive(Default)]
struct Parts {
    record: Option<SessionRecord>,
    head: u64,
    received: Vec<mqtt::PacketId>,
    will: Option<WillRecord>,
    subscriptions: Vec<Subscription>,
}

/// Fills empty tables.
pub(super) fn load(disk: &Disk, tables: &mut Tables, retained: &mut Retained, now: UnixMs) -> Result<()> {
    let mut sessions: BTreeMap<SessionKey, Parts> = BTreeMap::new();
    load_sessions(disk, tables, &mut sessions, now)?;
    load_subscriptions(disk, &mut sessions)?;
    for (key, parts) in sessions {
        let Parts { record: Some(record), head, received, will, subscriptions } = parts else { continue };
        let head = head.max(1);
        tables.restore_session(RestoredSession { key, record, will, head, received, subscriptions });
    }
    let heads: Vec<(SessionKey, u64)> = tables.heads().collect();
    let mut lost = 0;
    for_live(disk, Keyspace::Queue, &heads, |session, last, value| {
        load_chunk(disk, tables, &mut lost, session, last, value)
    })?;
    if disk.is_partial {
        skip_lost_keys(disk, tables)?;
        tracing::error!(messages = lost, "queued messages are left out whose bodies are gone");
    }
    for_live(disk, Keyspace::Marks, &heads, |session, _, value| {
        for (number, mark) in codec::marks(value).map_err(damaged("queue mark"))? {
            tables.restore_mark(session, number, mark);
        }
        Ok(())
    })?;
    for guard in disk.keyspace(Keyspace::Retained).iter() {
        let (key, value) = guard.into_inner()?;
        if *key != PROGRESS_KEY {
            retained.restore(codec::retained(&value).map_err(damaged("retained message"))?);
        }
    }
    Ok(())
}

/// After a loss keys may have been given out that nothing says so of.
fn skip_lost_keys(disk: &Disk, tables: &mut Tables) -> Result<()> {
    let mut last = tables.next_key();
    for keyspace in [Keyspace::Sessions, Keyspace::Queue, Keyspace::Marks, Keyspace::Bodies] {
        for guard in disk.keyspace(keyspace).iter().rev() {
            let key = guard.key()?;
            let known = key.first_chunk().map_or(0, |key| u64::from_be_bytes(*key));
            // What is reserved is behind all others.
            if known != layout::RESERVED.0 {
                last = last.max(known);
                break;
            }
        }
    }
    tables.restore_keys(last.saturating_add(LOST_KEYS_MAX));
    Ok(())
}

fn load_sessions(
    disk: &Disk,
    tables: &mut Tables,
    sessions: &mut BTreeMap<SessionKey, Parts>,
    now: UnixMs,
) -> Result<()> {
    for guard in disk.keyspace(Keyspace::Sessions).iter() {
        let (key, value) = guard.into_inner()?;
        if *key == PROGRESS_KEY {
            continue;
        }
        let (session, part, own) =
            layout::parse_session_part(&key).ok_or(LoadError::Damaged("session key"))?;
        if session == layout::RESERVED && part == Part::Head {
            continue;
        }
        if session == layout::RESERVED {
            tables.restore_keys(Reader(&value).u64().map_err(damaged("reserved keys"))?);
            continue;
        }
        if part == Part::Orphan {
            let (client_id, message, principal) = codec::orphan(&value).map_err(damaged("will"))?;
            let session = Arc::new(StoredSession { client_id, incarnation: session.0 });
            tables.restore_orphan(own, Whose { session, principal }, message, now);
            continue;
        }
        if part == Part::Left {
            let (client_id, share, message) =
                codec::left(&value).map_err(damaged("message that a session left"))?;
            let session = Arc::new(StoredSession { client_id, incarnation: session.0 });
            tables.restore_left(DueLeft { session, share, message, number: own });
            continue;
        }
        let parts = sessions.entry(session).or_default();
        match part {
            Part::Record => parts.record = Some(codec::session(&value).map_err(damaged("session"))?),
            Part::Head => parts.head = Reader(&value).u64().map_err(damaged("queue head"))?,
            Part::Received => {
                parts.received = codec::received(&value).map_err(damaged("received identifiers"))?;
            }
            Part::Will => parts.will = Some(codec::will(&value).map_err(damaged("will"))?),
            Part::Orphan | Part::Left => {}
        }
    }
    Ok(())
}

fn load_subscriptions(disk: &Disk, sessions: &mut BTreeMap<SessionKey, Parts>) -> Result<()> {
    for guard in disk.keyspace(Keyspace::Subscriptions).iter() {
        let (key, value) = guard.into_inner()?;
        if *key == PROGRESS_KEY {
            continue;
        }
        let (session, filter) =
            layout::parse_subscription(&key).ok_or(LoadError::Damaged("subscription key"))?;
        if let Some(parts) = sessions.get_mut(&session) {
            let options = codec::options(&value).map_err(damaged("subscription"))?;
            parts.subscriptions.push(Subscription { filter: Arc::from(filter), options });
        }
    }
    Ok(())
}

fn load_chunk(
    disk: &Disk,
    tables: &mut Tables,
    lost: &mut u64,
    session: SessionKey,
    last: u64,
    value: &[u8],
) -> Result<()> {
    let damage = || LoadError::Damaged("queue record");
    let count = chunk_count(value).ok_or_else(damage)?;
    let first = (last + 1).checked_sub(count).ok_or_else(damage)?;
    let mut reader = Reader(value.get(2..).unwrap_or_default());
    for number in first..=last {
        let head = codec::record_head(&mut reader).map_err(damaged("queue record"))?;
        let slot = match head.apart {
            Some((body, _)) if disk.is_partial && !disk.has_body(BodyKey(body))? => {
                *lost += 1;
                continue;
            }
            Some((body, size)) => RestoredSlot::Shared {
                body: BodyKey(body),
                size,
                extra: head.extra,
                qos: head.qos,
                retain: head.retain,
            },
            None => {
                let size = codec::skip_message(&mut reader).map_err(damaged("queue record"))?;
                let is_shared = matches!(head.extra.via, Via::Share(_));
                RestoredSlot::Stored { size: u32::try_from(size).unwrap_or(u32::MAX), is_shared }
            }
        };
        tables.restore_slot(session, number, slot);
    }
    Ok(())
}

/// Visits the live records of a numbered keyspace. `heads` is sorted.
fn for_live(
    disk: &Disk,
    keyspace: Keyspace,
    heads: &[(SessionKey, u64)],
    mut visit: impl FnMut(SessionKey, u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let keyspace = disk.keyspace(keyspace);
    let Some((session, head)) = heads.first() else { return Ok(()) };
    let mut from = layout::numbered(*session, *head);
    'seek: loop {
        let mut dead_run = 0;
        let to_end = (Bound::Included(from), Bound::Unbounded);
        for guard in keyspace.range(to_end) {
            let is_live = |key: &Slice| live_from(heads, key).is_ok();
            let (key, value) = guard.into_inner_if(is_live)?;
            match (value, live_from(heads, &key)) {
                (Some(value), Ok((session, last))) => {
                    dead_run = 0;
                    visit(session, last, &value)?;
                }
                (_, Err(None)) => return Ok(()),
                (_, Err(Some(next))) => {
                    dead_run += 1;
                    if dead_run >= DEAD_RUN_MAX {
                        from = next;
                        continue 'seek;
                    }
                }
                (None, Ok(_)) => {}
            }
        }
        return Ok(());
    }
}

/// What a key says if it is live, else where the next live one may be, `None` for nowhere.
fn live_from(
    heads: &[(SessionKey, u64)],
    key: &[u8],
) -> std::result::Result<(SessionKey, u64), Option<[u8; 16]>> {
    let Some((session, last)) = layout::parse_numbered(key) else { return Err(None) };
    let at = heads.partition_point(|(known, _)| *known < session);
    match heads.get(at) {
        None => Err(None),
        Some((known, head)) if *known == session && last >= *head => Ok((session, last)),
        Some((known, head)) => Err(Some(layout::numbered(*known, *head))),
    }
}
