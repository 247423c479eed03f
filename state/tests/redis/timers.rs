//! What is due, while a server has no answer, and while much else is.

use std::sync::Arc;

use state::{Claim, RedisConfig, Store, Via};

use crate::faults::{fragile_cluster, key_of, urls};
use crate::harness::{Calls, START, claim, message, publish_to, wait, will};
use crate::servers::{Cluster, Server, until};
use crate::stores::{InRedis, config_for, shared_server};

/// What keeps a server from answering.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Full,
    StandsStill,
}

impl Trouble {
    fn begin(self, cluster: &Cluster, server: &Server) {
        match self {
            Self::Full => {
                server.cli(&["config", "set", "maxmemory", "1"]);
            }
            Self::StandsStill => {
                let replica = cluster.replica_of(server);
                replica.cli(&["config", "set", "cluster-replica-no-failover", "yes"]);
                server.pause();
            }
        }
    }

    fn end(self, cluster: &Cluster, server: &Server) {
        match self {
            Self::Full => {
                server.cli(&["config", "set", "maxmemory", "0"]);
            }
            Self::StandsStill => {
                server.go_on();
                let replica = cluster.replica_of(server);
                replica.cli(&["config", "set", "cluster-replica-no-failover", "no"]);
            }
        }
    }
}

#[test]
fn a_server_that_has_no_answer_holds_up_its_own_timers_and_no_others() {
    let cluster = fragile_cluster();
    for trouble in [Trouble::Full, Trouble::StandsStill] {
        let config = RedisConfig { retry_budget_ms: 0, timer_sweep_ms: 100, ..config_for(urls(&cluster)) };
        let redis = InRedis::open(config);
        let calls = Calls(redis.store());
        let clients: Vec<String> = (0..24).map(|n| format!("s{n}")).collect();
        for client in &clients {
            let owned = calls.own(Claim { will: Some(will("w", 5)), ..claim(client) });
            calls.release(&owned.fence, 60, true, START).expect("released");
        }
        let masters = cluster.masters();
        let is_at = |server: &Server, client: &str| !key_of(server, &redis.config, "m", client).is_empty();
        let server = masters.into_iter().find(|server| is_at(server, "s0")).expect("a master");
        let (there, elsewhere): (Vec<&String>, Vec<&String>) =
            clients.iter().partition(|client| is_at(server, client));
        assert!(!there.is_empty() && !elsewhere.is_empty());
        let of = |clients: &[&String]| -> Vec<String> {
            let mut wills: Vec<String> = clients.iter().map(|client| format!("will {client} w")).collect();
            wills.sort_unstable();
            wills
        };
        trouble.begin(&cluster, server);
        let mut came = Vec::new();
        until("the Wills at other servers come", || {
            came.extend(calls.due(START + 5000));
            came.len() >= elsewhere.len()
        });
        came.sort_unstable();
        assert_eq!(came, of(&elsewhere), "{trouble:?}");
        trouble.end(&cluster, server);
        let mut came = Vec::new();
        until("the others come", || {
            came.extend(calls.due(START + 5000));
            came.len() >= there.len()
        });
        came.sort_unstable();
        assert_eq!(came, of(&there), "{trouble:?}: each once");
        cluster.settle();
    }
}

#[test]
fn what_a_member_of_a_share_leaves_is_taken_behind_wills() {
    const LEFT: usize = 150;
    let redis = InRedis::open(config_for(shared_server()));
    let calls = Calls(redis.store());
    let owned = calls.own(Claim { will: Some(will("w", 0)), ..claim("a") });
    for _ in 0..LEFT {
        let mut publish = publish_to(&[&owned.fence.session], &message("t", "x"));
        publish.targets[0].delivery.via = Via::Share(Arc::from("$share/g/t"));
        wait(|done| redis.store().publish(publish, done)).expect("published");
    }
    calls.release(&owned.fence, 0, true, START).expect("released");
    let mut due = calls.due(START);
    assert_eq!(due.first().map(String::as_str), Some("will a w"));
    due.extend(calls.due(START));
    let left = due.iter().filter(|due| *due == "left a $share/g/t").count();
    assert_eq!((due.len(), left), (LEFT + 1, LEFT));
    assert!(calls.due(START).is_empty(), "each once");
}
