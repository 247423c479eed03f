//! How keys are spelled, here and nowhere else. What is in them: `docs/state.md`.

use super::crc16;

/// Sessions fall into this many buckets. It is part of the format: changing it loses sessions.
pub(super) const SESSION_BUCKETS: u16 = 4096;

/// Retained messages fall into this many buckets, by their first two topic levels. Part of the format too.
pub(super) const RETAINED_BUCKETS: u16 = 256;

/// Seats of principals fall into this many buckets. Part of the format too.
pub(super) const SEAT_BUCKETS: u16 = 256;

/// Keys that share a hash tag, hence a slot: what one call may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Bucket {
    /// Some of the sessions.
    Sessions(u16),
    /// Some of the retained messages.
    Retained(u16),
    /// The seats of some of the principals.
    Seats(u16),
    /// What workers have in common.
    Cluster,
    /// The same, for what must not wait behind changes of the log.
    Lease,
    /// The inbox of a worker's run.
    Inbox(u64),
}

impl Bucket {
    /// The bucket of a client's session.
    pub(super) fn of_client(client_id: &str) -> Self {
        Self::Sessions(Self::part_of_client(client_id))
    }

    /// Its number.
    pub(super) fn part_of_client(client_id: &str) -> u16 {
        (fixed_hash(client_id.as_bytes()) % u64::from(SESSION_BUCKETS)) as u16
    }

    /// The bucket of a topic's retained message, from its first two levels.
    pub(super) fn of_topic(first_two_levels: &str) -> Self {
        Self::Retained((fixed_hash(first_two_levels.as_bytes()) % u64::from(RETAINED_BUCKETS)) as u16)
    }

    /// The same from a topic as keys have it, with a zero byte for `/`.
    pub(super) fn of_topic_key(topic: &[u8]) -> Self {
        let topic = String::from_utf8_lossy(topic).replace('\0', "/");
        Self::of_topic(Self::first_two_levels(&topic))
    }

    /// The bucket of a principal's seats.
    pub(super) fn of_principal(principal: &str) -> Self {
        Self::Seats((fixed_hash(principal.as_bytes()) % u64::from(SEAT_BUCKETS)) as u16)
    }

    /// The part of a Topic Name that decides about its bucket.
    pub(super) fn first_two_levels(topic: &str) -> &str {
        let end = topic.match_indices('/').nth(1).map_or(topic.len(), |(at, _)| at);
        topic.get(..end).unwrap_or(topic)
    }

    /// All of its keys are in this slot.
    pub(super) fn slot(self) -> u16 {
        crc16::slot(self.tag().as_bytes())
    }

    fn tag(self) -> String {
        match self {
            Self::Sessions(bucket) => bucket.to_string(),
            Self::Retained(bucket) => format!("r{bucket}"),
            Self::Seats(bucket) => format!("p{bucket}"),
            Self::Cluster | Self::Lease => "c".to_owned(),
            Self::Inbox(run) => format!("w:{run:016x}"),
        }
    }
}

/// Spells keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Box<str>,
}

impl Keys {
    /// All keys begin with `prefix`, which has no `{`.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    fn key(&self, bucket: Bucket, kind: &str, rest: &str) -> String {
        format!("{}{{{}}}{kind}{rest}", self.prefix, bucket.tag())
    }

    /// Says which format the keys have.
    pub(super) fn format(&self) -> (String, u16) {
        (format!("{}{{meta}}format", self.prefix), crc16::slot(b"meta"))
    }

    /// What the last call of a run of a worker did.
    pub(super) fn outcome(&self, bucket: Bucket, run: &str) -> String {
        self.key(bucket, "o:", run)
    }

    /// Of a client's session, and of the bucket where that is.
    pub(super) fn of_client<'a>(&'a self, client_id: &'a str) -> ClientKeys<'a> {
        ClientKeys { keys: self, bucket: Bucket::of_client(client_id), client_id }
    }

    /// Of some of the sessions.
    pub(super) fn of_bucket(&self, bucket: Bucket) -> BucketKeys<'_> {
        BucketKeys { keys: self, bucket }
    }

    /// Of some of the retained messages.
    pub(super) fn of_retained(&self, bucket: Bucket) -> RetainedKeys<'_> {
        RetainedKeys { keys: self, bucket }
    }

    /// Of the seats of some of the principals.
    pub(super) fn of_seats(&self, bucket: Bucket) -> SeatKeys<'_> {
        SeatKeys { keys: self, bucket }
    }

    /// Of what workers have in common.
    pub(super) fn of_cluster(&self) -> ClusterKeys<'_> {
        ClusterKeys(self)
    }

    /// Of the inbox of a worker's run.
    pub(super) fn of_inbox(&self, run: u64) -> InboxKeys<'_> {
        InboxKeys { keys: self, run }
    }
}

