//! Queue records are not deleted: compaction leaves out those below the head of their queue, and those of sessions that
//! are gone. This is the view that compaction has of the heads; it lags behind, which only keeps garbage longer.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};

use super::layout;
use crate::tables::SessionKey;

type Heads = HashMap<SessionKey, u64, foldhash::fast::RandomState>;

/// The durable heads of all queues.
#[derive(Debug, Default)]
pub(super) struct LiveQueues {
    /// `None` until they are loaded: nothing is dead until then.
    heads: RwLock<Option<Heads>>,
}

impl LiveQueues {
    /// All heads, after loading.
    pub(super) fn load(&self, heads: impl Iterator<Item = (SessionKey, u64)>) {
        *self.heads.write().unwrap_or_else(PoisonError::into_inner) = Some(heads.collect());
    }

    /// Sessions that are about to be written.
    pub(super) fn add(&self, sessions: impl Iterator<Item = (SessionKey, u64)>) {
        if let Some(heads) = self.heads.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            for (session, head) in sessions {
                heads.entry(session).or_insert(head);
            }
        }
    }

    /// Heads that have moved, and sessions that are gone, durably.
    pub(super) fn update(&self, moved: &[(SessionKey, u64)], gone: &[SessionKey]) {
        if moved.is_empty() && gone.is_empty() {
            return;
        }
        if let Some(heads) = self.heads.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            for (session, head) in moved {
                heads.entry(*session).and_modify(|old| *old = (*old).max(*head));
            }
            for session in gone {
                heads.remove(session);
            }
        }
    }

    /// The number below which records of a session are dead: 0 while nothing is known.
    fn dead_below(&self, session: SessionKey) -> u64 {
        match self.heads.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => 0,
            Some(heads) => heads.get(&session).copied().unwrap_or(u64::MAX),
        }
    }
}

/// Makes filters for compactions of numbered keyspaces.
pub(super) struct GarbageFilters(pub(super) Arc<LiveQueues>);

impl Factory for GarbageFilters {
    fn name(&self) -> &'static str {
        "acknowledged"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(GarbageFilter { live: Arc::clone(&self.0), session: None })
    }
}

struct GarbageFilter {
    live: Arc<LiveQueues>,
    /// The session of the last key, and what is dead of it: keys come sorted.
    session: Option<(SessionKey, u64)>,
}

impl CompactionFilter for GarbageFilter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let Some((session, last)) = layout::parse_numbered(item.key()) else { return Ok(Verdict::Keep) };
        let dead_below = match self.session {
            Some((known, dead_below)) if known == session => dead_below,
            _ => {
                let dead_below = self.live.dead_below(session);
                self.session = Some((session, dead_below));
                dead_below
            }
        };
        Ok(if last < dead_below { Verdict::Destroy } else { Verdict::Keep })
    }
}
