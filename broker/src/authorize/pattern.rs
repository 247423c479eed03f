//! Comparing one topic of a rule with a Topic Name or Topic Filter of a client. Nothing is allocated: `%c` and `%u` are
//! compared in place, each as one whole level and never as a wildcard.

use link::Passport;

/// Whether everything that `filter` can match is matched by `pattern`.
pub(super) fn covers(pattern: &str, filter: &str, who: &Passport) -> bool {
    if starts_with_wildcard(pattern) && filter.starts_with('$') {
        // v5 [MQTT-4.7.2-1]
        return false;
    }
    let (mut patterns, mut levels) = (pattern.split('/'), filter.split('/'));
    loop {
        match (patterns.next(), levels.next()) {
            (None, None) => return true,
            // "a/#" matches "a" as well (v5 section 4.7.1.2).
            (Some("#"), _) => return patterns.next().is_none(),
            (None, Some(_)) | (Some(_), None) | (Some(_), Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(own @ ("%c" | "%u")), Some(level)) => {
                let identity = identity(own, who);
                if identity.is_empty() || identity.contains(['+', '#']) || identity != level {
                    return false;
                }
            }
            (Some(literal), Some(level)) if literal == level => {}
            _ => return false,
        }
    }
}

/// Whether a Topic Name exists that both `pattern` and `filter` match.
pub(super) fn overlaps(pattern: &str, filter: &str, who: &Passport) -> bool {
    let dollar_apart = |a: &str, b: &str| starts_with_wildcard(a) && b.starts_with('$');
    if dollar_apart(pattern, filter) || dollar_apart(filter, pattern) {
        // v5 [MQTT-4.7.2-1]
        return false;
    }
    let (mut patterns, mut levels) = (pattern.split('/'), filter.split('/'));
    loop {
        match (patterns.next(), levels.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some("+"), _) | (_, Some("+")) => {}
            (Some(own @ ("%c" | "%u")), Some(level)) if identity(own, who) == level => {}
            (Some(literal), Some(level)) if literal == level => {}
            _ => return false,
        }
    }
}

/// Whether `filter` is `pattern` as it stands, wildcards included.
pub(super) fn is_same(pattern: &str, filter: &str, who: &Passport) -> bool {
    let (mut patterns, mut levels) = (pattern.split('/'), filter.split('/'));
    loop {
        match (patterns.next(), levels.next()) {
            (None, None) => return true,
            (Some(own @ ("%c" | "%u")), Some(level)) if identity(own, who) == level => {}
            (Some(literal), Some(level)) if literal == level && !matches!(literal, "%c" | "%u") => {}
            _ => return false,
        }
    }
}

fn identity<'a>(placeholder: &str, who: &'a Passport) -> &'a str {
    if placeholder == "%c" { &who.client_id } else { &who.subject }
}

fn starts_with_wildcard(filter: &str) -> bool {
    filter.starts_with(['+', '#'])
}
