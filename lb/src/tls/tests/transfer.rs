//! Bytes both ways: chunking, backpressure, the end of the stream, key updates, and records that are wrong.

use std::io::IoSlice;
use std::task::Waker;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn every_chunking_carries_the_bytes() {
    let fixture = Fixture::new();
    let acceptor = fixture.server().acceptor();
    let sent = pattern(20_000);
    for version in BOTH {
        for bytes_max in [1, 2, 5, 100, 17_000, 100_000] {
            let client = fixture.client().with_version(version).config();
            let (mut server, mut client) =
                connect_through(&acceptor, client, "localhost", 70_000, |io| Trickle::new(io, bytes_max))
                    .await
                    .unwrap();
            let echo = async {
                let mut seen = vec![0; sent.len()];
                server.read_exact(&mut seen).await.unwrap();
                server.write_all(&seen).await.unwrap();
                server.shutdown().await.unwrap();
            };
            let send = async {
                client.write_all(&sent).await.unwrap();
                client.flush().await.unwrap();
                let mut back = Vec::new();
                client.read_to_end(&mut back).await.unwrap();
                assert_eq!(back.len(), sent.len());
                assert!(back == sent);
            };
            tokio::join!(echo, send);
        }
    }
}

#[tokio::test]
async fn small_reads_get_every_byte() {
    let fixture = Fixture::new();
    let (mut server, mut client) =
        connect(&fixture.server().acceptor(), fixture.client().config()).await.unwrap();
    let sent = pattern(30_000);
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut seen = Vec::new();
    let mut size = 1;
    loop {
        let mut part = vec![0; size];
        let count = server.read(&mut part).await.unwrap();
        if count == 0 {
            break;
        }
        seen.extend_from_slice(&part[..count]);
        size = size % 97 + 1;
    }
    assert!(seen == sent);
    assert!(!server.has_unread());
}

#[tokio::test]
async fn large_transfers_cross_in_a_narrow_pipe() {
    let mut fixture = Fixture::new();
    for (version, fragment) in [(BOTH[0], None), (BOTH[1], None), (BOTH[1], Some(512))] {
        fixture.config.fragment_bytes_max = fragment;
        let client = fixture.client().with_version(version).config();
        let outcome = connect_through(&fixture.server().acceptor(), client, "localhost", 61, |io| io).await;
        let (server, client) = outcome.unwrap();
        let sent = pattern(200_000);
        let (mut near_reads, mut near_writes) = tokio::io::split(server);
        let (mut far_reads, mut far_writes) = tokio::io::split(client);
        let check = sent.clone();
        let far = tokio::spawn(async move {
            let mut seen = vec![0; check.len()];
            far_reads.read_exact(&mut seen).await.unwrap();
            assert!(seen == check);
            far_reads
        });
        let check = sent.clone();
        let near = tokio::spawn(async move {
            let mut seen = vec![0; check.len()];
            near_reads.read_exact(&mut seen).await.unwrap();
            assert!(seen == check);
            near_reads
        });
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            far_writes.write_all(&copy).await.unwrap();
            far_writes.flush().await.unwrap();
            far_writes
        });
        near_writes.write_all(&sent).await.unwrap();
        near_writes.flush().await.unwrap();
        let (_far, _near, _writer) = (far.await.unwrap(), near.await.unwrap(), writer.await.unwrap());
    }
}

