//! Devices that do not read.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_the_device_does_not_take_stays_with_the_session() {
    let setup = Setup { pipe_bytes: 1_024, ..Setup::default() };
    let mut running = setup.start().await;
    for _ in 0..1_000 {
        running.session.push(vec![0x55; 1_000]);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let taken = 1_000_000 - running.session.queued();
    assert!(taken <= 2 * WRITE_BYTES + 2_048, "{taken}");
    let begun = Instant::now();
    let mut all = vec![0; 1_000_000];
    running.device.read_exact(&mut all).await.expect("everything");
    assert!(all.iter().all(|&byte| byte == 0x55));
    // Time is paused: it moves only when everything waits, for a timer instead of for the device.
    assert_eq!(begun.elapsed(), Duration::ZERO, "the session was left alone with what it had");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_leaves_its_answers_unread_is_not_read_either() {
    let config = EdgeConfig { outgoing_bytes_max: 4_096, write_timeout_s: 3_600, ..EdgeConfig::default() };
    let mut running = Setup { config, pipe_bytes: 1_024, ..Setup::default() }.start().await;
    let pings = PINGREQ.repeat(1_000_000);
    let (mut reader, mut writer) = tokio::io::split(running.device);
    let writing = tokio::spawn(async move {
        writer.write_all(&pings).await.expect("written in the end");
        writer
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!writing.is_finished(), "the device was read without bound");
    let mut answers = vec![0; 2_000_000];
    reader.read_exact(&mut answers).await.expect("all answers");
    let writer = writing.await.expect("writer");
    running.device = reader.unsplit(writer);
    running.send(PINGREQ).await;
    running.expect(PINGRESP).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_device_that_does_not_read_counts_as_unread() {
    let running = Setup { pipe_bytes: 1_024, ..Setup::default() }.start().await;
    let unsent = &running.shared.relays.unread;
    for bytes in [10_000, 300_000] {
        running.session.push(vec![0; bytes]);
        // By then it has noticed, and taken no more.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(running.session.queued(), 300_000, "it waits behind the first");
    let (slots, bytes) = unsent.condemn(1);
    assert_eq!((slots.len(), bytes / STEP_BYTES), (1, (300_000 + 10_000) / STEP_BYTES));
    running.shared.relays.wake(slots[0]);
    running.relay.await.expect("ended");
    assert_eq!(unsent.condemn(1), (vec![], 0), "nothing is left of it");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_does_not_read_is_closed_after_the_write_timeout() {
    let config = EdgeConfig { write_timeout_s: 30, ..EdgeConfig::default() };
    let running = Setup { config, pipe_bytes: 1_024, ..Setup::default() }.start().await;
    let since = Instant::now();
    running.session.push(vec![0; 100_000]);
    running.relay.await.expect("ended");
    assert_eq!(since.elapsed().as_secs(), 30);
    assert_eq!(running.session.closed(), Some(CloseCause::Abnormal));
}

#[tokio::test(start_paused = true)]
async fn a_takeover_from_a_device_that_does_not_read_is_noticed_at_once() {
    let running = Setup { pipe_bytes: 1_024, ..Setup::default() }.start().await;
    running.session.push(vec![0x55; 100_000]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let since = Instant::now();
    running.session.end(ReasonCode::SessionTakenOver);
    eventually("the session is let go", || running.session.closed().is_some()).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    running.relay.await.expect("ended");
    assert_eq!(since.elapsed().as_secs(), 2, "no longer than it may linger");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_reads_late_hears_that_it_was_taken_over() {
    let mut running = Setup { pipe_bytes: 1_024, ..Setup::default() }.start().await;
    running.session.push(vec![0x55; 100_000]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.session.end(ReasonCode::SessionTakenOver);
    eventually("the session is let go", || running.session.closed().is_some()).await;
    let mut all = vec![0; 100_000];
    running.device.read_exact(&mut all).await.expect("what was on its way");
    running.expect_end(b"\xE0\x01\x8E").await;
}
