//! Packets that the worker does not take yet.

use super::*;

const SUBSCRIBE: &[u8] = b"\x82\x07\0\x02\0\0\x01t\0";
const SUBACK: &[u8] = b"\x90\x04\0\x02\0\0";

/// A worker whose answers to SUBSCRIBE are the test's.
fn holding(pipelined: &'static [u8]) -> Setup {
    let mut setup = Setup { pipelined, ..Setup::default() };
    setup.worker.holds_requests = true;
    setup
}

// ARCHITECTURE, rule 31.
#[tokio::test(start_paused = true)]
async fn what_the_worker_does_not_take_yet_waits_with_all_that_follows_it() {
    let stream = [SUBSCRIBE, PINGREQ, PUBLISH_1, SUBSCRIBE, PUBLISH].concat();
    for cut in 0..stream.len() {
        let mut running = holding(b"").start().await;
        running.send(&stream[..cut]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        running.send(&stream[cut..]).await;
        running.expect(PINGRESP).await;
        assert_eq!(running.session.packets(), [SUBSCRIBE], "cut at {cut}");
        running.session.answer(SUBACK);
        running.expect(&[SUBACK, b"\x40\x02\0\x01"].concat()).await;
        eventually("the second SUBSCRIBE", || running.session.packets().len() == 3).await;
        running.session.answer(SUBACK);
        running.expect(SUBACK).await;
        running.send(PINGREQ).await;
        running.expect(PINGRESP).await;
        assert_eq!(running.session.packets(), [SUBSCRIBE, PUBLISH_1, SUBSCRIBE, PUBLISH]);
        assert_eq!(running.shared.receive_buffered(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_with_connect_waits_too() {
    let pipelined = b"\x82\x07\0\x02\0\0\x01t\0\x30\x05\0\x01t\0x";
    let mut running = holding(pipelined).start().await;
    running.send(PUBLISH_1).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(running.session.packets(), [SUBSCRIBE]);
    running.session.answer(SUBACK);
    running.expect(&[SUBACK, b"\x40\x02\0\x01"].concat()).await;
    assert_eq!(running.session.packets(), [SUBSCRIBE, PUBLISH, PUBLISH_1]);
}

// A DISCONNECT was received although its device has closed the socket since.
#[tokio::test(start_paused = true)]
async fn what_a_device_had_sent_before_it_went_is_carried_out() {
    let mut running = holding(b"").start().await;
    running.send(&[SUBSCRIBE, PUBLISH, SUBSCRIBE, PUBLISH, b"\xE0\0", PUBLISH].concat()).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(running.device);
    running.session.answer(SUBACK);
    eventually("the second SUBSCRIBE", || running.session.packets().len() == 3).await;
    assert_eq!(running.session.closed(), None);
    running.session.answer(SUBACK);
    running.relay.await.expect("ended");
    assert_eq!(running.session.packets(), [SUBSCRIBE, PUBLISH, SUBSCRIBE, PUBLISH, b"\xE0\0"]);
    assert_eq!(running.session.closed(), Some(CloseCause::Abnormal));
    assert_eq!(running.shared.receive_buffered(), 0);
}
