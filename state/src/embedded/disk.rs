//! The database: opening it, writing batches, and reading queue records that are not in memory.

use std::sync::Arc;

use fjall::compaction::filter::Factory;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};

use super::batch::Put;
use super::codec::{self, Malformed, Reader};
use super::config::EmbeddedConfig;
use super::directory::Directory;
use super::garbage::{GarbageFilters, LiveQueues};
use super::layout::{self, Keyspace};
use crate::tables::{BodyKey, Page, PageRecord, SessionKey};
use crate::{Message, Number, QueuePage, Queued, Record, StoreError};

/// Journals are kept until what is in them has been written to tables; replaying this much bounds the time to open.
const JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Tables of keyspaces other than the queues are written when this much has gathered.
const SMALL_WRITE_BUFFER_BYTES: u64 = 4 * 1024 * 1024;

/// The open database.
pub(super) struct Disk {
    database: Database,
    keyspaces: Vec<fjall::Keyspace>,
}

impl Disk {
    /// Opens or makes the database.
    pub(super) fn open(
        directory: &Directory,
        config: &EmbeddedConfig,
        live: &Arc<LiveQueues>,
    ) -> fjall::Result<Self> {
        let live = Arc::clone(live);
        let database = Database::builder(&directory.database)
            .cache_size(config.block_cache_bytes)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .manual_journal_persist(true)
            // With more than one, one of them spins while another compacts.
            .worker_threads(1)
            .with_compaction_filter_factories(Arc::new(move |name| {
                Keyspace::is_numbered(name)
                    .then(|| Arc::new(GarbageFilters(Arc::clone(&live))) as Arc<dyn Factory>)
            }))
            .open()?;
        let keyspaces = Keyspace::ALL
            .iter()
            .map(|keyspace| database.keyspace(keyspace.name(), || options(*keyspace, config)))
            .collect::<fjall::Result<_>>()?;
        Ok(Self { database, keyspaces })
    }

    pub(super) fn keyspace(&self, keyspace: Keyspace) -> &fjall::Keyspace {
        &self.keyspaces[keyspace as usize]
    }

    /// Writes a batch whole or not at all. Without `sync` it is safe from the end of the process only.
    pub(super) fn commit(&self, puts: &[Put], sync: bool) -> fjall::Result<()> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch =
            fjall::OwnedWriteBatch::with_capacity(self.database.clone(), puts.len()).durability(Some(mode));
        for Put { keyspace, key, value } in puts {
            match value {
                Some(value) => batch.insert(self.keyspace(*keyspace), key.clone(), value.clone()),
                None => batch.remove(self.keyspace(*keyspace), key.clone()),
            }
        }
        batch.commit()
    }

    /// Makes all batches safe from power loss.
    pub(super) fn sync(&self) -> fjall::Result<()> {
        self.database.persist(PersistMode::SyncData)
    }

    /// Completes a page of a session's queue.
    pub(super) fn complete(&self, session: SessionKey, page: Page) -> Result<QueuePage, StoreError> {
        let next = page.next;
        let mut chunks = ChunkCursor::new(self, session);
        let mut bodies = BodyCache::default();
        let mut records = Vec::with_capacity(page.records.len());
        for record in page.records {
            records.push(match record {
                PageRecord::Ready(queued) => queued,
                PageRecord::OnDisk(number) => chunks.read(number, &mut bodies)?,
                PageRecord::BodyOnDisk { number, body, extra, qos, retain } => {
                    let delivery = extra.delivery(bodies.read(self, body)?, qos, retain);
                    Queued { number, record: Record::Message(delivery) }
                }
            });
        }
        Ok(QueuePage { records, next })
    }

    fn read_body(&self, body: BodyKey) -> Result<Arc<Message>, StoreError> {
        let found = self.keyspace(Keyspace::Bodies).get(body.0.to_be_bytes()).map_err(unavailable)?;
        let bytes = found.ok_or(StoreError::Damaged { what: "message body" })?;
        codec::message(&mut Reader(&bytes)).map_err(|Malformed| StoreError::Damaged { what: "message body" })
    }
}

