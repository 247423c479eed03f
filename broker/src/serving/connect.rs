//! A CONNECT on its way to a session: what to ask the store, and what the registry makes of the answer.

use std::sync::Arc;

use link::{ConnectionId, Passport};
use state::{Claim, Claimed, Owned, Previous, QueueLimits, Release};
use tokio::time::Instant;

use crate::authorize::bounds::Bounds;
use crate::authorize::principal::principal_of;
use crate::directory::succession::{ClaimSlot, Granted, NotGranted, Successor, Unserved};
use crate::directory::{Arrival, SessionHandle};
use crate::hub::Hub;
use crate::hub::work::Work;
use crate::hub::work::claim::{ClaimCall, Wanted};
use crate::routing::share::left_to_others;

/// How old a CONNECT may be when it has its effect, milliseconds: an edge has not refused it by then.
const CLAIM_VALID_MS: u64 = 8_000;

/// How long the Will of a connection that is taken over waits for what the edge of that one may still hold, a DISCONNECT above
/// all, milliseconds.
const WILL_WAIT_MS: u64 = 5_000;

impl Hub {
    /// Asks the store for the session that a CONNECT wants, when it has answered what was asked for that session before: above
    /// all the release by the connection that had it. The session belongs to the connection from the moment that the slot is
    /// filled.
    pub(crate) fn claim(self: &Arc<Self>, wanted: &Wanted, slot: &ClaimSlot) {
        let (wanted, slot) = (wanted.clone(), slot.clone());
        self.submit(Work::Claim(Box::new(ClaimCall { wanted, slot, since: Instant::now() })));
    }

    /// The same, now, unless the device has gone meanwhile.
    pub(crate) fn run_claim(self: &Arc<Self>, claim: &ClaimCall) {
        let ClaimCall { wanted, slot, since } = claim;
        if slot.is_abandoned() {
            return;
        }
        self.clock.tick();
        let now = self.now();
        let hub = Arc::clone(self);
        let slot = slot.clone();
        let (client_id, connection) = (Arc::clone(&wanted.client_id), wanted.connection);
        let (expiry_s, resume) = (wanted.expiry_s, wanted.resume);
        let (principal, passport) = (principal_of(&wanted.passport), Arc::clone(&wanted.passport));
        if let Err(foreign) = self.directory.check_principal(&client_id, &principal) {
            let unserved = Unserved { expiry_s, resume };
            return self.answer_claim(None, &slot, Err(foreign.into()), unserved);
        }
        let is_passing = wanted.clean_start && wanted.is_ephemeral();
        let limits = wanted.passport.limits.as_deref();
        let bounds = Bounds::new(&self.config, limits);
        let claim = Claim {
            client_id: Arc::clone(&wanted.client_id),
            principal: principal.clone(),
            connection_id: connection,
            clean_start: wanted.clean_start,
            // Gone with its connection: nothing of it need be in a store that nobody shares.
            create: !wanted.is_ephemeral() || self.cluster.is_shared(),
            expiry_s: wanted.expiry_s,
            will: wanted.will.clone(),
            limits: QueueLimits {
                messages_max: bounds.queue_messages_max() as u64,
                bytes_max: bounds.queue_bytes_max() as u64,
            },
            // One that goes with its connection is not stored, though a store that is shared has it.
            principal_sessions_max: limits
                .and_then(|limits| limits.sessions_max)
                .filter(|_| !wanted.is_ephemeral())
                .map(u64::from),
            protocol: wanted.version,
            receive_maximum: wanted.receive_maximum,
            memory_queue: is_passing && self.cluster.keeps_clean_sessions_in_memory(),
            resume: wanted.resume,
            attempt: wanted.attempt,
            age_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            valid_ms: Some(CLAIM_VALID_MS),
            // In one process the edge has the one connection say all that it has received before it asks for the next.
            will_wait_ms: if self.cluster.is_shared() { WILL_WAIT_MS } else { 0 },
            now,
        };
        let in_memory = claim.memory_queue;
        // Not when the answer comes: the lease may lapse in between, and another worker take the session.
        let (lapses, moves, yields) = (self.cluster.lapses(), claim.resume, wanted.yields);
        self.store.claim(
            claim,
            Box::new(move |result| {
                let known = hub.directory.sessions().find(&client_id);
                let granted = match result {
                    Ok(Claimed { refusal: Some(refusal), .. }) => Err(NotGranted::NotResumed(refusal)),
                    Ok(claimed) => {
                        let listens_since = hub.cluster.begin_to_listen(moves);
                        let arrival = Arrival { principal, lapses, listens_since, yields };
                        hub.serve(&client_id, connection, &passport, claimed, in_memory, &arrival)
                    }
                    Err(error) => Err(error.into()),
                };
                let unserved = Unserved { expiry_s, resume };
                let Ok(Granted { handle, owned: Some(owned), .. }) = &granted else {
                    return hub.answer_claim(known.as_ref(), &slot, granted, unserved);
                };
                if handle.stored.is_some() || owned.subscriptions.is_empty() {
                    return hub.answer_claim(known.as_ref(), &slot, granted, unserved);
                }
                // Its worker had the routes, and others know them by now as this one's before the device hears of it.
                let (session, epoch) = (Arc::clone(handle), owned.fence.epoch);
                let subscriptions = owned.subscriptions.clone();
                let told = Arc::clone(&hub);
                let then = Box::new(move || told.answer_claim(known.as_ref(), &slot, granted, unserved));
                hub.cluster.announce(&session, epoch, &subscriptions, then);
            }),
        );
    }

