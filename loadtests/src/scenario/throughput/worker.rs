//! One thread of the throughput scenario: prepares its clients and turns the loop until the phases are over.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail};

use super::group::{Groups, Role, Sender};
use super::{Outcome, Shape, ThroughputArgs};
use crate::measure::latency::Latency;
use crate::measure::sequence::SequenceCheck;
use crate::measure::window::Window;
use crate::net::dial::Dial;
use crate::net::establish::{connect_all, disconnect_all, subscribe_all};
use crate::net::packet::{ConnectOptions, PublishTemplate};
use crate::net::reactor::Reactor;
use crate::run::{Board, Counters, Phase};
use crate::scenario::publisher::Publisher;
use crate::scenario::share;

const TURN: Duration = Duration::from_millis(20);
/// Without a delivery for this long, messages under way are taken for lost.
const STANDSTILL_NS: u64 = 3_000_000_000;
/// Messages under way per publisher when a rate is given; what is due beyond that waits, and its latency counts on.
const OPEN_LOOP_WINDOW: u32 = 4_096;

pub(super) fn work(
    args: &ThroughputArgs,
    dial: &Dial,
    name: &str,
    worker: u32,
    board: &Board,
) -> Result<Outcome> {
    let mut reactor = Reactor::new(board.started())?;
    let name = format!("{name}-{worker}");
    let clients = clients(args, &name, worker);
    let mut groups = prepare(args, dial, &name, &clients, &mut reactor)?;
    let counters = board.counters(worker);
    counters.set_ready();
    while board.phase() == Phase::Prepare {
        reactor.turn(&mut groups, Duration::from_millis(1))?;
    }
    let standstills = turn_loop(args, worker, board, counters, &mut reactor, &mut groups)?;
    let expected = groups.sent() * u64::from(args.subscribers());
    let ids: Vec<_> = (0..groups.roles.len()).collect();
    disconnect_all(&mut reactor, &ids)?;
    discard_sessions(&clients, dial, &mut reactor)?;
    Ok(Outcome {
        tally: groups.tally,
        expected,
        refused: groups.senders.iter().map(|sender| sender.publisher.refused).sum(),
        latency: groups.latency,
        acknowledged: groups.acknowledged,
        standstills,
    })
}

fn turn_loop(
    args: &ThroughputArgs,
    worker: u32,
    board: &Board,
    counters: &Counters,
    reactor: &mut Reactor,
    groups: &mut Groups,
) -> Result<u64> {
    let mut schedule =
        args.rate.map(|rate| Schedule::new(rate, args.target.threads, worker, reactor.now_ns()));
    // A schedule is followed to the microsecond, so its loop does not sleep.
    let timeout = if schedule.is_some() || args.spin { Duration::ZERO } else { TURN };
    let mut phase = Phase::WarmUp;
    let (mut moved_ns, mut seen, mut standstills) = (reactor.now_ns(), 0, 0);
    loop {
        if board.phase() != phase {
            phase = board.phase();
            if phase == Phase::Measure {
                groups.latency.clear();
                groups.acknowledged.clear();
            }
        }
        if phase < Phase::Finish {
            let queued = match &mut schedule {
                None => groups.fill_windows(reactor),
                Some(schedule) => schedule.send(groups, reactor),
            };
            counters.begun.fetch_add(queued, Ordering::Relaxed);
        }
        reactor.flush(groups);
        reactor.turn(groups, timeout)?;
        if let Some(failure) = groups.failure.take() {
            bail!("{failure}");
        }
        counters.done.store(groups.tally.delivered, Ordering::Relaxed);
        if phase == Phase::Finish && groups.is_idle() {
            return Ok(standstills);
        }
        let now_ns = reactor.now_ns();
        if groups.tally.delivered != seen || groups.is_idle() {
            (moved_ns, seen) = (now_ns, groups.tally.delivered);
        } else if now_ns - moved_ns > STANDSTILL_NS {
            standstills += 1;
            moved_ns = now_ns;
            groups.give_up();
            if phase == Phase::Finish {
                return Ok(standstills);
            }
        }
    }
}

/// Which message is due when: message `n` of this thread at `start + n × interval`, the senders in turn.
struct Schedule {
    start_ns: u64,
    interval_ns: f64,
    next: u64,
    /// For each sender, when the oldest message that is due but could not leave was due.
    held_back: std::collections::VecDeque<(usize, u64)>,
}

