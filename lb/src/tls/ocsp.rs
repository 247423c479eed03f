//! OCSP responses (RFC 6960) that are stapled to the handshake: read as far as has to be known whether one is of use, that is,
//! says of the right certificate that it is good, and when. Its signature is the client's to check.

use aws_lc_rs::digest;
use files::validity::{Validity, date};
use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, Class};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// What clocks may differ by, seconds.
const SKEW_S: i64 = 300;

/// Object identifiers, as DER has them.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const SHA1: &[u8] = &[0x2b, 14, 3, 2, 26];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];

/// Until when a response is of use to those who are shown this chain.
///
/// # Errors
/// Why it is of none; the text goes on from the name of the file.
pub(super) fn check(response: &[u8], chain: &[CertificateDer<'_>], now_s: i64) -> Result<Validity, String> {
    let single = find(response, chain)?.ok_or("is not about this certificate")?;
    match single.status {
        0 => {}
        1 => return Err("says that the certificate is revoked".to_owned()),
        _ => return Err("says that its responder does not know the certificate".to_owned()),
    }
    if single.validity.has_ended(now_s) {
        return Err(format!("has ended on {}", date(single.validity.until_s)));
    }
    if single.validity.from_s > now_s.saturating_add(SKEW_S) {
        return Err(format!("is good from {} only", date(single.validity.from_s)));
    }
    Ok(single.validity)
}

/// What a response says of one certificate.
struct Single {
    /// 0: good, 1: revoked, 2: unknown.
    status: u32,
    validity: Validity,
}

/// The elements of a sequence, one after the other.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// Of a sequence that is everything there is.
    fn of(der: &'a [u8]) -> Option<Self> {
        let mut all = Elements(der);
        let any = all.next().filter(|any| any.tag().0 == 16)?;
        all.0.is_empty().then_some(Self(any.data))
    }

    /// The next one with what it holds as a sequence.
    fn inside(&mut self) -> Option<Self> {
        self.next().map(|any| Self(any.data))
    }

    /// The next one, if it is this one of those that may be left out.
    fn optional(&mut self, number: u32) -> Option<Any<'a>> {
        let (rest, any) = Any::from_der(self.0).ok()?;
        let is_it = any.class() == Class::ContextSpecific && any.tag().0 == number;
        is_it.then(|| self.0 = rest)?;
        Some(any)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Any<'a>;

    fn next(&mut self) -> Option<Any<'a>> {
        let (rest, any) = Any::from_der(self.0).ok()?;
        self.0 = rest;
        Some(any)
    }
}

fn find(response: &[u8], chain: &[CertificateDer<'_>]) -> Result<Option<Single>, String> {
    let broken = || "is no OCSP response in DER".to_owned();
    let mut outer = Elements::of(response).ok_or_else(broken)?;
    let status = outer.next().filter(|any| any.tag().0 == 10).ok_or_else(broken)?.data;
    if status != [0] {
        return Err(format!(
            "is an error of the responder ({})",
            status.first().copied().unwrap_or_default()
        ));
    }
    let responses = outer.optional(0).and_then(|any| basic(any.data)).ok_or_else(broken)?;
    let certificate = CertificateName::read(chain).ok_or_else(broken)?;
    for single in responses {
        let mut single = Elements(single.data);
        let is_own = single.inside().and_then(|id| certificate.is_meant(id)).ok_or_else(broken)?;
        if is_own {
            return Ok(Some(read_single(single).ok_or_else(broken)?));
        }
    }
    Ok(None)
}

/// The single responses of a basic one.
fn basic(bytes: &[u8]) -> Option<Elements<'_>> {
    let mut typed = Elements::of(bytes)?;
    typed.next().filter(|any| any.data == BASIC)?;
    let mut basic = Elements::of(typed.next()?.data)?;
    let mut data = basic.inside()?;
    let _version = data.optional(0);
    let _responder = data.next()?;
    let _produced_at = data.next()?;
    data.inside()
}

/// From its status on.
fn read_single(mut single: Elements<'_>) -> Option<Single> {
    let status = single.next()?.tag().0;
    let (rest, from) = ASN1Time::from_der(single.0).ok()?;
    single.0 = rest;
    let until_s = match single.optional(0) {
        Some(next) => ASN1Time::from_der(next.data).ok()?.1.timestamp(),
        None => i64::MAX,
    };
    Some(Single { status, validity: Validity { from_s: from.timestamp(), until_s } })
}

/// What responders call a certificate by.
struct CertificateName {
    issuer: Vec<u8>,
    serial: Vec<u8>,
    /// Where the chain tells it.
    issuer_key: Option<Vec<u8>>,
}

