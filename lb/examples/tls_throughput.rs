//! Measures the edge's TLS against tokio-rustls and plain TCP over loopback: processor time of the server's thread per
//! 256-byte message and per handshake, and heap per idle connection. Linux only: it reads `/proc`.
//! `cargo run --release -p tidegate-lb --example tls_throughput [throughput|handshakes|idle]...`

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::{env, fs, thread};

use lb::tls::{Application, CertificateFiles, TlsAcceptor, TlsConfig, TlsServer};
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const MESSAGE_BYTES: usize = 256;
const BATCH_MESSAGES: usize = 32;
const BATCHES: usize = 30_000;
const HANDSHAKES: usize = 3_000;
const IDLE_CONNECTIONS: usize = 4_000;
/// Heap that TLS may cost an idle connection, bytes: a quarter of the budget for everything.
const IDLE_BYTES_MAX: isize = 2_600;

/// The system's allocator, counting what is allocated.
struct Counting;

static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

#[expect(unsafe_code, reason = "counting bytes takes an allocator, and allocators are unsafe to implement")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size().cast_signed(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How the server does TLS.
#[derive(Clone)]
enum Way {
    Plain,
    TokioRustls(tokio_rustls::TlsAcceptor),
    Edge(TlsAcceptor),
}

impl Way {
    fn name(&self) -> &'static str {
        match self {
            Self::Plain => "plain TCP",
            Self::TokioRustls(_) => "tokio-rustls",
            Self::Edge(_) => "edge",
        }
    }
}

/// A server on a thread of its own that echoes.
struct Server {
    address: SocketAddr,
    /// Processor time of its thread, nanoseconds, whenever a connection ends.
    used_ns: Receiver<u64>,
    _thread: JoinHandle<()>,
}

fn thread_time_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or_default()
}

fn start(way: Way) -> Outcome<Server> {
    let (report, used_ns) = channel();
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = thread::Builder::new().name("server".to_owned()).spawn(move || {
        runtime.block_on(async {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let report = report.clone();
                let done = move || {
                    let _ = report.send(thread_time_ns());
                };
                // A task for each way, so that none is as large as the largest.
                match &way {
                    Way::Plain => drop(tokio::spawn(async move {
                        echo(socket).await;
                        done();
                    })),
                    Way::TokioRustls(acceptor) => {
                        let accept = acceptor.accept(socket);
                        drop(tokio::spawn(async move {
                            if let Ok(stream) = Box::pin(accept).await {
                                echo(stream).await;
                            }
                            done();
                        }));
                    }
                    Way::Edge(acceptor) => {
                        let accept = acceptor.accept(socket);
                        drop(tokio::spawn(async move {
                            if let Ok(stream) = accept.await {
                                echo(stream).await;
                            }
                            done();
                        }));
                    }
                }
            }
        });
    })?;
    Ok(Server { address, used_ns, _thread: thread })
}

/// Echoes until the end, with no buffer while it waits.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    thread_local! {
        static ROOM: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 64 * 1024]);
    }
    loop {
        let arrived = poll_fn(|cx| {
            ROOM.with_borrow_mut(|room| {
                let mut room = ReadBuf::new(room);
                Pin::new(&mut stream).poll_read(cx, &mut room).map_ok(|()| room.filled().to_vec())
            })
        });
        match arrived.await {
            Ok(bytes) if !bytes.is_empty() && stream.write_all(&bytes).await.is_ok() => {}
            _ => break,
        }
    }
}

/// A blocking client.
struct Client {
    socket: TcpStream,
    tls: Option<ClientConnection>,
}

impl Client {
    fn connect(address: SocketAddr, config: Option<&Arc<ClientConfig>>) -> Outcome<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let tls = config.map(|config| ClientConnection::new(Arc::clone(config), name)).transpose()?;
        Ok(Self { socket, tls })
    }

    /// Sends `pieces` in one go, one TLS record each, and reads as many bytes back.
    fn exchange(&mut self, pieces: &[&[u8]], room: &mut [u8]) -> Outcome {
        let Some(tls) = &mut self.tls else {
            self.socket.write_all(&pieces.concat())?;
            self.socket.read_exact(room)?;
            return Ok(());
        };
        while tls.is_handshaking() {
            tls.complete_io(&mut self.socket)?;
        }
        for piece in pieces {
            tls.writer().write_all(piece)?;
        }
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        let mut filled = 0;
        while filled < room.len() {
            match tls.reader().read(&mut room[filled..]) {
                Ok(count) => filled += count,
                Err(_) => {
                    tls.read_tls(&mut self.socket)?;
                    tls.process_new_packets()?;
                }
            }
        }
        Ok(())
    }
}

