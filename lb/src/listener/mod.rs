//! Listening sockets and the accept loop: whom it turns away it turns away before anything is paid, and no error makes it
//! spin or stop.

mod reserve;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use governor::DefaultDirectRateLimiter;
use link::Inherited;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use self::reserve::Reserve;
use crate::admission::{Admission, Admitted, Door, Source, Underway, stretch};
use crate::config::ListenerConfig;
use crate::reason::ShedReason;
use crate::shared::Shared;
use crate::tls::TlsServer;
use crate::websocket::WebSocketConfig;

/// Between two probes of a silent connection.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Probes without an answer after which a connection has failed.
const PROBES_MAX: u32 = 4;

/// How long a connection waits for room that others, which are given up, are about to make. Further ones wait in the kernel.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// How long the accept loop rests when the system is out of something and nothing can be shed.
const EXHAUSTED_REST: Duration = Duration::from_millis(50);

/// A listener as its connections see it.
pub(crate) struct Listener {
    pub(crate) name: Arc<str>,
    pub(crate) config: ListenerConfig,
    pub(crate) shared: Arc<Shared>,
    pub(crate) rate: Option<DefaultDirectRateLimiter>,
    pub(crate) connected: Gauge,
    pub(crate) accepted: Counter,
    /// For listeners with TLS.
    pub(crate) tls: Option<Arc<TlsServer>>,
    /// For listeners with WebSocket.
    pub(crate) websocket: WebSocketConfig,
}

impl Listener {
    pub(crate) fn new(
        name: &str,
        config: ListenerConfig,
        tls: Option<Arc<TlsServer>>,
        shared: Arc<Shared>,
    ) -> Self {
        let connected = shared.metrics.connections.of((name.to_owned(),)).clone();
        let accepted = shared.metrics.accepted.of((name.to_owned(),)).clone();
        Self {
            name: name.into(),
            rate: config.rate(),
            tls,
            websocket: WebSocketConfig {
                path: config.path.clone(),
                origins: config.origins.clone(),
                ..WebSocketConfig::default()
            },
            config,
            connected,
            accepted,
            shared,
        }
    }
}

impl Door for Listener {
    fn admission(&self) -> &Arc<Admission> {
        &self.shared.admission
    }
}

impl Admitted<Listener> {
    pub(crate) fn shared(&self) -> &Shared {
        &self.door().shared
    }
}

/// Listens at all addresses, where there is one with the socket that was inherited for it; the sockets are not yet registered
/// with a runtime.
///
/// # Errors
/// What the system says, and of which address; most often that the port is taken or privileged.
pub(crate) fn bind(
    name: &str,
    config: &ListenerConfig,
    tcp_keep_alive_s: u16,
    inherited: &mut Inherited,
) -> Result<Vec<std::net::TcpListener>, (SocketAddr, io::Error)> {
    let mut bound = 0;
    let listen_at = |address| {
        let socket = match inherited.take(&link::name_of_nth(name, bound), address) {
            Some(socket) => socket.into(),
            None => bind_one(config, address)?,
        };
        let socket = listen(socket, config, tcp_keep_alive_s)?;
        bound += 1;
        Ok(socket)
    };
    config.bind.bind_each(listen_at, std::net::TcpListener::local_addr)
}

fn bind_one(config: &ListenerConfig, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(config.reuse_port)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Listens, or goes on to, as the configuration says.
fn listen(
    socket: Socket,
    config: &ListenerConfig,
    tcp_keep_alive_s: u16,
) -> io::Result<std::net::TcpListener> {
    socket.set_nonblocking(true)?;
    // What is accepted inherits these, which saves calls for each.
    socket.set_tcp_nodelay(true)?;
    if tcp_keep_alive_s > 0 {
        let keep_alive = TcpKeepalive::new()
            .with_time(Duration::from_secs(tcp_keep_alive_s.into()))
            .with_interval(PROBE_INTERVAL)
            .with_retries(PROBES_MAX);
        socket.set_tcp_keepalive(&keep_alive)?;
    }
    socket.listen(config.backlog.into())?;
    Ok(socket.into())
}

/// A listening socket, and where its connections live.
pub(crate) struct Listening {
    pub(crate) socket: TcpListener,
    pub(crate) handshakes: Handle,
}

impl Listening {
    /// Accepts one, which is registered with the runtime of handshakes and not with that of the accept loop.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| {
            let _entered = self.handshakes.enter();
            self.socket.poll_accept(cx)
        })
        .await
    }
}

