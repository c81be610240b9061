//! The texts of `help`, from the table of verbs.

use std::fmt::Write;

use super::options::{HELP, Opt, Takes};
use super::verbs::{self, Behind, VERBS, Verb};
use crate::config::Prefix;

/// The help of the program: all verbs.
pub(super) fn of_program(name: &str, version: Option<&str>) -> String {
    let version = version.map_or(String::new(), |version| format!("{name} {version}\n\n"));
    let rows = VERBS.iter().map(|verb| (verb.name.to_owned(), verb.about));
    let help = (verbs::HELP.to_owned(), "Show this help, or the options of a verb: help start");
    format!(
        "{version}Without a verb, the daemon runs in the foreground and all arguments go to the \
         program.\n\nUsage: {name} <VERB> [OPTIONS]\n\nVerbs:\n{}",
        table(rows.chain([help]))
    )
}

/// The list of verbs for the end of a program's own help.
pub(crate) fn verb_list() -> String {
    let rows = VERBS.iter().map(|verb| (verb.name.to_owned(), verb.about));
    format!("Verbs of the daemon:\n{}\nThe options of a verb: help VERB", table(rows))
}

/// The help of one verb: its options and notes.
pub(super) fn of_verb(name: &str, verb: &Verb, prefix: Prefix<'_>) -> String {
    let arguments = match verb.behind {
        Behind::Program => " [-- ARGUMENTS]",
        Behind::Running | Behind::Settings => "",
    };
    let rows = verb.options.iter().chain([&HELP]).map(|option| (form(option), option.about));
    let mut text = format!(
        "{}\n\nUsage: {name} {} [OPTIONS]{arguments}\n\nOptions:\n{}",
        verb.about,
        verb.name,
        table(rows)
    );
    let notes = (verb.notes)(prefix);
    if !notes.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{notes}");
    }
    text
}

/// An option with its short form and the name of its value.
fn form(option: &Opt) -> String {
    let short = option.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
    let value = match option.takes {
        Takes::Nothing(_) => String::new(),
        Takes::Value { name, .. } => format!(" <{name}>"),
    };
    format!("{short}--{}{value}", option.long)
}

/// Aligns rows in two columns.
fn table(rows: impl Iterator<Item = (String, &'static str)>) -> String {
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    rows.iter().map(|(left, right)| format!("  {left:<width$}  {right}\n")).collect()
}
