//! What ends while devices are there: their passports, the time that their worker keeps their sessions for, and the stream
//! identifiers of a link.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ::link::wire::{OpenBody, RefuseReason};
use ::link::{Passport, PassportSigner, PassportVerifier};
use tokio::time::{Duration, Instant};

use super::Setup;
use super::device::{Received, TestDevice};
use super::worker::{FakeWorker, Store};
use crate::fake::eventually;

fn passport(subject: &str, ends_in_s: i64) -> Passport {
    let now_s = UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let expires_at_s = Some(now_s.saturating_add_signed(ends_in_s));
    Passport { expires_at_s, ..Passport::unrestricted(subject.into(), "device-7".into()) }
}

/// The subject of the passport that came with an OPEN, which may have ended.
fn subject(setup: &Setup, open: &OpenBody) -> String {
    let pem = std::fs::read(setup.folder.path().join("passport.pem")).expect("key");
    let public = PassportSigner::from_pem(&pem).expect("key").public_pem().to_owned();
    let verifier = PassportVerifier::from_pems(&[public], Duration::ZERO).expect("key");
    let passport = verifier.verify_with_grace(&open.passport, Duration::from_secs(1_000));
    passport.expect("good").subject.to_string()
}

/// A device whose passport is this one, and then its worker dies.
async fn adrift(passport: Passport) -> (Setup, TestDevice) {
    let mut setup = Setup::with(2, |config| config.backoff_max_ms = 125).await;
    let (mut device, place) = setup.device(7).await;
    device.renew(passport);
    setup.fakes.remove(place).kill().await;
    (setup, device)
}

#[tokio::test]
async fn the_newest_passport_goes_along() {
    let (setup, _device) = adrift(passport("new", 1_000)).await;
    eventually("it has another", || setup.fakes[0].opens().len() == 1).await;
    assert_eq!(subject(&setup, &setup.fakes[0].opens()[0]), "new");
}

#[tokio::test]
async fn one_that_has_ended_is_renewed_before_another_worker_is_asked() {
    let (setup, mut device) = adrift(passport("old", -5)).await;
    eventually("it looks for a worker", || setup.metric("workers_moving") == 1.0).await;
    device.renew(passport("new", 1_000));
    eventually("it has another", || setup.fakes[0].opens().len() == 1).await;
    assert_eq!(subject(&setup, &setup.fakes[0].opens()[0]), "new");
}

#[tokio::test]
async fn one_that_has_ended_and_cannot_be_renewed_is_tried_all_the_same() {
    let since = Instant::now();
    let (setup, mut device) = adrift(passport("old", -5)).await;
    eventually("another worker is asked", || setup.fakes[0].opens().len() == 1).await;
    // Workers honour it for a while.
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(subject(&setup, &setup.fakes[0].opens()[0]), "old");
    // And then no more.
    setup.fakes[0].manner(|manner| manner.refuses = Some(RefuseReason::Passport));
    setup.fakes[0].cut();
    assert_eq!(device.next().await, Received::Packet(b"\xE0\x01\x87"[..].into()));
}

#[tokio::test]
async fn a_device_gives_up_when_its_worker_may_have_let_its_session_go() {
    let store = Arc::new(Store::default());
    let fake = FakeWorker::start(&store, None).await;
    fake.manner(|manner| manner.handoff_grace_ms = 1_000);
    let mut setup = Setup::of(store, vec![fake], |config| config.handoff_timeout_ms = 600_000).await;
    let (mut device, _) = setup.device(7).await;
    let since = Instant::now();
    setup.fakes.remove(0).kill().await;
    assert_eq!(device.next().await, Received::Packet(b"\xE0\x01\x8B"[..].into()));
    assert!(since.elapsed() >= Duration::from_millis(750), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_link_whose_identifiers_run_out_is_replaced_and_nobody_notices() {
    let setup = Setup::with(1, |config| {
        config.links_per_worker = 1;
        config.streams_per_link_max = 16;
    });
    let setup = setup.await;
    let links = || setup.metric("workers_links");
    let mut devices = Vec::new();
    // One after the other, each connected before the next: the second link is there when the first is used up.
    for connection in 0..40 {
        devices.push(TestDevice::connect(&setup.workers, connection).await);
        if connection % 16 == 13 {
            let links_now = 2.0 + f64::from(connection as u32 / 16);
            eventually("there is another link", || links() == links_now).await;
        }
    }
    assert_eq!(links(), 3.0, "those that are worn have their devices");
    let mut stays = devices.pop().expect("forty");
    for device in &mut devices {
        assert_eq!(device.publish_all(3, 2).await, [1; 3]);
    }
    drop(devices);
    eventually("worn links end", || links() == 1.0).await;
    assert_eq!(stays.publish_all(20, 5).await, [1; 20]);
    let opens = setup.fakes[0].opens();
    assert!(opens.len() == 40 && opens.iter().all(|open| open.resume.is_none()), "nobody was moved");
    assert_eq!((setup.metric("workers_link_failures_total"), setup.metric("workers_healthy")), (0.0, 1.0));
}
