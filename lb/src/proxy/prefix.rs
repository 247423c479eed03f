//! Address prefixes, such as `10.0.0.0/8`, for lists of trusted peers.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    /// As IPv6, IPv4 mapped.
    bits: u128,
    /// Leading bits of `bits` that count, 0 to 128.
    length: u8,
    is_v4: bool,
}

/// Text that is not an address prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an address nor a prefix such as 10.0.0.0/8")]
pub struct PrefixError(String);

impl Prefix {
    /// Whether `address` lies within. An IPv4 address that arrived on an IPv6 socket counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        (self.bits ^ mapped(address)) & mask(self.length) == 0
    }
}

/// The address as IPv6, IPv4 mapped, as a number.
fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let wrong = || PrefixError(text.into());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (own, base) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let length = length.unwrap_or(own);
        if length > own {
            return Err(wrong());
        }
        let length = base + length;
        Ok(Self { bits: mapped(address) & mask(length), length, is_v4: address.is_ipv4() })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match address.to_ipv4_mapped().filter(|_| self.is_v4) {
            Some(v4) => write!(f, "{v4}/{}", self.length - 96),
            None => write!(f, "{address}/{}", self.length),
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_contains_what_shares_its_leading_bits() {
        for (prefix, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
        ] {
            let parsed: Prefix = prefix.parse().expect(prefix);
            assert!(parsed.contains(inside.parse().expect(inside)), "{prefix} {inside}");
            assert!(!parsed.contains(outside.parse().expect(outside)), "{prefix} {outside}");
        }
        let all: Prefix = "::/0".parse().expect("everything");
        assert!(all.contains("192.0.2.1".parse().expect("address")));
    }

    #[test]
    fn text_that_is_no_prefix_is_refused_and_the_rest_prints_as_it_was() {
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "host", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
        for right in ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1/32"] {
            assert_eq!(right.parse::<Prefix>().expect(right).to_string(), right);
        }
    }
}
