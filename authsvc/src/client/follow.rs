//! Follows what each service revokes, and whether its rules become others: long questions, one at a time for each address. A
//! service that has no such list is asked again now and then.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;

use super::RemoteCore;
use super::address::{Address, Ask, CallFault};
use crate::revocation::Feed;
use crate::wire::REVOCATIONS_PATH;

/// How long one question may wait for news; the service answers before.
const NEWS_WAIT: Duration = Duration::from_secs(30);

/// How long to wait after a question that failed, and before a service is asked again that has no list.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_WITHOUT_LIST: Duration = Duration::from_secs(60);

/// What has been told of a list.
#[derive(Default)]
struct FeedPlace {
    replica: String,
    newest: u64,
    /// The name of the rules that the service goes by.
    rules: String,
}

/// Follows for as long as the address is there.
pub(super) async fn run(address: Arc<Address>, shared: Arc<RemoteCore>) {
    // The address owns this task, so it must not own the address.
    let (address, shared) = (Arc::downgrade(&address), Arc::downgrade(&shared));
    let mut place = FeedPlace::default();
    loop {
        let (Some(address), Some(shared)) = (address.upgrade(), shared.upgrade()) else { return };
        let pause = match ask(&address, &shared, &place).await {
            Ok(feed) => {
                take(feed, &mut place, &shared);
                continue;
            }
            Err(CallFault::Status(404 | 405 | 501)) => PAUSE_WITHOUT_LIST,
            Err(CallFault::Down) => {
                let mut standing = address.standing();
                drop((address, shared));
                // An error says that the address is gone, as the next look does.
                let _ = standing.wait_for(|is_up| *is_up).await;
                continue;
            }
            Err(_) => PAUSE,
        };
        drop((address, shared));
        tokio::time::sleep(pause).await;
    }
}

async fn ask(address: &Address, shared: &RemoteCore, place: &FeedPlace) -> Result<Feed, CallFault> {
    let path = format!("{REVOCATIONS_PATH}?after={}&replica={}", place.newest, place.replica);
    let ask = Ask { method: Method::GET, path, body: Bytes::new() };
    let asking = address.ask(&ask, shared);
    let body = tokio::time::timeout(NEWS_WAIT, asking).await.map_err(|_| CallFault::Broken)??;
    serde_json::from_slice(&body).map_err(|_| CallFault::Broken)
}

fn take(feed: Feed, place: &mut FeedPlace, shared: &RemoteCore) {
    if feed.has_missed {
        tracing::warn!(
            "some of what was revoked was not told in time; its connections end with their passports"
        );
    }
    // The replica goes into the next question: no more of it than a name.
    let name = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).take(64).collect::<String>();
    place.replica = name(&feed.replica);
    place.newest = feed.newest;
    for entry in feed.revocations {
        // Once before: nothing that is remembered may be let in by a connection that comes now; and what is remembered
        // meanwhile is judged by the list.
        let target = entry.target.clone();
        entry.add_to(&shared.revocations);
        shared.cache.forget(&target);
    }
    // Last: who has to go is not asked about.
    let rules = name(&feed.rules);
    if !rules.is_empty() && rules != place.rules {
        shared.see_rules(&rules, &place.rules);
        place.rules = rules;
    }
}