impl CertificateName {
    fn read(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, own) = X509Certificate::from_der(chain.first()?).ok()?;
        let issuer = chain.get(1).and_then(|der| X509Certificate::from_der(der).ok());
        let issuer_key = issuer.map(|(_, issuer)| issuer.public_key().subject_public_key.data.to_vec());
        let (issuer, serial) = (own.issuer().as_raw().to_vec(), own.raw_serial().to_vec());
        Some(Self { issuer, serial, issuer_key })
    }

    /// `None` if it cannot be told.
    fn is_meant(&self, mut id: Elements<'_>) -> Option<bool> {
        let algorithm = match id.inside()?.next()?.data {
            SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            SHA256 => &digest::SHA256,
            _ => return Some(false),
        };
        let (name, key, serial) = (id.next()?.data, id.next()?.data, id.next()?.data);
        let is_hash = |hash: &[u8], of: &[u8]| hash == digest::digest(algorithm, of).as_ref();
        let is_key = self.issuer_key.as_ref().is_none_or(|of| is_hash(key, of));
        Some(serial == self.serial && is_hash(name, &self.issuer) && is_key)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let length = body.len() as u16;
        [&[tag, 0x82][..], &length.to_be_bytes(), &body].concat()
    }

    /// The shortest form, as DER asks.
    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        match body.len() {
            short @ 0..128 => [&[tag, short as u8][..], &body].concat(),
            one @ 128..256 => [&[tag, 0x81, one as u8][..], &body].concat(),
            _ => element(tag, parts),
        }
    }

    /// A response about the first certificate of a chain, times as `YYYYMMDDhhmmssZ`.
    pub(in crate::tls) fn response(chain: &[&[u8]], status: u8, from: &str, until: &str) -> Vec<u8> {
        let (_, own) = X509Certificate::from_der(chain[0]).unwrap();
        let hash = |of: &[u8]| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, of).as_ref().to_vec();
        let key = chain.get(1).map(|der| X509Certificate::from_der(der).unwrap().1);
        let key = key.map(|issuer| hash(&issuer.public_key().subject_public_key.data)).unwrap_or(vec![0; 20]);
        let algorithm = der(0x30, &[&der(6, &[SHA1]), &[5, 0]]);
        let name = der(4, &[&hash(own.issuer().as_raw())]);
        let id = der(0x30, &[&algorithm, &name, &der(4, &[&key]), &der(2, &[own.raw_serial()])]);
        let time = |text: &str| der(0x18, &[text.as_bytes()]);
        let status = if status == 1 { der(0xa1, &[&time(from)]) } else { der(0x80 | status, &[]) };
        let single = der(0x30, &[&id, &status, &time(from), &der(0xa0, &[&time(until)])]);
        let data = der(0x30, &[&der(0xa2, &[&der(4, &[&[1; 20]])]), &time(from), &der(0x30, &[&single])]);
        let signature = [&der(0x30, &[&der(6, &[&[0x2a, 3]])])[..], &der(3, &[&[0, 1]])].concat();
        let basic = der(0x30, &[&data, &signature]);
        let bytes = der(0x30, &[&der(6, &[BASIC]), &der(4, &[&basic])]);
        der(0x30, &[&[10, 1, 0], &der(0xa0, &[&bytes])])
    }

    fn issued(serial: u64) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.serial_number = Some(rcgen::SerialNumber::from(serial));
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    const FROM: &str = "20240601120000Z";
    const UNTIL: &str = "20240608120000Z";
    const FROM_S: i64 = 1_717_243_200;
    const WEEK_S: i64 = 7 * 24 * 60 * 60;

    #[test]
    fn a_response_is_of_use_while_it_says_good_of_the_certificate() {
        let (own, other) = (issued(200), issued(201));
        let chain = [CertificateDer::from(own.as_slice()), CertificateDer::from(own.as_slice())];
        let said = |status, of: &[u8], now_s| check(&response(&[of, of], status, FROM, UNTIL), &chain, now_s);
        let good = Validity { from_s: FROM_S, until_s: FROM_S + WEEK_S };
        assert_eq!(said(0, &own, FROM_S), Ok(good));
        assert_eq!(said(0, &own, FROM_S + WEEK_S), Ok(good));
        assert_eq!(said(0, &own, FROM_S - SKEW_S), Ok(good), "clocks differ");
        let problem = |status, of: &[u8], now_s| said(status, of, now_s).unwrap_err();
        assert!(problem(0, &own, FROM_S + WEEK_S + 1).starts_with("has ended on Jun  8"));
        assert!(problem(0, &own, FROM_S - SKEW_S - 1).starts_with("is good from "));
        assert_eq!(problem(0, &other, FROM_S), "is not about this certificate");
        assert_eq!(problem(1, &own, FROM_S), "says that the certificate is revoked");
        assert!(problem(2, &own, FROM_S).starts_with("says that its responder does not know"));
        // The same number by another authority of the same name.
        let another_key = response(&[&own, &other], 0, FROM, UNTIL);
        assert_eq!(check(&another_key, &chain, FROM_S).unwrap_err(), "is not about this certificate");
        assert!(
            check(&another_key, &chain[..1], FROM_S).is_ok(),
            "a chain of one does not tell its issuer's key"
        );
        assert_eq!(
            check(&[0x30, 3, 10, 1, 3], &chain, FROM_S).unwrap_err(),
            "is an error of the responder (3)"
        );
    }

    #[test]
    fn no_broken_response_is_of_use_or_panics() {
        let own = issued(200);
        let chain = [CertificateDer::from(own.as_slice())];
        let whole = response(&[&own], 0, FROM, UNTIL);
        for length in 0..whole.len() {
            assert!(check(&whole[..length], &chain, FROM_S).is_err(), "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut forged = whole.clone();
            forged[at] ^= 0x81;
            let _ = check(&forged, &chain, FROM_S);
        }
        assert!(check(&whole, &[], FROM_S).is_err());
    }
}
