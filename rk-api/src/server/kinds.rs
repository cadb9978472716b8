//! The kinds that are served now: the built-in ones and those of CustomResourceDefinitions.
//!
//! A request takes a [`Snapshot`] when it begins and sees the same kinds until it ends. Taking one
//! is a load of a pointer; a change of the kinds makes a new snapshot, which shares with the old one
//! all that did not change.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use crate::{
    discovery,
    openapi::{Document, Documents},
    resources::{Resource, Resources},
};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Kinds {
    builtin: Resources,
    now: ArcSwap<Snapshot>,
}

/// The kinds that are served at one moment, and what clients are told about them.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The kinds.
    pub resources: Resources,
    /// What OpenAPI says of them.
    pub documents: Documents,
    aggregated_core: OnceLock<Document>,
    aggregated_groups: OnceLock<Document>,
}

impl Kinds {
    /// These kinds, which are served whatever else is.
    pub(super) fn new(builtin: Resources) -> Self {
        let documents = Documents::new(builtin.clone());
        let now = ArcSwap::from_pointee(Snapshot::of(builtin.clone(), documents));
        Self { builtin, now }
    }

    /// The kinds that the server was started with.
    pub(super) fn builtin(&self) -> &Resources {
        &self.builtin
    }

    /// What is served now.
    pub(super) fn now(&self) -> Arc<Snapshot> {
        self.now.load_full()
    }

    /// From now on these rows are served besides the built-in ones, which they cannot replace.
    /// Only one task may do this.
    pub(super) fn serve(&self, custom: impl IntoIterator<Item = Arc<Resource>>) {
        let is_new =
            |row: &Arc<Resource>| self.builtin.get(&row.group, &row.version, &row.plural).is_none();
        let resources = self.builtin.and(custom.into_iter().filter(is_new));
        let documents = self.now.load().documents.of(resources.clone());
        self.now.store(Arc::new(Snapshot::of(resources, documents)));
    }
}

impl Snapshot {
    fn of(resources: Resources, documents: Documents) -> Self {
        Self {
            resources,
            documents,
            aggregated_core: OnceLock::new(),
            aggregated_groups: OnceLock::new(),
        }
    }

    /// `/api` in the aggregated form.
    pub(super) fn aggregated_core(&self) -> &Document {
        self.aggregated_core
            .get_or_init(|| Document::json(&discovery::aggregated_core(&self.resources)))
    }

    /// `/apis` in the aggregated form.
    pub(super) fn aggregated_groups(&self) -> &Document {
        self.aggregated_groups
            .get_or_init(|| Document::json(&discovery::aggregated_groups(&self.resources)))
    }
}
