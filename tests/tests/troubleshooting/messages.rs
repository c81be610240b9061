//! The messages in the sources of a crate: those of its string literals that are sentences.
//!
//! An error is built in many ways: by `Error::new`, by a closure that adds the kind, as the reason of
//! an abort, as a line of the log. All have in common that their text is a literal, so all literals of
//! some words are taken, whatever is done with them.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A text of fewer words is a name, a format or a piece of a sentence.
const WORDS: usize = 3;

/// The same, of what is given to `Error::…`.
const WORDS_OF_AN_ERROR: usize = 2;

/// A text in the sources.
pub(crate) struct Message {
    /// Relative to the repository.
    pub(crate) file: String,
    pub(crate) line: usize,
    /// With `…` for what varies.
    pub(crate) text: String,
    /// Whether it has enough words to tell somebody something.
    pub(crate) is_sentence: bool,
}

/// All texts in the modules of a crate, except what is only built for tests.
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
    /// Takes the literals of at least so many words.
    fn read(&mut self, tokens: TokenStream, words: usize) {
        let mut tokens = tokens.into_iter().peekable();
        let mut before = [const { String::new() }; 4];
        while let Some(token) = tokens.next() {
            let text = token.to_string();
            match token {
                // An attribute, a doc comment among them.
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

/// What `--help` says begins with a capital, and nothing that goes wrong, unless with a variable's name.
fn is_help(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    first.starts_with(char::is_uppercase)
        && (first.len() == 1 || first.contains(char::is_lowercase))
}

fn for_tests(attribute: &str) -> bool {
    let attribute: String = attribute.split_whitespace().collect();
    ["cfg(test)", "cfg(any(test,fuzzing))"].contains(&attribute.as_str())
}

/// Up to the end of what an attribute stands at.
fn skip_item(tokens: &mut impl Iterator<Item = TokenTree>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            TokenTree::Punct(punct) if punct.as_char() == ';' => return,
            _ => {}
        }
    }
}

/// A format string with `…` for each run of values, without what joins it to the text before.
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
