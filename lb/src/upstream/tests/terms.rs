//! What ends while devices move: their passports, and the time that their worker keeps their sessions for.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ::link::wire::{Open, RefuseReason};
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
fn subject(setup: &Setup, open: &Open) -> String {
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
