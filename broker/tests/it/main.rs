//! The worker as an edge calls it, over a store in memory: what needs several sessions, timers or a store that fails.

mod device;
mod retained;
mod session;
mod shared;
mod store_away;
mod will;
