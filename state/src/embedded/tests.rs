//! The disk fails: nothing is answered that is not written, nothing is written twice, and it goes on by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mqtt::{ProtocolVersion, QoS};
use tempfile::TempDir;

use super::{EmbeddedConfig, EmbeddedStore, codec};
use crate::tables::journal::{Journal, SessionRecord, WillRecord};
use crate::tables::restore::RestoredSession;
use crate::tables::{SOLE_WORKER, SessionKey, TableLimits, Tables};
pub(super) use crate::testing::wait;
use crate::testing::{begin, claim, publish_to};
use crate::{
    Claim, ConnectionId, EXPIRY_NEVER, Enqueued, Fence, Message, Number, Owner, Principal, Publish,
    QueueLimits, ResumeRefusal, Store, StoreError,
};

/// Commits that are made to fail.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// This many fail with nothing written.
    before: AtomicU32,
    /// This many fail although everything was written.
    after: AtomicU32,
}

impl Faults {
    pub(super) fn before_commit(&self) -> fjall::Result<()> {
        take(&self.before)
    }

    pub(super) fn after_commit(&self) -> fjall::Result<()> {
        take(&self.after)
    }
}

fn take(left: &AtomicU32) -> fjall::Result<()> {
    match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
        Ok(_) => Err(fjall::Error::Io(std::io::Error::other("injected"))),
        Err(_) => Ok(()),
    }
}

fn open() -> (EmbeddedStore, EmbeddedConfig, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = EmbeddedConfig { dir: dir.path().join("state"), ..EmbeddedConfig::default() };
    (EmbeddedStore::open_at(config.clone(), 1).expect("a store"), config, dir)
}

fn wanted(principal: &str) -> Claim {
    let limits = QueueLimits { messages_max: 1000, bytes_max: u64::MAX };
    Claim { principal: Principal(principal.into()), limits, receive_maximum: 10, ..claim("a") }
}

pub(super) fn own(store: &EmbeddedStore) -> Fence {
    wait(|done| store.claim(wanted(""), done)).expect("a claim").session.expect("a session").fence
}

pub(super) fn publish(owner: &Fence, payload: &str) -> Publish {
    let message = Arc::new(Message::new("t", &[], payload.as_bytes(), QoS::AtLeastOnce, false, 1));
    publish_to(&[&owner.session], &message)
}

pub(super) fn queue(store: &EmbeddedStore, owner: &Fence) -> Vec<u64> {
    let page = wait(|done| store.read_queue(owner, Number(1), 100, usize::MAX, done)).expect("a page");
    page.records.iter().map(|queued| queued.number.0).collect()
}

#[test]
fn a_failed_commit_is_repeated_and_answered_once_it_is_written() {
    for is_written in [false, true] {
        let (store, config, _dir) = open();
        let owner = own(&store);
        let faults = &store.shared.faults;
        let count = if is_written { &faults.after } else { &faults.before };
        count.store(3, Ordering::SeqCst);
        let answers: Vec<_> =
            (0..10).map(|_| begin(|done| store.publish(publish(&owner, "x"), done))).collect();
        for (answer, n) in answers.into_iter().zip(1..) {
            let answer = answer.recv_timeout(Duration::from_secs(20)).expect("in time").expect("published");
            assert_eq!(answer.targets, [Enqueued::At(Number(n))]);
        }
        assert_eq!(count.load(Ordering::SeqCst), 0, "all faults were met");
        assert!(!store.is_failing());
        let expected: Vec<u64> = (1..=10).collect();
        assert_eq!(queue(&store, &owner), expected);
        drop(store);
        let store = EmbeddedStore::open_at(config, 1).expect("a store");
        let owner = own(&store);
        assert_eq!(queue(&store, &owner), expected, "nothing twice, nothing missing");
    }
}

#[test]
fn closing_a_store_whose_disk_fails_answers_everybody() {
    let (store, _, _dir) = open();
    let owner = own(&store);
    store.shared.faults.before.store(u32::MAX, Ordering::SeqCst);
    let published = begin(|done| store.publish(publish(&owner, "x"), done));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !store.is_failing() {
        assert!(Instant::now() < deadline, "it is said");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        published.recv_timeout(Duration::from_millis(100)).is_err(),
        "not answered while it is not written"
    );
    wait(|done| store.close(done)).expect("closed");
    assert!(matches!(published.recv().expect("answered"), Err(StoreError::Unavailable(_))));
}

#[test]
fn a_receiver_that_panics_harms_nobody_else() {
    let (store, _, _dir) = open();
    let owner = own(&store);
    store.publish(publish(&owner, "x"), Box::new(|_| panic!("a receiver's fault")));
    let answer = wait(|done| store.publish(publish(&owner, "x"), done)).expect("published");
    assert_eq!(answer.targets, [Enqueued::At(Number(2))]);
}

