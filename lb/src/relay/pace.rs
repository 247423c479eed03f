//! How fast a device may send and be sent, if its passport says so. Who is too fast is held back first: its packets wait, nothing
//! more is read, and TCP pushes back; Keep Alive stands still. Who never lets up is told 0x96 in the end, where there is such a
//! bound. Connections without limits have none of this.
//!
//! A second's worth may be saved up. A packet goes as soon as anything is there, and what it takes beyond that is owed: no packet
//! is too large to be ever sent. A connection begins with nothing saved, so that connecting anew brings nothing.

use std::sync::Arc;
use std::task::Context;

use authsvc::Authenticator;
use link::{Limits, Outgoing, Passport, Stream};
use mqtt::PacketType;

use super::{Relay, WRITE_BYTES};
use crate::connections::Seat;
use crate::shared::Shared;
use crate::transport::Wire;

/// Parts that a unit is counted in: what comes in a millisecond at one unit a second.
const PARTS: i64 = 1_000;

/// Units per second.
struct Bucket {
    /// 0: any number.
    rate: u32,
    /// What there is, in parts; below 0 what is owed.
    parts: i64,
    counted_ms: u32,
}

impl Bucket {
    fn new(rate: Option<u32>, now: u32) -> Self {
        Self { rate: rate.unwrap_or(0), parts: 1, counted_ms: now }
    }

    fn is_bounded(&self) -> bool {
        self.rate > 0
    }

    fn full(&self) -> i64 {
        i64::from(self.rate) * PARTS
    }

    fn fill(&mut self, now: u32) {
        let passed = i64::from(now.wrapping_sub(self.counted_ms));
        self.counted_ms = now;
        self.parts = self.parts.saturating_add(passed.saturating_mul(self.rate.into())).min(self.full());
    }

    fn spend(&mut self, units: usize) {
        let parts = i64::try_from(units).unwrap_or(i64::MAX).saturating_mul(PARTS);
        self.parts = self.parts.saturating_sub(parts);
    }

    /// Units that are there; `None` for any number.
    fn available(&self) -> Option<usize> {
        self.is_bounded().then(|| usize::try_from(self.parts / PARTS).unwrap_or(0))
    }

    /// Until something is there, milliseconds.
    fn wait_ms(&self) -> u32 {
        if !self.is_bounded() || self.parts > 0 {
            return 0;
        }
        u32::try_from(self.parts.saturating_neg() / i64::from(self.rate) + 1)
            .unwrap_or(u32::MAX / 4)
            .min(u32::MAX / 4)
    }

    /// From now on another rate holds.
    fn set_rate(&mut self, rate: Option<u32>, now: u32) {
        self.fill(now);
        self.rate = rate.unwrap_or(0);
        self.parts = self.parts.min(self.full().max(1));
    }

    /// Nothing is there for so long.
    fn owe_ms(&mut self, wait_ms: u32) {
        self.parts = self.parts.min(-i64::from(wait_ms).saturating_mul(self.rate.into()));
    }
}

/// Whether a packet may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Passes,
    /// Not yet.
    Held,
    /// Not yet, and it has been so for too long.
    HeldTooLong,
}

/// Of a connection that is bounded at the edge.
pub(crate) struct Pace {
    limits: Arc<Limits>,
    messages: Bucket,
    bytes: Bucket,
    sent: Bucket,
    /// A packet of the device waits until then.
    held_until_ms: Option<u32>,
    /// Since when it has been too fast, without a second's worth saved up in between.
    held_since_ms: Option<u32>,
    /// What is for the device waits until then.
    sent_held_until_ms: Option<u32>,
    /// Nothing is held back: what there is goes out to the last.
    is_lifted: bool,
    seat: Option<Seat>,
}

fn is_past(at_ms: u32, now: u32) -> bool {
    (at_ms.wrapping_sub(now) as i32) <= 0
}

impl Pace {
    /// `None` if nothing of it is for an edge to hold.
    pub(crate) fn new(passport: &Passport, seat: Option<Seat>, now: u32) -> Option<Box<Self>> {
        let limits = passport.limits.as_ref().filter(|limits| is_for_edge(limits))?;
        Some(Box::new(Self {
            messages: Bucket::new(limits.received_messages_per_s, now),
            bytes: Bucket::new(limits.received_bytes_per_s, now),
            sent: Bucket::new(limits.sent_bytes_per_s, now),
            limits: limits.clone(),
            held_until_ms: None,
            held_since_ms: None,
            sent_held_until_ms: None,
            is_lifted: false,
            seat,
        }))
    }

