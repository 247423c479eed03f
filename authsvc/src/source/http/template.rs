//! Requests with variables, as EMQX writes them: `${username}` (EMQX 5) or `%u` (EMQX 4, NanoMQ). A value is always encoded
//! for where it stands, so that no client can add a parameter, a header or a path to a request.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Map, Value};

use super::facts::{Facts, Variable};

/// What stays as it is in a path (RFC 3986 section 2.3).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How variables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// `${username}`
    Braces,
    /// `%u`
    Percent,
}

/// Text with variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Variable),
    /// An attribute of the client's source, by name.
    Attribute(String),
}

/// Where a value stands.
#[derive(Clone, Copy)]
pub(super) enum ValuePlace {
    /// As it is.
    Plain,
    /// A segment of a path.
    Path,
    /// `application/x-www-form-urlencoded`: a query or a body.
    Form,
}

impl Template {
    /// Reads `text`.
    ///
    /// # Errors
    /// It names a variable that there is not.
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Self, String> {
        match syntax {
            Syntax::Braces => Self::parse_braces(text),
            Syntax::Percent => Self::parse_percent(text),
        }
    }

    fn parse_braces(text: &str) -> Result<Self, String> {
        let mut template = Self(Vec::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            template.push_text(before);
            let Some((name, behind)) = after.split_once('}') else {
                return Err("has a ${ without a }".to_owned());
            };
            rest = behind;
            if let Some(name) = name.strip_prefix(Facts::ATTRIBUTE) {
                template.0.push(Piece::Attribute(name.to_owned()));
                continue;
            }
            let variable = Variable::by_name(name).ok_or_else(|| {
                format!("has the variable ${{{name}}}; known are {}", Variable::names().join(", "))
            })?;
            template.0.push(Piece::Value(variable));
        }
        template.push_text(rest);
        Ok(template)
    }

    fn parse_percent(text: &str) -> Result<Self, String> {
        let mut template = Self(Vec::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            template.push_text(before);
            let letter = after.chars().next();
            let Some((letter, variable)) =
                letter.and_then(|letter| Some((letter, Variable::by_letter(letter)?)))
            else {
                return Err(
                    "has a % that is none of %u, %c, %a, %r, %P, %p, %C, %d, %m, %t and %A".to_owned()
                );
            };
            template.0.push(Piece::Value(variable));
            rest = &after[letter.len_utf8()..];
        }
        template.push_text(rest);
        Ok(template)
    }

    fn push_text(&mut self, text: &str) {
        if !text.is_empty() {
            self.0.push(Piece::Text(text.to_owned()));
        }
    }

    /// Whether it asks for this variable.
    pub(super) fn uses(&self, variable: Variable) -> bool {
        self.0.contains(&Piece::Value(variable))
    }

    /// Adds the names of the attributes that it asks for.
    pub(super) fn put_attributes(&self, names: &mut Vec<String>) {
        names.extend(self.0.iter().filter_map(|piece| match piece {
            Piece::Attribute(name) => Some(name.clone()),
            _ => None,
        }));
    }

    /// Its text for a client.
    pub(super) fn render(&self, facts: &Facts, place: ValuePlace) -> Vec<u8> {
        let mut rendered = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Attribute(name) => {
                    rendered.extend_from_slice(&encode(facts.attribute(name).as_bytes(), place));
                }
                Piece::Text(text) => rendered.extend_from_slice(text.as_bytes()),
                Piece::Value(variable) => {
                    rendered.extend_from_slice(&encode(&facts.value(*variable), place));
                }
            }
        }
        rendered
    }

    /// All of it encoded for a form, its own text as well.
    fn render_form(&self, facts: &Facts) -> Vec<u8> {
        encode(&self.render(facts, ValuePlace::Plain), ValuePlace::Form).into_owned()
    }

    fn render_text(&self, facts: &Facts) -> Option<String> {
        String::from_utf8(self.render(facts, ValuePlace::Plain)).ok()
    }
}

