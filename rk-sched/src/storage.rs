//! What plugins know of volumes, claims and classes.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
    storage::v1::{CSINode, StorageClass},
};
use parking_lot::RwLock;
use rk_api::{
    client::{Informer, Informers},
    volumes::volume_class,
};

use crate::PodInfo;

/// Where the storage plugins look things up. Clones see the same.
///
/// It is empty until the scheduler that a plugin belongs to runs. Without it nothing is known of
/// claims, and the storage plugins let every Pod pass.
#[derive(Clone, Debug, Default)]
pub struct Storage(Arc<RwLock<Option<Arc<dyn StorageView>>>>);

/// The storage of a cluster at some moment.
pub trait StorageView: Debug + Send + Sync {
    /// A claim by namespace and name.
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    /// A volume by name.
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// The volumes of a class, empty for those without one.
    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>>;
    /// The volumes that name a claim of this name.
    fn volumes_kept_for(&self, namespace: &str, claim: &str) -> Vec<Arc<PersistentVolume>>;
    /// A class by name.
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
    /// What the drivers of a node say of it.
    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>>;
    /// A node by name.
    fn node(&self, name: &str) -> Option<Arc<Node>>;
}

impl Storage {
    /// Looks things up there from now on.
    pub fn connect(&self, view: Arc<dyn StorageView>) {
        *self.0.write() = Some(view);
    }

    /// Where to look things up, if that is known.
    pub fn view(&self) -> Option<Arc<dyn StorageView>> {
        self.0.read().clone()
    }
}

/// Caches as a view.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    pub(crate) claims: Informer<PersistentVolumeClaim>,
    pub(crate) volumes: Informer<PersistentVolume>,
    pub(crate) classes: Informer<StorageClass>,
    pub(crate) csi_nodes: Informer<CSINode>,
    nodes: Informer<Node>,
}

/// Index of volumes by class.
const BY_CLASS: &str = "volume-class";
/// Index of volumes by the claim they name.
const BY_CLAIMANT: &str = "claimant";

impl Caches {
    pub(crate) fn new(informers: &Informers) -> Self {
        let caches = Self {
            claims: informers.of(),
            volumes: informers.of(),
            classes: informers.of(),
            csi_nodes: informers.of(),
            nodes: informers.of(),
        };
        caches.volumes.add_index(BY_CLASS, |volume| vec![volume_class(volume).to_owned()]);
        caches.volumes.add_index(BY_CLAIMANT, index_by_claimant);
        caches
    }

    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.claims.synced(),
            self.volumes.synced(),
            self.classes.synced(),
            self.csi_nodes.synced()
        );
    }
}

fn index_by_claimant(volume: &PersistentVolume) -> Vec<String> {
    let claimant = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let key = claimant.and_then(|claimant| {
        Some(format!("{}/{}", claimant.namespace.as_ref()?, claimant.name.as_ref()?))
    });
    key.into_iter().collect()
}

impl StorageView for Caches {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(namespace, name)
    }
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }
    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        self.volumes.by_index(BY_CLASS, class)
    }
    fn volumes_kept_for(&self, namespace: &str, claim: &str) -> Vec<Arc<PersistentVolume>> {
        self.volumes.by_index(BY_CLAIMANT, &format!("{namespace}/{claim}"))
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get("", name)
    }
    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
        self.csi_nodes.get("", name)
    }
    fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get("", name)
    }
}

/// The claims of a Pod that are there.
pub(crate) fn claims_of(
    pod: &PodInfo,
    view: &dyn StorageView,
) -> impl Iterator<Item = Arc<PersistentVolumeClaim>> {
    let names = rk_api::volumes::claims_of(&pod.pod);
    names.filter_map(|name| view.claim(pod.namespace(), &name))
}

/// Whether a Pod has claims at all. Most have none, and the storage plugins do nothing for them.
pub(crate) fn has_claims(pod: &PodInfo) -> bool {
    rk_api::volumes::claims_of(&pod.pod).next().is_some()
}

#[cfg(test)]
pub(crate) mod fake {
    //! A view of a few maps.

    use std::collections::BTreeMap;

    use serde_json::{Value, from_value};

    use super::*;

    #[derive(Clone, Debug, Default)]
    pub(crate) struct Fake {
        pub(crate) claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
        pub(crate) volumes: BTreeMap<String, Arc<PersistentVolume>>,
        pub(crate) classes: BTreeMap<String, Arc<StorageClass>>,
        pub(crate) csi_nodes: BTreeMap<String, Arc<CSINode>>,
        pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    }

    fn named(mut object: Value, name: &str) -> Value {
        object["metadata"]["name"] = name.into();
        object
    }

    impl Fake {
        pub(crate) fn claim(mut self, name: &str, object: Value) -> Self {
            let mut object = named(object, name);
            object["metadata"]["namespace"] = "default".into();
            self.claims.insert(name.into(), Arc::new(from_value(object).unwrap()));
            self
        }
        pub(crate) fn volume(mut self, name: &str, object: Value) -> Self {
            self.volumes.insert(name.into(), Arc::new(from_value(named(object, name)).unwrap()));
            self
        }
        pub(crate) fn class(mut self, name: &str, object: Value) -> Self {
            self.classes.insert(name.into(), Arc::new(from_value(named(object, name)).unwrap()));
            self
        }
        pub(crate) fn csi_node(mut self, name: &str, object: Value) -> Self {
            self.csi_nodes.insert(name.into(), Arc::new(from_value(named(object, name)).unwrap()));
            self
        }
    }

    impl StorageView for Fake {
        fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
            self.claims.get(name).cloned()
        }
        fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
            self.volumes.get(name).cloned()
        }
        fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
            let all = self.volumes.values();
            all.filter(|volume| volume_class(volume) == class).cloned().collect()
        }
        fn volumes_kept_for(&self, _: &str, claim: &str) -> Vec<Arc<PersistentVolume>> {
            let key = format!("default/{claim}");
            let all = self.volumes.values();
            all.filter(|volume| index_by_claimant(volume).contains(&key)).cloned().collect()
        }
        fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
            self.classes.get(name).cloned()
        }
        fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
            self.csi_nodes.get(name).cloned()
        }
        fn node(&self, name: &str) -> Option<Arc<Node>> {
            self.nodes.get(name).cloned()
        }
    }
}
