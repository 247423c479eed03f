//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), written apart from the server's to check it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

pub(crate) const METHOD: &str = "SCRAM-SHA-256";

/// One exchange.
pub(crate) struct Scram {
    password: String,
    first_bare: String,
    signature: Vec<u8>,
}

impl Scram {
    pub(crate) fn new(user: &str, password: &str, nonce: &str) -> Scram {
        Scram { password: password.into(), first_bare: format!("n={user},r={nonce}"), signature: Vec::new() }
    }

    /// client-first-message
    pub(crate) fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// client-final-message in answer to server-first-message
    pub(crate) fn answer(&mut self, server_first: &str) -> String {
        let part = |name: &str| {
            server_first.split(',').find_map(|part| part.strip_prefix(name)).unwrap_or_else(|| {
                panic!("{name} in server-first-message {server_first:?}");
            })
        };
        let nonce = part("r=");
        let ours = self.first_bare.split("r=").last().unwrap();
        assert!(nonce.starts_with(ours) && nonce.len() > ours.len(), "the server adds to the nonce");
        let salt = STANDARD.decode(part("s=")).unwrap();
        let rounds: u32 = part("i=").parse().unwrap();
        assert!(rounds >= 4096, "RFC 7677: at least 4096 rounds");
        let salted = salted_password(self.password.as_bytes(), &salt, rounds);
        let client_key = hmac(&salted, b"Client Key");
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{server_first},{without_proof}", self.first_bare);
        let client_signature = hmac(&Sha256::digest(&client_key), message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&client_signature).map(|(a, b)| a ^ b).collect();
        self.signature = hmac(&hmac(&salted, b"Server Key"), message.as_bytes());
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    /// Whether server-final-message proves that the server knows the password.
    pub(crate) fn accepts(&self, server_final: &str) -> bool {
        server_final.strip_prefix("v=").and_then(|value| STANDARD.decode(value).ok())
            == Some(self.signature.clone())
    }
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

fn salted_password(password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
    let mut block = hmac(password, &[salt, &[0, 0, 0, 1]].concat());
    let mut out = block.clone();
    for _ in 1..rounds {
        block = hmac(password, &block);
        out.iter_mut().zip(&block).for_each(|(out, byte)| *out ^= byte);
    }
    out
}
