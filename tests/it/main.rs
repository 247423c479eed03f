//! Behaviour of the real binary over real sockets, by topic. Quick: one shared server, run by `cargo test`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected stops at once")]

#[allow(dead_code, reason = "shared with the slow tests, which use more of it")]
#[path = "../harness/mod.rs"]
mod harness;

/// Runs every named test once over TCP, once over TLS and once over WSS.
macro_rules! over_every_transport {
    ($($name:ident),+ $(,)?) => {
        over_every_transport!(@one tcp, Tcp, $($name),+);
        over_every_transport!(@one tls, Tls, $($name),+);
        over_every_transport!(@one wss, Wss, $($name),+);
    };
    (@one $module:ident, $transport:ident, $($name:ident),+) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name($crate::harness::Target {
                        server: $crate::harness::shared(),
                        transport: $crate::harness::Transport::$transport,
                    });
                }
            )+
        }
    };
}

mod acl_change;
mod asked_actions;
mod asked_elsewhere;
mod bounds;
mod budget;
mod command_line;
mod connect;
mod enhanced_auth;
mod files;
mod keep_alive;
mod limit;
mod local;
mod log;
mod malformed;
mod passport;
mod power_loss;
mod principal;
mod process;
mod publish;
mod report;
mod retained;
mod revocation;
mod revocation_list;
mod rules;
mod session;
mod settings;
mod shared;
mod subscribe;
mod token;
mod version3;
mod websocket;
mod will;
