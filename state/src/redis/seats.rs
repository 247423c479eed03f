//! Seats: what a principal has of what it may have so many of, sessions and retained messages, counted over all workers. A seat is
//! taken before what it is for is stored, elsewhere, and left after that has gone, so a worker that dies in between leaves a seat
//! that is in use no more, and never something without a seat. Such seats are found when somebody would be refused, and by a
//! slow look at all: see `docs/decisions/0021-seats-of-principals.md`.

use std::sync::Arc;

use redis::Value;

use super::engine::{Asked, Engine};
use super::keys::{Bucket, SEAT_BUCKETS};
use super::op::{Op, ReadAnswer, Result};
use super::operations::{AgedSeatsOp, HasRetainedOp, HasSessionOp, SettleSeatsOp, TakeSeatOp, word};
use super::order::Pending;
use super::seat::{SEAT_AGE, Seat, SeatKind};
use crate::StoreError;

/// So often it is looked at most whether all seats of a principal are in use.
const LOOK_INTERVAL_MS: u64 = 1_000;
/// Seats that one call lists.
const SEATS_MAX: u64 = 512;
/// Calls of one look at a principal's seats, and of the slow look at all.
const CALLS_MAX: usize = 16;

const DAMAGED: StoreError = StoreError::Damaged { what: "seat" };

/// Who wanted a seat is told whether it is taken.
pub(super) type Taken = Box<dyn FnOnce(Result<bool>) + Send>;

impl Engine {
    /// Takes a seat, of which the principal may have so many. One that is taken already is taken anew. Seats are answered in the
    /// order in which they were asked for, but for those that somebody has to look for.
    pub(super) fn take_seat(self: &Arc<Self>, seat: Seat, seats_max: u64, then: Taken) {
        let op = self.seat_op(&seat, seats_max);
        let engine = Arc::clone(self);
        let bucket = seat.bucket();
        let answered = Box::new(move |answer: Result<Value>| match answer {
            Ok(Value::BulkString(said)) if *said == [word::LOOK] => {
                engine.look_for_seat(seat, seats_max, then);
            }
            answer => then(answer.map(|answer| answer == Value::Int(1))),
        });
        self.submit(Vec::new(), |_| vec![(bucket, Pending::Op(op, answered))]);
    }

    fn seat_op(&self, seat: &Seat, seats_max: u64) -> Op {
        TakeSeatOp {
            seat: &seat.written(),
            token: seat.token,
            front: &seat.front(),
            behind: &seat.behind(),
            seats_max,
            look_interval_ms: LOOK_INTERVAL_MS,
        }
        .on(&self.keys.of_seats(seat.bucket()))
    }

    /// All seats are taken: looks whether they are in use, and tries once more if one is not.
    fn look_for_seat(self: &Arc<Self>, seat: Seat, seats_max: u64, then: Taken) {
        let engine = Arc::clone(self);
        self.runtime.spawn(async move {
            let (from, to) = ([b"[", &*seat.front()].concat(), [b"(", &*seat.behind()].concat());
            then(match engine.look_at_seats(seat.bucket(), from, to).await {
                Ok(Looked { left: 0, .. }) => Ok(false),
                Ok(_) => {
                    let op = engine.seat_op(&seat, seats_max);
                    engine.ask(seat.bucket(), op).answer().await.map(|answer| answer == Value::Int(1))
                }
                Err(error) => Err(error),
            });
        });
    }

    /// A seat is in use no more. Nobody waits for that; what asks for a seat of the same principal from now on comes behind it.
    pub(super) fn leave_seat(self: &Arc<Self>, seat: &Seat) {
        let op = SettleSeatsOp { seats: vec![seat.written(), token(seat), seat.front()] };
        let op = op.on(&self.keys.of_seats(seat.bucket()));
        self.submit(Vec::new(), |_| vec![(seat.bucket(), Pending::Op(op, Box::new(|_| ())))]);
    }

