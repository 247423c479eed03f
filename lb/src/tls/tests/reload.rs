//! Files that change while listeners serve: what is taken, when, by all listeners or by none, and what is said.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::*;

const TICK: Duration = files::LOOK_INTERVAL;

/// Listeners, their files, and the clock by which these are looked at.
struct Watch {
    servers: Vec<Arc<TlsServer>>,
    reload: Reload,
    now: Instant,
}

impl Watch {
    fn start(configs: &[&TlsConfig]) -> Self {
        let found = Snapshot::take(configs.iter().flat_map(|config| config.files()));
        let load = |config: &&TlsConfig| {
            Arc::new(TlsServer::load_from((*config).clone(), Application::Mqtt, &found).unwrap())
        };
        let servers: Vec<_> = configs.iter().map(load).collect();
        let served = servers.iter().enumerate().map(|(n, server)| Served {
            listener: format!("l{n}").into(),
            key: format!("listeners.l{n}.tls"),
            server: Arc::clone(server),
        });
        let reload = Reload::new(served.collect(), &found);
        Self { reload, servers, now: Instant::now() }
    }

    /// One look, an interval after the last one.
    fn look(&mut self) -> Option<Result<Vec<TlsChange>, Refused>> {
        self.now += TICK;
        self.reload.look(self.now, SystemTime::now())
    }

    /// What looks come to say, for so long.
    fn within(&mut self, time: Duration) -> Vec<Result<Vec<TlsChange>, Refused>> {
        let until = self.now + time;
        std::iter::from_fn(|| (self.now < until).then(|| self.look())).flatten().collect()
    }

    /// What they say at once when files have settled.
    fn settled(&mut self) -> Result<Vec<TlsChange>, Refused> {
        let mut said = self.within(4 * TICK);
        assert_eq!(said.len(), 1, "{said:?}");
        said.remove(0)
    }
}

async fn shown(server: &TlsServer, client: &Client) -> Vec<u8> {
    let (_near, far) = connect(&server.acceptor(), client.config()).await.unwrap();
    far.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn renewed(fixture: &Fixture) -> Issued {
    fixture.authority.issue("renewed", &["localhost"])
}

#[tokio::test]
async fn files_that_have_changed_are_taken_without_being_asked_for() {
    let fixture = Fixture::new();
    let mut watch = Watch::start(&[&fixture.config]);
    let (server, client) = (Arc::clone(&watch.servers[0]), fixture.client());
    let first = shown(&server, &client).await;
    assert!(watch.within(5 * TICK).is_empty());
    let next = renewed(&fixture);
    fixture.authority.store("server", &next);
    assert!(watch.within(3 * TICK).is_empty());
    assert_eq!(shown(&server, &client).await, first, "they have not settled");
    watch.look().unwrap().unwrap();
    assert_eq!(shown(&server, &client).await, next.der);
    // What was good stays where something else takes its place.
    fixture.authority.write("server.pem", "no certificate");
    let refused = watch.settled().unwrap_err();
    let line = refused.to_string();
    assert!(
        line.starts_with("listeners.l0.tls.certificates.certificate_file: ") && line.contains("server.pem: "),
        "{line}"
    );
    assert!(watch.within(100 * TICK).is_empty(), "it is said once");
    assert_eq!(shown(&server, &client).await, next.der);
    watch.reload.ask();
    assert_eq!(watch.settled().unwrap_err(), refused, "who asks is told again");
}

// As Kubernetes mounts secrets: the names lead over a link to a directory, which another one takes the place of.
#[tokio::test]
async fn a_directory_that_takes_the_place_of_another_is_taken_as_a_whole() {
    let mut fixture = Fixture::new();
    let root = fixture.authority.path("mount");
    let lay = |name: &str, issued: &Issued| {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join("tls.crt"), &issued.pem).unwrap();
        fs::write(root.join(name).join("tls.key"), &issued.key_pem).unwrap();
    };
    let swap = |name: &str| {
        symlink(name, root.join("..next")).unwrap();
        fs::rename(root.join("..next"), root.join("..data")).unwrap();
    };
    lay("..1", &renewed(&fixture));
    swap("..1");
    for file in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(file), root.join(file)).unwrap();
    }
    fixture.config.certificates = vec![CertificateFiles {
        certificate_file: root.join("tls.crt"),
        key_file: root.join("tls.key"),
        ..fixture.config.certificates[0].clone()
    }];
    let mut watch = Watch::start(&[&fixture.config]);
    let server = Arc::clone(&watch.servers[0]);
    for name in ["..2", "..3"] {
        let next = renewed(&fixture);
        lay(name, &next);
        swap(name);
        watch.settled().unwrap();
        assert_eq!(shown(&server, &fixture.client()).await, next.der);
    }
}

