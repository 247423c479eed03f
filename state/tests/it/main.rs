//! One behaviour suite, run over every store; then what only one of them can show.

mod crash;
mod embedded;
mod harness;
mod memory;
mod model;
mod suite;
