//! Listeners that a new generation does not have any more: the old one finishes them.

use super::Generations;
use crate::config::Address;
use crate::listener::Bound;
use unbroken_core::event::Generation;

impl Generations {
    /// The listeners of `old` at whose address `new` has none, by name and address. Those of the service
    /// manager are not for us to end.
    pub(crate) fn removed(&self, old: Generation, new: Generation) -> Vec<(String, Address)> {
        let (Some(old), Some(new)) = (self.known.get(&old), self.known.get(&new)) else {
            return Vec::new();
        };
        let stays = |addr| new.listeners.iter().any(|(_, bound)| bound.addr() == addr);
        let ours = old.listeners.iter().filter(|(_, bound)| !bound.is_managers());
        let removed = ours.filter(|(_, bound)| !stays(bound.addr()));
        removed.map(|(name, bound)| (name.clone(), bound.addr().clone())).collect()
    }

    /// Closes this process' copies of what [`removed`](Generations::removed) names, so that its worker can
    /// close the last one. `old` is not to come back, nor are those before it that do not `stay`. The files
    /// of unix sockets stay until the last generation that had them is gone.
    pub(crate) fn drop_removed(&mut self, old: Generation, new: Generation, stay: &[Generation]) {
        let addrs: Vec<Address> =
            self.removed(old, new).into_iter().map(|(_, addr)| addr).collect();
        for (generation, holdings) in &mut self.known {
            if *generation > old || stay.contains(generation) {
                continue;
            }
            holdings.listeners.retain(|(_, bound)| {
                let stays = !addrs.contains(bound.addr());
                holdings.places.extend(bound.place().filter(|_| !stays));
                stays
            });
        }
    }

    /// As [`let_go`](Generations::let_go), of what workers of an earlier supervisor have; returns where that
    /// is.
    pub(crate) fn drop_removed_inherited(&mut self, new: Generation) -> Vec<Address> {
        let Some(new) = self.known.get(&new) else { return Vec::new() };
        let stays = |bound: &Bound| new.listeners.iter().any(|(_, its)| its.addr() == bound.addr());
        let (stay, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.inherited).into_iter().partition(|(_, bound)| stays(bound));
        self.inherited = stay;
        self.inherited_places.extend(gone.iter().filter_map(|(_, bound)| bound.place()));
        let ours = gone.into_iter().filter(|(_, bound)| !bound.is_managers());
        ours.map(|(_, bound)| bound.addr().clone()).collect()
    }

    /// Unlinks what is left of unix sockets that a generation, which is gone, let go.
    pub(super) fn clear(&self, places: &[crate::listener::SocketPlace]) {
        for place in places {
            let others = self.known.values().flat_map(|holdings| &holdings.places);
            if !others.into_iter().any(|other| other == place) {
                place.unlink();
            }
        }
    }
}