    fn answer_claim(
        self: &Arc<Self>,
        known: Option<&Arc<SessionHandle>>,
        slot: &ClaimSlot,
        granted: Result<Granted, NotGranted>,
        unserved: Unserved,
    ) {
        match granted {
            Ok(granted) => {
                self.answer_in_turn(known, Successor { slot: slot.clone(), granted, unserved });
            }
            error => drop(slot.fill(error)),
        }
    }

    /// Lets a session go that was granted to a device which had gone by then, and then the next connection begin that has it.
    /// What had no CONNACK leaves no Will.
    pub(crate) fn let_go(self: &Arc<Self>, granted: &Granted, unserved: Unserved, grace_ms: u64) {
        self.give_back(granted, unserved, grace_ms);
        self.let_next_begin(&granted.handle, granted.attachment);
    }

    /// The same for whoever lets the next one begin.
    pub(crate) fn give_back(self: &Arc<Self>, granted: &Granted, unserved: Unserved, grace_ms: u64) {
        let Unserved { expiry_s, resume } = unserved;
        let untaken = self.directory.detach(&granted.handle, granted.attachment);
        if granted.handle.stored.is_none() {
            self.directory.drop_in_memory(&granted.handle);
            self.share_again(left_to_others(untaken));
        }
        let Some(owned) = &granted.owned else { return };
        let release = Release { expiry_s, keep_will: resume, sent: owned.sent, grace_ms, now: self.now() };
        self.release(owned.fence.clone(), release, None, None);
    }

    /// Runs in the order of the store's answers, so that no message that is enqueued after the claim is missed.
    fn serve(
        self: &Arc<Self>,
        client_id: &Arc<str>,
        connection: ConnectionId,
        passport: &Arc<Passport>,
        claimed: Claimed,
        in_memory: bool,
        arrival: &Arrival,
    ) -> Result<Granted, NotGranted> {
        if let Some(discarded) = &claimed.discarded {
            self.directory.drop_stored(discarded);
        }
        if let Some(will) = claimed.will_due {
            self.publish_due_will(will, Some(passport));
        }
        // A connection that goes on here left the worker before: told late, that one could take it for lost if it came back.
        let is_other = |previous: &Previous| previous.connection_id != connection;
        let cluster = self.cluster.shared();
        if let (Some(cluster), Some(previous)) = (cluster, claimed.previous.filter(is_other)) {
            cluster.tell_taken_over(client_id, previous);
        }
        if let (Some(cluster), Some(owned)) = (cluster, &claimed.session) {
            cluster.own_publisher(&owned.fence);
        }
        let granted = match claimed.session {
            None => self.serve_in_memory(client_id, connection, arrival)?,
            Some(owned) if in_memory => {
                Granted { owned: Some(owned), ..self.serve_in_memory(client_id, connection, arrival)? }
            }
            Some(owned) => self.serve_stored(connection, owned, arrival)?,
        };
        if cluster.is_some_and(|cluster| cluster.has_lost(connection)) {
            // A still newer connection elsewhere had told so before this one's answer came.
            self.metrics.sessions_taken_over.inc();
            self.directory.evict_connection(&granted.handle, connection);
        }
        Ok(granted)
    }