#[tokio::test]
async fn write_waits_for_a_peer_that_does_not_read() {
    let fixture = Fixture::new();
    let client = fixture.client().config();
    let outcome = connect_through(&fixture.server().acceptor(), client, "localhost", 4096, |io| io).await;
    let (mut server, mut client) = outcome.unwrap();
    let chunk = pattern(64 * 1024);
    let mut accepted = 0;
    let mut cx = Context::from_waker(Waker::noop());
    while accepted < chunk.len() {
        let Poll::Ready(count) = Pin::new(&mut server).poll_write(&mut cx, &chunk[accepted..]) else { break };
        accepted += count.unwrap();
    }
    assert!(server.has_unsent());
    // A task that only reads drives what waits.
    let reader = tokio::spawn(async move { server.read(&mut [0; 16]).await });
    let mut seen = vec![0; accepted];
    client.read_exact(&mut seen).await.unwrap();
    assert!(seen == chunk[..accepted]);
    client.shutdown().await.unwrap();
    assert_eq!(reader.await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn one_batch_waits_and_no_more() {
    let fixture = Fixture::new();
    let client = fixture.client().config();
    let outcome = connect_through(&fixture.server().acceptor(), client, "localhost", 4096, |io| io).await;
    let (mut server, _client) = outcome.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let chunk = pattern(1024 * 1024);
    let Poll::Ready(Ok(accepted)) = Pin::new(&mut server).poll_write(&mut cx, &chunk) else {
        panic!("refused")
    };
    assert_eq!(accepted, 64 * 1024);
    assert!(Pin::new(&mut server).poll_write(&mut cx, &chunk).is_pending());
    assert!(Pin::new(&mut server).poll_flush(&mut cx).is_pending());
}

#[tokio::test]
async fn gathered_slices_arrive_in_order() {
    let fixture = Fixture::new();
    let (mut server, mut client) =
        connect(&fixture.server().acceptor(), fixture.client().config()).await.unwrap();
    let (small, large) = (pattern(300), pattern(20_000));
    let parts: Vec<&[u8]> = vec![&small, &[], &large, b"x", &small, &large, &[]];
    let expected = parts.concat();
    let slices = parts.iter().map(|part| IoSlice::new(part)).collect::<Vec<_>>();
    assert!(server.is_write_vectored());
    assert_eq!(server.write_vectored(&slices).await.unwrap(), expected.len());
    let mut seen = vec![0; expected.len()];
    client.read_exact(&mut seen).await.unwrap();
    assert!(seen == expected);
    assert_eq!(server.write_vectored(&[IoSlice::new(&[])]).await.unwrap(), 0);
}

#[tokio::test]
async fn close_notify_is_the_end_and_its_absence_an_error() {
    let fixture = Fixture::new();
    let acceptor = fixture.server().acceptor();
    for version in BOTH {
        let config = fixture.client().with_version(version).config();
        let (mut server, mut client) = connect(&acceptor, Arc::clone(&config)).await.unwrap();
        client.write_all(b"bye").await.unwrap();
        client.shutdown().await.unwrap();
        let mut seen = Vec::new();
        server.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"bye");
        assert_eq!(server.read(&mut [0; 4]).await.unwrap(), 0, "stays at its end");
        server.write_all(b"and you").await.unwrap();
        server.shutdown().await.unwrap();
        let error = server.write_all(b"late").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"and you");

        let (mut server, mut client) = connect(&acceptor, config).await.unwrap();
        client.write_all(b"cut").await.unwrap();
        client.get_mut().0.shutdown().await.unwrap();
        server.read_exact(&mut [0; 3]).await.unwrap();
        let error = server.read(&mut [0; 4]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn transport_can_be_exchanged_with_data_waiting() {
    let fixture = Fixture::new();
    let (near, far) = duplex(64 * 1024);
    let connector = TlsConnector::from(fixture.client().config());
    let acceptor = fixture.server().acceptor();
    let client = async {
        let mut client = connector.connect(ServerName::try_from("localhost").unwrap(), far).await.unwrap();
        // May arrive together with the client's last flight.
        client.write_all(b"CONNECT").await.unwrap();
        client
    };
    let (server, mut client) = tokio::join!(acceptor.accept(near), client);
    let moved = server.unwrap().map_io(|io| Ok::<_, io::Error>(Trickle::new(io, 3)));
    let mut moved = moved.unwrap();
    let mut seen = [0; 7];
    moved.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"CONNECT");
    moved.write_all(b"CONNACK").await.unwrap();
    moved.flush().await.unwrap();
    client.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"CONNACK");
}

#[tokio::test]
async fn key_updates_are_followed() {
    let fixture = Fixture::new();
    let client = fixture.client().with_version(&version::TLS13).config();
    let (mut server, mut client) = connect(&fixture.server().acceptor(), client).await.unwrap();
    for round in 0..5_u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round]).await.unwrap();
        let mut seen = [0];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, [round]);
        server.write_all(&[round]).await.unwrap();
        client.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, [round]);
    }
}