    /// What holds with a new passport, for a connection that had this one.
    fn renewed(
        pace: Option<Box<Self>>,
        passport: &Passport,
        shared: &Arc<Shared>,
        now: u32,
    ) -> Option<Box<Self>> {
        let Some(mut pace) = pace else {
            return Self::new(passport, Seat::keep(&shared.seats, passport), now);
        };
        pace.limits = passport.limits.as_ref().filter(|limits| is_for_edge(limits))?.clone();
        pace.messages.set_rate(pace.limits.received_messages_per_s, now);
        pace.bytes.set_rate(pace.limits.received_bytes_per_s, now);
        pace.sent.set_rate(pace.limits.sent_bytes_per_s, now);
        pace.seat = match pace.seat.take() {
            Some(seat) if pace.limits.connections_max.is_some() => Some(seat),
            _ => Seat::keep(&shared.seats, passport),
        };
        // What waits is looked at again.
        pace.held_until_ms = pace.held_until_ms.map(|_| now);
        pace.sent_held_until_ms = pace.sent_held_until_ms.map(|_| now);
        Some(pace)
    }

    /// The largest packet, bytes.
    pub(super) fn packet_bytes_max(&self, configured: u32) -> u32 {
        self.limits.packet_bytes_max.map_or(configured, |bytes| bytes.min(configured))
    }

    /// Whether a packet of this type, of which a byte is here, may go on; that it is the first to be held back is counted.
    pub(super) fn admit(&mut self, packet: PacketType, shared: &Shared, now: u32) -> Passage {
        self.messages.fill(now);
        self.bytes.fill(now);
        if self.is_lifted {
            self.held_until_ms = None;
            return Passage::Passes;
        }
        if self.messages.parts >= self.messages.full() && self.bytes.parts >= self.bytes.full() {
            self.held_since_ms = None;
        }
        let for_messages = if packet == PacketType::Publish { self.messages.wait_ms() } else { 0 };
        let for_bytes = self.bytes.wait_ms();
        let wait_ms = for_messages.max(for_bytes);
        if wait_ms == 0 {
            self.held_until_ms = None;
            return Passage::Passes;
        }
        self.held_until_ms = Some(now.wrapping_add(wait_ms));
        let Some(since) = self.held_since_ms else {
            self.held_since_ms = Some(now);
            let is_messages = for_messages >= for_bytes;
            let limit = if is_messages { "received_messages_per_s" } else { "received_bytes_per_s" };
            shared.metrics.limited.count((limit,));
            tracing::debug!(limit, "a device that sends too fast is held back");
            return Passage::Held;
        };
        let held_ms = u64::from(now.wrapping_sub(since));
        match self.limits.held_back_max_s {
            Some(max_s) if held_ms >= u64::from(max_s) * 1_000 => {
                shared.metrics.limited.count(("held_back_max_s",));
                Passage::HeldTooLong
            }
            _ => Passage::Held,
        }
    }

    /// A packet of so many bytes goes on.
    pub(super) fn spend(&mut self, packet: PacketType, bytes: usize) {
        if packet == PacketType::Publish && self.messages.is_bounded() {
            self.messages.spend(1);
        }
        if self.bytes.is_bounded() {
            self.bytes.spend(bytes);
        }
    }

    /// Whether more may be read.
    pub(super) fn may_read(&self, now: u32) -> bool {
        self.is_lifted || self.held_until_ms.is_none_or(|until| is_past(until, now))
    }

    /// Whether the device may be sent more.
    fn may_send(&mut self, shared: &Shared, now: u32) -> bool {
        if !self.sent.is_bounded() || self.is_lifted {
            self.sent_held_until_ms = None;
            return true;
        }
        self.sent.fill(now);
        let wait_ms = self.sent.wait_ms();
        if wait_ms == 0 {
            self.sent_held_until_ms = None;
            return true;
        }
        if self.sent_held_until_ms.is_none() {
            shared.metrics.limited.count(("sent_bytes_per_s",));
        }
        self.sent_held_until_ms = Some(now.wrapping_add(wait_ms));
        false
    }

    /// In how many milliseconds something that is held back may go on. What may go on by now waits for something else.
    pub(super) fn due_ms(&self, now: u32) -> Option<u32> {
        let held = self.held_until_ms.into_iter().chain(self.sent_held_until_ms);
        held.filter(|until| !is_past(*until, now)).map(|until| until.wrapping_sub(now)).min()
    }

