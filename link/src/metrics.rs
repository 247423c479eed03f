//! Metrics: each is declared once, with its name, its help, its kind and its labels ([`crate::metrics!`]), and what values a label
//! has is declared with what they stand for ([`crate::labels!`]).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use prometheus_client::encoding::{
    EncodeLabelKey, EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder,
};
pub use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};
pub use prometheus_client::registry::Registry;

/// A metric for each tuple of values of its labels, which is there from the first time that it is asked for. Clones share them.
#[derive(Clone, Debug)]
pub struct By<V, M> {
    names: &'static [&'static str],
    family: Family<LabelSet<V>, M>,
}

/// Values with the names of their labels, which are always the same in one [`By`].
#[derive(Clone, Debug)]
struct LabelSet<V> {
    names: &'static [&'static str],
    values: V,
}

impl<V: PartialEq> PartialEq for LabelSet<V> {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl<V: Eq> Eq for LabelSet<V> {}

impl<V: Hash> Hash for LabelSet<V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values.hash(state);
    }
}

/// The values of one label, or of two.
pub trait LabelValues {
    /// In their order.
    fn each(&self) -> Vec<&dyn EncodeLabelValue>;
}

impl<A: EncodeLabelValue> LabelValues for (A,) {
    fn each(&self) -> Vec<&dyn EncodeLabelValue> {
        vec![&self.0]
    }
}

impl<A: EncodeLabelValue, B: EncodeLabelValue> LabelValues for (A, B) {
    fn each(&self) -> Vec<&dyn EncodeLabelValue> {
        vec![&self.0, &self.1]
    }
}

impl<V: LabelValues> EncodeLabelSet for LabelSet<V> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in self.names.iter().zip(self.values.each()) {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            EncodeLabelKey::encode(name, &mut key)?;
            let mut text = key.encode_label_value()?;
            value.encode(&mut text)?;
            text.finish()?;
        }
        Ok(())
    }
}

impl<V: Clone + Eq + Hash, M> By<V, M> {
    /// By labels of these names, each metric made by `make`.
    pub fn new(names: &'static [&'static str], make: fn() -> M) -> Self {
        Self { names, family: Family::new_with_constructor(make) }
    }

    /// The metric of these values. No other one of the same family may be asked for while it is held; a clone may be kept.
    pub fn of(&self, values: V) -> impl Deref<Target = M> + '_ {
        self.family.get_or_create(&LabelSet { names: self.names, values })
    }

    /// There is nothing of these values any more.
    pub fn forget(&self, values: V) {
        self.family.remove(&LabelSet { names: self.names, values });
    }
}

impl<V: Clone + Eq + Hash> By<V, Counter> {
    /// Counts one of these values.
    pub fn count(&self, values: V) {
        self.of(values).inc();
    }

    /// How many there were of these values.
    pub fn get(&self, values: V) -> u64 {
        self.family.get(&LabelSet { names: self.names, values }).map_or(0, |counter| counter.get())
    }
}

impl<V: LabelValues + Clone + Eq + Hash, M: EncodeMetric + TypedMetric> EncodeMetric for By<V, M> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.family.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.family.metric_type()
    }

    fn is_empty(&self) -> bool {
        self.family.is_empty()
    }
}

/// The help of a metric, from its documentation.
pub fn help(documentation: &str) -> &str {
    // The exposition ends it with a full stop.
    documentation.trim().trim_end_matches('.')
}

/// Declares metrics of one prefix: for each its help as documentation, its name, kind, the labels if it has any, and how it is made
/// if not by `Default`.
///
/// Made of it are the structure, its `Default`, and `register(registry)`, which makes one whose metrics are in the registry.
///
/// ```
/// use link::metrics::Registry;
/// use prometheus_client::metrics::counter::Counter;
/// use prometheus_client::metrics::histogram::Histogram;
///
/// link::metrics! {
///     /// What a door counts.
///     struct Metrics in "door" {
///         /// Who came in.
///         entries: Counter[side: &'static str, floor: u8];
///         /// How long it stood open.
///         open_seconds: Histogram = Histogram::new([0.1, 1.0]);
///     }
/// }
/// let mut registry = Registry::default();
/// let metrics = Metrics::register(&mut registry);
/// metrics.entries.count(("left", 2));
/// metrics.open_seconds.observe(0.5);
/// let mut text = String::new();
/// prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
/// assert!(text.contains("# HELP door_entries Who came in.\n"));
/// assert!(text.contains("door_entries_total{side=\"left\",floor=\"2\"} 1\n"));
/// ```
#[macro_export]
macro_rules! metrics {
    (@kind $kind:ty) => { $kind };
    (@kind $kind:ty, $($value:ty),+) => { $crate::metrics::By<($($value,)+), $kind> };
    (@made) => { Default::default() };
    (@made $make:expr) => { $make };
    (@metric $make:expr) => { $make };
    (@metric $make:expr, $($label:ident),+) => {
        $crate::metrics::By::new(&[$(stringify!($label)),+], || $make)
    };
    (
        $(#[$meta:meta])*
        $visible:vis struct $name:ident in $prefix:literal {
            $(
                $(#[doc = $help:literal])+
                $metric_visible:vis $metric:ident: $kind:ty $([$($label:ident: $value:ty),+])? $(= $make:expr)?;
            )*
        }
    ) => {
        $(#[$meta])*
        $visible struct $name {
            $(
                $(#[doc = $help])+
                $metric_visible $metric: $crate::metrics!(@kind $kind $(, $($value),+)?),
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($metric: $crate::metrics!(@metric $crate::metrics!(@made $($make)?) $(, $($label),+)?),)*
                }
            }
        }

        impl $name {
            /// Makes them, and registers them under their prefix.
            $visible fn register(registry: &mut $crate::metrics::Registry) -> Self {
                let metrics = Self::default();
                let registry = registry.sub_registry_with_prefix($prefix);
                $(
                    let help = $crate::metrics::help(concat!($($help),+));
                    registry.register(stringify!($metric), help, metrics.$metric.clone());
                )*
                metrics
            }
        }
    };
}

/// Declares what can be the value of a label, each with how it is written in metrics and logs.
///
/// ```
/// link::labels! {
///     /// Where somebody came in.
///     #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
///     enum Side {
///         Left = "left",
///         Right = "right",
///     }
/// }
/// assert_eq!(Side::ALL.map(Side::label), ["left", "right"]);
/// ```
#[macro_export]
macro_rules! labels {
    (
        $(#[$meta:meta])*
        $visible:vis enum $name:ident {
            $($(#[$value_meta:meta])* $value:ident = $label:literal,)*
        }
    ) => {
        $(#[$meta])*
        $visible enum $name {
            $($(#[$value_meta])* $value,)*
        }

        impl $name {
            /// All of them, in their order.
            #[allow(dead_code, reason = "some are never listed")]
            $visible const ALL: [Self; [$($label),*].len()] = [$(Self::$value),*];

            /// As metrics and logs write it.
            $visible const fn label(self) -> &'static str {
                match self {
                    $(Self::$value => $label,)*
                }
            }
        }

        impl $crate::metrics::EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut $crate::metrics::LabelValueEncoder<'_>) -> std::fmt::Result {
                $crate::metrics::EncodeLabelValue::encode(&self.label(), encoder)
            }
        }
    };
}
