//! What every source is given.

use std::sync::Arc;

use crate::metrics::Metrics;
use crate::slowdown::SlowDown;

/// What is shared by sources.
pub(crate) struct SourceContext {
    pub(crate) metrics: Metrics,
    /// Who guesses passwords, whichever source they are for.
    pub(crate) slow_down: Arc<SlowDown>,
}
