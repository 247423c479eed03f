//! Completes `[listeners]`: the four that are there by default, addresses given alone, listeners turned off.

use toml::{Table, Value};

use super::Problem;
use super::source::Source;

/// Name (which is also the kind) and address of the listeners that are there unless turned off.
const DEFAULTS: [(&str, &str); 4] = [
    ("mqtt", "127.0.0.1:1883"),
    ("mqtts", "127.0.0.1:8883"),
    ("ws", "127.0.0.1:8083"),
    ("wss", "127.0.0.1:8084"),
];

/// Turns a listener off.
const OFF: &str = "off";

/// Rewrites `[listeners]` so that each is a table with `bind` and `kind`.
pub(crate) fn complete(source: &mut Source) -> Result<(), Problem> {
    if let Some(given) = source.value("listeners")
        && !given.is_table()
    {
        return Err(source.problem("listeners", "expected [listeners] with NAME = \"ADDRESS:PORT\""));
    }
    let listeners = source.table_mut().entry("listeners").or_insert_with(|| Value::Table(Table::new()));
    let Some(listeners) = listeners.as_table_mut() else { return Ok(()) };
    for (name, _) in DEFAULTS {
        listeners.entry(name).or_insert_with(|| Value::Table(Table::new()));
    }
    listeners.retain(|_, listener| !is_off(listener));
    for (name, listener) in listeners.iter_mut() {
        if matches!(listener, Value::String(_) | Value::Integer(_)) {
            *listener = Value::Table(Table::from_iter([("bind".to_owned(), listener.clone())]));
        }
        let default = DEFAULTS.iter().find(|(default, _)| default == name);
        if let (Some((kind, bind)), Value::Table(listener)) = (default, listener) {
            listener.entry("kind").or_insert_with(|| Value::String((*kind).to_owned()));
            listener.entry("bind").or_insert_with(|| Value::String((*bind).to_owned()));
        }
    }
    Ok(())
}

fn is_off(listener: &Value) -> bool {
    match listener {
        Value::String(text) => text == OFF,
        Value::Boolean(on) => !on,
        Value::Table(table) => table.get("bind").is_some_and(|bind| bind.as_str() == Some(OFF)),
        _ => false,
    }
}
