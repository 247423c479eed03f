//! Passports that end, under paused time: how they are renewed, and who has to go.

use std::collections::VecDeque;

use authsvc::Step;
use link::{CloseCause, Upstream};
use mqtt::{Connect, ProtocolVersion};
use parking_lot::Mutex;
use testkit::connection::bytes_of;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;

use super::*;
use crate::config::EdgeConfig;
use crate::connections::Holder;
use crate::fake::{self, FakeSession, FakeWorker, eventually};
use crate::relay::{Enhanced, Handover, Relay, Terms};

/// Of every passport, seconds.
const LIFE_S: u64 = 1_000;

/// Answers as it was told, and then allows.
#[derive(Default)]
struct Clerk {
    answers: Mutex<VecDeque<DenyReason>>,
    asked: Mutex<Vec<(Instant, Request)>>,
    /// Holds every answer back until it is told.
    holds: Option<Notify>,
    /// Passports never end, and rules may become others.
    is_lasting: bool,
    /// An Authentication Method has two steps.
    asks_back: bool,
}

impl Clerk {
    fn denies(answers: &[DenyReason]) -> Self {
        Self { answers: Mutex::new(answers.iter().copied().collect()), ..Self::default() }
    }

    fn passport(&self, client_id: &str) -> Passport {
        let passport = passport(client_id);
        Passport { expires_at_s: passport.expires_at_s.filter(|_| !self.is_lasting), ..passport }
    }

    fn times(&self) -> Vec<Instant> {
        self.asked.lock().iter().map(|(at, _)| *at).collect()
    }
}

impl Authenticator for Clerk {
    type Exchange = Word;

    async fn authenticate(&self, request: Request) -> Decision {
        let client_id = request.client_id.clone();
        self.asked.lock().push((Instant::now(), request));
        if let Some(holds) = &self.holds {
            holds.notified().await;
        }
        match self.answers.lock().pop_front() {
            Some(reason) => Decision::Deny(reason),
            None => Decision::Allow(Arc::new(self.passport(&client_id))),
        }
    }

    fn rules_may_change(&self) -> bool {
        self.is_lasting
    }

    fn begin(&self, _method: &str, request: Request) -> Option<Word> {
        self.asked.lock().push((Instant::now(), request));
        let last = match self.answers.lock().pop_front() {
            Some(reason) => Step::Deny(reason),
            None => Step::Done(Arc::new(passport("a")), None),
        };
        let first = self.asks_back.then_some(Step::Continue(Bytes::from_static(b"?")));
        Some(Word { answers: first.into_iter().chain([last]).collect() })
    }
}

/// An Authentication Method that goes on as it was told.
struct Word {
    answers: VecDeque<Step>,
}

impl authsvc::Exchange for Word {
    async fn step(&mut self, _data: Option<&[u8]>) -> Step {
        self.answers.pop_front().expect("an answer")
    }
}

fn passport(client_id: &str) -> Passport {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let expires_at_s = Some(now.as_secs() + LIFE_S);
    Passport { expires_at_s, ..Passport::unrestricted("alice".into(), client_id.into()) }
}

fn connect(version: ProtocolVersion) -> Bytes {
    let (user_name, password) = (Some("alice"), Some(&b"secret"[..]));
    bytes_of(&Connect { user_name, password, ..testkit::connection::connect(version, "a") })
}

fn asker() -> Asker {
    Asker {
        connect: connect(ProtocolVersion::V5),
        client_id: "a".into(),
        peer: ([192, 0, 2, 1].into(), 1),
        is_local: false,
        listener: "test".into(),
        certificate: None,
    }
}

struct Running {
    device: DuplexStream,
    session: Arc<FakeSession>,
    clerk: Arc<Clerk>,
    since: Instant,
    shared: Arc<Shared>,
}

