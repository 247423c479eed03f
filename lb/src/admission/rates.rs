//! How often a source may connect. A refusal costs the refused nothing later: no penalty grows by being hit.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use foldhash::quality::RandomState;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter, clock::DefaultClock};

use super::source::Source;
use crate::config::EdgeConfig;

/// Rates that sources share once `sources_max` of them are kept apart.
const SHARED_RATES: u64 = 4_096;

type Rates = RateLimiter<u128, HashMapStateStore<u128>, DefaultClock>;

/// How often each source may connect.
pub(crate) struct SourceRates {
    own: Rates,
    shared: Rates,
    sources_max: usize,
    /// Of which every bit depends on the whole key, for few of them are used.
    hasher: RandomState,
}

impl SourceRates {
    /// `None` when there is no limit.
    pub(crate) fn new(config: &EdgeConfig) -> Option<Self> {
        let rate = NonZeroU32::new(config.source_connections_per_s)?;
        let burst = NonZeroU32::new(config.source_connections_burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(rate).allow_burst(burst);
        Some(Self {
            own: RateLimiter::hashmap(quota),
            shared: RateLimiter::hashmap(quota),
            sources_max: config.sources_max,
            hasher: RandomState::default(),
        })
    }

    /// Whether this source may open a connection now. Loopback always may: whoever is there can do worse.
    pub(crate) fn admits(&self, peer: SocketAddr) -> bool {
        if peer.ip().to_canonical().is_loopback() {
            return true;
        }
        let Source(source) = Source::of(peer);
        if self.own.len() < self.sources_max {
            return self.own.check_key(&source).is_ok();
        }
        let share = u128::from(self.hasher.hash_one(source) % SHARED_RATES);
        self.shared.check_key(&share).is_ok()
    }

    /// Forgets the sources that have their whole burst again. To be called every few seconds.
    pub(crate) fn forget_idle(&self) {
        self.own.retain_recent();
        self.own.shrink_to_fit();
        self.shared.retain_recent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(burst: u32, sources_max: usize) -> SourceRates {
        SourceRates::new(&EdgeConfig {
            source_connections_per_s: 1,
            source_connections_burst: burst,
            sources_max,
            ..EdgeConfig::default()
        })
        .expect("limited")
    }

    fn peer(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().expect("address"), 1)
    }

    #[test]
    fn a_source_has_its_burst_and_no_more() {
        let rates = rates(2, 100);
        for (address, admitted) in [
            ("192.0.2.1", true),
            ("192.0.2.1", true),
            ("192.0.2.1", false),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::3", true),
        ] {
            assert_eq!(rates.admits(peer(address)), admitted, "{address}");
        }
    }

    #[test]
    fn loopback_is_exempt() {
        let rates = rates(1, 100);
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(rates.admits(peer(address)) && rates.admits(peer(address)), "{address}");
        }
    }

    #[test]
    fn the_map_of_sources_is_bounded() {
        let rates = rates(1, 16);
        for n in 0..50_000u32 {
            rates.admits(SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0A00_0000 + n).into(), 1));
        }
        assert_eq!(rates.own.len(), 16);
        assert!(rates.shared.len() <= 4_096);
    }
}
