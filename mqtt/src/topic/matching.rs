//! Whether a Topic Name matches a Topic Filter.

use super::levels;

/// Whether `name` matches `filter`. Both must be valid, and `filter` is not that of a Shared Subscription (match its inner
/// filter instead).
pub fn matches(filter: &str, name: &str) -> bool {
    // v5 [MQTT-4.7.2-1]
    if name.starts_with('$') && filter.starts_with(['#', '+']) {
        return false;
    }
    let mut name_levels = levels(name);
    for filter_level in levels(filter) {
        // `#` matches its parent level too, which is why it comes before the next level of the name (section 4.7.1.2).
        if filter_level == "#" {
            return true;
        }
        let Some(name_level) = name_levels.next() else { return false };
        if filter_level != "+" && filter_level != name_level {
            return false;
        }
    }
    name_levels.next().is_none()
}
