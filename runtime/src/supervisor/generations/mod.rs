//! The resources of each generation: its image, configuration and listeners.
//!
//! Generations share images and sockets: a socket is bound once, and each generation that declares a listener
//! at its address refers to it. [`passed`] holds the sockets of the service manager, [`removed`] closes those
//! that a new generation no longer declares, and [`files`] replaces those whose files were removed.

use std::sync::Arc;

use crate::config::{Address, Configuration, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint::{self, Step};
use crate::image::{self, Image};
use crate::inherited_fd::FdTable;
use crate::json::{FromJson, ToJson};
use crate::listener::{self, Bound, SocketPlace};
use crate::sys::privileges::Account;
use unbroken_core::event::Generation;
use unbroken_core::sorted::SortedMap;

mod files;
mod passed;
mod removed;

/// The generations that have or may get workers.
#[derive(Default)]
pub(crate) struct Generations {
    /// The resources by generation.
    known: SortedMap<Generation, GenerationResources>,
    /// The last generation that was replaced, while a rollback to it is possible.
    kept: Option<KeptImage>,
    /// The listeners of orphans, or of an earlier daemon from the fd store, by name. Their files are not
    /// unlinked before the orphans have ended.
    inherited: Vec<(String, Arc<Bound>)>,
    /// The files of inherited unix sockets that this process has closed already.
    inherited_places: Vec<SocketPlace>,
    /// The sockets that the service manager passed at the start, for each generation that declares a listener
    /// of that name. A name may have several.
    passed: Vec<(String, Arc<Bound>)>,
    /// The addresses of the daemon's listeners in the service manager's fd store: their files outlive this
    /// daemon.
    kept_places: Vec<Address>,
}

/// What is kept of a replaced generation for a rollback.
struct KeptImage {
    generation: Generation,
    image: Arc<Image>,
    configuration: Configuration,
}

/// The resources of one generation.
pub(crate) struct GenerationResources {
    pub(crate) image: Arc<Image>,
    /// The configuration; `None` until the *hello* of its first worker.
    pub(crate) configuration: Option<Configuration>,
    /// The listeners by name. A name may have several sockets.
    pub(crate) listeners: Vec<(String, Arc<Bound>)>,
    /// The files of unix sockets that this process has closed, to be unlinked when the generation is
    /// released.
    places: Vec<SocketPlace>,
    /// The user that its workers run as, once one has reported it.
    identity: Option<Account>,
    /// The listeners that the daemon closes when it stops, whose last copies the workers have from then on.
    ending: Vec<(String, Address)>,
}

impl GenerationResources {
    fn new(image: &Arc<Image>) -> GenerationResources {
        GenerationResources {
            image: Arc::clone(image),
            configuration: None,
            listeners: Vec::new(),
            places: Vec::new(),
            identity: None,
            ending: Vec::new(),
        }
    }
}

impl Generations {
    /// Creates a set without generations that has inherited these listeners.
    pub(crate) fn with_inherited(inherited: Vec<(String, Arc<Bound>)>) -> Generations {
        Generations { inherited, ..Generations::default() }
    }

    /// Closes the inherited listeners and unlinks the files of those that no generation has: the orphans no
    /// longer need them.
    pub(crate) fn release_inherited(&mut self) {
        for (_, bound) in std::mem::take(&mut self.inherited) {
            if self.other(&bound, None).is_none() {
                self.unlink(&bound);
            }
        }
        let places = std::mem::take(&mut self.inherited_places);
        self.clear(&places);
    }

    /// Returns the listener at the same address of the latest generation other than `but`.
    fn other(&self, bound: &Bound, but: Option<Generation>) -> Option<&Arc<Bound>> {
        let known = self.known.iter().rev().filter(|(generation, _)| Some(**generation) != but);
        let known = known.flat_map(|(_, holdings)| &holdings.listeners);
        known
            .chain(&self.inherited)
            .map(|(_, bound)| bound)
            .find(|theirs| theirs.addr() == bound.addr())
    }

    /// Restores the socket options and file permissions that an aborted generation has changed on listeners
    /// that it shares with another one.
    pub(crate) fn restore_listeners(&self, aborted: Generation) {
        let Some(holdings) = self.known.get(&aborted) else { return };
        for (_, bound) in &holdings.listeners {
            let theirs = self.other(bound, Some(aborted));
            theirs.filter(|theirs| !Arc::ptr_eq(theirs, bound)).iter().for_each(|it| it.restore());
        }
    }

    /// Releases a listener of a generation that was removed: restores it for another generation that has
    /// it, or unlinks its file.
    fn release(&self, bound: &Arc<Bound>) {
        match self.other(bound, None) {
            Some(theirs) if Arc::ptr_eq(theirs, bound) => {}
            Some(theirs) => theirs.restore(),
            None => self.unlink(bound),
        }
    }

    /// Unlinks the file of a unix listener, unless the service manager keeps the socket.
    fn unlink(&self, bound: &Bound) {
        if !self.kept_places.contains(bound.addr()) {
            bound.unlink();
        }
    }

    /// Adds a generation with its image.
    pub(crate) fn begin(&mut self, generation: Generation, image: Image) -> Arc<Image> {
        let image = Arc::new(image);
        let holdings = GenerationResources::new(&image);
        self.known.insert(generation, holdings);
        image
    }

    /// Adds a generation with the image and the configuration of an earlier one.
    pub(crate) fn begin_from(
        &mut self,
        generation: Generation,
        earlier: Generation,
    ) -> Result<Arc<Image>> {
        let known = self.known.get(&earlier);
        let known = known.and_then(|it| Some((Arc::clone(&it.image), it.configuration.clone()?)));
        let kept = self.kept.as_ref().filter(|kept| kept.generation == earlier);
        let kept = kept.map(|kept| (Arc::clone(&kept.image), kept.configuration.clone()));
        let Some((image, configuration)) = known.or(kept) else {
            return Err(Error::new(
                ErrorKind::Image,
                format!("the image of generation {earlier} is no longer available"),
            ));
        };
        let holdings = GenerationResources::new(&image);
        self.known.insert(generation, holdings);
        self.configure(generation, configuration)?;
        Ok(image)
    }

    pub(crate) fn get(&self, generation: Generation) -> Option<&GenerationResources> {
        self.known.get(&generation)
    }

    /// Notes the user that a generation's workers run as. Only the first report counts, which a worker sends
    /// before it runs user code. Fails if that user could modify the image that this process executes.
    pub(crate) fn set_identity(&mut self, generation: Generation, identity: Account) -> Result<()> {
        let Some(holdings) = self.known.get_mut(&generation) else { return Ok(()) };
        if holdings.identity.is_none() {
            holdings.image.check_trust(std::slice::from_ref(&identity))?;
            holdings.identity = Some(identity);
        }
        Ok(())
    }

    /// Returns the users that workers run as.
    pub(crate) fn identities(&self) -> Vec<Account> {
        self.known.values().filter_map(|holdings| holdings.identity.clone()).collect()
    }

    /// Gives a generation its configuration and listeners: binds those that are not bound yet and adjusts
    /// those that it shares. If one fails, all is as before.
    pub(crate) fn configure(
        &mut self,
        generation: Generation,
        configuration: Configuration,
    ) -> Result<()> {
        let mut listeners: Vec<(String, Arc<Bound>)> = Vec::new();
        let (mut shared, mut fresh): (Vec<Arc<Bound>>, Vec<Arc<Bound>>) = (Vec::new(), Vec::new());
        for (name, declared) in &configuration.settings.listen {
            let passed = self.passed_as(name);
            if !passed.is_empty() {
                listeners.extend(passed);
                continue;
            }
            for binding in declared.each() {
                let wanted = &binding.settings;
                let bound = match self.bound(name, &wanted.addr) {
                    Some(bound) if bound.is_like(wanted) => Ok(Some(bound)),
                    Some(bound) => {
                        let adjusted = bound.adjusted(name, wanted).map(Arc::new);
                        shared.push(bound);
                        adjusted.map(Some)
                    }
                    None => failpoint::try_hit(Step::SupervisorBeforeBind, generation)
                        .map_err(|error| Error::io(format!("cannot bind listener `{name}`"), error))
                        .and_then(|()| {
                            let its = listeners.iter().filter(|(its, _)| its == name);
                            listener::bind(name, &binding, its.map(|(_, bound)| &**bound))
                        })
                        .map(|bound| bound.map(Arc::new))
                        .inspect(|bound| fresh.extend(bound.clone())),
                };
                let bound = bound.inspect_err(|_| {
                    fresh.iter().for_each(|bound| bound.unlink());
                    shared.iter().for_each(|bound| bound.restore());
                })?;
                listeners.extend(bound.map(|bound| (name.clone(), bound)));
            }
        }
        if let Some(holdings) = self.known.get_mut(&generation) {
            holdings.listeners = listeners;
            holdings.configuration = Some(configuration);
        }
        Ok(())
    }

    /// Returns the socket that a generation has at this address already, whatever its name there; but one
    /// whose port the kernel chose only for the same name.
    fn bound(&self, name: &str, addr: &Address) -> Option<Arc<Bound>> {
        let all = || {
            let known = self.known.values().rev().flat_map(|holdings| &holdings.listeners);
            known.chain(&self.inherited)
        };
        all()
            .find(|(other, bound)| other == name && bound.is_at(addr))
            .or_else(|| all().find(|(_, bound)| bound.is_at(addr) && !bound.has_chosen_port()))
            .map(|(_, bound)| Arc::clone(bound))
    }

    /// Releases the resources of a generation. With `keep`, its image and configuration stay for a rollback.
    pub(crate) fn retire(&mut self, generation: Generation, keep: bool) {
        let Some(holdings) = self.known.remove(&generation) else { return };
        if let (true, Some(configuration)) = (keep, &holdings.configuration) {
            let (image, configuration) = (Arc::clone(&holdings.image), configuration.clone());
            self.kept = Some(KeptImage { generation, image, configuration });
        }
        holdings.listeners.iter().for_each(|(_, bound)| self.release(bound));
        self.clear(&holdings.places);
    }

    /// Returns the listeners whose queued connections the worker of a generation must still accept when the
    /// daemon stops.
    pub(crate) fn stopping_listeners(&self, generation: Generation) -> Vec<(String, Address)> {
        self.known.get(&generation).map_or(Vec::new(), |holdings| holdings.ending.clone())
    }

    /// Closes this process's copies of all listeners, so that the workers have the last ones and must
    /// accept what is queued. Exempt are those that the service manager passed or keeps: what is queued
    /// there waits for the next start.
    pub(crate) fn close_listeners(&mut self) {
        for holdings in self.known.values_mut() {
            let ours = holdings.listeners.iter().filter(|(_, bound)| {
                !bound.is_managers() && !self.kept_places.contains(bound.addr())
            });
            let ours = ours.map(|(name, bound)| (name.clone(), bound.addr().clone()));
            holdings.ending.extend(ours);
        }
        let all: Vec<_> = self
            .known
            .values_mut()
            .flat_map(|holdings| std::mem::take(&mut holdings.listeners))
            .collect();
        self.passed.clear();
        all.iter().for_each(|(_, bound)| self.release(bound));
    }

    /// Releases all generations.
    pub(crate) fn retire_all(&mut self) {
        let all: Vec<Generation> = self.known.keys().copied().collect();
        for generation in all {
            self.retire(generation, false);
        }
    }
}

/// The generations in the state that a supervisor hands to its next image. Images and sockets that several
/// generations share are written once and referred to by index.
#[derive(Debug, ToJson, FromJson)]
pub(super) struct GenerationsState {
    images: Vec<image::ImageState>,
    sockets: Vec<listener::BoundState>,
    known: SortedMap<Generation, GenerationState>,
    kept: Option<KeptImageState>,
    #[json(default)]
    inherited: Vec<(String, usize)>,
    #[json(default)]
    inherited_places: Vec<SocketPlace>,
    #[json(default)]
    passed: Vec<(String, usize)>,
    #[json(default)]
    kept_places: Vec<Address>,
}

/// The state of one generation.
#[derive(Debug, ToJson, FromJson)]
struct GenerationState {
    image: usize,
    configuration: Option<Configuration>,
    listeners: SortedMap<String, usize>,
    /// Further sockets of the names in `listeners`.
    #[json(default)]
    more: Vec<(String, usize)>,
    #[json(default)]
    places: Vec<SocketPlace>,
    #[json(default)]
    identity: Option<Account>,
}

/// The state of the generation kept for a rollback.
#[derive(Debug, ToJson, FromJson)]
struct KeptImageState {
    generation: Generation,
    image: usize,
    configuration: Configuration,
}

/// Collects shared values, so that each is packed once.
struct Shared<'a, T, P> {
    seen: Vec<&'a Arc<T>>,
    packed: Vec<P>,
}

