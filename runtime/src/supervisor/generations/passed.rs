//! Listeners that the service manager passed, or keeps for the next start.

use std::sync::Arc;

use super::Generations;
use crate::config::{Address, Settings};
use crate::listener::Bound;

impl Generations {
    /// Those of a daemon whose service manager passed these sockets.
    pub(crate) fn with_passed(mut self, passed: Vec<(String, Bound)>) -> Generations {
        self.passed = passed.into_iter().map(|(name, bound)| (name, Arc::new(bound))).collect();
        self
    }

    /// What the service manager passed as the listener of this name.
    pub(super) fn passed_as(&self, name: &str) -> Vec<(String, Arc<Bound>)> {
        self.passed.iter().filter(|(its, _)| its == name).cloned().collect()
    }

    /// Where the service manager keeps listeners.
    pub(crate) fn set_kept(&mut self, places: Vec<Address>) {
        self.kept_places = places;
    }

    /// What the service manager passed and these settings do not declare: nobody will accept there.
    pub(crate) fn unclaimed(&self, settings: &Settings) -> Vec<String> {
        let unclaimed = self.passed.iter().filter(|(name, _)| !settings.listen.contains_key(name));
        unclaimed.map(|(name, bound)| format!("`{name}` at {}", bound.addr())).collect()
    }
}
