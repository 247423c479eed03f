//! Relays over an in-memory stream, under paused time.

mod late;
mod unread;
mod waiting;

use std::sync::Arc;

use authsvc::Request;
use link::{CloseCause, Upstream};
use mqtt::ReasonCode;
use testkit::connection::{bytes_of, connect, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout};

use super::*;
use crate::config::EdgeConfig;
use crate::connections::Holder;
use crate::fake::{self, FakeAuthenticator, FakeSession, FakeStream, FakeWorker, eventually};

const PINGREQ: &[u8] = b"\xC0\0";
const PINGRESP: &[u8] = b"\xD0\0";
/// PUBLISH at QoS 0 of `x` to `t`.
const PUBLISH: &[u8] = b"\x30\x05\0\x01t\0x";
/// PUBLISH at QoS 1, acknowledged by the fake worker at once.
const PUBLISH_1: &[u8] = b"\x32\x06\0\x01t\0\x01\0";

struct Setup {
    config: EdgeConfig,
    version: ProtocolVersion,
    keep_alive_s: u16,
    pipelined: &'static [u8],
    enhanced: bool,
    user: &'static str,
    pipe_bytes: usize,
    worker: FakeWorker,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: EdgeConfig::default(),
            version: ProtocolVersion::V5,
            keep_alive_s: 0,
            pipelined: b"",
            enhanced: false,
            user: "someone",
            pipe_bytes: 1 << 16,
            worker: FakeWorker::default(),
        }
    }
}

struct Running {
    device: DuplexStream,
    session: Arc<FakeSession>,
    shared: Arc<Shared>,
    relay: JoinHandle<()>,
}

fn enhanced() -> Enhanced<FakeAuthenticator> {
    let request = Request {
        client_id: "a".into(),
        username: None,
        password: None,
        peer: "127.0.0.1:1".parse().expect("address"),
        is_local: true,
        listener: "test".into(),
        certificate: None,
        protocol: ProtocolVersion::V5,
        clean_start: true,
    };
    Enhanced::new(Arc::new(FakeAuthenticator), "TWO-STEP".into(), usize::MAX, request)
}

impl Setup {
    /// Starts the relay and reads CONNACK.
    async fn start(self) -> Running {
        let connack = fake::connack(self.version);
        let mut running = self.start_silent().await;
        running.expect(&connack).await;
        running
    }

    async fn start_silent(self) -> Running {
        self.start_over(|io| io).await
    }

    /// The same over a stream that is made of the edge's end.
    async fn start_over<T: Wire + Send + 'static>(self, over: impl FnOnce(DuplexStream) -> T) -> Running {
        let admitted = fake::admitted(self.config);
        let shared = admitted.door().shared.clone();
        let (device, io) = tokio::io::duplex(self.pipe_bytes);
        let stream = self.worker.open(open(1, "a", bytes_of(&connect(self.version, "a"))));
        let session = self.worker.session(0).await;
        let holder = Holder { subject: self.user.into(), ..Holder::of("a") };
        let tenancy = Tenancy::begin(&shared.successions, holder).expect("the first");
        let handover = Handover {
            admitted,
            tenancy,
            version: self.version,
            keep_alive_s: self.keep_alive_s,
            terms: Terms::default(),
            pipelined: Bytes::from_static(self.pipelined),
            enhanced: self.enhanced.then(|| Box::new(enhanced())),
            tenure: None,
            pace: None,
            opening: None,
        };
        let relay = tokio::spawn(Relay::new(over(io), stream, handover));
        Running { device, session, shared, relay }
    }
}

impl Running {
    async fn send(&mut self, bytes: &[u8]) {
        self.device.write_all(bytes).await.expect("written");
    }

    async fn expect(&mut self, bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        timeout(Duration::from_secs(1_000), self.device.read_exact(&mut read))
            .await
            .unwrap_or_else(|_| panic!("{bytes:x?} did not come"))
            .unwrap_or_else(|error| panic!("{bytes:x?} {error}"));
        assert_eq!(read, bytes);
    }

    /// Reads what is left, and that the connection closes.
    async fn expect_end(mut self, bytes: &[u8]) -> Arc<FakeSession> {
        let mut rest = Vec::new();
        self.device.read_to_end(&mut rest).await.expect("closed");
        assert_eq!(rest, bytes);
        drop(self.device);
        self.relay.await.expect("ended");
        self.session
    }
}

#[test]
fn an_idle_connection_is_small() {
    type Idle = Relay<tokio::net::TcpStream, FakeStream, FakeAuthenticator>;
    // With what tokio keeps of a task, some 100 bytes, in 384: it allocates them in multiples of 128.
    assert!(size_of::<Idle>() <= 200, "{}", size_of::<Idle>());
}