/// A connected device; with `method` it used an Authentication Method.
async fn start(clerk: &Arc<Clerk>, config: EdgeConfig, version: ProtocolVersion, method: bool) -> Running {
    let admitted = fake::admitted(config);
    let shared = admitted.door().shared.clone();
    let asker = Asker {
        connect: connect(version),
        client_id: "a".into(),
        peer: ([192, 0, 2, 1].into(), 1),
        is_local: false,
        listener: "test".into(),
        certificate: None,
    };
    let request = asker.request().expect("a CONNECT");
    let (mut device, io) = tokio::io::duplex(1 << 16);
    let worker = FakeWorker::default();
    let open = link::Open {
        connection_id: link::ConnectionId(1),
        attempt: 1,
        peer: link::Peer { address: asker.peer.into(), listener: "test".into(), certificate_subject: None },
        passport: Arc::new(clerk.passport("a")),
        connect: asker.connect.clone(),
        assigned_client_id: None,
        server_keep_alive_s: None,
        authentication: None,
        resume: None,
    };
    let tenure = Tenure::new(&open.passport, clerk, (!method).then_some(asker), 0, &shared);
    let stream = worker.open(open);
    let session = worker.session(0).await;
    let holder = Holder { subject: "alice".into(), ..Holder::of("a") };
    let tenancy = crate::connections::Tenancy::begin(&shared.successions, holder).expect("the first");
    let handover = Handover {
        admitted,
        tenancy,
        version,
        keep_alive_s: 0,
        terms: Terms::default(),
        pipelined: Bytes::new(),
        enhanced: method.then(|| Box::new(Enhanced::new(clerk.clone(), "WORD".into(), usize::MAX, request))),
        tenure,
        pace: None,
        opening: None,
    };
    let since = Instant::now();
    tokio::spawn(Relay::new(io, stream, handover));
    let mut connack = fake::connack(version).to_vec();
    device.read_exact(&mut connack).await.expect("CONNACK");
    Running { device, session, clerk: clerk.clone(), since, shared }
}

impl Running {
    /// What comes until the connection ends, and when that is, seconds.
    async fn end(&mut self) -> (Vec<u8>, u64) {
        let mut rest = Vec::new();
        let end = self.device.read_to_end(&mut rest);
        timeout(Duration::from_secs(10 * LIFE_S), end).await.expect("it ends").expect("read");
        (rest, self.since.elapsed().as_secs())
    }

    fn counted(&self, result: &'static str) -> u64 {
        self.shared.metrics.passport_renewals.get((result,))
    }
}

async fn plain(clerk: Clerk, config: EdgeConfig) -> Running {
    start(&Arc::new(clerk), config, ProtocolVersion::V5, false).await
}

// Beside CONNECT, which between processes is kept anyway.
#[test]
fn what_is_kept_of_a_passport_that_ends_is_small() {
    assert!(size_of::<Tenure<Clerk>>() <= 168, "{}", size_of::<Tenure<Clerk>>());
}

#[tokio::test(start_paused = true)]
async fn a_passport_is_renewed_early_as_often_as_it_has_to_be() {
    let running = plain(Clerk::default(), EdgeConfig::default()).await;
    tokio::time::sleep(Duration::from_secs(10 * LIFE_S)).await;
    let times = running.clerk.times();
    assert!((11..=14).contains(&times.len()), "{times:?}");
    let mut last = running.since;
    for at in times {
        // The passports of this test are made with whole seconds.
        let waited = (at - last).as_secs_f64() / LIFE_S as f64;
        assert!((0.69..=0.91).contains(&waited), "{waited}");
        last = at;
    }
    assert_eq!(running.session.renewed(), running.clerk.times().len());
    assert_eq!(running.counted("renewed"), running.session.renewed() as u64);
    let (_, request) = running.clerk.asked.lock().pop().expect("asked");
    assert_eq!(
        (request.username.as_deref(), request.password.as_deref()),
        (Some("alice"), Some(&b"secret"[..]))
    );
    assert_eq!((&*request.client_id, &*request.listener), ("a", "test"));
    assert_eq!((running.session.closed(), request.protocol), (None, ProtocolVersion::V5));
}

