//! The path of a message: matched, handed to sessions, enqueued in the store, sent to other workers, and answered. Start
//! reading at [`publish`].

mod answer;
pub(crate) mod publish;
pub(crate) mod route;
pub(crate) mod share;
mod will;
