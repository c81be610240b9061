//! Text that may stand for a value of another type.

use serde_json::Value as Json;

use crate::config::{app, document};

/// The values that a text may stand for if the type does not ask for one: the likeliest first.
pub(super) fn readings(text: &str) -> Vec<Json> {
    let trimmed = text.trim();
    let mut readings = vec![guess(text), Json::from(text)];
    match trimmed.starts_with(['[', '{']) {
        true => {
            let parsed = serde_json::from_str(trimmed).ok().or_else(|| toml(trimmed));
            readings.splice(0..0, parsed);
        }
        // `a,b` may be a list.
        false => {
            let items = || trimmed.split(',').map(str::trim).filter(|_| !trimmed.is_empty());
            readings.push(items().map(guess).collect());
            readings.push(items().map(Json::from).collect());
        }
    }
    let mut distinct: Vec<Json> = Vec::new();
    readings.retain(|reading| {
        let new = !distinct.contains(reading);
        distinct.extend(new.then(|| reading.clone()));
        new
    });
    readings
}

/// The value that a text looks like.
fn guess(text: &str) -> Json {
    let trimmed = text.trim();
    let whole = || trimmed.parse::<i64>().map(Json::from).ok();
    let float = || trimmed.parse::<f64>().ok().filter(|f| f.is_finite()).map(Json::from);
    match trimmed {
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        _ => whole().or_else(float).unwrap_or_else(|| Json::from(text)),
    }
}

/// A TOML array or inline table.
pub(super) fn toml(text: &str) -> Option<Json> {
    let mut document = document::parse(&format!("value = {text}")).ok()?;
    let value = document.remove("value").filter(|_| document.is_empty())?;
    app::leaf_json(&value)
}
