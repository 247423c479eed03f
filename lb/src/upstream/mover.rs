//! Finds workers for devices that have none, paced by the answers: so many resumes are under way at once and no more, and who
//! is refused comes back later.

use std::sync::Arc;

use bytes::Bytes;
use link::Resume;
use link::wire::OpenBody;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::device::{Device, Errand, Way};
use super::link::{Carried, LinkStream};
use super::pool::Pool;
use super::route::{Circumstances, RouteInput};

/// Devices in one go; then other tasks of the thread have their turn.
const TURN: usize = 32;

/// With more unread a device is not resumed before it has read: each worker may send it a whole window.
pub(super) const UNREAD_BYTES_MAX: usize = 256 * 1024;

/// Waits until then, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Looks after devices, for ever.
pub(super) async fn run(pool: Arc<Pool>) {
    let agenda = &pool.devices.agenda;
    for turn in 1_usize.. {
        check(&pool);
        let due = agenda.due(Instant::now());
        if !due.has_devices {
            // The order makes no difference, but a run can be repeated.
            tokio::select! {
                biased;
                () = agenda.news() => {}
                () = until(due.wake_at) => {}
            }
            continue;
        }
        // Workers that do not answer hold the permits until they are given up.
        let permit = tokio::select! {
            biased;
            permit = pool.moves.clone().acquire_owned() => permit,
            () = until(due.check_at) => continue,
        };
        if let (Ok(permit), Some(device)) = (permit, agenda.pop()) {
            place(&pool, &device, permit);
        }
        if turn.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}

/// Takes devices away from workers that have not answered in time.
fn check(pool: &Arc<Pool>) {
    let now = Instant::now();
    while let Some(device) = pool.devices.agenda.pop_check(now) {
        let Some(device) = device else { continue };
        let (mut way, mut after) = device.lock();
        let asked =
            way.route.place().filter(|_| way.route.is_asking()).map(|place| place.link.worker.clone());
        device.follow(&mut way, RouteInput::Check, &mut after);
        let silent = asked.filter(|_| way.route.place().is_none() && !way.route.summary().is_over);
        device.go_on(way, &after);
        if let Some(worker) = silent {
            tracing::debug!(client_id = %device.client_id, worker = %worker.address, "no answer to a resume");
            pool.found_silent(&worker);
        }
    }
}

/// Opens the session of a device that has just come. `false` when it has to look for a worker.
pub(super) fn begin(pool: &Pool, device: &Arc<Device>) -> bool {
    let (mut way, mut after) = device.lock();
    way.open.attempt += 1;
    let asked = ask(pool, device, &way, Carried::default());
    let is_begun = !matches!(asked, RouteInput::NoWorker(_) | RouteInput::NotPlaced { .. });
    if is_begun {
        device.follow(&mut way, asked, &mut after);
    }
    device.go_on(way, &after);
    is_begun
}

/// Looks for a worker, if the device is to have another.
fn place(pool: &Pool, device: &Arc<Device>, permit: OwnedSemaphorePermit) {
    let (mut way, mut after) = device.lock();
    let mut input = take_turn(pool, device, &mut way);
    let mut is_placed = false;
    while let Some(errand) = device.follow(&mut way, input, &mut after) {
        input = match errand {
            Errand::LookAgain => take_turn(pool, device, &mut way),
            Errand::Ask(carried) => ask(pool, device, &way, carried),
        };
        is_placed |= matches!(input, RouteInput::Placed { .. });
    }
    // Who is asked for already has its own, or had it for long enough.
    let unused = if is_placed { way.permit.replace(permit) } else { Some(permit) };
    device.go_on(way, &after);
    drop(unused);
}

fn take_turn(pool: &Pool, device: &Device, way: &mut Way) -> RouteInput<LinkStream> {
    if way.route.place().is_none() {
        way.open.attempt += 1;
    }
    RouteInput::Turn(around(pool, device, way))
}

fn around(pool: &Pool, device: &Device, way: &Way) -> Circumstances {
    let (is_connected, unread) = {
        let mail = device.mail.lock();
        (mail.connack.is_some(), mail.len())
    };
    let mut around = Circumstances {
        is_connected,
        is_stale: way.is_stale(),
        leaves_much_unread: unread > UNREAD_BYTES_MAX,
        handoff_timeout: pool.config.handoff_timeout(),
        ..Circumstances::default()
    };
    if let Some(place) = way.route.place() {
        let worker = &place.link.worker;
        around.is_draining = place.link.is_draining();
        around.is_crowded = pool.is_crowded(worker) && device.is_idle(way);
        around.is_forsaken = pool.is_forsaken(worker);
        around.has_other = pool.choose(&device.client_id, std::slice::from_ref(worker)).is_some();
    }
    around
}

/// Asks the best worker that is not passed over for the session.
fn ask(pool: &Pool, device: &Arc<Device>, way: &Way, carried: Carried) -> RouteInput<LinkStream> {
    let Some(link) = pool.choose(&device.client_id, way.route.passed_over()) else {
        return RouteInput::NoWorker(carried);
    };
    let passport = match device.devices.token_of(&way.passport, &link) {
        Ok(token) => token,
        Err(error) => {
            device.unsigned(&error);
            return RouteInput::Unsigned;
        }
    };
    let resume = resume(device, way, &carried).map(Box::new);
    let open = Box::new(OpenBody { passport, resume, ..(*way.open).clone() });
    match link.open(open, carried, device) {
        Ok(stream) => {
            let answer_within = pool.config.resume_timeout();
            RouteInput::Placed { place: LinkStream { link, stream }, answer_within }
        }
        Err(carried) => RouteInput::NotPlaced { worker: link.worker.clone(), carried },
    }
}

/// What a resume adds to OPEN; `None` for a device that has no CONNACK.
fn resume(device: &Device, way: &Way, carried: &Carried) -> Option<Resume> {
    Some(Resume {
        connack: device.mail.lock().connack.clone()?,
        backlog: 0,
        flows: carried.flows.to_device(),
        inbound_qos2: carried.flows.from_device(),
        topic_aliases: way.aliases.list(),
        retained_due: Bytes::new(),
    })
}
