//! WebSocket against tungstenite, and against bytes that no client library would send.

use std::io::{self, Cursor, IoSlice};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame with any first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

#[tokio::test]
async fn frames_that_carry_nothing_leave_others_their_turn() {
    let (near, mut far) = duplex(1 << 20);
    far.write_all(&frame(0x82, &[]).repeat(1_000)).await.unwrap();
    far.write_all(&frame(0x82, b"x")).await.unwrap();
    let mut server = WsStream::new(near, Bytes::new());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut turns = 0;
    loop {
        let mut room = [0; 16];
        let mut out = tokio::io::ReadBuf::new(&mut room);
        let polled = tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut server), &mut cx, &mut out);
        if polled.is_ready() {
            assert_eq!(out.filled(), b"x");
            break;
        }
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!((50..=200).contains(&turns), "6,000 bytes, 16 at once: {turns} turns");
}

/// What the server makes of `bytes` and the end of the stream behind them, and what it answers.
async fn exchange(bytes: &[u8]) -> (Vec<u8>, io::Result<()>, Vec<u8>) {
    let (near, mut far) = duplex(1 << 20);
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let mut server = WsStream::new(near, Bytes::new());
    let mut carried = Vec::new();
    let outcome = server.read_to_end(&mut carried).await.map(|_| ());
    drop(server);
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    (carried, outcome, answer)
}

fn close_frame(status: u16) -> Vec<u8> {
    [&[0x88, 2][..], &status.to_be_bytes()].concat()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

#[tokio::test]
async fn violations_are_told_and_end_the_connection() {
    let unmasked = vec![0x82, 1, 0];
    let long = |form: u8, length: &[u8]| [&[0x82, 0x80 | form][..], length, &MASK, &[0; 4]].concat();
    let table: &[(&str, Vec<u8>, u16)] = &[
        ("text", frame(0x81, b"hello"), 1003),
        ("text in pieces", frame(0x01, b"he"), 1003),
        ("unmasked", unmasked, 1002),
        ("reserved bit 1", frame(0xc2, b"x"), 1002),
        ("reserved bit 2", frame(0xa2, b"x"), 1002),
        ("reserved bit 3", frame(0x92, b"x"), 1002),
        ("reserved data opcode", frame(0x83, b"x"), 1002),
        ("reserved control opcode", frame(0x8b, b"x"), 1002),
        ("continuation of nothing", frame(0x80, b"x"), 1002),
        ("message within a message", [frame(0x02, b""), frame(0x82, b"x")].concat(), 1002),
        ("ping in pieces", frame(0x09, b""), 1002),
        ("long ping", frame(0x89, &[0; 126]), 1002),
        ("length in two bytes for one", long(126, &[0, 125]), 1002),
        ("length in eight bytes for two", long(127, &[0, 0, 0, 0, 0, 0, 0xff, 0xff]), 1002),
        ("length with the highest bit", long(127, &[0x80, 0, 0, 0, 0, 0, 0, 0]), 1002),
        ("length beyond the bound", long(127, &[0, 0, 0, 2, 0, 0, 0, 0]), 1009),
        ("close with half a status", frame(0x88, &[3]), 1002),
        ("close with a status for endpoints only", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        ("close with status 0", frame(0x88, &[0, 0]), 1002),
        ("close with text that is no UTF-8", frame(0x88, &[3, 0xe8, 0xff]), 1002),
    ];
    for (name, bytes, status) in table {
        let bytes = [frame(0x82, b"before"), bytes.clone()].concat();
        let (carried, outcome, answer) = exchange(&bytes).await;
        // What is refused inside a message carries nothing of it.
        assert_eq!(carried, b"before", "{name}");
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData, "{name}");
        assert_eq!(answer, close_frame(*status), "{name}");
    }
}

#[tokio::test]
async fn what_is_allowed_is_carried() {
    let large = pattern(70_000);
    let fragments =
        [frame(0x02, b"a"), frame(0x00, b""), frame(0x89, b"now?"), frame(0x00, b"b"), frame(0x80, b"c")]
            .concat();
    // Name, bytes from the client, what they carry, the answer.
    type Row<'a> = (&'a str, Vec<u8>, &'a [u8], Vec<u8>);
    let table: &[Row<'_>] = &[
        ("empty frame", frame(0x82, b""), b"", vec![]),
        ("short frame", frame(0x82, b"\xc0\0"), b"\xc0\0", vec![]),
        ("medium frame", frame(0x82, &large[..300]), &large[..300], vec![]),
        ("long frame", frame(0x82, &large), &large, vec![]),
        ("fragments around a ping", fragments, b"abc", vec![0x8a, 4, b'n', b'o', b'w', b'?']),
        ("pong that nobody asked for", [frame(0x8a, b"x"), frame(0x82, b"y")].concat(), b"y", vec![]),
        (
            "last of many pings",
            [frame(0x89, b"1"), frame(0x89, b""), frame(0x89, b"3")].concat(),
            b"",
            vec![0x8a, 1, b'3'],
        ),
        ("close", frame(0x88, &1000_u16.to_be_bytes()), b"", close_frame(1000)),
        ("close without a status", frame(0x88, b""), b"", vec![0x88, 0]),
        ("close with a text", frame(0x88, b"\x03\xe9bye"), b"", close_frame(1001)),
        (
            "frames after close",
            [frame(0x82, b"a"), frame(0x88, b""), frame(0x82, b"b")].concat(),
            b"a",
            vec![0x88, 0],
        ),
    ];
    for (name, bytes, expected, expected_answer) in table {
        let (carried, outcome, answer) = exchange(bytes).await;
        outcome.unwrap();
        assert!(carried == *expected, "{name}");
        assert_eq!(answer, *expected_answer, "{name}");
    }
}

#[tokio::test]
async fn end_of_stream_within_a_frame_is_an_error() {
    let whole = frame(0x82, &pattern(200));
    for length in 1..whole.len() {
        let (_, outcome, _) = exchange(&whole[..length]).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{length} bytes");
    }
}

#[tokio::test]
async fn shutdown_says_goodbye_once() {
    let (near, mut far) = duplex(1024);
    let mut server = WsStream::new(near, Bytes::new());
    server.write_all(b"x").await.unwrap();
    server.shutdown().await.unwrap();
    server.shutdown().await.unwrap();
    let error = server.write_all(b"late").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let mut seen = Vec::new();
    far.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, [&[0x82, 1, b'x'][..], &close_frame(1000)].concat());
}

