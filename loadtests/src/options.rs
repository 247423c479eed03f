//! The command line.

use clap::{Parser, Subcommand};

use crate::scenario;

/// Load scenarios for MQTT brokers. Every run is bounded and ends by itself.
#[derive(Debug, Parser)]
#[command(name = "tidegate-load", version)]
pub(crate) struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect, full or resumed TLS handshakes, CONNECT, disconnect: as fast as a bound allows.
    Connect(scenario::connect::ConnectArgs),
    /// Devices that all come back at once and try until they are in, beside pairs that go on talking.
    Storm(scenario::storm::StormArgs),
    /// Publishers to subscribers, 1:1, fan-in or fan-out, closed loop or at a rate.
    Throughput(scenario::throughput::ThroughputArgs),
    /// Messages for offline sessions: queue them, then reconnect and drain.
    Stored(scenario::stored::StoredArgs),
    /// Retained messages to wildcard subscribers.
    Retained(scenario::retained::RetainedArgs),
    /// Subscriptions, one after the other, and how long each SUBACK takes.
    Subscribe(scenario::subscribe::SubscribeArgs),
    /// Questions to the service of authentication.
    Authenticate(scenario::authenticate::AuthenticateArgs),
    /// Idle connections and the broker's memory for each.
    Idle(scenario::idle::IdleArgs),
}

#[cfg(test)]
mod tests {
    use mqtt::ProtocolVersion;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_ascii_whitespace())
    }

    #[test]
    fn ports_follow_the_transport() {
        let Command::Throughput(plain) = parse("tidegate-load throughput").unwrap().command else {
            panic!("not throughput");
        };
        assert_eq!(plain.target.dial(false).unwrap().address.port(), 1883);
        let Command::Throughput(tls) = parse("tidegate-load throughput --tls").unwrap().command else {
            panic!("not throughput");
        };
        assert_eq!(tls.target.dial(false).unwrap().address.port(), 8883);
        let Command::Connect(wss) = parse("tidegate-load connect --tls --ws").unwrap().command else {
            panic!("not connect");
        };
        assert_eq!((wss.target.dial(false).unwrap().address.port(), wss.target.transport()), (8084, "wss"));
        let Command::Idle(other) = parse("tidegate-load idle --tls --port 9000 --mqtt 5").unwrap().command
        else {
            panic!("not idle");
        };
        assert_eq!(other.target.dial(false).unwrap().address.port(), 9000);
        assert_eq!(other.target.version(), ProtocolVersion::V5);
    }

    #[test]
    fn process_ids_add_up() {
        let Command::Connect(args) = parse("tidegate-load connect --pid 1 --pid 22").unwrap().command else {
            panic!("not connect");
        };
        assert_eq!(args.target.pids, [1, 22]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        assert!(parse("tidegate-load throughput --qos 3").is_err());
        assert!(parse("tidegate-load throughput --payload 3").is_err());
        assert!(parse("tidegate-load throughput --threads 0").is_err());
        assert!(parse("tidegate-load throughput --mqtt 4").is_err());
        assert!(parse("tidegate-load connect --user name").is_err());
        assert!(parse("tidegate-load").is_err());
    }
}
