//! `tidegate broker`: a worker, which serves edges over links and keeps sessions in Redis.

use std::path::PathBuf;
use std::time::Duration;

use authsvc::AuthError;
use authsvc::client::{ClientConfig, KeyFetcher, Remote};
use broker::{BrokerConfig, CleanSessions, ClusterSettings, LinkConfig};
use link::PassportVerifier;
use serde::{Deserialize, Serialize};
use state::{ConnectError, RedisConfig, WhenShort};

use super::front::auth_problem;
use super::process::{ProcessConfig, refuse_idle_token};
use super::source::Source;
use super::{Problem, Tier, check_broker};
use crate::exit::chain;

/// Its sections.
pub(super) const SECTIONS: &[&str] =
    &["link", "passport", "authsvc", "redis", "durability", "cluster", "broker", "admin", "log", "runtime"];

/// By how much the clocks of those who sign passports and of workers may differ.
const CLOCK_LEEWAY: Duration = Duration::from_secs(5);

/// Of the machine's name, in the name of a worker.
const HOST_NAME_CHARS_MAX: usize = 48;

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WorkerConfig {
    /// Where edges come.
    pub(crate) link: LinkConfig,
    /// Whose passports are taken.
    pub(crate) passport: VerifyConfig,
    /// The service that is asked about actions which rules leave undecided; without it they are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) authsvc: Option<ClientConfig>,
    /// The store.
    pub(crate) redis: RedisConfig,
    /// What outlives what.
    pub(crate) durability: DurabilityConfig,
    /// How it lives with the other workers of the store; what is set elsewhere is copied here.
    pub(crate) cluster: ClusterSettings,
    /// Sessions, queues and what is offered to clients.
    pub(crate) broker: BrokerConfig,
    /// Admin, logs, process.
    #[serde(flatten)]
    pub(crate) process: ProcessConfig,
}

link::settings! {
    /// `[passport]` of a worker.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct VerifyConfig {
        /// PEM files with the public keys of those who sign passports; at least one, or `jwks_url`.
        pub(crate) verify_key_files: Vec<PathBuf> = Vec::new();
        /// URL of the keys that the service of authentication announces (`https://HOST:PORT/.well-known/jwks.json`). They are
        /// good beside those in files, and those of before while nobody answers there.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(crate) jwks_url: Option<String> = None;
        /// PEM file of the authorities of that URL's certificate. Default: the system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(crate) jwks_ca_file: Option<PathBuf> = None;
        /// Seconds until the keys are asked for again; a passport of a key that is not known has it done sooner, every five
        /// seconds at most.
        pub(crate) jwks_interval_s: u64 = 30, in 1..=86_400;
    }
}

link::settings! {
    /// `[durability]`
    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct DurabilityConfig {
        /// Where the messages for clean sessions wait.
        pub(crate) clean_sessions: CleanSessions = CleanSessions::Memory;
        /// Replicas of Redis that must have a write before it counts.
        pub(crate) replicas: u32 = 0, in ..=5;
        /// What happens to writes while too few replicas answer.
        pub(crate) when_short: WhenShort = WhenShort::Hold;
    }
}

/// The service that is asked about actions, if there is one.
fn read_authsvc(source: &Source) -> Result<Option<ClientConfig>, Problem> {
    if source.value("authsvc").is_none() {
        return Ok(None);
    }
    let advice = "is about who may connect, which is asked at edges";
    source.refuse(&[
        ("authsvc.allowed_ttl_ms", advice),
        ("authsvc.denied_ttl_ms", advice),
        ("authsvc.answers_max", "is about who may connect; broker.answers_max is about actions"),
        ("authsvc.when_away", advice),
    ])?;
    let config: ClientConfig = source.section("authsvc")?;
    Remote::check(&config).map_err(|error| auth_problem(error, source))?;
    Ok(Some(config))
}

