//! A TCP proxy that can stop to pass bytes on, in both directions, without closing anything.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Passes connections on to one address until it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    is_shut: Mutex<bool>,
    changed: Condvar,
    is_over: AtomicBool,
}

impl Gate {
    /// Waits while it is shut.
    fn pass(&self) {
        let mut is_shut = self.is_shut.lock().unwrap();
        while *is_shut && !self.is_over.load(Ordering::Relaxed) {
            is_shut = self.changed.wait(is_shut).unwrap();
        }
    }
}

impl Proxy {
    pub(crate) fn start(to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Gate::default());
        let passes = gate.clone();
        std::thread::spawn(move || {
            for inward in listener.incoming() {
                let (Ok(inward), false) = (inward, passes.is_over.load(Ordering::Relaxed)) else { return };
                let Ok(outward) = TcpStream::connect(to) else { continue };
                for (from, to) in [(&inward, &outward), (&outward, &inward)] {
                    to.set_nodelay(true).unwrap();
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let passes = passes.clone();
                    std::thread::spawn(move || copy(from, to, &passes));
                }
            }
        });
        Proxy { address, gate }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From here on nothing passes; what is sent waits.
    pub(crate) fn shut(&self) {
        *self.gate.is_shut.lock().unwrap() = true;
    }

    pub(crate) fn open(&self) {
        *self.gate.is_shut.lock().unwrap() = false;
        self.gate.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gate.is_over.store(true, Ordering::Relaxed);
        self.open();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, gate: &Gate) {
    let mut buffer = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        gate.pass();
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}
