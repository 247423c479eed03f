//! One line for each connection that was refused, or ended other than by the device's wish: who, where, why. So many lines in a
//! second, for one source and in all; what has no line is counted, and a line says how many these were. Costs less than a
//! refusal: a few atomic operations, no lock, no memory that grows.

use std::fmt;
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;
use mqtt::ReasonCode;
use tokio::time::{Duration, Instant};

use crate::admission::Source;
use crate::reason::{CloseReason, HandshakeFailure, HandshakeStage};

/// Sources that are told apart; those that fall together share their lines.
const SOURCES: usize = 4_096;

/// Lines of one source: so many at once, then one in this time.
const SOURCE_BURST: u64 = 10;
const SOURCE_EVERY: Duration = Duration::from_secs(1);

/// Lines in all: as many at once as come in so many seconds.
const BURST_S: u64 = 2;

/// Between two lines about what has no line of its own.
const SUMMARY_EVERY: Duration = Duration::from_secs(60);

/// Characters of a name that are shown.
const SHOWN_MAX: usize = 128;

/// A rate: the moment, in microseconds, at which all that was let through is paid for.
#[derive(Debug, Default)]
struct Rate(AtomicU64);

impl Rate {
    /// Whether one more may pass, when one may in `every_us` and `burst` at once.
    fn admits(&self, now_us: u64, every_us: u64, burst: u64) -> bool {
        let pay = |paid: u64| {
            let paid = paid.max(now_us);
            (paid - now_us <= every_us * (burst - 1)).then_some(paid + every_us)
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }
}

/// Says it, or counts it.
pub(crate) struct Reports {
    started: Instant,
    lines_per_s: u64,
    sources: Box<[Rate]>,
    all: Rate,
    /// Of which every bit depends on the whole key, for few of them are used.
    hasher: RandomState,
    left_out: AtomicU64,
    lost: AtomicU64,
    /// Of the last summary, microseconds after `started`.
    summed_up_us: AtomicU64,
}

/// A connection that was not served, or no longer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report<'a> {
    pub(crate) listener: &'a str,
    pub(crate) peer: SocketAddr,
    /// `None` before CONNECT was read.
    pub(crate) client_id: Option<&'a str>,
    /// Who it is, or says to be.
    pub(crate) user: Option<&'a str>,
}

impl Reports {
    /// At most so many lines in a second; 0 for none.
    pub(crate) fn new(lines_per_s: u32) -> Self {
        Self {
            started: Instant::now(),
            lines_per_s: lines_per_s.into(),
            sources: (0..SOURCES).map(|_| Rate::default()).collect(),
            all: Rate::default(),
            hasher: RandomState::default(),
            left_out: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            summed_up_us: AtomicU64::new(0),
        }
    }

    /// CONNECT was answered by a refusal, or by a close.
    pub(crate) fn refused(&self, report: &Report<'_>, reason: ReasonCode) {
        if self.has_line(report.peer) {
            line(report, reason.label(), Some(reason), "connection refused");
        }
    }

    /// The handshake came to nothing. What becomes of a CONNECT is told by [`Reports::refused`].
    pub(crate) fn failed(&self, report: &Report<'_>, stage: HandshakeStage, failure: HandshakeFailure) {
        let is_told = match (stage, failure) {
            // A device, a load balancer's health check or a scanner that has gone by itself, or has said nothing.
            (_, HandshakeFailure::ConnectionLost) | (HandshakeStage::FirstByte, _) => return,
            // Too many have come, and this is one of them.
            (_, HandshakeFailure::Overload) => return,
            (_, HandshakeFailure::Refused) | (HandshakeStage::Authentication, _) => true,
            (HandshakeStage::Connect, failure) => failure == HandshakeFailure::Invalid,
            _ => false,
        };
        if is_told {
            return;
        }
        if self.has_line(report.peer) {
            let reason = format!("{}: {}", stage.label(), failure.label());
            line(report, &reason, None, "connection refused");
        }
    }

    /// The connection has ended.
    pub(crate) fn ended(&self, report: &Report<'_>, reason: CloseReason) {
        match reason {
            CloseReason::ClientDisconnect | CloseReason::Shutdown => {}
            // Of a fleet on mobile networks that is most of them, and says nothing about any one.
            CloseReason::ConnectionClosed | CloseReason::ConnectionLost => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            CloseReason::Worker(code) if !code.is_error() => {}
            _ if self.has_line(report.peer) => {
                line(report, reason.label(), reason.code(), "connection ended");
            }
            _ => {}
        }
    }

