//! The environment as text. A setting that is no text is refused: left out, it would not be in force, and nobody would know.

use std::ffi::{OsStr, OsString};

use super::Problem;
use super::source::PREFIX;

/// Variables that are settings, by name.
///
/// # Errors
/// The name or the value of one is not UTF-8.
pub(crate) fn environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Problem> {
    let is_setting = |name: &OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
    variables.into_iter().filter(|(name, _)| is_setting(name)).map(as_text).collect()
}

fn as_text((name, value): (OsString, OsString)) -> Result<(String, String), Problem> {
    let wrong = |name: &str, advice: &str| {
        Problem::of_setting(format!("environment variable {name}"), None, advice.to_owned())
    };
    let name = name
        .into_string()
        .map_err(|name| wrong(&name.to_string_lossy().escape_debug().to_string(), "its name is not UTF-8"))?;
    let value = value.into_string().map_err(|_| wrong(&name, "its value is not UTF-8"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn read(name: &[u8], value: &[u8]) -> Result<Vec<(String, String)>, String> {
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        environment([(text(name), text(value))]).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_setting_that_is_no_text_is_refused_by_its_name() {
        assert_eq!(
            read(b"TIDEGATE__AUTHORIZATION__ACL_FILE", b"/etc/caf\xe9").unwrap_err(),
            "environment variable TIDEGATE__AUTHORIZATION__ACL_FILE: its value is not UTF-8"
        );
        assert_eq!(
            read(b"TIDEGATE__AUTH__\xe9", b"x").unwrap_err(),
            "environment variable TIDEGATE__AUTH__\u{fffd}: its name is not UTF-8"
        );
        assert_eq!(read(b"OTHER", b"\xe9"), Ok(Vec::new()));
        assert_eq!(
            read(b"TIDEGATE__DATA__DIR", b"/caf\xc3\xa9"),
            Ok(vec![("TIDEGATE__DATA__DIR".to_owned(), "/caf\u{e9}".to_owned())])
        );
    }
}
