//! Devices as they are in the field: each tries to connect, gives up when there is no CONNACK in time, waits, tries again, for ever;
//! once connected it stays and pings.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use mqtt::Packet;

use super::StormArgs;
use super::series::Change;
use crate::measure::latency::Latency;
use crate::net::dial::Dial;
use crate::net::packet::ConnectOptions;
use crate::net::reactor::{ConnectionId, Handler, Link, Reactor};
use crate::run::{Board, Counters, Phase};

const TURN: Duration = Duration::from_millis(5);
/// What is due at the same time is done so many at a time, so that what arrives is not left lying.
const DUE_PER_TURN: usize = 2;
/// Connections served in a turn: so many handshakes that the thread of the pairs does not wait for long.
const EVENTS_PER_TURN: usize = 8;
const KEEP_ALIVE_S: u16 = 60;
const PING_INTERVAL_NS: u64 = 45_000_000_000;
/// Threads of devices give way to the thread of the pairs, whose latency would else be this tool's own; also after each turn, since a
/// scheduler lets who runs go on for milliseconds, whatever its niceness.
const NICENESS: i32 = 5;

/// What happened to the devices of one thread.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) changes: Vec<Change>,
    /// Connections begun.
    pub(super) attempts: u64,
    /// Attempts given up for want of a CONNACK.
    pub(super) timed_out: u64,
    /// Attempts that the broker refused, by Reason Code.
    pub(super) refused: BTreeMap<u8, u64>,
    /// Attempts that were closed, reset or broken off before CONNACK.
    pub(super) broken: u64,
    /// CONNACKs that let a device in.
    pub(super) admitted: u64,
    /// Connected devices whose connection ended.
    pub(super) thrown_out: u64,
    /// From the beginning of the attempt that succeeded to its CONNACK.
    pub(super) latency: Latency,
    /// Why the first attempt that broke off did.
    pub(super) first_error: Option<String>,
}

/// What the devices of one thread are.
pub(super) struct Plan<'a> {
    pub(super) args: &'a StormArgs,
    pub(super) dial: &'a Dial,
    pub(super) clients: Vec<ConnectOptions>,
    /// Number of the first one among all.
    pub(super) first: u32,
}

impl Plan<'_> {
    /// The source address of a device, always the same.
    fn source(&self, device: usize) -> Option<Ipv4Addr> {
        let number = self.first + u32::try_from(device).unwrap_or(0);
        let first = self.dial.source?;
        Some(Ipv4Addr::from_bits(u32::from(first) + number / self.args.per_address))
    }
}

/// Options of device number `number`.
pub(super) fn client(args: &StormArgs, name: &str, number: u32) -> ConnectOptions {
    ConnectOptions {
        version: args.target.version(),
        client_id: format!("tgl-{name}-{number}"),
        clean: !args.stored,
        keep_alive_s: KEEP_ALIVE_S,
    }
}

/// Waits for the storm, runs it, and goes on for `--hold` seconds after its end.
///
/// # Errors
/// When sockets cannot be made.
pub(super) fn work(plan: &Plan<'_>, counters: &Counters, board: &Board) -> Result<Outcome> {
    // Linux counts niceness per thread. Where it is refused, figures of the pairs are a little worse.
    let _ = rustix::process::nice(NICENESS);
    let mut reactor = Reactor::new(board.started())?.with_turns_of(EVENTS_PER_TURN);
    let mut fleet = Fleet::new(plan)?;
    counters.set_ready();
    while board.phase() < Phase::Measure {
        std::thread::sleep(Duration::from_millis(1));
    }
    fleet.begin(reactor.now_ns());
    let hold_ns = (plan.args.hold * 1e9) as u64;
    let mut ended_ns = None;
    while ended_ns.is_none_or(|ended_ns| reactor.now_ns() < ended_ns + hold_ns) {
        let wait = fleet.turn_due(plan, &mut reactor)?;
        reactor.turn(&mut fleet, wait)?;
        for id in std::mem::take(&mut fleet.to_close) {
            reactor.close(id, None, &mut fleet);
        }
        reactor.flush(&mut fleet);
        std::thread::yield_now();
        counters.begun.store(fleet.outcome.attempts, Ordering::Relaxed);
        counters.done.store(fleet.up, Ordering::Relaxed);
        if ended_ns.is_none() && board.phase() == Phase::Finish {
            ended_ns = Some(reactor.now_ns());
        }
    }
    Ok(fleet.outcome)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waiting for its next attempt.
    Away,
    AwaitingConnack(ConnectionId),
    Up(ConnectionId),
}

#[derive(Debug, Clone, Copy)]
struct Device {
    state: State,
    /// Grows with each change of state, so that what was due in the former one is known to be void.
    generation: u32,
}

struct Fleet {
    timeout_ns: u64,
    retry_ns: u64,
    jitter_ns: u64,
    started_ns: u64,
    now_ns: u64,
    devices: Vec<Device>,
    up: u64,
    /// Which device a connection belongs to.
    owners: Vec<usize>,
    /// When something is to be done, the device, and its generation then.
    due: BinaryHeap<Reverse<(u64, usize, u32)>>,
    to_close: Vec<ConnectionId>,
    outcome: Outcome,
}

