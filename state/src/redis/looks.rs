//! Looks at buckets by the clock, and how long anybody waits for them: a server that is dead, full or stands still holds up what
//! it has itself and nothing of the others. What a look takes too late goes with the next one that asks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::engine::Engine;
use super::keys::Bucket;
use super::node::Address;
use crate::Due;

/// After so long without an answer nobody waits for the rest.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Of a server that owes so many answers for longer than that nothing more is asked. A bucket can be held up alone too, while its
/// slot moves.
const OWED_MAX: usize = 16;

/// What is under way of all looks.
#[derive(Default)]
pub(super) struct Looks {
    under_way: Mutex<UnderWay>,
    /// Taken when who asked for it had been answered.
    late: Mutex<Vec<Due>>,
}

#[derive(Default)]
struct UnderWay {
    looks: HashMap<u64, Asking>,
    next: u64,
}

struct Asking {
    bucket: Bucket,
    /// Which is to answer; `None` where several are.
    server: Option<Address>,
    /// The last answer, or the beginning.
    heard_at: Instant,
}

/// One of them, until it is dropped.
pub(super) struct Look {
    all: Arc<Looks>,
    id: u64,
}

/// Of whom nothing more is to be asked now.
pub(super) struct Owing {
    buckets: HashSet<Bucket>,
    servers: HashSet<Address>,
}

impl Owing {
    pub(super) fn has(&self, bucket: Bucket, server: Option<&Address>) -> bool {
        self.buckets.contains(&bucket) || server.is_some_and(|server| self.servers.contains(server))
    }
}

impl Looks {
    /// Begins a look at a bucket.
    pub(super) fn begin(self: &Arc<Self>, bucket: Bucket, server: Option<Address>) -> Look {
        let mut under_way = self.under_way.lock();
        let id = under_way.next;
        under_way.next += 1;
        under_way.looks.insert(id, Asking { bucket, server, heard_at: Instant::now() });
        Look { all: Arc::clone(self), id }
    }

    /// The buckets that owe an answer, and the servers that owe too many.
    pub(super) fn owing(&self) -> Owing {
        let now = Instant::now();
        let (mut buckets, mut owed) = (HashSet::new(), HashMap::<Address, usize>::new());
        let under_way = self.under_way.lock();
        let overdue = |asking: &&Asking| now.saturating_duration_since(asking.heard_at) >= PATIENCE;
        for asking in under_way.looks.values().filter(overdue) {
            buckets.insert(asking.bucket);
            if let Some(server) = &asking.server {
                *owed.entry(server.clone()).or_default() += 1;
            }
        }
        let servers = owed.into_iter().filter(|(_, owed)| *owed >= OWED_MAX).map(|(server, _)| server);
        Owing { buckets, servers: servers.collect() }
    }

    /// What was taken too late for who asked before.
    pub(super) fn take_late(&self, max: usize) -> Vec<Due> {
        let mut late = self.late.lock();
        let count = late.len().min(max);
        late.drain(..count).collect()
    }

    /// Nobody waits for it: the next one that asks gets it.
    pub(super) fn add_late(&self, due: Due) {
        self.late.lock().push(due);
    }
}

impl Look {
    /// It was answered, and goes on.
    pub(super) fn heard(&self) {
        if let Some(asking) = self.all.under_way.lock().looks.get_mut(&self.id) {
            asking.heard_at = Instant::now();
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.all.under_way.lock().looks.remove(&self.id);
    }
}

impl Engine {
    /// The server that has a bucket, as far as is known.
    pub(super) fn server_of(&self, bucket: Bucket) -> Option<Address> {
        self.router.topology.owner(bucket.slot()).map(|node| node.address.clone())
    }

    /// Does something in a bucket that waits for `server`, or for several. `None` if that is not done in time, and then it goes on
    /// by itself, or if an answer is owed there.
    pub(super) async fn in_time<T: Send + 'static>(
        self: &Arc<Self>,
        bucket: Bucket,
        server: Option<Address>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        if self.looks.owing().has(bucket, server.as_ref()) {
            return None;
        }
        let look = self.looks.begin(bucket, server);
        let task = self.runtime.spawn(async move {
            let _look = look;
            work.await
        });
        tokio::time::timeout(PATIENCE, task).await.ok()?.ok()
    }
}

/// What comes until all have sent, or until nobody has for too long; what is sent after that comes back to who sends it.
pub(super) async fn gather<T>(mut answers: UnboundedReceiver<T>) -> Vec<T> {
    let mut gathered = Vec::new();
    while let Ok(next) = tokio::time::timeout(PATIENCE, answers.recv()).await {
        let Some(next) = next else { return gathered };
        gathered.push(next);
    }
    answers.close();
    while let Some(next) = answers.recv().await {
        gathered.push(next);
    }
    gathered
}

/// Sends; answers what nobody waits for any more.
pub(super) fn send<T>(sender: &UnboundedSender<T>, answer: T) -> Option<T> {
    sender.send(answer).err().map(|unsent| unsent.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_owes_by_itself_and_a_server_when_many_of_its_buckets_do() {
        let looks = Arc::new(Looks::default());
        let server = |port| Some(Address { host: "redis".to_owned(), port });
        let begun: Vec<Look> =
            (0..16).map(|bucket| looks.begin(Bucket::Sessions(bucket), server(1))).collect();
        let other = looks.begin(Bucket::Sessions(100), server(2));
        let is_owing = |bucket, port| looks.owing().has(Bucket::Sessions(bucket), server(port).as_ref());
        assert!(!is_owing(0, 1) && !is_owing(100, 2), "they are in time");
        let long_ago = Instant::now().checked_sub(2 * PATIENCE).expect("a moment");
        for asking in looks.under_way.lock().looks.values_mut() {
            asking.heard_at = long_ago;
        }
        assert!(is_owing(0, 1) && is_owing(16, 1) && is_owing(100, 2) && !is_owing(101, 2));
        begun[3].heard();
        assert!(is_owing(0, 1) && !is_owing(3, 1), "{OWED_MAX} are too many, one less is not");
        drop((begun, other));
        assert!(!is_owing(0, 1) && !is_owing(100, 2));
    }

    #[tokio::test]
    async fn what_comes_in_time_is_gathered_and_the_rest_comes_back_to_who_sends_it() {
        let (sender, answers) = tokio::sync::mpsc::unbounded_channel();
        assert_eq!((send(&sender, 1), send(&sender, 2)), (None, None));
        assert_eq!(gather(answers).await, [1, 2]);
        assert_eq!(send(&sender, 3), Some(3));
    }
}
