//! Listeners that the service manager passed, or keeps for the next start.

use std::sync::Arc;

use super::Generations;
use crate::config::{Address, Settings};
use crate::listener::Bound;

impl Generations {
    /// Adds the sockets that the service manager passed.
    pub(crate) fn with_passed(mut self, passed: Vec<(String, Bound)>) -> Generations {
        self.passed = passed.into_iter().map(|(name, bound)| (name, Arc::new(bound))).collect();
        self
    }

    /// Returns the sockets that the service manager passed under a name.
    pub(super) fn passed_as(&self, name: &str) -> Vec<(String, Arc<Bound>)> {
        self.passed.iter().filter(|(its, _)| its == name).cloned().collect()
    }

    /// Sets the addresses of the listeners in the service manager's fd store.
    pub(crate) fn set_kept(&mut self, places: Vec<Address>) {
        self.kept_places = places;
    }

    /// Describes the sockets that the service manager passed and these settings do not declare: their
    /// connections would never be accepted.
    pub(crate) fn unclaimed(&self, settings: &Settings) -> Vec<String> {
        let unclaimed = self.passed.iter().filter(|(name, _)| !settings.listen.contains_key(name));
        unclaimed.map(|(name, bound)| format!("`{name}` at {}", bound.addr())).collect()
    }
}