#[tokio::test(start_paused = true)]
async fn devices_that_came_at_once_are_not_renewed_at_once() {
    let clerk = Arc::new(Clerk::default());
    let mut all = Vec::new();
    for _ in 0..200 {
        all.push(start(&clerk, EdgeConfig::default(), ProtocolVersion::V311, false).await);
    }
    tokio::time::sleep(Duration::from_secs(LIFE_S)).await;
    let mut in_tenth = [0; 10];
    for at in clerk.times() {
        in_tenth[((at - all[0].since).as_secs() * 10 / LIFE_S) as usize] += 1;
    }
    // One second of rounding may lie on either side.
    assert!(in_tenth[7] > 60 && in_tenth[8] > 60 && in_tenth[6] + in_tenth[9] < 10, "{in_tenth:?}");
}

/// So many devices, whose passports never end.
async fn lasting(clerk: Clerk, count: usize) -> (Arc<Clerk>, Vec<Running>) {
    let clerk = Arc::new(Clerk { is_lasting: true, ..clerk });
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(start(&clerk, EdgeConfig::default(), ProtocolVersion::V5, false).await);
    }
    (clerk, all)
}

#[tokio::test(start_paused = true)]
async fn a_device_is_asked_about_anew_when_rules_became_others() {
    let (clerk, all) = lasting(Clerk::denies(&[DenyReason::Unavailable]), 1).await;
    tokio::time::sleep(Duration::from_secs(100 * 86_400)).await;
    assert!(clerk.times().is_empty(), "a passport that never ends is not renewed");
    all[0].shared.relays.begin_round();
    eventually("it is renewed", || all[0].session.renewed() == 1).await;
    assert_eq!(clerk.times().len(), 2, "what could not be decided was asked again");
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(clerk.times().len(), 2, "once is enough");
    all[0].shared.relays.begin_round();
    eventually("it is renewed again", || all[0].session.renewed() == 2).await;
    assert_eq!(all[0].session.closed(), None);
}

