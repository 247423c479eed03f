//! The closed loop: how many of a publisher's messages have not yet reached every subscriber.
//! A message that is known to be lost gives its place back, so that loss shows in the counts and not as a standstill.

/// Messages of one publisher under way to `fan` subscribers.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    sent: u64,
    complete: u64,
    fan: u32,
    awaited: Vec<u32>,
    mask: u64,
    limit: u64,
}

impl Window {
    /// At most `limit` (at least 1) messages at a time, each awaited by `fan` subscribers.
    #[must_use]
    pub(crate) fn new(limit: u32, fan: u32) -> Self {
        let limit = limit.max(1);
        let slots = u64::from(limit).next_power_of_two();
        Self {
            sent: 0,
            complete: 0,
            fan,
            awaited: vec![0; usize::try_from(slots).unwrap_or(1)],
            mask: slots - 1,
            limit: u64::from(limit),
        }
    }

    /// Whether one more message may leave.
    #[inline]
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        self.sent - self.complete < self.limit
    }

    /// Messages that have left.
    #[must_use]
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether every message that left has arrived everywhere or was given up.
    #[must_use]
    pub(crate) fn is_idle(&self) -> bool {
        self.sent == self.complete
    }

    /// Notes that a message leaves and returns its number. Call only while [`Self::is_open`].
    #[inline]
    pub(crate) fn send(&mut self) -> u64 {
        let sequence = self.sent;
        *self.slot(sequence) = self.fan;
        self.sent += 1;
        sequence
    }

    /// Notes that message `sequence` reached one more subscriber, or is known not to reach it.
    #[inline]
    pub(crate) fn settle(&mut self, sequence: u64) {
        if sequence < self.complete || sequence >= self.sent {
            return;
        }
        let awaited = self.slot(sequence);
        *awaited = awaited.saturating_sub(1);
        while self.complete < self.sent && *self.slot(self.complete) == 0 {
            self.complete += 1;
        }
    }

    /// Stops waiting for everything under way.
    pub(crate) fn give_up(&mut self) {
        self.complete = self.sent;
    }

    #[inline]
    fn slot(&mut self, sequence: u64) -> &mut u32 {
        // The mask keeps the index within the slots, which are a power of two.
        let at = (sequence & self.mask) as usize;
        &mut self.awaited[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_closes_when_full_and_opens_on_delivery() {
        let mut window = Window::new(2, 1);
        assert_eq!((window.send(), window.send()), (0, 1));
        assert!(!window.is_open());
        window.settle(0);
        assert!(window.is_open());
        window.settle(1);
        assert!(window.is_idle());
    }

    #[test]
    fn a_message_holds_its_place_until_every_subscriber_has_it() {
        let mut window = Window::new(1, 3);
        window.send();
        window.settle(0);
        window.settle(0);
        assert!(!window.is_open());
        window.settle(0);
        assert!(window.is_open());
    }

    #[test]
    fn delivery_out_of_order_opens_the_window_from_the_oldest_on() {
        let mut window = Window::new(3, 1);
        for _ in 0..3 {
            window.send();
        }
        window.settle(2);
        assert!(!window.is_open());
        window.settle(0);
        assert!(window.is_open());
        window.settle(0);
        window.settle(99);
        window.settle(1);
        assert!(window.is_idle());
    }

    #[test]
    fn giving_up_opens_the_window_and_ignores_stragglers() {
        let mut window = Window::new(1, 2);
        window.send();
        window.give_up();
        assert!(window.is_open());
        window.send();
        window.settle(0);
        assert!(!window.is_open());
    }
}
