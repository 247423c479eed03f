//! Packets of which a part has come, and no more comes.

use super::*;

/// A device that has its CONNACK.
async fn connected(address: SocketAddr, client_id: &str) -> TcpStream {
    let mut device = dial(address).await;
    device.write_all(&connect_as(5, client_id, 0x02, b"", "")).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    device
}

/// Of a PUBLISH of 30,000 bytes to `t` the first `bytes`.
fn part(bytes: usize) -> Vec<u8> {
    [&b"\x30\xB0\xEA\x01\0\x01t\0"[..], &vec![0; bytes]].concat()
}

#[tokio::test]
async fn a_small_packet_in_two_pieces_gets_through_whoever_leaves_larger_ones_incomplete() {
    let (edge, _worker, address) = start(|config| {
        config.receive_buffer_bytes_max = 65_536;
        config.packet_bytes_max = 32_768;
        config.connect_bytes_max = 8_192;
    });
    let mut hogs = Vec::new();
    for (name, bytes) in [("a", 21_000), ("b", 23_000), ("c", 21_000)] {
        let mut hog = connected(address, name).await;
        hog.write_all(&part(bytes)).await.expect("written");
        hogs.push(hog);
    }
    eventually("they fill the room", || edge.shared.receive_buffered() > 65_000).await;
    let mut device = connected(address, "small").await;
    // 1,000 bytes at QoS 1, of which all but 200 come first.
    device.write_all(&[&b"\x32\xE8\x07\0\x01t\0\x01\0"[..], &[0; 794]].concat()).await.expect("written");
    expect_end(hogs.remove(1), b"\xE0\x01\x97").await;
    device.write_all(&[0; 200]).await.expect("written");
    expect(&mut device, b"\x40\x02\0\x01").await;
    eventually("room is left", || (42_000..42_100).contains(&edge.shared.receive_buffered())).await;
    assert_eq!(edge.connections(), 3);
}

#[tokio::test]
async fn who_has_not_authenticated_takes_no_room_from_connected_devices() {
    let (edge, worker, address) = start(|config| {
        config.receive_buffer_bytes_max = 65_536;
        config.packet_bytes_max = 32_768;
        config.connect_bytes_max = 8_192;
    });
    let mut device = connected(address, "a").await;
    device.write_all(&part(21_000)).await.expect("written");
    eventually("its part has come", || edge.shared.receive_buffered() > 21_000).await;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        let mut stranger = dial(address).await;
        // A CONNECT of 8,000 bytes but for the last.
        let connect = [&b"\x10\xC0\x3E\0\x04MQTT\x05"[..], &[0; 7_990]].concat();
        stranger.write_all(&connect).await.expect("written");
        strangers.push(stranger);
    }
    eventually("the others are closed", || edge.connections() == 2).await;
    assert!((27_900..28_100).contains(&edge.shared.receive_buffered()), "{}", edge.shared.receive_buffered());
    device.write_all(&vec![0; 30_000 - 4 - 21_000]).await.expect("written");
    eventually("it is complete", || worker.sessions()[0].packets().len() == 1).await;
}

#[tokio::test]
async fn what_comes_of_a_packet_of_the_exchange_before_connack_counts() {
    let (edge, _worker, address) = start(|_| {});
    let mut device = dial(address).await;
    device.write_all(&connect_as(5, "a", 2, &properties("TWO-STEP", ""), "")).await.expect("written");
    expect(&mut device, &auth(0x18, "really?")).await;
    // AUTH of 200 KiB, of which 190 come.
    device.write_all(&[&b"\xF0\x80\xC0\x0C"[..], &vec![0; 190 << 10]].concat()).await.expect("written");
    let counted = || edge.shared.receive_buffered();
    eventually("it counts", || ((188 << 10)..(192 << 10)).contains(&counted())).await;
    drop(device);
    eventually("it is over", || counted() == 0).await;
}