fn encode(value: &[u8], place: ValuePlace) -> Cow<'_, [u8]> {
    match place {
        ValuePlace::Plain => value.into(),
        ValuePlace::Path => percent_encode(value, PATH).to_string().into_bytes().into(),
        ValuePlace::Form => form_urlencoded::byte_serialize(value).collect::<String>().into_bytes().into(),
    }
}

/// A JSON value, or the fields of a form, with variables in its texts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    Fixed(Value),
    Text(Template),
    List(Vec<Body>),
    Fields(Vec<(Template, Body)>),
}

impl Body {
    /// Reads the value of the key.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub(super) fn parse(value: &Value, syntax: Syntax) -> Result<Self, String> {
        Ok(match value {
            Value::String(text) => Self::Text(Template::parse(text, syntax)?),
            Value::Array(list) => {
                Self::List(list.iter().map(|value| Self::parse(value, syntax)).collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| {
                    Ok::<_, String>((Template::parse(name, syntax)?, Self::parse(value, syntax)?))
                });
                Self::Fields(fields.collect::<Result<_, _>>()?)
            }
            other => Self::Fixed(other.clone()),
        })
    }

    /// Whether it asks for this variable.
    pub(super) fn uses(&self, variable: Variable) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Text(text) => text.uses(variable),
            Self::List(list) => list.iter().any(|body| body.uses(variable)),
            Self::Fields(fields) => {
                fields.iter().any(|(name, body)| name.uses(variable) || body.uses(variable))
            }
        }
    }

    /// As [`Template::put_attributes`].
    pub(super) fn put_attributes(&self, names: &mut Vec<String>) {
        match self {
            Self::Fixed(_) => {}
            Self::Text(text) => text.put_attributes(names),
            Self::List(list) => list.iter().for_each(|body| body.put_attributes(names)),
            Self::Fields(fields) => fields.iter().for_each(|(name, body)| {
                name.put_attributes(names);
                body.put_attributes(names);
            }),
        }
    }

    /// Whether it can be sent as a form: no value within another.
    pub(super) fn is_flat(&self) -> bool {
        let is_simple = |body: &Self| matches!(body, Self::Fixed(_) | Self::Text(_));
        matches!(self, Self::Fields(fields) if fields.iter().all(|(_, body)| is_simple(body)))
    }

    /// As JSON; `None` if a value is not text.
    pub(super) fn json(&self, facts: &Facts) -> Option<Value> {
        Some(match self {
            Self::Fixed(value) => value.clone(),
            Self::Text(text) => Value::String(text.render_text(facts)?),
            Self::List(list) => {
                Value::Array(list.iter().map(|body| body.json(facts)).collect::<Option<_>>()?)
            }
            Self::Fields(fields) => {
                let fields =
                    fields.iter().map(|(name, body)| Some((name.render_text(facts)?, body.json(facts)?)));
                Value::Object(fields.collect::<Option<Map<_, _>>>()?)
            }
        })
    }

    /// As a form, if it is flat.
    pub(super) fn form(&self, facts: &Facts) -> Vec<u8> {
        let Self::Fields(fields) = self else { return Vec::new() };
        let mut form = Vec::new();
        for (name, body) in fields {
            if !form.is_empty() {
                form.push(b'&');
            }
            form.extend(name.render_form(facts));
            form.push(b'=');
            match body {
                Self::Text(text) => form.extend(text.render_form(facts)),
                Self::Fixed(value) => form.extend(&*encode(value.to_string().as_bytes(), ValuePlace::Form)),
                Self::List(_) | Self::Fields(_) => {}
            }
        }
        form
    }
}

/// A URL with variables in its path and query.
#[derive(Clone, Debug)]
pub(super) struct UrlTemplate {
    /// Scheme, host and port.
    origin: String,
    path: Template,
    query: Option<Template>,
}

