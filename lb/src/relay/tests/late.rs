//! Sockets of which the runtime hears late, as after a stop of the process.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

/// Of whose socket the runtime hears nothing as long as it is told so.
#[derive(Clone, Default)]
struct Late(Arc<AtomicBool>);

impl Late {
    fn set(&self, is_late: bool) {
        self.0.store(is_late, Ordering::SeqCst);
    }

    fn is_so(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

struct LateWire {
    io: DuplexStream,
    late: Late,
}

impl Wire for LateWire {
    fn has_unread(&self) -> bool {
        self.late.is_so()
    }

    fn has_room(&self) -> bool {
        self.late.is_so()
    }

    fn has_gone(&self) -> bool {
        false
    }
}

impl AsyncRead for LateWire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.late.is_so() { Poll::Pending } else { Pin::new(&mut self.io).poll_read(cx, buffer) }
    }
}

impl AsyncWrite for LateWire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.late.is_so() { Poll::Pending } else { Pin::new(&mut self.io).poll_write(cx, bytes) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

async fn start(setup: Setup) -> (Running, Late) {
    let late = Late::default();
    let over = late.clone();
    let mut running = setup.start_over(|io| LateWire { io, late: over }).await;
    running.expect(&fake::connack(ProtocolVersion::V5)).await;
    (running, late)
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_packet_the_runtime_has_not_heard_of_was_not_silent() {
    let (mut running, late) = start(Setup { keep_alive_s: 10, ..Setup::default() }).await;
    late.set(true);
    running.send(PINGREQ).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(running.session.closed(), None);
    late.set(false);
    let since = Instant::now();
    running.expect(PINGRESP).await;
    assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());
    running.expect_end(b"\xE0\x01\x8D").await;
    assert_eq!(since.elapsed().as_secs(), 15, "silence ends it as ever");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_has_read_what_the_runtime_has_not_heard_of_goes_on() {
    let config = EdgeConfig { write_timeout_s: 30, ..EdgeConfig::default() };
    let (mut running, late) = start(Setup { config, ..Setup::default() }).await;
    late.set(true);
    running.session.push(PUBLISH);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(running.session.closed(), None);
    late.set(false);
    running.expect(PUBLISH).await;
}
