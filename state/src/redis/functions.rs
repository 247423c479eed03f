//! The library of functions that Redis carries out, named by its own content: a worker of another version calls other
//! functions, and both stay loaded. A library is never replaced.

use super::keys::fingerprint;

/// In this order: how calls are carried out comes last.
const TEXT: &str = concat!(
    include_str!("lua/store.lua"),
    "\n",
    include_str!("lua/queue.lua"),
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
        Self::of(TEXT)
    }

    fn of(text: &str) -> Self {
        let name = format!("tidegate_{:08x}", fingerprint(text));
        let text = format!("#!lua name={name}\n{}", text.replace("@NAME@", &name));
        Self { text, write: format!("{name}_write"), read: format!("{name}_read") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ARCHITECTURE, rule 25: two libraries cannot share the name of a function either.
    #[test]
    fn another_text_has_another_name_and_other_functions() {
        let [one, two] = ["x('@NAME@_write')", "y('@NAME@_write')"].map(Library::of);
        assert_ne!(one.text.lines().next(), two.text.lines().next());
        assert_ne!(one.write, two.write);
        assert_ne!(one.read, two.read);
        assert!(one.text.ends_with(&format!("x('{}')", one.write)), "{}", one.text);
        assert_eq!(Library::new().write, Library::new().write);
    }
}
