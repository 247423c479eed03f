//! The edge-to-worker link and its in-process twin.