impl<'a, T, P> Shared<'a, T, P> {
    fn new() -> Shared<'a, T, P> {
        Shared { seen: Vec::new(), packed: Vec::new() }
    }

    /// Returns the index of a value; packs it if it is new.
    fn place(&mut self, value: &'a Arc<T>, pack: impl FnOnce(&T) -> P) -> usize {
        if let Some(place) = self.seen.iter().position(|seen| Arc::ptr_eq(seen, value)) {
            return place;
        }
        self.seen.push(value);
        self.packed.push(pack(value));
        self.seen.len() - 1
    }
}

impl Generations {
    pub(super) fn pack<'a>(&'a self, packing: &mut FdTable) -> GenerationsState {
        let (mut images, mut sockets) = (Shared::new(), Shared::new());
        let mut known = SortedMap::new();
        for (generation, holdings) in &self.known {
            let image = images.place(&holdings.image, |image| image.pack(packing));
            let (mut listeners, mut more) = (SortedMap::new(), Vec::new());
            for (name, bound) in &holdings.listeners {
                let place = sockets.place(bound, |bound| bound.pack(packing));
                match listeners.contains_key(name) {
                    false => _ = listeners.insert(name.clone(), place),
                    true => more.push((name.clone(), place)),
                }
            }
            let configuration = holdings.configuration.clone();
            let places = holdings.places.clone();
            let identity = holdings.identity.clone();
            let packed =
                GenerationState { image, configuration, listeners, more, places, identity };
            known.insert(*generation, packed);
        }
        let kept = self.kept.as_ref().map(|kept| KeptImageState {
            generation: kept.generation,
            image: images.place(&kept.image, |image| image.pack(packing)),
            configuration: kept.configuration.clone(),
        });
        let mut named = |(name, bound): &'a (String, Arc<Bound>)| {
            (name.clone(), sockets.place(bound, |bound| bound.pack(packing)))
        };
        let inherited = self.inherited.iter().map(&mut named).collect();
        let passed = self.passed.iter().map(&mut named).collect();
        let inherited_places = self.inherited_places.clone();
        let kept_places = self.kept_places.clone();
        let (images, sockets) = (images.packed, sockets.packed);
        GenerationsState {
            images,
            sockets,
            known,
            kept,
            inherited,
            inherited_places,
            passed,
            kept_places,
        }
    }

    pub(super) fn unpack(packed: GenerationsState) -> Result<Generations> {
        let images: Vec<Arc<Image>> = packed
            .images
            .into_iter()
            .map(|image| Image::unpack(image).map(Arc::new))
            .collect::<Result<_>>()?;
        let sockets: Vec<Arc<Bound>> = packed
            .sockets
            .into_iter()
            .map(|socket| Bound::unpack(socket).map(Arc::new))
            .collect::<Result<_>>()?;
        let mut generations = Generations {
            inherited_places: packed.inherited_places,
            kept_places: packed.kept_places,
            ..Generations::default()
        };
        for (name, place) in packed.inherited {
            generations.inherited.push((name, at(&sockets, place)?));
        }
        for (name, place) in packed.passed {
            generations.passed.push((name, at(&sockets, place)?));
        }
        for (generation, holdings) in packed.known {
            let mut listeners = Vec::new();
            for (name, place) in &holdings.listeners {
                listeners.push((name.clone(), at(&sockets, *place)?));
                for (_, place) in holdings.more.iter().filter(|(more, _)| more == name) {
                    listeners.push((name.clone(), at(&sockets, *place)?));
                }
            }
            let GenerationState { configuration, places, identity, .. } = holdings;
            let image = at(&images, holdings.image)?;
            // A supervisor that stops is not upgraded, so that no listeners are ending.
            let ending = Vec::new();
            let holdings =
                GenerationResources { image, configuration, listeners, places, identity, ending };
            generations.known.insert(generation, holdings);
        }
        if let Some(KeptImageState { generation, image, configuration }) = packed.kept {
            let image = at(&images, image)?;
            generations.kept = Some(KeptImage { generation, image, configuration });
        }
        Ok(generations)
    }
}

