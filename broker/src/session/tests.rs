//! What holds for a session whatever it does: its size, what it gives back.

use std::sync::Arc;

use link::Passport;
use mqtt::{ProtocolVersion, QoS};

use super::testing::{Plan, Rig, delivery};
use super::{Input, Session};

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() <= 200, "{} bytes", size_of::<Session>());
}

#[test]
fn an_idle_clean_session_has_nothing_on_the_heap() {
    let rig = Rig::new(ProtocolVersion::V5);
    let session = &rig.session;
    assert!(session.stored.is_none() && session.inbound.is_none() && session.filters.is_none());
    assert!(session.client_aliases.is_none() && session.server_aliases.is_none());
    assert_eq!(session.outbound.waiting(), 0);
}

#[test]
fn flows_that_are_over_give_their_memory_back() {
    let mut rig = Rig::new(ProtocolVersion::V5);
    rig.publish("a", QoS::AtLeastOnce, 1).published(1, QoS::AtLeastOnce);
    rig.input(Input::Deliver(delivery("t", b"x", QoS::AtLeastOnce))).bytes(&[0x40, 2, 0, 1]);
    rig.input(Input::Writable);
    assert!(rig.session.inbound.is_none() && rig.session.filters.is_none());
}

#[test]
fn a_renewed_passport_counts_from_then_on() {
    let mut plan = Plan::new(ProtocolVersion::V5);
    plan.rules = Some(Vec::new());
    let mut rig = plan.open();
    rig.publish("a", QoS::AtMostOnce, 0);
    assert!(!rig.session.may_subscribe("a"));
    rig.input(Input::Renewed(Arc::new(Passport::unrestricted("".into(), "client".into()))));
    rig.publish("a", QoS::AtMostOnce, 0);
    assert!(rig.session.may_subscribe("a"));
    assert_eq!(rig.effect_names(), ["dropped NotAuthorized 0", "publish 0 a"]);
}

#[test]
fn packet_identifiers_begin_again_after_65535() {
    let mut rig = Rig::new(ProtocolVersion::V311);
    for n in 1..=70_000_u64 {
        rig.input(Input::Deliver(delivery("t", b"x", QoS::AtLeastOnce)));
        let id = u16::try_from(1 + (n - 1) % 65_535).unwrap();
        let [high, low] = id.to_be_bytes();
        assert_eq!(rig.sent()[5..7], [high, low]);
        rig.bytes(&[0x40, 2, high, low]);
    }
    assert_eq!(rig.session.outbound.inflight(), 0);
}
