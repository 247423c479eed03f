//! Whether the other end is alive, by what was heard of it.

use std::time::Duration;

use super::{DEAD_AFTER, PING_AFTER};

/// A look that comes later than this was late because this end stood still, and what the other end sent meanwhile may be
/// unread.
const STALLED_AFTER: Duration = Duration::from_millis(250);

/// What silence asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// A PING.
    Ask,
    /// The end of the link.
    Dead,
}

#[derive(Debug)]
pub(super) struct Liveness {
    heard_at: Duration,
    asked_at: Duration,
    /// When this end was seen to have said something.
    said_at: Duration,
}

impl Liveness {
    pub(super) fn new(now: Duration) -> Self {
        Self { heard_at: now, asked_at: now, said_at: now }
    }

    pub(super) fn heard(&mut self, now: Duration) {
        self.heard_at = self.heard_at.max(now);
    }

    /// To be called at [`Liveness::wake_at`]; time by which it comes much later does not count as silence. `has_said`: since the
    /// last call this end has sent something, or has something to send. One that has said nothing says something, however much it
    /// hears: else the other end takes it for dead while a long packet is on its way here, behind which its PING waits.
    pub(super) fn tick(&mut self, now: Duration, has_said: bool) -> Verdict {
        let late = now.saturating_sub(self.wake_at());
        if late > STALLED_AFTER {
            self.heard_at += late;
        }
        if has_said {
            self.said_at = now;
        }
        if now >= self.heard_at + DEAD_AFTER {
            return Verdict::Dead;
        }
        if now < self.ask_at() {
            return Verdict::Fine;
        }
        self.asked_at = now;
        Verdict::Ask
    }

    fn ask_at(&self) -> Duration {
        self.heard_at.min(self.said_at).max(self.asked_at) + PING_AFTER
    }

    /// When [`Liveness::tick`] has something to do at the earliest.
    pub(super) fn wake_at(&self) -> Duration {
        self.ask_at().min(self.heard_at + DEAD_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_asks_every_half_second_and_ends_after_two() {
        let ms = Duration::from_millis;
        let mut liveness = Liveness::new(ms(100));
        assert_eq!(liveness.tick(ms(599), false), Verdict::Fine);
        for at in [600, 1100, 1600] {
            assert_eq!(liveness.wake_at(), ms(at));
            assert_eq!(liveness.tick(ms(at), false), Verdict::Ask);
            assert_eq!(liveness.tick(ms(at), false), Verdict::Fine);
        }
        assert_eq!(liveness.wake_at(), ms(2100));
        assert_eq!(liveness.tick(ms(2099), false), Verdict::Fine);
        assert_eq!(liveness.tick(ms(2100), false), Verdict::Dead);
        liveness.heard(ms(2050));
        assert_eq!(liveness.tick(ms(2100), true), Verdict::Fine);
        assert_eq!(liveness.tick(ms(2549), true), Verdict::Fine);
        assert_eq!(liveness.tick(ms(2550), true), Verdict::Ask);
    }

    #[test]
    fn an_end_that_only_hears_says_something_every_half_second() {
        let ms = Duration::from_millis;
        let mut liveness = Liveness::new(ms(0));
        let (mut asked, mut now) = (Vec::new(), ms(0));
        while now < ms(3_000) {
            now += ms(100);
            liveness.heard(now);
            let has_said = now == ms(1_700);
            if liveness.tick(now, has_said) == Verdict::Ask {
                asked.push(now.as_millis());
            }
        }
        assert_eq!(asked, [500, 1_000, 1_500, 2_200, 2_700]);
    }

    #[test]
    fn time_that_this_end_stood_still_is_no_silence() {
        let ms = Duration::from_millis;
        let mut liveness = Liveness::new(ms(0));
        assert_eq!(liveness.tick(ms(500), false), Verdict::Ask);
        assert_eq!(liveness.tick(ms(9_000), false), Verdict::Ask, "asked before it is believed");
        let mut now = liveness.wake_at();
        while liveness.tick(now, false) == Verdict::Ask {
            now = liveness.wake_at();
        }
        assert!(now > ms(9_000) && now <= ms(11_000), "{now:?}");
    }
}
