//! Session tickets (RFC 8446 section 4.6.1, RFC 5077) under keys that rotate by the clock, so that edges with the same
//! secret need not talk to each other. A ticket is `period id (8) ‖ maker (8) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`,
//! AES-256-GCM. Each process makes tickets under a key of its own (`maker`), derived from the period's secret: random
//! nonces of many edges never meet under one key.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, rand};
use parking_lot::Mutex;
use rustls::server::ProducesTickets;

const NAME_BYTES: usize = 8;
/// A shared secret is at least this long, bytes.
const SECRET_BYTES_MIN: usize = 32;

/// Where keys come from.
pub(super) enum TicketSecret {
    /// Fresh randomness for every period.
    Random {
        /// What clients' certificates are verified by.
        verification: [u8; 32],
    },
    /// Derived, for every edge that has the secret and verifies clients alike.
    Shared {
        /// Equal for equal secrets and verification.
        identity: [u8; 32],
        /// What clients' certificates are verified by.
        verification: [u8; 32],
        root: hkdf::Prk,
    },
}

impl TicketSecret {
    /// `None` if the secret is too short.
    pub(super) fn shared(secret: &[u8], verification: &[u8; 32]) -> Option<Self> {
        if secret.len() < SECRET_BYTES_MIN {
            return None;
        }
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, verification).extract(secret);
        let identity = expand(&root, &[b"tidegate ticket secret"]).ok()?;
        Some(Self::Shared { identity, verification: *verification, root })
    }

    fn period_secret(&self, period: u64) -> Result<hkdf::Prk, Unspecified> {
        let bytes: [u8; 32] = match self {
            Self::Random { .. } => random()?,
            Self::Shared { root, .. } => expand(root, &[b"tidegate ticket period", &period.to_be_bytes()])?,
        };
        Ok(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &bytes))
    }
}

/// The keys of one period.
struct Period {
    id: [u8; NAME_BYTES],
    secret: hkdf::Prk,
    /// The key of this process.
    own: LessSafeKey,
}

impl Period {
    fn new(secret: hkdf::Prk, maker: [u8; NAME_BYTES]) -> Result<Self, Unspecified> {
        let name: [u8; 32] = expand(&secret, &[b"tidegate ticket id"])?;
        let mut id = [0; NAME_BYTES];
        id.copy_from_slice(&name[..NAME_BYTES]);
        let own = maker_key(&secret, maker)?;
        Ok(Self { id, secret, own })
    }
}

fn maker_key(secret: &hkdf::Prk, maker: [u8; NAME_BYTES]) -> Result<LessSafeKey, Unspecified> {
    let bytes: [u8; 32] = expand(secret, &[b"tidegate ticket key", &maker])?;
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes)?))
}

fn expand<const N: usize>(secret: &hkdf::Prk, info: &[&[u8]]) -> Result<[u8; N], Unspecified> {
    struct Length<const N: usize>;
    impl<const N: usize> hkdf::KeyType for Length<N> {
        fn len(&self) -> usize {
            N
        }
    }
    let mut bytes = [0; N];
    secret.expand(info, Length::<N>)?.fill(&mut bytes)?;
    Ok(bytes)
}

fn random<const N: usize>() -> Result<[u8; N], Unspecified> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(bytes)
}

/// The keys in force. A ticket of the period before is accepted, and one of the period after too: clocks differ.
struct Keys {
    period: u64,
    previous: Arc<Period>,
    current: Arc<Period>,
    next: Arc<Period>,
}

/// Makes and reads tickets under one secret.
struct KeyRing {
    secret: TicketSecret,
    rotate_s: u64,
    maker: [u8; NAME_BYTES],
    keys: ArcSwap<Keys>,
    rotation: Mutex<()>,
}

impl KeyRing {
    fn new(secret: TicketSecret, rotate_s: u64) -> Result<Self, Unspecified> {
        let maker = random()?;
        let period = unix_s() / rotate_s;
        let make = |period| Period::new(secret.period_secret(period)?, maker).map(Arc::new);
        let keys = Keys {
            period,
            previous: make(period.saturating_sub(1))?,
            current: make(period)?,
            next: make(period.saturating_add(1))?,
        };
        Ok(Self { secret, rotate_s, maker, keys: ArcSwap::from_pointee(keys), rotation: Mutex::new(()) })
    }

    /// Whether `secret` would make the same keys, or as good ones.
    fn is_bound_to(&self, secret: &TicketSecret) -> bool {
        match (&self.secret, secret) {
            (TicketSecret::Random { verification: one }, TicketSecret::Random { verification: other }) => {
                one == other
            }
            (TicketSecret::Shared { identity: one, .. }, TicketSecret::Shared { identity: other, .. }) => {
                one == other
            }
            _ => false,
        }
    }

