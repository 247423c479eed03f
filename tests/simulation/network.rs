//! The network between edges and workers: connections whose bytes come late, in pieces, or not any more. Time in it is counted
//! in rounds of the world, so that it belongs to no process.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use broker::Accept;
use lb::upstream::{LinkIo, Reach, Reaching};
use parking_lot::Mutex;
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use super::Dice;

/// Bytes that one direction of a connection holds.
const BUFFER_BYTES: usize = 16 << 10;

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Network(Arc<Mutex<State>>);

struct State {
    dice: Dice,
    round: u64,
    listeners: BTreeMap<SocketAddr, mpsc::UnboundedSender<End>>,
    connections: Vec<Connection>,
    /// Nothing passes between these before that round.
    stalls: BTreeMap<(usize, SocketAddr), u64>,
    /// Extra rounds that bytes take, at most.
    delay_max: u64,
}

struct Connection {
    edge: usize,
    worker: SocketAddr,
    pipe: Weak<Mutex<Pipe>>,
}

/// Both directions: 0 is to the worker.
#[derive(Default)]
struct Pipe([Direction; 2]);

#[derive(Default)]
struct Direction {
    /// Bytes, and the round in which they come.
    under_way: VecDeque<(u64, Vec<u8>)>,
    arrived: VecDeque<u8>,
    bytes: usize,
    /// The writing end is gone: nothing follows.
    is_finished: bool,
    /// The connection is broken: nothing follows, and nothing is taken.
    is_broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Direction {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    /// Only so many bytes of what is under way still come.
    fn break_after(&mut self, mut bytes: usize) {
        let mut rest = VecDeque::new();
        for (due, mut chunk) in self.under_way.drain(..) {
            chunk.truncate(bytes);
            bytes -= chunk.len();
            rest.push_back((due, chunk));
        }
        self.under_way = rest;
        self.is_broken = true;
        self.wake();
    }
}

impl Network {
    pub(super) fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(State {
            dice,
            round: 0,
            listeners: BTreeMap::new(),
            connections: Vec::new(),
            stalls: BTreeMap::new(),
            delay_max: 2,
        })))
    }

    /// A round has passed: what was under way for long enough arrives.
    pub(super) fn pass(&self) {
        let mut state = self.0.lock();
        state.round += 1;
        state.connections.retain(|connection| connection.pipe.strong_count() > 0);
        let round = state.round;
        for Connection { edge, worker, pipe } in &state.connections {
            let is_stalled = state.stalls.get(&(*edge, *worker)).is_some_and(|until| round < *until);
            let Some(pipe) = pipe.upgrade().filter(|_| !is_stalled) else { continue };
            for direction in &mut pipe.lock().0 {
                let mut has_news = false;
                while direction.under_way.front().is_some_and(|(due, _)| *due <= round)
                    && let Some((_, chunk)) = direction.under_way.pop_front()
                {
                    direction.arrived.extend(chunk);
                    has_news = true;
                }
                if has_news {
                    direction.wake();
                }
            }
        }
    }

    /// From now on connections are taken there.
    pub(super) fn listen(&self, address: SocketAddr) -> Listener {
        let (tx, rx) = mpsc::unbounded_channel();
        self.0.lock().listeners.insert(address, tx);
        Listener(rx)
    }

    /// Breaks every connection for which `is_meant` answers true; of what is under way some may come. How many.
    pub(super) fn cut(&self, is_meant: impl Fn(usize, SocketAddr) -> bool) -> usize {
        let mut state = self.0.lock();
        let State { dice, connections, .. } = &mut *state;
        let mut cut = 0;
        for connection in connections.iter().filter(|connection| is_meant(connection.edge, connection.worker))
        {
            let Some(pipe) = connection.pipe.upgrade() else { continue };
            cut += 1;
            for direction in &mut pipe.lock().0 {
                let under_way = direction.under_way.iter().map(|(_, chunk)| chunk.len()).sum::<usize>();
                direction.break_after(dice.random_range(0..=under_way));
            }
        }
        cut
    }

    /// Nothing passes between the two for so many rounds.
    pub(super) fn stall(&self, edge: usize, worker: SocketAddr, rounds: u64) {
        let mut state = self.0.lock();
        let until = state.round + rounds;
        state.stalls.insert((edge, worker), until);
    }

    /// No more faults.
    pub(super) fn calm(&self) {
        let mut state = self.0.lock();
        state.stalls.clear();
        state.delay_max = 1;
    }

    /// How an edge reaches workers.
    pub(super) fn reach(&self, edge: usize) -> Arc<dyn Reach> {
        Arc::new(Road { network: self.clone(), edge })
    }

    fn connect(&self, edge: usize, worker: SocketAddr) -> io::Result<End> {
        let mut state = self.0.lock();
        let pipe = Arc::new(Mutex::new(Pipe::default()));
        let end = |at| End { network: self.clone(), pipe: Arc::clone(&pipe), at };
        let listener = state.listeners.get(&worker).cloned();
        if listener.is_none_or(|listener| listener.send(end(1)).is_err()) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        state.connections.push(Connection { edge, worker, pipe: Arc::downgrade(&pipe) });
        Ok(end(0))
    }
}

struct Road {
    network: Network,
    edge: usize,
}

impl Reach for Road {
    fn reach(&self, worker: SocketAddr) -> Reaching {
        let connected = self.network.connect(self.edge, worker);
        Box::pin(async move { connected.map(|end| Box::new(end) as Box<dyn LinkIo>) })
    }
}

/// Where a worker takes connections.
pub(super) struct Listener(mpsc::UnboundedReceiver<End>);

impl Accept for Listener {
    type Io = End;

    async fn accept(&mut self) -> io::Result<End> {
        self.0.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// One end of a connection.
pub(super) struct End {
    network: Network,
    pipe: Arc<Mutex<Pipe>>,
    /// 0 at the edge; it writes in the direction of this number.
    at: usize,
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.pipe.lock();
        let direction = &mut pipe.0[1 - self.at];
        if direction.arrived.is_empty() {
            if direction.under_way.is_empty() && (direction.is_broken || direction.is_finished) {
                return Poll::Ready(match direction.is_broken {
                    true => Err(io::ErrorKind::ConnectionReset.into()),
                    false => Ok(()),
                });
            }
            direction.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = buf.remaining().min(direction.arrived.len());
        for byte in direction.arrived.drain(..count) {
            buf.put_slice(&[byte]);
        }
        direction.bytes -= count;
        if let Some(writer) = direction.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut network = self.network.0.lock();
        let mut pipe = self.pipe.lock();
        let direction = &mut pipe.0[self.at];
        if direction.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(BUFFER_BYTES.saturating_sub(direction.bytes));
        if count == 0 && !bytes.is_empty() {
            direction.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let delay_max = network.delay_max;
        let due = network.round + 1 + network.dice.random_range(0..=delay_max);
        let due = direction.under_way.back().map_or(due, |(last, _)| due.max(*last));
        direction.under_way.push_back((due, bytes[..count].to_vec()));
        direction.bytes += count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let direction = &mut self.pipe.lock().0[self.at];
        direction.is_finished = true;
        direction.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        // What it has sent arrives, what comes for it is for nobody.
        let ours = &mut pipe.0[self.at];
        ours.is_finished = true;
        ours.wake();
        let theirs = &mut pipe.0[1 - self.at];
        theirs.is_broken = true;
        theirs.wake();
    }
}
