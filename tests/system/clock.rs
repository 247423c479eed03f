//! The wall clock is set: while a process runs, between two runs of it, and at one of several workers. Delays, expiries and
//! intervals go by what has passed, and nothing that is delivered says that it has longer to live than its publisher said.

use std::time::Duration;

use tempfile::TempDir;

use crate::harness::bytes::{Connect, Publish, Will};
use crate::harness::packet::Publish as Message;
use crate::harness::property as p;
use crate::harness::wall_clock::WallClock;
use crate::harness::{Server, Target, Transport, let_pass, unique};
use crate::tiers::{Shape, Tiers, wait_until_ready};

const DAY_S: i64 = 86_400;
const TEN_MINUTES_S: i64 = 600;
/// Message Expiry Interval, and the expiry of sessions (see `Connect::stored`), seconds.
const EXPIRY_S: u32 = 300;
const MESSAGES: usize = 16;

fn at(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// A session whose device has gone, with a Will that is not due yet.
struct Absent {
    id: String,
    topic: String,
    gone: String,
}

impl Absent {
    fn leave(at: Target<'_>) -> Self {
        let absent = Self { id: unique("s"), topic: unique("t"), gone: unique("gone") };
        let will = Will::new(&absent.gone, "gone").qos(1).delay(EXPIRY_S - 10);
        let mut device = at.connect(&Connect::stored(&absent.id).will(will));
        device.subscribe(&absent.topic, 1);
        device.vanish();
        absent
    }

    /// Messages for it, and one that is retained.
    fn publish(&self, at: Target<'_>) {
        let mut publisher = at.v5();
        let expiry = p::four(p::MESSAGE_EXPIRY, EXPIRY_S);
        for number in 0..MESSAGES {
            let message = Publish::new(&self.topic, number.to_string()).with(expiry.clone());
            publisher.publish_as(if number == 0 { message.retain() } else { message }, 1);
        }
    }

    /// Fails if anything of it has gone before its time.
    fn expect_all(&self, at: Target<'_>) {
        let mut witness = at.v5();
        witness.subscribe(&self.topic, 1);
        let retained = witness.take();
        assert!(retained.retain);
        expect_some_of_its_time(&retained);
        let (mut device, connack) = at.connect_and_see(&Connect::stored(&self.id));
        assert!(connack.session_present, "the session has ended");
        for number in 0..MESSAGES {
            let message = device.take();
            assert_eq!(message.text(), number.to_string());
            expect_some_of_its_time(&message);
        }
        device.leave();
        settle(at);
    }
}

/// Returns when everything that was done so far is on disk: what is acknowledged later is written later.
fn settle(at: Target<'_>) {
    let mut witness = at.connect(&Connect::stored(&unique("s")));
    witness.publish_as(Publish::new(unique("t"), "settled").retain(), 1);
    witness.leave();
}

/// What remains of its Message Expiry Interval is no more than all and no less than a test can have lasted.
fn expect_some_of_its_time(message: &Message) {
    // v5 [MQTT-3.3.2-6]
    let left = message.properties.number(p::MESSAGE_EXPIRY).expect("an interval");
    assert!((EXPIRY_S / 2..=EXPIRY_S).contains(&left), "{left} s");
}

/// Waits until timers have gone off by the clock as it is now: those of a session that has a second.
fn timers_go(at: Target<'_>, watched: &[&Absent]) {
    let mark = unique("mark");
    let mut witness = at.v5();
    witness.subscribe(&mark, 1);
    for absent in watched {
        witness.subscribe(&absent.gone, 1);
    }
    let will = Will::new(&mark, "mark").qos(1).delay(1);
    at.connect(&Connect::stored(&unique("s")).will(will)).vanish();
    let will: Message = witness.take();
    assert_eq!(will.text(), "mark", "the Will on {} was published before its time", will.topic);
}

#[test]
fn a_clock_that_is_set_while_it_runs_hastens_and_delays_nothing() {
    let clock = WallClock::new();
    let mut server = Server::start("");
    server.restart_with(clock.env());
    for steps in [[0, DAY_S], [0, -DAY_S], [-40 * DAY_S, TEN_MINUTES_S]] {
        clock.set_ahead_s(steps[0]);
        let absent = Absent::leave(at(&server));
        absent.publish(at(&server));
        clock.set_ahead_s(steps[1]);
        timers_go(at(&server), &[&absent]);
        absent.expect_all(at(&server));
    }
}

/// How long a process stands still, longer than a message lives that comes meanwhile.
const STANDS_STILL: Duration = Duration::from_millis(2_500);

/// A message that waits in a socket while a process stands still is new to it when it goes on: its time begins then.
fn stands_still(stopped: &Server, at: Target<'_>) {
    let topic = unique("t");
    let (mut subscriber, mut publisher) = (at.v5(), at.v5());
    subscriber.subscribe(&topic, 1);
    stopped.signal("STOP");
    let brief = Publish::new(&topic, "brief").with(p::four(p::MESSAGE_EXPIRY, 1));
    publisher.send(&brief.qos1(1).bytes());
    let_pass(STANDS_STILL);
    stopped.signal("CONT");
    let message = subscriber.take();
    assert_eq!((message.text(), message.properties.number(p::MESSAGE_EXPIRY)), ("brief", Some(1)));
}

#[test]
fn what_comes_while_a_process_stands_still_has_all_of_its_time_when_it_goes_on() {
    let server = Server::start("");
    for _ in 0..3 {
        stands_still(&server, at(&server));
    }
}

#[test]
fn a_board_that_begins_in_1970_goes_on_from_the_last_time() {
    let clock = WallClock::new();
    let dir = TempDir::new().unwrap();
    let mut server = Server::start_in(dir.path(), "");
    server.restart_with(clock.env());
    let absent = Absent::leave(at(&server));
    absent.publish(at(&server));
    let again = |server: &mut Server| {
        server.kill();
        server.run();
        server.wait_until_up();
    };
    clock.set_to_1970();
    again(&mut server);
    timers_go(at(&server), &[&absent]);
    // The network is there: the clock is set right, and some more.
    clock.set_ahead_s(DAY_S);
    timers_go(at(&server), &[&absent]);
    absent.expect_all(at(&server));
    absent.publish(at(&server));
    // What it was set by while the process ran has not passed.
    again(&mut server);
    timers_go(at(&server), &[&absent]);
    absent.expect_all(at(&server));
    // What it goes on by while nobody runs has, as far as anybody can tell.
    server.kill();
    clock.set_ahead_s(2 * DAY_S);
    server.run();
    server.wait_until_up();
    let (_, connack) = at(&server).connect_and_see(&Connect::stored(&absent.id));
    assert!(!connack.session_present);
}

#[test]
fn a_board_that_was_never_set_loses_nothing_when_it_is() {
    let clock = WallClock::new();
    let dir = TempDir::new().unwrap();
    clock.set_to_1970();
    let mut server = Server::start_in(dir.path(), "");
    server.restart_with(clock.env());
    let absent = Absent::leave(at(&server));
    absent.publish(at(&server));
    // Without power; then the clock is right before the process starts.
    server.kill();
    clock.set_ahead_s(0);
    server.run();
    server.wait_until_up();
    timers_go(at(&server), &[&absent]);
    absent.expect_all(at(&server));
}

#[test]
fn a_worker_whose_clock_is_wrong_goes_by_that_of_redis() {
    let clock = WallClock::new();
    let mut shape = Shape::paired(2);
    shape.worker_extra = "redis.timer_sweep_ms = 1000\n".to_owned();
    let mut tiers = Tiers::start_single(&shape);
    clock.set_ahead_s(TEN_MINUTES_S);
    tiers.workers[1].restart_with(clock.env());
    for server in tiers.workers.iter().chain(&tiers.edges) {
        wait_until_ready(server);
    }
    // Ahead, and set while it runs. One that is behind takes no passports: those are judged by the wall clock.
    for (ahead_s, then_s) in [(TEN_MINUTES_S, TEN_MINUTES_S), (0, DAY_S), (DAY_S, 0)] {
        clock.set_ahead_s(ahead_s);
        let (right, wrong) = (at(&tiers.edges[0]), at(&tiers.edges[1]));
        let of_right = Absent::leave(right);
        let of_wrong = Absent::leave(wrong);
        of_right.publish(wrong);
        of_wrong.publish(right);
        clock.set_ahead_s(then_s);
        for by in [right, wrong] {
            timers_go(by, &[&of_right, &of_wrong]);
        }
        of_right.expect_all(right);
        of_wrong.expect_all(wrong);
        of_right.publish(right);
        of_wrong.publish(wrong);
        of_right.expect_all(wrong);
        of_wrong.expect_all(right);
    }
}