#[tokio::test]
async fn all_listeners_take_what_has_changed_or_none_does() {
    let (one, mut other) = (Fixture::new(), Fixture::new());
    other.config.client_certificates = other.authority.client_certificates(ClientCertificateMode::Optional);
    let mut watch = Watch::start(&[&one.config, &other.config]);
    let [first, second] = [0, 1].map(|n| Arc::clone(&watch.servers[n]));
    let before = [shown(&first, &one.client()).await, shown(&second, &other.client()).await];
    let next = [renewed(&one), renewed(&other)];
    one.authority.store("server", &next[0]);
    other.authority.store("server", &next[1]);
    let good = fs::read(other.authority.path("ca.pem")).unwrap();
    other.authority.write("ca.pem", &good[..good.len() / 2]);
    let line = watch.settled().unwrap_err().to_string();
    assert!(line.starts_with("listeners.l1.tls.client_certificates.ca_file: "), "{line}");
    assert_eq!([shown(&first, &one.client()).await, shown(&second, &other.client()).await], before);
    other.authority.write("ca.pem", good);
    watch.settled().unwrap();
    let after = [shown(&first, &one.client()).await, shown(&second, &other.client()).await];
    assert_eq!(after, next.map(|issued| issued.der));
}

// Whoever copies two files over a slow line, or renews a certificate by hand, is not shouted at in between.
#[tokio::test]
async fn a_certificate_without_its_key_is_waited_for_and_then_told_of_once() {
    let fixture = Fixture::new();
    let mut watch = Watch::start(&[&fixture.config]);
    let server = Arc::clone(&watch.servers[0]);
    let next = renewed(&fixture);
    for part in ["", &next.pem[..400], &next.pem] {
        fixture.authority.write("server.pem", part);
        assert!(watch.within(3 * TICK).is_empty(), "{part:?} has not settled");
    }
    let refused = watch.look().unwrap().unwrap_err();
    assert_eq!(refused.kind, Unusable::Waiting);
    assert!(refused.to_string().contains("server.key: is not the key of"), "{refused}");
    assert!(watch.within(50 * TICK).is_empty());
    // Another one that does not fit is no news.
    fixture.authority.write("server.pem", &renewed(&fixture).pem);
    assert!(watch.within(5 * TICK).is_empty());
    let said = watch.within(200 * TICK);
    let kinds: Vec<_> = said.iter().map(|said| said.as_ref().unwrap_err().kind).collect();
    assert_eq!(kinds, [Unusable::Wrong], "an operator must act: once");
    fixture.authority.store("server", &next);
    watch.settled().unwrap();
    assert_eq!(shown(&server, &fixture.client()).await, next.der);
    // The next time it is waited for again.
    fixture.authority.write("server.pem", &renewed(&fixture).pem);
    assert_eq!(watch.settled().unwrap_err().kind, Unusable::Waiting);
}