fn measure_throughput(ways: &[Way], client: &Arc<ClientConfig>) -> Outcome {
    let message = [7_u8; MESSAGE_BYTES];
    let batch = message.repeat(BATCH_MESSAGES);
    let apart = vec![&message[..]; BATCH_MESSAGES];
    println!(
        "echo of {MESSAGE_BYTES}-byte messages in batches of {BATCH_MESSAGES}, µs of server CPU per message"
    );
    for (shape, pieces) in
        [("one record per batch", &[&batch[..]][..]), ("one record per message", &apart[..])]
    {
        let mut plain_us = 0.0;
        for way in ways {
            let server = start(way.clone())?;
            let config = (!matches!(way, Way::Plain)).then_some(client);
            let mut room = vec![0; batch.len()];
            let mut warm = Client::connect(server.address, config)?;
            warm.exchange(pieces, &mut room)?;
            drop(warm);
            let before = server.used_ns.recv()?;
            let mut client = Client::connect(server.address, config)?;
            for _ in 0..BATCHES {
                client.exchange(pieces, &mut room)?;
            }
            drop(client);
            let used = server.used_ns.recv()? - before;
            let each_us = used as f64 / 1_000.0 / (BATCHES * BATCH_MESSAGES) as f64;
            if matches!(way, Way::Plain) {
                plain_us = each_us;
            }
            println!("  {shape:24} {:14} {each_us:.3}  above TCP {:.3}", way.name(), each_us - plain_us);
        }
    }
    Ok(())
}

fn measure_handshakes(ways: &[Way], files: &CertificateFiles) -> Outcome {
    println!("TCP + handshake + 32 bytes each way, µs of server CPU");
    for (kind, resumes) in [("full", false), ("resumed", true)] {
        for way in ways {
            let server = start(way.clone())?;
            let mut config = client_config(files)?;
            if !resumes {
                config.resumption = Resumption::disabled();
            }
            let config = Arc::new(config);
            let config = (!matches!(way, Way::Plain)).then_some(&config);
            let mut before = 0;
            let mut after = 0;
            for round in 0..=HANDSHAKES {
                let mut client = Client::connect(server.address, config)?;
                client.exchange(&[&[1; 32]], &mut [0; 32])?;
                drop(client);
                after = server.used_ns.recv()?;
                if round == 0 {
                    before = after;
                }
            }
            let each_us = (after - before) as f64 / 1_000.0 / HANDSHAKES as f64;
            println!("  {kind:8} {:14} {each_us:6.1}  {:.0} per CPU second", way.name(), 1e6 / each_us);
        }
    }
    Ok(())
}

fn measure_idle(ways: &[Way], client: &Arc<ClientConfig>) -> Outcome {
    println!("heap per idle connection at {IDLE_CONNECTIONS}, bytes (task and socket included)");
    let mut plain = 0;
    for way in ways {
        let server = start(way.clone())?;
        let config = (!matches!(way, Way::Plain)).then_some(client);
        let mut sockets = Vec::with_capacity(IDLE_CONNECTIONS);
        Client::connect(server.address, config)?.exchange(&[&[1; 32]], &mut [0; 32])?;
        // The first connection has ended, and the thread's buffers are made.
        let before = LIVE_BYTES.load(Ordering::Relaxed);
        for _ in 0..IDLE_CONNECTIONS {
            let mut client = Client::connect(server.address, config)?;
            client.exchange(&[&[1; 32]], &mut [0; 32])?;
            // The client's session goes; its socket keeps the connection open.
            sockets.push(client.socket);
        }
        let each = (LIVE_BYTES.load(Ordering::Relaxed) - before) / IDLE_CONNECTIONS.cast_signed();
        match way {
            Way::Plain => plain = each,
            Way::Edge(_) if each - plain > IDLE_BYTES_MAX => {
                return Err(format!("TLS costs {} bytes, more than {IDLE_BYTES_MAX}", each - plain).into());
            }
            _ => {}
        }
        println!("  {:14} {each:6}  above TCP {}", way.name(), each - plain);
        drop(sockets);
        for _ in 0..=IDLE_CONNECTIONS {
            server.used_ns.recv()?;
        }
    }
    Ok(())
}

fn client_config(files: &CertificateFiles) -> Outcome<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.certificate_file)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn make_certificate(directory: &Path) -> Outcome<CertificateFiles> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let files = CertificateFiles {
        certificate_file: directory.join("server.pem"),
        key_file: directory.join("server.key"),
        server_names: Vec::new(),
        ocsp_file: None,
    };
    fs::write(&files.certificate_file, made.cert.pem())?;
    fs::write(&files.key_file, made.signing_key.serialize_pem())?;
    Ok(files)
}

fn tokio_rustls_acceptor(files: &CertificateFiles) -> Outcome<tokio_rustls::TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&files.certificate_file)?],
            PrivateKeyDer::from_pem_file(&files.key_file)?,
        )?;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

fn main() -> Outcome {
    let directory = tempfile::TempDir::new()?;
    let files = make_certificate(directory.path())?;
    let edge = TlsServer::load(
        TlsConfig { certificates: vec![files.clone()], ..TlsConfig::default() },
        Application::Mqtt,
    )?;
    let ways = [Way::Plain, Way::TokioRustls(tokio_rustls_acceptor(&files)?), Way::Edge(edge.acceptor())];
    let client = Arc::new(client_config(&files)?);
    let wanted = env::args().skip(1).collect::<Vec<_>>();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    if is_wanted("throughput") {
        measure_throughput(&ways, &client)?;
    }
    if is_wanted("handshakes") {
        measure_handshakes(&ways, &files)?;
    }
    if is_wanted("idle") {
        measure_idle(&ways, &client)?;
    }
    Ok(())
}