impl WorkerConfig {
    /// Takes what was given and checks everything that can be checked without binding.
    pub(super) fn read(source: &Source) -> Result<Self, Problem> {
        source.refuse(&[
            ("cluster.handoff_grace_ms", "is set as link.handoff_grace_ms"),
            ("cluster.clean_sessions", "is set as durability.clean_sessions"),
        ])?;
        let advice = "a worker revokes nothing; set it where it is decided who may connect";
        refuse_idle_token(source, advice)?;
        let mut config = Self {
            link: source.section("link")?,
            passport: source.section("passport")?,
            authsvc: read_authsvc(source)?,
            redis: source.section("redis")?,
            durability: source.section("durability")?,
            cluster: source.section("cluster")?,
            broker: source.section("broker")?,
            process: ProcessConfig::read(source, Tier::Worker)?,
        };
        config.redis.is_shared = true;
        config.redis.replicas = config.durability.replicas;
        config.redis.when_short = config.durability.when_short;
        config.complete_names(source);
        config.check_link(source)?;
        let has_files = !config.passport.verify_key_files.is_empty();
        let problem = |advice| source.problem("passport.verify_key_files", advice).of_file_if(has_files);
        config.verifier().map_err(problem)?;
        config.fetcher().map_err(|error| auth_problem(error, source))?;
        config.passport.check_bounds("passport").map_err(|error| source.wrong(error))?;
        config.durability.check_bounds("durability").map_err(|error| source.wrong(error))?;
        // Within 3,600,000, as was checked.
        config.cluster.handoff_grace_ms = u32::try_from(config.link.handoff_grace_ms).unwrap_or(u32::MAX);
        config.cluster.clean_sessions = config.durability.clean_sessions;
        config.cluster.validate().map_err(|error| source.wrong(error))?;
        check_broker(&config.broker, source)?;
        config.redis.validate().map_err(|error| match error {
            ConnectError::Config(error) => source.wrong(error),
            error => {
                let is_of_a_file = matches!(error, ConnectError::File { .. });
                source.problem("redis", error).of_file_if(is_of_a_file)
            }
        })?;
        Ok(config)
    }

    /// A worker that was not named is named after where it listens, so that it keeps its name when it starts again.
    fn complete_names(&mut self, source: &Source) {
        if source.value("link.name").is_none() {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host: String = host.trim().chars().take(HOST_NAME_CHARS_MAX).collect();
            // Where the system picks the port, a name that would come again says nothing.
            let port = self.link.listen.port();
            let number = if port == 0 { std::process::id() } else { port.into() };
            self.link.name = format!("{host}:{number}");
        }
        if source.value("redis.worker").is_none() {
            self.redis.worker.clone_from(&self.link.name);
        }
    }

    fn check_link(&self, source: &Source) -> Result<(), Problem> {
        self.link.validate().map_err(|error| source.wrong(error))?;
        if let Some(tls) = &self.link.tls {
            tls.server().map_err(|error| {
                let text = chain(&error);
                let (below, advice) = text.split_once(": ").unwrap_or(("", &text));
                source.problem(&format!("link.tls.{below}"), advice).of_file_if(error.is_of_a_file())
            })?;
        } else if !self.link.listen.is_loopback() {
            let advice = "beyond loopback edges must show certificates; set link.tls.certificate_file, key_file and \
                          ca_file (tidegate certs DIR makes some for development)";
            return Err(source.problem("link.listen", advice));
        }
        Ok(())
    }

    /// Tells whether a passport was signed by one that is trusted.
    pub(crate) fn verifier(&self) -> Result<PassportVerifier, String> {
        let files = &self.passport.verify_key_files;
        if files.is_empty() && self.passport.jwks_url.is_none() {
            return Err("needed: the public key of the passports (tidegate certs DIR makes a pair), or passport.jwks_url"
                .to_owned());
        }
        if files.is_empty() {
            return Ok(PassportVerifier::without_keys(CLOCK_LEEWAY));
        }
        PassportVerifier::from_files(files, CLOCK_LEEWAY).map_err(|error| chain(&error))
    }

    /// What asks for the keys that are announced, if they are.
    pub(crate) fn fetcher(&self) -> Result<Option<KeyFetcher>, AuthError> {
        let passport = &self.passport;
        passport
            .jwks_url
            .as_deref()
            .map(|url| KeyFetcher::new(url, passport.jwks_ca_file.clone()))
            .transpose()
    }
}
