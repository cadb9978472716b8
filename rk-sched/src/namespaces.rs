//! What plugins know of namespaces.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::api::core::v1::Namespace;
use parking_lot::RwLock;
use rk_api::client::Informer;

/// Where affinity between Pods looks up the labels of namespaces. Clones see the same.
///
/// It is empty until the scheduler that the plugin belongs to runs. Without it no namespace has
/// labels.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(Arc<RwLock<Option<Arc<dyn NamespaceView>>>>);

/// The namespaces of a cluster at some moment.
pub trait NamespaceView: Debug + Send + Sync {
    /// A namespace by name.
    fn namespace(&self, name: &str) -> Option<Arc<Namespace>>;
    /// All of them.
    fn namespaces(&self) -> Vec<Arc<Namespace>>;
}

impl Namespaces {
    /// Looks them up there from now on.
    pub fn connect(&self, view: Arc<dyn NamespaceView>) {
        *self.0.write() = Some(view);
    }

    /// Where to look them up, if that is known.
    pub fn view(&self) -> Option<Arc<dyn NamespaceView>> {
        self.0.read().clone()
    }
}

impl NamespaceView for Informer<Namespace> {
    fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        self.get("", name)
    }
    fn namespaces(&self) -> Vec<Arc<Namespace>> {
        self.list()
    }
}
