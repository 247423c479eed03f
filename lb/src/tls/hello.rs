//! A glance at a ClientHello (RFC 8446 section 4.1.2) before rustls sees it, for what has to be known when its configuration is
//! chosen. Does the client put ChaCha20 first? A device that does has no AES in hardware, and its order is then followed. Does it
//! offer application protocols (ALPN) of which none is served? Does it send early data behind? What is not understood here is left to rustls.

/// ChaCha20-Poly1305 in TLS 1.3 and, with ECDHE, in TLS 1.2.
const CHACHA20: [[u8; 2]; 3] = [[0x13, 0x03], [0xcc, 0xa8], [0xcc, 0xa9]];

/// The type of a record, and of a message in it.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// The longest body of a record.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Extensions by their number: RFC 7301 section 3.1, RFC 8446 section 4.2.
const ALPN: [u8; 2] = [0, 16];
const EARLY_DATA: [u8; 2] = [0, 42];

/// What a client wishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Its first cipher suite is ChaCha20-Poly1305.
    pub(super) chacha20: bool,
    /// It offers application protocols, and none of those that are served.
    pub(super) foreign_protocols: bool,
    /// It sends early data (0-RTT).
    pub(super) early_data: bool,
}

/// What the ClientHello says that `bytes` begin with, in one record or several; nothing if they begin with something else.
/// `None` while more has to come.
pub(super) fn glance(bytes: &[u8], served: &[Vec<u8>]) -> Option<Wishes> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if rest.first().is_some_and(|kind| *kind != HANDSHAKE) {
            return Some(Wishes::default());
        }
        let (header, behind) = rest.split_first_chunk::<5>()?;
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[1] != 3 || !(1..=RECORD_BYTES_MAX).contains(&length) {
            return Some(Wishes::default());
        }
        let (body, behind) = behind.split_at_checked(length)?;
        message.extend_from_slice(body);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Some(Wishes::default());
        }
        if let Some([_, high, middle, low]) = message.first_chunk::<4>() {
            let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            if let Some(hello) = message[4..].get(..length) {
                return Some(read(hello, served).unwrap_or_default());
            }
        }
        rest = behind;
    }
}

fn read(hello: &[u8], served: &[Vec<u8>]) -> Option<Wishes> {
    // Version and random.
    let (_, rest) = hello.split_at_checked(2 + 32)?;
    let (_session_id, rest) = short(rest)?;
    let (suites, rest) = long(rest)?;
    // RFC 8701: values that stand for nothing may come first.
    let first = suites.as_chunks::<2>().0.iter().find(|[high, low]| high != low || low & 0x0f != 0x0a);
    let chacha20 = first.is_some_and(|suite| CHACHA20.contains(suite));
    let mut wishes = Wishes { chacha20, ..Wishes::default() };
    let (_compression, rest) = short(rest)?;
    // An old client has none.
    let Some((mut extensions, _)) = long(rest) else { return Some(wishes) };
    while let Some((kind, rest)) = extensions.split_first_chunk::<2>() {
        let (value, rest) = long(rest)?;
        match *kind {
            ALPN => wishes.foreign_protocols = are_foreign(value, served).unwrap_or(false),
            EARLY_DATA => wishes.early_data = true,
            _ => {}
        }
        extensions = rest;
    }
    Some(wishes)
}

/// Whether none of the protocols in the extension is served.
fn are_foreign(extension: &[u8], served: &[Vec<u8>]) -> Option<bool> {
    let (mut protocols, _) = long(extension)?;
    while !protocols.is_empty() {
        let (protocol, rest) = short(protocols)?;
        if served.iter().any(|served| served == protocol) {
            return Some(false);
        }
        protocols = rest;
    }
    Some(true)
}

/// Bytes behind their count, of one byte, and the rest.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// The same with a count of two bytes.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Wishes = Wishes { chacha20: false, foreign_protocols: false, early_data: false };

    fn counted(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    /// A ClientHello, in records of so many bytes.
    fn hello(suites: &[u8], protocols: &[&str], record_bytes: usize) -> Vec<u8> {
        let list: Vec<u8> =
            protocols.iter().flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat()).collect();
        let mut extensions = [&[0, 10][..], &counted(&[0, 2, 0, 29])].concat();
        if !protocols.is_empty() {
            extensions.extend([&ALPN[..], &counted(&counted(&list))].concat());
        }
        let body =
            [&[3, 3][..], &[9; 32], &[2, 7, 7], &counted(suites), &[1, 0], &counted(&extensions)].concat();
        let length = (body.len() as u32).to_be_bytes();
        let message = [&[1], &length[1..], &body].concat();
        let records = message.chunks(record_bytes);
        records.flat_map(|part| [&[22, 3, 1][..], &counted(part)].concat()).collect()
    }

    fn wishes(bytes: &[u8]) -> Option<Wishes> {
        glance(bytes, &[b"http/1.1".to_vec(), b"mqtt".to_vec()])
    }

    fn prefers_chacha20(suites: &[u8]) -> bool {
        wishes(&hello(suites, &[], 1000)).unwrap().chacha20
    }

    #[test]
    fn first_suite_that_means_something_counts() {
        assert!(prefers_chacha20(&[0x13, 0x03, 0x13, 0x01]));
        assert!(prefers_chacha20(&[0x2a, 0x2a, 0xcc, 0xa9]));
        assert!(!prefers_chacha20(&[0x13, 0x01, 0x13, 0x03]));
        assert!(!prefers_chacha20(&[]));
    }

    #[test]
    fn protocols_are_foreign_if_none_is_served() {
        let cases: [(&[&str], bool); 5] = [
            (&[], false),
            (&["mqtt"], false),
            (&["h2", "http/1.1"], false),
            (&["h2"], true),
            (&["x-amzn-mqtt-ca", "mqttx"], true),
        ];
        for (protocols, foreign) in cases {
            for record_bytes in [1000, 40, 1] {
                let bytes = hello(&[0x13, 0x01], protocols, record_bytes);
                assert_eq!(
                    wishes(&bytes),
                    Some(Wishes { foreign_protocols: foreign, ..NOTHING }),
                    "{protocols:?}"
                );
            }
        }
    }

    #[test]
    fn a_hello_in_pieces_is_waited_for() {
        for record_bytes in [1000, 30] {
            let whole = hello(&[0x13, 0x03], &["h2"], record_bytes);
            for length in 0..whole.len() {
                assert_eq!(wishes(&whole[..length]), None, "{length} bytes");
            }
            let with_more = [&whole[..], b"more"].concat();
            assert_eq!(
                wishes(&with_more),
                Some(Wishes { chacha20: true, foreign_protocols: true, ..NOTHING })
            );
        }
    }

    #[test]
    fn what_is_no_hello_is_nothing_to_wait_for() {
        let other_message = [22, 3, 1, 0, 1, 2];
        let too_long = [22, 3, 1, 0x40, 1];
        for bytes in
            [&[0xff; 200][..], b"GET / HTTP/1.1", &[22, 9, 1, 0, 9], &[22, 3, 1, 0, 0], &other_message]
        {
            assert_eq!(wishes(bytes), Some(NOTHING), "{bytes:?}");
        }
        assert_eq!(wishes(&too_long), Some(NOTHING));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic_it(bytes: Vec<u8>, at: usize, byte: u8) {
            let _ = wishes(&bytes);
            let mut forged = hello(&[0x13, 0x03], &["h2", "mqtt"], 50);
            let at = at % forged.len();
            forged[at] = byte;
            let _ = wishes(&forged);
        }
    }
}
