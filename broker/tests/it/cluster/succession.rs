//! Two connections of a client at two workers, one after the other: ARCHITECTURE, rules 32 and 33.

use super::world::{Cluster, subscribe, within};
use crate::device::How;
use crate::succession::DEVICE;

// v5 [MQTT-3.14.4-3]
#[tokio::test(start_paused = true)]
async fn a_disconnect_at_a_worker_that_was_cut_off_counts_when_it_is_back() {
    for says_disconnect in [true, false] {
        let cluster = Cluster::new();
        let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
        let mut watcher = two.join(&How::clean("watcher")).await;
        subscribe(&mut watcher, "will/#", 0).await;
        let mut old = one.join(&DEVICE).await;
        one.cut_off();
        if says_disconnect {
            old.disconnect();
        } else {
            old.lose();
        }
        let _new = two.join(&DEVICE).await;
        assert_eq!(within(&mut watcher, 1000).await, [], "nothing is known of how it ended");
        one.reconnect();
        let wills = within(&mut watcher, 2000).await;
        assert_eq!(wills.len(), usize::from(!says_disconnect), "{wills:?}");
        assert_eq!(within(&mut watcher, 20_000).await, []);
    }
}
