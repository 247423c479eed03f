//! Which message of each publisher this worker had last, so that none is delivered again, and none with QoS 0 behind a newer
//! one: when the server of an inbox is replaced, notes come twice, and those of a worker that has lost a publisher come late.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::{fast, quality};
use parking_lot::{Mutex, MutexGuard};
use state::{Fence, PublishingSession, Stamp, WorkerId};
use tokio::time::Instant;

use super::store_clock::SPREAD_MAX;

/// For how long a publisher is remembered at least, unless there are too many. Longer than a worker goes without word that it
/// has lost one.
const KEPT: Duration = Duration::from_secs(30);
/// Publishers that one shard remembers twice at the most.
const PUBLISHERS_MAX: usize = 16_384;
const SHARDS: usize = 16;

/// What is to become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newness {
    /// It is newer than all of its publisher's.
    New,
    /// It came before.
    Again,
    /// A newer one may have come before it.
    Overtaken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// By its incarnation.
    Session(u64),
    Worker(WorkerId),
}

/// What is known of a publisher.
#[derive(Clone, Copy)]
struct Last {
    /// That of its last message; 0 if none came.
    epoch: u64,
    sender: WorkerId,
    /// 0 if a connection here has published it.
    number: u64,
    /// That of the newest connection here which has had the session. If it is above `epoch`, it has published nothing yet.
    owned: u64,
}

#[derive(Default)]
struct Generation {
    last: HashMap<Source, Last, fast::RandomState>,
    /// By the store's clock, when the newest of these was published.
    newest_us: u64,
}

struct SeenShard {
    young: Generation,
    old: Generation,
    begun: Instant,
    /// What was published before this may be older than something that is forgotten.
    floor_us: u64,
}

/// Whether a connection here may publish with QoS 0.
pub(crate) enum Turn<'a> {
    /// Nobody is known to have the session after it.
    Its,
    /// Another connection has the session and has published nothing yet. Nor will it before this is dropped.
    Last(LastTurn<'a>),
    /// Messages of a later owner were delivered here.
    Over,
}

/// Keeps newer messages of a publisher back.
pub(crate) struct LastTurn<'a> {
    _shard: MutexGuard<'a, SeenShard>,
}

/// Publishers and their last messages.
pub(crate) struct Seen {
    shards: [Mutex<SeenShard>; SHARDS],
    /// Of which every bit depends on the whole key: some of them choose the shard.
    hasher: quality::RandomState,
}

impl Seen {
    /// Nothing was seen.
    pub(super) fn new() -> Self {
        let shard = |_| {
            let begun = Instant::now();
            let (young, old) = (Generation::default(), Generation::default());
            Mutex::new(SeenShard { young, old, begun, floor_us: 0 })
        };
        Self { shards: std::array::from_fn(shard), hasher: quality::RandomState::default() }
    }

    /// Hands a message on by `deliver`, unless it came before or, if that matters (`is_ordered`), comes too late. Nothing newer
    /// of its publisher gets in between.
    pub(super) fn admit(&self, stamp: &Stamp, is_ordered: bool, deliver: impl FnOnce()) -> Newness {
        let (publisher, epoch) = match stamp.publisher {
            Some(PublishingSession { incarnation, epoch }) => (Source::Session(incarnation), epoch),
            None => (Source::Worker(stamp.sender), 0),
        };
        let mut shard = self.shard(publisher).lock();
        let verdict = shard.judge(publisher, epoch, stamp);
        if verdict == Newness::New {
            let owned = shard.last(publisher).map_or(0, |last| last.owned);
            let last = Last { epoch, sender: stamp.sender, number: stamp.number, owned };
            shard.put(publisher, last, stamp.at_us);
        }
        if verdict == Newness::New || (verdict == Newness::Overtaken && !is_ordered) {
            deliver();
        }
        verdict
    }

    /// A connection here has this session from now on. What others publish for it with an earlier epoch is older than all that
    /// comes, and too late once something has come.
    pub(crate) fn own(&self, fence: &Fence, here: WorkerId, now_us: u64) {
        let publisher = Source::Session(fence.session.incarnation);
        let mut shard = self.shard(publisher).lock();
        let unknown = Last { epoch: 0, sender: here, number: 0, owned: 0 };
        let last = shard.last(publisher).copied().unwrap_or(unknown);
        if last.epoch <= fence.epoch {
            shard.put(publisher, Last { owned: last.owned.max(fence.epoch), ..last }, now_us);
        }
    }

