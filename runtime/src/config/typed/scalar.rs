//! Text that may be something else.

use serde_json::Value as Json;

use crate::config::{app, document};

/// What a piece of text may be, where the type does not say what it wants: the likeliest first.
pub(super) fn readings(text: &str) -> Vec<Json> {
    let trimmed = text.trim();
    let mut readings = vec![guess(text), Json::from(text)];
    match trimmed.starts_with(['[', '{']) {
        true => {
            let parsed = serde_json::from_str(trimmed).ok().or_else(|| toml(trimmed));
            readings.splice(0..0, parsed);
        }
        // A list, as `a,b` is one where the type says so.
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

/// What a piece of text looks like.
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
