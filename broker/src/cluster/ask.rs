//! How the tasks of a cluster ask the store: one call at a time, and again soon when the store could not take it.

use std::time::Duration;

use state::{Done, StoreError};
use tokio::sync::oneshot;

/// How long a read of the log or the inbox waits for something, milliseconds.
pub(super) const WAIT_MS: u64 = 1000;
/// How soon a call is tried again that the store could not take.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Asks the store and waits for the answer; one that never comes is [`StoreError::Closed`].
pub(super) async fn ask<T: Send + 'static>(call: impl FnOnce(Done<T>)) -> Result<T, StoreError> {
    let (tx, rx) = oneshot::channel();
    call(Box::new(move |answer| {
        let _nobody_waits = tx.send(answer);
    }));
    rx.await.unwrap_or(Err(StoreError::Closed))
}
