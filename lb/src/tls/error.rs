//! What goes wrong with TLS: faults of the peer as sentences, each with the label under which it is counted, and
//! faults of the configuration as one line that names the file.

use std::io;
use std::path::PathBuf;

use link::SettingError;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// Why a handshake or a connection failed. Its text is what operators read in debug logs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// End of stream before the handshake was done.
    #[error("the client went away during the handshake")]
    WentAway,
    /// The socket failed.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// The first bytes were no TLS record, or a message made no sense.
    #[error("the client sent bytes that are not TLS")]
    NotTls(#[source] Error),
    /// Every offered protocol version is below `min_version`.
    #[error("the client offered no TLS version that is allowed here")]
    NoCommonVersion,
    /// No cipher suite, group or signature scheme in common.
    #[error("the client offered no cipher suite, group or signature scheme that is allowed here")]
    NothingInCommon(#[source] Error),
    /// ALPN was offered, and none of it is served.
    #[error("the client offered no application protocol that is served here")]
    NoCommonAlpn,
    /// A client certificate is required.
    #[error("the client presented no certificate")]
    NoClientCertificate,
    /// The client certificate is past its end.
    #[error("the client's certificate has expired")]
    ClientCertificateExpired,
    /// The client certificate is on a revocation list.
    #[error("the client's certificate was revoked")]
    ClientCertificateRevoked,
    /// No configured authority issued the client certificate.
    #[error("the client's certificate was issued by an unknown authority")]
    ClientCertificateUnknownIssuer,
    /// The client certificate was refused for another reason.
    #[error("the client's certificate was refused")]
    ClientCertificateRefused(#[source] Error),
    /// The client sent a fatal alert, mostly because it does not trust our certificate.
    #[error("the client gave up with alert {0:?}")]
    Alert(AlertDescription),
    /// The client broke the protocol.
    #[error("the client broke the TLS protocol")]
    Misbehaved(#[source] Error),
    /// A record failed its check.
    #[error("the client sent a record that does not decrypt")]
    BadRecord,
    /// A handshake message, or record, beyond the bound.
    #[error("the client sent more than a handshake message may hold")]
    TooLarge,
    /// End of stream without `close_notify` (RFC 8446 section 6.1).
    #[error("the connection ended without close_notify")]
    Truncated,
    /// The session was closed, or failed before.
    #[error("the TLS session is closed")]
    Closed,
    /// Not the peer's fault.
    #[error("TLS failed on this side")]
    Internal(#[source] Error),
}

impl TlsError {
    /// The label under which the failure is counted.
    pub fn failure(&self) -> TlsFailure {
        match self {
            Self::WentAway | Self::Truncated | Self::Closed => TlsFailure::WentAway,
            Self::Broken(_) => TlsFailure::Broken,
            Self::NotTls(_) => TlsFailure::NotTls,
            Self::NoCommonVersion => TlsFailure::Version,
            Self::NothingInCommon(_) => TlsFailure::NothingInCommon,
            Self::NoCommonAlpn => TlsFailure::Alpn,
            Self::NoClientCertificate => TlsFailure::NoClientCertificate,
            Self::ClientCertificateExpired => TlsFailure::ClientCertificateExpired,
            Self::ClientCertificateRevoked => TlsFailure::ClientCertificateRevoked,
            Self::ClientCertificateUnknownIssuer => TlsFailure::ClientCertificateUnknownIssuer,
            Self::ClientCertificateRefused(_) => TlsFailure::ClientCertificate,
            Self::Alert(_) => TlsFailure::Alert,
            Self::Misbehaved(_) | Self::BadRecord | Self::TooLarge => TlsFailure::Misbehaved,
            Self::Internal(_) => TlsFailure::Internal,
        }
    }

    fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::WentAway | Self::Truncated => io::ErrorKind::UnexpectedEof,
            Self::Closed => io::ErrorKind::BrokenPipe,
            Self::Broken(source) => source.kind(),
            Self::Internal(_) => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidData,
        }
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoClientCertificate,
            Error::NoApplicationProtocol => Self::NoCommonAlpn,
            Error::AlertReceived(alert) => Self::Alert(alert),
            Error::DecryptError => Self::BadRecord,
            Error::PeerSentOversizedRecord => Self::TooLarge,
            Error::InvalidMessage(_) => Self::NotTls(error),
            Error::InvalidCertificate(ref why) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::ClientCertificateExpired
                }
                CertificateError::Revoked => Self::ClientCertificateRevoked,
                CertificateError::UnknownIssuer => Self::ClientCertificateUnknownIssuer,
                _ => Self::ClientCertificateRefused(error),
            },
            Error::PeerIncompatible(ref why) => match why {
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13 => Self::NoCommonVersion,
                _ => Self::NothingInCommon(error),
            },
            Error::PeerMisbehaved(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. } => Self::Misbehaved(error),
            error => Self::Internal(error),
        }
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Broken(source) => source,
            error => Self::new(error.io_kind(), error),
        }
    }
}

