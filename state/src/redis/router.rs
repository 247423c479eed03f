//! Gets one call carried out: finds its node, follows MOVED and ASK, waits out failovers, loads the library where it is
//! missing, and repeats within a budget. Everything sent through here may be repeated: writes carry their number and are
//! carried out once, reads change nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, ServerError, Value};

use super::fault::Fault;
use super::functions::Library;
use super::life::Life;
use super::node::{Address, Kept, Node};
use super::topology::Topology;

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Redirections that are followed at once: nodes that disagree about a slot send a call to and fro.
const REDIRECTIONS_MAX: u32 = 4;
/// How often it is said that a server is full.
const COMPLAIN_INTERVAL: Duration = Duration::from_secs(30);

/// Sends calls to where their slot is.
pub(super) struct Router {
    pub(super) topology: Topology,
    pub(super) library: Library,
    pub(super) life: Life,
    complained_at: Mutex<Option<Instant>>,
}

/// What an error of the server asks for.
#[derive(Debug, PartialEq, Eq)]
enum Advice {
    /// The slot is elsewhere for good.
    Moved(Address),
    /// This once, elsewhere.
    Ask(Address),
    /// The functions are not there.
    Load,
    /// The same, later, with a fresh look at the nodes.
    Wait,
    /// The same, and an operator has to know.
    Mend,
    /// It is of no use.
    Refused,
}

fn advise(error: &ServerError) -> Advice {
    let details = error.details().unwrap_or_default();
    match error.code() {
        "MOVED" => redirect(details).map_or(Advice::Wait, Advice::Moved),
        "ASK" => redirect(details).map_or(Advice::Wait, Advice::Ask),
        "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "READONLY" | "MASTERDOWN" | "BUSY" | "NOREPLICAS" => {
            Advice::Wait
        }
        // Its memory is full, or its disk: until somebody mends that.
        "OOM" | "MISCONF" => Advice::Mend,
        "ERR" if details.contains("Function not found") => Advice::Load,
        _ => Advice::Refused,
    }
}

/// Reads `<slot> <host>:<port>`. Of a node whose host name has not been heard yet (`?`) a look at all nodes says more.
fn redirect(details: &str) -> Option<Address> {
    let (host, port) = details.split_whitespace().nth(1)?.rsplit_once(':')?;
    if host == "?" {
        return None;
    }
    Some(Address { host: host.to_owned(), port: port.parse().ok()? })
}

pub(super) fn refused(node: &Node, error: &ServerError) -> Fault {
    let detail = format!("{} {}", error.code(), error.details().unwrap_or_default());
    Fault::Refused { node: node.address.to_string(), detail }
}

impl Router {
    pub(super) fn new(topology: Topology, life: Life) -> Self {
        Self { topology, library: Library::new(), life, complained_at: Mutex::new(None) }
    }

    /// Says now and then that a server refuses what it is asked.
    fn complain(&self, fault: &Fault) {
        let mut complained_at = self.complained_at.lock();
        if complained_at.is_none_or(|at| at.elapsed() >= COMPLAIN_INTERVAL) {
            *complained_at = Some(Instant::now());
            tracing::warn!(%fault, "redis takes no writes: what is for its slots waits");
        }
    }

    /// Carries a call out that touches one slot. One that `must_be_known` is not given up while it may have been carried out:
    /// whoever asks for the same anew would have it done twice.
    pub(super) async fn call(
        &self,
        slot: u16,
        command: Arc<Cmd>,
        kept: Kept,
        must_be_known: bool,
    ) -> Result<Value, Fault> {
        let began = Instant::now();
        let mut is_open = false;
        let mut pause = PAUSE_MIN;
        let mut asked: Option<Address> = None;
        let mut redirections = 0;
        loop {
            let redirected_before = redirections;
            let target = match asked.take() {
                Some(address) => self.topology.node(&address).map(|node| (node, true)),
                None => self.topology.owner(slot).map(|node| (node, false)).ok_or(Fault::NoNode { slot }),
            };
            let fault = match target {
                Err(fault) => fault,
                Ok((node, asking)) => match node.send(Arc::clone(&command), asking, kept).await {
                    Ok(Value::ServerError(error)) => {
                        let fault = refused(&node, &error);
                        match advise(&error) {
                            Advice::Moved(to) => {
                                self.topology.moved(slot, &or_same_host(to, &node));
                                redirections += 1;
                            }
                            Advice::Ask(to) => {
                                asked = Some(or_same_host(to, &node));
                                redirections += 1;
                            }
                            Advice::Load => match self.load_library(&node).await {
                                Ok(()) => continue,
                                Err(fault @ Fault::Refused { .. }) => return Err(fault),
                                Err(_) => {}
                            },
                            Advice::Wait => {}
                            Advice::Mend => self.complain(&fault),
                            Advice::Refused => return Err(fault),
                        }
                        fault
                    }
                    Ok(value) => return Ok(value),
                    Err(fault) => fault,
                },
            };
            is_open |= fault.is_open();
            if !self.life.allows(began, Instant::now() + pause, must_be_known && is_open) {
                return Err(fault);
            }
            if redirections > redirected_before && redirections < REDIRECTIONS_MAX {
                continue;
            }
            redirections = 0;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            // It fails while no node answers, which the next round finds out too.
            self.topology.refresh().await.ok();
        }
    }

    /// Takes into account what an error says about where a slot is.
    pub(super) fn heed(&self, slot: u16, node: &Node, error: &ServerError) -> Fault {
        if let Advice::Moved(to) = advise(error) {
            self.topology.moved(slot, &or_same_host(to, node));
        }
        refused(node, error)
    }

