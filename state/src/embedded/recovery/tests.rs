//! Power goes inside a write, blocks are lost, files are missing: wherever that is, the store starts with what is whole and
//! says what is not, or says what is wrong and leaves it as it is.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mqtt::QoS;
use tempfile::TempDir;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::super::directory::Directory;
use super::super::journal_file;
use super::super::mark::{Mark, MarkFile};
use super::super::tests::{own, publish, queue, wait};
use super::super::{EmbeddedConfig, EmbeddedStore, Fsync, OpenError};
use super::{Damage, OnDamage};
use crate::{Store, Subscription, SubscriptionOptions};

/// As much of the end of a journal as is looked at closely.
const END_BYTES: u64 = 64 * 1024;
const BLOCK_BYTES: u64 = 512;

/// What was said while a store was opened.
#[derive(Clone, Default)]
struct LogCapture(Arc<Mutex<Vec<(Level, String)>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

impl Subscriber for LogCapture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        // Copies are readable for others.
        if text.0.contains("others could read") {
            return;
        }
        self.0.lock().expect("a lock").push((*event.metadata().level(), text.0));
    }
}

impl LogCapture {
    fn has(&self, level: Level) -> bool {
        self.0.lock().expect("a lock").iter().any(|(told, _)| *told == level)
    }

    fn is_silent(&self) -> bool {
        self.0.lock().expect("a lock").is_empty()
    }
}

fn open(dir: &Path, policy: OnDamage) -> (Result<EmbeddedStore, OpenError>, LogCapture) {
    open_with(dir, |config| config.on_damage = policy)
}

fn open_with(
    dir: &Path,
    change: impl FnOnce(&mut EmbeddedConfig),
) -> (Result<EmbeddedStore, OpenError>, LogCapture) {
    let mut config = EmbeddedConfig { dir: dir.to_owned(), ..EmbeddedConfig::default() };
    change(&mut config);
    let told = LogCapture::default();
    let opened = tracing::subscriber::with_default(told.clone(), || EmbeddedStore::open_at(config, 1));
    (opened, told)
}

/// Payloads of many lengths, so that batches end anywhere in a block.
fn payload(number: usize) -> String {
    format!("{number} {}", "x".repeat(number * 37 % 1500))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::write(to, trimmed(&entry.path())).expect("written");
        }
    }
}

/// Without the zeros of a new journal, of which there are 64 MiB.
fn trimmed(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).expect("read");
    if path.extension().is_some_and(|extension| extension == "jnl") {
        let blank = bytes.chunks(4096).rev().take_while(|chunk| **chunk == [0; 4096][..chunk.len()]).count();
        bytes.truncate(bytes.len().div_ceil(4096).saturating_sub(blank) * 4096);
    }
    bytes
}

/// A store with one session and many messages for it, each a batch of its own.
struct Made {
    dir: TempDir,
    /// Where the batches of the messages end in the journal.
    ends: Vec<u64>,
}

impl Made {
    fn new(count: usize) -> Self {
        Self::with(count, Fsync::Always)
    }

    fn with(count: usize, fsync: Fsync) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let running = tempfile::tempdir().expect("a directory");
        let (store, _) = open_with(running.path(), |config| {
            config.fsync = fsync;
            config.fsync_interval_ms = 60_000;
        });
        let store = store.expect("a store");
        let owner = own(&store);
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            subscription_id: 0,
        };
        let filter = Subscription { filter: Arc::from("t"), options };
        wait(|done| store.subscribe(&owner, vec![filter], done)).expect("subscribed");
        for number in 0..count {
            wait(|done| store.publish(publish(&owner, &payload(number)), done)).expect("published");
        }
        // As if the power went while it ran.
        copy(running.path(), dir.path());
        drop(store);
        let ends = boundaries(&dir.path().join("db/0.jnl"), count);
        Self { dir, ends }
    }

    fn journal(&self) -> Vec<u8> {
        let mut bytes = std::fs::read(self.dir.path().join("db/0.jnl")).expect("read");
        bytes.truncate(usize::try_from(*self.ends.last().expect("some")).expect("small"));
        bytes
    }

    fn copied(&self) -> (TempDir, PathBuf) {
        let to = tempfile::tempdir().expect("a directory");
        copy(self.dir.path(), to.path());
        let journal = to.path().join("db/0.jnl");
        (to, journal)
    }

    /// Messages whose batches are whole before this place.
    fn whole_before(&self, at: u64) -> u64 {
        self.ends.iter().filter(|end| **end <= at).count() as u64
    }
}

/// Where the last `count` batches end.
fn boundaries(journal: &Path, count: usize) -> Vec<u64> {
    let bytes = std::fs::read(journal).expect("read");
    let mut at = 0;
    let mut ends = Vec::new();
    while let Some(batch) = journal_file::batch_at(&bytes, at) {
        at += batch;
        ends.push(at as u64);
    }
    ends.split_off(ends.len() - count)
}

