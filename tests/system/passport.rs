//! Passports that end, between processes: edges renew them and workers take the renewed ones, before and after a move; a user who
//! is removed has to go.

use std::time::Duration;

use tempfile::TempDir;

use crate::harness::bytes::Connect;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, Server, Target, Transport, unique};
use crate::tiers::{Shape, Tiers, metric, within};

const DEVICES: usize = 8;
/// Of a passport, and the time for which workers honour one that has ended.
const LIFE_S: usize = 3;
const GRACE_MS: usize = 2000;
/// How long a few renewals of all devices may take.
const RENEWALS: Duration = Duration::from_secs(60);

/// Waits until every device's passport was renewed so often since now that its first one is not honoured any more.
fn renewed(tiers: &Tiers) {
    let count = || metric(&tiers.edges[0], "tidegate_edge_passport_renewals_total");
    let wanted = count() + (3 * DEVICES) as f64;
    within("renewals", RENEWALS, || (count() >= wanted).then_some(()));
}

#[test]
fn renewed_passports_go_to_the_workers_and_removed_users_go() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwords");
    for user in ["anna", "bert"] {
        passwd(&file, user, &[]);
    }
    let mut shape = Shape::new(2, 1);
    shape.worker_extra = format!("link.passport_grace_ms = {GRACE_MS}\n");
    // A debug build on a busy machine hashes slowly.
    shape.edge_extra = format!(
        "auth.password_file = \"{}\"\nauth.passport_lifetime_s = {LIFE_S}\nauth.hash_timeout_ms = 60000\n\
         edge.authenticate_timeout_ms = 60000\n",
        file.display()
    );
    let mut tiers = Tiers::start_single(&shape);
    let device = |tiers: &Tiers, number: usize| -> Client {
        let user = if number == 0 { "anna" } else { "bert" };
        let at = Target { server: &tiers.edges[0], transport: Transport::Tls };
        at.connect(&Connect::stored(&unique("c")).user(user, PASSWORD))
    };
    let mut devices: Vec<Client> = (0..DEVICES).map(|number| device(&tiers, number)).collect();
    tiers.kill_worker(0);
    for device in &mut devices {
        device.publish("t", "moved", 1);
    }
    renewed(&tiers);
    for device in &mut devices {
        device.publish("t", "after", 1);
    }
    assert_eq!(metric(&tiers.edges[0], "tidegate_edge_connections"), DEVICES as f64);

    passwd(&file, "anna", &["--delete"]);
    tiers.edges[0].signal("HUP");
    devices.remove(0).expect_disconnect(0x87);
    for device in &mut devices {
        device.publish("t", "others stay", 1);
    }
    let refused: String = tiers.workers.iter().map(Server::log).collect();
    assert!(!refused.contains("passport is not accepted"), "{refused}");
}
