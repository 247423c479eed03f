//! What all byte streams of the edge need: to write everything that waits in one go, and to know who waits to write.

mod write;
mod writer;

pub(crate) use self::write::poll_write_all;
pub(crate) use self::writer::AwaitingWriter;
