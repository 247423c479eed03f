//! This worker's inbox: what other workers have for sessions that are connected here; and the look at the stored queues of
//! those sessions, for what no note came.

use std::sync::Arc;
use std::time::Duration;

use mqtt::QoS;
use state::{InboxPage, Message, Noted, Number, Placed, Position, Stamp, StoreError, StoredSession};
use tokio::time::{sleep, timeout};

use crate::directory::SessionHandle;

use super::Cluster;
use super::ask::{RETRY_AFTER, WAIT_MS, ask};
use super::metrics::LateReason;
use super::seen::Newness;

/// How often the queues of all connected sessions are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Sessions looked at in one call, and the pause after it: 2,000 sessions a second at the most.
const SWEEP_SESSIONS: usize = 200;
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// How long a worker that leaves waits for the end of its inbox.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// Who hands the messages of other workers to the sessions that are connected here.
pub(crate) trait Recipient: Send + Sync {
    /// Hands a message on that was published at `at_us` by the store's clock: to those who are subscribed plainly, if `is_plain`,
    /// and to a member of each of the shares. Answers how many did not get it since they may have it from another worker; shares
    /// without a member here are added to `homeless`.
    fn route_noted(
        &self,
        message: &Arc<Message>,
        at_us: u64,
        is_plain: bool,
        shares: (&[Arc<str>], &mut Vec<Arc<str>>),
    ) -> u64;

    /// Offers a message to all members of a share, wherever they are, and calls `then` when one has it, or lets go of that.
    fn share_anew(&self, share: Arc<str>, message: Arc<Message>, then: Box<dyn FnOnce() + Send>);
}

/// Reads the inbox until it is dropped; from its beginning again when the worker has joined anew.
pub(super) async fn read(cluster: Arc<Cluster>, recipient: impl Recipient) {
    let mut after = Position::default();
    let mut joined = cluster.joined();
    loop {
        if cluster.joined() != joined {
            joined = cluster.joined();
            after = Position::default();
        }
        let page = ask(|done| cluster.api.read_inbox(after, WAIT_MS, done)).await;
        let Ok(InboxPage { notes, has_gap }) = page else {
            sleep(RETRY_AFTER).await;
            continue;
        };
        cluster.metrics.notes_received.inc_by(notes.len() as u64);
        if has_gap {
            // Its places may have begun anew.
            after = Position::default();
        }
        for Placed { position, what } in notes {
            after = position;
            cluster.take_note(&recipient, what);
        }
        if after > Position::default() {
            cluster.inbox_taken.send_replace(after);
        }
        if has_gap {
            look_at_queues(&cluster, Duration::ZERO).await;
        }
        // Whoever answers at once leaves no turn to others.
        tokio::task::yield_now().await;
    }
}

/// Looks at the queues of connected sessions now and then, until it is dropped.
pub(super) async fn sweep(cluster: Arc<Cluster>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        look_at_queues(&cluster, SWEEP_PAUSE).await;
    }
}

/// Tells connected sessions how far their stored queues go.
async fn look_at_queues(cluster: &Cluster, pause: Duration) {
    let mut connected: Vec<Arc<SessionHandle>> = Vec::new();
    cluster.directory.sessions().for_each(|session| {
        if session.stored.is_some() && session.is_connected() {
            connected.push(Arc::clone(session));
        }
    });
    for sessions in connected.chunks(SWEEP_SESSIONS) {
        let stored: Vec<Arc<StoredSession>> =
            sessions.iter().filter_map(|session| session.stored.clone()).collect();
        let Ok(tails) = ask(|done| cluster.host.store.tails(stored, done)).await else { return };
        for (session, tail) in sessions.iter().zip(tails) {
            if let Some(last) = tail.and_then(|tail| tail.0.checked_sub(1)).filter(|last| *last > 0) {
                session.tell_tail(Number(last));
            }
        }
        sleep(pause).await;
    }
}

impl Cluster {
    /// Shuts the inbox, and returns when what is in it was taken: what comes for a share whose members have gone on elsewhere is
    /// offered to them before the worker leaves. Answers `false` if that takes too long.
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) async fn take_last_notes(&self) -> Result<bool, StoreError> {
        let last = ask(|done| self.api.shut_inbox(done)).await?;
        let mut taken = self.inbox_taken.subscribe();
        Ok(timeout(LAST_WITHIN, taken.wait_for(|taken| *taken >= last)).await.is_ok())
    }

    /// Hands a message on, unless it came before, or with QoS 0 may come too late.
    fn take_message(&self, stamp: &Stamp, message: &Message, route: impl FnOnce() -> u64) {
        let is_ordered = message.qos() == QoS::AtMostOnce;
        let mut before_move = 0;
        let verdict = self.seen.admit(stamp, is_ordered, || before_move = route());
        match verdict {
            Newness::Again => self.metrics.messages_late.count((LateReason::Again,)),
            Newness::Overtaken if is_ordered => self.metrics.messages_late.count((LateReason::Overtaken,)),
            Newness::Overtaken | Newness::New => {}
        }
        for _ in 0..before_move {
            self.metrics.messages_late.count((LateReason::BeforeMove,));
        }
    }

    /// Takes one note from another worker.
    fn take_note(&self, recipient: &impl Recipient, noted: Noted) {
        match noted {
            Noted::Message { stamp, message, is_plain, shares } => {
                let mut homeless = Vec::new();
                self.take_message(&stamp, &message, || {
                    recipient.route_noted(&message, stamp.at_us, is_plain, (&shares, &mut homeless))
                });
                // Its members have gone on elsewhere since it was sent here.
                for share in homeless.into_iter().filter(|_| message.qos() > QoS::AtMostOnce) {
                    recipient.share_anew(share, Arc::clone(&message), Box::new(|| ()));
                }
            }
            Noted::Queued { session, number, delivery } => {
                if let Some(session) = self.directory.find_stored(&session)
                    && session.deliver_stored(number, delivery, self.host.queue_bytes_max)
                {
                    self.directory.list_heavy(&session);
                }
            }
            Noted::TakenOver { client_id, connection_id } => {
                self.note_lost(connection_id);
                let Some(session) = self.directory.sessions().find(&client_id) else { return };
                self.end_taken_over(&session, connection_id);
            }
        }
    }
}
