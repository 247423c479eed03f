//! Tables of headers, good and bad, in one piece and byte by byte.

use tokio::io::AsyncWriteExt;

use super::*;

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short");
    [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), body].concat()
}

/// Sends `header` and `rest` in pieces of `step`; answers what was read and what was left for the next reader.
async fn read(header: &[u8], step: usize) -> (Result<Option<SocketAddr>, ProxyError>, Vec<u8>) {
    let (mut near, mut far) = tokio::io::duplex(step);
    let bytes = [header, b"\x10rest"].concat();
    let writer = tokio::spawn(async move {
        // A reader that refuses goes away; then there is nobody to write to.
        let _ = near.write_all(&bytes).await;
    });
    let outcome = read_header(&mut far).await;
    let mut rest = Vec::new();
    if outcome.is_ok() {
        far.read_to_end(&mut rest).await.expect("rest");
    }
    drop(far);
    writer.await.expect("writer");
    (outcome, rest)
}

#[tokio::test]
async fn a_valid_header_gives_the_source_and_leaves_the_rest() {
    let v4_body = [&[192, 0, 2, 1, 10, 0, 0, 1][..], &[0x30, 0x39, 0x07, 0x5B]].concat();
    let mut v6_body = Vec::new();
    v6_body.extend("2001:db8::1".parse::<Ipv6Addr>().expect("address").octets());
    v6_body.extend("::1".parse::<Ipv6Addr>().expect("address").octets());
    v6_body.extend([0x30, 0x39, 0x07, 0x5B]);
    let with_tlv = [&v4_body[..], &[0x05, 0, 3, b'a', b'b', b'c']].concat();
    let table: Vec<(Vec<u8>, Option<&str>)> = vec![
        (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 1883\r\n".to_vec(), Some("192.0.2.1:12345")),
        (b"PROXY TCP6 2001:db8::1 ::1 12345 1883\r\n".to_vec(), Some("[2001:db8::1]:12345")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
        (v2(0x21, 0x11, &v4_body), Some("192.0.2.1:12345")),
        (v2(0x21, 0x11, &with_tlv), Some("192.0.2.1:12345")),
        (v2(0x21, 0x21, &v6_body), Some("[2001:db8::1]:12345")),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &v4_body), None),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x31, &[0; 216]), None),
    ];
    for (header, expected) in table {
        for step in [1, 7, 4096] {
            let (outcome, rest) = read(&header, step).await;
            let expected = expected.map(|text| text.parse().expect("address"));
            assert_eq!(outcome.expect("valid"), expected, "{header:?}");
            assert_eq!(rest, b"\x10rest", "{header:?}");
        }
    }
}

#[tokio::test]
async fn an_invalid_header_is_refused() {
    let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
    let mut bad_version = v2(0x21, 0x11, &[0; 12]);
    bad_version[12] = 0x11;
    for header in [
        b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3C\x00\x00\x00\x00".to_vec(),
        b"\x16\x03\x01\x02\x00\x01".to_vec(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 12345\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 99999 1883\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 1883\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n".to_vec(),
        b"PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
        b"PROXY \xFF\xFF\r\n".to_vec(),
        long.into_bytes(),
        bad_version,
        v2(0x22, 0x11, &[0; 12]),
        v2(0x21, 0x11, &[0; 11]),
        v2(0x21, 0x21, &[0; 35]),
        v2(0x21, 0x41, &[0; 12]),
        v2(0x21, 0x11, &[0; 5000]),
    ] {
        for step in [1, 4096] {
            let (outcome, _) = read(&header, step).await;
            let error = outcome.expect_err("invalid");
            assert!(matches!(error, ProxyError::Malformed | ProxyError::TooLong), "{header:?} {error}");
        }
    }
}

#[tokio::test]
async fn a_header_that_breaks_off_is_an_error() {
    let header = b"PROXY TCP4 192.0.2.1";
    let error = read_header(&mut &header[..]).await.expect_err("cut short");
    assert!(matches!(error, ProxyError::Io(_)));
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic_the_parser_and_each_step_asks_for_more(
        start in proptest::sample::select(vec![&b""[..], b"PROXY TCP4 ", b"PROXY ", &SIGNATURE]),
        rest in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
    ) {
        let bytes = [start, &rest].concat();
        match parse(&bytes) {
            Ok(Parsed::Needs(total)) => assert!(total > bytes.len() && total <= V2_MAX),
            Ok(Parsed::Header(length, _)) => assert!(length <= bytes.len()),
            Err(_) => {}
        }
    }
}