#[tokio::test]
async fn many_pings_to_a_client_that_does_not_read_wait_as_one() {
    let (near, mut far) = duplex(16 * 1024);
    let mut server = WsStream::new(near, Bytes::new());
    let filler = server.write(&pattern(200_000)).await.unwrap();
    assert!(server.has_unsent());
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        server.read_to_end(&mut seen).await.unwrap();
        (server, seen)
    });
    for round in 0..5_000_u16 {
        far.write_all(&frame(0x89, &round.to_be_bytes())).await.unwrap();
    }
    far.write_all(&frame(0x82, b"still here")).await.unwrap();
    let mut sent = vec![0; 4 + filler];
    far.read_exact(&mut sent).await.unwrap();
    far.write_all(&frame(0x88, b"")).await.unwrap();
    let mut answers = Vec::new();
    let (mut server, seen) = reader.await.unwrap();
    server.shutdown().await.unwrap();
    far.read_to_end(&mut answers).await.unwrap();
    assert_eq!(seen, b"still here");
    assert!(answers.len() < 5_000 * 4, "{} bytes of answers", answers.len());
    assert!(answers.ends_with(&[0x88, 0]));
}

#[tokio::test]
async fn pings_read_one_by_one_while_nothing_can_be_written_wait_as_one() {
    let (near, mut far) = duplex(1_024);
    let mut server = WsStream::new(near, Bytes::new());
    let filler = server.write(&pattern(4_000)).await.unwrap();
    assert!(server.has_unsent());
    for round in 0..1_000_u16 {
        far.write_all(&frame(0x89, &round.to_be_bytes())).await.unwrap();
        // Or the task would run out of budget.
        tokio::task::yield_now().await;
        let mut room = [0; 8];
        let read = std::pin::pin!(server.read(&mut room));
        assert!(poll_once(read).is_none(), "a ping carries nothing");
    }
    far.shutdown().await.unwrap();
    let (mut answers, mut rest) = (Vec::new(), Vec::new());
    let reading = async { far.read_to_end(&mut answers).await };
    let writing = async {
        server.read_to_end(&mut rest).await.unwrap();
        server.flush().await.unwrap();
        drop(server);
    };
    let (seen, ()) = tokio::join!(reading, writing);
    seen.unwrap();
    assert_eq!(answers.len(), 4 + filler + 4, "the filler in its frame, and the answer to the last ping");
    assert!(answers.ends_with(&[0x8a, 2, 0x03, 0xe7]));
}

