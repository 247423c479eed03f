//! What happens when the process runs out of descriptors: an edge in a process of its own, with few.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const IS_CHILD: &str = "TIDEGATE_TEST_FEW_DESCRIPTORS";

/// Connections for which the child has descriptors, about.
const ROOM: u64 = 8;

/// The child: does nothing unless it was started by the test below.
#[tokio::test]
async fn an_edge_with_few_descriptors() {
    if std::env::var_os(IS_CHILD).is_none() {
        return;
    }
    let (_edge, _worker, address) = start(|_| {});
    let used = std::fs::read_dir("/proc/self/fd").expect("descriptors").count() as u64;
    let limit = Rlimit { current: Some(used + ROOM), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).expect("limited");
    // On a line of its own, whatever the test harness has printed.
    println!("\naddress {address}");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn out_of_descriptors_connections_are_shed_and_room_is_used_again() {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "edge::tests::descriptors::an_edge_with_few_descriptors", "--nocapture"])
        .env(IS_CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let address = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("address ")?.parse::<SocketAddr>().ok())
        .expect("an address");

    let mut served = Vec::new();
    let mut shed = 0;
    for _ in 0..40 {
        let mut device = dial(address).await;
        device.write_all(&connect(5)).await.expect("written");
        let mut connack = [0; 5];
        match timeout(PATIENCE, device.read_exact(&mut connack)).await.expect("neither served nor shed") {
            Ok(_) => served.push(device),
            Err(_) => shed += 1,
        }
    }
    // A few more or less: the runtime has descriptors of its own.
    assert!((2..=2 * ROOM as usize).contains(&served.len()), "{} served, {shed} shed", served.len());
    assert_eq!(served.len() + shed, 40);

    drop(served);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut device = dial(address).await;
        device.write_all(&connect(5)).await.expect("written");
        let mut connack = [0; 5];
        if device.read_exact(&mut connack).await.is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "the edge did not recover");
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
}
