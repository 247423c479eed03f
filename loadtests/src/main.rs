//! tidegate-load: load scenarios for MQTT brokers.

fn main() {}
