//! What devices subscribe to, and the Wills that they leave.

use bytes::Bytes;
use mqtt::{PropertiesBuf, Property, QoS, Will};
use testkit::client::Client;

/// The filters that devices subscribe to and withdraw from, then the one that the watcher of Wills has, that of a share, and that
/// of retained messages.
pub(super) const FILTERS: [&str; 6] = ["t/0", "t/1", "t/+", "w/+", "$share/g/t/+", "r/+"];
/// The places of these three.
pub(super) const WILLS_AT: usize = 3;
pub(super) const SHARE_AT: usize = 4;
pub(super) const RETAINED_AT: usize = 5;

/// Set in what a Will says.
pub(super) const WILL_BIT: u32 = 1 << 31;

/// A Will Message.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastWill {
    pub(super) index: u32,
    pub(super) delay_s: u32,
    pub(super) qos: QoS,
}

/// The CONNECT with which a client leaves this Will.
pub(super) fn connect(client: &mut Client, will: Option<LastWill>) -> Bytes {
    let Some(LastWill { index, delay_s, qos }) = will else { return client.connect(None) };
    let (topic, payload) = (format!("w/{}", client.name), (index | WILL_BIT).to_be_bytes());
    let mut properties = PropertiesBuf::new();
    if client.version.is_v5() {
        properties.push(Property::WillDelayInterval(delay_s));
    }
    let properties = properties.as_properties();
    client.connect(Some(Will { qos, retain: false, topic: &topic, payload: &payload, properties }))
}