link::labels! {
    /// The label of a counted handshake failure.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum TlsFailure {
        /// End of stream.
        WentAway = "went_away",
        /// The socket failed.
        Broken = "broken",
        /// Not TLS.
        NotTls = "not_tls",
        /// No protocol version in common.
        Version = "version",
        /// No cipher suite, group or signature scheme in common.
        NothingInCommon = "nothing_in_common",
        /// No application protocol in common.
        Alpn = "alpn",
        /// A client certificate is required, and was not shown.
        NoClientCertificate = "no_client_certificate",
        /// The client certificate has expired.
        ClientCertificateExpired = "client_certificate_expired",
        /// The client certificate is on a revocation list.
        ClientCertificateRevoked = "client_certificate_revoked",
        /// No authority that is trusted has issued the client certificate.
        ClientCertificateUnknownIssuer = "client_certificate_unknown_issuer",
        /// The client certificate was refused for another reason.
        ClientCertificate = "client_certificate",
        /// The client gave up.
        Alert = "alert",
        /// The client broke the protocol.
        Misbehaved = "misbehaved",
        /// The deadline passed. Set by whoever keeps the deadline.
        Deadline = "deadline",
        /// Not the peer's fault.
        Internal = "internal",
    }
}

/// What is wrong with a [`TlsConfig`](super::TlsConfig): one line, naming the key and the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was read and is of no use.
    #[error("{key}: {}: {problem}", path.display())]
    Unusable {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key and a certificate do not belong together, as when one of the two files is still to come.
    #[error("{key}: {}: is not the key of {}", path.display(), certificate.display())]
    Mismatch {
        /// The configuration key.
        key: &'static str,
        /// The file of the key.
        path: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// What a file holds has ended, or is not good yet, and what is in force is good.
    #[error("{key}: {}: {problem}", path.display())]
    NotGoodNow {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Until when each is good.
        problem: String,
        /// When it will be good, Unix seconds.
        good_from_s: Option<i64>,
    },
    /// A value is out of its bounds.
    #[error("{}: {}", .0.key, .0.problem)]
    Bound(SettingError),
    /// A value makes no sense.
    #[error("{key}: {problem}")]
    Invalid {
        /// The configuration key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A file has nothing in it, or nothing of what is looked for.
    #[error("{key}: {}: {problem}", path.display())]
    Nothing {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is missing.
        problem: String,
    },
}

impl From<SettingError> for TlsConfigError {
    fn from(error: SettingError) -> Self {
        Self::Bound(error)
    }
}

impl TlsConfigError {
    /// Whether it is a file that the configuration names, and not what the configuration says.
    pub fn is_of_a_file(&self) -> bool {
        !matches!(self, Self::Bound(_) | Self::Invalid { .. })
    }

    /// Whether there is nothing where there should be something.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Nothing { .. } => true,
            Self::Unusable { .. }
            | Self::Mismatch { .. }
            | Self::NotGoodNow { .. }
            | Self::Bound(_)
            | Self::Invalid { .. } => false,
        }
    }
}
