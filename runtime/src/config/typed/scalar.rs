//! Text that may be something else.

use serde_json::Value as Json;

use crate::config::{app, document};

/// What a piece of text looks like, where the type does not say what it wants.
pub(super) fn guess(text: &str) -> Json {
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
