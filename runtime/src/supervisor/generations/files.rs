//! The files of unix listeners, and their replacement after a removal.

use std::sync::Arc;

use super::Generations;
use crate::error::Result;
use crate::listener::Bound;

impl Generations {
    /// Returns the unix listeners whose files the daemon owns: one per address, from the latest generation.
    pub(crate) fn with_files(&self) -> Vec<(String, Arc<Bound>)> {
        let mut found: Vec<(String, Arc<Bound>)> = Vec::new();
        let all = self.known.values().rev().flat_map(|holdings| &holdings.listeners);
        for (name, bound) in all.filter(|(_, bound)| bound.file().is_some()) {
            if !found.iter().any(|(_, other)| other.addr() == bound.addr()) {
                found.push((name.clone(), Arc::clone(bound)));
            }
        }
        found
    }

    /// Replaces the sockets that generations have at the address of a new one.
    pub(crate) fn replace(&mut self, new: &Arc<Bound>) -> Result<()> {
        let known = self.known.values_mut().flat_map(|holdings| &mut holdings.listeners);
        for (_, bound) in known.filter(|(_, bound)| bound.addr() == new.addr()) {
            *bound = match bound.is_like(new.settings()) {
                true => Arc::clone(new),
                false => Arc::new(bound.beside(new)?),
            };
        }
        Ok(())
    }
}
