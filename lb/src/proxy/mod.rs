//! The PROXY protocol, versions 1 and 2: who is behind a load balancer. Only the addresses are taken; type-length-values
//! are skipped. Whether a peer may send it at all is decided before, by [`Prefix`].

mod prefix;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

pub use prefix::{Prefix, PrefixError};

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a version 2 header before its length is known.
const V2_FIXED: usize = 16;

/// The shortest version 1 header: `PROXY UNKNOWN`, CR, LF.
const V1_MIN: usize = 15;

/// The shortest version 1 header with addresses: `PROXY TCP6 :: :: 1 1`, CR, LF.
const V1_TCP_MIN: usize = 22;

/// The longest version 1 header, CR LF included (the specification's worst case).
const V1_MAX: usize = 107;

/// The longest version 2 header read: far above what load balancers send with all their TLVs.
const V2_MAX: usize = 4_096;

/// Why a header was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// Not a PROXY protocol header.
    #[error("no valid PROXY protocol header")]
    Malformed,
    /// Longer than the bound.
    #[error("PROXY protocol header too long")]
    TooLong,
    /// The connection failed or ended.
    #[error("connection failed before the PROXY protocol header was complete")]
    Io(#[from] io::Error),
}

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// At least this many bytes in all are needed.
    Needs(usize),
    /// A header of so many bytes, and the source address unless it says LOCAL or UNKNOWN.
    Header(usize, Option<SocketAddr>),
}

/// Reads one header, and not a byte more than it: what follows belongs to TLS or MQTT. `None` where the header
/// says that there is no proxied client (health checks). Not cancel safe.
pub(crate) async fn read_header<T: AsyncRead + Unpin>(io: &mut T) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = Vec::with_capacity(V2_FIXED);
    loop {
        match parse(&header)? {
            Parsed::Needs(total) => {
                let have = header.len();
                header.resize(total, 0);
                io.read_exact(&mut header[have..]).await?;
            }
            Parsed::Header(_, source) => return Ok(source),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let compared = bytes.len().min(SIGNATURE.len());
    if bytes[..compared] == SIGNATURE[..compared] {
        return parse_v2(bytes);
    }
    parse_v1(bytes)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let start = b"PROXY ";
    let compared = bytes.len().min(start.len());
    if bytes[..compared] != start[..compared] {
        return Err(ProxyError::Malformed);
    }
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        if bytes.len() >= V1_MAX {
            return Err(ProxyError::TooLong);
        }
        // After a CR one byte is certain, else two: never more than belongs to the header.
        let certain = if bytes.last() == Some(&b'\r') { 1 } else { 2 };
        let shortest = if bytes.starts_with(b"PROXY TCP") { V1_TCP_MIN } else { V1_MIN };
        return Ok(Parsed::Needs(shortest.max(bytes.len() + certain)));
    };
    let line = std::str::from_utf8(&bytes[start.len()..end]).map_err(|_| ProxyError::Malformed)?;
    let total = end + 2;
    let mut fields = line.split(' ');
    let is_v4 = match fields.next() {
        Some("UNKNOWN") => return Ok(Parsed::Header(total, None)),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(ProxyError::Malformed),
    };
    let source = address(fields.next(), is_v4)?;
    address(fields.next(), is_v4)?;
    let port = port(fields.next())?;
    self::port(fields.next())?;
    if fields.next().is_some() {
        return Err(ProxyError::Malformed);
    }
    Ok(Parsed::Header(total, Some(SocketAddr::new(source, port))))
}

fn address(field: Option<&str>, is_v4: bool) -> Result<IpAddr, ProxyError> {
    let address: IpAddr = field.and_then(|text| text.parse().ok()).ok_or(ProxyError::Malformed)?;
    if address.is_ipv4() == is_v4 { Ok(address) } else { Err(ProxyError::Malformed) }
}

fn port(field: Option<&str>) -> Result<u16, ProxyError> {
    let digits = field.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(ProxyError::Malformed)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if bytes.len() < V2_FIXED {
        // The first byte tells the versions apart.
        let certain = if bytes.is_empty() { 1 } else { V2_FIXED };
        return Ok(Parsed::Needs(certain));
    }
    if bytes[12] >> 4 != 2 {
        return Err(ProxyError::Malformed);
    }
    let is_proxied = match bytes[12] & 0x0F {
        0 => false,
        1 => true,
        _ => return Err(ProxyError::Malformed),
    };
    let total = V2_FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if total > V2_MAX {
        return Err(ProxyError::TooLong);
    }
    if bytes.len() < total {
        return Ok(Parsed::Needs(total));
    }
    let body = &bytes[V2_FIXED..total];
    let source = match bytes[13] {
        _ if !is_proxied => None,
        // AF_INET, STREAM: two addresses of 4 bytes, two ports of 2.
        0x11 => {
            let (ip, rest) = body.split_first_chunk::<4>().ok_or(ProxyError::Malformed)?;
            Some(SocketAddr::new(Ipv4Addr::from(*ip).into(), source_port(rest, 4)?))
        }
        // AF_INET6, STREAM: two addresses of 16 bytes, two ports of 2.
        0x21 => {
            let (ip, rest) = body.split_first_chunk::<16>().ok_or(ProxyError::Malformed)?;
            Some(SocketAddr::new(Ipv6Addr::from(*ip).into(), source_port(rest, 16)?))
        }
        // Unspecified, datagram or local sockets: the connection's own address is used.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Parsed::Header(total, source))
}

/// The source port, after a destination address of `skipped` bytes; the destination port must be there too.
fn source_port(rest: &[u8], skipped: usize) -> Result<u16, ProxyError> {
    match rest.get(skipped..skipped + 4) {
        Some(&[high, low, _, _]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(ProxyError::Malformed),
    }
}

#[cfg(test)]
mod tests;