fn numbers(count: u64) -> Vec<u64> {
    (1..=count).collect()
}

fn held(store: &EmbeddedStore) -> Vec<u64> {
    let owner = own(store);
    let mut all = Vec::new();
    loop {
        let from = all.last().map_or(1, |last| last + 1);
        let page = wait(|done| store.read_queue(&owner, crate::Number(from), 1000, usize::MAX, done));
        let page = page.expect("a page");
        if page.records.is_empty() {
            return all;
        }
        all.extend(page.records.iter().map(|queued| queued.number.0));
    }
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new().write(true).open(path).expect("opened");
    file.write_all_at(bytes, at).expect("written");
}

// HAZARDS 36.
#[test]
fn a_journal_that_ends_anywhere_is_cut_at_the_last_whole_batch_and_that_is_told() {
    let made = Made::new(100);
    let last = *made.ends.last().expect("some");
    let from = last.saturating_sub(END_BYTES);
    let edges = made.ends.iter().step_by(3).flat_map(|end| [end - 1, *end, end + 1]);
    let blocks = (from..last).step_by(BLOCK_BYTES as usize);
    let mut places: Vec<u64> = edges.chain(blocks).filter(|at| (from..=last).contains(at)).collect();
    places.sort_unstable();
    places.dedup();
    for (turn, at) in places.into_iter().enumerate() {
        let (dir, journal) = made.copied();
        let file = OpenOptions::new().write(true).open(&journal).expect("opened");
        file.set_len(at).expect("cut");
        if turn % 2 == 0 {
            // As a file of 64 MiB whose last blocks were never written.
            file.set_len(last + 10 * BLOCK_BYTES).expect("lengthened");
        }
        let (store, told) = open(dir.path(), OnDamage::Refuse);
        let store = store.unwrap_or_else(|error| panic!("cut at {at}: {error:?}"));
        let count = made.whole_before(at);
        assert_eq!(held(&store), numbers(count), "cut at {at}");
        let is_whole = count == made.ends.len() as u64;
        assert_eq!(told.has(Level::ERROR), !is_whole, "cut at {at}: acknowledged messages are gone");
        let is_torn = !made.ends.contains(&at) && at < last;
        assert!(!is_torn || told.has(Level::WARN), "cut at {at}: an unfinished write is told");
        // It goes on from there, and says it once.
        let owner = own(&store);
        wait(|done| store.publish(publish(&owner, "x"), done)).expect("published");
        drop(store);
        let (store, told) = open(dir.path(), OnDamage::Refuse);
        assert_eq!(held(&store.expect("a store")), numbers(count + 1), "cut at {at}");
        assert!(told.is_silent(), "cut at {at}: {:?}", told.0);
    }
}

#[test]
fn a_lost_block_is_refused_and_left_alone_or_set_aside_with_no_more_than_it_held() {
    let made = Made::new(100);
    let bytes = made.journal();
    let last = bytes.len() as u64;
    for at in (last.saturating_sub(END_BYTES)..last).step_by(BLOCK_BYTES as usize) {
        let end = (at + BLOCK_BYTES).min(last);
        let begins = std::iter::once(0).chain(made.ends.iter().copied());
        let lost: Vec<u64> = begins
            .zip(&made.ends)
            .zip(1..)
            .filter(|((begin, message_end), _)| *begin < end && **message_end > at)
            .map(|(_, number)| number)
            .collect();
        let kept: Vec<u64> =
            numbers(made.ends.len() as u64).into_iter().filter(|number| !lost.contains(number)).collect();
        let (dir, journal) = made.copied();
        write_at(&journal, at, &vec![0; (end - at) as usize]);
        let before = std::fs::read(&journal).expect("read");
        let is_end = lost.last() == Some(&(made.ends.len() as u64));
        let (store, told) = open(dir.path(), OnDamage::Refuse);
        assert!(told.has(Level::ERROR), "block at {at}");
        if is_end {
            assert_eq!(held(&store.expect("a store")), kept, "block at {at}");
            continue;
        }
        let Err(OpenError::Damaged { damage: Damage::Journal { batches, .. }, .. }) = store else {
            panic!("block at {at}: opened")
        };
        assert_eq!(batches as u64, made.ends.len() as u64 - lost.last().expect("one"), "block at {at}");
        assert_eq!(std::fs::read(&journal).expect("read"), before, "block at {at}: left alone");
        let (store, told) = open(dir.path(), OnDamage::SetAside);
        assert!(told.has(Level::ERROR), "block at {at}");
        let store = store.unwrap_or_else(|error| panic!("block at {at}: {error:?}"));
        assert_eq!(held(&store), kept, "block at {at}");
        drop(store);
        let aside = std::fs::read(dir.path().join("damaged/1/0.jnl")).expect("kept");
        assert!(before.starts_with(&aside) && aside.len() as u64 == last, "block at {at}: kept as it was");
        let (store, told) = open(dir.path(), OnDamage::Refuse);
        assert_eq!(held(&store.expect("a store")), kept, "block at {at}");
        assert!(told.is_silent(), "block at {at}: {:?}", told.0);
    }
}

