//! The errors of wrong command lines, with what to write instead.

use std::ffi::{OsStr, OsString};

use unbroken_schema::nearest;

use super::options::Wrong;
use super::verbs::{Behind, Verb};
use super::{shell, usage};
use crate::error::Error;

/// Explains what is wrong with the words after a verb, and what to write instead. `ours` are the words before
/// `--` and `theirs` those after it.
pub(super) fn explain(
    wrong: &Wrong,
    program: &str,
    verb: &Verb,
    ours: &[OsString],
    theirs: &[OsString],
) -> Error {
    let called = verb.name;
    let word = |at: usize| ours.get(at).map(OsString::as_os_str).unwrap_or_default().display();
    usage(match wrong {
        Wrong::Option { at, name } => {
            let near = nearest(name, verb.options.iter().map(|option| option.long));
            let cure = cure(near, *at, program, verb, ours, theirs);
            format!("`{called}` has no option `{}`; {cure}", word(*at))
        }
        Wrong::Argument { at } => {
            let cure = cure(None, *at, program, verb, ours, theirs);
            format!("`{called}` takes no argument `{}`; {cure}", word(*at))
        }
        Wrong::Missing(option, value) => {
            format!("`--{option}` needs a value; write --{option} {value}")
        }
        Wrong::Idle(option) => format!("`--{option}` takes no value; write it without `=`"),
        Wrong::Twice(option) => format!("`--{option}` is given twice; remove one"),
        Wrong::Value { option, value, expected } => {
            format!("`--{option} {}`: expected {expected}", value.display())
        }
        Wrong::Alone(option, needs) => {
            format!("`--{option}` requires `--{needs}`; add it")
        }
    })
}

/// What to write instead of the word at `at`; `near` is an option with a similar name.
fn cure(
    near: Option<&str>,
    at: usize,
    program: &str,
    verb: &Verb,
    ours: &[OsString],
    theirs: &[OsString],
) -> String {
    let called = verb.name;
    let line = || {
        let (before, behind) = ours.split_at(at.min(ours.len()));
        let before = std::iter::once(OsStr::new(called)).chain(before.iter().map(OsString::as_ref));
        let behind = behind.iter().chain(theirs);
        format!("{program} {} -- {}", shell::words(before), shell::words(behind))
    };
    match (near, verb.behind) {
        (Some(near), Behind::Program) => {
            format!("did you mean `--{near}`? Arguments for the program go after `--`: {}", line())
        }
        (Some(near), _) => format!("did you mean `--{near}`?"),
        (None, Behind::Program) => {
            format!("arguments for the program go after `--`: {}", line())
        }
        (None, _) => format!("see `{program} help {called}`"),
    }
}