    /// A connection here that has, or had, the session with this fence publishes with QoS 0. If its turn is over nothing
    /// happens.
    pub(crate) fn turn(&self, fence: &Fence, here: WorkerId) -> Turn<'_> {
        let publisher = Source::Session(fence.session.incarnation);
        let mut shard = self.shard(publisher).lock();
        let Some(last) = shard.last_mut(publisher) else { return Turn::Its };
        if fence.epoch < last.epoch {
            return Turn::Over;
        }
        if fence.epoch > last.epoch {
            *last = Last { epoch: fence.epoch, sender: here, number: 0, owned: last.owned };
        }
        if fence.epoch < last.owned { Turn::Last(LastTurn { _shard: shard }) } else { Turn::Its }
    }

    fn shard(&self, publisher: Source) -> &Mutex<SeenShard> {
        use std::hash::BuildHasher;
        // The map uses the upper bits.
        let at = (self.hasher.hash_one(publisher) >> 8) as usize % SHARDS;
        &self.shards[at]
    }
}

impl Last {
    /// Publishers that are workers have no epochs, and sessions no epoch 0.
    fn has_message(&self) -> bool {
        self.epoch > 0 || self.number > 0
    }
}

impl SeenShard {
    fn last(&self, publisher: Source) -> Option<&Last> {
        self.young.last.get(&publisher).or_else(|| self.old.last.get(&publisher))
    }

    fn last_mut(&mut self, publisher: Source) -> Option<&mut Last> {
        self.young.last.get_mut(&publisher).or_else(|| self.old.last.get_mut(&publisher))
    }

    fn judge(&self, publisher: Source, epoch: u64, stamp: &Stamp) -> Newness {
        match self.last(publisher).filter(|last| last.has_message()) {
            None if stamp.at_us < self.floor_us => Newness::Overtaken,
            None => Newness::New,
            Some(last) if epoch < last.epoch => Newness::Overtaken,
            // A failover may have given the same epoch out twice: then nobody knows which is the newer one.
            Some(last)
                if epoch == last.epoch && stamp.sender == last.sender && stamp.number <= last.number =>
            {
                Newness::Again
            }
            Some(_) => Newness::New,
        }
    }