#[tokio::test(start_paused = true)]
async fn packets_reach_the_worker_in_order_however_they_are_cut() {
    let stream = [PUBLISH, PINGREQ, PUBLISH_1, b"\x82\x07\0\x02\0\0\x01t\0", PUBLISH].concat();
    for cut in 0..stream.len() {
        let mut running = Setup::default().start().await;
        running.send(&stream[..cut]).await;
        tokio::task::yield_now().await;
        running.send(&stream[cut..]).await;
        running.expect(PINGRESP).await;
        running.expect(b"\x40\x02\0\x01").await;
        running.send(PINGREQ).await;
        running.expect(PINGRESP).await;
        let packets = running.session.packets();
        assert_eq!(packets, [PUBLISH, PUBLISH_1, b"\x82\x07\0\x02\0\0\x01t\0", PUBLISH], "cut at {cut}");
        assert_eq!(running.shared.receive_buffered(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_with_connect_is_answered_after_connack() {
    let setup = Setup { pipelined: b"\x32\x06\0\x01t\0\x01\0\xC0\0\xC0", ..Setup::default() };
    let mut running = setup.start().await;
    running.expect(b"\x40\x02\0\x01").await;
    running.expect(PINGRESP).await;
    running.send(b"\0").await;
    running.expect(PINGRESP).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_before_connack() {
    let mut worker = FakeWorker::default();
    worker.holds_connack = true;
    let mut running = Setup { worker, pipelined: PINGREQ, ..Setup::default() }.start_silent().await;
    running.send(PUBLISH_1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(running.session.packets().is_empty());
    running.session.push(fake::connack(ProtocolVersion::V5));
    running.expect(&fake::connack(ProtocolVersion::V5)).await;
    running.expect(PINGRESP).await;
    running.expect(b"\x40\x02\0\x01").await;
}

#[tokio::test(start_paused = true)]
async fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    for (version, farewell) in [(ProtocolVersion::V5, &b"\xE0\x01\x8D"[..]), (ProtocolVersion::V311, b"")] {
        let mut running = Setup { version, keep_alive_s: 10, ..Setup::default() }.start().await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(14)).await;
            running.send(PINGREQ).await;
            running.expect(PINGRESP).await;
        }
        let silent_since = Instant::now();
        let session = running.expect_end(farewell).await;
        let silence = silent_since.elapsed();
        assert!(silence >= Duration::from_secs(15) && silence < Duration::from_millis(15_100), "{silence:?}");
        assert_eq!(session.closed(), Some(CloseCause::Abnormal));
    }
}

#[tokio::test(start_paused = true)]
async fn dripping_bytes_are_no_sign_of_life() {
    let mut running = Setup { keep_alive_s: 10, ..Setup::default() }.start().await;
    running.send(b"\x30\xFF\x7F").await;
    let mut byte = [0];
    let mut ticks = 0;
    while timeout(Duration::from_secs(1), running.device.read(&mut byte)).await.is_err() {
        running.send(b"x").await;
        ticks += 1;
        assert!(ticks < 20, "still connected");
    }
    assert_eq!(running.session.closed(), Some(CloseCause::Abnormal));
}

#[tokio::test(start_paused = true)]
async fn keep_alive_stands_still_while_nothing_is_read() {
    let mut running = Setup { keep_alive_s: 10, ..Setup::default() }.start().await;
    running.session.set_full(true);
    running.send(PINGREQ).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(running.session.closed(), None);
    running.session.set_full(false);
    // What was read before the worker was full is answered, too.
    running.expect(PINGRESP).await;
    tokio::time::sleep(Duration::from_secs(14)).await;
    running.send(PINGREQ).await;
    running.expect(PINGRESP).await;
}

#[tokio::test(start_paused = true)]
async fn room_that_a_turn_makes_is_used() {
    let mut running = Setup::default().start().await;
    running.session.set_full(true);
    running.send(PINGREQ).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.session.make_room();
    running.expect(PINGRESP).await;
}

#[tokio::test(start_paused = true)]
async fn without_keep_alive_silence_lasts() {
    let mut running = Setup::default().start().await;
    tokio::time::sleep(Duration::from_secs(1_000_000)).await;
    running.send(PINGREQ).await;
    running.expect(PINGRESP).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_opened_in_time_is_refused() {
    for (version, refusal) in
        [(ProtocolVersion::V5, &b"\x20\x03\0\x88\0"[..]), (ProtocolVersion::V311, b"\x20\x02\0\x03")]
    {
        let mut worker = FakeWorker::default();
        worker.holds_connack = true;
        let running = Setup { version, worker, ..Setup::default() }.start_silent().await;
        let since = Instant::now();
        let ended = timeout(Duration::from_secs(600), running.expect_end(refusal)).await;
        assert_eq!(ended.expect("it ends").closed(), Some(CloseCause::Unanswered));
        assert_eq!(since.elapsed().as_secs(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn bad_packets_are_answered_with_their_reason_code() {
    let config = EdgeConfig { packet_bytes_max: 1_024, ..EdgeConfig::default() };
    for (packet, code) in [
        // A second CONNECT. v5 [MQTT-3.1.0-2]
        (&b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0"[..], 0x82),
        // AUTH without an Authentication Method in CONNECT. v5 [MQTT-4.12.0-7]
        (b"\xF0\x02\x19\0", 0x82),
        // What only servers send.
        (b"\x20\x03\0\0\0", 0x82),
        (b"\xD0\0", 0x82),
        // Reserved type, wrong flags, a length of five bytes, PINGREQ with a payload, a length that is not minimal.
        (b"\x00\0", 0x81),
        (b"\xC1\0", 0x81),
        (b"\x30\xFF\xFF\xFF\xFF\x01", 0x81),
        (b"\xC0\x01\0", 0x81),
        (b"\xC0\x80\0", 0x81),
        // Too large: refused before its body comes.
        (b"\x30\xFE\x07", 0x95),
    ] {
        let mut running = Setup { config: config.clone(), ..Setup::default() }.start().await;
        running.send(packet).await;
        running.send(PUBLISH).await;
        let session = running.expect_end(&[0xE0, 0x01, code]).await;
        assert!(session.packets().is_empty(), "{packet:x?}");
        assert_eq!(session.closed(), Some(CloseCause::Abnormal), "{packet:x?}");

        let mut running =
            Setup { config: config.clone(), version: ProtocolVersion::V311, ..Setup::default() }
                .start()
                .await;
        running.send(packet).await;
        if packet != b"\xC0\x80\0" {
            running.expect_end(b"").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_looked_at_after_disconnect() {
    let mut running = Setup::default().start().await;
    running.send(&[PUBLISH, b"\xE0\0", PUBLISH, PINGREQ].concat()).await;
    let session = running.expect_end(b"").await;
    assert_eq!(session.packets(), [PUBLISH, b"\xE0\0"]);
    assert_eq!(session.closed(), Some(CloseCause::Abnormal));
}

/// SUBSCRIBE to `t`, and its SUBACK.
#[tokio::test(start_paused = true)]
async fn a_refused_packet_ends_the_connection_after_the_workers_last_words() {
    let mut running = Setup::default().start().await;
    running.send(&[PUBLISH_1, b"\x30\x06\0\x03bad\0", PUBLISH].concat()).await;
    let session = running.expect_end(b"\x40\x02\0\x01\xE0\x01\x90").await;
    assert_eq!(session.packets().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_may_end_the_connection() {
    let running = Setup::default().start().await;
    running.session.push(&b"\xE0\x01\x8E"[..]);
    running.session.end(ReasonCode::SessionTakenOver);
    let session = running.expect_end(b"\xE0\x01\x8E").await;
    assert_eq!(session.closed(), Some(CloseCause::Abnormal));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_close_is_waited_for_no_longer_than_the_linger_time() {
    let running = Setup::default().start().await;
    let since = Instant::now();
    running.session.end(ReasonCode::SessionTakenOver);
    running.relay.await.expect("ended");
    assert_eq!(since.elapsed().as_millis() / 10, 200);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_an_abnormal_close() {
    let running = Setup::default().start().await;
    drop(running.device);
    running.relay.await.expect("ended");
    assert_eq!(running.session.closed(), Some(CloseCause::Abnormal));
    assert_eq!(running.shared.admission.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_holds_most_of_incomplete_packets_beyond_the_bound_of_all_is_ended() {
    let config =
        EdgeConfig { receive_buffer_bytes_max: 5_000, packet_bytes_max: 4_096, ..EdgeConfig::default() };
    for (others, is_ended) in [(1_000, true), (4_000, false)] {
        let mut running = Setup { config: config.clone(), ..Setup::default() }.start().await;
        let shared = running.shared.clone();
        let slots = [others, 5_000 - 1_000 - others].map(|bytes| {
            let slot = shared.relays.insert(std::task::Waker::noop().clone());
            shared.hold(slot, bytes);
            slot
        });
        running.send(&[&b"\x30\x80\x1E"[..], &[0; 900]].concat()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(running.session.closed(), None);
        running.send(&[0; 2_200]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(shared.relays.incomplete.is_condemned(slots[0]), !is_ended);
        if is_ended {
            running.expect_end(b"\xE0\x01\x97").await;
            assert_eq!(shared.receive_buffered(), 4_000);
        } else {
            assert_eq!((running.session.closed(), shared.receive_buffered()), (None, 7_103));
        }
    }
}

fn auth(reason: u8, method: &str, data: &str) -> Vec<u8> {
    let length = |text: &str| [0, text.len() as u8];
    let properties =
        [b"\x15", &length(method)[..], method.as_bytes(), b"\x16", &length(data), data.as_bytes()].concat();
    [&[0xF0, 2 + properties.len() as u8, reason, properties.len() as u8], &properties[..]].concat()
}

#[tokio::test(start_paused = true)]
async fn re_authentication_renews_the_passport_while_packets_flow() {
    let mut running = Setup { enhanced: true, ..Setup::default() }.start().await;
    for round in 1..=2 {
        running.send(&auth(0x19, "TWO-STEP", "hello")).await;
        running.expect(&auth(0x18, "TWO-STEP", "really?")).await;
        running.send(PINGREQ).await;
        running.expect(PINGRESP).await;
        running.send(&auth(0x18, "TWO-STEP", "yes")).await;
        running.expect(&auth(0x00, "TWO-STEP", "well")).await;
        assert_eq!(running.session.renewed(), round);
    }
    assert!(running.session.packets().is_empty(), "AUTH ends at the edge");
}

// It is not told that it has succeeded. v5 [MQTT-4.12.1-2]
#[tokio::test(start_paused = true)]
async fn who_authenticates_anew_as_another_user_has_failed() {
    let mut running = Setup { enhanced: true, user: "another", ..Setup::default() }.start().await;
    running.send(&auth(0x19, "TWO-STEP", "hello")).await;
    running.expect(&auth(0x18, "TWO-STEP", "really?")).await;
    running.send(&auth(0x18, "TWO-STEP", "yes")).await;
    let session = running.expect_end(&[0xE0, 0x01, 0x87]).await;
    assert_eq!(session.renewed(), 0);
}

#[tokio::test(start_paused = true)]
async fn failed_re_authentication_ends_the_connection() {
    for (last, code) in [
        (auth(0x18, "TWO-STEP", "no"), 0x87),
        (auth(0x18, "OTHER", "yes"), 0x82),
        (auth(0x19, "TWO-STEP", "yes"), 0x82),
        (b"\xF0\x02\x18\0".to_vec(), 0x82),
    ] {
        let mut running = Setup { enhanced: true, ..Setup::default() }.start().await;
        running.send(&auth(0x19, "TWO-STEP", "hello")).await;
        running.expect(&auth(0x18, "TWO-STEP", "really?")).await;
        running.send(&last).await;
        let session = running.expect_end(&[0xE0, 0x01, code]).await;
        assert_eq!((session.renewed(), session.closed()), (0, Some(CloseCause::Abnormal)));
    }
}

#[tokio::test(start_paused = true)]
async fn draining_tells_the_device_and_aborting_does_not() {
    for (version, farewell) in [(ProtocolVersion::V5, &b"\xE0\x01\x8B"[..]), (ProtocolVersion::V31, b"")] {
        let running = Setup { version, ..Setup::default() }.start().await;
        running.shared.enter(Phase::Draining);
        assert!(!running.shared.relays.dismiss(1));
        let session = running.expect_end(farewell).await;
        assert_eq!(session.closed(), Some(CloseCause::Shutdown));
    }
    let running = Setup::default().start().await;
    running.shared.enter(Phase::Aborting);
    let session = running.expect_end(b"").await;
    assert_eq!(session.closed(), Some(CloseCause::Shutdown));
}

proptest::proptest! {
    /// Whatever comes, in whatever pieces: the relay ends by itself or when the device goes, and leaves nothing behind.
    #[test]
    fn no_bytes_upset_a_relay(
        packets in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::strategy::Just(PUBLISH.to_vec()),
                proptest::strategy::Just(PUBLISH_1.to_vec()),
                proptest::strategy::Just(PINGREQ.to_vec()),
                proptest::strategy::Just(auth(0x19, "TWO-STEP", "hello")),
                proptest::strategy::Just(auth(0x18, "TWO-STEP", "yes")),
                proptest::collection::vec(proptest::num::u8::ANY, 1..12),
            ],
            0..12,
        ),
        piece in 1_usize..40,
        is_v5 in proptest::bool::ANY,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let version = if is_v5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
            let setup = Setup { version, enhanced: is_v5, keep_alive_s: 5, ..Setup::default() };
            let mut running = setup.start().await;
            for chunk in packets.concat().chunks(piece) {
                if running.device.write_all(chunk).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(running.device);
            timeout(Duration::from_secs(60), running.relay).await.expect("in time").expect("no panic");
            assert_eq!(running.session.closed(), Some(CloseCause::Abnormal));
            assert_eq!((running.shared.receive_buffered(), running.shared.admission.connections()), (0, 0));
        });
    }
}
