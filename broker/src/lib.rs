//! The worker: sessions, subscriptions, fan-out.
