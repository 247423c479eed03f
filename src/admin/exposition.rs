//! The metrics as text: in OpenMetrics, or in the older text format of Prometheus for who asks for that. Written anew for every
//! request, until requests come in crowds: then they share what was written a moment ago.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::ACCEPT;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// So many requests in one window get their own; the next ones share the last.
const FRESH_MAX: u32 = 16;

/// How long a window is.
const WINDOW: Duration = Duration::from_millis(100);

/// What `/metrics` answers from; empty until everything has registered.
pub(crate) type Metrics = Arc<OnceLock<Registry>>;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Text,
}

impl Format {
    /// The one that `Accept` ranks higher; OpenMetrics where it ranks neither.
    pub(super) fn wanted(headers: &HeaderMap) -> Self {
        let (mut open, mut text) = (None, None);
        for value in headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
            for range in value.split(',') {
                let mut parts = range.split(';').map(str::trim);
                let kind = parts.next().unwrap_or_default();
                let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0_f32);
                let ranked = match kind.to_ascii_lowercase().as_str() {
                    "application/openmetrics-text" => &mut open,
                    "text/plain" => &mut text,
                    _ => continue,
                };
                *ranked = Some(ranked.map_or(weight, |known: f32| known.max(weight)));
            }
        }
        let text = text.filter(|weight| *weight > 0.0);
        if text.is_some_and(|text| open.is_none_or(|open| open < text)) {
            Self::Text
        } else {
            Self::OpenMetrics
        }
    }

    /// Its media type.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes the metrics.
#[derive(Clone)]
pub(super) struct Exposition {
    registry: Metrics,
    /// By format.
    recent: Arc<[Mutex<Option<Recent>>; 2]>,
}

struct Recent {
    began: Instant,
    written: u32,
    text: Bytes,
}

impl Exposition {
    pub(super) fn new(registry: Metrics) -> Self {
        Self { registry, recent: Arc::default() }
    }

    /// The metrics as they are, or were a moment ago. `None`: nothing has registered yet.
    ///
    /// # Errors
    /// A metric could not be written.
    pub(super) fn write(&self, format: Format) -> Option<Result<Bytes, std::fmt::Error>> {
        Some(self.write_registry(self.registry.get()?, format))
    }

    fn write_registry(&self, registry: &Registry, format: Format) -> Result<Bytes, std::fmt::Error> {
        // Whoever comes meanwhile would do the same work at the same time.
        let mut recent = self.recent[format as usize].lock();
        let (began, written) = match &*recent {
            Some(recent) if recent.began.elapsed() < WINDOW => (recent.began, recent.written),
            _ => (Instant::now(), 0),
        };
        if written >= FRESH_MAX
            && let Some(recent) = &*recent
        {
            return Ok(recent.text.clone());
        }
        let mut text = String::with_capacity(32 * 1024);
        encode(&mut text, registry)?;
        let text = Bytes::from(match format {
            Format::OpenMetrics => text,
            Format::Text => to_text(&text),
        });
        *recent = Some(Recent { began, written: written + 1, text: text.clone() });
        Ok(text)
    }
}

/// From OpenMetrics to the text format: there a counter is called as its samples are, and units and the end are not named.
fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            help = said.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|said| said.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                text.push_str(&format!("# HELP {name}{suffix} {}\n", help.replace("\\\"", "\"")));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::info::Info;

    use super::*;

    fn format(accept: &[&'static str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        Format::wanted(&headers)
    }

    #[test]
    fn who_asks_for_text_gets_it() {
        use Format::{OpenMetrics, Text};
        for (accept, wanted) in [
            (&[][..], OpenMetrics),
            (&["*/*"], OpenMetrics),
            (&["text/plain"], Text),
            (&["Text/Plain; version=0.0.4"], Text),
            (&["text/plain;q=0"], OpenMetrics),
            (&["text/html", "text/plain;q=0.5"], Text),
            (
                &["application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
                OpenMetrics,
            ),
            (&["application/openmetrics-text;q=0.3, text/plain;version=0.0.4;q=0.4"], Text),
            (
                &[
                    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ],
                OpenMetrics,
            ),
            (&[";;q=x,,"], OpenMetrics),
        ] {
            assert_eq!(format(accept), wanted, "{accept:?}");
        }
    }

    fn registry() -> (Registry, Counter) {
        let (mut registry, counter) = (Registry::default(), Counter::<u64>::default());
        registry.register("things", "Things \"counted\"", counter.clone());
        registry.register("level", "How high", Gauge::<i64>::default());
        registry.register("build", "What this is", Info::new([("version", "1")]));
        (registry, counter)
    }

    #[test]
    fn text_names_a_counter_as_its_samples() {
        let exposition = Exposition::new(Arc::new(registry().0.into()));
        let text = exposition.write(Format::Text).unwrap().unwrap();
        let expected = "# HELP things_total Things \"counted\".\n# TYPE things_total counter\nthings_total 0\n\
                        # HELP level How high.\n# TYPE level gauge\nlevel 0\n\
                        # HELP build_info What this is.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n";
        assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
    }

    #[test]
    fn crowds_share_what_was_written() {
        let (registry, counter) = registry();
        let exposition = Exposition::new(Arc::new(registry.into()));
        let mut fresh = 0;
        for _ in 0..1_000 {
            counter.inc();
            let text = exposition.write(Format::OpenMetrics).unwrap().unwrap();
            let now = format!("things_total {}\n", counter.get());
            fresh += u32::from(std::str::from_utf8(&text).unwrap().contains(&now));
        }
        // More only where the machine was so slow that several windows passed.
        assert!((FRESH_MAX..500).contains(&fresh), "{fresh}");
    }
}