/// Returns the value at an index of the state.
fn at<T>(all: &[Arc<T>], place: usize) -> Result<Arc<T>> {
    all.get(place).map(Arc::clone).ok_or_else(|| {
        Error::new(
            ErrorKind::Protocol,
            format!("the state refers to entry {place} of {}", all.len()),
        )
    })
}

/// Checks that a generation with these settings can replace one of the daemon that was started with others.
pub(crate) fn check_successor(started: &Settings, new: &Settings) -> Result<()> {
    let changed = |key: &str, old: &str, new: &str| {
        Err(Error::new(
            ErrorKind::Refused,
            format!("`{key}` changed from {old} to {new}; stop and start the daemon to change it"),
        ))
    };
    if started.name != new.name {
        return changed("name", &started.name, &new.name);
    }
    for (key, old, new) in [
        ("pidfile", &started.pidfile, &new.pidfile),
        ("runtime_dir", &started.runtime_dir, &new.runtime_dir),
    ] {
        if old != new {
            return changed(key, &old.display().to_string(), &new.display().to_string());
        }
    }
    if !new.graceful_restart {
        return Err(Error::new(
            ErrorKind::Refused,
            "the new image is built without `graceful_restart`; stop and start the daemon to use \
             it",
        ));
    }
    Ok(())
}
