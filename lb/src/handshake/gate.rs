//! From a handshake that came to something to the relay: the turn of a connection among those of its client, and of its session
//! among those that are asked for.

use std::pin::pin;
use std::sync::Arc;

use authsvc::Authenticator;
use bytes::BytesMut;
use link::{Open, Upstream};
use mqtt::{Connect, ReasonCode};
use tokio::runtime::Handle;
use tokio::time::{Duration, timeout};

use super::client_id::Identity;
use super::{has_gone_without_a_word, refuse};
use crate::admission::{Line, Opening, Source, stretch};
use crate::connections::{NoTurn, Tenancy};
use crate::relay::{self, Handover, Relay};
use crate::shared::Shared;
use crate::telemetry::report::Report;
use crate::transport::Transport;

/// Between two looks whether a device is still there that waits for its turn.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What handshakes need besides their socket.
pub(crate) struct Gate<U, A> {
    pub(crate) upstream: U,
    pub(crate) authenticator: Arc<A>,
    /// Where connected devices live.
    pub(crate) devices: Handle,
}

impl<U: Upstream, A: Authenticator> Gate<U, A> {
    /// The same after whoever has the place of the client, unless the device has gone by then.
    pub(super) fn serve_in_turn<T: Transport>(
        self: Arc<Self>,
        mut io: T,
        open: Open,
        mut handover: Handover<A>,
    ) {
        if !handover.tenancy.is_behind() {
            handover.tenancy.is_served();
            return self.serve(io, open, handover);
        }
        // Who waits for its own client's turn holds up nobody else's.
        handover.opening = None;
        self.devices.clone().spawn(async move {
            let mut said = BytesMut::from(&*handover.pipelined);
            if let Err(reason) = turn(&handover.tenancy, &mut io, &mut said).await {
                return turn_away(io, handover, reason).await;
            }
            handover.pipelined = said.freeze();
            handover.tenancy.take_over().await;
            // Whatever it says, its client is connected here.
            let (shared, source) = (handover.admitted.shared(), Source::of(open.peer.address));
            handover.opening = opening(shared, source, Line::Returning).await;
            if let (Some(pace), Some(until_ms)) = (&mut handover.pace, handover.tenancy.owed_until_ms()) {
                pace.owe_until(until_ms, handover.admitted.shared().now_ms());
            }
            handover.tenancy.is_served();
            self.serve(io, open, handover);
        });
    }

    /// Asks for the session of a device, and relays between the two.
    fn serve<T: Transport>(self: &Arc<Self>, io: T, open: Open, handover: Handover<A>) {
        let gate = Arc::clone(self);
        stretch::pass_on(move || {
            if let Some(opening) = &handover.opening {
                opening.asked();
            }
            let stream = {
                let _entered = gate.devices.enter();
                gate.upstream.open(open)
            };
            gate.devices.spawn(Relay::new(io, stream, handover));
        });
    }
}

/// Waits for the turn of a connection among those of its client, as long as the device is there or has left a word.
async fn turn<T: Transport>(tenancy: &Tenancy, io: &mut T, said: &mut BytesMut) -> Result<(), NoTurn> {
    let mut turn = pin!(tenancy.wait());
    loop {
        let has_come = timeout(LOOK_INTERVAL, &mut turn).await;
        if let Ok(Err(reason)) = has_come {
            return Err(reason);
        }
        if has_gone_without_a_word(io, said).await {
            return Err(NoTurn::Gone);
        }
        if has_come.is_ok() {
            return Ok(());
        }
    }
}

/// Ends a connection that has no turn. Its place is free before its device has heard of that.
async fn turn_away<T: Transport, A: Authenticator>(mut io: T, handover: Handover<A>, reason: NoTurn) {
    let reason = match reason {
        NoTurn::Gone => return,
        // As for one that was accepted before the one that is there.
        NoTurn::Replaced => ReasonCode::ServerBusy,
        NoTurn::Revoked => ReasonCode::Banned,
    };
    let Handover { admitted, tenancy, version, pace, .. } = handover;
    let (listener, holder) = (admitted.door(), tenancy.holder());
    let (client_id, user) = (Some(&*holder.client_id), Some(&*holder.subject));
    let report = Report { listener: &listener.name, peer: holder.peer, client_id, user };
    listener.shared.reports.refused(&report, reason);
    listener.shared.metrics.refused.count((reason.label(),));
    drop((tenancy, pace));
    let linger = Duration::from_millis(admitted.shared().config.linger_ms);
    refuse::refuse(&mut io, Some((version, reason)), linger).await;
}

/// Where a device waits for its session. It says whether it returns to one: it has a Client Identifier of its own, does not have a
/// session discarded, and had one kept when it left, if it connects as it did before.
pub(super) fn line_of(connect: &Connect<'_>, identity: &Identity) -> Line {
    let keeps = !connect.version.is_v5() || relay::asks_for_expiry(connect);
    if keeps && !connect.clean_start && !identity.is_assigned { Line::Returning } else { Line::New }
}

/// Waits until a session may be asked for; not longer than for a handshake.
pub(super) async fn opening(shared: &Shared, source: Source, line: Line) -> Option<Opening> {
    timeout(shared.config.admission_wait(), shared.admission.openings.opening(source, line)).await.ok()
}

#[cfg(test)]
mod tests {
    use mqtt::{PropertiesBuf, Property, ProtocolVersion};

    use super::*;

    #[test]
    fn who_says_that_it_has_a_session_returns_to_it() {
        use Line::{New, Returning};
        use ProtocolVersion::{V5, V31, V311};
        for (version, clean_start, expiry_s, is_assigned, expected) in [
            (V31, false, None, false, Returning),
            (V311, false, None, false, Returning),
            (V311, true, None, false, New),
            (V5, false, Some(1), false, Returning),
            // It has it discarded.
            (V5, true, Some(1), false, New),
            // It had none kept.
            (V5, false, None, false, New),
            (V5, false, Some(0), false, New),
            // Its name is new.
            (V5, false, Some(1), true, New),
        ] {
            let properties: PropertiesBuf =
                expiry_s.into_iter().map(Property::SessionExpiryInterval).collect();
            let connect = Connect {
                version,
                is_bridge: false,
                clean_start,
                keep_alive_s: 0,
                properties: properties.as_properties(),
                client_id: "a",
                will: None,
                user_name: None,
                password: None,
            };
            let identity = Identity { client_id: "a".into(), is_assigned };
            assert_eq!(line_of(&connect, &identity), expected, "{version:?} {clean_start} {expiry_s:?}");
        }
    }
}