    /// Says how many had no line, if it is time and there were any. To be called every few seconds.
    pub(crate) fn sum_up(&self) {
        let (now_us, before_us) = (self.now_us(), self.summed_up_us.load(Ordering::Relaxed));
        if now_us - before_us < SUMMARY_EVERY.as_micros() as u64 {
            return;
        }
        self.summed_up_us.store(now_us, Ordering::Relaxed);
        let within_s = (now_us - before_us) / 1_000_000;
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            tracing::info!(left_out, within_s, "more connections were refused or ended than have a line");
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::info!(lost, within_s, "connections were closed or lost without DISCONNECT");
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn has_line(&self, peer: SocketAddr) -> bool {
        if self.lines_per_s == 0 {
            return false;
        }
        let now_us = self.now_us();
        let source = self.hasher.hash_one(Source::of(peer)) as usize % SOURCES;
        // The source first: one that has had its lines takes none from others.
        let has_line = self.sources[source].admits(now_us, SOURCE_EVERY.as_micros() as u64, SOURCE_BURST)
            && self.all.admits(now_us, 1_000_000 / self.lines_per_s, self.lines_per_s * BURST_S);
        if !has_line {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        has_line
    }
}

fn line(report: &Report<'_>, reason: &str, code: Option<ReasonCode>, what: &'static str) {
    let Report { listener, peer, client_id, user } = *report;
    let client_id = client_id.map(|client_id| tracing::field::debug(Printable(client_id)));
    let user = user.filter(|user| !user.is_empty()).map(|user| tracing::field::debug(Printable(user)));
    let code = code.map(|code| tracing::field::display(format!("0x{:02X}", code.as_u8())));
    tracing::info!(listener, %peer, client_id, user, reason, code, "{what}");
}

/// A name that a client chose, no longer than a line can bear; quoted and escaped unless it is plain.
struct Printable<'a>(&'a str);

fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@+".contains(&byte);
    !name.is_empty() && name.bytes().all(is_plain)
}

impl fmt::Debug for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN_MAX) {
            None if is_plain(self.0) => f.write_str(self.0),
            None => fmt::Debug::fmt(self.0, f),
            Some((end, _)) => write!(f, "{:?}... ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 1_883))
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_has_its_lines_and_takes_none_from_others() {
        let reports = Reports::new(1_000);
        let lines = (0..10_000).filter(|_| reports.has_line(peer(1))).count();
        assert_eq!(lines as u64, SOURCE_BURST);
        assert!(reports.has_line(peer(2)));
        assert_eq!(reports.left_out.load(Ordering::Relaxed), 10_000 - SOURCE_BURST);
        tokio::time::advance(SOURCE_EVERY).await;
        assert!(reports.has_line(peer(1)) && !reports.has_line(peer(1)), "one more in a second");
    }

    #[tokio::test(start_paused = true)]
    async fn all_sources_together_have_so_many_lines() {
        let reports = Reports::new(20);
        let sources = || (0..=255).filter(|host| reports.has_line(peer(*host))).count();
        assert_eq!(sources(), 40);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(sources(), 20);
        assert!(!Reports::new(0).has_line(peer(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_line_is_summed_up_once() {
        let reports = Reports::new(1);
        let report = Report { listener: "mqtt", peer: peer(1), client_id: None, user: None };
        reports.ended(&report, CloseReason::ConnectionLost);
        for _ in 0..100 {
            reports.ended(&report, CloseReason::KeepAliveTimeout);
            reports.ended(&report, CloseReason::ClientDisconnect);
        }
        let counts = || (reports.left_out.load(Ordering::Relaxed), reports.lost.load(Ordering::Relaxed));
        assert_eq!(counts(), (98, 1));
        reports.sum_up();
        assert_eq!(counts(), (98, 1), "not yet");
        tokio::time::advance(SUMMARY_EVERY).await;
        reports.sum_up();
        assert_eq!(counts(), (0, 0));
    }

    #[test]
    fn names_are_escaped_and_bounded() {
        let shown = |name: &str| format!("{:?}", Printable(name));
        assert_eq!(shown("a\n\u{1b}[31m\"b\""), r#""a\n\u{1b}[31m\"b\"""#);
        assert_eq!((&*shown("ö"), &*shown("a code=0"), &*shown("")), ("\"ö\"", "\"a code=0\"", "\"\""));
        assert_eq!(shown("pump-7/x"), "pump-7/x");
        let long = shown(&"ä".repeat(60_000));
        assert!(long.ends_with("... (120000 bytes)") && long.chars().count() < 160, "{long}");
    }

    // Set against a refusal, which reads a CONNECT, writes a CONNACK and closes a socket.
    #[test]
    fn what_has_no_line_costs_next_to_nothing() {
        let reports = Reports::new(20);
        let began = std::time::Instant::now();
        for n in 0..100_000_u32 {
            reports.has_line(SocketAddr::from(((0x0A00_0000 + n).to_be_bytes(), 1)));
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}