fn options(keyspace: Keyspace, config: &EmbeddedConfig) -> KeyspaceCreateOptions {
    let write_buffer = match keyspace {
        Keyspace::Queue | Keyspace::Bodies => config.write_buffer_bytes,
        _ => SMALL_WRITE_BUFFER_BYTES,
    };
    KeyspaceCreateOptions::default().manual_journal_persist(true).max_memtable_size(write_buffer)
}

/// Whatever the database reports is a state of the store, not of one call.
pub(super) fn unavailable(error: fjall::Error) -> StoreError {
    StoreError::Unavailable(Arc::new(error))
}

/// The body read last: fan-outs repeat it from session to session, and pages may hold several of one session.
#[derive(Default)]
struct BodyCache {
    last: Option<(BodyKey, Arc<Message>)>,
}

impl BodyCache {
    fn read(&mut self, disk: &Disk, body: BodyKey) -> Result<Arc<Message>, StoreError> {
        if let Some((key, message)) = &self.last
            && *key == body
        {
            return Ok(Arc::clone(message));
        }
        let message = disk.read_body(body)?;
        self.last = Some((body, Arc::clone(&message)));
        Ok(message)
    }
}

/// Reads records of one queue in the order of numbers.
struct ChunkCursor<'a> {
    disk: &'a Disk,
    session: SessionKey,
    iter: Option<fjall::Iter>,
    chunk: Option<Chunk>,
}

impl<'a> ChunkCursor<'a> {
    fn new(disk: &'a Disk, session: SessionKey) -> Self {
        Self { disk, session, iter: None, chunk: None }
    }

    fn read(&mut self, number: Number, bodies: &mut BodyCache) -> Result<Queued, StoreError> {
        const DAMAGED: StoreError = StoreError::Damaged { what: "queue record" };
        while self.chunk.as_ref().is_none_or(|chunk| chunk.last < number.0) {
            let iter = self.iter.get_or_insert_with(|| {
                let from = layout::numbered(self.session, number.0);
                let to = layout::numbered(self.session, u64::MAX);
                self.disk.keyspace(Keyspace::Queue).range(from..=to)
            });
            let (key, value) = iter.next().ok_or(DAMAGED)?.into_inner().map_err(unavailable)?;
            self.chunk = Some(Chunk::parse(&key, value).ok_or(DAMAGED)?);
        }
        let chunk = self.chunk.as_mut().ok_or(DAMAGED)?;
        let (delivery, apart) = chunk.read(number.0).map_err(|Malformed| DAMAGED)?.ok_or(DAMAGED)?;
        let delivery = match (delivery, apart) {
            (RecordBody::Here(message), head) => (message, head),
            (RecordBody::Apart(body), head) => (bodies.read(self.disk, body)?, head),
        };
        let (message, head) = delivery;
        let delivery = head.extra.delivery(message, head.qos, head.retain);
        Ok(Queued { number, record: Record::Message(delivery) })
    }
}

/// Where the message of a record is.
enum RecordBody {
    Here(Arc<Message>),
    Apart(BodyKey),
}

/// Consecutive records, read from front to back.
struct Chunk {
    last: u64,
    next: u64,
    value: fjall::Slice,
    at: usize,
}

impl Chunk {
    fn parse(key: &[u8], value: fjall::Slice) -> Option<Self> {
        let (_, last) = layout::parse_numbered(key)?;
        let count = chunk_count(&value)?;
        Some(Self { last, next: (last + 1).checked_sub(count)?, value, at: 2 })
    }

    /// Reads a record; `None` if it is not here, or before the one that was read last.
    fn read(&mut self, number: u64) -> Result<Option<(RecordBody, codec::RecordHead)>, Malformed> {
        let mut reader = Reader(self.value.get(self.at..).unwrap_or_default());
        while self.next < number {
            if codec::record_head(&mut reader)?.apart.is_none() {
                codec::skip_message(&mut reader)?;
            }
            self.next += 1;
        }
        if self.next != number {
            return Ok(None);
        }
        let head = codec::record_head(&mut reader)?;
        let body = match head.apart {
            Some((body, _)) => RecordBody::Apart(BodyKey(body)),
            None => RecordBody::Here(codec::message(&mut reader)?),
        };
        self.next += 1;
        self.at = self.value.len() - reader.0.len();
        Ok(Some((body, head)))
    }
}

/// How many records a chunk holds.
pub(super) fn chunk_count(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|count| u64::from(u16::from_le_bytes(*count)))
}
