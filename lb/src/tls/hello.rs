//! A glance at a ClientHello (RFC 8446 section 4.1.2) before rustls sees it: does the client put ChaCha20 first? A device
//! that does has no AES in hardware, and its order is then followed. Whatever is not understood here counts as no.

/// ChaCha20-Poly1305 in TLS 1.3 and, with ECDHE, in TLS 1.2.
const CHACHA20: [[u8; 2]; 3] = [[0x13, 0x03], [0xcc, 0xa8], [0xcc, 0xa9]];

/// Whether the first cipher suite in the ClientHello that `record` begins with is ChaCha20-Poly1305.
pub(super) fn prefers_chacha20(record: &[u8]) -> bool {
    first_suite(record).is_some_and(|suite| CHACHA20.contains(&suite))
}

fn first_suite(record: &[u8]) -> Option<[u8; 2]> {
    let (header, hello) = record.split_at_checked(5)?;
    let (message, rest) = hello.split_at_checked(4)?;
    if header[0] != 22 || message[0] != 1 {
        return None;
    }
    // Version and random.
    let (_, rest) = rest.split_at_checked(2 + 32)?;
    let (&session_id, rest) = rest.split_first()?;
    let (_, rest) = rest.split_at_checked(usize::from(session_id))?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let suites = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    // RFC 8701: values that stand for nothing may come first.
    suites.as_chunks::<2>().0.iter().find(|[high, low]| high != low || low & 0x0f != 0x0a).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(suites: &[u8]) -> Vec<u8> {
        let mut bytes = vec![22, 3, 1, 0, 0, 1, 0, 0, 0, 3, 3];
        bytes.extend_from_slice(&[9; 32]);
        bytes.extend_from_slice(&[2, 7, 7]);
        bytes.extend_from_slice(&u16::try_from(suites.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(suites);
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        bytes
    }

    #[test]
    fn first_suite_that_means_something_counts() {
        assert!(prefers_chacha20(&hello(&[0x13, 0x03, 0x13, 0x01])));
        assert!(prefers_chacha20(&hello(&[0x2a, 0x2a, 0xcc, 0xa9])));
        assert!(!prefers_chacha20(&hello(&[0x13, 0x01, 0x13, 0x03])));
        assert!(!prefers_chacha20(&hello(&[])));
    }

    #[test]
    fn hello_in_pieces_or_of_garbage_counts_as_no() {
        let whole = hello(&[0x13, 0x03]);
        for length in 0..whole.len() - 4 {
            assert!(!prefers_chacha20(&whole[..length]), "{length} bytes");
        }
        assert!(!prefers_chacha20(&[0xff; 200]));
    }
}