    /// Looks at seats in a range, a page after the other, until some of them were found to be in use no more: these are left.
    async fn look_at_seats(
        self: &Arc<Self>,
        bucket: Bucket,
        mut from: Vec<u8>,
        to: Vec<u8>,
    ) -> Result<Looked> {
        let keys = self.keys.of_seats(bucket);
        let age_ms = u64::try_from(SEAT_AGE.as_millis()).unwrap_or(u64::MAX);
        for _ in 0..CALLS_MAX {
            let op = AgedSeatsOp { from, to: to.clone(), seats_max: SEATS_MAX, age_ms };
            let [last, aged] = self.ask(bucket, op.on(&keys)).answer().await?.tuple()?;
            let mut flat = aged.list()?.into_iter();
            let mut asked: Vec<(Seat, Asked)> = Vec::new();
            while let (Some(written), Some(token)) = (flat.next(), flat.next()) {
                let seat = Seat::read(&written.bytes()?, token.count()?).ok_or(DAMAGED)?;
                let is_used = self.ask_use(&seat)?;
                asked.push((seat, is_used));
            }
            let (mut settled, mut left) = (Vec::new(), 0);
            for (seat, is_used) in asked {
                let is_used = is_used.answer().await?.count()? == 1;
                left += u64::from(!is_used);
                settled.extend([
                    seat.written(),
                    token(&seat),
                    if is_used { Vec::new() } else { seat.front() },
                ]);
            }
            if !settled.is_empty() {
                self.ask(bucket, SettleSeatsOp { seats: settled }.on(&keys)).answer().await?;
            }
            let next = last.maybe().map(ReadAnswer::bytes).transpose()?.map(|last| [b"(", &*last].concat());
            match next {
                Some(next) if left == 0 => from = next,
                next => return Ok(Looked { left, next }),
            }
        }
        Ok(Looked { left: 0, next: Some(from) })
    }

    /// Asks whether what a seat is for is there.
    fn ask_use(self: &Arc<Self>, seat: &Seat) -> Result<Asked> {
        let principal = &*seat.principal;
        Ok(match seat.kind {
            SeatKind::Session => {
                let client_id = std::str::from_utf8(&seat.name).map_err(|_| DAMAGED)?;
                let op = HasSessionOp { principal }.on(&self.keys.of_client(client_id));
                self.ask(Bucket::of_client(client_id), op)
            }
            SeatKind::Retained => {
                let bucket = Bucket::of_topic_key(&seat.name);
                let op = HasRetainedOp { topic: &seat.name, principal };
                self.ask(bucket, op.on(&self.keys.of_retained(bucket)))
            }
        })
    }

    /// Looks at the next ones of all seats, unless it is at that already. A worker that shares its store looks at its share of them.
    pub(super) fn sweep_seats(self: &Arc<Self>) {
        let Some(at) = self.seat_sweep.0.lock().take() else { return };
        let engine = Arc::clone(self);
        self.runtime.spawn(async move {
            let next = engine.sweep_some_seats(at).await;
            *engine.seat_sweep.0.lock() = Some(next);
        });
    }

    async fn sweep_some_seats(self: &Arc<Self>, (mut number, mut after): (u16, Vec<u8>)) -> (u16, Vec<u8>) {
        for _ in 0..CALLS_MAX {
            if self.is_refusing() {
                break;
            }
            let mut next = None;
            if self.hints.is_ours(number) {
                let from = if after.is_empty() { b"-".to_vec() } else { std::mem::take(&mut after) };
                let (bucket, engine) = (Bucket::Seats(number), Arc::clone(self));
                let work = async move { engine.look_at_seats(bucket, from, b"+".to_vec()).await };
                // What seats are for may be at any server. A bucket that is not answered for waits until its turn comes again.
                match self.in_time(bucket, None, work).await {
                    Some(Ok(looked)) => next = looked.next,
                    Some(Err(error)) => tracing::debug!(%error, "seats were not looked at"),
                    None => {}
                }
            }
            match next {
                Some(from) => after = from,
                None => (number, after) = ((number + 1) % SEAT_BUCKETS, Vec::new()),
            }
        }
        (number, after)
    }
}

/// What a look at seats found.
struct Looked {
    /// Seats that were left.
    left: u64,
    /// Where the next look begins, unless all were looked at.
    next: Option<Vec<u8>>,
}

fn token(seat: &Seat) -> Vec<u8> {
    seat.token.to_string().into_bytes()
}
