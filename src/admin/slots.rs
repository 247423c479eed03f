//! Places for connections of the admin endpoint: so many, and whoever comes when all are taken gets the place of the one whose
//! peer has not moved for the longest. So no number of peers that neither read nor write keeps a health check out.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A peer that reads nothing and writes nothing for so long is let go.
const STALL_MAX: Duration = Duration::from_secs(5);

/// And everybody after this, however busy: a peer that takes a byte now and then is not worth a place.
const STAY_MAX: Duration = Duration::from_secs(60);

/// The places.
#[derive(Default)]
pub(super) struct Slots(Mutex<Vec<Arc<Seat>>>);

struct Seat {
    began: Instant,
    /// When its peer has taken or sent something, milliseconds after `began`.
    moved_ms: AtomicU64,
    /// Somebody else has its place.
    displaced: Notify,
}

impl Seat {
    fn moved_at(&self) -> Instant {
        self.began + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed))
    }

    fn has_moved(&self) {
        self.moved_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// Why a connection has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Somebody else came, and nobody had been idle for longer.
    Displaced,
    /// Its peer has not moved.
    Stalled,
    /// It has been there long enough.
    Over,
}

impl Slots {
    /// A place among `max`, for as long as the answer lives.
    pub(super) fn take(self: &Arc<Self>, max: usize) -> Slot {
        let (began, moved_ms, displaced) = (Instant::now(), AtomicU64::new(0), Notify::new());
        let place = Arc::new(Seat { began, moved_ms, displaced });
        let mut places = self.0.lock();
        if places.len() >= max {
            let idlest = places.iter().enumerate().min_by_key(|(_, place)| place.moved_at());
            if let Some(at) = idlest.map(|(at, _)| at) {
                places.swap_remove(at).displaced.notify_one();
            }
        }
        places.push(Arc::clone(&place));
        Slot { place, slots: Arc::clone(self) }
    }
}

/// A place that is taken.
pub(super) struct Slot {
    place: Arc<Seat>,
    slots: Arc<Slots>,
}

impl Slot {
    /// A connection whose movements count.
    pub(super) fn watch<T>(&self, io: T) -> Watched<T> {
        Watched { io, place: Arc::clone(&self.place) }
    }

    /// Returns when its connection has to go.
    pub(super) async fn leave(&self) -> Leave {
        let mut displaced = pin!(self.place.displaced.notified());
        let over = self.place.began + STAY_MAX;
        loop {
            let stalled = self.place.moved_at() + STALL_MAX;
            tokio::select! {
                () = &mut displaced => return Leave::Displaced,
                () = tokio::time::sleep_until(stalled.min(over)) => {}
            }
            let now = Instant::now();
            if now >= over {
                return Leave::Over;
            }
            if now >= self.place.moved_at() + STALL_MAX {
                return Leave::Stalled;
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut places = self.slots.0.lock();
        if let Some(at) = places.iter().position(|place| Arc::ptr_eq(place, &self.place)) {
            places.swap_remove(at);
        }
    }
}

/// A connection that says when its peer moves.
pub(super) struct Watched<T> {
    io: T,
    place: Arc<Seat>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.place.has_moved();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.place.has_moved();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_moves_keeps_its_place_and_who_does_not_loses_it() {
        let slots = Arc::new(Slots::default());
        let (idle, busy) = (slots.take(2), slots.take(2));
        tokio::time::advance(Duration::from_secs(1)).await;
        busy.place.has_moved();
        let third = slots.take(2);
        assert_eq!(idle.leave().await, Leave::Displaced);
        assert_eq!(slots.0.lock().len(), 2);
        drop(idle);
        assert_eq!(slots.0.lock().len(), 2, "its place is another's");
        assert_eq!(busy.leave().await, Leave::Stalled);
        drop((busy, third));
        assert!(slots.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_stays_for_ever() {
        let slots = Arc::new(Slots::default());
        let slot = slots.take(1);
        let busy = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                slot.place.has_moved();
            }
        };
        tokio::select! {
            why = slot.leave() => assert_eq!(why, Leave::Over),
            () = busy => {}
        }
    }
}
