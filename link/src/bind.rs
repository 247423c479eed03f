//! Addresses as they are written in a configuration: `host:port`. One to listen on is resolved once, when it is read, so that
//! what was checked about it is what is bound.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is wrong with an address. The text is for an operator, and says what is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Nothing follows the host.
    #[error("the port is missing; write {0}:PORT")]
    NoPort(String),
    /// Nothing is before the port.
    #[error(
        "the address is missing; write 127.0.0.1:{0} for this machine only, 0.0.0.0:{0} for all its IPv4 addresses or \
         [::]:{0} for all"
    )]
    NoHost(String),
    /// What follows the last colon is no port.
    #[error("the port {0:?} is not a number from 0 to 65535")]
    Port(String),
    /// Colons belong to the address or lead to the port.
    #[error("an IPv6 address stands in brackets; write [{0}]:PORT")]
    Brackets(String),
    /// What stands in brackets is no IPv6 address.
    #[error("{0:?} is not an IPv6 address")]
    NotV6(String),
    /// The name stands for nothing.
    #[error("the name {host:?} cannot be resolved: {reason}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the system says.
        reason: String,
    },
}

/// The host and the port of `host:port`; the host without brackets.
///
/// # Errors
/// What is missing.
pub fn split_host_port(text: &str) -> Result<(&str, u16), BindError> {
    if text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
        return Err(BindError::Brackets(text.to_owned()));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            return Err(BindError::NoHost(text.to_owned()));
        }
        _ => return Err(BindError::NoPort(if text.is_empty() { "ADDRESS" } else { text }.to_owned())),
    };
    if host.is_empty() {
        return Err(BindError::NoHost(port.to_owned()));
    }
    if port.is_empty() {
        return Err(BindError::NoPort(host.to_owned()));
    }
    let digits = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let port = digits.and_then(|port| port.parse().ok()).ok_or_else(|| BindError::Port(port.to_owned()))?;
    if let Some(bare) = host.strip_prefix('[') {
        let bare = bare.strip_suffix(']').unwrap_or(bare);
        let is_v6 = bare.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
        return if is_v6 { Ok((bare, port)) } else { Err(BindError::NotV6(bare.to_owned())) };
    }
    // A colon in a host is part of an IPv6 address, which needs its brackets to be told from the port.
    if host.contains(':') { Err(BindError::Brackets(host.to_owned())) } else { Ok((host, port)) }
}

/// Where to listen: an address, or a name that stands for several, with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    text: String,
    addresses: Vec<SocketAddr>,
}

impl Bind {
    /// All addresses to listen on, at least one; port 0 picks a free one, the same for all.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.addresses.first().map_or(0, SocketAddr::port)
    }

    /// Whether nobody can come from another machine.
    pub fn is_loopback(&self) -> bool {
        self.addresses.iter().all(|address| address.ip().to_canonical().is_loopback())
    }

    /// Binds each address by `bind`, all with the port that the first got. Of a name, an address that this machine does not
    /// have is left out while it has another.
    ///
    /// # Errors
    /// The first that cannot be bound.
    pub fn bind_each<T>(
        &self,
        mut bind: impl FnMut(SocketAddr) -> std::io::Result<T>,
        address_of: impl Fn(&T) -> std::io::Result<SocketAddr>,
    ) -> Result<Vec<T>, (SocketAddr, std::io::Error)> {
        let mut bound: Vec<T> = Vec::new();
        let mut left_out = None;
        for address in &self.addresses {
            let mut address = *address;
            if let Some(first) = bound.first() {
                address.set_port(address_of(first).map_err(|error| (address, error))?.port());
            }
            match bind(address) {
                Ok(socket) => bound.push(socket),
                Err(error) if is_not_of_this_machine(&error) => {
                    left_out = left_out.or(Some((address, error)));
                }
                Err(error) => return Err((address, error)),
            }
        }
        match left_out {
            Some(failed) if bound.is_empty() => Err(failed),
            _ => Ok(bound),
        }
    }
}

/// What the address in place `n`, from 0, of a listener is called: the first bears its name.
pub fn name_of_nth(name: &str, n: usize) -> String {
    if n == 0 { name.to_owned() } else { format!("{name}.{}", n + 1) }
}

/// `localhost` stands for `::1` too where there is no IPv6.
fn is_not_of_this_machine(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AddrNotAvailable, Unsupported};
    /// EAFNOSUPPORT, which has no kind of its own.
    const NO_SUCH_FAMILY: i32 = 97;
    matches!(error.kind(), AddrNotAvailable | Unsupported) || error.raw_os_error() == Some(NO_SUCH_FAMILY)
}

