//! Which objects the Pods of a node refer to.
//!
//! Only which Pods are on which node is kept up to date, which costs next to nothing. What a Pod
//! refers to is read when its node first asks for something.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use foldhash::fast::RandomState;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use parking_lot::RwLock;

use super::references::References;
use crate::server::{
    cache::{Observer, Table},
    object::CachedObject,
    reader::Reader,
};

const NODE_NAME: &str = "spec.nodeName";

type Map<K, V> = HashMap<K, V, RandomState>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Graph {
    nodes: Arc<Nodes>,
    claims: Option<Arc<Table>>,
    volumes: Option<Arc<Table>>,
    resources: crate::resources::Resources,
    cache: Arc<crate::server::cache::Cache>,
}

/// Pods by node, and within a node by key.
#[derive(Debug, Default)]
struct Nodes(RwLock<Map<String, PodRows>>);

type PodRows = Map<Arc<str>, Arc<PodRow>>;

/// A Pod, and what it refers to once somebody asked.
#[derive(Debug)]
struct PodRow {
    pod: Arc<CachedObject>,
    references: OnceLock<References>,
}

impl Graph {
    /// Follows the Pods of a server.
    pub(super) fn of(reader: &Reader) -> Self {
        let nodes = Arc::new(Nodes::default());
        if let Some(pods) = reader.table::<Pod>() {
            pods.observe(nodes.clone());
        }
        Self {
            nodes,
            claims: reader.table::<PersistentVolumeClaim>(),
            volumes: reader.table::<PersistentVolume>(),
            resources: reader.resources.clone(),
            cache: reader.cache.clone(),
        }
    }

    /// Whether an object has to do with a node.
    pub(super) fn reaches(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        match resource {
            "pods" => self
                .pods(node)
                .iter()
                .any(|row| row.pod.namespace() == namespace && row.pod.name() == name),
            "configmaps" => self.refers(node, namespace, |found| found.config_maps.contains(name)),
            "serviceaccounts" => {
                self.refers(node, namespace, |found| found.service_account == name)
            }
            "persistentvolumeclaims" => {
                self.refers(node, namespace, |found| found.claims.contains(name))
            }
            "resourceclaims" => {
                self.refers(node, namespace, |found| found.resource_claims.contains(name))
            }
            "secrets" => {
                self.refers(node, namespace, |found| found.secrets.contains(name))
                    || self.volumes(node).iter().any(|volume| {
                        References::of_volume(volume)
                            .contains(&(namespace.to_owned(), name.to_owned()))
                    })
            }
            "persistentvolumes" => self
                .volumes(node)
                .iter()
                .any(|volume| volume.metadata.name.as_deref() == Some(name)),
            "volumeattachments" => {
                self.names_node(("storage.k8s.io", "VolumeAttachment"), None, name, node)
            }
            "resourceslices" => {
                self.names_node(("resource.k8s.io", "ResourceSlice"), None, name, node)
            }
            "podcertificaterequests" => {
                let kind = ("certificates.k8s.io", "PodCertificateRequest");
                self.names_node(kind, Some(namespace), name, node)
            }
            _ => false,
        }
    }

    fn pods(&self, node: &str) -> Vec<Arc<PodRow>> {
        let nodes = self.nodes.0.read();
        nodes.get(node).map(|pods| pods.values().cloned().collect()).unwrap_or_default()
    }

    fn refers(&self, node: &str, namespace: &str, is: impl Fn(&References) -> bool) -> bool {
        let pods = self.pods(node);
        let mut here = pods.iter().filter(|row| row.pod.namespace() == namespace);
        here.any(|row| is(row.references()))
    }

    /// The volumes that the claims of a node's Pods are bound to.
    fn volumes(&self, node: &str) -> Vec<PersistentVolume> {
        let (Some(claims), Some(volumes)) = (&self.claims, &self.volumes) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for row in self.pods(node) {
            let namespace = row.pod.namespace();
            for name in &row.references().claims {
                let claim = claims.get(&claims.resource.key(Some(namespace), name));
                let claim = claim.and_then(|claim| read::<PersistentVolumeClaim>(&claim));
                let volume = claim.and_then(|claim| claim.spec?.volume_name);
                let volume =
                    volume.and_then(|volume| volumes.get(&volumes.resource.key(None, &volume)));
                let volume = volume.and_then(|volume| read::<PersistentVolume>(&volume));
                // Only the claim that the volume names is bound to it, whatever a claim says.
                found.extend(volume.filter(|volume| {
                    let bound = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                    bound.is_some_and(|bound| {
                        bound.name.as_ref() == Some(name)
                            && bound.namespace.as_deref() == Some(namespace)
                    })
                }));
            }
        }
        found
    }

    /// Whether an object of a kind (group and kind) names the node in its `spec.nodeName`.
    fn names_node(
        &self,
        (group, kind): (&str, &str),
        namespace: Option<&str>,
        name: &str,
        node: &str,
    ) -> bool {
        let Some(resource) = self.resources.by_kind(group, "v1", kind) else { return false };
        let Ok(table) = self.cache.table(resource) else { return false };
        let object = table.get(&resource.key(namespace, name));
        let value = object.and_then(|object| read::<serde_json::Value>(&object));
        value.is_some_and(|value| {
            value.pointer("/spec/nodeName").and_then(|found| found.as_str()) == Some(node)
        })
    }
}

fn read<T: serde::de::DeserializeOwned>(object: &CachedObject) -> Option<T> {
    serde_json::from_slice(object.stored.bytes()).ok()
}

impl PodRow {
    fn references(&self) -> &References {
        self.references.get_or_init(|| {
            read::<Pod>(&self.pod).map(|pod| References::of_pod(&pod)).unwrap_or_default()
        })
    }
}

impl Nodes {
    fn put(nodes: &mut Map<String, Map<Arc<str>, Arc<PodRow>>>, pod: &Arc<CachedObject>) {
        let node = pod.field(NODE_NAME);
        if node.is_empty() {
            return;
        }
        let row = Arc::new(PodRow { pod: pod.clone(), references: OnceLock::new() });
        match nodes.get_mut(node) {
            Some(pods) => drop(pods.insert(pod.key.clone(), row)),
            None => {
                nodes.entry(node.to_owned()).or_default().insert(pod.key.clone(), row);
            }
        }
    }
}

impl Observer for Nodes {
    fn changed(&self, new: Option<&Arc<CachedObject>>, old: Option<&Arc<CachedObject>>) {
        let node =
            |pod: Option<&Arc<CachedObject>>| pod.map_or("", |pod| pod.field(NODE_NAME)).to_owned();
        let (before, after) = (node(old), node(new));
        if before.is_empty() && after.is_empty() {
            return;
        }
        let mut nodes = self.0.write();
        if let (Some(old), true) = (old, !before.is_empty() && before != after)
            && let Some(pods) = nodes.get_mut(&before)
        {
            pods.remove(&old.key);
            if pods.is_empty() {
                nodes.remove(&before);
            }
        }
        if let Some(new) = new {
            Self::put(&mut nodes, new);
        }
    }

    fn replaced(&self, objects: &mut dyn Iterator<Item = &Arc<CachedObject>>) {
        let mut nodes = self.0.write();
        nodes.clear();
        for pod in objects {
            Self::put(&mut nodes, pod);
        }
    }
}