/// Polls once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn gathered_write_is_one_frame() {
    let (near, mut far) = duplex(1 << 20);
    let mut server = WsStream::new(near, Bytes::new());
    let parts: Vec<Vec<u8>> = (0..100_usize).map(pattern).collect();
    let slices = parts.iter().map(|part| IoSlice::new(part)).collect::<Vec<_>>();
    let count = server.write_vectored(&slices).await.unwrap();
    let expected = parts.concat();
    let mut seen = vec![0; count + 4];
    far.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen[..4], [&[0x82, 126][..], &u16::try_from(count).unwrap().to_be_bytes()].concat());
    assert!(seen[4..] == expected[..count]);
}

/// The bytes that tungstenite's client sends for these messages.
fn encode_as_client(messages: &[Message]) -> Vec<u8> {
    let mut client = WebSocket::from_raw_socket(Cursor::new(Vec::new()), Role::Client, None);
    for message in messages {
        client.send(message.clone()).unwrap();
    }
    client.get_ref().get_ref().clone()
}

fn message() -> impl Strategy<Value = Message> {
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        2 => prop::collection::vec(any::<u8>(), 100..700),
        1 => prop::collection::vec(any::<u8>(), 65_000..67_000),
    ];
    prop_oneof![
        6 => payload.prop_map(|payload| Message::Binary(payload.into())),
        1 => prop::collection::vec(any::<u8>(), 0..126).prop_map(|payload| Message::Ping(payload.into())),
        1 => prop::collection::vec(any::<u8>(), 0..126).prop_map(|payload| Message::Pong(payload.into())),
    ]
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_in_any_pieces_carry_the_same_bytes(
        messages in prop::collection::vec(message(), 0..12),
        pipe_bytes in 1_usize..3_000,
        leftover_bytes in 0_usize..50,
        read_bytes in prop::collection::vec(1_usize..400, 1..8),
    ) {
        let bytes = encode_as_client(&messages);
        let expected: Vec<u8> = messages
            .iter()
            .filter_map(|message| if let Message::Binary(payload) = message { Some(payload.to_vec()) } else { None })
            .flatten()
            .collect();
        let carried = run(async move {
            let (near, far) = duplex(pipe_bytes);
            let (mut answers, mut requests) = tokio::io::split(far);
            let leftover = Bytes::copy_from_slice(&bytes[..leftover_bytes.min(bytes.len())]);
            let rest = bytes[leftover.len()..].to_vec();
            let sender = tokio::spawn(async move {
                requests.write_all(&rest).await.unwrap();
                requests.shutdown().await.unwrap();
                requests
            });
            let drain = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut tokio::io::sink()).await });
            let mut server = WsStream::new(near, leftover);
            let mut carried = Vec::new();
            for size in read_bytes.iter().cycle() {
                let mut part = vec![0; *size];
                let count = server.read(&mut part).await.unwrap();
                if count == 0 {
                    break;
                }
                carried.extend_from_slice(&part[..count]);
            }
            drop((server, sender.await.unwrap()));
            drain.await.unwrap().unwrap();
            carried
        });
        prop_assert!(carried == expected);
    }

    #[test]
    fn writes_of_any_size_reach_a_client(
        sizes in prop::collection::vec(prop_oneof![1_usize..300, 60_000_usize..140_000], 1..6),
        pipe_bytes in 1_usize..3_000,
    ) {
        let sent: Vec<u8> = pattern(sizes.iter().sum());
        let expected = sent.clone();
        let seen = run(async move {
            let (near, far) = duplex(pipe_bytes);
            let writer = tokio::spawn(async move {
                let mut server = WsStream::new(near, Bytes::new());
                let mut rest = &sent[..];
                for size in sizes {
                    let (chunk, others) = rest.split_at(size);
                    rest = others;
                    server.write_all(chunk).await.unwrap();
                }
                server.shutdown().await.unwrap();
                server
            });
            let mut client = tokio_tungstenite::WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            let mut seen = Vec::new();
            while let Some(message) = futures_util::StreamExt::next(&mut client).await {
                match message.unwrap() {
                    Message::Binary(payload) => seen.extend_from_slice(&payload),
                    Message::Close(_) => break,
                    other => panic!("{other:?}"),
                }
            }
            drop(writer.await.unwrap());
            seen
        });
        prop_assert!(seen == expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        run(async move {
            let _ = exchange(&bytes).await;
        });
    }
}

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\nOrigin: https://example.com\r\n\r\n";

