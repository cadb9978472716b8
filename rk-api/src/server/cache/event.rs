//! One change of one object, and its wire form, made once for all who watch.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::server::{filter::Filter, object::CachedObject};

/// How a change looks to a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The object came into view.
    Added,
    /// It changed and stayed in view.
    Modified,
    /// It went out of view.
    Deleted,
}

impl Change {
    /// As the wire has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    /// When it happened.
    pub revision: u64,
    /// The object afterwards; `None` when it is gone.
    pub object: Option<Arc<CachedObject>>,
    /// The object before; `None` when there was none.
    pub previous: Option<Arc<CachedObject>>,
}

impl Past {
    /// The change, to be handed to watchers.
    pub(crate) fn event(&self) -> WatchEvent {
        WatchEvent { past: self.clone(), frames: Default::default() }
    }

    /// How the change looks to somebody who sees all objects.
    pub(crate) fn change(&self) -> Change {
        match (&self.previous, &self.object) {
            (None, _) => Change::Added,
            (Some(_), Some(_)) => Change::Modified,
            (Some(_), None) => Change::Deleted,
        }
    }

    /// How the change looks to somebody who only sees what `filter` matches; `None` when it does
    /// not concern them.
    pub(crate) fn change_for(&self, filter: &Filter) -> Option<Change> {
        self.change_to(|object| filter.matches(object))
    }

    /// The same for somebody who sees the objects for which this holds.
    pub(crate) fn change_to(&self, matches: impl Fn(&CachedObject) -> bool) -> Option<Change> {
        let sees = |object: &Option<Arc<CachedObject>>| {
            object.as_ref().is_some_and(|object| matches(object))
        };
        match (sees(&self.previous), sees(&self.object)) {
            (false, true) => Some(Change::Added),
            (true, true) => Some(Change::Modified),
            (true, false) => Some(Change::Deleted),
            (false, false) => None,
        }
    }

    /// The object that the change shows: the new one, or the last that was in view.
    pub(crate) fn subject(&self, change: Change) -> Option<&Arc<CachedObject>> {
        match change {
            Change::Added | Change::Modified => self.object.as_ref(),
            Change::Deleted => self.previous.as_ref(),
        }
    }

    /// How much memory it holds on to, roughly.
    pub(crate) fn size_bytes(&self) -> usize {
        let object = self.object.as_ref().or(self.previous.as_ref());
        512 + object.map_or(0, |object| object.stored.bytes().len())
    }
}

/// A change on its way to those who watch. They share it and its wire form; what is kept for
/// watches that begin later has none, because it is as large as the object.
#[derive(Debug)]
pub(crate) struct WatchEvent {
    /// The change.
    pub past: Past,
    frames: [OnceLock<Bytes>; 3],
}

impl WatchEvent {
    /// The line that tells a watcher, with its line feed. The object has the event's version, also
    /// when it is the old one.
    pub(crate) fn frame(&self, change: Change) -> &Bytes {
        self.frames[change as usize].get_or_init(|| match self.past.subject(change) {
            Some(object) => {
                let mut out = Vec::with_capacity(object.stored.len_max() + 40);
                let revision = self.past.revision;
                frame(change.as_str(), &mut out, |out| object.stored.write(revision, out));
                out.into()
            }
            None => Bytes::new(),
        })
    }
}

/// Writes one line of a watch.
pub(crate) fn frame(kind: &str, out: &mut Vec<u8>, object: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object(out);
    out.extend_from_slice(b"}\n");
}
