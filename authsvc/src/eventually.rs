//! For tests: waits for a state that somebody else brings about, with a deadline.

use std::time::Duration;

/// Longest wait.
const WITHIN: Duration = Duration::from_secs(20);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until it `holds`. Panics with `what` when it does not in time.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    assert!(tokio::time::timeout(WITHIN, looking).await.is_ok(), "not in time: {what}");
}