impl FromStr for Bind {
    type Err = BindError;

    /// Blocks while a name is resolved.
    fn from_str(text: &str) -> Result<Self, BindError> {
        let (host, port) = split_host_port(text)?;
        let unresolved = |reason: String| BindError::Unresolved { host: host.to_owned(), reason };
        let mut addresses = Vec::new();
        if let Ok(address) = host.parse::<IpAddr>() {
            addresses.push(SocketAddr::new(address, port));
        } else {
            let found = (host, port).to_socket_addrs().map_err(|error| unresolved(error.to_string()))?;
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            // What is shown first is what people write.
            addresses.sort_by_key(SocketAddr::is_ipv6);
        }
        if addresses.is_empty() {
            return Err(unresolved("no address".to_owned()));
        }
        Ok(Self { text: text.to_owned(), addresses })
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Self {
        Self { text: address.to_string(), addresses: vec![address] }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Bind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Bind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Bind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"ADDRESS:PORT\", such as \"127.0.0.1:1883\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Bind, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Bind, E> {
                match u16::try_from(number) {
                    Ok(port) => Err(E::custom(BindError::NoHost(port.to_string()))),
                    Err(_) => Err(E::invalid_type(Unexpected::Signed(number), &self)),
                }
            }
        }

        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let cases = [
            ("127.0.0.1", "the port is missing; write 127.0.0.1:PORT"),
            ("localhost", "the port is missing; write localhost:PORT"),
            ("localhost:", "the port is missing; write localhost:PORT"),
            ("[::1]", "the port is missing; write [::1]:PORT"),
            ("", "the port is missing; write ADDRESS:PORT"),
            ("::1", "an IPv6 address stands in brackets; write [::1]:PORT"),
            ("fe80::1:2:3:4:5:6:1883", "an IPv6 address stands in brackets; write [fe80::1:2:3:4:5:6]:PORT"),
            ("127.0.0.1:x", "the port \"x\" is not a number from 0 to 65535"),
            ("127.0.0.1:70000", "the port \"70000\" is not a number from 0 to 65535"),
            ("[localhost]:1883", "\"localhost\" is not an IPv6 address"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Bind>().unwrap_err().to_string();
            if text.starts_with("fe80") {
                // Eight groups are an address already.
                assert!(error.starts_with("an IPv6 address stands in brackets"), "{error}");
            } else {
                assert_eq!(error, expected, "{text}");
            }
        }
        for text in [":1883", "1883"] {
            let error = text.parse::<Bind>().unwrap_err().to_string();
            assert!(error.starts_with("the address is missing; write 127.0.0.1:1883 "), "{error}");
        }
        let error = "no such host.invalid:1".parse::<Bind>().unwrap_err().to_string();
        assert!(error.starts_with("the name \"no such host.invalid\" cannot be resolved: "), "{error}");
    }

    #[test]
    fn an_address_is_taken_as_it_is_and_a_name_for_all_of_its_own() {
        let one: Bind = "[::1]:1883".parse().unwrap();
        assert_eq!((one.addresses(), one.is_loopback()), (&["[::1]:1883".parse().unwrap()][..], true));
        let all: Bind = "0.0.0.0:1883".parse().unwrap();
        assert!(!all.is_loopback());
        let named: Bind = "localhost:1883".parse().unwrap();
        assert!(named.is_loopback() && named.port() == 1883 && named.to_string() == "localhost:1883");
        assert!(named.addresses().contains(&"127.0.0.1:1883".parse().unwrap()), "{named:?}");
    }

    #[test]
    fn all_addresses_get_the_port_of_the_first_and_those_that_are_not_here_are_left_out() {
        let bind = Bind {
            text: "name:0".to_owned(),
            addresses: ["127.0.0.1:0", "192.0.2.1:0", "127.0.0.2:0"].map(|it| it.parse().unwrap()).to_vec(),
        };
        let bound = bind.bind_each(std::net::TcpListener::bind, std::net::TcpListener::local_addr).unwrap();
        let addresses: Vec<_> = bound.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[0].port(), addresses[1].port());
        let elsewhere = Bind::from("192.0.2.1:0".parse::<SocketAddr>().unwrap());
        assert!(elsewhere.bind_each(std::net::TcpListener::bind, std::net::TcpListener::local_addr).is_err());
    }
}