    /// Whether nothing is held back from now on.
    pub(super) fn lift(&mut self, is_lifted: bool) {
        self.is_lifted = is_lifted;
    }

    /// Until when the next connection of the client has to wait for what this one has sent beyond its rates.
    pub(super) fn owes_until_ms(&self, now: u32) -> u32 {
        now.wrapping_add(self.messages.wait_ms().max(self.bytes.wait_ms()))
    }

    /// Takes over what the connection before it owed.
    pub(crate) fn owe_until(&mut self, until_ms: u32, now: u32) {
        if !is_past(until_ms, now) {
            let wait_ms = until_ms.wrapping_sub(now);
            self.messages.owe_ms(wait_ms);
            self.bytes.owe_ms(wait_ms);
        }
    }
}

fn is_for_edge(limits: &Limits) -> bool {
    let Limits {
        connections_max,
        packet_bytes_max,
        received_messages_per_s,
        received_bytes_per_s,
        sent_bytes_per_s,
        ..
    } = limits;
    [connections_max, packet_bytes_max, received_messages_per_s, received_bytes_per_s, sent_bytes_per_s]
        .into_iter()
        .any(Option::is_some)
}

impl<T, S, A> Relay<T, S, A>
where
    T: Wire,
    S: Stream,
    A: Authenticator,
{
    /// From now on the limits of this passport hold.
    pub(super) fn keep_pace_with(&mut self, passport: &Passport, now: u32) {
        if self.pace.is_some() || passport.limits.is_some() {
            self.pace = Pace::renewed(self.pace.take(), passport, &self.admitted.door().shared, now);
        }
    }

    /// Takes what the worker has for the device, unless it is sent too much. Whether it may have more.
    pub(super) fn receive_in_turn(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, now: u32) -> bool {
        let Some(pace) = &mut self.pace else { return self.receive(cx, out, now) };
        if !pace.may_send(&self.admitted.door().shared, now) {
            return false;
        }
        // One packet at least, however large it is.
        let before = out.len();
        let budget =
            pace.sent.available().map_or(WRITE_BYTES, |bytes| WRITE_BYTES.min(before + bytes.max(1)));
        let may_have_more = self.receive_up_to(budget, cx, out, now);
        if let Some(pace) = self.pace.as_mut().filter(|pace| pace.sent.is_bounded()) {
            pace.sent.spend(out.len().saturating_sub(before));
        }
        may_have_more
    }

    /// Whether what the worker has for the device waits.
    pub(super) fn is_sent_held(&self) -> bool {
        self.pace.as_ref().is_some_and(|pace| pace.sent_held_until_ms.is_some())
    }

    /// Nothing is held back, or again. What was sent too fast meanwhile is owed by the next connection of the client.
    pub(super) fn lift_pace(&mut self, is_lifted: bool, now: u32) {
        let Some(pace) = &mut self.pace else { return };
        pace.lift(is_lifted);
        if let Some(tenancy) = self.tenancy.as_ref().filter(|_| !is_lifted) {
            tenancy.owe_until(pace.owes_until_ms(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::config::EdgeConfig;
    use crate::telemetry::metrics::Metrics;

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(EdgeConfig::default(), Metrics::register(&mut Registry::default())))
    }

    fn passport(limits: Limits) -> Passport {
        let limits = Some(Arc::new(limits));
        Passport { limits, ..Passport::unrestricted("alice".into(), "a".into()) }
    }

    fn pace(limits: Limits, now: u32) -> Box<Pace> {
        Pace::new(&passport(limits), None, now).unwrap()
    }

    /// Sends as fast as it may from `from_ms` on; how many packets of `bytes` bytes have gone by each of these moments.
    fn sent_by(pace: &mut Pace, from_ms: u32, bytes: usize, moments: &[u32]) -> Vec<u32> {
        let shared = shared();
        let mut count = 0;
        let mut seen = Vec::new();
        for passed in 0..=*moments.last().unwrap() {
            let now = from_ms.wrapping_add(passed);
            while pace.admit(PacketType::Publish, &shared, now) == Passage::Passes {
                pace.spend(PacketType::Publish, bytes);
                count += 1;
            }
            if moments.contains(&passed) {
                seen.push(count);
            }
        }
        seen
    }

    #[test]
    fn a_rate_is_kept_and_a_second_of_it_saved_up() {
        // The clock wraps meanwhile.
        for began in [0, u32::MAX - 500] {
            let limits = || Limits { received_messages_per_s: Some(10), ..Limits::default() };
            let mut steady = pace(limits(), began);
            assert_eq!(sent_by(&mut steady, began, 100, &[0, 99, 100, 1_000, 3_000]), [1, 1, 2, 11, 31]);
            let mut saving = pace(limits(), began);
            let later = began.wrapping_add(60_000);
            assert_eq!(
                sent_by(&mut saving, later, 100, &[0, 1_000]),
                [10, 20],
                "no more than a second's worth"
            );
        }
    }

    #[test]
    fn a_packet_that_is_larger_than_a_seconds_worth_goes_and_is_owed() {
        let limits = Limits { received_bytes_per_s: Some(1_024), ..Limits::default() };
        let mut pace = pace(limits, 0);
        assert_eq!(sent_by(&mut pace, 0, 4_096, &[0, 3_998, 4_001, 8_002]), [1, 1, 2, 3]);
        assert_eq!(
            pace.admit(PacketType::PingReq, &shared(), 8_002),
            Passage::Held,
            "bytes are those of all packets"
        );
    }

    #[test]
    fn only_publish_counts_as_a_message() {
        let limits = Limits { received_messages_per_s: Some(1), ..Limits::default() };
        let (mut pace, shared) = (pace(limits, 0), shared());
        pace.spend(PacketType::Publish, 9);
        assert_eq!(pace.admit(PacketType::PubAck, &shared, 0), Passage::Passes);
        assert!(pace.may_read(0));
        assert_eq!(pace.admit(PacketType::Publish, &shared, 0), Passage::Held);
        assert_eq!((pace.may_read(0), pace.due_ms(0), pace.may_read(1_000)), (false, Some(1_000), true));
    }

    #[test]
    fn who_never_lets_up_is_told_and_who_pauses_is_not() {
        let limits =
            || Limits { received_messages_per_s: Some(10), held_back_max_s: Some(3), ..Limits::default() };
        let shared = shared();
        let mut greedy = pace(limits(), 0);
        sent_by(&mut greedy, 0, 1, &[2_999]);
        assert_eq!(greedy.admit(PacketType::Publish, &shared, 2_999), Passage::Held);
        assert_eq!(greedy.admit(PacketType::Publish, &shared, 3_001), Passage::Passes);
        greedy.spend(PacketType::Publish, 1);
        assert_eq!(greedy.admit(PacketType::Publish, &shared, 3_001), Passage::HeldTooLong);
        let mut in_bursts = pace(limits(), 0);
        for burst in 0..10 {
            let now = burst * 4_000;
            sent_by(&mut in_bursts, now, 1, &[1_500]);
            assert_ne!(in_bursts.admit(PacketType::Publish, &shared, now + 1_501), Passage::HeldTooLong);
        }
    }

    #[test]
    fn the_next_connection_waits_for_what_was_sent_too_fast() {
        let limits = || Limits { received_messages_per_s: Some(10), ..Limits::default() };
        let (mut before, shared) = (pace(limits(), 0), shared());
        before.lift(true);
        for _ in 0..100 {
            assert_eq!(before.admit(PacketType::Publish, &shared, 0), Passage::Passes);
            before.spend(PacketType::Publish, 9);
        }
        let mut next = pace(limits(), 0);
        next.owe_until(before.owes_until_ms(0), 0);
        assert_eq!(sent_by(&mut next, 0, 9, &[9_900, 10_100]), [0, 1]);
    }

    #[test]
    fn a_new_passport_counts_at_once() {
        let shared = shared();
        let mut slow = pace(Limits { received_messages_per_s: Some(1), ..Limits::default() }, 0);
        slow.spend(PacketType::Publish, 1);
        assert_eq!(slow.admit(PacketType::Publish, &shared, 0), Passage::Held);
        let faster = passport(Limits { received_messages_per_s: Some(1_000), ..Limits::default() });
        let mut faster = Pace::renewed(Some(slow), &faster, &shared, 10).unwrap();
        assert!(faster.may_read(10));
        assert_eq!(sent_by(&mut faster, 11, 1, &[0, 10]), [1, 11]);
        assert!(Pace::renewed(Some(faster), &passport(Limits::default()), &shared, 30).is_none());
        let unbounded = Passport::unrestricted("alice".into(), "a".into());
        assert!(Pace::new(&unbounded, None, 0).is_none());
    }
}
