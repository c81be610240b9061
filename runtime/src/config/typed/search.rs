//! Types that do not ask for a type of value: `#[serde(flatten)]`, untagged and internally tagged enums.
//!
//! Serde reads their content into a buffer of its own, in which text cannot become a number and the keys
//! of values are lost. The search tries the values that a text may stand for until the type takes one,
//! and blames the key without which the error disappears.

use std::cell::RefCell;

use serde_json::{Map, Value as Json};

use super::fault::Fault;
use super::scalar;
use crate::config::keys;
use unbroken_core::sorted::{SortedMap, sort_few};

/// The most combinations that are tried if no single key is to blame.
const MOST: usize = 4096;

/// How the values are to be read this time.
#[derive(Debug, Default)]
pub(super) struct Choices {
    /// The index of the reading of a text, by key path. Default: the first.
    picked: SortedMap<String, usize>,
    /// The key that is left out, to see whether that makes a difference.
    removed: Option<String>,
    /// The number of readings of each value that was asked for without a type.
    seen: RefCell<SortedMap<String, usize>>,
}

impl Choices {
    pub(super) fn is_removed(&self, path: &str) -> bool {
        self.removed.as_deref() == Some(path)
    }

    /// Notes a value with a single reading.
    pub(super) fn note(&self, path: &str) {
        self.seen.borrow_mut().insert(path.to_owned(), 1);
    }

    /// The reading of a text for a type that does not ask for a type of value. One that `buffers` decides
    /// later; any other takes text first.
    pub(super) fn read(&self, path: &str, text: &str, buffers: bool) -> Json {
        let mut readings = scalar::readings(text);
        if !buffers {
            sort_few(&mut readings, |a, b| a.is_string() && !b.is_string());
        }
        self.seen.borrow_mut().insert(path.to_owned(), readings.len());
        let at = self.picked.get(path).copied().unwrap_or(0).min(readings.len() - 1);
        readings.swap_remove(at)
    }

    /// Moves on to the next reading of the text at `path`, if there is one.
    fn advance(&mut self, path: &str) -> bool {
        let count = self.seen.borrow().get(path).copied().unwrap_or(0);
        let next = self.picked.get(path).map_or(1, |at| at + 1);
        if next < count {
            self.picked.insert(path.to_owned(), next);
        }
        next < count
    }
}

/// Reads `section` until a combination of readings succeeds. The fault is the first that no reading
/// avoids, at its key.
pub(super) fn read<T>(
    section: &Json,
    attempt: impl Fn(&Choices) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut choices = Choices::default();
    let first = match attempt(&choices) {
        Ok(read) => return Ok(read),
        Err(fault) => fault,
    };
    let mut leaves = Vec::new();
    collect("app", section, &mut leaves);
    let mut search = Search { leaves, attempt };
    let at = search.culprit(&mut choices, &first);
    let (mut reported, mut next) = ((first, at.clone()), at);
    while let Some(path) = next.filter(|path| choices.advance(path)) {
        let fault = match (search.attempt)(&choices) {
            Ok(read) => return Ok(read),
            Err(fault) => fault,
        };
        let at = search.culprit(&mut choices, &fault);
        next = at.clone().or_else(|| Some(path.clone()));
        // A fault at a later key, once this one can be read, is the one to report.
        if at.as_ref() != Some(&path) {
            reported = (fault, at);
        }
    }
    if let Some(read) = search.combinations(&choices) {
        return Ok(read);
    }
    let (fault, at) = reported;
    Err(match at.and_then(|at| search.leaves.iter().find(|(path, _)| *path == at)) {
        Some((path, value)) => fault.moved(path.clone(), value),
        None => fault,
    })
}

struct Search<'a, F> {
    /// All values except tables.
    leaves: Vec<(String, &'a Json)>,
    attempt: F,
}

impl<T, F: Fn(&Choices) -> Result<T, Fault>> Search<'_, F> {
    /// The one key without which there would be another fault or none.
    fn culprit(&mut self, choices: &mut Choices, fault: &Fault) -> Option<String> {
        if !fault.is_of_a_value() {
            return None;
        }
        let mut culprits = Vec::new();
        // A fault in any other value has its key already.
        let buffered: Vec<String> = choices.seen.borrow().keys().cloned().collect();
        for (path, _) in self.leaves.iter().filter(|(path, _)| fault.may_be_at(path)) {
            if !buffered.contains(path) {
                continue;
            }
            choices.removed = Some(path.clone());
            let differs = match (self.attempt)(choices) {
                Ok(_) => true,
                Err(other) => !other.is_like(fault),
            };
            culprits.extend(differs.then(|| path.clone()));
        }
        choices.removed = None;
        culprits.pop().filter(|_| culprits.is_empty())
    }

    /// Tries all combinations of readings, where these are not too many.
    fn combinations(&self, choices: &Choices) -> Option<T> {
        let counts: Vec<(String, usize)> = choices.seen.borrow().clone().into_iter().collect();
        let all = counts.iter().try_fold(1_usize, |all, (_, count)| all.checked_mul(*count));
        let all = all.filter(|all| *all <= MOST)?;
        (1..all).find_map(|number| {
            let mut rest = number;
            let pick = |(path, count): &(String, usize)| {
                let at = rest % count;
                rest /= count;
                (path.clone(), at)
            };
            let choices =
                Choices { picked: counts.iter().map(pick).collect(), ..Choices::default() };
            (self.attempt)(&choices).ok()
        })
    }
}

fn collect<'a>(path: &str, value: &'a Json, leaves: &mut Vec<(String, &'a Json)>) {
    let table: Option<&Map<String, Json>> = value.as_object();
    match table {
        Some(table) => {
            table.iter().for_each(|(key, value)| collect(&keys::child(path, key), value, leaves));
        }
        None => leaves.push((path.to_owned(), value)),
    }
}
