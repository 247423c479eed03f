//! Settings: each key is declared once, with its type, its default and its bounds ([`crate::settings!`]), and what is out of
//! bounds is said in one way.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

/// A setting that is out of its bounds, or wrong otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}{}: {problem}", .value.as_ref().map(|value| format!(" = {value}")).unwrap_or_default())]
pub struct SettingError {
    /// The whole key, with dots.
    pub key: String,
    /// What it was set to, if that is a number; of a text, its length in bytes, of a list, the number of its entries.
    pub value: Option<String>,
    /// What it must be.
    pub problem: String,
}

impl SettingError {
    /// `key` of `section` is wrong; without a section, `key` is the whole key.
    pub fn new(section: &str, key: &str, problem: impl Into<String>) -> Self {
        let key = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        Self { key, value: None, problem: problem.into() }
    }
}

/// What can have bounds.
pub trait Bounded {
    /// In which its bounds are written.
    type Measure: PartialOrd + Display;

    /// How its bounds are spoken of: the verb before them, and what is counted behind them.
    const WORDS: (&str, &str) = ("be", "");

    /// What has to be within the bounds; `None` if nothing is set.
    fn measure(&self) -> Option<Self::Measure>;
}

macro_rules! bounded {
    ($($integer:ty),*) => {$(
        impl Bounded for $integer {
            type Measure = u64;

            fn measure(&self) -> Option<u64> {
                u64::try_from(*self).ok()
            }
        }
    )*};
}

bounded!(u8, u16, u32, u64, usize);

impl Bounded for f64 {
    type Measure = f64;

    fn measure(&self) -> Option<f64> {
        Some(*self)
    }
}

impl Bounded for String {
    type Measure = usize;

    const WORDS: (&str, &str) = ("have", " bytes");

    fn measure(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl<T> Bounded for Vec<T> {
    type Measure = usize;

    const WORDS: (&str, &str) = ("have", " entries");

    fn measure(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl<K, V> Bounded for BTreeMap<K, V> {
    type Measure = usize;

    const WORDS: (&str, &str) = ("have", " entries");

    fn measure(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl<T: Bounded> Bounded for Option<T> {
    type Measure = T::Measure;

    const WORDS: (&str, &str) = T::WORDS;

    fn measure(&self) -> Option<T::Measure> {
        self.as_ref().and_then(T::measure)
    }
}

/// Whether `value` is within `bounds`.
///
/// # Errors
/// It is not; `key` of `section` is named, with what it must be.
pub fn check<T: Bounded>(
    section: &str,
    key: &str,
    value: &T,
    bounds: impl RangeBounds<T::Measure>,
) -> Result<(), SettingError> {
    let Some(value) = value.measure().filter(|value| !bounds.contains(value)) else { return Ok(()) };
    let ((verb, unit), least) = (T::WORDS, bounds.start_bound());
    let bound = match (least, bounds.end_bound()) {
        (Bound::Included(least), Bound::Included(most)) => format!("{least} to {most}"),
        (Bound::Included(least), _) => format!("at least {least}"),
        (_, Bound::Included(most)) => format!("at most {most}"),
        // No bound is written so.
        _ => String::from("within its bounds"),
    };
    let problem = format!("must {verb} {bound}{unit}");
    Err(SettingError { value: Some(value.to_string()), ..SettingError::new(section, key, problem) })
}

/// Declares a section: for each key its documentation, type, default, and where it has any its bounds, which include both ends.
///
/// Made of it are the structure, its [`Default`], and `check_bounds(section)`, which names the first key that is out of bounds.
/// A test of the command (`every_key_is_documented_with_its_default_and_its_bounds`) compares the same with `docs/configuration.md`.
///
/// ```
/// files::settings! {
///     /// How callers wait.
///     #[derive(Debug)]
///     pub struct Waiting {
///         /// For how long, milliseconds.
///         pub timeout_ms: u64 = 5_000, in 100..=60_000;
///         /// What they are told.
///         pub words: Option<String> = None;
///     }
/// }
/// let wrong = Waiting { timeout_ms: 1, ..Waiting::default() };
/// let error = wrong.check_bounds("waiting").unwrap_err();
/// assert_eq!(error.to_string(), "waiting.timeout_ms = 1: must be 100 to 60000");
/// ```
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $visible:vis struct $name:ident {
            $(
                $(#[$key_meta:meta])*
                $key_visible:vis $key:ident: $type:ty = $default:expr $(, in $bounds:expr)?;
            )*
        }
    ) => {
        $(#[$meta])*
        $visible struct $name {
            $(
                $(#[$key_meta])*
                #[doc = concat!("\n\nDefault `", stringify!($default), "`" $(, ", within `", stringify!($bounds), "`")?, ".")]
                $key_visible $key: $type,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default),* }
            }
        }

        impl $name {
            /// Checks the bounds of all keys, as of the section of this name.
            ///
            /// # Errors
            /// The first key that is out of its bounds.
            $visible fn check_bounds(&self, section: &str) -> Result<(), $crate::settings::SettingError> {
                $($($crate::settings::check(section, stringify!($key), &self.$key, $bounds)?;)?)*
                Ok(())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    crate::settings! {
        #[derive(Debug)]
        struct Example {
            most: u8 = 3, in ..=5;
            least: usize = 1, in 1..;
            both: f64 = 1.5, in 1.01..=2.0;
            name: String = "n".to_owned(), in 1..=4;
            list: Vec<u8> = Vec::new(), in ..=2;
            unset: Option<u32> = None, in 10..=20;
            free: bool = true;
        }
    }

    fn problem(example: &Example) -> String {
        example.check_bounds("example").map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_is_out_of_bounds_is_named_with_what_it_must_be() {
        assert!(Example::default().free);
        assert_eq!(problem(&Example::default()), "");
        let cases = [
            (Example { most: 6, ..Example::default() }, "example.most = 6: must be at most 5"),
            (Example { least: 0, ..Example::default() }, "example.least = 0: must be at least 1"),
            (Example { both: 1.0, ..Example::default() }, "example.both = 1: must be 1.01 to 2"),
            (
                Example { name: String::new(), ..Example::default() },
                "example.name = 0: must have 1 to 4 bytes",
            ),
            (
                Example { list: vec![0; 3], ..Example::default() },
                "example.list = 3: must have at most 2 entries",
            ),
            (Example { unset: Some(21), ..Example::default() }, "example.unset = 21: must be 10 to 20"),
        ];
        for (example, expected) in cases {
            assert_eq!(problem(&example), expected);
        }
        assert_eq!(problem(&Example { unset: Some(20), ..Example::default() }), "");
    }
}
