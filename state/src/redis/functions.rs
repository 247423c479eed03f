//! The library of functions that Redis carries out, named by its own content: a worker of another version calls other
//! functions, and both stay loaded. A library is never replaced.

use super::keys::fingerprint;

/// In this order: how calls are carried out comes last.
const TEXT: &str = concat!(
    include_str!("lua/store.lua"),
    "\n",
    include_str!("lua/cluster.lua"),
    "\n",
    include_str!("lua/calls.lua"),
);

/// The library and the names of its functions.
#[derive(Debug)]
pub(super) struct Library {
    /// What FUNCTION LOAD takes.
    pub(super) text: String,
    /// Writes; answered once, however often it is sent.
    pub(super) write: String,
    /// Reads.
    pub(super) read: String,
}

impl Library {
    pub(super) fn new() -> Self {
        let name = format!("tidegate_{:08x}", fingerprint(TEXT));
        let text = format!("#!lua name={name}\n{}", TEXT.replace("@NAME@", &name));
        Self { text, write: format!("{name}_write"), read: format!("{name}_read") }
    }
}
