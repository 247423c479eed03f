//! Which node has which slot: asked for from any node that answers, and corrected by every MOVED.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use files::pem::{self, Kind};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates, Value};

use super::config::{ConnectError, RedisConfig, no_node};
use super::crc16::SLOTS;
use super::fault::Fault;
use super::node::{Address, Dial, Kept, Node};
use super::op::ReadAnswer;
use super::replication::Replication;

/// No more often than this, however many ask for it.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// The nodes by slot.
struct Slots {
    owners: Vec<Option<Arc<Node>>>,
}

/// The nodes of a cluster, or the one server.
pub(super) struct Topology {
    /// As all nodes are connected to, but for the address.
    template: ConnectionInfo,
    seeds: Vec<Address>,
    connect_timeout: Duration,
    response_timeout: Duration,
    replication: Arc<Replication>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    slots: ArcSwap<Slots>,
    refreshed_at: tokio::sync::Mutex<Option<Instant>>,
    /// No node answered the last time that they were asked.
    is_lost: AtomicBool,
}

impl Topology {
    /// Reads the configuration; connects to nothing yet.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, ConnectError> {
        let mut template = None;
        let mut seeds = Vec::new();
        for url in &config.nodes {
            let info = connection_info(url.expose(), config)?;
            seeds.push(address_of(&info)?);
            template.get_or_insert(info);
        }
        let template = template.ok_or_else(no_node)?;
        Ok(Self {
            template,
            seeds,
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            response_timeout: Duration::from_millis(config.response_timeout_ms),
            replication: Arc::new(Replication::new(config)),
            nodes: Mutex::new(HashMap::new()),
            slots: ArcSwap::from_pointee(Slots { owners: vec![None; usize::from(SLOTS)] }),
            refreshed_at: tokio::sync::Mutex::new(None),
            is_lost: AtomicBool::new(false),
        })
    }

    /// The node that has a slot, as far as is known.
    pub(super) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        self.slots.load().owners.get(usize::from(slot)).cloned().flatten()
    }

    /// What is known of copies.
    pub(super) fn replication(&self) -> &Replication {
        &self.replication
    }

    /// All nodes that have slots.
    pub(super) fn masters(&self) -> Vec<Arc<Node>> {
        let slots = self.slots.load();
        let mut masters: Vec<Arc<Node>> = Vec::new();
        for owner in slots.owners.iter().flatten() {
            if !masters.iter().any(|known| Arc::ptr_eq(known, owner)) {
                masters.push(Arc::clone(owner));
            }
        }
        masters
    }

    /// The node at an address, known or not.
    pub(super) fn node(&self, address: &Address) -> Result<Arc<Node>, Fault> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(address) {
            return Ok(Arc::clone(node));
        }
        let client = self.client(address).map_err(|error| Fault::Unreachable {
            node: address.to_string(),
            detail: super::node::describe(&error),
        })?;
        let dial =
            Dial { client, connect_timeout: self.connect_timeout, response_timeout: self.response_timeout };
        let node = Arc::new(Node::new(address.clone(), &dial, Arc::clone(&self.replication)));
        nodes.insert(address.clone(), Arc::clone(&node));
        Ok(node)
    }

    /// A connection of its own to the node that has a slot, without a time-out for answers.
    pub(super) async fn connect_apart(&self, slot: u16) -> Result<(Arc<Node>, MultiplexedConnection), Fault> {
        let node = self.owner(slot).ok_or(Fault::NoNode { slot })?;
        let lost = |error: redis::RedisError| Fault::Unreachable {
            node: node.address.to_string(),
            detail: super::node::describe(&error),
        };
        let dial = Dial {
            client: self.client(&node.address).map_err(lost)?,
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
        };
        let connection = dial.connect(None).await.map_err(lost)?;
        Ok((node, connection))
    }

    fn client(&self, address: &Address) -> redis::RedisResult<Client> {
        let Address { host, port } = address.clone();
        let addr = match self.template.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        Client::open(self.template.clone().set_addr(addr))
    }

    /// A slot has moved.
    pub(super) fn moved(&self, slot: u16, address: &Address) {
        let Ok(node) = self.node(address) else { return };
        self.slots.rcu(|slots| {
            let mut owners = slots.owners.clone();
            if let Some(owner) = owners.get_mut(usize::from(slot)) {
                *owner = Some(Arc::clone(&node));
            }
            Slots { owners }
        });
    }

    /// Asks which node has which slot; callers that come together share one question.
    pub(super) async fn refresh(&self) -> Result<(), Fault> {
        let asked_at = Instant::now();
        let mut refreshed_at = self.refreshed_at.lock().await;
        if refreshed_at.is_some_and(|at| at + REFRESH_INTERVAL_MIN > asked_at) {
            return Ok(());
        }
        let mut last = Fault::NoNode { slot: 0 };
        for node in self.to_ask() {
            match self.ask(&node).await {
                Ok(slots) => {
                    self.adopt(slots);
                    *refreshed_at = Some(Instant::now());
                    self.is_lost.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                Err(fault) => last = fault,
            }
        }
        *refreshed_at = Some(Instant::now());
        self.is_lost.store(true, Ordering::Relaxed);
        Err(last)
    }

    /// Whether no node answered when they were asked last.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// A node has answered.
    pub(super) fn found(&self) {
        self.is_lost.store(false, Ordering::Relaxed);
    }

    /// Connected nodes first, then where we began.
    fn to_ask(&self) -> Vec<Arc<Node>> {
        let mut nodes: Vec<Arc<Node>> =
            self.nodes.lock().values().filter(|node| node.is_connected()).cloned().collect();
        for seed in &self.seeds {
            if let Ok(node) = self.node(seed)
                && !nodes.iter().any(|known| Arc::ptr_eq(known, &node))
            {
                nodes.push(node);
            }
        }
        nodes
    }

    async fn ask(&self, node: &Arc<Node>) -> Result<Slots, Fault> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let answer = node.send(Arc::new(command), false, Kept::No).await?;
        let mut owners = vec![None; usize::from(SLOTS)];
        if let Value::ServerError(error) = &answer {
            if error.details().is_some_and(|details| details.contains("cluster support disabled")) {
                owners.fill(Some(Arc::clone(node)));
                return Ok(Slots { owners });
            }
            return Err(super::router::refused(node, error));
        }
        for range in answer.list().map_err(|_| Fault::Form)? {
            let (first, last, address) = read_range(range, &node.address).ok_or(Fault::Form)?;
            let owner = self.node(&address)?;
            if let Some(slots) = owners.get_mut(first..=last) {
                slots.fill(Some(owner));
            }
        }
        if owners.iter().all(Option::is_none) {
            return Err(Fault::NoNode { slot: 0 });
        }
        Ok(Slots { owners })
    }

    fn adopt(&self, slots: Slots) {
        self.slots.store(Arc::new(slots));
        // Nodes that are gone, and have nothing to do any more, are let go.
        let masters = self.masters();
        self.nodes.lock().retain(|address, node| {
            self.seeds.contains(address)
                || node.is_connected()
                || masters.iter().any(|owner| Arc::ptr_eq(owner, node))
        });
    }
}

