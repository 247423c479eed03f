//! Due items, that is Wills and what members of shares left, that the store has handed out to this worker and whose end it does not
//! know yet. It hands them out again where it is told of none, but only after half a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a worker that leaves waits for their end.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// How many there are.
#[derive(Debug, Default)]
pub(crate) struct AtHand {
    count: AtomicUsize,
    is_leaving: AtomicBool,
    /// There are none.
    done: Notify,
}

/// One, or a question for some, until it is dropped.
#[derive(Debug)]
pub(crate) struct InHand(Arc<AtHand>);

impl AtHand {
    /// One more.
    pub(crate) fn take(self: &Arc<Self>) -> InHand {
        self.count.fetch_add(1, Ordering::AcqRel);
        InHand(Arc::clone(self))
    }

    /// The store is to be asked for no more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Has no more asked for, and waits until all have come to their end, two seconds at most.
    pub(crate) async fn finish(&self) {
        self.is_leaving.store(true, Ordering::Release);
        let done = async {
            while self.count.load(Ordering::Acquire) > 0 {
                self.done.notified().await;
            }
        };
        if tokio::time::timeout(FINISH_WITHIN, done).await.is_err() {
            tracing::info!("Wills that are due have no end yet; another worker publishes them");
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            // One waits at most, and a permit stays for who is about to.
            self.0.done.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_leaves_waits_for_the_end_of_all_and_of_what_follows_from_them() {
        let at_hand = Arc::new(AtHand::default());
        drop(at_hand.take());
        let asked = at_hand.take();
        let mut finished = pin!(at_hand.finish());
        assert!(timeout(FINISH_WITHIN / 4, &mut finished).await.is_err());
        assert!(at_hand.is_leaving());
        let will = at_hand.take();
        drop(asked);
        assert!(timeout(FINISH_WITHIN / 4, &mut finished).await.is_err());
        drop(will);
        timeout(FINISH_WITHIN / 4, finished).await.expect("none is at hand");

        let _never = at_hand.take();
        at_hand.finish().await;
    }
}
