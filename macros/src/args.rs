//! The syntax of the attribute's arguments.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Error, Lit, LitBool};

/// `key`, `key = value` or `key(…)`.
pub(crate) struct Entry {
    pub(crate) key: String,
    /// The tokens of the key.
    pub(crate) tokens: TokenStream,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    /// A key alone.
    None,
    Literal(Lit),
    /// For `crate`.
    Path(TokenStream),
    /// Entries in parentheses.
    List(Vec<Entry>, Group),
    /// Any other expression.
    Other(TokenStream),
    /// A syntax error, which is reported already.
    Broken,
}

/// Splits at commas and parses each segment separately: a malformed key hides no other error.
pub(crate) fn parse(tokens: TokenStream, mistakes: &mut Vec<Error>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut segment = Vec::new();
    for token in flatten(tokens) {
        match &token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => {
                if segment.is_empty() {
                    let message = "expected a key before this `,`: remove the comma";
                    mistakes.push(Error::new(comma.span(), message));
                }
                parse_segment(&segment, &mut entries, mistakes);
                segment.clear();
            }
            _ => segment.push(token),
        }
    }
    parse_segment(&segment, &mut entries, mistakes);
    entries
}

/// Parses a segment between two commas: one entry, or several if a comma is missing.
fn parse_segment(mut part: &[TokenTree], entries: &mut Vec<Entry>, mistakes: &mut Vec<Error>) {
    while !part.is_empty() {
        let Some((tokens, rest)) = read_key(part) else {
            let message = match part {
                [TokenTree::Literal(_), ..] => {
                    "expected a key: write it without quotes, as in `name = …`"
                }
                _ => "expected a key, as in `name = …`",
            };
            mistakes.push(Error::new(part[0].span(), message));
            return;
        };
        let key: String = tokens.iter().map(TokenTree::to_string).collect();
        let (value, rest) = read_value(&key, rest, mistakes);
        if let (Some(next), false) = (rest.first(), matches!(value, Value::Broken)) {
            let message = match next {
                TokenTree::Ident(next) => format!("expected `,` before `{next}`"),
                _ => format!("expected `,` after `{key}` and its value"),
            };
            mistakes.push(Error::new(next.span(), message));
        }
        let tokens = tokens.iter().cloned().collect();
        entries.push(Entry { key, tokens, value });
        // Only a key can begin another entry; anything else is the tail of this one.
        part = if matches!(rest, [TokenTree::Ident(_), ..]) { rest } else { &[] };
    }
}

/// Parses `key`. Dashes belong to it, as in `drain-timeout`, for which the right spelling is suggested.
fn read_key(part: &[TokenTree]) -> Option<(&[TokenTree], &[TokenTree])> {
    let mut length = match part {
        [TokenTree::Ident(_), ..] => 1,
        _ => return None,
    };
    while let [TokenTree::Punct(dash), TokenTree::Ident(_), ..] = &part[length..] {
        if dash.as_char() != '-' {
            break;
        }
        length += 2;
    }
    Some(part.split_at(length))
}

fn read_value<'a>(
    key: &str,
    rest: &'a [TokenTree],
    mistakes: &mut Vec<Error>,
) -> (Value, &'a [TokenTree]) {
    let mut broken = |span, message: String| {
        mistakes.push(Error::new(span, message));
        Value::Broken
    };
    match rest {
        [] | [TokenTree::Ident(_), ..] => (Value::None, rest),
        [TokenTree::Group(list), rest @ ..] if list.delimiter() == Delimiter::Parenthesis => {
            (read_list(list, mistakes), rest)
        }
        [TokenTree::Punct(eq), rest @ ..] if eq.as_char() == '=' => match rest {
            [] => (broken(eq.span(), format!("expected a value after `{key} =`")), rest),
            [TokenTree::Punct(minus), TokenTree::Literal(_), after @ ..]
                if minus.as_char() == '-' =>
            {
                (Value::Other(rest[..2].iter().cloned().collect()), after)
            }
            [TokenTree::Literal(literal), rest @ ..] => {
                (Value::Literal(Lit::new(literal.clone())), rest)
            }
            [TokenTree::Ident(word), rest @ ..] if word == "true" || word == "false" => {
                let literal = LitBool::new(word == "true", word.span());
                (Value::Literal(Lit::Bool(literal)), rest)
            }
            _ => read_path(rest),
        },
        [TokenTree::Punct(dot), TokenTree::Ident(field), ..] if dot.as_char() == '.' => {
            let message = format!("expected `(` after `{key}`: write `{key}({field} = …)`");
            (broken(dot.span(), message), &[])
        }
        [next, ..] => {
            let message = format!("expected `=` after `{key}`: write `{key} = …`");
            (broken(next.span(), message), &[])
        }
    }
}

fn read_list(list: &Group, mistakes: &mut Vec<Error>) -> Value {
    Value::List(parse(list.stream(), mistakes), list.clone())
}

/// Parses `a::b`, or the whole segment if it is no path.
fn read_path(rest: &[TokenTree]) -> (Value, &[TokenTree]) {
    let is_colon =
        |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    let mut length = 0;
    while let Some(token) = rest.get(length) {
        let after_word = length > 0 && matches!(rest.get(length - 1), Some(TokenTree::Ident(_)));
        match token {
            TokenTree::Ident(_) if !after_word => length += 1,
            token if is_colon(token) => length += 1,
            _ => break,
        }
    }
    match rest.get(length) {
        None | Some(TokenTree::Ident(_)) => {
            let (path, rest) = rest.split_at(length);
            (Value::Path(path.iter().cloned().collect()), rest)
        }
        Some(_) => (Value::Other(rest.iter().cloned().collect()), &[]),
    }
}

/// Strips the invisible groups around the arguments of a `macro_rules!`.
fn flatten(tokens: TokenStream) -> Vec<TokenTree> {
    let mut flat = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::None => {
                flat.extend(flatten(group.stream()));
            }
            token => flat.push(token),
        }
    }
    flat
}

impl Entry {
    /// The tokens of the value, or of the key if it has none.
    pub(crate) fn value_or_key(&self) -> TokenStream {
        match &self.value {
            Value::None | Value::Broken => self.tokens.clone(),
            Value::Literal(literal) => literal.to_token_stream(),
            Value::Path(tokens) | Value::Other(tokens) => tokens.clone(),
            Value::List(_, group) => group.to_token_stream(),
        }
    }
}
