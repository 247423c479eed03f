//! Connections to the directory, kept for the next question: those that bind as users, and those that search.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError};
use parking_lot::Mutex;
use rustls::ClientConfig;

use super::config::{LdapConfig, SECTION};
use crate::AuthError;
use crate::inquiry::Fault;

/// Result codes of RFC 4511, appendix A.1.
pub(super) const SUCCESS: u32 = 0;

/// One that nobody used for so long may have been forgotten on its way.
const IDLE_MAX: Duration = Duration::from_secs(60);

struct Kept {
    ldap: Ldap,
    since: Instant,
}

/// Makes connections, and keeps those that are not used now; no more than were used at a time.
pub(super) struct Connections {
    url: String,
    starttls: bool,
    connect_timeout: Duration,
    tls: Arc<ClientConfig>,
    /// Who searches, if it is not everybody.
    service: Option<(String, String)>,
    /// Bound as whoever came last: good for another bind only.
    binding: Mutex<Vec<Kept>>,
    /// Bound as the service.
    searching: Mutex<Vec<Kept>>,
}

impl Connections {
    /// Reads the files that `config` names.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub(super) fn new(config: &LdapConfig) -> Result<Self, AuthError> {
        Ok(Self {
            url: config.url.clone(),
            starttls: config.starttls,
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            tls: Arc::new(config.tls().client_config(SECTION)?),
            service: config.service()?,
            binding: Mutex::default(),
            searching: Mutex::default(),
        })
    }

    /// One to bind as a user.
    pub(super) async fn to_bind(&self) -> Result<Ldap, Fault> {
        match take(&self.binding) {
            Some(ldap) => Ok(ldap),
            None => self.connect().await,
        }
    }

    /// One that is bound as the service.
    pub(super) async fn to_search(&self) -> Result<Ldap, Fault> {
        if let Some(ldap) = take(&self.searching) {
            return Ok(ldap);
        }
        let mut ldap = self.connect().await?;
        if let Some((name, password)) = &self.service {
            let bound = ldap.simple_bind(name, password).await.map_err(|error| fault(&error))?;
            if bound.rc != SUCCESS {
                tracing::warn!(
                    rc = bound.rc,
                    "the directory does not take auth.ldap.service_dn and its password"
                );
                return Err(Fault::Failing);
            }
        }
        Ok(ldap)
    }

    /// Keeps one for the next question.
    pub(super) fn keep_to_bind(&self, ldap: Ldap) {
        self.binding.lock().push(Kept { ldap, since: Instant::now() });
    }

    /// The same.
    pub(super) fn keep_to_search(&self, ldap: Ldap) {
        self.searching.lock().push(Kept { ldap, since: Instant::now() });
    }

    /// Lets go of all: where one does not answer, the others were made to the same end, which may be gone without a word.
    pub(super) fn forget(&self) {
        self.binding.lock().clear();
        self.searching.lock().clear();
    }

    async fn connect(&self) -> Result<Ldap, Fault> {
        let settings = LdapConnSettings::new()
            .set_conn_timeout(self.connect_timeout)
            .set_starttls(self.starttls)
            .set_config(self.tls.clone());
        let (connection, ldap) =
            LdapConnAsync::with_settings(settings, &self.url).await.map_err(|error| fault(&error))?;
        // It ends with the last handle to it.
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "a connection to the directory ended");
            }
        });
        Ok(ldap)
    }
}

/// One that is still open.
fn take(kept: &Mutex<Vec<Kept>>) -> Option<Ldap> {
    loop {
        let Kept { mut ldap, since } = kept.lock().pop()?;
        if !ldap.is_closed() && since.elapsed() < IDLE_MAX {
            return Some(ldap);
        }
    }
}

/// What an error says of the directory.
pub(super) fn fault(error: &LdapError) -> Fault {
    tracing::debug!(%error, "the directory gives no answer");
    match error {
        LdapError::Timeout { .. } => Fault::Timeout,
        LdapError::LdapResult { .. } => Fault::Failing,
        LdapError::DecodingUTF8 | LdapError::FilterParsing => Fault::Malformed,
        _ => Fault::Unreachable,
    }
}