/// First slot, last slot, and the master's address. An empty host is the one that was asked. A node that goes by its host name
/// (`cluster-preferred-endpoint-type hostname`) is `?` to others until they have heard that name: its address is told beside it.
fn read_range(range: Value, asked: &Address) -> Option<(usize, usize, Address)> {
    let mut fields = range.list().ok()?.into_iter();
    let first = usize::try_from(fields.next()?.count().ok()?).ok()?;
    let last = usize::try_from(fields.next()?.count().ok()?).ok()?;
    let mut master = fields.next()?.list().ok()?.into_iter();
    let host = master.next()?.maybe().map_or(Some(String::new()), |host| host.text().ok())?;
    let port = u16::try_from(master.next()?.count().ok()?).ok()?;
    let host = match host.as_str() {
        "" => asked.host.clone(),
        "?" => master.nth(1).and_then(told_ip).unwrap_or_else(|| asked.host.clone()),
        _ => host,
    };
    (first <= last).then_some((first, last, Address { host, port }))
}

/// The address among what else is told of a node: names, each followed by its value.
fn told_ip(metadata: Value) -> Option<String> {
    let mut fields = metadata.list().ok()?.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if name.text().is_ok_and(|name| name == "ip") {
            return value.text().ok().filter(|ip| !ip.is_empty());
        }
    }
    None
}

fn connection_info(url: &str, config: &RedisConfig) -> Result<ConnectionInfo, ConnectError> {
    // The library's own message may hold the URL.
    let mut info = url.into_connection_info().map_err(|_| no_node())?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        }
        if let Some(path) = &config.tls_ca_file {
            let root_cert = std::fs::read(path).map_err(|source| ConnectError::File {
                field: "tls_ca_file",
                path: path.clone(),
                source,
            })?;
            let unusable =
                |problem| ConnectError::Unusable { field: "tls_ca_file", path: path.clone(), problem };
            pem::sections(&root_cert, Kind::Certificate).map_err(|error| unusable(error.to_string()))?;
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(root_cert) };
            let client = Client::build_with_tls(info, certificates).map_err(|_| {
                unusable("holds a certificate that cannot be used as an authority".to_owned())
            })?;
            info = client.get_connection_info().clone();
        }
    }
    let mut settings = info.redis_settings().clone();
    if let Some(username) = &config.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &config.password {
        settings = settings.set_password(password.expose());
    }
    Ok(info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

fn address_of(info: &ConnectionInfo) -> Result<Address, ConnectError> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Ok(Address { host: host.clone(), port: *port })
        }
        _ => Err(no_node()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    /// The host of the master of a range, asked for at `asked`.
    fn host(master: Vec<Value>) -> String {
        let range = Value::Array(vec![Value::Int(0), Value::Int(5460), Value::Array(master)]);
        let asked = Address { host: "asked".to_owned(), port: 1 };
        let (first, last, address) = read_range(range, &asked).expect("a range");
        assert_eq!((first, last, address.port), (0, 5460, 6379));
        address.host
    }

    #[test]
    fn a_node_goes_by_its_name_and_by_its_address_until_its_name_is_known() {
        let metadata = |ip: &str| Value::Array(vec![text("ip"), text(ip)]);
        let node = |name: Value, rest: Vec<Value>| [vec![name, Value::Int(6379), text("id")], rest].concat();
        assert_eq!(host(node(text("redis-1"), vec![metadata("192.0.2.1")])), "redis-1");
        assert_eq!(host(node(text("?"), vec![metadata("192.0.2.1")])), "192.0.2.1");
        for unknown in [vec![], vec![metadata("")], vec![Value::Array(Vec::new())]] {
            assert_eq!(host(node(text("?"), unknown)), "asked");
        }
        assert_eq!(host(node(Value::Nil, vec![])), "asked");
        assert_eq!(host(node(text(""), vec![])), "asked");
    }
}
