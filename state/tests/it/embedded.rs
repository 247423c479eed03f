//! The suite over the embedded store, once with bodies in memory and once without; and what only a store on disk can show.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mqtt::QoS;
use state::{
    EmbeddedConfig, EmbeddedStore, Enqueued, Fsync, Message, Number, OpenError, Store, StoreError, UnixMs,
};
use tempfile::TempDir;

use crate::harness::{Backend, Bounds, Calls, START, begin, claim, message, publish_to, take, wait};
use crate::suite::behaviours;

/// A store in a directory that goes with it.
pub(crate) struct Embedded {
    config: EmbeddedConfig,
    store: Option<EmbeddedStore>,
    _dir: TempDir,
}

/// As [`Embedded`], with almost all queue bodies read from disk.
pub(crate) struct Evicting(Embedded);

pub(crate) fn config_in(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig { dir: dir.to_owned(), ..EmbeddedConfig::default() }
}

impl Embedded {
    fn with(change: impl FnOnce(&mut EmbeddedConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = config_in(&dir.path().join("state"));
        change(&mut config);
        let store = EmbeddedStore::open_at(config.clone(), START).expect("a store");
        Self { config, store: Some(store), _dir: dir }
    }

    fn embedded(&self) -> &EmbeddedStore {
        self.store.as_ref().expect("an open store")
    }
}

fn bounded(bounds: Bounds) -> impl FnOnce(&mut EmbeddedConfig) {
    move |config| {
        config.sessions_max = bounds.sessions_max;
        config.subscriptions_per_session_max = bounds.subscriptions_per_session_max;
        config.retained_messages_max = bounds.retained_messages_max;
        config.retained_bytes_max = bounds.retained_bytes_max;
        config.fsync = Fsync::Interval;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// A store whose wall clock the test sets.
struct Board {
    config: EmbeddedConfig,
    wall: Arc<AtomicU64>,
    store: Option<EmbeddedStore>,
    _dir: TempDir,
}

impl Board {
    fn at(wall: UnixMs) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config_in(&dir.path().join("state"));
        let mut board = Self { config, wall: Arc::new(AtomicU64::new(wall)), store: None, _dir: dir };
        board.run();
        board
    }

    fn run(&mut self) {
        drop(self.store.take());
        let wall = Arc::clone(&self.wall);
        let wall = Arc::new(move || wall.load(Ordering::Relaxed));
        self.store = Some(EmbeddedStore::open_by(self.config.clone(), wall).expect("a store"));
    }

    /// Dies at once, and is another when the wall clock shows `wall`: what was on disk is all that is left.
    fn die_and_run(&mut self, wall: UnixMs) {
        let left = self.config.dir.with_extension("left");
        copy(&self.config.dir, &left);
        self.set(wall);
        self.config.dir = left;
        self.run();
    }

    fn set(&self, wall: UnixMs) {
        self.wall.store(wall, Ordering::Relaxed);
    }

    fn store(&self) -> &EmbeddedStore {
        self.store.as_ref().expect("an open store")
    }

    fn now(&self) -> UnixMs {
        self.store().time()()
    }
}

#[test]
fn retained_messages_that_expired_unread_take_no_room() {
    let mut backend = Embedded::with(|config| config.retained_messages_max = 2);
    let retain = |backend: &Embedded, topic: &str, at: UnixMs, expiry_s| {
        let message = Message::new(topic, &[], b"x", QoS::AtMostOnce, true, at).with_expiry(expiry_s);
        wait(|done| backend.embedded().retain(Arc::new(message), done))
    };
    // By an earlier time nothing of what is there has expired.
    let on_disk = |backend: &mut Embedded| {
        backend.restart(START);
        Calls(backend.embedded()).retained("#", 10, START)
    };
    retain(&backend, "a", START, Some(10)).expect("retained");
    retain(&backend, "b", START, Some(60)).expect("retained");
    assert!(matches!(retain(&backend, "c", START + 9_999, None), Err(StoreError::RetainedQuota)));
    retain(&backend, "c", START + 10_000, None).expect("there is room again");
    assert_eq!(on_disk(&mut backend), ["b", "c"]);
    assert_eq!(Calls(backend.embedded()).due(START + 60_000), [""; 0]);
    assert_eq!(backend.embedded().stats().retained_messages, 1);
    assert_eq!(on_disk(&mut backend), ["c"]);
    retain(&backend, "d", START, Some(10)).expect("there is room again");
    backend.restart(START + 20_000);
    retain(&backend, "e", START + 20_000, None).expect("what expired meanwhile takes no room");
    assert_eq!(on_disk(&mut backend), ["c", "e"]);
}

// ARCHITECTURE, rule 35.
#[test]
fn time_goes_on_from_what_the_store_has_seen() {
    const TODAY: UnixMs = 1_796_000_000_000;
    const DAY: u64 = 86_400_000;
    const MINUTE: u64 = 60_000;
    let mut board = Board::at(TODAY);
    let begun = board.now();
    assert!((TODAY..TODAY + MINUTE).contains(&begun));
    let fence = Calls(board.store()).own(claim("a")).fence;
    Calls(board.store()).release(&fence, 300, false, begun).expect("released");
    // Set while it runs, both ways, and in 1970 at the next start.
    for wall in [TODAY + DAY, TODAY - DAY, 0] {
        board.set(wall);
        assert!((begun..begun + MINUTE).contains(&board.now()), "{wall}");
        board.run();
        let now = board.now();
        assert!((begun..begun + MINUTE).contains(&now), "{wall}: {}", now.abs_diff(begun));
        assert_eq!(Calls(board.store()).due(now), [""; 0]);
    }
    // Set right at last, while it runs, and put off for a minute.
    board.set(TODAY + 9 * DAY);
    board.run();
    board.set(TODAY + 9 * DAY);
    drop(board.store.take());
    board.set(TODAY + 9 * DAY + 10 * MINUTE);
    board.run();
    let now = board.now();
    assert!((begun + 10 * MINUTE..begun + 11 * MINUTE).contains(&now), "{}", now.abs_diff(begun));
    assert_eq!(Calls(board.store()).due(now), ["expired a"]);
}

// ARCHITECTURE, rule 35.
#[test]
fn what_a_process_writes_first_says_what_its_clocks_showed() {
    const TODAY: UnixMs = 1_796_000_000_000;
    const DAY: u64 = 86_400_000;
    // A board that was never set.
    let mut board = Board::at(0);
    let begun = board.now();
    let fence = Calls(board.store()).own(claim("a")).fence;
    Calls(board.store()).release(&fence, 300, false, begun).expect("released");
    board.die_and_run(TODAY);
    let now = board.now();
    assert!(now < begun + DAY, "on by {} ms", now - begun);
    assert_eq!(Calls(board.store()).due(now), [""; 0]);
}

impl Backend for Embedded {
    fn start(bounds: Bounds) -> Self {
        Self::with(bounded(bounds))
    }

    fn store(&self) -> &dyn Store {
        self.embedded()
    }

    fn restart(&mut self, now: UnixMs) {
        drop(self.store.take());
        self.store = Some(EmbeddedStore::open_at(self.config.clone(), now).expect("a store"));
        self.check();
    }

    fn check(&self) {
        self.embedded().check_invariants();
    }
}

impl Backend for Evicting {
    fn start(bounds: Bounds) -> Self {
        Self(Embedded::with(|config| {
            bounded(bounds)(config);
            config.queue_memory_bytes_max = 0;
        }))
    }

    fn store(&self) -> &dyn Store {
        self.0.store()
    }

    fn restart(&mut self, now: UnixMs) {
        self.0.restart(now);
    }

    fn check(&self) {
        self.0.check();
    }
}

mod resident {
    use super::{Embedded, behaviours};
    use crate::model::compare_with_model;

    behaviours!(super::super::Embedded);

    #[test]
    fn it_does_as_the_model_does() {
        compare_with_model::<Embedded>(40);
    }
}

mod evicting {
    use super::{Evicting, behaviours};
    use crate::model::compare_with_model;

    behaviours!(super::super::Evicting);

    #[test]
    fn it_does_as_the_model_does() {
        compare_with_model::<Evicting>(40);
    }
}

#[test]
fn a_second_process_is_refused_in_one_line() {
    let first = Embedded::with(|_| ());
    let Err(error) = EmbeddedStore::open(first.config.clone()) else { panic!("opened twice") };
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(error.to_string().contains("in use by another process"));
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn an_unknown_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config_in(dir.path());
    drop(EmbeddedStore::open(config.clone()).expect("a store"));
    std::fs::write(dir.path().join("format"), "tidegate state 99\n").expect("written");
    let Err(OpenError::UnknownFormat { found, .. }) = EmbeddedStore::open(config.clone()) else {
        panic!("opened an unknown format")
    };
    assert_eq!(found, "tidegate state 99");
    std::fs::remove_file(dir.path().join("format")).expect("removed");
    assert!(matches!(EmbeddedStore::open(config), Err(OpenError::UnknownFormat { .. })));
}

#[test]
fn bad_configuration_is_named() {
    let config = EmbeddedConfig { fsync_interval_ms: 0, ..EmbeddedConfig::default() };
    let error = config.validate().expect_err("refused");
    assert!(error.to_string().starts_with("state.fsync_interval_ms"));
}

#[test]
fn a_closed_store_answers_that_it_is_closed_and_can_be_opened_again() {
    let embedded = Embedded::with(|_| ());
    let session = {
        let calls = Calls(embedded.store());
        let owned = calls.own(claim("a"));
        calls.enqueue(&owned.fence.session, "1");
        wait(|done| embedded.store().close(done)).expect("closed");
        assert!(matches!(calls.claim(claim("b")), Err(StoreError::Closed)));
        assert!(matches!(wait(|done| embedded.store().close(done)), Err(StoreError::Closed)));
        owned.fence.session
    };
    let again = EmbeddedStore::open_at(embedded.config.clone(), START).expect("a store");
    let owned = Calls(&again).own(claim("a"));
    assert!(owned.present);
    assert_eq!(owned.fence.session, session);
    assert_eq!(owned.tail, Number(2));
}

#[test]
fn calls_beyond_the_commit_queue_are_refused_at_once() {
    let embedded = Embedded::with(|config| config.commit_queue_bytes_max = 1024 * 1024);
    let store = embedded.store();
    let owned = Calls(store).own(claim("a"));
    let big = message("t", &"x".repeat(600_000));
    let answers: Vec<_> = (0..200)
        .map(|_| begin(|done| store.publish(publish_to(&[&owned.fence.session], &big), done)))
        .collect();
    let results: Vec<_> = answers.iter().map(take).collect();
    let kept = results.iter().filter(|result| result.is_ok()).count();
    assert!(results.iter().any(|result| matches!(result, Err(StoreError::Unavailable(_)))), "a bound");
    let queue = Calls(store).queue(&owned.fence);
    assert_eq!(queue.len(), kept, "what was refused had no effect");
}

#[test]
fn queues_have_a_bound_over_all_sessions() {
    let bytes = 3 * message("t", "x").size() as u64;
    for (messages_max, bytes_max) in [(3, u64::MAX), (u64::MAX, bytes)] {
        let embedded = Embedded::with(|config| {
            (config.queued_messages_max, config.queued_bytes_max) = (messages_max, bytes_max);
        });
        let calls = Calls(embedded.store());
        let (a, b) = (calls.own(claim("a")), calls.own(claim("b")));
        for number in 1..=3 {
            assert_eq!(calls.enqueue(&a.fence.session, "x"), Enqueued::At(Number(number)));
        }
        assert_eq!(calls.enqueue(&b.fence.session, "x"), Enqueued::Full, "{messages_max} {bytes_max}");
        calls.acknowledge(&a.fence, 1).expect("acknowledged");
        assert_eq!(calls.enqueue(&b.fence.session, "x"), Enqueued::At(Number(1)));
    }
}

#[test]
fn discard_without_a_session_is_answered_on_the_callers_thread() {
    let embedded = Embedded::with(|_| ());
    let caller = std::thread::current().id();
    embedded.store().claim(
        state::Claim { clean_start: true, create: false, ..claim("nobody") },
        Box::new(move |answer| {
            assert!(answer.expect("an answer").discarded.is_none());
            assert_eq!(std::thread::current().id(), caller);
        }),
    );
}

#[test]
fn a_long_backlog_is_read_back_from_disk_in_order() {
    let mut embedded = Embedded::with(|config| {
        config.fsync = Fsync::Interval;
        config.queue_memory_bytes_max = 64 * 1024;
        config.write_buffer_bytes = 1024 * 1024;
    });
    let owned = Calls(embedded.store()).own(claim("a"));
    let count = 20_000_u64;
    let answers: Vec<_> = (1..=count)
        .map(|n| {
            let message = message("t", &format!("{n:0>200}"));
            begin(|done| embedded.store().publish(publish_to(&[&owned.fence.session], &message), done))
        })
        .collect();
    for (answer, n) in answers.iter().zip(1..) {
        assert_eq!(take(answer).expect("published").targets, [Enqueued::At(Number(n))]);
    }
    for round in 0..2 {
        let calls = Calls(embedded.store());
        let owned = calls.own(claim("a"));
        let queue = calls.queue(&owned.fence);
        assert_eq!(queue.len() as u64, count);
        for ((number, payload), n) in queue.into_iter().zip(1..) {
            assert_eq!((number, payload), (n, Some(format!("{n:0>200}"))), "round {round}");
        }
        embedded.restart(START);
    }
}

#[test]
fn a_drained_backlog_leaves_the_disk() {
    let embedded = Embedded::with(|config| {
        config.fsync = Fsync::Interval;
        config.write_buffer_bytes = 1024 * 1024;
    });
    let store = embedded.store();
    let owned = Calls(store).own(claim("a"));
    let payload = "x".repeat(1000);
    let mut next = 1;
    let mut pass_through = |count: u64| {
        let answers: Vec<_> = (0..count)
            .map(|_| {
                let message = message("t", &payload);
                begin(|done| store.publish(publish_to(&[&owned.fence.session], &message), done))
            })
            .collect();
        answers.iter().for_each(|answer| drop(take(answer).expect("published")));
        let answers: Vec<_> = (0..count)
            .map(|n| begin(|done| store.acknowledge(&owned.fence, Number(next + n), done)))
            .collect();
        answers.iter().for_each(|answer| take(answer).expect("acknowledged"));
        next += count;
    };
    for _ in 0..60 {
        pass_through(1000);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let tables = disk_bytes(&embedded.config.dir.join("db").join("keyspaces"));
        if tables < 20_000_000 {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{tables} bytes of tables for an empty queue");
        // Sweeping is the writer's, which looks around between batches; the database deletes the files of tables that a
        // compaction has replaced when it next makes a table, so a little goes on passing through.
        pass_through(100);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn an_answer_may_call_the_store() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(EmbeddedStore::open_at(config_in(dir.path()), START).expect("a store"));
    let owner = Calls(&*store).own(claim("a")).fence;
    let again = Arc::clone(&store);
    let (sender, receiver) = std::sync::mpsc::channel();
    let publish = publish_to(&[&owner.session], &message("t", "x"));
    store.publish(
        publish,
        Box::new(move |_| {
            let third = Arc::clone(&again);
            again.read_queue(
                &owner.clone(),
                Number(1),
                10,
                1000,
                Box::new(move |page| {
                    let number = page.expect("a page").records[0].number;
                    third.acknowledge(
                        &owner,
                        number,
                        Box::new(move |answer| sender.send(answer).expect("heard")),
                    );
                }),
            );
        }),
    );
    receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("in time").expect("acknowledged");
}

#[test]
fn nothing_is_answered_whose_directory_was_deleted() {
    let backend = Embedded::with(|_| {});
    let calls = Calls(backend.embedded());
    calls.own(claim("a"));
    std::fs::remove_dir_all(&backend.config.dir).expect("deleted");
    let waiting = begin(|done| backend.embedded().claim(claim("b"), done));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !backend.embedded().is_failing() {
        assert!(waiting.try_recv().is_err(), "it would be gone after a restart");
        assert!(std::time::Instant::now() < deadline, "the store knows");
        std::thread::yield_now();
    }
    assert!(waiting.try_recv().is_err(), "it waits");
}

#[test]
fn opening_finds_what_is_live_among_what_is_dead() {
    const SESSIONS: u64 = 12;
    const MESSAGES: u64 = 60;
    let mut embedded = Embedded::with(|config| config.fsync = Fsync::Interval);
    {
        let calls = Calls(embedded.store());
        let owners: Vec<_> = (0..SESSIONS).map(|n| calls.own(claim(&format!("c{n:02}"))).fence).collect();
        // One batch each, so that every record is apart.
        for n in 1..=MESSAGES {
            for owner in &owners {
                calls.enqueue(&owner.session, &n.to_string());
            }
        }
        for (owner, n) in owners.iter().zip(0..) {
            for number in 1..=n * MESSAGES / (SESSIONS - 1) {
                calls.acknowledge(owner, number).expect("acknowledged");
            }
        }
        calls.discard("c03");
        calls.discard("c07");
    }
    for _ in 0..2 {
        embedded.restart(START);
        let calls = Calls(embedded.store());
        for n in (0..SESSIONS).filter(|n| ![3, 7].contains(n)) {
            let owned = calls.own(claim(&format!("c{n:02}")));
            let first = 1 + n * MESSAGES / (SESSIONS - 1);
            assert_eq!((owned.head, owned.tail), (Number(first), Number(MESSAGES + 1)), "session {n}");
            let expected: Vec<_> = (first..=MESSAGES).map(|n| (n, Some(n.to_string()))).collect();
            assert_eq!(calls.queue(&owned.fence), expected, "session {n}");
        }
    }
}

fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
