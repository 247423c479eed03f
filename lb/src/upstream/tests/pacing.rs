//! How many devices ask workers at once, and who does not hold up the others.

use ::link::wire::RefuseReason;

use super::Setup;
use super::device::TestDevice;
use super::handoff::publishes_well;
use crate::fake::eventually;

#[tokio::test]
async fn a_thousand_devices_move_and_few_at_a_time() {
    const DEVICES: usize = 1_000;
    let mut setup = Setup::with(2, |config| config.moves_inflight_max = 16).await;
    let mut devices = Vec::new();
    for connection in 0..DEVICES as u128 {
        devices.push(TestDevice::connect(&setup.workers, connection).await);
    }
    let shares = setup.fakes.iter().map(|fake| fake.opens().len()).collect::<Vec<_>>();
    assert!(shares.iter().all(|share| (300..=700).contains(share)), "{shares:?}");
    // The survivor does not answer at first, so that it is seen how many are asked for.
    setup.fakes[1].manner(|manner| manner.is_mute = true);
    let dead = setup.fakes.remove(0);
    let moving = dead.opens().len();
    dead.kill().await;
    let resumes = |setup: &Setup| setup.fakes[0].opens().iter().filter(|open| open.resume.is_some()).count();
    eventually("the first are asked for", || resumes(&setup) == 16).await;
    assert_eq!(setup.workers.0.moves.available_permits(), 0, "no other may be asked for");
    setup.fakes[0].manner(|manner| manner.is_mute = false);
    setup.fakes[0].cut();
    eventually("all are there", || setup.metric("workers_moving") == 0.0).await;
    assert!(resumes(&setup) >= moving);
    for device in &mut devices {
        assert_eq!(device.publish_all(1, 1).await, [1]);
    }
}

#[tokio::test]
async fn workers_that_do_not_answer_do_not_hold_up_the_others_for_ever() {
    let setup = Setup::with(3, |config| {
        config.moves_inflight_max = 1;
        config.resume_timeout_ms = 150;
    })
    .await;
    let mut devices = Vec::new();
    for connection in 0..12 {
        devices.push(setup.device(connection).await);
    }
    let dead = devices[0].1;
    let mute = (dead + 1) % 3;
    setup.fakes[mute].manner(|manner| manner.is_mute = true);
    setup.fakes[dead].manner(|manner| manner.refuses = Some(RefuseReason::Overloaded));
    setup.fakes[dead].cut();
    let leaving = devices.iter().filter(|(_, place)| *place == dead).count() as f64;
    eventually("all moves are done", || {
        setup.metric("workers_moves_total{reason=\"lost\",outcome=\"moved\"}") >= leaving
            && setup.metric("workers_moving") == 0.0
    })
    .await;
    for (device, place) in devices {
        if place != mute {
            publishes_well(&setup, device, 3).await;
        }
    }
}

#[tokio::test]
async fn a_connect_that_is_not_answered_does_not_hold_up_the_others() {
    let setup = Setup::with(2, |config| {
        config.moves_inflight_max = 1;
        config.resume_timeout_ms = 150;
    })
    .await;
    let (device, place) = setup.device(7).await;
    // Refused by the other, it asks this one, as those do that have come before any worker was there.
    let (mute, other) = (&setup.fakes[1 - place], &setup.fakes[place]);
    mute.manner(|manner| manner.is_mute = true);
    other.manner(|manner| manner.refuses = Some(RefuseReason::Overloaded));
    let mut waiting = Vec::new();
    for connection in 100..110 {
        waiting.push(TestDevice::begin(&setup.workers, connection));
    }
    eventually("one waits for an answer", || !mute.opens().is_empty() && other.opens().len() > 1).await;
    mute.manner(|manner| manner.is_mute = false);
    other.manner(|manner| manner.refuses = None);
    other.cut();
    publishes_well(&setup, device, 5).await;
}

#[tokio::test]
async fn a_worker_that_answers_no_resume_is_asked_by_few() {
    let mut setup = Setup::with(3, |config| {
        config.moves_inflight_max = 1;
        config.resume_timeout_ms = 300;
    })
    .await;
    let mut devices = Vec::new();
    for connection in 0..60 {
        devices.push(setup.device(connection).await.0);
    }
    setup.fakes[1].manner(|manner| manner.is_mute = true);
    let before = setup.fakes[1].opens().len();
    let dead = setup.fakes.remove(0);
    let moving = dead.opens().len() as f64;
    dead.kill().await;
    let moved = || setup.metric("workers_moves_total{reason=\"lost\",outcome=\"moved\"}");
    eventually("all have moved", || moved() == moving).await;
    let asked = setup.fakes[0].opens().len() - before;
    assert!((1..=3).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_connect_that_is_not_answered_holds_no_permit_when_it_is_looked_at_again() {
    let setup = Setup::with(2, |config| {
        config.moves_inflight_max = 1;
        config.resume_timeout_ms = 100;
    })
    .await;
    setup.fakes[0].manner(|manner| manner.is_mute = true);
    setup.fakes[1].manner(|manner| manner.refuses = Some(RefuseReason::Overloaded));
    let mut waiting: Vec<_> =
        (0..10).map(|connection| TestDevice::begin(&setup.workers, connection)).collect();
    let mut asking = Vec::new();
    eventually("all wait for an answer", || {
        asking = waiting.iter_mut().map(TestDevice::shared).collect();
        asking.iter().all(|device| device.lock().0.route.place().is_some())
            && setup.fakes[0].opens().len() == 10
    })
    .await;
    asking.retain(|device| device.lock().0.route.is_asking());
    assert!(!asking.is_empty(), "none was refused before");
    let pool = &setup.workers.0;
    eventually("none holds up others", || pool.moves.available_permits() == 1).await;
    pool.devices.agenda.push(asking);
    // Who is taken off the agenda is looked at before anything else runs.
    eventually("they are looked at", || pool.devices.agenda.is_idle()).await;
    assert_eq!(pool.moves.available_permits(), 1);
}