async fn request(text: &str, config: &WebSocketConfig) -> (Result<WsStream<DuplexStream>, WsError>, String) {
    let (near, mut far) = duplex(64 * 1024);
    far.write_all(text.as_bytes()).await.unwrap();
    let outcome = accept(near, config).await;
    let mut answer = vec![0; 4096];
    let count = far.read(&mut answer).await.unwrap();
    answer.truncate(count);
    (outcome, String::from_utf8(answer).unwrap().to_ascii_lowercase())
}

#[tokio::test]
async fn upgrade_is_answered_as_the_rfc_says() {
    let (outcome, answer) = request(REQUEST, &WebSocketConfig::default()).await;
    outcome.unwrap();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    // The example of RFC 6455 section 1.3.
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{answer}");
    assert!(answer.contains("sec-websocket-protocol: mqtt\r\n"), "{answer}");
    assert!(
        answer.contains("connection: upgrade\r\n") && answer.contains("upgrade: websocket\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn subprotocol_of_mqtt_3_1_is_served_too() {
    let text = REQUEST.replace("mqttv3.1, mqtt", "chat,mqttv3.1");
    let (outcome, answer) = request(&text, &WebSocketConfig::default()).await;
    outcome.unwrap();
    assert!(answer.contains("sec-websocket-protocol: mqttv3.1\r\n"), "{answer}");
}

#[tokio::test]
async fn what_cannot_be_upgraded_is_refused() {
    let config =
        WebSocketConfig { origins: vec!["https://example.com".to_owned()], ..WebSocketConfig::default() };
    request(REQUEST, &config).await.0.unwrap();
    request(&REQUEST.replace("Origin: https://example.com\r\n", ""), &config).await.0.unwrap();
    request(&REQUEST.replace("/mqtt HTTP", "/mqtt?x=1 HTTP"), &config).await.0.unwrap();
    let table = [
        ("/mqtt HTTP", "/other HTTP", Refusal::Path),
        ("GET", "POST", Refusal::Method),
        ("Upgrade: websocket\r\n", "", Refusal::NotUpgrade),
        ("keep-alive, Upgrade", "keep-alive", Refusal::NotUpgrade),
        ("Version: 13", "Version: 8", Refusal::Version),
        ("Sec-WebSocket-Version: 13\r\n", "", Refusal::Version),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j", Refusal::Key),
        ("dGhlIHNhbXBsZSBub25jZQ==", "?", Refusal::Key),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", Refusal::Key),
        ("mqttv3.1, mqtt", "MQTT, amqp", Refusal::Subprotocol),
        ("Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", "", Refusal::Subprotocol),
        ("https://example.com", "https://evil.example", Refusal::Origin),
        ("Origin:", "Content-Length: 5\r\nOrigin:", Refusal::Request),
        ("Host: localhost\r\n", "", Refusal::Request),
        ("Host: localhost\r\n", "Host: localhost\r\nHost: localhost\r\n", Refusal::Request),
    ];
    for (old, new, expected) in table {
        let text = REQUEST.replacen(old, new, 1);
        assert_ne!(text, REQUEST);
        let (outcome, answer) = request(&text, &config).await;
        let Err(WsError::Refused(refusal)) = outcome else { panic!("{new:?}: accepted") };
        assert_eq!(refusal, expected, "{new:?}");
        assert!(answer.starts_with(&format!("http/1.1 {} ", expected.status())), "{new:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{new:?}: {answer}");
    }
}

#[tokio::test]
async fn pages_of_this_machine_may_be_all_that_may_connect() {
    let config = WebSocketConfig { origins: vec!["loopback".to_owned()], ..WebSocketConfig::default() };
    for (origin, is_allowed) in [
        ("http://localhost", true),
        ("https://localhost:3000", true),
        ("http://127.0.0.1:8000", true),
        ("http://[::1]:8000", true),
        ("ws://localhost:8083", true),
        ("chrome-extension://localhost", false),
        ("https://example.com", false),
        ("http://localhost.example.com", false),
        ("http://127.0.0.1.example.com:80", false),
        ("http://user@localhost", false),
        ("http://192.0.2.1", false),
        ("null", false),
        ("loopback", false),
    ] {
        let text = REQUEST.replace("https://example.com", origin);
        assert_eq!(request(&text, &config).await.0.is_ok(), is_allowed, "{origin}");
    }
    request(&REQUEST.replace("Origin: https://example.com\r\n", ""), &config).await.0.unwrap();
}

#[tokio::test]
async fn request_is_bounded_in_size_and_in_fields() {
    let config = WebSocketConfig::default();
    let fields = "X: y\r\n".repeat(100);
    let (outcome, answer) = request(&REQUEST.replace("Host:", &format!("{fields}Host:")), &config).await;
    assert!(outcome.is_err());
    assert!(answer.starts_with("http/1.1 431 "), "{answer}");
    let long = "y".repeat(20_000);
    let (outcome, answer) = request(&REQUEST.replace("localhost", &long), &config).await;
    assert!(outcome.is_err());
    assert!(answer.starts_with("http/1.1 431 "), "{answer}");
    let (outcome, _) = request("\x10\x0c\0\x04MQTT\x05\x02\0\x3c\0\0\0 \r\n\r\n", &config).await;
    assert!(matches!(outcome, Err(WsError::Http(_))));
}

#[tokio::test]
async fn frames_right_behind_the_request_are_kept() {
    for pipe_bytes in [3, 64, 64 * 1024] {
        let (near, far) = duplex(pipe_bytes);
        let (mut far_reads, mut far_writes) = tokio::io::split(far);
        let sent = pattern(600);
        let bytes = [REQUEST.as_bytes(), &frame(0x82, &sent)].concat();
        let writer = tokio::spawn(async move {
            far_writes.write_all(&bytes).await.unwrap();
            far_writes
        });
        let reader = tokio::spawn(async move {
            let mut answer = Vec::new();
            far_reads.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let mut server = accept(near, &WebSocketConfig::default()).await.unwrap();
        let mut seen = vec![0; sent.len()];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, sent);
        server.shutdown().await.unwrap();
        drop((server, writer.await.unwrap()));
        let answer = reader.await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        assert!(answer.ends_with(&close_frame(1000)));
    }
}

#[tokio::test]
async fn client_library_talks_to_it() {
    let (near, far) = duplex(1000);
    let server = tokio::spawn(async move {
        let mut server = accept(near, &WebSocketConfig::default()).await.unwrap();
        let mut seen = vec![0; 100_000];
        server.read_exact(&mut seen).await.unwrap();
        server.write_all(&seen).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server.shutdown().await.unwrap();
    });
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let (client, response) = tokio_tungstenite::client_async(request, far).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    let (mut sink, mut stream) = futures_util::StreamExt::split(client);
    let sent = pattern(100_000);
    let messages = sent.chunks(777).map(|chunk| Message::Binary(chunk.to_vec().into())).collect::<Vec<_>>();
    let writer = tokio::spawn(async move {
        for message in messages {
            futures_util::SinkExt::send(&mut sink, message).await.unwrap();
        }
        sink
    });
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        match futures_util::StreamExt::next(&mut stream).await.unwrap().unwrap() {
            Message::Binary(payload) => seen.extend_from_slice(&payload),
            other => panic!("{other:?}"),
        }
    }
    assert!(seen == sent);
    let mut sink = writer.await.unwrap();
    futures_util::SinkExt::close(&mut sink).await.unwrap();
    server.await.unwrap();
}

#[test]
fn idle_connection_is_small() {
    let bytes = size_of::<WsStream<()>>();
    assert!(bytes <= 80, "{bytes} bytes besides the transport");
}
