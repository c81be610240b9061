//! The wall-clock times, for `status`, at which the generations shown there began to serve and were
//! confirmed.

use crate::control::unix_seconds;
use crate::json::{FromJson, ToJson};
use unbroken_core::event::Generation;

/// The times of the serving and the confirmed generation.
#[derive(Debug, Clone, Default, ToJson, FromJson)]
pub(super) struct GenerationTimes {
    terms: Vec<Times>,
}

/// The times of one generation, in seconds since 1970.
#[derive(Debug, Clone, ToJson, FromJson)]
struct Times {
    generation: Generation,
    serves: Option<u64>,
    confirmed: Option<u64>,
}

impl GenerationTimes {
    /// Notes the current time for a generation that has become the serving or the confirmed one, and drops
    /// all others. Must be called after each event that may have changed them.
    pub(super) fn note(&mut self, serving: Option<Generation>, confirmed: Option<Generation>) {
        self.terms.retain(|term| [serving, confirmed].contains(&Some(term.generation)));
        let now = || Some(unix_seconds(std::time::SystemTime::now()));
        if let Some(term) = serving.map(|generation| self.term(generation)) {
            term.serves = term.serves.or_else(now);
        }
        if let Some(term) = confirmed.map(|generation| self.term(generation)) {
            term.confirmed = term.confirmed.or_else(now);
        }
    }

    /// Returns when the generation began to serve.
    pub(super) fn serves(&self, generation: Generation) -> Option<u64> {
        self.find(generation).and_then(|term| term.serves)
    }

    /// Returns when the generation was confirmed.
    pub(super) fn confirmed(&self, generation: Generation) -> Option<u64> {
        self.find(generation).and_then(|term| term.confirmed)
    }

    fn find(&self, generation: Generation) -> Option<&Times> {
        self.terms.iter().find(|term| term.generation == generation)
    }

    /// Returns the entry of a generation; adds it if there is none.
    fn term(&mut self, generation: Generation) -> &mut Times {
        let place = self.terms.iter().position(|term| term.generation == generation);
        let place = place.unwrap_or_else(|| {
            self.terms.push(Times { generation, serves: None, confirmed: None });
            self.terms.len() - 1
        });
        &mut self.terms[place]
    }
}