/// The client's half of a TLS 1.3 connection with its keys laid open, to send what no client would.
struct RawClient {
    io: DuplexStream,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl RawClient {
    fn new(client: ClientStream<DuplexStream>) -> Self {
        let (io, connection) = client.into_inner();
        let (sequence, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("another suite") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Self { io, key, iv: iv.as_ref().try_into().unwrap(), sequence }
    }

    /// One record of the inner type `kind` (RFC 8446 section 5.2).
    fn record(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut nonce = self.iv;
        for (byte, key) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= key;
        }
        self.sequence += 1;
        let mut sealed = payload.to_vec();
        sealed.push(kind);
        let length = u16::try_from(sealed.len() + 16).unwrap().to_be_bytes();
        let header = [23, 3, 3, length[0], length[1]];
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).unwrap();
        [&header[..], &sealed].concat()
    }
}

async fn raw_pair() -> (TlsStream<DuplexStream>, RawClient) {
    let fixture = Fixture::new();
    let client = fixture.client().with_version(&version::TLS13).config();
    let (server, client) = connect(&fixture.server().acceptor(), client).await.unwrap();
    (server, RawClient::new(client))
}

#[tokio::test]
async fn message_in_pieces_may_wait_while_data_is_written() {
    let (mut server, mut client) = raw_pair().await;
    // The first bytes of a KeyUpdate (24): the server has to hold them and can still write.
    let first = client.record(22, &[24, 0, 0]);
    client.io.write_all(&first).await.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut room = [0; 16];
    assert!(Pin::new(&mut server).poll_read(&mut cx, &mut ReadBuf::new(&mut room)).is_pending());
    server.write_all(b"between").await.unwrap();
    // Its end, in one read with a record cut in the middle.
    let second = client.record(22, &[1, 0]);
    client.io.write_all(&second[..9]).await.unwrap();
    assert!(Pin::new(&mut server).poll_read(&mut cx, &mut ReadBuf::new(&mut room)).is_pending());
    server.write_all(b"again").await.unwrap();
    client.io.write_all(&second[9..]).await.unwrap();
    assert!(Pin::new(&mut server).poll_read(&mut cx, &mut ReadBuf::new(&mut room)).is_pending());
    server.write_all(b"after").await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn data_within_a_message_in_pieces_is_refused() {
    let (mut server, mut client) = raw_pair().await;
    let mut bytes = client.record(22, &[24, 0, 0]);
    bytes.extend(client.record(23, b"data"));
    client.io.write_all(&bytes).await.unwrap();
    let error = server.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn good_records_are_delivered_before_a_bad_one_ends_it() {
    let (mut server, mut client) = raw_pair().await;
    let mut bytes = client.record(23, b"good");
    let mut forged = client.record(23, b"forged");
    *forged.last_mut().unwrap() ^= 1;
    bytes.extend(forged);
    client.io.write_all(&bytes).await.unwrap();
    let mut seen = [0; 16];
    assert_eq!(server.read(&mut seen).await.unwrap(), 4);
    let error = server.read(&mut seen).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("does not decrypt"), "{error}");
    let error = server.write_all(b"late").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    // The alert went out: a record with two bytes inside, behind the one with the ticket.
    server.shutdown().await.unwrap();
    let mut told = Vec::new();
    client.io.read_to_end(&mut told).await.unwrap();
    assert!(told.len() > 24);
    assert_eq!(told[told.len() - 24..][..5], [23, 3, 3, 0, 19]);
}

#[tokio::test]
async fn forged_bytes_never_panic() {
    for seed in 0..200_u8 {
        let (mut server, mut client) = raw_pair().await;
        let kind = [20, 21, 22, 23, 24, seed][usize::from(seed) % 6];
        let bytes = client.record(kind, &pattern(usize::from(seed))[usize::from(seed) / 2..]);
        client.io.write_all(&bytes).await.unwrap();
        client.io.shutdown().await.unwrap();
        while let Ok(count) = server.read(&mut [0; 64]).await {
            if count == 0 {
                break;
            }
        }
        let _ = server.write_all(b"answer").await;
        let _ = server.shutdown().await;
    }
}
