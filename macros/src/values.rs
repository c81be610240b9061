//! Literals, as the schema takes them and as the expansion has them.

use proc_macro2::{Span, TokenStream};
use syn::{Error, Expr, ExprArray, ExprLit, ExprUnary, Lit, LitInt, UnOp};
use unbroken_schema::{self as schema, Input, Kind, duration};

use crate::args::{Entry, Value};

/// A literal.
#[derive(Clone)]
pub(crate) enum Setting {
    Str(String, Span),
    Int(i64),
    Bool(bool),
    List(Vec<String>),
}

/// Reads the value of an entry: the literal, and what it means.
pub(crate) fn read(entry: &Entry, kind: Kind) -> syn::Result<(Setting, schema::Value)> {
    let key = &entry.key;
    let error = |message: String| Error::new_spanned(entry.value_or_key(), message);
    if let Value::Literal(Lit::Int(number)) = &entry.value {
        check_number(key, kind, number).map_or(Ok(()), |message| Err(error(message)))?;
    }
    let setting = match &entry.value {
        Value::None => (kind == Kind::Flag).then_some(Setting::Bool(true)),
        value => literal(value),
    };
    let parsed = kind.parse(&setting.as_ref().map_or(Input::Other, Setting::input));
    match (parsed, setting) {
        (Ok(parsed), Some(setting)) => Ok((setting, parsed)),
        (Err(schema::Error::Empty), _) => {
            Err(error(format!("`{key}` is empty: remove it, or give it a value")))
        }
        (Err(expected @ schema::Error::Expected(_)), _) => {
            Err(error(format!("`{key}`: {expected}, as in `{key} = {}`", kind.example())))
        }
        (Err(expected), _) => Err(error(format!("`{key}`: {expected}"))),
        (Ok(_), None) => Err(error(format!("`{key}`: {}", schema::Error::Expected(kind)))),
    }
}

/// What is wrong with a number where the schema sees no mistake, or another one.
fn check_number(key: &str, kind: Kind, number: &LitInt) -> Option<String> {
    let written = number.to_string();
    match kind {
        Kind::Mode if !written.starts_with("0o") => Some(not_octal(key, &written)),
        Kind::Duration | Kind::PositiveDuration if duration::parse(&written).is_ok() => {
            Some(format!("`{key}` is a duration in quotes: write `{key} = \"{written}\"`"))
        }
        _ => None,
    }
}

fn not_octal(key: &str, written: &str) -> String {
    match u32::from_str_radix(written, 8) {
        Ok(bits) if bits <= 0o777 => format!(
            "`{key}` is octal, and {written} is decimal: write `{key} = \"{bits:04o}\"` or \
             `{key} = 0o{bits:03o}`"
        ),
        _ => {
            let example = if key == "umask" { "0027" } else { "0660" };
            format!("`{key}` is octal, and {written} is not: write it as `{key} = \"{example}\"`")
        }
    }
}

/// The literal that tokens are, if they are one that a key takes.
fn literal(value: &Value) -> Option<Setting> {
    match value {
        Value::Literal(Lit::Str(text)) => Some(Setting::Str(text.value(), text.span())),
        Value::Literal(Lit::Bool(flag)) => Some(Setting::Bool(flag.value)),
        Value::Literal(Lit::Int(number)) => integer(number).map(Setting::Int),
        Value::Other(tokens) => list(tokens.clone()).or_else(|| negative(tokens.clone())),
        _ => None,
    }
}

fn integer(number: &LitInt) -> Option<i64> {
    let suffixes = ["", "u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "usize", "isize"];
    suffixes.contains(&number.suffix()).then(|| number.base10_parse().ok()).flatten()
}

fn list(tokens: TokenStream) -> Option<Setting> {
    let array: ExprArray = syn::parse2(tokens).ok()?;
    let items = array.elems.iter().map(|item| match item {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    });
    items.collect::<Option<_>>().map(Setting::List)
}

fn negative(tokens: TokenStream) -> Option<Setting> {
    let ExprUnary { op: UnOp::Neg(_), expr, .. } = syn::parse2(tokens).ok()? else { return None };
    match *expr {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => {
            integer(&number)?.checked_neg().map(Setting::Int)
        }
        _ => None,
    }
}

impl Setting {
    fn input(&self) -> Input<'_> {
        match self {
            Setting::Str(text, _) => Input::Text(text),
            Setting::Int(number) => Input::Number((*number).into()),
            Setting::Bool(flag) => Input::Flag(*flag),
            Setting::List(items) => Input::List(items.iter().map(|it| Input::Text(it)).collect()),
        }
    }
}
