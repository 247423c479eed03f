//! Client Identifiers: which are taken, and those that the edge makes up for clients without one.

use std::sync::Arc;

use mqtt::{ProtocolVersion, ReasonCode};

/// What 128 random bits are written with.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Digits that hold 128 bits.
const DIGITS_COUNT: usize = 22;

/// The identifier of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Given or assigned.
    pub(crate) client_id: Arc<str>,
    /// Whether the edge made it up.
    pub(crate) is_assigned: bool,
}

/// The identifier under which a client connects.
///
/// # Errors
/// 0x85 when it may not use the one that it gave.
pub(crate) fn identify(
    given: &str,
    clean_start: bool,
    version: ProtocolVersion,
    bytes_max: u16,
) -> Result<Identity, ReasonCode> {
    if given.len() > usize::from(bytes_max) {
        // v5 [MQTT-3.1.3-8]
        return Err(ReasonCode::ClientIdentifierNotValid);
    }
    if !given.is_empty() {
        return Ok(Identity { client_id: given.into(), is_assigned: false });
    }
    match version {
        // v5 [MQTT-3.1.3-6], v5 [MQTT-3.1.3-7]
        ProtocolVersion::V5 => {}
        // v3.1.1 [MQTT-3.1.3-7]
        ProtocolVersion::V311 if clean_start => {}
        // v3.1.1 [MQTT-3.1.3-8]; MQTT 3.1 wants 1 to 23 characters, of which only the lower bound is held.
        ProtocolVersion::V311 | ProtocolVersion::V31 => return Err(ReasonCode::ClientIdentifierNotValid),
    }
    Ok(Identity { client_id: assign(), is_assigned: true })
}

fn assign() -> Arc<str> {
    let mut bits: u128 = rand::random();
    let mut id = String::with_capacity("auto-".len() + DIGITS_COUNT);
    id.push_str("auto-");
    for _ in 0..DIGITS_COUNT {
        id.push(char::from(DIGITS[(bits % 62) as usize]));
        bits /= 62;
    }
    id.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolVersion::{V5, V31, V311};

    #[test]
    fn an_empty_identifier_is_assigned_where_the_version_allows() {
        for (version, clean_start, is_allowed) in [
            (V5, true, true),
            (V5, false, true),
            (V311, true, true),
            (V311, false, false),
            (V31, true, false),
            (V31, false, false),
        ] {
            let identity = identify("", clean_start, version, 23);
            assert_eq!(identity.is_ok(), is_allowed, "{version:?} {clean_start}");
            if let Ok(identity) = identity {
                assert!(identity.is_assigned);
                assert_eq!(identity.client_id.len(), 27);
            }
        }
    }

    #[test]
    fn a_given_identifier_is_taken_up_to_its_bound() {
        let longest = "é".repeat(12);
        for version in [V5, V311, V31] {
            let identity = identify(&longest, false, version, 24).expect("within the bound");
            assert_eq!((&*identity.client_id, identity.is_assigned), (longest.as_str(), false));
            let error = identify(&longest, false, version, 23).expect_err("over the bound");
            assert_eq!(error, ReasonCode::ClientIdentifierNotValid);
        }
    }

    #[test]
    fn assigned_identifiers_differ() {
        assert_ne!(assign(), assign());
    }
}
