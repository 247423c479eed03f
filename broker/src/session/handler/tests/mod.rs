//! Byte-level cases, a file per direction and topic; each names the clause that it holds.

mod connect;
mod disconnect;
mod from_client;
mod outbound;
mod retained;
mod stored;
mod subscribe;
mod vetting;

use crate::session::testing::{Plan, Rig};
use mqtt::ProtocolVersion;

fn v5() -> Rig {
    Rig::new(ProtocolVersion::V5)
}

fn v311() -> Rig {
    Rig::new(ProtocolVersion::V311)
}

fn plan() -> Plan {
    Plan::new(ProtocolVersion::V5)
}

/// A rule for tests.
fn rule(effect: link::Effect, action: link::Action, topic: &str) -> link::Rule {
    link::Rule::new(effect, action, vec![topic.into()])
}

/// The bytes of several packets in a row.
fn join(packets: &[&[u8]]) -> Vec<u8> {
    packets.concat()
}
