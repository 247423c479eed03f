//! A stretch: how long a thread that lets connections in computes at a time, and what it has let in meanwhile.
//!
//! Such a thread always has something to do in a storm. A scheduler lets it go on for milliseconds beside threads that serve connected
//! devices, whatever its niceness (Linux 6.6 and later protect the slice of who runs); so it gives way by itself. And each
//! connection that it passes on wakes another thread, which takes the core from it for the work of one; so what is let in during
//! a stretch is passed on together.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// After so long a thread gives way. Longer ones cost less for each connection; shorter ones delay connected devices less.
const STRETCH: Duration = Duration::from_millis(1);

/// What has connections served that are let in.
type Service = Box<dyn FnOnce() + Send>;

thread_local! {
    /// That of this thread, if it lets connections in.
    static CURRENT: RefCell<Option<Stretch>> = const { RefCell::new(None) };
}

struct Stretch {
    since: Instant,
    /// What was let in, in its order.
    admitted: Vec<Service>,
    /// Where connected devices are served.
    devices: Handle,
}

impl Stretch {
    /// One task for all, so that one thread is woken once.
    fn pass_on(&mut self) {
        if self.admitted.is_empty() {
            return;
        }
        let admitted = std::mem::take(&mut self.admitted);
        self.devices.spawn(async move {
            for serve in admitted {
                serve();
            }
        });
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= STRETCH
    }
}

/// To be called when a thread that lets connections in starts.
pub(crate) fn begin(devices: Handle) {
    CURRENT.set(Some(Stretch { since: Instant::now(), admitted: Vec::new(), devices }));
}

/// Passes a connection to the threads of connected devices: at the end of this stretch, or at once from a thread that has none.
pub(crate) fn pass_on(serve: impl FnOnce() + Send + 'static) {
    CURRENT.with_borrow_mut(|current| match current {
        Some(stretch) => stretch.admitted.push(Box::new(serve)),
        None => serve(),
    });
}

/// Ends the stretch if it has been long enough, and lets others have the core. To be called before what takes long.
pub(crate) fn give_way() {
    let is_over = CURRENT.with_borrow_mut(|current| {
        current.as_mut().filter(|stretch| stretch.is_over()).map(Stretch::pass_on).is_some()
    });
    if is_over {
        std::thread::yield_now();
        CURRENT.with_borrow_mut(|current| {
            if let Some(stretch) = current {
                stretch.since = Instant::now();
            }
        });
    }
}

/// To be called when the thread has nothing to do.
pub(crate) fn pause() {
    CURRENT.with_borrow_mut(|current| {
        if let Some(stretch) = current {
            stretch.pass_on();
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    /// One thread of connected devices and one that lets connections in.
    fn threads() -> (Runtime, Runtime) {
        let one = || {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1);
            builder
        };
        let devices = one().thread_name("devices").build().expect("threads");
        let handle = devices.handle().clone();
        let begin = move || begin(handle.clone());
        let admits = one().on_thread_start(begin).on_thread_park(pause).build().expect("threads");
        (devices, admits)
    }

    /// Passes on something that tells its number and the thread that serves it.
    fn admit(told: &Sender<(u32, String)>, number: u32) {
        let told = told.clone();
        pass_on(move || {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = told.send((number, thread));
        });
    }

    /// The next one that is served.
    fn next(served: &Receiver<(u32, String)>) -> (u32, String) {
        served.recv_timeout(Duration::from_secs(20)).expect("served")
    }

    #[test]
    fn what_is_let_in_is_passed_on_when_the_thread_has_nothing_more_to_do() {
        let (_devices, admits) = threads();
        let (told, served) = channel();
        let (go, wait) = channel();
        admits.spawn(async move {
            admit(&told, 1);
            // As long as it computes, nobody else is woken.
            let () = wait.recv().expect("the test");
            admit(&told, 2);
        });
        assert!(served.try_recv().is_err());
        go.send(()).expect("the thread");
        assert_eq!(next(&served), (1, "devices".to_owned()));
        assert_eq!(next(&served), (2, "devices".to_owned()));
    }

    #[test]
    fn a_thread_that_always_has_something_to_do_passes_it_on_nevertheless() {
        let (_devices, admits) = threads();
        let (told, served) = channel();
        let (go, wait) = channel::<()>();
        admits.spawn(async move {
            admit(&told, 1);
            while wait.try_recv() == Err(TryRecvError::Empty) {
                give_way();
            }
        });
        assert_eq!(next(&served), (1, "devices".to_owned()));
        drop(go);
    }

    #[test]
    fn other_threads_pass_on_at_once() {
        let (told, served) = channel();
        admit(&told, 1);
        assert_eq!(served.try_recv().expect("served").0, 1);
        give_way();
        pause();
    }
}