/// A session as an earlier version wrote it: without what came since.
fn old_record() -> SessionRecord {
    let record = SessionRecord {
        client_id: "a".into(),
        principal: Some(Principal("alice".into())),
        epoch: 7,
        connection_id: ConnectionId(1),
        connected: false,
        expires_at: None,
        expiry_s: EXPIRY_NEVER,
        limits: QueueLimits { messages_max: 5, bytes_max: 6 },
        is_memory_queue: false,
        protocol: ProtocolVersion::V311,
        receive_maximum: 3,
        sent: 1,
    };
    let mut written = Vec::new();
    codec::put_session(&mut written, &record);
    assert_eq!(codec::session(&written).expect("a session"), record);
    written.truncate(written.len() - (1 + 4 + "alice".len()));
    let read = codec::session(&written).expect("the same without a principal");
    assert_eq!(read, SessionRecord { principal: None, ..record });
    read
}

#[test]
fn a_session_without_a_principal_is_the_first_ones_who_comes() {
    let mut tables = Tables::new(TableLimits::NONE, Journal::off());
    tables.restore_session(RestoredSession {
        key: SessionKey(1),
        record: old_record(),
        will: None,
        head: 1,
        received: Vec::new(),
        subscriptions: Vec::new(),
    });
    tables.restore_keys(2);
    tables.restart(1);
    let mut claim = |principal| tables.claim(wanted(principal), SOLE_WORKER, 0).expect("an answer");
    let owned = claim("bob").session.expect("a session");
    assert_eq!((owned.present, owned.fence.epoch), (true, 8));
    assert_eq!(claim("alice").refusal, Some(ResumeRefusal::Foreign));
    assert_eq!(claim("bob").session.map(|owned| owned.present), Some(true));
}

#[test]
fn a_will_of_an_earlier_version_is_read_without_what_its_owner_may_retain() {
    let alice = Principal("alice".into());
    let owner = Owner { principal: alice.clone(), messages_max: Some(3) };
    let message = Message::new("t", &[], b"x", QoS::AtLeastOnce, true, 5).with_owner(owner.clone());
    let record = WillRecord { message: Arc::new(message), delay_s: 7, due_at: Some(8) };
    let (mut will, mut orphan) = (Vec::new(), Vec::new());
    codec::put_will(&mut will, &record);
    codec::put_orphan(&mut orphan, "a", Some(&alice), &record.message);
    let (client_id, message, whose) = codec::orphan(&orphan).expect("a Will whose session is gone");
    assert_eq!((&*client_id, &message, whose.as_ref()), ("a", &record.message, Some(&alice)));
    assert_eq!(message.owner(), Some(&owner));
    assert_eq!(codec::will(&will).expect("a Will").message.owner(), Some(&owner));
    let bound = size_of::<u64>();
    orphan.truncate(orphan.len() - bound);
    let (_, message, _) = codec::orphan(&orphan).expect("the same without a bound");
    assert_eq!(message.owner(), Some(&Owner { messages_max: None, ..owner }));
    will.truncate(will.len() - bound - (1 + 4 + "alice".len()));
    let earlier = codec::will(&will).expect("the same without an owner");
    assert_eq!((earlier.message.owner(), earlier.delay_s, earlier.due_at), (None, 7, Some(8)));
}

/// Where the database writes tables.
fn table_directories(config: &EmbeddedConfig) -> Vec<PathBuf> {
    let keyspaces = std::fs::read_dir(config.dir.join("db/keyspaces")).expect("the keyspaces");
    keyspaces.map(|keyspace| keyspace.expect("a keyspace").path().join("tables")).collect()
}

#[test]
fn a_table_that_cannot_be_written_while_space_is_given_back_holds_up_nothing_for_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let write_buffer_bytes = 1024 * 1024;
    let config =
        EmbeddedConfig { dir: dir.path().join("state"), write_buffer_bytes, ..EmbeddedConfig::default() };
    let store = EmbeddedStore::open_at(config.clone(), 1).expect("a store");
    let owner = own(&store);
    let large = "x".repeat(64 * 1024);
    let count = 100;
    for _ in 0..count {
        wait(|done| store.publish(publish(&owner, &large), done)).expect("published");
    }
    let tables = table_directories(&config);
    for directory in &tables {
        std::fs::rename(directory, directory.with_extension("away")).expect("moved");
        std::fs::write(directory, b"").expect("nothing can be written there");
    }
    for number in 1..=count {
        wait(|done| store.acknowledge(&owner, Number(number), done)).expect("acknowledged");
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut answers = Vec::new();
    while !store.is_failing() {
        assert!(Instant::now() < deadline, "the database ends");
        answers.push(begin(|done| store.publish(publish(&owner, "y"), done)));
        std::thread::sleep(Duration::from_millis(10));
    }
    for directory in &tables {
        std::fs::remove_file(directory).expect("removed");
        std::fs::rename(directory.with_extension("away"), directory).expect("moved back");
    }
    for answer in &answers {
        let Ok(answer) = answer.recv_timeout(Duration::from_secs(20)) else {
            std::mem::forget(store);
            panic!("it does not go on");
        };
        answer.expect("published");
    }
    assert!(!store.is_failing());
    let expected: Vec<u64> = (count + 1..).take(answers.len()).collect();
    let page =
        wait(|done| store.read_queue(&owner, Number(1), usize::MAX, usize::MAX, done)).expect("a page");
    assert!(page.records.iter().map(|queued| queued.number.0).eq(expected));
    wait(|done| store.close(done)).expect("closed");
}
