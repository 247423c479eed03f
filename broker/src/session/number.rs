//! Queue numbers and the Packet Identifiers that follow from them, so that an acknowledgement is found without a search.

use mqtt::PacketId;
use state::Number;

/// Packet Identifiers there are. So many numbers from the oldest unacknowledged one on can be told apart.
pub(crate) const PACKET_IDS: u64 = 65_535;

/// The Packet Identifier of a number.
pub(crate) fn packet_id(number: Number) -> PacketId {
    let id = 1 + number.0.wrapping_sub(1) % PACKET_IDS;
    // 1 to 65,535 by construction.
    u16::try_from(id).ok().and_then(PacketId::new).unwrap_or(PacketId::MIN)
}

/// How far the number with this Packet Identifier is past `head`: less than 65,535.
pub(crate) fn distance(head: Number, id: PacketId) -> u64 {
    let first = u64::from(packet_id(head).as_u16());
    (u64::from(id.as_u16()) + PACKET_IDS - first) % PACKET_IDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_run_from_1_to_65535_and_begin_again() {
        assert_eq!(packet_id(Number(1)).as_u16(), 1);
        assert_eq!(packet_id(Number(65_535)).as_u16(), 65_535);
        assert_eq!(packet_id(Number(65_536)).as_u16(), 1);
    }

    #[test]
    fn a_number_is_found_from_its_identifier_and_the_head() {
        for head in [1, 2, 65_534, 65_535, 65_536, 1_000_000_007] {
            for ahead in [0, 1, 2, 1000, 65_533, 65_534] {
                let id = packet_id(Number(head + ahead));
                assert_eq!(distance(Number(head), id), ahead, "head {head}, ahead {ahead}");
            }
        }
    }
}