    fn serve_stored(
        self: &Arc<Self>,
        connection: ConnectionId,
        owned: Owned,
        arrival: &Arrival,
    ) -> Result<Granted, NotGranted> {
        let handle = match self.directory.claimed_session(&owned.fence.session, &arrival.principal) {
            Ok(handle) => handle,
            Err(foreign) => {
                self.give_up(owned);
                return Err(foreign.into());
            }
        };
        if handle.is_connected() {
            self.metrics.sessions_taken_over.inc();
        }
        // Before what it is subscribed to: changes by earlier owners that the log still brings are in that already.
        if let Some(cluster) = self.cluster.shared() {
            cluster.own_routes(&handle, &owned);
        }
        let attachment = self.directory.attach(&handle, connection, arrival);
        if owned.present {
            self.directory.restore_filters(&handle, &owned.subscriptions);
        }
        Ok(Granted { handle, attachment, owned: Some(owned) })
    }

    fn serve_in_memory(
        &self,
        client_id: &Arc<str>,
        connection: ConnectionId,
        arrival: &Arrival,
    ) -> Result<Granted, NotGranted> {
        let handle = self.directory.make_session(client_id, None);
        handle.belongs_to(&arrival.principal);
        let attachment = self.directory.attach(&handle, connection, arrival);
        if let Some(old) = self.directory.name_in_memory(&handle, &arrival.principal)? {
            self.metrics.sessions_taken_over.inc();
            self.directory.displace(&old);
        }
        Ok(Granted { handle, attachment, owned: None })
    }

    /// Lets go of a session that the store gave to who may not have its Client Identifier now: who has it came in between.
    fn give_up(self: &Arc<Self>, owned: Owned) {
        let expiry_s = if owned.present { owned.expiry_s } else { 0 };
        let release = Release { expiry_s, keep_will: false, sent: owned.sent, grace_ms: 0, now: self.now() };
        self.release(owned.fence, release, None, None);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use mqtt::ProtocolVersion;
    use prometheus_client::registry::Registry;
    use state::{MemoryCluster, Position};

    use super::*;
    use crate::clock::Clock;
    use crate::cluster::{Cluster, Membership};
    use crate::config::BrokerConfig;
    use crate::metrics::Metrics;

    // ARCHITECTURE, rule 4: an answer from before a lapse says nothing about the time after it.
    #[tokio::test(start_paused = true)]
    async fn a_session_is_not_certain_when_the_lease_lapsed_while_it_was_asked_for() {
        let api = MemoryCluster::new().worker("one");
        let store = api.store();
        let cluster = Cluster::for_tests(api);
        let hub = Arc::new(Hub::new(
            BrokerConfig::default(),
            Arc::new(store.clone()),
            Metrics::register(&mut Registry::default()),
            Membership::Shared(Arc::clone(&cluster)),
            Arc::new(Clock::new(state::clock::running_from(state::clock::wall()))),
        ));
        let wanted = |client_id: &str| Wanted {
            client_id: client_id.into(),
            passport: Arc::new(Passport::unrestricted("".into(), client_id.into())),
            connection: ConnectionId(1),
            version: ProtocolVersion::V5,
            clean_start: false,
            expiry_s: 60,
            will: None,
            receive_maximum: 1,
            attempt: 1,
            resume: false,
            yields: false,
        };
        for (client_id, lapses_meanwhile) in [("calm", false), ("late", true)] {
            store.hold();
            let slot = ClaimSlot::default();
            hub.claim(&wanted(client_id), &slot);
            if lapses_meanwhile {
                cluster.lease.renew(&cluster.lease.ask(), Duration::from_secs(1), Position(0));
            }
            store.let_go();
            let Poll::Ready(Ok(granted)) = slot.poll(&mut Context::from_waker(Waker::noop())) else {
                panic!("it is granted");
            };
            assert_eq!(
                granted.handle.owned_since() == hub.cluster.lapses(),
                !lapses_meanwhile,
                "{client_id}"
            );
        }
    }
}
