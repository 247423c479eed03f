//! Who a connection is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use authsvc::{Bearer, Certificate};
use parking_lot::Mutex;

use crate::tls::Shown;

/// Who a connection is, as far as it can be revoked, and since when.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) client_id: Arc<str>,
    pub(crate) subject: Arc<str>,
    /// Of the token that it has shown last: it may authenticate anew with another one.
    pub(crate) token_id: Mutex<Option<Arc<str>>>,
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// What it has shown that may come to be distrusted.
    pub(crate) shown: Option<Arc<Shown>>,
    /// Where it comes from.
    pub(crate) peer: SocketAddr,
    pub(crate) since: Instant,
}

impl Holder {
    /// A client that has nothing but its name.
    #[cfg(test)]
    pub(crate) fn of(client_id: &str) -> Self {
        let (subject, since) = ("".into(), Instant::now());
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        Self {
            client_id: client_id.into(),
            subject,
            token_id: Mutex::default(),
            certificate: None,
            shown: None,
            peer,
            since,
        }
    }

    pub(crate) fn is_distrusted(&self) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.is_distrusted())
    }

    /// Asks about what it is now.
    pub(crate) fn ask<T>(&self, about: impl FnOnce(&Bearer<'_>) -> T) -> T {
        let token_id = self.token_id.lock().clone();
        about(&Bearer {
            user: &self.subject,
            client_id: &self.client_id,
            token_id: token_id.as_deref(),
            certificate: self.certificate.as_ref().map(|certificate| &*certificate.fingerprint),
        })
    }
}