#[test]
fn single_bits_are_noticed_wherever_they_are() {
    let made = Made::new(12);
    let bytes = made.journal();
    // Not before the first message: those are of the session.
    let from = made.ends[1];
    for at in (from..bytes.len() as u64).step_by(41) {
        let (dir, journal) = made.copied();
        write_at(&journal, at, &[bytes[at as usize] ^ 0x10]);
        let (store, told) = open(dir.path(), OnDamage::SetAside);
        let held = held(&store.unwrap_or_else(|error| panic!("bit at {at}: {error:?}")));
        assert!(held.len() >= made.ends.len() - 2, "bit at {at}: {held:?}");
        assert!(held == numbers(made.ends.len() as u64) || told.has(Level::ERROR), "bit at {at}");
    }
}

#[test]
fn with_an_interval_batches_behind_an_unfinished_write_prove_nothing() {
    let made = Made::with(12, Fsync::Interval);
    let (dir, journal) = made.copied();
    write_at(&journal, made.ends[7] + 20, &[0; 64]);
    let (store, told) = open_with(dir.path(), |config| config.fsync = Fsync::Interval);
    assert_eq!(held(&store.expect("a store")), numbers(8));
    assert!(told.has(Level::WARN) && !told.has(Level::ERROR), "{:?}", told.0);
    let told = told.0.lock().expect("a lock").clone();
    assert!(told.iter().any(|(_, text)| text.contains("whole_batches=3")), "{told:?}");
    assert!(told.iter().any(|(_, text)| text.contains("were not safe from power loss")), "{told:?}");
}

/// Makes journals of the one that there is: one ends behind each of these batches.
fn split(dir: &Path, bytes: &[u8], ends: &[u64]) {
    let mut from = 0;
    for (id, end) in ends.iter().chain([&(bytes.len() as u64)]).enumerate() {
        let end = *end as usize;
        std::fs::write(dir.join(format!("db/{id}.jnl")), &bytes[from..end]).expect("written");
        from = end;
    }
    let mut file = MarkFile::open(&dir.join("progress")).expect("a mark");
    let mark = file.mark.expect("a mark");
    file.write(Mark { journal: ends.len() as u64, ..mark });
}

#[test]
fn a_missing_journal_is_noticed_whichever_it_is() {
    let made = Made::new(30);
    let bytes = made.journal();
    for missing in 0..4 {
        let (dir, _) = made.copied();
        split(dir.path(), &bytes, &[made.ends[2], made.ends[10], made.ends[20]]);
        std::fs::remove_file(dir.path().join(format!("db/{missing}.jnl"))).expect("removed");
        let (store, told) = open(dir.path(), OnDamage::Refuse);
        assert!(told.has(Level::ERROR), "{missing}");
        let Err(OpenError::Damaged { damage, .. }) = store else { panic!("{missing}: opened") };
        match damage {
            Damage::JournalMissing { id } => assert_eq!(id, missing),
            // Which was the oldest nobody knows.
            Damage::Behind { .. } => assert_eq!(missing, 0),
            damage => panic!("{missing}: {damage:?}"),
        }
        let (store, told) = open(dir.path(), OnDamage::SetAside);
        let held = held(&store.expect("a store"));
        assert!(told.has(Level::ERROR), "{missing}");
        let expected = match missing {
            // The session was in it, and nothing is left of it.
            0 => Vec::new(),
            1 => numbers(30).into_iter().filter(|number| !(4..=11).contains(number)).collect(),
            2 => numbers(30).into_iter().filter(|number| !(12..=21).contains(number)).collect(),
            _ => numbers(21),
        };
        assert_eq!(held, expected, "{missing}");
    }
}

#[test]
fn a_store_without_a_journal_or_a_database_does_not_begin_anew_unasked() {
    let made = Made::new(3);
    let (dir, journal) = made.copied();
    std::fs::remove_file(journal).expect("removed");
    let (store, _) = open(dir.path(), OnDamage::Refuse);
    assert!(matches!(store, Err(OpenError::Damaged { damage: Damage::JournalMissing { id: 0 }, .. })));
    std::fs::remove_dir_all(dir.path().join("db")).expect("removed");
    let (store, _) = open(dir.path(), OnDamage::Refuse);
    assert!(matches!(store, Err(OpenError::Damaged { damage: Damage::DatabaseMissing { batches: 5 }, .. })));
    assert!(!dir.path().join("db").exists());
    let (store, told) = open(dir.path(), OnDamage::SetAside);
    assert_eq!(held(&store.expect("a store")), Vec::<u64>::new());
    assert!(told.has(Level::ERROR));
}

