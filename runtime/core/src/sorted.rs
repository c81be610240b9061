//! Maps and sets for few entries, as sorted vectors, and a sort for few values.
//!
//! They have the part of the standard library's interface that is needed here. A B-tree would be
//! instantiated for each type of key and value, thousands of lines of code that every program would carry.
//! These collections hold workers, listeners and keys: a handful, and new ones mostly go to the end.

use std::borrow::Borrow;
use std::fmt;
use std::iter::Map as Mapped;
use std::ops::Index;
use std::{slice, vec};

/// A map in the order of its keys, as [`BTreeMap`](std::collections::BTreeMap).
#[derive(Clone, PartialEq, Eq)]
pub struct SortedMap<K, V> {
    entries: Vec<(K, V)>,
}

impl<K, V> SortedMap<K, V> {
    pub const fn new() -> Self {
        SortedMap { entries: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> Iter<'_, K, V> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    pub fn iter_mut(&mut self) -> IterMut<'_, K, V> {
        self.entries.iter_mut().map(|(key, value)| (&*key, value))
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator {
        self.entries.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator {
        self.entries.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut V> + ExactSizeIterator {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    pub fn pop_first(&mut self) -> Option<(K, V)> {
        (!self.is_empty()).then(|| self.entries.remove(0))
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain_mut(|(key, value)| keep(key, value));
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// Returns the index of a key, or the one at which to insert it.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.entries.binary_search_by(|(other, _)| other.borrow().cmp(key))
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| &self.entries[at].1)
    }

    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| &mut self.entries[at].1)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// Sets the value of a key; returns the previous one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.entries[at].1, value)),
            Err(at) => {
                self.entries.insert(at, (key, value));
                None
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| self.entries.remove(at).1)
    }

    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        Entry { at: self.find(&key), map: self, key }
    }
}

/// The place of a key in a map, whether it has a value or not.
pub struct Entry<'a, K, V> {
    map: &'a mut SortedMap<K, V>,
    key: K,
    at: Result<usize, usize>,
}

impl<'a, K, V> Entry<'a, K, V> {
    pub fn or_insert_with(self, value: impl FnOnce() -> V) -> &'a mut V {
        let at = match self.at {
            Ok(at) => at,
            Err(at) => {
                self.map.entries.insert(at, (self.key, value()));
                at
            }
        };
        &mut self.map.entries[at].1
    }

    pub fn or_default(self) -> &'a mut V
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SortedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Borrow<Q>, Q: Ord + ?Sized, V> Index<&Q> for SortedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        match self.find(key) {
            Ok(at) => &self.entries[at].1,
            Err(_) => panic!("no entry found for key"),
        }
    }
}

impl<K: Ord, V> Extend<(K, V)> for SortedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SortedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

type Iter<'a, K, V> = Mapped<slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;
type IterMut<'a, K, V> =
    Mapped<slice::IterMut<'a, (K, V)>, fn(&'a mut (K, V)) -> (&'a K, &'a mut V)>;

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a, K, V> IntoIterator for &'a SortedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, K, V> IntoIterator for &'a mut SortedMap<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = IterMut<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// A set in order, as [`BTreeSet`](std::collections::BTreeSet).
#[derive(Clone, PartialEq, Eq)]
pub struct SortedSet<T> {
    entries: Vec<T>,
}

impl<T> SortedSet<T> {
    pub const fn new() -> Self {
        SortedSet { entries: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> slice::Iter<'_, T> {
        self.entries.iter()
    }

    pub fn first(&self) -> Option<&T> {
        self.entries.first()
    }

    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.entries.retain(keep);
    }
}

impl<T: Ord> SortedSet<T> {
    /// Returns the index of a value, or the one at which to insert it.
    fn find<Q: Ord + ?Sized>(&self, value: &Q) -> Result<usize, usize>
    where
        T: Borrow<Q>,
    {
        self.entries.binary_search_by(|other| other.borrow().cmp(value))
    }

    pub fn contains<Q: Ord + ?Sized>(&self, value: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.find(value).is_ok()
    }

    /// Adds a value; returns whether it is new.
    pub fn insert(&mut self, value: T) -> bool {
        match self.find(&value) {
            Ok(_) => false,
            Err(at) => {
                self.entries.insert(at, value);
                true
            }
        }
    }
}

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for SortedSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T: Ord> Extend<T> for SortedSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        for value in values {
            self.insert(value);
        }
    }
}

impl<T: Ord> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut set = Self::new();
        set.extend(values);
        set
    }
}

impl<T> IntoIterator for SortedSet<T> {
    type Item = T;
    type IntoIter = vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a SortedSet<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Sorts few values, stably. An insertion sort is slow for many values, but far less code than `sort_by`.
pub fn sort_few<T>(values: &mut [T], is_before: impl Fn(&T, &T) -> bool) {
    for end in 1..values.len() {
        let mut at = end;
        while at > 0 && is_before(&values[at], &values[at - 1]) {
            values.swap(at, at - 1);
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::json;

    proptest! {
        #[test]
        fn sort_few_sorts_as_the_standard_library(mut values in proptest::collection::vec((0..5_u8, any::<u8>()), 0..20)) {
            let mut sorted = values.clone();
            sorted.sort_by_key(|(key, _)| *key);
            sort_few(&mut values, |(a, _), (b, _)| a < b);
            prop_assert_eq!(values, sorted);
        }

        #[test]
        fn set_behaves_as_the_standard_library_set(values in proptest::collection::vec(0..8_u8, 0..32), gone: u8) {
            let (mut set, mut model) = (SortedSet::new(), BTreeSet::new());
            for value in values {
                prop_assert_eq!(set.insert(value), model.insert(value));
            }
            set.retain(|value| *value != gone % 8);
            model.remove(&(gone % 8));
            prop_assert!(set.iter().eq(model.iter()));
            prop_assert!((0..9).all(|value| set.contains(&value) == model.contains(&value)));
            prop_assert_eq!(format!("{set:?}"), format!("{model:?}"));
            prop_assert_eq!(model.into_iter().collect::<SortedSet<_>>(), set);
        }

        #[test]
        fn map_behaves_as_the_standard_library_map(steps in proptest::collection::vec((0..5_u8, 0..8_u8, any::<u32>()), 0..64)) {
            let (mut map, mut model) = (SortedMap::new(), BTreeMap::new());
            for (step, key, value) in steps {
                match step {
                    0 => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    1 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    4 => prop_assert_eq!(map.pop_first(), model.pop_first()),
                    2 => {
                        *map.entry(key).or_default() ^= value;
                        *model.entry(key).or_default() ^= value;
                    }
                    _ => {
                        map.retain(|other, _| *other != key);
                        model.retain(|other, _| *other != key);
                    }
                }
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert_eq!(map.iter().next_back(), model.last_key_value());
                prop_assert_eq!(map.len(), model.len());
            }
            let text = json::to_vec(&map).unwrap();
            prop_assert_eq!(&text, &serde_json::to_vec(&model).unwrap());
            prop_assert_eq!(&json::from_slice::<SortedMap<u8, u32>>(&text).unwrap(), &map);
            prop_assert_eq!(format!("{model:?}"), format!("{:?}", model.into_iter().collect::<SortedMap<_, _>>()));
        }
    }

    #[test]
    fn later_entries_replace_earlier_ones() {
        let map = SortedMap::from([("b", 1), ("a", 2), ("b", 3)]);
        assert!(map.iter().eq([(&"a", &2), (&"b", &3)]));
        assert_eq!(map["b"], 3);
    }
}
