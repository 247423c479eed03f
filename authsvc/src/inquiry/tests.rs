//! Questions of many who come at once: who waits, who pays, and who gets whom refused.

use bytes::Bytes;
use futures_util::poll;
use mqtt::ProtocolVersion;
use prometheus_client::registry::Registry;

use super::*;
use crate::verdict::Grant;

fn inquiry(concurrent_max: usize, queue: &QueueConfig) -> Inquiry {
    let config = InquiryConfig {
        when_away: WhenAway::Refuse,
        cache: &CacheConfig { allowed_ttl_s: 0, denied_ttl_s: 0, ..CacheConfig::default() },
        queue,
        breaker: &BreakerConfig::default(),
    };
    let metrics = Metrics::register(&mut Registry::default());
    let slow_down = Arc::new(SlowDown::new(10, Duration::from_secs(10), 1000));
    Inquiry::new("http", config, concurrent_max, Duration::from_secs(60), &metrics, &slow_down)
}

fn request(user: &str, password: &str, peer: &str) -> Request {
    Request {
        client_id: "c".into(),
        username: Some(user.into()),
        password: Some(Bytes::copy_from_slice(password.as_bytes())),
        peer: peer.parse().unwrap(),
        is_local: false,
        listener: "mqtt".into(),
        certificate: None,
        protocol: ProtocolVersion::V5,
        clean_start: true,
    }
}

/// Asks a service that gives this answer.
async fn ask(inquiry: &Inquiry, request: &Request, answer: Result<Reply, Fault>) -> Verdict {
    let (user, password) = (request.username.clone().unwrap(), request.password.clone().unwrap());
    let fingerprint = inquiry.fingerprint(&[user.as_bytes(), &password]);
    inquiry.ask(fingerprint, &user, request, || std::future::ready(answer.clone())).await
}

fn allow() -> Result<Reply, Fault> {
    Ok(Verdict::Allow(Grant::of("x".into())).into())
}

const REFUSED: Verdict = Verdict::Deny(DenyReason::NotAuthorized);
const UNAVAILABLE: Verdict = Verdict::Deny(DenyReason::Unavailable);

#[tokio::test(start_paused = true)]
async fn addresses_of_one_ipv6_network_share_their_turns() {
    let inquiry = inquiry(1, &QueueConfig { requests_max: 2, ..QueueConfig::default() });
    let [first, other, crowd, more] = [
        ("first", "198.51.100.1:1"),
        ("other", "192.0.2.1:1"),
        ("a", "[2001:db8::1]:1"),
        ("b", "[2001:db8::2]:1"),
    ]
    .map(|(user, peer)| request(user, "right", peer));
    let hangs = inquiry.ask(inquiry.fingerprint(&[b"first"]), "first", &first, std::future::pending);
    let mut hangs = Box::pin(hangs);
    assert!(poll!(&mut hangs).is_pending());
    let [mut other, mut crowd, mut more] =
        [&other, &crowd, &more].map(|request| Box::pin(ask(&inquiry, request, allow())));
    for waits in [&mut other, &mut crowd, &mut more] {
        assert!(poll!(waits).is_pending());
    }
    assert_eq!(crowd.await, UNAVAILABLE, "two of one network wait, and too many in all");
    assert!(poll!(&mut other).is_pending());
}

#[tokio::test]
async fn who_is_refused_though_its_password_is_right_or_without_one_pays_nothing() {
    let inquiry = inquiry(1, &QueueConfig::default());
    for _ in 0..20 {
        let right = request("alice", "right", "192.0.2.1:1");
        assert_eq!(ask(&inquiry, &right, Ok(Reply::right(REFUSED))).await, REFUSED);
        let silent = request("bob", "", "192.0.2.1:1");
        assert_eq!(ask(&inquiry, &silent, Ok(REFUSED.into())).await, REFUSED);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_makes_a_service_fail_keeps_nobody_else_out() {
    let inquiry = inquiry(1, &QueueConfig::default());
    for n in 0..20 {
        let odd = request("'; --", &n.to_string(), "192.0.2.1:1");
        assert_eq!(ask(&inquiry, &odd, Err(Fault::Failing)).await, UNAVAILABLE);
    }
    let other = request("alice", "right", "192.0.2.2:1");
    assert!(matches!(ask(&inquiry, &other, allow()).await, Verdict::Allow(_)));
}