#[test]
fn a_database_that_was_not_made_to_the_end_is_made_again() {
    let made = Made::new(3);
    let dir = tempfile::tempdir().expect("a directory");
    drop(Directory::take(dir.path()).expect("a directory"));
    copy(&made.dir.path().join("db"), &dir.path().join("db.new"));
    std::fs::write(dir.path().join("db.new/version"), "").expect("written");
    let (store, told) = open(dir.path(), OnDamage::Refuse);
    assert_eq!(held(&store.expect("a store")), Vec::<u64>::new());
    assert!(told.is_silent());
}

/// All files of the database but journals, with tables among them.
fn with_tables() -> (Made, Vec<PathBuf>) {
    let made = Made::new(30);
    let bytes = made.journal();
    split(made.dir.path(), &bytes, &[made.ends[20]]);
    let (store, _) = open(made.dir.path(), OnDamage::Refuse);
    let store = store.expect("a store");
    // Sealed journals go when what is in them is in tables.
    let deadline = Instant::now() + Duration::from_secs(60);
    while made.dir.path().join("db/0.jnl").exists() {
        assert!(Instant::now() < deadline, "tables are written");
        // Another write wakes who looks after journals.
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(store);
    let mut found = Vec::new();
    let mut dirs = vec![made.dir.path().join("db/keyspaces")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.push(made.dir.path().join("db/version"));
    (made, found)
}

#[test]
fn damage_in_any_other_file_is_said_and_loses_nothing_unsaid() {
    let (made, files) = with_tables();
    assert!(files.iter().any(|path| path.components().any(|part| part.as_os_str() == "tables")), "{files:?}");
    let mut refused = 0;
    for file in &files {
        let below = file.strip_prefix(made.dir.path()).expect("below");
        for how in ["removed", "empty", "half", "zeros", "bits"] {
            let dir = tempfile::tempdir().expect("a directory");
            copy(made.dir.path(), dir.path());
            let path = dir.path().join(below);
            let mut bytes = std::fs::read(&path).expect("read");
            match how {
                "removed" => bytes.clear(),
                "empty" => bytes.clear(),
                "half" => bytes.truncate(bytes.len() / 2),
                "zeros" => bytes.fill(0),
                _ => bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x40),
            }
            std::fs::write(&path, &bytes).expect("written");
            if how == "removed" {
                std::fs::remove_file(&path).expect("removed");
            }
            let (store, told) = open(dir.path(), OnDamage::Refuse);
            match store {
                // An older list of tables is not needed.
                Ok(store) => assert_eq!(held(&store), numbers(30), "{} {how}", below.display()),
                Err(error) => {
                    refused += 1;
                    let is_damage = matches!(error, OpenError::Damaged { .. });
                    assert!(is_damage && told.has(Level::ERROR), "{} {how}: {error:?}", below.display());
                }
            }
            let (store, _) = open(dir.path(), OnDamage::SetAside);
            store.unwrap_or_else(|error| panic!("{} {how}: {error:?}", below.display()));
        }
    }
    assert!(refused > files.len(), "{refused} of {}", files.len());
}

#[test]
fn a_store_of_an_older_version_opens_and_its_journal_is_looked_at_too() {
    let made = Made::new(12);
    let bytes = made.journal();
    let old = journal_file::without_progress(&bytes);
    let older = |change: &dyn Fn(&mut Vec<u8>)| {
        let (dir, journal) = made.copied();
        std::fs::remove_file(dir.path().join("progress")).expect("removed");
        let mut bytes = old.clone();
        change(&mut bytes);
        std::fs::write(journal, bytes).expect("written");
        dir
    };
    let dir = older(&|_| ());
    let (store, told) = open(dir.path(), OnDamage::Refuse);
    let store = store.expect("a store");
    assert_eq!(held(&store), numbers(12));
    assert_eq!(queue(&store, &own(&store)), numbers(12));
    assert!(told.is_silent());
    let dir = older(&|bytes| bytes.truncate(old.len() - 5));
    let (store, told) = open(dir.path(), OnDamage::Refuse);
    assert_eq!(held(&store.expect("a store")), numbers(11));
    assert!(told.has(Level::WARN));
    let dir = older(&|bytes| bytes[old.len() / 2] ^= 1);
    let (store, _) = open(dir.path(), OnDamage::Refuse);
    assert!(matches!(store, Err(OpenError::Damaged { .. })));
    File::open(dir.path().join("db/0.jnl")).expect("left alone");
}
