//! Distinguished names (RFC 4514) as far as groups need it: what a group is called, and what it stands below.

/// The relative names of `dn`, its own first, compared without case and without the spaces around them.
fn parts(dn: &str) -> Vec<String> {
    let (mut parts, mut part, mut is_escaped) = (Vec::new(), String::new(), false);
    for letter in dn.chars() {
        if letter == ',' && !is_escaped {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(letter);
        }
        is_escaped = letter == '\\' && !is_escaped;
    }
    parts.push(part);
    parts.iter().map(|part| normal(part)).collect()
}

fn normal(part: &str) -> String {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    format!("{}={}", name.trim(), value.trim()).to_lowercase()
}

/// Whether `dn` stands below `base`.
pub(super) fn is_below(dn: &str, base: &str) -> bool {
    let (dn, base) = (parts(dn), parts(base));
    dn.len() > base.len() && dn.ends_with(&base)
}

/// The value of the first relative name: what a group is called. `None` if it is not text.
pub(super) fn first_value(dn: &str) -> Option<String> {
    let (_, rest) = dn.split_once('=')?;
    let mut value = Vec::new();
    let mut bytes = rest.trim_start().bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' | b'+' => break,
            b'\\' => value.push(unescaped(&mut bytes)?),
            byte => value.push(byte),
        }
    }
    let value = String::from_utf8(value).ok()?;
    (!value.is_empty()).then_some(value)
}

/// What stands behind a backslash: two digits, or a character for itself.
fn unescaped(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let first = bytes.next()?;
    match digit(first) {
        None => Some(first),
        Some(high) => Some(high << 4 | digit(bytes.next()?)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_called_by_its_first_name() {
        for (dn, name) in [
            ("cn=admins,ou=groups,dc=example", Some("admins")),
            ("CN=Domain Users, OU=x", Some("Domain Users")),
            ("cn=a\\, b\\+c\\\\,ou=x", Some("a, b+c\\")),
            ("cn=gr\\c3\\bcn+uid=1,ou=x", Some("grün")),
            ("cn=\\ff,ou=x", None),
            ("cn=\\f", None),
            ("cn=,ou=x", None),
            ("nothing", None),
        ] {
            assert_eq!(first_value(dn).as_deref(), name, "{dn}");
        }
    }

    #[test]
    fn below_is_by_whole_names() {
        let base = "ou=groups,dc=example";
        assert!(is_below("cn=a,OU=Groups, dc=Example", base));
        assert!(is_below("cn=a\\,b,ou=deep,ou=groups,dc=example", base));
        for other in [
            "cn=a,ou=others,dc=example",
            base,
            "cn=a,ou=xou=groups,dc=example",
            "cn=a\\,ou=groups,dc=example",
            "cn=a",
        ] {
            assert!(!is_below(other, base), "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_name_panics_it(dn: String, pieces in "([a-c]=|[,+\\\\ é]|[0-9a-f]){0,12}") {
            for dn in [&dn, &pieces] {
                let _ = (first_value(dn), is_below(dn, &pieces));
            }
        }
    }
}
