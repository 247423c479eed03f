//! For how long certificates are good, and whatever else ends at a time that it tells.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// From when to when something is good, Unix seconds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Validity {
    /// The first second.
    pub from_s: i64,
    /// The last one; [`i64::MAX`] where none is told.
    pub until_s: i64,
}

impl Validity {
    /// Of a certificate in DER. `None` if it is none.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self { from_s: validity.not_before.timestamp(), until_s: validity.not_after.timestamp() })
    }

    /// Whether it is good at this time.
    pub fn is_good(&self, now_s: i64) -> bool {
        (self.from_s..=self.until_s).contains(&now_s)
    }

    /// Whether it was good before, and is no more.
    pub fn has_ended(&self, now_s: i64) -> bool {
        self.until_s < now_s
    }

    /// Whole days that are left; negative when it has ended.
    pub fn days_left(&self, now_s: i64) -> i64 {
        self.until_s.saturating_sub(now_s).div_euclid(24 * 60 * 60)
    }
}

/// A time of the wall clock as certificates count; 0 for one before 1970.
pub fn unix_s(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A time as text, for people.
pub fn date(unix_s: i64) -> String {
    ASN1Time::from_timestamp(unix_s).map_or_else(|_| "a time without end".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: i64 = 24 * 60 * 60;

    #[test]
    fn it_is_good_from_its_first_second_to_its_last() {
        let validity = Validity { from_s: 100, until_s: 100 + 2 * DAY_S };
        let good = [99, 100, 100 + 2 * DAY_S, 101 + 2 * DAY_S].map(|now_s| validity.is_good(now_s));
        assert_eq!(good, [false, true, true, false]);
        assert!(validity.has_ended(101 + 2 * DAY_S) && !validity.has_ended(99));
        assert_eq!([100, 101, 102 + 2 * DAY_S].map(|now_s| validity.days_left(now_s)), [2, 1, -1]);
        assert_eq!(Validity::of_certificate(b"no certificate"), None);
    }

    #[test]
    fn a_time_is_written_for_people() {
        assert_eq!(date(1_717_243_200), "Jun  1 12:00:00 2024 +00:00");
        assert_eq!(date(i64::MAX), "a time without end");
    }
}
