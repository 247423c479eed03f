//! The subject of a certificate as text (RFC 4514), so that two subjects never look the same: what would separate parts is
//! escaped.

use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The names of attribute types: those of RFC 4514 section 3, and the ones that private authorities use.
const TYPES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// That of a certificate in DER; nothing if it has none that is text.
pub(super) fn of_certificate(der: &[u8]) -> String {
    let subject = X509Certificate::from_der(der).ok().and_then(|(_, own)| write(own.subject()));
    subject.unwrap_or_default()
}

/// `CN=pump-7,O=Plant`: the last part of the name comes first. `None` if a value is no text.
pub(super) fn write(name: &X509Name<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.iter_rdn() {
        let attributes: Option<Vec<_>> = part.iter().map(write_attribute).collect();
        parts.push(attributes?.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = attribute.as_str().ok()?;
    let id = attribute.attr_type().to_id_string();
    let known = TYPES.iter().find(|(known, _)| *known == id);
    Some(format!("{}={}", known.map_or(&*id, |(_, name)| name), escape(value)))
}

/// RFC 4514 section 2.4.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        let at_an_end = (at == 0 && matches!(character, ' ' | '#')) || (at == last && character == ' ');
        if at_an_end || matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=') {
            escaped.push('\\');
        }
        match character {
            '\0' => escaped.push_str("\\00"),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn written(attributes: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (_, certificate) = X509Certificate::from_der(certificate.der()).unwrap();
        write(certificate.subject()).unwrap()
    }

    #[test]
    fn a_subject_is_written_as_rfc_4514_does() {
        let other = DnType::CustomDnType(vec![2, 5, 4, 46]);
        let cases = [
            (vec![], ""),
            (vec![(DnType::CountryName, "DE"), (DnType::CommonName, "pump-7")], "CN=pump-7,C=DE"),
            (vec![(DnType::CommonName, "a,O=b")], "CN=a\\,O\\=b"),
            (vec![(DnType::CommonName, "#1 + \"2\" "), (other, "q")], "2.5.4.46=q,CN=\\#1 \\+ \\\"2\\\"\\ "),
            (vec![(DnType::CommonName, "nul\0")], "CN=nul\\00"),
        ];
        for (attributes, expected) in cases {
            assert_eq!(written(&attributes), expected);
        }
    }
}
