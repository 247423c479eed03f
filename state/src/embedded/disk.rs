//! The database: opening it, writing batches, and reading queue records that are not in memory.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use fjall::compaction::filter::Factory;
use fjall::{Database, KeyspaceCreateOptions, PersistMode, Slice};

use super::batch::Put;
use super::codec::{self, Malformed, Reader};
use super::config::EmbeddedConfig;
use super::damage::{Damage, OnDamage};
use super::directory::Directory;
use super::garbage::{GarbageFilters, LiveQueues};
use super::layout::{self, Keyspace};
use super::mark::{Mark, PROGRESS_KEY, Progress};
use super::recovery::{self, DiskError};
use super::stall;
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
    directory: Arc<Directory>,
    /// As it will be written when a batch is safe; `synced` and `touched` are of the last batch.
    mark: Mark,
    /// Something that was acknowledged is missing between what is there.
    pub(super) is_partial: bool,
}

impl Disk {
    /// Opens the database, or makes it; mends what a power loss leaves behind.
    ///
    /// # Errors
    /// What is damaged, unless it is to be set aside; what the machine refuses.
    pub(super) fn open(
        directory: &Arc<Directory>,
        config: &EmbeddedConfig,
        live: &Arc<LiveQueues>,
        policy: OnDamage,
    ) -> Result<Self, DiskError> {
        directory.make_database(|new| open_keyspaces(new, config, live).map(drop))?;
        let ends = recovery::inspect(directory, config.fsync, policy)?;
        let (database, keyspaces) = open_keyspaces(&directory.database, config, live)?;
        let found = keyspaces.iter().map(progress).collect::<fjall::Result<Vec<_>>>();
        let found = found.map_err(DiskError::of_reading)?;
        let known = directory.mark.lock().mark;
        let (mark, is_partial) = recovery::compare(known, &found, &ends, policy)?;
        directory.mark.lock().write(mark);
        Ok(Self { database, keyspaces, directory: Arc::clone(directory), mark, is_partial })
    }

    pub(super) fn keyspace(&self, keyspace: Keyspace) -> &fjall::Keyspace {
        &self.keyspaces[keyspace as usize]
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// Writes a batch whole or not at all. Without `sync` it is safe from the end of the process only.
    pub(super) fn commit(&mut self, puts: &[Put], sync: bool) -> fjall::Result<()> {
        // What is written to a file that was deleted is gone with the process, and no write says so.
        if !self.directory.database.exists() {
            return Err(
                std::io::Error::new(ErrorKind::NotFound, "the directory of the database is gone").into()
            );
        }
        stall::wait_for_room(&self.database, &self.keyspaces)?;
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut mark = self.mark;
        mark.answered += 1;
        let progress = Progress { number: mark.answered, synced: self.synced(), store: mark.store };
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), puts.len() + 2)
            .durability(Some(mode));
        for Put { keyspace, key, value } in puts {
            match value {
                Some(value) => batch.insert(self.keyspace(*keyspace), key.clone(), value.clone()),
                None => batch.remove(self.keyspace(*keyspace), key.clone()),
            }
            mark.touched[*keyspace as usize] = progress.number;
        }
        for (keyspace, touched) in self.keyspaces.iter().zip(mark.touched) {
            if touched == progress.number {
                batch.insert(keyspace, PROGRESS_KEY, Slice::from(progress.encode()));
            }
        }
        batch.commit()?;
        self.mark = mark;
        if sync {
            self.note_synced();
        } else {
            self.note_answered();
        }
        Ok(())
    }

    /// Makes all batches safe from power loss.
    pub(super) fn sync(&mut self) -> fjall::Result<()> {
        self.database.persist(PersistMode::SyncData)?;
        self.note_synced();
        Ok(())
    }

    /// The last batch that is safe from power loss.
    fn synced(&self) -> u64 {
        self.directory.mark.lock().mark.map_or(0, |mark| mark.synced)
    }

    /// Says beside the database that all batches are safe.
    fn note_synced(&mut self) {
        self.mark.synced = self.mark.answered;
        // The database goes on to the next one in the background.
        while self.directory.database.join(format!("{}.jnl", self.mark.journal + 1)).exists() {
            self.mark.journal += 1;
        }
        self.directory.mark.lock().write(self.mark);
    }

    /// Says beside the database how far it has come, of which not all is safe.
    fn note_answered(&self) {
        let mut file = self.directory.mark.lock();
        if let Some(mark) = file.mark {
            file.write(Mark { answered: self.mark.answered, ..mark });
        }
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

    pub(super) fn has_body(&self, body: BodyKey) -> fjall::Result<bool> {
        self.keyspace(Keyspace::Bodies).contains_key(body.0.to_be_bytes())
    }

    fn read_body(&self, body: BodyKey) -> Result<Arc<Message>, StoreError> {
        let found = self.keyspace(Keyspace::Bodies).get(body.0.to_be_bytes()).map_err(unavailable)?;
        let bytes = found.ok_or(StoreError::Damaged { what: "message body" })?;
        codec::message(&mut Reader(&bytes)).map_err(|Malformed| StoreError::Damaged { what: "message body" })
    }
}

/// Opens or makes a database with all keyspaces.
fn open_keyspaces(
    path: &Path,
    config: &EmbeddedConfig,
    live: &Arc<LiveQueues>,
) -> Result<(Database, Vec<fjall::Keyspace>), DiskError> {
    let live = Arc::clone(live);
    let builder = Database::builder(path)
        .cache_size(config.block_cache_bytes)
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .max_cached_files(Some(config.tables_open_max.max(10)))
        .manual_journal_persist(true)
        // With more than one, one of them spins while another compacts.
        .worker_threads(1)
        .with_compaction_filter_factories(Arc::new(move |name| {
            Keyspace::is_numbered(name)
                .then(|| Arc::new(GarbageFilters(Arc::clone(&live))) as Arc<dyn Factory>)
        }));
    let open = || {
        let database = builder.open()?;
        let keyspaces = Keyspace::ALL
            .iter()
            .map(|keyspace| database.keyspace(keyspace.name(), || options(*keyspace, config)))
            .collect::<fjall::Result<_>>()?;
        Ok((database, keyspaces))
    };
    // It asserts here and there that its files are as it left them.
    let opened = catch_unwind(AssertUnwindSafe(open)).map_err(|_| Damage::Stopped)?;
    opened.map_err(DiskError::of_reading)
}

/// The last batch that touched a keyspace.
fn progress(keyspace: &fjall::Keyspace) -> fjall::Result<Progress> {
    Ok(keyspace.get(PROGRESS_KEY)?.map(|value| Progress::parse(&value)).unwrap_or_default())
}

fn options(keyspace: Keyspace, config: &EmbeddedConfig) -> KeyspaceCreateOptions {
    let write_buffer = match keyspace {
        Keyspace::Queue | Keyspace::Bodies => config.write_buffer_bytes,
        _ => SMALL_WRITE_BUFFER_BYTES,
    };
    KeyspaceCreateOptions::default().manual_journal_persist(true).max_memtable_size(write_buffer)
}

/// Whatever the database reports is a state of the store, not of one call.
pub(super) fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
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
    chunk: Option<ChunkReader>,
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
            self.chunk = Some(ChunkReader::parse(&key, value).ok_or(DAMAGED)?);
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
struct ChunkReader {
    last: u64,
    next: u64,
    value: Slice,
    at: usize,
}

impl ChunkReader {
    fn parse(key: &[u8], value: Slice) -> Option<Self> {
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
