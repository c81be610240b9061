//! The messages in the sources of a crate: its string literals that are sentences.
//!
//! Messages are built in many ways: by `Error::new`, by a closure that adds the kind, as the reason for an
//! abort, as a line of the log. The text of all of them is a literal, so this takes every literal with enough
//! words, whatever it is used for.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The least number of words of a message. A shorter text is a name, a format or a piece of a sentence.
const WORDS: usize = 3;

/// The least number of words of an argument of `Error::…`, which is a message even if it is short.
const WORDS_OF_AN_ERROR: usize = 2;

/// A text in the sources.
pub(crate) struct Message {
    /// The path of the file, relative to the repository.
    pub(crate) file: String,
    pub(crate) line: usize,
    /// The text, with `…` for values.
    pub(crate) text: String,
    /// Whether the text has enough words to be a message.
    pub(crate) is_sentence: bool,
}

/// Returns all texts in the modules of a crate, except those that are compiled for tests only.
pub(crate) fn of_crate(root: &Path, src: &Path) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut files = vec![root.join(src).join("lib.rs")];
    while let Some(path) = files.pop() {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let tokens: TokenStream =
            text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = path.strip_prefix(root).unwrap().display().to_string();
        let mut found = Found { file, messages: &mut messages, modules: Vec::new() };
        found.read(tokens, WORDS);
        files.extend(found.modules.into_iter().map(|name| file_of(&path, &name)));
    }
    messages
}

/// The file of a module that `parent` declares.
fn file_of(parent: &Path, name: &str) -> PathBuf {
    let dir = match parent.file_stem().unwrap().to_str().unwrap() {
        "lib" | "mod" => parent.parent().unwrap().to_owned(),
        _ => parent.with_extension(""),
    };
    let beside = dir.join(format!("{name}.rs"));
    if beside.exists() { beside } else { dir.join(name).join("mod.rs") }
}

struct Found<'a> {
    file: String,
    messages: &'a mut Vec<Message>,
    modules: Vec<String>,
}

impl Found<'_> {
    /// Collects the literals in `tokens`. Those with at least `words` words are sentences.
    fn read(&mut self, tokens: TokenStream, words: usize) {
        let mut tokens = tokens.into_iter().peekable();
        let mut before = [const { String::new() }; 4];
        while let Some(token) = tokens.next() {
            let text = token.to_string();
            match token {
                // An attribute, which includes doc comments.
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    tokens.next_if(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == '!'));
                    let of_tests = match tokens.next() {
                        Some(TokenTree::Group(group)) => for_tests(&group.stream().to_string()),
                        _ => false,
                    };
                    if of_tests {
                        skip_item(&mut tokens);
                    }
                }
                TokenTree::Group(group) => {
                    let of_error = before[0] == "Error" && before[1] == ":";
                    let words = if of_error { WORDS_OF_AN_ERROR } else { words };
                    self.read(group.stream(), words);
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' && before[2] == "mod" => {
                    self.modules.push(before[3].clone());
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
                TokenTree::Literal(literal) => {
                    let line = literal.span().start().line;
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                        self.note(line, &text.value(), words);
                    }
                }
            }
            before.rotate_left(1);
            before[3] = text;
        }
    }

    fn note(&mut self, line: usize, text: &str, words: usize) {
        let text = without_values(text);
        let is_word = |part: &&str| part.contains(char::is_alphabetic);
        let is_sentence =
            text.split_whitespace().filter(is_word).count() >= words && !is_help(&text);
        self.messages.push(Message { file: self.file.clone(), line, text, is_sentence });
    }
}

/// Returns whether the text is one of `--help`. Those begin with a capital letter; messages do not, unless
/// the first word is the name of a variable.
fn is_help(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    first.starts_with(char::is_uppercase)
        && (first.len() == 1 || first.contains(char::is_lowercase))
}

fn for_tests(attribute: &str) -> bool {
    let attribute: String = attribute.split_whitespace().collect();
    ["cfg(test)", "cfg(any(test,fuzzing))"].contains(&attribute.as_str())
}

/// Skips the item to which an attribute belongs.
fn skip_item(tokens: &mut impl Iterator<Item = TokenTree>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            TokenTree::Punct(punct) if punct.as_char() == ';' => return,
            _ => {}
        }
    }
}

/// Replaces the values of a format string by `…`, and removes the punctuation that joins the text to one
/// before it.
fn without_values(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        plain.push_str(&rest[..at]);
        let (brace, behind) = rest[at..].split_at(1);
        if behind.starts_with(brace) {
            plain.push_str(brace);
            rest = &behind[1..];
        } else {
            if !plain.ends_with('…') {
                plain.push('…');
            }
            rest = behind.split_once('}').map_or(behind, |(_, behind)| behind);
        }
    }
    plain.push_str(rest);
    let plain: Vec<&str> = plain.split_whitespace().collect();
    plain.join(" ").trim_start_matches([';', ',', ':', ' ']).to_owned()
}