/// Keys of a client's session, and of the bucket where that is.
pub(super) struct ClientKeys<'a> {
    keys: &'a Keys,
    bucket: Bucket,
    client_id: &'a str,
}

impl ClientKeys<'_> {
    fn key(&self, kind: &str) -> String {
        self.keys.key(self.bucket, kind, self.client_id)
    }

    fn of_bucket(&self) -> BucketKeys<'_> {
        self.keys.of_bucket(self.bucket)
    }

    /// The session.
    pub(super) fn session(&self) -> String {
        self.key("m:")
    }

    /// Its subscriptions.
    pub(super) fn subscriptions(&self) -> String {
        self.key("f:")
    }

    /// Its queue.
    pub(super) fn queue(&self) -> String {
        self.key("q:")
    }

    /// The QoS 2 messages received from it.
    pub(super) fn received(&self) -> String {
        self.key("r:")
    }

    /// See [`BucketKeys::index`].
    pub(super) fn index(&self) -> String {
        self.of_bucket().index()
    }

    /// See [`BucketKeys::timers`].
    pub(super) fn timers(&self) -> String {
        self.of_bucket().timers()
    }

    /// See [`BucketKeys::orphans`].
    pub(super) fn orphans(&self) -> String {
        self.of_bucket().orphans()
    }
}

/// Keys of some of the sessions.
pub(super) struct BucketKeys<'a> {
    keys: &'a Keys,
    bucket: Bucket,
}

impl BucketKeys<'_> {
    /// Which sessions there are.
    pub(super) fn index(&self) -> String {
        self.keys.key(self.bucket, "i", "")
    }

    /// When something is to happen.
    pub(super) fn timers(&self) -> String {
        self.keys.key(self.bucket, "t", "")
    }

    /// Wills that outlived their session.
    pub(super) fn orphans(&self) -> String {
        self.keys.key(self.bucket, "w", "")
    }

    /// Identities of QoS 2 messages that came, with the number that they got.
    pub(super) fn identities(&self) -> String {
        self.keys.key(self.bucket, "s", "")
    }

    /// When identities came.
    pub(super) fn identity_times(&self) -> String {
        self.keys.key(self.bucket, "e", "")
    }
}

/// Keys of some of the retained messages.
pub(super) struct RetainedKeys<'a> {
    keys: &'a Keys,
    bucket: Bucket,
}

impl RetainedKeys<'_> {
    /// Retained messages by topic.
    pub(super) fn values(&self) -> String {
        self.keys.key(self.bucket, "v", "")
    }

    /// Their topics in order.
    pub(super) fn topics(&self) -> String {
        self.keys.key(self.bucket, "x", "")
    }

    /// Whose those are that have a seat.
    pub(super) fn owners(&self) -> String {
        self.keys.key(self.bucket, "u", "")
    }
}

/// Keys of the seats of some of the principals.
pub(super) struct SeatKeys<'a> {
    keys: &'a Keys,
    bucket: Bucket,
}

impl SeatKeys<'_> {
    /// The seats.
    pub(super) fn seats(&self) -> String {
        self.keys.key(self.bucket, "s", "")
    }

    /// The same in order.
    pub(super) fn seat_order(&self) -> String {
        self.keys.key(self.bucket, "z", "")
    }
}

