//! Connections of one client that wait for each other.

use super::*;

/// An edge where the client has been taken over, so that the next one waits for so long.
async fn start_taken_over(interval_ms: u64) -> (Edge, FakeWorker, SocketAddr, [TcpStream; 2]) {
    let (edge, worker, address) = start(|config| {
        (config.takeover_burst, config.takeover_interval_ms) = (1, interval_ms);
        config.linger_ms = 100;
    });
    let [mut first, mut second] = [dial(address).await, dial(address).await];
    for device in [&mut first, &mut second] {
        device.write_all(&of_single()).await.expect("written");
        expect(device, CONNACK_5).await;
    }
    (edge, worker, address, [first, second])
}

fn of_single() -> Vec<u8> {
    connect_as(5, "a", 2, b"", "single")
}

#[tokio::test]
async fn however_many_connections_of_one_client_wait_the_newest_is_left() {
    let (edge, worker, address, _devices) = start_taken_over(4_000).await;
    let since = Instant::now();
    let mut kept = Vec::new();
    for number in 0..100 {
        let mut device = dial(address).await;
        device.write_all(&of_single()).await.expect("written");
        if number % 2 == 1 {
            kept.push(device);
        }
    }
    let are_few = || edge.listeners[0].accepted.get() == 102 && edge.connections() <= 3;
    eventually("the others are closed", are_few).await;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    expect(kept.last_mut().expect("the newest"), CONNACK_5).await;
    // CONNACK 0x89.
    expect_end(kept.swap_remove(0), b"\x20\x03\0\x89\0").await;
    assert_eq!(worker.sessions().len(), 3);
}

#[tokio::test]
async fn who_goes_while_it_waits_is_not_kept_until_its_turn() {
    let (edge, _worker, address, _devices) = start_taken_over(60_000).await;
    let mut device = dial(address).await;
    device.write_all(&of_single()).await.expect("written");
    let waits = || edge.connections() == 3 && edge.shared.metrics.handshakes.get() == 0;
    eventually("it waits", waits).await;
    drop(device);
    eventually("it has gone", || edge.connections() == 2).await;
}