impl Schedule {
    fn new(rate: u32, threads: u32, worker: u32, now_ns: u64) -> Self {
        let interval_ns = 1e9 * f64::from(threads) / f64::from(rate);
        let offset_ns = interval_ns * f64::from(worker) / f64::from(threads);
        Self {
            start_ns: now_ns + offset_ns as u64,
            interval_ns,
            next: 0,
            held_back: std::collections::VecDeque::new(),
        }
    }

    fn due_ns(&self, message: u64) -> u64 {
        self.start_ns + (message as f64 * self.interval_ns) as u64
    }

    /// Sends what is due. A message that is due and cannot leave keeps its time and its place before later ones.
    fn send(&mut self, groups: &mut Groups, reactor: &mut Reactor) -> u64 {
        let now_ns = reactor.now_ns();
        let mut queued = 0;
        while self.due_ns(self.next) <= now_ns {
            let sender = (self.next % groups.senders.len() as u64) as usize;
            self.held_back.push_back((sender, self.due_ns(self.next)));
            self.next += 1;
        }
        while let Some(&(sender, due_ns)) = self.held_back.front() {
            if !groups.send_due(sender, due_ns, reactor) {
                break;
            }
            self.held_back.pop_front();
            queued += 1;
        }
        queued
    }
}

/// The clients of one thread: in each group the publishers, then the subscribers.
fn clients(args: &ThroughputArgs, name: &str, worker: u32) -> Vec<ConnectOptions> {
    let group_count = share(args.group_count(), worker, args.target.threads);
    let per_group = args.publishers() + args.subscribers();
    let client = |client: u32| ConnectOptions {
        version: args.target.version(),
        client_id: format!("tgl-{name}-{client}"),
        clean: !(args.stored && client % per_group >= args.publishers()),
        keep_alive_s: 0,
    };
    (0..group_count * per_group).map(client).collect()
}

/// Ends the sessions that outlive their connections.
fn discard_sessions(clients: &[ConnectOptions], dial: &Dial, reactor: &mut Reactor) -> Result<()> {
    let stored = clients.iter().filter(|client| !client.clean);
    let clean: Vec<_> = stored.map(|client| ConnectOptions { clean: true, ..client.clone() }).collect();
    let removed = connect_all(reactor, dial, &clean, None)?;
    disconnect_all(reactor, &removed.iter().map(|client| client.id).collect::<Vec<_>>())
}

fn prepare(
    args: &ThroughputArgs,
    dial: &Dial,
    name: &str,
    clients: &[ConnectOptions],
    reactor: &mut Reactor,
) -> Result<Groups> {
    let version = args.target.version();
    let per_group = args.publishers() + args.subscribers();
    let established = connect_all(reactor, dial, clients, None)?;
    let window = if args.rate.is_some() { OPEN_LOOP_WINDOW } else { args.window };
    let mut roles = vec![Role::Sender(0); established.len()];
    let (mut senders, mut receivers, mut filters) = (Vec::new(), Vec::new(), Vec::new());
    for (group, members) in established.chunks(per_group as usize).enumerate() {
        let (publishing, subscribing) = members.split_at(args.publishers() as usize);
        let first_sender = senders.len();
        for (number, member) in publishing.iter().enumerate() {
            roles[member.id] = Role::Sender(senders.len());
            let topic = format!("tgl/{name}/{group}/{number}");
            let template = PublishTemplate::new(version, &topic, args.qos, false, args.payload as usize);
            let publisher = Publisher::new(args.qos, window.min(u32::from(member.receive_max)));
            senders.push(Sender::new(
                member.id,
                Window::new(window, args.subscribers()),
                publisher,
                template,
            ));
        }
        for member in subscribing {
            roles[member.id] = Role::Receiver { receiver: receivers.len(), first_sender };
            receivers.push(vec![SequenceCheck::default(); publishing.len()]);
            let last = if args.shape == Shape::FanIn { "+" } else { "0" };
            filters.push((member.id, format!("tgl/{name}/{group}/{last}")));
        }
    }
    subscribe_all(reactor, version, &filters, args.qos)?;
    Ok(Groups::new(roles, senders, receivers, [Latency::new()?, Latency::new()?]))
}
