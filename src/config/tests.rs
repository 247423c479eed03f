//! What is wrong is one line that names the key; what is given lands where it should.

mod documented;

use files::private::Readers;

use super::*;

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Box<StandaloneConfig>, String> {
    match load_as(Tier::Standalone, text, environment)? {
        Config::Standalone(config) => Ok(config),
        other => panic!("{other:?}"),
    }
}

fn load_as(tier: Tier, text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    std::fs::write(&file, text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(tier, Some(&file), environment)
        .map_err(|problem| problem.to_string().replace(&*dir.path().to_string_lossy(), ""))
}

fn shown(config: &StandaloneConfig) -> String {
    shown::shown(config, &shown::OF_STANDALONE).unwrap()
}

fn line(text: &str) -> String {
    match load(text, &[]) {
        Ok(_) => "accepted".to_owned(),
        Err(line) => line.trim_start_matches('/').to_owned(),
    }
}

fn addresses(config: &StandaloneConfig) -> Vec<(String, String)> {
    config.front.listeners.iter().map(|(name, listener)| (name.clone(), listener.bind.to_string())).collect()
}

#[test]
fn what_is_wrong_is_one_line_that_names_the_key() {
    let cases = [
        ("[edge]\nlinger_ms = 1", "tidegate.toml: edge.linger_ms = 1: must be 10 to 60000"),
        (
            "[edge]\nlinger_ms = 'x'",
            "tidegate.toml: edge.linger_ms = \"x\": invalid type: string \"x\", expected u64",
        ),
        (
            "[edge]\nconect_timeout_ms = 1",
            "tidegate.toml: edge.conect_timeout_ms: unknown key; did you mean edge.connect_timeout_ms?",
        ),
        ("[brokr]\nx = 1", "tidegate.toml: brokr: unknown key; did you mean broker?"),
        ("[data]\npath = 'x'", "tidegate.toml: data.path: unknown key; known are dir"),
        (
            "[listeners.mqtt]\npth = '/'",
            "tidegate.toml: listeners.mqtt.pth: unknown key; did you mean listeners.mqtt.path?",
        ),
        (
            "[listeners]\nmqtt = 'localhost'",
            "tidegate.toml: listeners.mqtt.bind = \"localhost\": the port is missing; write localhost:PORT",
        ),
        (
            "[listeners]\nmqtt = 1883",
            "tidegate.toml: listeners.mqtt.bind = 1883: the address is missing; write 127.0.0.1:1883 for this machine \
             only, 0.0.0.0:1883 for all its IPv4 addresses or [::]:1883 for all",
        ),
        (
            "[admin]\nlisten = '127.0.0.1'",
            "tidegate.toml: admin.listen = \"127.0.0.1\": the port is missing; write 127.0.0.1:PORT",
        ),
        (
            "[tls.tickets]\nrotate_secs = 60",
            "tidegate.toml: tls.tickets.rotate_secs: is called tls.tickets.rotate_s now",
        ),
        (
            "[listeners.mqtts.tls]\nmax_fragment_size = 512",
            "tidegate.toml: listeners.mqtts.tls.max_fragment_size: is called listeners.mqtts.tls.fragment_bytes_max now",
        ),
        (
            "[broker]\nsession_expiry_v3_s = 'sometimes'",
            "tidegate.toml: broker.session_expiry_v3_s = \"sometimes\": invalid value: string \"sometimes\", expected \
             seconds up to 4294967295, or \"never\"",
        ),
        ("[listeners.other]\nbind = '127.0.0.1:1'", "tidegate.toml: listeners.other: missing field `kind`"),
        ("listeners = 5", "tidegate.toml: listeners = 5: expected [listeners] with NAME = \"ADDRESS:PORT\""),
        ("[listeners.ws]\npath = 'mqtt'", "tidegate.toml: listeners.ws.path = \"mqtt\": must start with /"),
        (
            "[listeners]\nmqtt = '0.0.0.0:1883'",
            "tidegate.toml: listeners.mqtt.bind = \"0.0.0.0:1883\": without authentication only loopback addresses \
             are allowed; set auth.password_file (see tidegate passwd), auth.certificate = \"subject\", or \
             auth.anonymous = \"always\"",
        ),
        (
            "[auth]\nrecent_ttl_s = 9223372036854775807",
            "tidegate.toml: auth.recent_ttl_s = 9223372036854775807: must be at most 31536000",
        ),
        ("[auth]\nhash_threads = 0", "tidegate.toml: auth.hash_threads = 0: must be 1 to 256"),
        ("[edge.listeners]\n", "tidegate.toml: edge.listeners: listeners are set in [listeners.NAME]"),
        (
            "[broker]\npacket_bytes_max = 5",
            "tidegate.toml: broker.packet_bytes_max = 5: is set as edge.packet_bytes_max",
        ),
        ("[broker]\ninflight_max = 0", "tidegate.toml: broker.inflight_max = 0: must be at least 1"),
        (
            "[[authorization.limits]]\nwho = ['*']\nsessions_max = 0",
            "tidegate.toml: authorization.limits[0].sessions_max = 0: must be at least 1",
        ),
        ("[state]\nfsync_interval_ms = 0", "tidegate.toml: state.fsync_interval_ms = 0: must be 1 to 60000"),
        (
            "[auth]\nanonymous = 'maybe'",
            "tidegate.toml: auth.anonymous = \"maybe\": unknown variant `maybe`, expected one of `loopback`, `never`, \
             `always`",
        ),
        (
            "[auth]\npassword_file = '/nonexistent/users'",
            "tidegate.toml: auth.password_file = \"/nonexistent/users\": cannot read password file \
             \"/nonexistent/users\": No such file or directory (os error 2)",
        ),
        (
            "[auth]\ncertificate = 'subject'",
            "tidegate.toml: auth.certificate = \"subject\": needs tls.client_certificates.mode = \"optional\" or \
             \"required\"",
        ),
        (
            "[[authorization.rule]]\nwho = ['*']\neffect = 'allow'\naction = 'all'\ntopics = ['a/#/b']",
            "tidegate.toml: authorization.rule[0].topics = [\"a/#/b\"]: \"a/#/b\" is not a valid Topic Filter",
        ),
        (
            "[[authorization.rule]]\nwho = ['*']\neffect = 'permit'\naction = 'all'\ntopics = ['a']",
            "tidegate.toml: authorization.rule[0].effect = \"permit\": unknown variant `permit`, expected one of \
             `allow`, `deny`, `ask`",
        ),
        (
            "[log]\nlevel = 'a=b=c'",
            "tidegate.toml: log.level = \"a=b=c\": expected error, warn, info, debug, trace or \
                                  directives such as info,lb=debug",
        ),
        ("[runtime]\nworker_threads = 0", "tidegate.toml: runtime.worker_threads = 0: must be 1 to 1024"),
        (
            "[tls]\ncertificates = [{ certificate_file = '/nonexistent/a.pem', key_file = '/nonexistent/a.key' }]",
            "tidegate.toml: tls.certificates.certificate_file: cannot read /nonexistent/a.pem: No such file or directory \
             (os error 2)",
        ),
        (
            "[edge]\nlinger_ms = \n",
            "tidegate.toml line 2: string values must be quoted, expected literal string",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(line(text), expected, "{text}");
        assert_eq!(line(text).lines().count(), 1);
    }
}

#[test]
fn a_session_may_never_expire() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.broker.session_expiry_v3_s, 604_800);
    let config = load("[broker]\nsession_expiry_v3_s = 'never'\nsession_expiry_max_s = 60\n", &[]).unwrap();
    assert_eq!((config.broker.session_expiry_v3_s, config.broker.session_expiry_max_s), (u32::MAX, 60));
}