    /// The keys for `now`, rotated if a period has ended.
    fn keys_at(&self, now_s: u64) -> Result<arc_swap::Guard<Arc<Keys>>, Unspecified> {
        let period = now_s / self.rotate_s;
        let keys = self.keys.load();
        if keys.period == period {
            return Ok(keys);
        }
        let _rotation = self.rotation.lock();
        let keys = self.keys.load();
        // A clock that is set back by less than a period keeps the keys.
        if keys.period == period || keys.period == period.saturating_add(1) {
            return Ok(keys);
        }
        let find = |wanted: u64| {
            if wanted == keys.period {
                return Ok(Arc::clone(&keys.current));
            }
            if wanted == keys.period.saturating_add(1) {
                return Ok(Arc::clone(&keys.next));
            }
            Period::new(self.secret.period_secret(wanted)?, self.maker).map(Arc::new)
        };
        let fresh = Keys {
            period,
            previous: find(period.saturating_sub(1))?,
            current: find(period)?,
            next: find(period.saturating_add(1))?,
        };
        self.keys.store(Arc::new(fresh));
        Ok(self.keys.load())
    }

    fn seal(&self, plain: &[u8], now_s: u64) -> Result<Vec<u8>, Unspecified> {
        let keys = self.keys_at(now_s)?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let header = NAME_BYTES + NAME_BYTES + NONCE_LEN;
        let mut ticket = Vec::with_capacity(header + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&keys.current.id);
        ticket.extend_from_slice(&self.maker);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let tag = keys.current.own.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::empty(),
            &mut ticket[header..],
        )?;
        ticket.extend_from_slice(tag.as_ref());
        Ok(ticket)
    }

    fn open(&self, ticket: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let (id, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (maker, rest) = rest.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys_at(now_s).ok()?;
        let period =
            [&keys.current, &keys.previous, &keys.next].into_iter().find(|period| period.id == *id)?;
        let foreign;
        let key = if *maker == self.maker {
            &period.own
        } else {
            foreign = maker_key(&period.secret, *maker).ok()?;
            &foreign
        };
        let mut plain = sealed.to_vec();
        let length =
            key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

/// Makes and reads tickets.
pub(super) struct Tickets {
    ring: Arc<KeyRing>,
    /// The secret that this one has taken the place of, and the period in which it did. Until that ends tickets are made as before,
    /// so that an edge that gets the secret later can read them; and they are read as long as they are good.
    before: Option<(Arc<KeyRing>, u64)>,
}

impl Tickets {
    /// Under a secret that may take the place of another one, whose tickets stay good if clients are verified as they were.
    pub(super) fn new(
        in_force: Option<&Self>,
        secret: TicketSecret,
        rotate_s: u64,
    ) -> Result<Self, Unspecified> {
        Self::new_at(in_force, secret, rotate_s, unix_s())
    }

    fn new_at(
        in_force: Option<&Self>,
        secret: TicketSecret,
        rotate_s: u64,
        now_s: u64,
    ) -> Result<Self, Unspecified> {
        let is_alike = |before: &&Self| match (&before.ring.secret, &secret) {
            (
                TicketSecret::Shared { verification: one, .. },
                TicketSecret::Shared { verification: other, .. },
            ) => one == other,
            _ => false,
        };
        let before = in_force.filter(is_alike).map(|before| (Arc::clone(&before.ring), now_s / rotate_s));
        Ok(Self { ring: Arc::new(KeyRing::new(secret, rotate_s)?), before })
    }

    /// Whether `secret` would make the same keys, or as good ones.
    pub(super) fn is_bound_to(&self, secret: &TicketSecret) -> bool {
        self.ring.is_bound_to(secret)
    }

    /// What was before, for so many periods.
    fn before(&self, now_s: u64, periods: u64) -> Option<&KeyRing> {
        let (before, since) = self.before.as_ref()?;
        (now_s / before.rotate_s < since.saturating_add(periods)).then_some(before)
    }

    fn seal(&self, plain: &[u8], now_s: u64) -> Result<Vec<u8>, Unspecified> {
        self.before(now_s, 1).unwrap_or(&self.ring).seal(plain, now_s)
    }

    fn open(&self, ticket: &[u8], now_s: u64) -> Option<Vec<u8>> {
        self.ring.open(ticket, now_s).or_else(|| self.before(now_s, 2)?.open(ticket, now_s))
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.ring.rotate_s).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, unix_s()).ok()
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, unix_s())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("rotate_s", &self.ring.rotate_s).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn shared(secret: &[u8; 32]) -> Tickets {
        Tickets::new(None, TicketSecret::shared(secret, &[0; 32]).unwrap(), HOUR).unwrap()
    }

    #[test]
    fn ticket_is_good_at_another_edge_with_the_same_secret() {
        let (one, other) = (shared(&[1; 32]), shared(&[1; 32]));
        let ticket = one.seal(b"state", 1_000 * HOUR).unwrap();
        assert_eq!(other.open(&ticket, 1_000 * HOUR).as_deref(), Some(&b"state"[..]));
        assert_eq!(one.open(&ticket, 1_000 * HOUR).as_deref(), Some(&b"state"[..]));
    }

    #[test]
    fn ticket_of_another_secret_or_verification_is_refused() {
        let one = shared(&[1; 32]);
        let ticket = one.seal(b"state", 1_000 * HOUR).unwrap();
        assert_eq!(shared(&[2; 32]).open(&ticket, 1_000 * HOUR), None);
        let stricter = Tickets::new(None, TicketSecret::shared(&[1; 32], &[9; 32]).unwrap(), HOUR).unwrap();
        assert_eq!(stricter.open(&ticket, 1_000 * HOUR), None);
    }

    #[test]
    fn ticket_is_good_for_the_next_period_and_for_a_clock_that_is_behind() {
        for tickets in [
            shared(&[1; 32]),
            Tickets::new(None, TicketSecret::Random { verification: [0; 32] }, HOUR).unwrap(),
        ] {
            let now = (unix_s() / HOUR) * HOUR;
            let ticket = tickets.seal(b"state", now).unwrap();
            assert!(tickets.open(&ticket, now + HOUR).is_some());
            assert!(tickets.open(&ticket, now + HOUR).is_some());
            assert!(tickets.open(&ticket, now + 2 * HOUR).is_none());
        }
        let (ahead, behind) = (shared(&[1; 32]), shared(&[1; 32]));
        let ticket = ahead.seal(b"state", 1_001 * HOUR).unwrap();
        assert!(behind.open(&ticket, 1_000 * HOUR).is_some());
    }

    #[test]
    fn a_secret_that_is_replaced_at_one_edge_after_the_other_breaks_no_resumption() {
        let secret = |byte: u8| TicketSecret::shared(&[byte; 32], &[0; 32]).unwrap();
        let edge = |byte: u8| Tickets::new(None, secret(byte), HOUR).unwrap();
        let replaced = |edge: &Tickets, now_s| Tickets::new_at(Some(edge), secret(2), HOUR, now_s).unwrap();
        // Half an hour lies between the two, and the end of the period does not.
        let minute = |minute: u64| 1_000 * HOUR + minute * 60;
        let (mut one, mut other) = (edge(1), edge(1));
        let mut tickets: Vec<(u64, Vec<u8>)> = Vec::new();
        for now in (0..=240).step_by(5) {
            match now {
                10 => one = replaced(&one, minute(now)),
                40 => other = replaced(&other, minute(now)),
                _ => {}
            }
            for maker in [&one, &other] {
                tickets.push((now, maker.seal(b"state", minute(now)).unwrap()));
            }
            // As long as the clients are told that they are good.
            tickets.retain(|(made, _)| now <= made + 55);
            for (made, ticket) in &tickets {
                for reader in [&one, &other] {
                    assert!(reader.open(ticket, minute(now)).is_some(), "made at {made}, read at {now}");
                }
            }
        }
        // What the old secret makes is of no use in the end: who has got hold of it, has got hold of nothing.
        let stolen = edge(1).seal(b"state", minute(240)).unwrap();
        assert!(one.open(&stolen, minute(240)).is_none());
        // Nor is it where clients are verified otherwise now.
        let stricter = TicketSecret::shared(&[2; 32], &[9; 32]).unwrap();
        let stricter = Tickets::new_at(Some(&edge(1)), stricter, HOUR, minute(0)).unwrap();
        assert!(stricter.open(&edge(1).seal(b"state", minute(0)).unwrap(), minute(0)).is_none());
    }

    #[test]
    fn no_forged_ticket_opens_or_panics() {
        let tickets = shared(&[1; 32]);
        let ticket = tickets.seal(b"state", 1_000 * HOUR).unwrap();
        for length in 0..ticket.len() {
            assert_eq!(tickets.open(&ticket[..length], 1_000 * HOUR), None);
        }
        for position in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[position] ^= 1;
            assert_eq!(tickets.open(&forged, 1_000 * HOUR), None, "byte {position}");
        }
    }

    #[test]
    fn short_secret_is_refused() {
        assert!(TicketSecret::shared(&[1; 31], &[0; 32]).is_none());
    }
}
