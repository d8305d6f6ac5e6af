//! Metrics, a row each: name, meaning, labels and, of a histogram, the bounds of its buckets.

#[doc(hidden)]
pub use prometheus;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Result,
};

/// A kind of metric.
pub trait Metric: Collector + Clone + Sized + 'static {
    /// One with a name and a meaning; a kind without labels or buckets has none.
    fn of(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<Self>;
}

macro_rules! kinds {
    ($($kind:ident: $name:ident, $help:ident, $labels:ident, $buckets:ident => $made:expr;)*) => {$(
        impl Metric for $kind {
            fn of($name: &str, $help: &str, $labels: &[&str], $buckets: &[f64]) -> Result<Self> {
                $made
            }
        }
    )*};
}

kinds! {
    IntCounter: name, help, _labels, _buckets => Self::new(name, help);
    IntCounterVec: name, help, labels, _buckets => Self::new(Opts::new(name, help), labels);
    IntGauge: name, help, _labels, _buckets => Self::new(name, help);
    IntGaugeVec: name, help, labels, _buckets => Self::new(Opts::new(name, help), labels);
    Histogram: name, help, _labels, buckets => Self::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()));
    HistogramVec: name, help, labels, buckets => Self::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels);
}

/// A metric that is told of from now on.
#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
pub fn registered<M: Metric>(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> M {
    let metric = M::of(name, help, labels, buckets).expect("a metric's row is sound");
    prometheus::register(Box::new(metric.clone())).expect("the metric's name is unique");
    metric
}

/// Declares metrics; each is registered when it is first used.
#[macro_export]
macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident: $kind:ident = $metric:literal, $help:literal $(, labels [$($label:literal),*])? $(, buckets [$($bucket:literal),*])?;)*) => {$(
        $(#[$doc])*
        static $name: std::sync::LazyLock<$crate::metrics::prometheus::$kind> =
            std::sync::LazyLock::new(|| $crate::metrics::registered($metric, $help, &[$($($label),*)?], &[$($($bucket),*)?]));
    )*};
}
