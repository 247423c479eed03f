//! Listening sockets that systemd holds and hands to the process (sd_listen_fds(3)): between two processes they stay, so that
//! nobody who connects meanwhile is refused.

use std::net::SocketAddr;
use std::sync::Mutex;

use link::{Bind, Inherited};
use listenfd::ListenFd;

use crate::exit::Failure;

/// What was handed over, until somebody takes it.
static PASSED: Mutex<Option<ListenFd>> = Mutex::new(None);

/// Takes what systemd has handed over out of the environment. To be called before there are threads.
pub(crate) fn receive() {
    let passed = ListenFd::from_env();
    if passed.len() > 0
        && let Ok(mut slot) = PASSED.lock()
    {
        *slot = Some(passed);
    }
}

/// The sockets, each of which is at an address that is listened at by this configuration.
pub(super) fn sockets(listened: &[(String, &Bind)]) -> Result<Inherited, Failure> {
    let Some(mut passed) = PASSED.lock().ok().and_then(|mut slot| slot.take()) else {
        return Ok(Inherited::default());
    };
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for number in 0..passed.len() {
        let name = names.next().unwrap_or_default();
        let wrong = |error| Failure::usage(format!("LISTEN_FDS: socket {number} ({name}): {error}"));
        let Some(socket) = passed.take_tcp_listener(number).map_err(wrong)? else { continue };
        let address = socket.local_addr().map_err(wrong)?;
        check(name, address, listened)?;
        tracing::info!(name, %address, "socket of systemd");
        sockets.push((name.to_owned(), socket));
    }
    Ok(Inherited::new(sockets))
}

/// What a socket is reached by is what was checked in the configuration.
fn check(name: &str, address: SocketAddr, listened: &[(String, &Bind)]) -> Result<(), Failure> {
    if listened.iter().any(|(_, bind)| bind.addresses().contains(&address)) {
        return Ok(());
    }
    let key = match listened.iter().find(|(listener, _)| listener == name) {
        Some((listener, _)) if listener == "admin" => "admin.listen".to_owned(),
        Some((listener, _)) => format!("listeners.{listener}.bind"),
        None => "listeners.NAME.bind".to_owned(),
    };
    Err(Failure::usage(format!(
        "LISTEN_FDS: the socket {name:?} is at {address}, and nothing of this configuration: set {key} = \"{address}\", or \
         take it out of the socket unit"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_at_is_an_error_that_says_what_to_set() {
        let bind = Bind::from(SocketAddr::from(([127, 0, 0, 1], 1883)));
        let listened = [("mqtt".to_owned(), &bind), ("admin".to_owned(), &bind)];
        assert!(check("whatever", SocketAddr::from(([127, 0, 0, 1], 1883)), &listened).is_ok());
        for (name, key) in
            [("mqtt", "listeners.mqtt.bind"), ("admin", "admin.listen"), ("x", "listeners.NAME.bind")]
        {
            let error = check(name, SocketAddr::from(([0, 0, 0, 0], 1883)), &listened).unwrap_err();
            let wanted = format!("set {key} = \"0.0.0.0:1883\"");
            assert!(format!("{error:?}").contains(&wanted.replace('"', "\\\"")), "{error:?}");
        }
    }
}
