//! Topic Names and Topic Filters (section 4.7), Shared Subscriptions (section 4.8.2), and the match of one against the
//! other. Nothing is normalized. v5 [MQTT-4.7.3-4]

mod matching;

pub use matching::matches;

/// The start of the Topic Filter of a Shared Subscription. v5 [MQTT-4.8.2-1]
const SHARE_PREFIX: &str = "$share/";

/// Bytes of the longest Topic Name or Topic Filter. v5 [MQTT-4.7.3-3]
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Why a string is no Topic Name or no Topic Filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// v5 [MQTT-4.7.3-1]
    #[error("it is empty")]
    Empty,
    /// v5 [MQTT-4.7.3-3]
    #[error("it is longer than 65,535 bytes")]
    TooLong,
    /// v5 [MQTT-4.7.3-2]
    #[error("it contains U+0000")]
    HasNul,
    /// v5 [MQTT-4.7.0-1]
    #[error("a Topic Name contains a wildcard")]
    WildcardInName,
    /// v5 [MQTT-4.7.1-1]
    #[error("# is not alone in the last level")]
    MultiLevelWildcard,
    /// v5 [MQTT-4.7.1-2]
    #[error("+ does not fill its level")]
    SingleLevelWildcard,
    /// v5 [MQTT-4.8.2-1], v5 [MQTT-4.8.2-2]
    #[error("the Share Name is empty or contains a wildcard")]
    ShareName,
    /// v5 [MQTT-4.8.2-2]
    #[error("no Topic Filter follows the Share Name")]
    ShareWithoutFilter,
}

/// A valid Topic Name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// `name`, if it is valid.
    ///
    /// # Errors
    /// As [`validate_name`].
    pub fn new(name: &'a str) -> Result<Self, TopicError> {
        validate_name(name).map(|()| Self(name))
    }

    /// The name as a string.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels, first to last.
    pub fn levels(self) -> Levels<'a> {
        levels(self.0)
    }
}

/// A valid Topic Filter; that of a Shared Subscription included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

impl<'a> TopicFilter<'a> {
    /// `filter`, if it is valid.
    ///
    /// # Errors
    /// As [`validate_filter`].
    pub fn new(filter: &'a str) -> Result<Self, TopicError> {
        validate_filter(filter).map(|()| Self(filter))
    }

    /// The filter as a string, as it came.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Share Name and inner filter, when this is a Shared Subscription.
    pub fn shared(self) -> Option<SharedFilter<'a>> {
        SharedFilter::parse(self.0).ok().flatten()
    }

    /// Whether a message to `name` matches. The filter of a Shared Subscription matches by its inner filter.
    pub fn matches(self, name: TopicName<'_>) -> bool {
        matches(self.shared().map_or(self.0, |shared| shared.filter), name.0)
    }
}

/// The parts of `$share/{ShareName}/{filter}`. v5 [MQTT-4.8.2-1], v5 [MQTT-4.8.2-2]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedFilter<'a> {
    /// At least one character; no `/`, `+` or `#`.
    pub share_name: &'a str,
    /// What the topic is matched against.
    pub filter: &'a str,
}

impl<'a> SharedFilter<'a> {
    /// The parts of `filter`; `None` when it does not start with `$share/`.
    ///
    /// # Errors
    /// A Share Name or an inner filter that is missing or not valid.
    pub fn parse(filter: &'a str) -> Result<Option<Self>, TopicError> {
        let Some(rest) = filter.strip_prefix(SHARE_PREFIX) else { return Ok(None) };
        let (share_name, filter) = rest.split_once('/').ok_or(TopicError::ShareWithoutFilter)?;
        if share_name.is_empty() || share_name.contains(['+', '#']) {
            return Err(TopicError::ShareName);
        }
        if filter.is_empty() {
            return Err(TopicError::ShareWithoutFilter);
        }
        validate_levels(filter)?;
        Ok(Some(Self { share_name, filter }))
    }
}

/// The levels of a Topic Name or Topic Filter: the parts between `/`, empty ones too.
pub type Levels<'a> = std::str::Split<'a, char>;

/// The levels of `topic`, first to last; at least one.
pub fn levels(topic: &str) -> Levels<'_> {
    topic.split('/')
}

/// Whether a Topic Filter contains a wildcard. The Share Name of a valid filter cannot.
pub fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}

/// Whether `filter` is that of a Shared Subscription.
pub fn is_shared(filter: &str) -> bool {
    filter.starts_with(SHARE_PREFIX)
}

/// Checks a Topic Name: not empty, within 65,535 bytes, no U+0000, no wildcard.
///
/// # Errors
/// The first rule that it breaks.
#[inline]
pub fn validate_name(name: &str) -> Result<(), TopicError> {
    if name.is_empty() {
        return Err(TopicError::Empty);
    }
    if name.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    // A fold without an early exit becomes vector code.
    let (nul, wildcard) = name.bytes().fold((false, false), |(nul, wildcard), byte| {
        (nul | (byte == 0), wildcard | (byte == b'+') | (byte == b'#'))
    });
    match (nul, wildcard) {
        (true, _) => Err(TopicError::HasNul),
        (_, true) => Err(TopicError::WildcardInName),
        _ => Ok(()),
    }
}

/// Checks a Topic Filter: not empty, within 65,535 bytes, no U+0000, wildcards where they may stand, and for `$share/` a valid
/// Share Name and filter.
///
/// # Errors
/// The first rule that it breaks.
pub fn validate_filter(filter: &str) -> Result<(), TopicError> {
    if filter.is_empty() {
        return Err(TopicError::Empty);
    }
    if filter.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    if filter.bytes().any(|byte| byte == 0) {
        return Err(TopicError::HasNul);
    }
    match SharedFilter::parse(filter)? {
        Some(_) => Ok(()),
        None => validate_levels(filter),
    }
}

/// The wildcards of a filter that is not empty. One pass over the bytes: `/`, `+` and `#` are never part of another character.
fn validate_levels(filter: &str) -> Result<(), TopicError> {
    let bytes = filter.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let starts_level = at == 0 || bytes[at - 1] == b'/';
        let next = bytes.get(at + 1);
        match byte {
            // v5 [MQTT-4.7.1-1]
            b'#' if !starts_level || next.is_some() => return Err(TopicError::MultiLevelWildcard),
            // v5 [MQTT-4.7.1-2]
            b'+' if !starts_level || next.is_some_and(|&next| next != b'/') => {
                return Err(TopicError::SingleLevelWildcard);
            }
            _ => {}
        }
    }
    Ok(())
}
