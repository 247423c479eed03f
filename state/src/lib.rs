//! What must outlive a connection: the [`Store`] contract and its implementations. Operations are of the domain, not of
//! a key-value store; matching and routing are the broker's.

mod answer;
pub mod clock;
mod cluster;
mod durations;
mod embedded;
mod error;
#[cfg(feature = "testing")]
mod memory;
mod message;
mod reader;
mod redis;
mod store;
mod tables;
#[cfg(feature = "testing")]
pub mod testing;

pub use cluster::{
    Burial, Cluster, Heard, InboxPage, Joined, Lease, LeftInInbox, Listener, ListeningPage, LogPage, Member,
    Noted, Placed, Position, PublishingSession, RouteChange, Stamp, Wants, WorkerId,
};
pub use durations::{DurationCounts, Durations};
pub use embedded::{Damage, EmbeddedConfig, EmbeddedStore, Fsync, OnDamage, OpenError};
pub use error::StoreError;
#[cfg(feature = "testing")]
pub use memory::{MemoryCluster, MemoryStore, MemoryWorker};
pub use message::{Delivery, Message, MessageHeader, Owner, SubscriptionIds, UnixMs, Via};
pub use mqtt::ConnectionId;
pub use redis::{ConnectError, RedisCluster, RedisConfig, RedisStore, ReplicaLag, Secret, WhenShort};
pub use store::{
    CLAIM_SLACK_MS, Claim, Claimed, Cursor, Done, Due, DueLeft, DueWill, EXPIRY_NEVER, Enqueued, Fence,
    Instead, Number, Origin, Owned, PART_TARGETS_MAX, Previous, Principal, Publish, Published, QueueLimits,
    QueuePage, Queued, Record, Release, ResumeRefusal, RetainedPage, RoutePage, SessionRoutes, Store,
    StoreStats, StoredSession, Subscription, SubscriptionOptions, Target, Will,
};