/// Keys of what workers have in common.
pub(super) struct ClusterKeys<'a>(&'a Keys);

impl ClusterKeys<'_> {
    fn key(&self, kind: &str) -> String {
        self.0.key(Bucket::Cluster, kind, "")
    }

    /// Which workers there are.
    pub(super) fn registry(&self) -> String {
        self.key("w")
    }

    /// The log of changes of routes.
    pub(super) fn log(&self) -> String {
        self.key("l")
    }

    /// The place of its last entry.
    pub(super) fn log_end(&self) -> String {
        self.key("n")
    }

    /// What workers listen to, in order.
    pub(super) fn listening(&self) -> String {
        self.key("h")
    }

    /// What each of that gets.
    pub(super) fn listening_qos(&self) -> String {
        self.key("q")
    }

    /// Which workers are being buried.
    pub(super) fn burials(&self) -> String {
        self.key("y")
    }
}

/// Keys of the inbox of a worker's run.
pub(super) struct InboxKeys<'a> {
    keys: &'a Keys,
    run: u64,
}

impl InboxKeys<'_> {
    fn key(&self, kind: &str) -> String {
        self.keys.key(Bucket::Inbox(self.run), kind, "")
    }

    /// The inbox.
    pub(super) fn inbox(&self) -> String {
        self.key("in")
    }

    /// Its counters.
    pub(super) fn counters(&self) -> String {
        self.key("c")
    }

    /// What is written to find out whether an inbox can be there.
    pub(super) fn trial(&self) -> String {
        self.key("p")
    }
}

/// FNV-1a with a finishing mix: the same in every process and for ever.
fn fixed_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// Names a text by its content.
pub(super) fn fingerprint(text: &str) -> u32 {
    (fixed_hash(text.as_bytes()) & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_never_change() {
        let buckets = ["", "a", "sensor-1", "sensor-2", "é"].map(Bucket::of_client);
        assert_eq!(buckets, [1139, 802, 3005, 131, 1544].map(Bucket::Sessions));
        assert_eq!(Bucket::of_topic("a/b"), Bucket::Retained(116));
    }

    #[test]
    fn buckets_are_evenly_filled() {
        let mut counts = vec![0_u32; usize::from(SESSION_BUCKETS)];
        for n in 0..409_600 {
            let Bucket::Sessions(bucket) = Bucket::of_client(&format!("device-{n:07}")) else { continue };
            counts[usize::from(bucket)] += 1;
        }
        assert!(counts.iter().all(|count| (40..180).contains(count)), "around 100 each");
    }

    #[test]
    fn keys_of_a_bucket_share_its_slot() {
        let keys = Keys::new("tg");
        let bucket = Bucket::of_client("}{x}");
        let Bucket::Sessions(number) = bucket else { panic!("a session") };
        // A client may be called anything: the first tag of the key counts.
        assert_eq!(keys.of_client("}{x}").session(), format!("tg{{{number}}}m:}}{{x}}"));
        assert_eq!(keys.outcome(Bucket::Sessions(17), "ab"), "tg{17}o:ab");
        assert_eq!(keys.of_retained(Bucket::Retained(3)).topics(), "tg{r3}x");
        assert_eq!(Bucket::Sessions(17).slot(), crc16::slot(b"17"));
        assert_eq!(keys.of_inbox(7).inbox(), "tg{w:0000000000000007}in");
        assert_eq!(
            (keys.of_cluster().log(), Bucket::Lease.slot()),
            ("tg{c}l".to_owned(), Bucket::Cluster.slot())
        );
    }

    #[test]
    fn two_levels_decide_about_a_retained_bucket() {
        assert_eq!(Bucket::first_two_levels("a/b/c/d"), "a/b");
        assert_eq!(Bucket::first_two_levels("a/b"), "a/b");
        assert_eq!(Bucket::first_two_levels("a"), "a");
        assert_eq!(Bucket::first_two_levels("//x"), "/");
    }
}
