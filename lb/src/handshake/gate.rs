//! From a handshake that came to something to the relay: the turn of a connection among those of its client, and of its session
//! among those that are asked for.

use std::sync::Arc;

use authsvc::Authenticator;
use bytes::BytesMut;
use link::{Open, Upstream};
use mqtt::Connect;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::client_id::Identity;
use super::has_gone_without_a_word;
use crate::admission::{Line, Opening, Source, stretch};
use crate::relay::{self, Handover, Relay};
use crate::shared::Shared;
use crate::transport::Transport;

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
            handover.tenancy.wait().await;
            let mut said = BytesMut::new();
            if handover.pipelined.is_empty() && has_gone_without_a_word(&mut io, &mut said).await {
                return;
            }
            if !said.is_empty() {
                handover.pipelined = said.freeze();
            }
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
