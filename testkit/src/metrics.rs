//! What a registry of metrics says.

use prometheus_client::registry::Registry;

/// All of it, as it is scraped.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("it can be written");
    text
}

/// The sum of a metric over its labels, in what was scraped; 0 if there is none. With labels behind its name, of those that begin so.
pub fn sum(text: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let of_it = name.contains('{') || rest.starts_with([' ', '{']);
        of_it.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
    };
    text.lines().filter_map(value).sum()
}

/// A metric without labels.
///
/// # Panics
/// When there is none.
pub fn count(registry: &Registry, name: &str) -> usize {
    let text = text(registry);
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.and_then(|value| value.parse().ok()).expect(name)
}
