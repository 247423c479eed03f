//! What can be wrong with a token. The texts are for the log and hold nothing of the token but names of claims; the client
//! is only told that its credentials are wrong.

/// Why a token lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenProblem {
    /// It is no JWT in compact form: perhaps a password.
    #[error("not a token")]
    NotAToken,
    /// More bytes than `token_bytes_max`.
    #[error("longer than token_bytes_max")]
    TooLong,
    /// It has the form of a token, and something in it cannot be read.
    #[error("malformed")]
    Malformed,
    /// `alg` is `none`.
    #[error("not signed (alg none)")]
    Unsigned,
    /// `alg` is not allowed, or not one of the key that the token names.
    #[error("signed with an algorithm that is not allowed, or is not that of the key")]
    Algorithm,
    /// Its header demands an extension.
    #[error("demands an extension (crit)")]
    Critical,
    /// No key of that name.
    #[error("signed with a key that is not known")]
    UnknownKey,
    /// No keys could be read yet.
    #[error("no keys could be read yet")]
    NoKeys,
    /// The signature is not of that key.
    #[error("bad signature")]
    Signature,
    /// `exp` is past.
    #[error("expired")]
    Expired,
    /// `nbf` is to come.
    #[error("not yet valid")]
    NotYetValid,
    /// For somebody else.
    #[error("for another audience")]
    Audience,
    /// By somebody else.
    #[error("of another issuer")]
    Issuer,
    /// A claim that is needed is missing, or is not as it has to be.
    #[error("claim {claim:?} {problem}")]
    Claim {
        /// Its name as it is configured.
        claim: String,
        /// What is wrong.
        problem: String,
    },
    /// CONNECT has another user name than the token.
    #[error("another user name than that of CONNECT")]
    UserName,
    /// The token is bound to a client certificate that the client does not have.
    #[error("bound to another client certificate, or to one that the client did not show")]
    Certificate,
    /// The server that can tell has said that it is not good.
    #[error("not active")]
    Inactive,
}

impl TokenProblem {
    /// A claim, and what is wrong with it.
    pub(crate) fn claim(claim: &str, problem: impl Into<String>) -> Self {
        Self::Claim { claim: claim.to_owned(), problem: problem.into() }
    }

    /// How it is counted; `None` if it says nothing about the token.
    pub(crate) fn label(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotAToken | Self::NoKeys => return None,
            Self::TooLong => "too_long",
            Self::Malformed | Self::Critical => "malformed",
            Self::Unsigned => "unsigned",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
            Self::Claim { .. } => "claim",
            Self::UserName => "user_name",
            Self::Certificate => "certificate",
            Self::Inactive => "inactive",
        })
    }
}