impl Fleet {
    fn new(plan: &Plan<'_>) -> Result<Self> {
        let nanoseconds = |seconds: f64, option: &'static str| {
            let time = Duration::try_from_secs_f64(seconds).context(option)?;
            u64::try_from(time.as_nanos()).context(option)
        };
        Ok(Self {
            timeout_ns: nanoseconds(plan.args.timeout, "--timeout")?,
            retry_ns: nanoseconds(plan.args.retry, "--retry")?,
            jitter_ns: nanoseconds(plan.args.jitter, "--jitter")?,
            started_ns: 0,
            now_ns: 0,
            devices: vec![Device { state: State::Away, generation: 0 }; plan.clients.len()],
            up: 0,
            owners: Vec::new(),
            due: BinaryHeap::new(),
            to_close: Vec::new(),
            outcome: Outcome {
                changes: Vec::new(),
                attempts: 0,
                timed_out: 0,
                refused: BTreeMap::new(),
                broken: 0,
                admitted: 0,
                thrown_out: 0,
                latency: Latency::new()?,
                first_error: None,
            },
        })
    }

    fn begin(&mut self, now_ns: u64) {
        (self.started_ns, self.now_ns) = (now_ns, now_ns);
        self.due = (0..self.devices.len()).map(|device| Reverse((now_ns, device, 0))).collect();
    }

    /// Does a part of what is due and returns how long there is nothing else to do.
    fn turn_due(&mut self, plan: &Plan<'_>, reactor: &mut Reactor) -> Result<Duration> {
        self.now_ns = reactor.now_ns();
        for _ in 0..DUE_PER_TURN {
            match self.due.peek() {
                Some(&Reverse((at_ns, device, generation))) if at_ns <= self.now_ns => {
                    self.due.pop();
                    if self.devices[device].generation == generation {
                        self.act(device, plan, reactor)?;
                    }
                }
                Some(Reverse((at_ns, ..))) => {
                    return Ok(TURN.min(Duration::from_nanos(at_ns - self.now_ns)));
                }
                None => return Ok(TURN),
            }
        }
        Ok(Duration::ZERO)
    }

    fn act(&mut self, device: usize, plan: &Plan<'_>, reactor: &mut Reactor) -> Result<()> {
        match self.devices[device].state {
            State::Away => {
                let id = reactor
                    .open_from(plan.dial, plan.source(device), &plan.clients[device])
                    .context("open a connection")?;
                if self.owners.len() <= id {
                    self.owners.resize(id + 1, 0);
                }
                self.owners[id] = device;
                self.outcome.attempts += 1;
                self.enter(device, State::AwaitingConnack(id), self.timeout_ns);
            }
            State::AwaitingConnack(id) => {
                self.outcome.timed_out += 1;
                self.go_away(device);
                reactor.close(id, None, self);
            }
            State::Up(id) => {
                if let Some(out) = reactor.out(id) {
                    Packet::PingReq.encode(mqtt::ProtocolVersion::V311, out);
                }
                self.enter(device, State::Up(id), PING_INTERVAL_NS);
            }
        }
        Ok(())
    }

    fn enter(&mut self, device: usize, state: State, wait_ns: u64) {
        let one = &mut self.devices[device];
        one.state = state;
        one.generation = one.generation.wrapping_add(1);
        self.due.push(Reverse((self.now_ns + wait_ns, device, one.generation)));
    }

    fn go_away(&mut self, device: usize) {
        let wait_ns = self.retry_ns + rand::random_range(0..=self.jitter_ns);
        self.enter(device, State::Away, wait_ns);
    }

    fn note(&mut self, up: bool) {
        self.up = if up { self.up + 1 } else { self.up - 1 };
        self.outcome.changes.push(Change { at_ns: self.now_ns.saturating_sub(self.started_ns), up });
    }
}

impl Handler for Fleet {
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>) {
        let Packet::ConnAck(connack) = packet else {
            return;
        };
        let device = self.owners[link.id];
        if self.devices[device].state != State::AwaitingConnack(link.id) {
            return;
        }
        self.now_ns = link.now_ns;
        if connack.reason.is_error() {
            *self.outcome.refused.entry(connack.reason.as_u8()).or_default() += 1;
            self.to_close.push(link.id);
            self.go_away(device);
        } else {
            self.outcome.admitted += 1;
            self.outcome.latency.record_ns(link.now_ns.saturating_sub(link.opened_ns));
            self.enter(device, State::Up(link.id), PING_INTERVAL_NS);
            self.note(true);
        }
    }

    fn closed(&mut self, id: ConnectionId, error: Option<io::Error>) {
        let device = self.owners[id];
        match self.devices[device].state {
            State::AwaitingConnack(own) if own == id => {
                self.outcome.broken += 1;
                let error = error.map_or_else(|| "closed".to_owned(), |error| error.to_string());
                self.outcome.first_error.get_or_insert(error);
                self.go_away(device);
            }
            State::Up(own) if own == id => {
                self.outcome.thrown_out += 1;
                self.note(false);
                self.go_away(device);
            }
            _ => {}
        }
    }
}