#[tokio::test]
async fn nothing_where_there_was_something_is_not_taken() {
    let mut fixture = Fixture::new();
    fixture.config.client_certificates =
        fixture.authority.client_certificates(ClientCertificateMode::Optional);
    fixture.config.client_certificates.crl_files = vec![fixture.authority.revoke(&[1])];
    fixture.config.tickets.secret_file = Some(fixture.authority.write("secret", [7; 32]));
    let server = fixture.server();
    for name in ["server.pem", "server.key", "ca.pem", "revoked.crl"] {
        let path = fixture.authority.path(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, "").unwrap();
        let problem = reload(&server).unwrap_err();
        assert!(problem.is_missing() && problem.to_string().ends_with("is empty"), "{problem}");
        fs::remove_file(&path).unwrap();
        assert!(reload(&server).unwrap_err().is_missing());
        fs::write(&path, before).unwrap();
        assert!(reload(&server).unwrap().authorities_gone.is_empty());
    }
    let another = Authority::new("another CA");
    let other = another.client_certificates(ClientCertificateMode::Optional);
    fs::copy(other.ca_file.unwrap(), fixture.authority.path("ca.pem")).unwrap();
    let gone = reload(&server).unwrap().authorities_gone;
    assert_eq!(gone.into_iter().collect::<Vec<_>>(), ["CN=Tidegate test CA"], "the log says who went");
    connect(&server.acceptor(), fixture.client().config()).await.unwrap();
}

/// A listener that asks for certificates of the authorities in a bundle.
struct Bundle {
    fixture: Fixture,
    server: TlsServer,
}

impl Bundle {
    fn new(authorities: &[&Authority]) -> Self {
        let mut fixture = Fixture::new();
        fixture.config.client_certificates =
            fixture.authority.client_certificates(ClientCertificateMode::Optional);
        write_bundle(&fixture, authorities);
        let server = fixture.server();
        Self { fixture, server }
    }

    fn becomes(&self, authorities: &[&Authority]) {
        write_bundle(&self.fixture, authorities);
        reload(&self.server).unwrap();
    }

    /// What is known of a device with a certificate of this authority that has connected.
    async fn device(&self, of: &Authority) -> Shown {
        let client = self.fixture.client().with_identity(&of.issue("device", &[]));
        let (mut near, _far) = connect(&self.server.acceptor(), client.config()).await.unwrap();
        self.server.shown(&mut near).unwrap().unwrap()
    }
}

fn write_bundle(fixture: &Fixture, authorities: &[&Authority]) {
    let text: String = authorities.iter().map(|authority| authority.pem()).collect();
    fixture.authority.write("ca.pem", text);
}

#[tokio::test]
async fn whose_authority_has_gone_is_not_trusted_any_more() {
    let [kept, gone] = ["kept", "gone"].map(Authority::new);
    let bundle = Bundle::new(&[&kept, &gone]);
    let (stays, goes) = (bundle.device(&kept).await, bundle.device(&gone).await);
    reload(&bundle.server).unwrap();
    assert!(!stays.is_distrusted() && !goes.is_distrusted(), "nothing has changed");
    bundle.becomes(&[&kept]);
    assert!(!stays.is_distrusted() && goes.is_distrusted());
    bundle.becomes(&[&gone, &kept]);
    assert!(!goes.is_distrusted(), "what is in force counts");
}

// An authority that has a new key goes by the same name.
#[tokio::test]
async fn authorities_of_one_name_are_told_apart_by_their_keys() {
    let [old, new] = [Authority::new("fleet"), Authority::new("fleet")];
    let bundle = Bundle::new(&[&old, &new]);
    let (goes, stays) = (bundle.device(&old).await, bundle.device(&new).await);
    bundle.becomes(&[&new]);
    assert!(goes.is_distrusted() && !stays.is_distrusted());
}

// Its name and key are what a chain leads to, not its serial number or its end.
#[tokio::test]
async fn an_authority_that_is_renewed_with_its_key_keeps_its_devices() {
    let authority = Authority::new("fleet");
    let bundle = Bundle::new(&[&authority]);
    let device = bundle.device(&authority).await;
    bundle.becomes(&[&authority.renewed()]);
    assert!(!device.is_distrusted());
}

#[tokio::test]
async fn who_came_in_by_what_was_in_force_before_finds_itself_distrusted() {
    let [kept, gone] = ["kept", "gone"].map(Authority::new);
    let bundle = Bundle::new(&[&kept, &gone]);
    let client = bundle.fixture.client().with_identity(&gone.issue("device", &[]));
    let (mut near, _far) = connect(&bundle.server.acceptor(), client.config()).await.unwrap();
    bundle.becomes(&[&kept]);
    assert!(bundle.server.shown(&mut near).unwrap().unwrap().is_distrusted());
}
