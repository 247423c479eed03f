//! What of a listener's files ends, and when: told in time, and not put in force over something that is good when it has ended.

use std::path::{Path, PathBuf};

use files::validity::{Validity, date};

use super::error::TlsConfigError;

link::labels! {
    /// A kind of things that end; metrics have a value for each.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub(crate) enum What {
        /// Certificates that the server shows, those between it and its authority among them.
        ServerCertificate = "server_certificate",
        /// Authorities that certificates of clients are verified by.
        ClientAuthority = "client_authority",
        /// Lists, which are of no use when the next one is due.
        RevocationList = "revocation_list",
        /// What is stapled to handshakes.
        OcspResponse = "ocsp_response",
    }
}

/// What something is needed for: as long as that is good, nothing that has ended takes its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// The server's own certificate in `certificates`, by its place there.
    Certificate(usize),
    /// One of the authorities.
    Authority,
    /// A list of this issuer, DER.
    ListOf(Box<[u8]>),
}

/// Something that ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Term {
    pub(crate) what: What,
    pub(super) key: &'static str,
    pub(crate) path: PathBuf,
    /// Of whom it is: a certificate's subject, a list's issuer.
    pub(crate) name: String,
    pub(crate) validity: Validity,
    pub(super) need: Option<Need>,
}

/// Refuses what has ended, or is not good yet, where something is in force that is good.
pub(super) fn refuse_worse(in_force: &[Term], found: &[Term], now_s: i64) -> Result<(), TlsConfigError> {
    let good = |terms: &[Term], need: &Need| {
        let good = |term: &&Term| term.need.as_ref() == Some(need) && term.validity.is_good(now_s);
        terms.iter().filter(good).map(|term| term.validity.until_s).max()
    };
    for term in found {
        let Some(need) = &term.need else { continue };
        if let (None, Some(until_s)) = (good(found, need), good(in_force, need)) {
            return Err(refusal(term, until_s, now_s));
        }
    }
    Ok(())
}

fn refusal(term: &Term, in_force_until_s: i64, now_s: i64) -> TlsConfigError {
    let Term { key, path, name, validity, .. } = term;
    let (problem, good_from_s) = if validity.has_ended(now_s) {
        (format!("that of {name} has ended on {}", date(validity.until_s)), None)
    } else {
        (format!("that of {name} is good from {} only", date(validity.from_s)), Some(validity.from_s))
    };
    let problem = format!("{problem}; the one in force is good until {}", date(in_force_until_s));
    TlsConfigError::NotGoodNow { key, path: path.clone(), problem, good_from_s }
}

/// FileTerms of one file.
pub(super) struct FileTerms<'a> {
    pub(super) what: What,
    pub(super) key: &'static str,
    pub(super) path: &'a Path,
}

impl FileTerms<'_> {
    pub(super) fn term(&self, name: String, validity: Validity, need: Option<Need>) -> Term {
        Term { what: self.what, key: self.key, path: self.path.to_owned(), name, validity, need }
    }

    /// Of a certificate; `None` if it cannot be read, which others say.
    pub(super) fn of_certificate(&self, der: &[u8], need: Option<Need>) -> Option<Term> {
        let validity = Validity::of_certificate(der)?;
        Some(self.term(super::subject::of_certificate(der), validity, need))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_800_000_000;
    const GOOD: Validity = Validity { from_s: NOW_S - 10, until_s: NOW_S + 10 };
    const ENDED: Validity = Validity { from_s: NOW_S - 10, until_s: NOW_S - 1 };
    const LATER: Validity = Validity { from_s: NOW_S + 1, until_s: NOW_S + 10 };

    fn term(validity: Validity, need: Option<Need>) -> Term {
        let terms = FileTerms { what: What::RevocationList, key: "k", path: Path::new("/f") };
        terms.term("CN=x".to_owned(), validity, need)
    }

    #[test]
    fn only_what_is_good_gives_way_to_nothing_worse() {
        let pair = |validity, at| term(validity, Some(Need::Certificate(at)));
        let refused = |before: &[Term], after: &[Term]| refuse_worse(before, after, NOW_S).is_err();
        for worse in [ENDED, LATER] {
            assert!(refused(&[pair(GOOD, 0)], &[pair(worse, 0)]));
            assert!(!refused(&[pair(GOOD, 1)], &[pair(worse, 0)]), "another one's place");
            assert!(!refused(&[pair(ENDED, 0)], &[pair(worse, 0)]), "it is no loss");
            assert!(!refused(&[], &[pair(worse, 0)]), "there is nothing else");
            assert!(!refused(&[term(GOOD, None)], &[term(worse, None)]), "nobody needs it");
            let authority = |validity| term(validity, Some(Need::Authority));
            assert!(!refused(&[authority(GOOD)], &[authority(worse), authority(GOOD)]), "one is enough");
            let list = |validity, of: &[u8]| term(validity, Some(Need::ListOf(of.into())));
            assert!(!refused(&[list(GOOD, b"a")], &[list(GOOD, b"a"), list(worse, b"b")]));
            assert!(refused(&[list(GOOD, b"a"), list(GOOD, b"b")], &[list(GOOD, b"a"), list(worse, b"b")]));
        }
        assert!(!refused(&[pair(GOOD, 0)], &[pair(GOOD, 0)]));
    }

    #[test]
    fn a_refusal_says_which_file_and_until_when_there_is_time() {
        let pair = |validity| [term(validity, Some(Need::Certificate(0)))];
        let text = |after| refuse_worse(&pair(GOOD), &pair(after), NOW_S).unwrap_err().to_string();
        let until = date(NOW_S + 10);
        let ended = date(NOW_S - 1);
        assert_eq!(
            text(ENDED),
            format!("k: /f: that of CN=x has ended on {ended}; the one in force is good until {until}")
        );
        assert!(text(LATER).contains(" is good from "), "{}", text(LATER));
    }
}
