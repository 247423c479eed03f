//! Names and filters with the values of a client in them, which are escaped for where they stand: no user name changes what is
//! searched, or who binds.

/// What a name or filter may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Username,
    ClientId,
    /// The name of the user's entry.
    Dn,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Self::Username => "username",
            Self::ClientId => "clientid",
            Self::Dn => "dn",
        }
    }
}

/// Text with fields.
#[derive(Clone, Debug)]
pub(super) struct FieldTemplate(Vec<FieldPiece>);

#[derive(Clone, Debug)]
enum FieldPiece {
    Text(String),
    Value(Field),
}

impl FieldTemplate {
    /// Reads `text`, in which `known` may stand.
    ///
    /// # Errors
    /// It asks for something else.
    pub(super) fn parse(text: &str, known: &[Field]) -> Result<Self, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            pieces.push(FieldPiece::Text(before.to_owned()));
            let (name, behind) = after.split_once('}').ok_or("has a ${ without a }")?;
            let field = known.iter().find(|field| field.name() == name).ok_or_else(|| {
                let known: Vec<_> = known.iter().map(|field| field.name()).collect();
                format!("has ${{{name}}}; known are {}", known.join(", "))
            })?;
            pieces.push(FieldPiece::Value(*field));
            rest = behind;
        }
        pieces.push(FieldPiece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// Whether it asks for this.
    pub(super) fn uses(&self, field: Field) -> bool {
        self.0.iter().any(|piece| matches!(piece, FieldPiece::Value(of) if *of == field))
    }

    /// The text with what `value` says in it, which has escaped it.
    pub(super) fn render(&self, value: impl Fn(Field) -> String) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            FieldPiece::Text(text) => text.clone(),
            FieldPiece::Value(field) => value(*field),
        });
        pieces.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_they_are_asked_for() {
        let template =
            FieldTemplate::parse("uid=${username},ou=${clientid}", &[Field::Username, Field::ClientId]);
        let template = template.unwrap();
        assert_eq!(template.render(|field| format!("<{}>", field.name())), "uid=<username>,ou=<clientid>");
        assert!(template.uses(Field::ClientId) && !template.uses(Field::Dn));
        let error = FieldTemplate::parse("(member=${dn})", &[Field::Username]).unwrap_err();
        assert_eq!(error, "has ${dn}; known are username");
        assert!(FieldTemplate::parse("${username", &[Field::Username]).is_err());
    }
}