impl UrlTemplate {
    /// Reads `url`, which has a scheme and a host.
    ///
    /// # Errors
    /// As [`Template::parse`], or a variable stands in the host.
    pub(super) fn parse(url: &str, syntax: Syntax) -> Result<Self, String> {
        let begin = url.find("://").map_or(0, |at| at + 3);
        let end = url[begin..].find(['/', '?']).map_or(url.len(), |at| begin + at);
        let (origin, rest) = url.split_at(end);
        if origin.contains(['$', '%']) {
            return Err("has a variable in its host".to_owned());
        }
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            origin: origin.to_owned(),
            path: Template::parse(path, syntax)?,
            query: query.map(|query| Template::parse(query, syntax)).transpose()?,
        })
    }

    /// Whether it asks for this variable.
    pub(super) fn uses(&self, variable: Variable) -> bool {
        self.path.uses(variable) || self.query.as_ref().is_some_and(|query| query.uses(variable))
    }

    /// As [`Template::put_attributes`].
    pub(super) fn put_attributes(&self, names: &mut Vec<String>) {
        self.path.put_attributes(names);
        self.query.iter().for_each(|query| query.put_attributes(names));
    }

    /// The URL for a client, `more` (a form) behind its query.
    pub(super) fn render(&self, facts: &Facts, more: &[u8]) -> Vec<u8> {
        let mut url = self.origin.clone().into_bytes();
        url.extend(self.path.render(facts, ValuePlace::Path));
        let own = self.query.as_ref().map(|query| query.render(facts, ValuePlace::Form)).unwrap_or_default();
        let mut mark = b'?';
        for part in [own.as_slice(), more].into_iter().filter(|part| !part.is_empty()) {
            url.push(mark);
            url.extend_from_slice(part);
            mark = b'&';
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts() -> Facts {
        Facts {
            username: Some("a&b=c d/é".into()), password: b"p\"\\%".as_slice().into(), ..Facts::sample()
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn values_are_encoded_for_where_they_stand() {
        let target =
            UrlTemplate::parse("http://h:1/x/${username}?u=${username}&k=${clientid}", Syntax::Braces)
                .unwrap();
        assert_eq!(
            text(target.render(&facts(), b"more=1")),
            "http://h:1/x/a%26b%3Dc%20d%2F%C3%A9?u=a%26b%3Dc+d%2F%C3%A9&k=sensor-1&more=1"
        );
        let body = Body::parse(&json!({"u": "${username}", "p": "x${password}", "n": 1}), Syntax::Braces);
        let body = body.unwrap();
        assert_eq!(text(body.form(&facts())), "n=1&p=xp%22%5C%25&u=a%26b%3Dc+d%2F%C3%A9");
        assert_eq!(body.json(&facts()).unwrap().to_string(), r#"{"n":1,"p":"xp\"\\%","u":"a&b=c d/é"}"#);
    }

    #[test]
    fn a_value_is_never_read_as_a_template() {
        let facts = Facts { username: Some("${password}%P".into()), ..Facts::sample() };
        for (template, syntax) in [("${username}", Syntax::Braces), ("%u", Syntax::Percent)] {
            let template = Template::parse(template, syntax).unwrap();
            assert_eq!(text(template.render(&facts, ValuePlace::Plain)), "${password}%P");
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        let error = Template::parse("${user}", Syntax::Braces).unwrap_err();
        assert!(error.starts_with("has the variable ${user}; known are username, password, "), "{error}");
        assert!(Template::parse("%z", Syntax::Percent).is_err());
        assert!(Template::parse("a%", Syntax::Percent).is_err());
        assert!(Template::parse("${username", Syntax::Braces).is_err());
        assert!(UrlTemplate::parse("http://${username}/", Syntax::Braces).is_err());
        assert!(!Body::parse(&json!({"a": {"b": "c"}}), Syntax::Braces).unwrap().is_flat());
    }

    #[test]
    fn passwords_that_are_no_text_are_sent_in_forms_only() {
        let facts = Facts { password: b"\xff\x00".as_slice().into(), ..Facts::sample() };
        let body = Body::parse(&json!({"p": "${password}"}), Syntax::Braces).unwrap();
        assert_eq!(body.json(&facts), None);
        assert_eq!(text(body.form(&facts)), "p=%FF%00");
    }
}