/// Accepts until `stop` says so. `serve` gets what is admitted; it must return at once. What was accepted is served.
pub(crate) async fn accept_loop<F>(
    listening: Listening,
    listener: Arc<Listener>,
    mut stop: watch::Receiver<bool>,
    serve: F,
) where
    F: Fn(TcpStream, SocketAddr, Admitted<Listener>, Underway) + Send + Sync,
{
    let mut reserve = Reserve::new();
    loop {
        if *stop.borrow() {
            return;
        }
        let accepted = tokio::select! {
            biased;
            // First, since to ask the other would cost part of the task's turn for each connection.
            accepted = listening.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((io, peer)) => {
                listener.accepted.inc();
                stretch::give_way();
                match admit(&listener, peer).await {
                    Ok((admitted, underway)) => serve(io, peer, admitted, underway),
                    Err(reason) => listener.shared.metrics.shed.count((reason.label(),)),
                }
            }
            Err(error) if is_out_of_descriptors(&error) => {
                shed_one(&listening, &mut reserve, &listener).await;
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::warn!(listener = %listener.name, %error, "cannot accept");
                tokio::time::sleep(EXHAUSTED_REST).await;
            }
        }
    }
}

async fn admit(
    listener: &Arc<Listener>,
    peer: SocketAddr,
) -> Result<(Admitted<Listener>, Underway), ShedReason> {
    if listener.rate.as_ref().is_some_and(|rate| rate.check().is_err()) {
        return Err(ShedReason::ListenerRate);
    }
    let deadline = Instant::now() + ROOM_PATIENCE;
    let mut admitted = loop {
        match Admitted::admit(listener) {
            Err(ShedReason::ConnectionsMax) if listener.shared.admission.makes_room(deadline).await => {}
            other => break other?,
        }
    };
    // Behind a trusted load balancer the source is known only after the PROXY protocol header.
    let is_known = !listener.config.is_trusted(peer.ip());
    if is_known {
        admitted.comes_from(peer)?;
    }
    let (underway, instead) = Underway::begin(&listener.shared.admission, Source::of(peer));
    let of_source = is_known.then(|| underway.bound_source()).flatten();
    let given_up = instead.into_iter().chain(of_source);
    given_up.for_each(|reason| listener.shared.metrics.shed.count((reason.label(),)));
    Ok((admitted, underway))
}

/// Accepts one connection with the descriptor kept in reserve and closes it.
async fn shed_one(listening: &Listening, reserve: &mut Reserve, listener: &Listener) {
    if !reserve.spend() {
        reserve.restore();
        tokio::time::sleep(EXHAUSTED_REST).await;
        return;
    }
    let accepted = tokio::time::timeout(EXHAUSTED_REST, listening.accept()).await;
    let is_shed = matches!(accepted, Ok(Ok(_)));
    drop(accepted);
    reserve.restore();
    if is_shed {
        listener.accepted.inc();
        listener.shared.metrics.shed.count((ShedReason::Descriptors.label(),));
    } else {
        // Another thread was quicker to take the descriptor, or the device has gone.
        tokio::time::sleep(EXHAUSTED_REST).await;
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// accept(2) also reports errors that the new connection already has: not ours, go on.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::EINTR
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPERM
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListenerKind;

    #[test]
    fn accepted_sockets_inherit_the_options_of_their_listener() {
        let config = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), ListenerKind::Mqtt);
        let mut inherited = Inherited::default();
        let listener = bind("mqtt", &config, 600, &mut inherited).expect("bound").remove(0);
        listener.set_nonblocking(false).expect("set");
        let _device =
            std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        let accepted = Socket::from(accepted);
        assert!(accepted.tcp_nodelay().expect("read"));
        assert_eq!(accepted.tcp_keepalive_time().expect("read"), Duration::from_secs(600));
        assert_eq!(accepted.tcp_keepalive_retries().expect("read"), PROBES_MAX);
    }
}
