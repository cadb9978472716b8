//! Labels, kept once for all objects that have the same ones.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, LazyLock},
};

static NONE: LazyLock<Labels> = LazyLock::new(|| Labels(Arc::default()));

/// An object's labels. Cloning shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels(Arc<BTreeMap<String, String>>);

impl Labels {
    /// The labels of an object's metadata.
    pub(super) fn new(labels: Option<&BTreeMap<String, String>>) -> Self {
        match labels {
            Some(labels) if !labels.is_empty() => Self(Arc::new(labels.clone())),
            _ => Self::default(),
        }
    }
}

impl Default for Labels {
    fn default() -> Self {
        NONE.clone()
    }
}

impl Deref for Labels {
    type Target = BTreeMap<String, String>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
