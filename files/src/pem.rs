//! PEM (RFC 7468) as far as certificates, keys and revocation lists need it, with the line at which a file goes wrong:
//! what is said about a file that cannot be used is read by somebody who has to mend it.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustls_pki_types::PrivateKeyDer;

/// As lenient about padding as other readers are.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One section of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it says it is, such as `CERTIFICATE`.
    pub label: String,
    /// The line of its `BEGIN`, from 1.
    pub line: usize,
    /// What it holds.
    pub der: Vec<u8>,
}

impl Section {
    /// A section of [`Kind::PrivateKey`], as what its label says.
    pub fn into_private_key(self) -> PrivateKeyDer<'static> {
        match self.label.as_str() {
            "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(self.der.into()),
            "EC PRIVATE KEY" => PrivateKeyDer::Sec1(self.der.into()),
            _ => PrivateKeyDer::Pkcs8(self.der.into()),
        }
    }
}

/// Why a file holds nothing that can be used. The text goes on from the name of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No bytes.
    #[error("is empty")]
    Empty,
    /// It begins as DER does.
    #[error("is DER; it must be PEM, which begins with -----BEGIN")]
    Der,
    /// There is no such section.
    #[error("holds no {wanted} in PEM{}", instead(found))]
    Nothing {
        /// What was looked for.
        wanted: &'static str,
        /// The labels of the sections that there are, and their lines.
        found: Vec<(String, usize)>,
    },
    /// A line is not as it should be.
    #[error("line {line}: {problem}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

fn instead(found: &[(String, usize)]) -> String {
    let names: Vec<_> = found.iter().map(|(label, line)| format!("{label} (line {line})")).collect();
    if names.is_empty() { String::new() } else { format!(", only {}", names.join(", ")) }
}

/// What to look for in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// X.509 certificates.
    Certificate,
    /// A private key: PKCS #8, PKCS #1 or SEC 1.
    PrivateKey,
    /// A private key as PKCS #8 only.
    Pkcs8,
    /// Public keys: SubjectPublicKeyInfo.
    PublicKey,
    /// Certificate revocation lists.
    RevocationList,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private key",
            Self::Pkcs8 => "private key (PKCS #8)",
            Self::PublicKey => "public key",
            Self::RevocationList => "revocation list",
        }
    }

    fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Certificate => &["CERTIFICATE", "X509 CERTIFICATE"],
            Self::PrivateKey => &["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"],
            Self::Pkcs8 => &["PRIVATE KEY"],
            Self::PublicKey => &["PUBLIC KEY"],
            Self::RevocationList => &["X509 CRL"],
        }
    }
}

/// All sections of a kind, in their order; at least one.
///
/// # Errors
/// There is none, or any section of the file is broken: one that breaks off may be half written.
pub fn sections(bytes: &[u8], kind: Kind) -> Result<Vec<Section>, PemError> {
    if bytes.is_empty() {
        return Err(PemError::Empty);
    }
    let all = all(bytes)?;
    if all.is_empty() && bytes.starts_with(&[0x30]) {
        return Err(PemError::Der);
    }
    let is_key = matches!(kind, Kind::PrivateKey | Kind::Pkcs8);
    if let Some(locked) = all.iter().find(|section| is_key && section.label == "ENCRYPTED PRIVATE KEY") {
        return Err(encrypted(locked.line));
    }
    let found = all.iter().map(|section| (section.label.clone(), section.line)).collect();
    let wanted: Vec<_> =
        all.into_iter().filter(|section| kind.labels().contains(&section.label.as_str())).collect();
    if wanted.is_empty() {
        return Err(PemError::Nothing { wanted: kind.name(), found });
    }
    Ok(wanted)
}

/// The first section of a kind.
///
/// # Errors
/// As [`sections`].
pub fn first(bytes: &[u8], kind: Kind) -> Result<Section, PemError> {
    sections(bytes, kind)?.into_iter().next().ok_or(PemError::Empty)
}

fn encrypted(line: usize) -> PemError {
    let problem = "the private key is encrypted; it must be stored without a passphrase (openssl pkey -in FILE -out NEW)";
    PemError::Line { line, problem: problem.to_owned() }
}

/// A section that has begun.
struct Open {
    label: String,
    line: usize,
    base64: String,
}

fn all(bytes: &[u8]) -> Result<Vec<Section>, PemError> {
    let mut found = Vec::new();
    let mut open: Option<Open> = None;
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = number + 1;
        let wrong = |problem: String| PemError::Line { line: number, problem };
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        if let Some(label) = marker(text, "BEGIN") {
            if let Some(open) = open {
                return Err(broken_off(&open));
            }
            open = Some(Open { label: label.to_owned(), line: number, base64: String::new() });
        } else if let Some(label) = marker(text, "END") {
            let section =
                open.take().ok_or_else(|| wrong(format!("the end of a {label} that has not begun")))?;
            if section.label != label {
                return Err(wrong(format!("the end of a {label} within a {}", section.label)));
            }
            found.push(close(section)?);
        } else if let Some(open) = &mut open {
            take_line(open, text).map_err(|problem| match problem {
                Some(problem) => wrong(problem),
                None => encrypted(open.line),
            })?;
        }
    }
    open.map_or(Ok(found), |open| Err(broken_off(&open)))
}

