//! The client's two messages (RFC 5802 section 7), parsed strictly.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Bytes of a client message that are looked at; longer ones are refused.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Fewer characters than this are no nonce.
const NONCE_BYTES_MIN: usize = 8;

/// client-first-message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst {
    /// `n,,` or `y,,`, or with an authorization identity equal to the name.
    pub(crate) gs2_header: String,
    /// client-first-message-bare.
    pub(crate) bare: String,
    /// The user name, unescaped.
    pub(crate) user: String,
    /// The client's nonce.
    pub(crate) nonce: String,
}

impl ClientFirst {
    /// `None` if it is malformed, asks for channel binding, for a mandatory extension, or to act for somebody else.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = text(bytes)?;
        let (flag, rest) = text.split_once(',')?;
        // "y" says that the client could bind the channel but believes that the server cannot: true.
        if !matches!(flag, "n" | "y") {
            return None;
        }
        let (identity, bare) = rest.split_once(',')?;
        let mut attributes = bare.split(',');
        let user = unescape(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        if user.is_empty() || nonce.len() < NONCE_BYTES_MIN || !nonce.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        if !identity.is_empty() && unescape(identity.strip_prefix("a=")?)? != user {
            return None;
        }
        Some(Self {
            gs2_header: format!("{flag},{identity},"),
            bare: bare.to_owned(),
            user,
            nonce: nonce.to_owned(),
        })
    }
}

/// client-final-message.
pub(super) struct ClientFinal<'a> {
    /// The decoded `c=`.
    pub(super) channel_binding: Vec<u8>,
    /// The whole nonce.
    pub(super) nonce: &'a str,
    /// The message up to the proof.
    pub(super) without_proof: &'a str,
    /// The decoded `p=`.
    pub(super) proof: [u8; 32],
}

impl<'a> ClientFinal<'a> {
    /// `None` if it is malformed.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = text(bytes)?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let mut attributes = without_proof.split(',');
        let channel_binding = BASE64.decode(attributes.next()?.strip_prefix("c=")?).ok()?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let proof = BASE64.decode(proof).ok()?.try_into().ok()?;
        Some(Self { channel_binding, nonce, without_proof, proof })
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > MESSAGE_BYTES_MAX { None } else { str::from_utf8(bytes).ok() }
}

/// `=2C` is a comma and `=3D` an equals sign; any other `=` is malformed.
fn unescape(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut parts = name.split('=');
    out.push_str(parts.next()?);
    for part in parts {
        if let Some(rest) = part.strip_prefix("2C") {
            out.push(',');
            out.push_str(rest);
        } else {
            out.push('=');
            out.push_str(part.strip_prefix("3D")?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unescaped() {
        let first = ClientFirst::parse(b"n,,n=a=2Cb=3Dc,r=abcdefgh,x=later").unwrap();
        assert_eq!((first.user.as_str(), first.gs2_header.as_str()), ("a,b=c", "n,,"));
        assert_eq!(first.bare, "n=a=2Cb=3Dc,r=abcdefgh,x=later");
    }

    #[test]
    fn an_authorization_identity_must_be_the_user() {
        assert_eq!(ClientFirst::parse(b"n,a=user,n=user,r=abcdefgh").unwrap().gs2_header, "n,a=user,");
        assert_eq!(ClientFirst::parse(b"n,a=admin,n=user,r=abcdefgh"), None);
    }

    #[test]
    fn what_is_not_offered_or_malformed_is_refused() {
        let cases: [&[u8]; 10] = [
            b"",
            b"n",
            b"n,,",
            b"p=tls-exporter,,n=user,r=abcdefgh",
            b"n,,m=ext,n=user,r=abcdefgh",
            b"n,,n=,r=abcdefgh",
            b"n,,n=user,r=short",
            b"n,,n=us=er,r=abcdefgh",
            b"n,,n=user,r=abc defgh",
            b"n,,n=\xff,r=abcdefgh",
        ];
        for first in cases {
            assert_eq!(ClientFirst::parse(first), None, "{first:?}");
        }
        assert_eq!(ClientFirst::parse(&[b'n'; MESSAGE_BYTES_MAX + 1]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>, text in "[ny=,acrpm2CD ]{0,40}") {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                let _ = ClientFirst::parse(bytes);
                let _ = ClientFinal::parse(bytes);
            }
        }

        #[test]
        fn what_a_client_writes_is_read_back(name in "[a-z=,]{1,20}", nonce in "[!-+--~]{8,40}") {
            let escaped = name.replace('=', "=3D").replace(',', "=2C");
            let first = ClientFirst::parse(format!("n,,n={escaped},r={nonce}").as_bytes()).unwrap();
            proptest::prop_assert_eq!((first.user, first.nonce), (name, nonce));
        }
    }
}
