//! The registry of open `tracing` spans, and the stack of spans that each thread has entered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::Metadata;
use tracing::span::{Attributes, Id};

use super::event::Field;

/// The open spans.
#[derive(Debug, Default)]
pub(super) struct Spans(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    last: u64,
    spans: HashMap<u64, Span>,
}

#[derive(Debug)]
struct Span {
    metadata: &'static Metadata<'static>,
    parent: Option<Id>,
    /// The number of handles that the program has, plus one for each child span.
    handles: usize,
    fields: Vec<Field>,
}

thread_local! {
    /// The spans that this thread has entered, the innermost last. A global suffices: a process has one
    /// subscriber.
    static ENTERED: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
}

impl Spans {
    /// Locks the registry. Code of the program never runs while it is locked: values are formatted before.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a span; it keeps its parent open.
    pub(super) fn add(&self, attributes: &Attributes<'_>, fields: Vec<Field>) -> Id {
        let parent = match attributes.is_contextual() {
            true => current(),
            false => attributes.parent().cloned(),
        };
        let mut open = self.open();
        let parent = parent.filter(|parent| open.hold(parent));
        open.last += 1;
        let id = open.last;
        let metadata = attributes.metadata();
        open.spans.insert(id, Span { metadata, parent, handles: 1, fields });
        Id::from_u64(id)
    }

    /// Sets fields of a span.
    pub(super) fn record(&self, id: &Id, fields: Vec<Field>) {
        if let Some(span) = self.open().spans.get_mut(&id.into_u64()) {
            span.fields.retain(|(name, _)| fields.iter().all(|(other, _)| other != name));
            span.fields.extend(fields);
        }
    }

    /// Counts one more handle of a span.
    pub(super) fn hold(&self, id: &Id) {
        self.open().hold(id);
    }

    /// Counts one handle less; returns whether that closed the span.
    pub(super) fn release(&self, id: &Id) -> bool {
        self.open().release(id)
    }

    /// The span that this thread entered last, with its metadata.
    pub(super) fn current(&self) -> Option<(Id, &'static Metadata<'static>)> {
        let id = current()?;
        let metadata = self.open().spans.get(&id.into_u64())?.metadata;
        Some((id, metadata))
    }

    /// The names and fields of a span and its ancestors, the outermost first.
    pub(super) fn scope(&self, innermost: Option<Id>) -> Vec<(&'static str, Vec<Field>)> {
        let open = self.open();
        let mut scope = Vec::new();
        let mut next = innermost;
        while let Some(span) = next.and_then(|id| open.spans.get(&id.into_u64())) {
            scope.push((span.metadata.name(), span.fields.clone()));
            next = span.parent.clone();
        }
        scope.reverse();
        scope
    }
}

impl Open {
    fn hold(&mut self, id: &Id) -> bool {
        let span = self.spans.get_mut(&id.into_u64());
        span.map(|span| span.handles += 1).is_some()
    }

    /// A closed span releases its parent, which may close in turn.
    fn release(&mut self, id: &Id) -> bool {
        let mut id = id.into_u64();
        let mut closed = false;
        while let Some(span) = self.spans.get_mut(&id) {
            span.handles = span.handles.saturating_sub(1);
            if span.handles > 0 {
                break;
            }
            closed = true;
            match self.spans.remove(&id).and_then(|span| span.parent) {
                Some(parent) => id = parent.into_u64(),
                None => break,
            }
        }
        closed
    }
}

/// Records that this thread enters a span.
pub(super) fn enter(id: &Id) {
    // Fails in a thread that is ending, whose thread-local values are destroyed.
    let _ = ENTERED.try_with(|entered| entered.borrow_mut().push(id.clone()));
}

/// Records that this thread leaves a span, which need not be the innermost.
pub(super) fn exit(id: &Id) {
    let _ = ENTERED.try_with(|entered| {
        let mut entered = entered.borrow_mut();
        if let Some(at) = entered.iter().rposition(|other| other == id) {
            entered.remove(at);
        }
    });
}

/// The span that this thread entered last.
pub(super) fn current() -> Option<Id> {
    ENTERED.try_with(|entered| entered.borrow().last().cloned()).ok().flatten()
}