#[tokio::test(start_paused = true)]
async fn who_was_asked_about_as_rules_became_others_is_asked_about_once_more() {
    let (clerk, all) = lasting(Clerk { holds: Some(Notify::new()), ..Clerk::default() }, 1).await;
    let release = || clerk.holds.as_ref().expect("held").notify_one();
    all[0].shared.relays.begin_round();
    eventually("it is asked about", || clerk.times().len() == 1).await;
    all[0].shared.relays.begin_round();
    tokio::time::sleep(Duration::from_secs(2)).await;
    release();
    eventually("it is asked about once more", || clerk.times().len() == 2).await;
    release();
    eventually("it is renewed twice", || all[0].session.renewed() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_came_as_rules_became_others_is_asked_about_anew() {
    let (clerk, shared) =
        (Arc::new(Clerk { is_lasting: true, ..Clerk::default() }), fake::admitted(EdgeConfig::default()));
    let shared = &shared.door().shared;
    let round = shared.relays.round.number();
    shared.relays.begin_round();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let passport = clerk.passport("a");
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for (round, asked) in [(round, 1), (shared.relays.round.number(), 1)] {
        let mut tenure = Tenure::new(&passport, &clerk, Some(asker()), round, shared).expect("it may change");
        let _ = tenure.poll(&mut cx, shared, 7, shared.now_ms());
        assert_eq!(clerk.times().len(), asked, "{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_denied_has_to_go() {
    for (version, farewell) in [(ProtocolVersion::V5, &b"\xE0\x01\x87"[..]), (ProtocolVersion::V311, b"")] {
        let clerk = Arc::new(Clerk::denies(&[DenyReason::BadCredentials]));
        let mut running = start(&clerk, EdgeConfig::default(), version, false).await;
        let (rest, after_s) = running.end().await;
        assert_eq!(rest, farewell);
        assert!((LIFE_S * 69 / 100..=LIFE_S * 91 / 100).contains(&after_s), "{after_s}");
        // As when the worker ends it: the Will is due.
        assert_eq!((running.session.closed(), running.session.renewed()), (Some(CloseCause::Abnormal), 0));
        assert_eq!((running.counted("denied"), running.counted("renewed")), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decided_is_asked_again_and_a_short_outage_goes_by_unnoticed() {
    let away = [DenyReason::Unavailable, DenyReason::SlowedDown, DenyReason::Unavailable];
    let running = plain(Clerk::denies(&away), EdgeConfig::default()).await;
    tokio::time::sleep(Duration::from_secs(LIFE_S)).await;
    assert_eq!((running.counted("unavailable"), running.counted("renewed")), (3, 1));
    let times = running.clerk.times();
    let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert!((250..=510).contains(&waits[0]) && (500..=1_010).contains(&waits[1]), "{waits:?}");
    assert_eq!((running.session.renewed(), running.session.closed()), (1, None));
}

#[tokio::test(start_paused = true)]
async fn an_outage_beyond_the_grace_ends_the_connection() {
    let config = EdgeConfig { passport_grace_ms: 200_000, ..EdgeConfig::default() };
    let mut running = plain(Clerk::denies(&[DenyReason::Unavailable; 10_000]), config).await;
    let (rest, after_s) = running.end().await;
    assert_eq!(rest, b"\xE0\x01\x87");
    assert!((LIFE_S + 199..=LIFE_S + 201).contains(&after_s), "{after_s}");
    let times = running.clerk.times();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("several");
    assert!(longest <= Duration::from_millis(BACKOFF_MS_MAX + 10), "{longest:?}");
    assert_eq!(running.session.closed(), Some(CloseCause::Abnormal));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_no_answer() {
    let clerk = Clerk { holds: Some(Notify::new()), ..Clerk::default() };
    let config = EdgeConfig { authenticate_timeout_ms: 5_000, ..EdgeConfig::default() };
    let mut running = plain(clerk, config).await;
    let (_, after_s) = running.end().await;
    assert!((LIFE_S + 59..=LIFE_S + 61).contains(&after_s), "{after_s}");
    assert!(running.counted("unavailable") > 5);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_renewed_at_once_than_may_be_and_all_have_their_turn() {
    let clerk = Arc::new(Clerk { holds: Some(Notify::new()), ..Clerk::default() });
    let config = EdgeConfig { renewals_max: 3, authenticate_timeout_ms: 300_000, ..EdgeConfig::default() };
    let seats = Arc::new(Semaphore::new(3));
    let asker = asker();
    let within = config.authenticate_timeout();
    let tasks: Vec<_> =
        (0..10).map(|_| tokio::spawn(renew(clerk.clone(), asker.clone(), seats.clone(), within))).collect();
    for done in 0..10_usize {
        let asked = (done + 3).min(10);
        eventually("the next are asked", || clerk.asked.lock().len() == asked).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(clerk.asked.lock().len(), asked);
        clerk.holds.as_ref().expect("held").notify_one();
    }
    for task in tasks {
        assert!(matches!(task.await.expect("ended"), Decision::Allow(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_with_an_authentication_method_renews_its_passport_itself_or_goes() {
    let clerk = Arc::new(Clerk::default());
    let mut running = start(&clerk, EdgeConfig::default(), ProtocolVersion::V5, true).await;
    tokio::time::sleep(Duration::from_secs(LIFE_S / 2)).await;
    // AUTH 0x19 with the method.
    running.device.write_all(b"\xF0\x09\x19\x07\x15\0\x04WORD").await.expect("written");
    eventually("it is renewed", || running.session.renewed() == 1).await;
    let (rest, after_s) = running.end().await;
    assert_eq!(rest, b"\xF0\x09\0\x07\x15\0\x04WORD\xE0\x01\x87");
    assert!((LIFE_S * 3 / 2 - 2..=LIFE_S * 3 / 2 + 1).contains(&after_s), "{after_s}");
    assert_eq!(running.clerk.times().len(), 1, "nothing was asked behind its back");
}

#[tokio::test(start_paused = true)]
async fn who_authenticates_anew_while_nobody_can_say_waits_and_goes_on() {
    let away = [DenyReason::Unavailable, DenyReason::SlowedDown, DenyReason::Unavailable];
    let clerk = Arc::new(Clerk::denies(&away));
    let mut running = start(&clerk, EdgeConfig::default(), ProtocolVersion::V5, true).await;
    running.device.write_all(b"\xF0\x09\x19\x07\x15\0\x04WORD\xC0\0").await.expect("written");
    eventually("it is renewed", || running.session.renewed() == 1).await;
    assert_eq!(clerk.times().len(), 4);
    let mut rest = [0; 13];
    running.device.read_exact(&mut rest).await.expect("AUTH");
    assert_eq!(rest, *b"\xD0\0\xF0\x09\0\x07\x15\0\x04WORD", "what follows AUTH does not wait");
    assert_eq!(running.session.closed(), None);

    // For ever, it goes with its passport.
    let clerk = Arc::new(Clerk::denies(&[DenyReason::Unavailable; 10_000]));
    let mut running = start(&clerk, EdgeConfig::default(), ProtocolVersion::V5, true).await;
    running.device.write_all(b"\xF0\x09\x19\x07\x15\0\x04WORD").await.expect("written");
    let (rest, after_s) = running.end().await;
    assert_eq!(rest, b"\xE0\x01\x87");
    assert!((LIFE_S - 2..=LIFE_S + 1).contains(&after_s), "{after_s}");

    // In the midst of an exchange the device has to begin again.
    let clerk = Arc::new(Clerk { asks_back: true, ..Clerk::denies(&[DenyReason::Unavailable]) });
    let mut running = start(&clerk, EdgeConfig::default(), ProtocolVersion::V5, true).await;
    running.device.write_all(b"\xF0\x09\x19\x07\x15\0\x04WORD").await.expect("written");
    let mut asked = [0; 15];
    running.device.read_exact(&mut asked).await.expect("AUTH");
    assert_eq!(asked, *b"\xF0\x0d\x18\x0b\x15\0\x04WORD\x16\0\x01?");
    running.device.write_all(b"\xF0\x09\x18\x07\x15\0\x04WORD").await.expect("written");
    assert_eq!(running.end().await.0, b"\xE0\x01\x89");
}

#[tokio::test(start_paused = true)]
async fn a_passport_for_another_client_is_none() {
    let clerk = Arc::new(Clerk::default());
    let shared = Arc::new(Shared::new(
        EdgeConfig::default(),
        crate::telemetry::metrics::Metrics::register(&mut Default::default()),
    ));
    let asker = asker();
    let mut tenure = Tenure::new(&passport("a"), &clerk, Some(asker), 0, &shared).expect("it ends");
    tenure.renewing = Some(Box::pin(async { Decision::Allow(Arc::new(passport("b"))) }));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert_eq!(tenure.poll(&mut cx, &shared, 0, shared.now_ms()), Poll::Ready(Verdict::Denied));
}

#[tokio::test(start_paused = true)]
async fn the_clock_is_right_however_long_a_passport_lasts() {
    let clerk = Arc::new(Clerk::default());
    let shared = Shared::new(
        EdgeConfig::default(),
        crate::telemetry::metrics::Metrics::register(&mut Default::default()),
    );
    let passport = |expires_at_s| Passport { expires_at_s, ..passport("a") };
    assert!(Tenure::new(&passport(None), &clerk, None, 0, &shared).is_none());
    let tenure = Tenure::new(&passport(Some(u64::MAX)), &clerk, None, 0, &shared).expect("it ends");
    assert!(tenure.ends_at > Instant::now() + Duration::from_secs(LIFE_S_MAX - 1));
    let ended = Tenure::new(&passport(Some(1)), &clerk, None, 0, &shared).expect("it ends");
    assert!(ended.ends_at <= Instant::now());

    // Longer than the clock of 32 bits counts: nothing happens too early.
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + days(100);
    let mut long = Tenure::new(&passport(Some(now.as_secs())), &clerk, None, 0, &shared).expect("it ends");
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for _ in 0..99 {
        tokio::time::sleep(days(1)).await;
        assert_eq!(long.poll(&mut cx, &shared, 0, shared.now_ms()), Poll::Pending);
    }
    tokio::time::sleep(days(2)).await;
    assert_eq!(long.poll(&mut cx, &shared, 0, shared.now_ms()), Poll::Ready(Verdict::Expired));
}