    fn put(&mut self, publisher: Source, last: Last, at_us: u64) {
        if self.begun.elapsed() >= KEPT || self.young.last.len() >= PUBLISHERS_MAX {
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            if !forgotten.last.is_empty() {
                // What another worker takes for later may have been earlier, by so much.
                let spread_us = SPREAD_MAX.as_micros() as u64;
                self.floor_us = self.floor_us.max(forgotten.newest_us.saturating_add(spread_us));
            }
            self.begun = Instant::now();
        }
        self.young.last.insert(publisher, last);
        self.young.newest_us = self.young.newest_us.max(at_us);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use state::StoredSession;

    use super::*;

    const US: u64 = 1_000_000;

    fn stamp(sender: u64, epoch: u64, number: u64) -> Stamp {
        Stamp {
            sender: WorkerId(sender),
            number,
            publisher: Some(PublishingSession { incarnation: 5, epoch }),
            at_us: US,
        }
    }

    fn fence(epoch: u64) -> Fence {
        let session = Arc::new(StoredSession { client_id: "p".into(), incarnation: 5 });
        Fence { session, epoch, nonce: 1 }
    }

    /// With QoS 0; whether it was delivered.
    fn is_delivered(seen: &Seen, stamp: &Stamp) -> bool {
        let mut is_delivered = false;
        seen.admit(stamp, true, || is_delivered = true);
        is_delivered
    }

    // ARCHITECTURE, rule 30.
    #[tokio::test(start_paused = true)]
    async fn a_message_is_delivered_once_and_none_of_an_earlier_epoch_after_it() {
        let seen = Seen::new();
        let of = |sender, epoch, number| is_delivered(&seen, &stamp(sender, epoch, number));
        assert!(of(1, 1, 3) && of(1, 1, 5));
        assert!(!of(1, 1, 5) && !of(1, 1, 3) && !of(1, 1, 4), "they came before, or are lost");
        assert!(of(2, 2, 1), "another worker counts anew");
        assert!(!of(1, 1, 6), "its publisher is at another worker by now");
        let mut is_delivered = false;
        seen.admit(&stamp(1, 1, 7), false, || is_delivered = true);
        assert!(is_delivered, "what somebody waits for is not lost for that");
        assert!(of(3, 2, 1), "nobody knows which of them came first");
        assert!(of(2, 3, 1));
    }

    const HERE: WorkerId = WorkerId(1);

    /// With QoS 0, by a connection here; whether it is delivered.
    fn is_published(seen: &Seen, epoch: u64) -> bool {
        !matches!(seen.turn(&fence(epoch), HERE), Turn::Over)
    }

    // ARCHITECTURE, rule 30.
    #[tokio::test(start_paused = true)]
    async fn who_has_the_publisher_goes_before_those_that_had_it_once_it_has_published() {
        let seen = Seen::new();
        assert!(is_delivered(&seen, &stamp(2, 1, 7)));
        seen.own(&fence(2), HERE, US);
        assert!(is_delivered(&seen, &stamp(2, 1, 8)), "nothing newer has come");
        assert!(!is_delivered(&seen, &stamp(2, 1, 8)), "it came before");
        assert!(is_published(&seen, 2));
        assert!(!is_delivered(&seen, &stamp(2, 1, 9)));
        assert!(is_published(&seen, 2));
        assert!(is_delivered(&seen, &stamp(2, 3, 10)), "another one has it by now");
        assert!(!is_published(&seen, 2), "and what still comes of it here is late");
        seen.own(&fence(2), HERE, US);
        assert!(!is_published(&seen, 2), "an answer to a claim that comes late changes nothing");
    }

    // ARCHITECTURE, rule 30.
    #[tokio::test(start_paused = true)]
    async fn what_a_connection_said_last_is_delivered_until_the_one_that_took_it_over_publishes() {
        let seen = Seen::new();
        assert!(is_published(&seen, 1), "nobody else is known");
        seen.own(&fence(1), HERE, US);
        assert!(is_published(&seen, 1));
        seen.own(&fence(2), HERE, US);
        let Turn::Last(last_turn) = seen.turn(&fence(1), HERE) else { panic!("nothing newer has come") };
        assert!(seen.shard(Source::Session(5)).is_locked(), "nor does it before that is delivered");
        drop(last_turn);
        assert!(is_published(&seen, 2));
        assert!(!is_published(&seen, 1), "a newer one was delivered");
    }

    // ARCHITECTURE, rule 30.
    #[tokio::test(start_paused = true)]
    async fn what_a_connection_said_last_goes_before_what_others_have_of_those_before_it() {
        let seen = Seen::new();
        (2..=3).for_each(|epoch| seen.own(&fence(epoch), HERE, US));
        assert!(is_delivered(&seen, &stamp(2, 1, 7)), "nothing newer has come");
        assert!(is_published(&seen, 2), "the last words of one that was taken over");
        assert!(!is_delivered(&seen, &stamp(2, 1, 8)));
        assert!(is_published(&seen, 2) && is_published(&seen, 3) && !is_published(&seen, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_publisher_does_not_vouch_for_what_was_forgotten() {
        let seen = Seen::new();
        seen.shards.iter().for_each(|shard| shard.lock().floor_us = 2 * US);
        seen.own(&fence(2), HERE, 3 * US);
        assert!(!is_delivered(&seen, &stamp(2, 1, 9)), "it may have come before");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_older_than_something_forgotten_is_late() {
        let seen = Seen::new();
        assert!(is_delivered(&seen, &stamp(1, 1, 3)));
        let of = |publisher, number, at_us| Stamp {
            sender: WorkerId(1),
            number,
            publisher: Some(PublishingSession { incarnation: publisher, epoch: 1 }),
            at_us,
        };
        for round in 1..=3 {
            tokio::time::advance(KEPT).await;
            // Every shard gets something.
            for publisher in 100..400 {
                assert!(is_delivered(&seen, &of(publisher, round, 20 * round * US)));
            }
        }
        assert!(!is_delivered(&seen, &stamp(1, 1, 3)), "again, and forgotten");
        assert!(!is_delivered(&seen, &of(6, 9, US)));
        assert!(is_delivered(&seen, &of(6, 9, 60 * US)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let seen = Seen::new();
        for publisher in 0..(3 * SHARDS * PUBLISHERS_MAX) as u64 {
            let session = PublishingSession { incarnation: publisher, epoch: 1 };
            let stamp = Stamp { sender: WorkerId(1), number: 1, publisher: Some(session), at_us: publisher };
            seen.admit(&stamp, true, || ());
        }
        for shard in &seen.shards {
            let shard = shard.lock();
            assert!(shard.young.last.len() <= PUBLISHERS_MAX && shard.old.last.len() <= PUBLISHERS_MAX);
        }
    }
}
