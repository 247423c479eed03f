//! From a handshake that came to something to the relay: the turn of a connection among those of its client, and of its session
//! among those that are asked for.

use std::sync::Arc;

use authsvc::Authenticator;
use bytes::BytesMut;
use link::{Open, Upstream};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::has_gone_without_a_word;
use crate::admission::{Opening, Source};
use crate::relay::{Handover, Relay};
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
            handover.opening = opening(handover.admitted.shared(), Source::of(open.peer.address)).await;
            if let (Some(pace), Some(until_ms)) = (&mut handover.pace, handover.tenancy.owed_until_ms()) {
                pace.owe_until(until_ms, handover.admitted.shared().now_ms());
            }
            handover.tenancy.is_served();
            self.serve(io, open, handover);
        });
    }

    /// Asks for the session of a device, and relays between the two.
    fn serve<T: Transport>(&self, io: T, open: Open, handover: Handover<A>) {
        if let Some(opening) = &handover.opening {
            opening.asked();
        }
        let stream = {
            let _entered = self.devices.enter();
            self.upstream.open(open)
        };
        self.devices.spawn(Relay::new(io, stream, handover));
    }
}

/// Waits until a session may be asked for; not longer than for a handshake.
pub(super) async fn opening(shared: &Shared, source: Source) -> Option<Opening> {
    timeout(shared.config.admission_wait(), shared.openings.opening(source)).await.ok()
}
