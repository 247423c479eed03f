//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as a sans-I/O exchange: stored verifiers, messages and the two server steps.
//! Channel binding is not offered; names and passwords are not normalized (SASLprep), which is the same for ASCII.

mod message;
mod verifier;

pub(crate) use message::ClientFirst;
pub(crate) use verifier::{Shape, Verifier, hmac};

use std::sync::Arc;

use message::ClientFinal;
use serde::{Deserialize, Serialize};

/// The name of the Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";

/// Why an exchange ends without an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScramFailure {
    /// A message is not of the form that RFC 5802 section 7 gives, or asks for what is not offered.
    Malformed,
    /// The proof, the nonce or the channel-binding data is not what it should be.
    WrongProof,
}

/// The server after its first message: waits for the client's proof.
#[derive(Serialize, Deserialize)]
pub(crate) struct AwaitingProof {
    verifier: Arc<Verifier>,
    gs2_header: String,
    nonce: String,
    /// client-first-message-bare "," server-first-message.
    transcript: String,
    server_first: String,
}

impl AwaitingProof {
    /// Answers `first` with the salt and iterations of `verifier`; `server_nonce` must be printable, without commas.
    pub(crate) fn new(first: &ClientFirst, verifier: Arc<Verifier>, server_nonce: &str) -> Self {
        let nonce = format!("{}{server_nonce}", first.nonce);
        let server_first = format!("r={nonce},s={},i={}", verifier.salt_base64(), verifier.iterations);
        let transcript = format!("{},{server_first}", first.bare);
        Self { verifier, gs2_header: first.gs2_header.clone(), nonce, transcript, server_first }
    }

    /// The message to send.
    pub(crate) fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Checks the client's proof and answers the server-final-message.
    pub(crate) fn finish(&self, client_final: &[u8]) -> Result<String, ScramFailure> {
        let last = ClientFinal::parse(client_final).ok_or(ScramFailure::Malformed)?;
        if last.nonce != self.nonce || last.channel_binding != self.gs2_header.as_bytes() {
            return Err(ScramFailure::WrongProof);
        }
        let authenticated = format!("{},{}", self.transcript, last.without_proof);
        if !self.verifier.accepts(authenticated.as_bytes(), &last.proof) {
            return Err(ScramFailure::WrongProof);
        }
        Ok(format!("v={}", self.verifier.signature_base64(authenticated.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    // RFC 7677 section 3.
    const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn awaiting(first: &[u8]) -> AwaitingProof {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive(b"pencil", &salt, 4096);
        AwaitingProof::new(&ClientFirst::parse(first).unwrap(), Arc::new(verifier), SERVER_NONCE)
    }

    #[test]
    fn the_exchange_of_rfc_7677_is_reproduced() {
        let exchange = awaiting(CLIENT_FIRST);
        assert_eq!(exchange.server_first(), SERVER_FIRST);
        assert_eq!(exchange.finish(CLIENT_FINAL), Ok(SERVER_FINAL.to_owned()));
    }

    #[test]
    fn a_changed_proof_nonce_or_binding_is_refused() {
        let text = str::from_utf8(CLIENT_FINAL).unwrap();
        let exchange = awaiting(CLIENT_FIRST);
        for changed in
            [text.replace("p=dH", "p=eH"), text.replace("rOpr", "sOpr"), text.replace("c=biws", "c=eSws")]
        {
            assert_eq!(exchange.finish(changed.as_bytes()), Err(ScramFailure::WrongProof), "{changed}");
        }
        let other_header = awaiting(b"y,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(other_header.finish(CLIENT_FINAL), Err(ScramFailure::WrongProof));
    }

    #[test]
    fn a_malformed_last_message_is_told_apart() {
        let exchange = awaiting(CLIENT_FIRST);
        let cases: [&[u8]; 6] =
            [b"", b"c=biws", b"c=biws,r=x", b"r=x,c=biws,p=AAAA", b"c=biws,r=x,p=AAAA", b"c=\xff,r=x,p="];
        for last in cases {
            assert_eq!(exchange.finish(last), Err(ScramFailure::Malformed), "{last:?}");
        }
    }
}
