//! The path of a message: matched, handed to sessions, enqueued in the store, sent to other workers, and answered. Start
//! reading at [`publish`].

pub(crate) mod publish;
pub(crate) mod route;
pub(crate) mod share;
pub(crate) mod waiting;