    /// Loads the library into a node. That it is there already is no error.
    pub(super) async fn load_library(&self, node: &Node) -> Result<(), Fault> {
        let mut command = redis::cmd("FUNCTION");
        command.arg("LOAD").arg(&self.library.text);
        match node.send(Arc::new(command), false, Kept::No).await? {
            Value::ServerError(error)
                if !error.details().is_some_and(|details| details.contains("already exists")) =>
            {
                Err(refused(node, &error))
            }
            _ => Ok(()),
        }
    }
}

/// An empty host means the one that answered.
fn or_same_host(address: Address, node: &Node) -> Address {
    if address.host.is_empty() { Address { host: node.address.host.clone(), ..address } } else { address }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::redis::config::{RedisConfig, Secret};

    /// Reads one command.
    async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|len| *len > 0)?;
        let count: usize = line.strip_prefix('*')?.trim().parse().ok()?;
        let mut words = Vec::new();
        for _ in 0..count {
            line.clear();
            stream.read_line(&mut line).await.ok()?;
            let mut word = vec![0; line.strip_prefix('$')?.trim().parse::<usize>().ok()? + 2];
            stream.read_exact(&mut word).await.ok()?;
            words.push(String::from_utf8_lossy(&word[..word.len() - 2]).into_owned());
        }
        Some(words)
    }

    /// A node that has all slots if it is asked for them, and answers calls as it is told to; not at all, and by closing the
    /// connection, with `None`.
    async fn node(listener: TcpListener, call: impl Fn(u16) -> Option<String> + Clone + Send + 'static) {
        let port = listener.local_addr().expect("bound").port();
        while let Ok((stream, _)) = listener.accept().await {
            let (mut stream, call) = (BufReader::new(stream), call.clone());
            tokio::spawn(async move {
                while let Some(words) = command(&mut stream).await {
                    let answer = match &*words[0] {
                        "CLUSTER" => {
                            format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n")
                        }
                        "FCALL" => match call(port) {
                            Some(answer) => answer,
                            None => return,
                        },
                        _ => "+OK\r\n".to_owned(),
                    };
                    if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// It has all slots, if it is asked for them, and none, if it is to do something.
    async fn disagree(listener: TcpListener, calls: Arc<AtomicUsize>) {
        let moved = move |port| {
            calls.fetch_add(1, Ordering::Relaxed);
            Some(format!("-MOVED 7 127.0.0.1:{port}\r\n"))
        };
        node(listener, moved).await;
    }

    /// It takes calls; the first `silent` of them it carries out, and its connection is cut.
    async fn forget_to_answer(listener: TcpListener, silent: usize) {
        let calls = Arc::new(AtomicUsize::new(0));
        let forget = move |_| (calls.fetch_add(1, Ordering::Relaxed) >= silent).then(|| ":1\r\n".to_owned());
        node(listener, forget).await;
    }

    #[test]
    fn a_redirection_names_a_node_or_none() {
        let address = |host: &str| Some(Address { host: host.to_owned(), port: 6379 });
        assert_eq!(redirect("7 redis-2:6379"), address("redis-2"));
        assert_eq!(redirect("7 ::1:6379"), address("::1"));
        assert_eq!(redirect("7 :6379"), address(""));
        assert_eq!(redirect("7 ?:6379"), None);
    }

    // Given up, it would be asked for anew under another number, and be done twice.
    #[tokio::test]
    async fn a_call_that_may_have_been_carried_out_is_not_given_up_when_that_must_be_known() {
        for must_be_known in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("redis://{}", listener.local_addr().expect("bound"));
            let node = tokio::spawn(forget_to_answer(listener, 3));
            let config = RedisConfig { nodes: vec![Secret::new(url)], ..RedisConfig::default() };
            let router = Router::new(Topology::new(&config).expect("valid"), Life::new(1));
            router.life.start();
            router.topology.refresh().await.expect("a node");
            let mut fcall = redis::cmd("FCALL");
            fcall.arg("f").arg(0);
            let outcome = router.call(7, Arc::new(fcall), Kept::No, must_be_known).await;
            match must_be_known {
                true => assert_eq!(outcome.expect("an answer"), Value::Int(1)),
                false => assert!(matches!(outcome, Err(Fault::Lost { .. })), "{outcome:?}"),
            }
            node.abort();
        }
    }

    #[tokio::test]
    async fn a_call_that_is_sent_to_and_fro_is_repeated_less_and_less_often() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("redis://{}", listener.local_addr().expect("bound"));
        let calls = Arc::new(AtomicUsize::new(0));
        let node = tokio::spawn(disagree(listener, Arc::clone(&calls)));
        let config = RedisConfig { nodes: vec![Secret::new(url)], ..RedisConfig::default() };
        let router = Router::new(Topology::new(&config).expect("valid"), Life::new(500));
        let mut fcall = redis::cmd("FCALL");
        fcall.arg("f").arg(0);
        let outcome = router.call(7, Arc::new(fcall), Kept::No, false).await;
        assert!(matches!(outcome, Err(Fault::Refused { .. })), "{outcome:?}");
        // 5, 10, 20 and so on up to 160 ms between them.
        let calls = calls.load(Ordering::Relaxed);
        assert!((2..=7 * REDIRECTIONS_MAX as usize).contains(&calls), "{calls} calls");
        node.abort();
    }
}
