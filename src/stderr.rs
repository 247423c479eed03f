//! Lines on their way to standard error: a bounded queue, and a thread that writes them. Who logs never waits for who reads the
//! log; a line for which there is no room, or which cannot be written, is counted and gone.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use rustix::event::{PollFd, PollFlags, poll};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait at a time.
const LINES_MAX: usize = 8192;

/// Bytes of the lines that wait at a time.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// How often somebody who waits for room in the queue looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long the process waits at its end for lines to be written.
const END_WAIT: Duration = Duration::from_secs(1);

/// The lines of this process, once it logs.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Starts the thread that writes the lines of this process; a second start changes nothing.
pub(crate) fn start() -> io::Result<&'static Lines> {
    let lines = Lines::start(io::stderr())?;
    Ok(LINES.get_or_init(|| lines))
}

/// Lines that could not be written, or that nobody read in time.
pub(crate) fn lost() -> Counter {
    LINES.get().map(|lines| lines.lost.clone()).unwrap_or_default()
}

/// Writes a line that is no part of the log, after everything that was logged before. Where it cannot be written, nobody can be told.
pub(crate) fn say(line: &str) {
    let line = format!("{line}\n").into_bytes();
    match LINES.get() {
        Some(lines) => lines.push_until(Instant::now() + END_WAIT, line),
        None => drop(io::stderr().write_all(&line)),
    }
}

/// Waits a moment until what was logged is written; to be called before the process ends.
pub(crate) fn finish() {
    if let Some(lines) = LINES.get() {
        lines.flush_until(Instant::now() + END_WAIT);
    }
}

enum Entry {
    Line(Vec<u8>),
    /// Everything before it was written.
    Marker(SyncSender<()>),
}

/// The near end of the queue.
#[derive(Clone)]
pub(crate) struct Lines {
    queue: SyncSender<Entry>,
    waiting_bytes: Arc<AtomicUsize>,
    lost: Counter,
}

impl Lines {
    /// Starts the thread that writes to `to`.
    fn start(to: impl Write + AsFd + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = sync_channel(LINES_MAX);
        let lines = Self { queue, waiting_bytes: Arc::default(), lost: Counter::default() };
        let (waiting_bytes, lost) = (lines.waiting_bytes.clone(), lines.lost.clone());
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&entries, &mut Outlet { to, is_cut: false }, &waiting_bytes, &lost))?;
        Ok(lines)
    }

    /// Hands a line over, with its line feed.
    pub(crate) fn push(&self, line: Vec<u8>) {
        self.push_until(Instant::now(), line);
    }

    /// The same, and waits for room until `deadline`.
    fn push_until(&self, deadline: Instant, line: Vec<u8>) {
        let bytes = line.len();
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting + bytes > BYTES_MAX || !self.send_until(deadline, Entry::Line(line)) {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.lost.inc();
        }
    }

    /// Waits until what was handed over before is written, but not longer than `deadline`.
    pub(crate) fn flush_until(&self, deadline: Instant) {
        let (reached, written) = sync_channel(1);
        if self.send_until(deadline, Entry::Marker(reached)) {
            let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    fn send_until(&self, deadline: Instant, mut entry: Entry) -> bool {
        loop {
            match self.queue.try_send(entry) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => entry = back,
                Err(_) => return false,
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Writes one line.
pub(crate) struct Pen<'a>(&'a Lines);

impl Write for Pen<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Pen<'a>;

    fn make_writer(&'a self) -> Pen<'a> {
        Pen(self)
    }
}

fn write_all<W: Write + AsFd>(
    entries: &Receiver<Entry>,
    outlet: &mut Outlet<W>,
    waiting_bytes: &AtomicUsize,
    lost: &Counter,
) {
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                if outlet.write_line(&line).is_err() {
                    lost.inc();
                }
                waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            // Nobody may wait for it any more.
            Entry::Marker(reached) => drop(reached.try_send(())),
        }
    }
}

/// Where lines are written.
struct Outlet<W> {
    to: W,
    /// The last line stands there without its end.
    is_cut: bool,
}

impl<W: Write + AsFd> Outlet<W> {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_cut {
            self.write_some(b"\n")?;
        }
        self.write_some(line)
    }

    fn write_some(&mut self, mut left: &[u8]) -> io::Result<()> {
        while !left.is_empty() {
            match self.to.write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    left = &left[written..];
                    self.is_cut = !left.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Whoever else has standard error open may have made it so.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_room()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait_for_room(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn lines_are_written_in_their_order() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lines = Lines::start(writer).unwrap();
        (0..1000).for_each(|n| lines.push(format!("{n}\n").into_bytes()));
        lines.flush_until(Instant::now() + SOON);
        drop(lines);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.lines().eq((0..1000).map(|n| n.to_string())), "{text}");
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let lines = Lines::start(full).unwrap();
        (0..3).for_each(|_| lines.push(b"lost\n".to_vec()));
        lines.flush_until(Instant::now() + SOON);
        assert_eq!(lines.lost.get(), 3);
    }

    #[test]
    fn who_logs_does_not_wait_for_who_reads_the_log() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lines = Lines::start(writer).unwrap();
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        let pushed = 3 * LINES_MAX;
        (0..pushed).for_each(|_| lines.push(line.clone()));
        let lost = usize::try_from(lines.lost.get()).unwrap();
        assert!(lost > LINES_MAX && (pushed - lost) * 1024 <= BYTES_MAX + 128 * 1024, "{lost}");
        lines.flush_until(Instant::now() + Duration::from_millis(20));
        drop(lines);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), pushed - lost);
    }

    #[test]
    fn a_pipe_that_does_not_block_gets_whole_lines() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let lines = Lines::start(writer).unwrap();
        let line = [[b'x'; 9999].as_slice(), b"\n"].concat();
        (0..100).for_each(|_| lines.push(line.clone()));
        assert_eq!(lines.lost.get(), 0);
        drop(lines);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        assert!(text == line.repeat(100));
    }
}