fn marker<'a>(text: &'a str, which: &str) -> Option<&'a str> {
    text.strip_prefix("-----")?.strip_prefix(which)?.strip_prefix(' ')?.strip_suffix("-----")
}

/// `None` as an error: what follows is encrypted.
fn take_line(open: &mut Open, text: &str) -> Result<(), Option<String>> {
    if let Some((header, value)) = text.split_once(':') {
        // RFC 1421 headers, as older keys have them.
        let is_encrypted = header == "Proc-Type" && value.contains("ENCRYPTED");
        return if is_encrypted { Err(None) } else { Ok(()) };
    }
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if let Some(other) = text.chars().find(|c| !c.is_ascii() || !is_base64(*c as u8)) {
        return Err(Some(format!("{other:?} is not base64")));
    }
    open.base64.push_str(text);
    Ok(())
}

fn close(open: Open) -> Result<Section, PemError> {
    let Open { label, line, base64 } = open;
    match BASE64.decode(base64) {
        Ok(der) if !der.is_empty() => Ok(Section { label, line, der }),
        Ok(_) => Err(PemError::Line { line, problem: format!("the {label} that begins here is empty") }),
        Err(_) => {
            Err(PemError::Line { line, problem: format!("the {label} that begins here is not base64") })
        }
    }
}

fn broken_off(open: &Open) -> PemError {
    let problem = format!("the {} that begins here has no end: the file breaks off", open.label);
    PemError::Line { line: open.line, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str, kind: Kind) -> String {
        sections(text.as_bytes(), kind).unwrap_err().to_string()
    }

    #[test]
    fn sections_of_a_kind_are_found_among_others() {
        let text = "Bag Attributes: x\n-----BEGIN CERTIFICATE-----\r\nAQID\r\n-----END CERTIFICATE-----\r\n\
                    -----BEGIN EC PARAMETERS-----\nAA==\n-----END EC PARAMETERS-----\n\
                    -----BEGIN EC PRIVATE KEY-----\nBA\nUG\n-----END EC PRIVATE KEY-----";
        let certificates = sections(text.as_bytes(), Kind::Certificate).unwrap();
        assert_eq!(certificates.len(), 1);
        assert_eq!((certificates[0].line, certificates[0].der.as_slice()), (2, &[1, 2, 3][..]));
        let key = &sections(text.as_bytes(), Kind::PrivateKey).unwrap()[0];
        assert_eq!((key.label.as_str(), key.line, key.der.as_slice()), ("EC PRIVATE KEY", 8, &[4, 5, 6][..]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let begin = "-----BEGIN CERTIFICATE-----\n";
        let end = "-----END CERTIFICATE-----\n";
        let cases = [
            (String::new(), "is empty"),
            ("text\n".to_owned(), "holds no certificate in PEM"),
            ("\u{30}\u{1}\u{2}".to_owned(), "is DER; it must be PEM, which begins with -----BEGIN"),
            (
                format!("{begin}AQID\n"),
                "line 1: the CERTIFICATE that begins here has no end: the file breaks off",
            ),
            (
                format!("\n{begin}AQID\n{begin}"),
                "line 2: the CERTIFICATE that begins here has no end: the file breaks off",
            ),
            (format!("{begin}AQ!D\n{end}"), "line 2: '!' is not base64"),
            (format!("{begin}AQIDB\n{end}"), "line 1: the CERTIFICATE that begins here is not base64"),
            (format!("{begin}{end}"), "line 1: the CERTIFICATE that begins here is empty"),
            (end.to_owned(), "line 1: the end of a CERTIFICATE that has not begun"),
            (
                "-----BEGIN X509 CRL-----\nAA==\n-----END X509 CRL-----\n".to_owned(),
                "holds no certificate in PEM, only X509 CRL (line 1)",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(problem(&text, Kind::Certificate), expected, "{text:?}");
        }
    }

    #[test]
    fn an_encrypted_key_is_called_so() {
        let new = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let old = "\n-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nAA==\n\
                   -----END RSA PRIVATE KEY-----\n";
        assert!(problem(new, Kind::PrivateKey).starts_with("line 1: the private key is encrypted"));
        assert!(problem(old, Kind::PrivateKey).starts_with("line 2: the private key is encrypted"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic_it(bytes: Vec<u8>, text in "(-----(BEGIN|END) [AB]-----|[A-D=:\n]){0,12}") {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                let _ = sections(bytes, Kind::PrivateKey);
            }
        }
    }
}
