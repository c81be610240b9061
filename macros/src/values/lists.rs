//! Lists, numbers that may be negative, and limits.

use proc_macro2::{Span, TokenStream};
use syn::{Expr, ExprArray, ExprLit, ExprUnary, Lit, LitStr, UnOp};

use crate::args::Value;
use crate::keys::nearest;

/// Names in an array or in one text, as one text with commas; `none` where there are none.
pub(super) fn names(key: &str, value: &Value) -> Result<LitStr, String> {
    let (items, span) = items(value)
        .ok_or_else(|| format!("`{key}` is a list: write `{key} = [\"adm\", \"ssl-cert\"]`"))?;
    if items.iter().any(|item| item.is_empty() || item.contains([':', '\0', ' '])) {
        return Err(format!("`{key}` has something that is no name: write it without spaces"));
    }
    Ok(joined(&items, span))
}

/// Paths in an array or in one text, as one text with commas.
pub(super) fn paths(key: &str, value: &Value) -> Result<LitStr, String> {
    let wrong = || format!("`{key}` is a path, or a list: write `{key} = \"/etc/default/hello\"`");
    let (items, span) = items(value).ok_or_else(wrong)?;
    if items.is_empty() || items.iter().any(|item| item.is_empty() || item.contains('\0')) {
        return Err(wrong());
    }
    Ok(joined(&items, span))
}

/// As [`names`], of which each is one of `words`.
pub(super) fn words(key: &str, value: &Value, words: &[&str]) -> Result<LitStr, String> {
    let example = format!("write `{key} = [\"net_bind_service\"]`");
    let (items, span) = items(value).ok_or_else(|| format!("`{key}` is a list: {example}"))?;
    for item in &items {
        let lower = item.to_ascii_lowercase();
        let word = lower.strip_prefix("cap_").unwrap_or(&lower);
        if !words.contains(&word) {
            return Err(match nearest(word, words.iter().copied()) {
                Some(near) => format!("`{key}` cannot have \"{item}\": did you mean \"{near}\"?"),
                None => {
                    format!("`{key}` cannot have \"{item}\": see capabilities(7), and {example}")
                }
            });
        }
    }
    Ok(joined(&items, span))
}

fn joined(items: &[String], span: Span) -> LitStr {
    let text = if items.is_empty() { "none".to_owned() } else { items.join(",") };
    LitStr::new(&text, span)
}

/// The texts in an array, and where it stands.
pub(super) fn texts(value: &Value) -> Option<(Vec<String>, Span)> {
    match value {
        Value::Other(_) => items(value),
        _ => None,
    }
}

/// What is in a list, and where that stands.
fn items(value: &Value) -> Option<(Vec<String>, Span)> {
    match value {
        Value::Literal(Lit::Str(text)) if text.value() == "none" => Some((Vec::new(), text.span())),
        Value::Literal(Lit::Str(text)) => {
            let items = text.value().split(',').map(|item| item.trim().to_owned()).collect();
            Some((items, text.span()))
        }
        Value::Other(tokens) => {
            let array: ExprArray = syn::parse2(tokens.clone()).ok()?;
            let items = array.elems.iter().map(|item| match item {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
                _ => None,
            });
            Some((items.collect::<Option<_>>()?, array.bracket_token.span.join()))
        }
        _ => None,
    }
}

/// A whole number from `low` to `high`.
pub(super) fn within(key: &str, value: &Value, low: i32, high: i32) -> Result<i64, String> {
    let number = match value {
        Value::Literal(Lit::Int(number)) => number.base10_parse::<i64>().ok(),
        Value::Other(tokens) => negative(tokens.clone()),
        _ => None,
    };
    number.filter(|number| (i64::from(low)..=i64::from(high)).contains(number)).ok_or_else(|| {
        format!("`{key}` is a whole number from {low} to {high}: write one without quotes")
    })
}

fn negative(tokens: TokenStream) -> Option<i64> {
    let ExprUnary { op: UnOp::Neg(_), expr, .. } = syn::parse2(tokens).ok()? else { return None };
    match *expr {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => {
            number.base10_parse::<i64>().ok()?.checked_neg()
        }
        _ => None,
    }
}

/// A number, or a text of one or two with a colon between.
pub(super) fn limit(key: &str, value: &Value) -> Result<LitStr, String> {
    let text = match value {
        Value::Literal(Lit::Str(text)) => Some(text.clone()),
        Value::Literal(Lit::Int(number)) if number.suffix().is_empty() => {
            Some(LitStr::new(number.base10_digits(), number.span()))
        }
        _ => None,
    };
    let wrong = || {
        format!(
            "`{key}` is a limit: write `{key} = 4096`, `{key} = \"1024:4096\"` (soft and hard) or \
             `{key} = \"unlimited\"`"
        )
    };
    let text = text.ok_or_else(wrong)?;
    let written = text.value();
    let bound = |part: &str| match part.trim() {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok().filter(|it| *it != u64::MAX),
    };
    let (soft, hard) = written.split_once(':').unwrap_or((&written, &written));
    match (bound(soft), bound(hard)) {
        (Some(soft), Some(hard)) if soft > hard => Err(format!(
            "`{key}` has a soft limit above its hard one: lower the first number of \"{written}\""
        )),
        (Some(_), Some(_)) => Ok(text),
        _ => Err(wrong()),
    }
}
