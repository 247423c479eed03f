//! What a route knows of a stream at a worker.

/// A stream at a worker.
pub(in crate::upstream) trait Place: PartialEq {
    /// Who can be asked for the session.
    type Worker;

    /// What one stream leaves to the next.
    type Carried: Default;

    /// Whose stream it is.
    fn worker(&self) -> Self::Worker;

    /// Whether the next worker will be told of the end of the connection by what is handed over.
    fn tells_end(carried: &Self::Carried) -> bool;
}