#[test]
fn a_name_that_stands_for_this_machine_only_may_be_bound_without_authentication() {
    let config = load("[listeners]\nmqtt = 'localhost:1883'\n", &[]).unwrap();
    let bind = &config.front.listeners["mqtt"].bind;
    assert!(bind.is_loopback() && bind.addresses().iter().all(|address| address.port() == 1883), "{bind:?}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error =
        Config::load(Tier::Standalone, Some(Path::new("/nonexistent/t.toml")), []).unwrap_err().to_string();
    let expected =
        "/nonexistent/t.toml: cannot read the configuration file: No such file or directory (os error 2)";
    assert_eq!(error, expected);
}

#[test]
fn the_environment_lies_over_the_file() {
    let config = load(
        "[edge]\nlinger_ms = 50\nconnect_timeout_ms = 500\n[listeners]\nmqtt = '127.0.0.1:1'\n",
        &[
            ("TIDEGATE__EDGE__LINGER_MS", "60"),
            ("TIDEGATE__LISTENERS__WS", "127.0.0.1:2"),
            ("TIDEGATE__LISTENERS__WSS", "off"),
            ("TIDEGATE__LISTENERS__MQTT__BACKLOG", "7"),
            ("TIDEGATE__LOG__LEVEL", "info,lb=debug"),
            ("TIDEGATE__AUTHORIZATION__RULE", "[{who=['*'],effect='allow',action='all',topics=['#']}]"),
            ("TIDEGATE_OTHER", "x"),
        ],
    )
    .unwrap();
    assert_eq!((config.front.edge.linger_ms, config.front.edge.connect_timeout_ms), (60, 500));
    let bound = addresses(&config);
    let bound: Vec<_> = bound.iter().map(|(name, address)| (&**name, &**address)).collect();
    assert_eq!(bound, [("mqtt", "127.0.0.1:1"), ("mqtts", "127.0.0.1:8883"), ("ws", "127.0.0.1:2")]);
    assert_eq!(config.front.listeners["mqtt"].backlog, 7);
    assert_eq!(config.process.log.level, "info,lb=debug");
    assert_eq!(config.front.authorization.rule.len(), 1);
}

#[test]
fn what_is_wrong_in_the_environment_names_the_variable() {
    let wrong = |name, value| load("", &[(name, value)]).unwrap_err();
    assert_eq!(
        wrong("TIDEGATE__EDGE__LINGER_MS", "soon"),
        "environment variable TIDEGATE__EDGE__LINGER_MS: edge.linger_ms = \"soon\": invalid type: string \"soon\", \
         expected u64"
    );
    assert_eq!(
        wrong("TIDEGATE__EDGE__LINGERMS", "5"),
        "environment variable TIDEGATE__EDGE__LINGERMS: edge.lingerms: unknown key; did you mean edge.linger_ms?"
    );
    assert_eq!(wrong("TIDEGATE__EDGE", "5"), "TIDEGATE__EDGE: expected TIDEGATE__SECTION__KEY");
}

#[test]
fn a_text_of_the_environment_may_look_like_something_else() {
    let same = |text| (text, text);
    let others = ["12345", "1.5", "true", "1979-05-27", "[x]", "{}", "tru"].map(same);
    for (text, path) in others.into_iter().chain([("'quoted'", "quoted")]) {
        let config = load("", &[("TIDEGATE__DATA__DIR", text)]);
        assert_eq!(config.unwrap().data.dir, Path::new(path), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let text = worker_text(dir.path(), "");
    let numbers = [("TIDEGATE__REDIS__PASSWORD", "12345"), ("TIDEGATE__REDIS__USERNAME", "true")];
    load_as(Tier::Worker, &text, &numbers).unwrap();
}

#[test]
fn an_error_line_tells_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let line = |extra: &str, environment: &[(&str, &str)]| {
        load_as(Tier::Worker, &worker_text(dir.path(), extra), environment).unwrap_err()
    };
    assert_eq!(line("[redis]\npassword = 12345\n", &[]), "/tidegate.toml: redis.password: expected a string");
    let nodes = ("TIDEGATE__REDIS__NODES", "['http://:tg-secret-1@a']");
    let rule = "must be URLs, redis:// or rediss://, such as redis://127.0.0.1:6379";
    assert_eq!(
        line("", &[nodes]),
        format!("environment variable TIDEGATE__REDIS__NODES: redis.nodes: {rule}")
    );
    let node = ("TIDEGATE__REDIS__NODES", "redis://:tg-secret-1@a:6379");
    assert!(!line("", &[node]).contains("tg-secret-1"), "{}", line("", &[node]));
    let headers = "[auth.http]\ncontract = 'emqx5'\nurl = 'https://a'\nheaders = { x-key = 54321 }\n";
    let told = load(headers, &[]).unwrap_err();
    assert!(told.contains("auth.http.headers") && !told.contains("54321"), "{told}");
    let url = "[auth.http]\ncontract = 'emqx5'\nurl = 'https://user:tg-secret-1@a/'\n";
    let told = load(url, &[]).unwrap_err();
    assert!(told.contains("auth.http.url = \"https://(hidden)@a/\": must be"), "{told}");
}

#[test]
fn by_default_everything_listens_on_loopback_with_development_certificates() {
    let config = load("", &[]).unwrap();
    let bound: Vec<_> = addresses(&config).into_iter().map(|(_, address)| address).collect();
    assert_eq!(bound, ["127.0.0.1:1883", "127.0.0.1:8883", "127.0.0.1:8083", "127.0.0.1:8084"]);
    assert!(config.process.admin.listen.is_loopback());
    assert!(config.uses_development_certificate());
    let tls = config.front.edge.tls.unwrap();
    assert_eq!(tls.certificates[0].certificate_file, Path::new("data/certs/server.pem"));
}

#[test]
fn beyond_loopback_needs_authentication_or_a_plain_word() {
    let exposed = "[listeners]\nmqtt = '[::]:1883'\n";
    assert!(line(exposed).contains("only loopback addresses are allowed"));
    for anonymous in ["loopback", "never"] {
        assert!(line(&format!("{exposed}[auth]\nanonymous = '{anonymous}'")).contains("only loopback"));
    }
    assert_eq!(line(&format!("{exposed}[auth]\nanonymous = 'always'")), "accepted");
    assert_eq!(line("[listeners]\nmqtt = '[::1]:1883'\n"), "accepted");
    let by_certificate = "[auth]\ncertificate = 'subject'\n[tls.client_certificates]\nmode = 'required'\n";
    assert_eq!(line(&format!("{exposed}{by_certificate}")), "accepted");
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let config =
        load("[listeners]\nws = 'off'\n[edge]\nlinger_ms = 77\n[auth]\nanonymous = 'never'\n", &[]).unwrap();
    let text = shown(&config);
    let again = load(&text, &[("TIDEGATE__LISTENERS__WS", "off")]).unwrap();
    assert_eq!(shown(&again), text);
    assert!(text.contains("linger_ms = 77") && text.contains("[listeners.mqtt]"), "{text}");
}

// A page from anywhere runs on this machine, in its browser.
#[test]
fn where_loopback_is_enough_only_pages_of_this_machine_may_connect() {
    let origins = |text: &str| load(text, &[]).unwrap().front.edge.listeners["ws"].origins.clone();
    assert_eq!(origins(""), ["loopback"]);
    assert_eq!(origins("[listeners.ws]\norigins = ['https://example.com']"), ["https://example.com"]);
    assert!(origins("[auth]\nanonymous = 'always'").is_empty());
    assert!(origins("[auth]\nanonymous = 'never'").is_empty());
}

#[test]
fn an_edge_that_asks_a_service_decides_nothing_and_needs_no_key() {
    let dir = tempfile::tempdir().unwrap();
    crate::dev_certs::ensure(dir.path(), Readers::Everybody).unwrap();
    let edge = |extra: &str| {
        let dir = dir.path().display();
        let text = format!(
            "workers.addresses = ['127.0.0.1:7883']\nlisteners.mqtts = '0.0.0.0:8883'\nlisteners.wss = 'off'\n\
             tls.certificates = [{{ certificate_file = '{dir}/server.pem', key_file = '{dir}/server.key' }}]\n{extra}"
        );
        load_as(Tier::Edge, &text, &[]).map(|config| config.shown().unwrap())
    };
    let shown = edge("authsvc.urls = ['http://127.0.0.1:8080']\n").unwrap();
    assert!(
        shown.contains("[authsvc]") && !shown.contains("[auth]") && !shown.contains("[authorization]"),
        "{shown}"
    );
    for wrong in [
        "",
        "authsvc.urls = []\n",
        "authsvc.urls = ['http://192.0.2.1:8080']\n",
        "authsvc.urls = ['https://192.0.2.1:8080']\n",
        "authsvc = { urls = ['http://127.0.0.1:8080'], when_away = 'maybe' }\n",
        "authsvc.urls = ['http://127.0.0.1:8080']\n[auth]\nanonymous = 'always'\n",
        "authsvc.urls = ['http://127.0.0.1:8080']\n[admin]\ntoken_file = 'token'\n",
        "authsvc.urls = ['http://127.0.0.1:8080']\n[admin]\nmetrics = 'token'\n",
        "authsvc.urls = ['http://127.0.0.1:8080']\n[admin]\nmetrics = 'loopback'\n",
    ] {
        assert!(edge(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_service_is_there_for_known_callers_only() {
    let dir = tempfile::tempdir().unwrap();
    crate::dev_certs::ensure_links(dir.path(), Readers::Everybody).unwrap();
    std::fs::write(dir.path().join("secret"), "0123456789abcdef").unwrap();
    let service = |extra: &str| {
        let text = format!("passport.signing_key_file = 'pki/passport.key'\n{extra}");
        let text = text.replace("pki/", &format!("{}/", dir.path().display()));
        load_as(Tier::Authsvc, &text, &[]).map(|config| config.shown().unwrap())
    };
    let shown = service("").unwrap();
    assert!(shown.contains("127.0.0.1:9103") && !shown.contains("passport_lifetime_s"), "{shown}");
    let tls = "service.tls = { certificate_file = 'pki/authsvc.pem', key_file = 'pki/authsvc.key' }\n";
    let beyond = "service.listen = '0.0.0.0:8080'\n";
    assert!(service(beyond).unwrap_err().contains("need TLS"));
    assert!(service(&format!("{beyond}{tls}")).unwrap_err().contains("callers must be known"));
    let mutual = tls.replace(" }", ", client_ca_file = 'pki/link-ca.pem' }");
    assert!(service(&format!("{beyond}{mutual}")).is_ok());
    assert!(service(&format!("{beyond}{tls}service.secret_file = 'pki/secret'\n")).is_ok());
    for wrong in [
        "service.secret_file = 'pki/nothing'\n",
        "passport.lifetime_s = 0\n",
        "passport.next_key_files = ['pki/authsvc.pem']\n",
        "auth.passport_lifetime_s = 1\n",
        "service.requests_max = 0\n",
        "admin.token_file = 'pki/nothing'\n",
    ] {
        assert!(service(wrong).is_err(), "{wrong}");
    }
    let line = load_as(Tier::Authsvc, "", &[]).unwrap_err();
    assert!(line.contains("passport.signing_key_file: is needed"), "{line}");
}

/// What a worker cannot do without, with a key of its own.
fn worker_text(dir: &Path, extra: &str) -> String {
    crate::dev_certs::ensure_links(dir, Readers::Everybody).unwrap();
    format!("passport.verify_key_files = [{:?}]\n{extra}", dir.join("passport.pem"))
}

#[test]
fn a_token_for_metrics_is_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "0123456789abcdef").unwrap();
    let admin = |metrics: &str| {
        let text = format!("[admin]\ntoken_file = {:?}\n{metrics}", dir.path().join("token"));
        load_as(Tier::Worker, &worker_text(dir.path(), &text), &[]).map(|config| config.shown().unwrap())
    };
    assert!(admin("metrics = 'token'\n").unwrap().contains("metrics = \"token\""));
    assert!(admin("").unwrap_err().contains("admin.token_file"), "a worker revokes nothing");
    let line = load_as(Tier::Worker, &worker_text(dir.path(), "[admin]\nmetrics = 'token'\n"), &[]);
    assert!(line.unwrap_err().contains("needs admin.token_file"));
}

#[test]
fn a_section_of_another_command_is_refused() {
    let wrong = |tier, text: &str| {
        let problem = load_as(tier, text, &[]).unwrap_err();
        problem.trim_start_matches('/').to_owned()
    };
    assert_eq!(
        wrong(Tier::Worker, "[listeners]\nmqtt = '127.0.0.1:0'\n"),
        "tidegate.toml: listeners: tidegate broker has no such section, only tidegate standalone and tidegate lb"
    );
    assert_eq!(
        wrong(Tier::Standalone, "[redis]\nkey_prefix = 'x'\n"),
        "tidegate.toml: redis: tidegate standalone has no such section, only tidegate broker"
    );
    assert_eq!(
        wrong(Tier::Worker, "[rediss]\nkey_prefix = 'x'\n"),
        "tidegate.toml: rediss: unknown key; did you mean redis?"
    );
}

#[test]
fn an_edge_needs_workers_a_key_and_beyond_loopback_certificates() {
    let dir = tempfile::tempdir().unwrap();
    crate::dev_certs::ensure(dir.path(), Readers::Everybody).unwrap();
    crate::dev_certs::ensure_links(dir.path(), Readers::Everybody).unwrap();
    let file = |name: &str| dir.path().join(name);
    let certificate = format!(
        "tls.certificates = [{{ certificate_file = {:?}, key_file = {:?} }}]\n",
        file("server.pem"),
        file("server.key")
    );
    let load = |text: &str| {
        let loaded = load_as(Tier::Edge, &format!("{certificate}{text}"), &[]);
        loaded.map_err(|line| line.trim_start_matches("/tidegate.toml: ").to_owned())
    };
    let line = load_as(Tier::Edge, "", &[]).unwrap_err();
    assert!(line.contains("tls.certificates: needed by the listeners mqtts and wss"), "{line}");
    assert!(load("").unwrap_err().starts_with("workers.addresses: needed: "));
    let near = "workers.addresses = ['127.0.0.1:7883', 'localhost:7884']\n";
    let line = load(near).unwrap_err();
    assert!(line.starts_with("workers.passport.signing_key_file: needed: "), "{line}");
    let key = format!("workers.passport.signing_key_file = {:?}\n", file("passport.key"));
    assert!(load(&format!("{near}{key}")).is_ok());
    let far = "workers.addresses = ['broker:7883']\n";
    let line = load(&format!("{far}{key}")).unwrap_err();
    assert!(
        line.contains("beyond loopback links need mutual TLS; set workers.tls.certificate_file"),
        "{line}"
    );
    let tls = format!(
        "workers.tls = {{ certificate_file = {:?}, key_file = {:?}, ca_file = {:?} }}\n",
        file("edge.pem"),
        file("edge.key"),
        file("link-ca.pem")
    );
    assert!(load(&format!("{far}{key}{tls}")).is_ok());
    let line = load(&format!("{far}{key}{}", tls.replace("edge.key", "worker.key"))).unwrap_err();
    assert!(line.starts_with("workers.tls.key_file = "), "{line}");
    let line = load(&format!("{near}{}", key.replace(".key", ".pem"))).unwrap_err();
    assert!(line.contains("holds no private key"), "{line}");
}

#[test]
fn a_worker_needs_keys_and_beyond_loopback_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let load =
        |text: &str| load_as(Tier::Worker, text, &[]).map_err(|line| line.trim_start_matches('/').to_owned());
    assert_eq!(
        load("").unwrap_err(),
        "tidegate.toml: passport.verify_key_files: needed: the public key of the passports (tidegate certs DIR makes \
         a pair), or passport.jwks_url"
    );
    let Config::Worker(config) = load(&worker_text(dir.path(), "")).unwrap() else { panic!("a worker") };
    assert_eq!(config.link.listen.to_string(), "127.0.0.1:7883");
    assert_eq!(config.process.admin.listen.to_string(), "127.0.0.1:9102");
    assert!(config.redis.worker.ends_with(":7883"), "{}", config.redis.worker);
    let exposed = "link.listen = '0.0.0.0:7883'\n";
    let line = load(&worker_text(dir.path(), exposed)).unwrap_err();
    assert_eq!(
        line,
        "tidegate.toml: link.listen = \"0.0.0.0:7883\": beyond loopback edges must show certificates; set \
         link.tls.certificate_file, key_file and ca_file (tidegate certs DIR makes some for development)"
    );
    let file = |name: &str| dir.path().join(name);
    let tls = format!(
        "{exposed}link.tls = {{ certificate_file = {:?}, key_file = {:?}, ca_file = {:?} }}\n",
        file("worker.pem"),
        file("worker.key"),
        file("link-ca.pem")
    );
    assert!(load(&worker_text(dir.path(), &tls)).is_ok());
    let line = load(&worker_text(dir.path(), &tls.replace("worker.key", "edge.key"))).unwrap_err();
    assert!(
        line.starts_with("tidegate.toml: link.tls.key_file = ") && line.contains("is not the key of"),
        "{line}"
    );
    let line = load(&worker_text(dir.path(), "redis.retry_budget_ms = 600001\n")).unwrap_err();
    assert_eq!(line, "tidegate.toml: redis.retry_budget_ms = 600001: must be at most 600000");
}

#[test]
fn the_example_is_accepted_and_shows_the_defaults() {
    let example = include_str!("../../tidegate.example.toml");
    let config = load(example, &[]).unwrap();
    assert_eq!(shown(&config), Config::load(Tier::Standalone, None, []).unwrap().shown().unwrap());
}

#[test]
fn the_examples_of_the_tiers_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    crate::dev_certs::ensure(dir.path(), Readers::Everybody).unwrap();
    crate::dev_certs::ensure_links(dir.path(), Readers::Everybody).unwrap();
    let examples = [
        (Tier::Edge, include_str!("../../deploy/edge.example.toml")),
        (Tier::Worker, include_str!("../../deploy/worker.example.toml")),
        (Tier::Authsvc, include_str!("../../deploy/authsvc.example.toml")),
    ];
    for (tier, example) in examples {
        let text = example.replace("pki/", &format!("{}/", dir.path().display()));
        load_as(tier, &text, &[]).unwrap();
    }
}
