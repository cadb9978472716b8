//! NodeRestriction: a kubelet changes its own Node, the status of its own Pods, and little else.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use k8s_openapi::api::{
    certificates::v1::PodCertificateRequest,
    core::v1::{Node, PersistentVolumeClaim, Pod},
};

use super::{Admission, AdmissionRequest, Operation};
use crate::server::{
    authz::node::{References, identity},
    reader::Reader,
    status::{ApiError, Result, Subject},
};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";

/// Labels of Kubernetes that a kubelet may set on its own Node.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Prefixes of labels that a kubelet may set; so are those of domains below them.
const OWN_PREFIXES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::server) struct NodeRestriction(pub(in crate::server) Reader);

#[async_trait]
impl Admission for NodeRestriction {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation != Operation::Connect && identity(request.user).is_some()
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let Some(node) = identity(request.user) else { return Ok(()) };
        if node.is_empty() {
            let why = format!("could not determine node from user {:?}", request.user.name);
            return Err(request.forbidden(&why));
        }
        let group = request.resource.group.as_ref();
        let refused = match (group, request.resource.plural.as_ref(), request.subresource) {
            ("", "pods", "") => return self.pod(node, request).await,
            ("", "pods", "status") => pod_status(node, request),
            ("", "pods", "eviction") => return self.eviction(node, request).await,
            ("", "pods", other) => Err(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
            ("", "nodes", _) => own_node(node, request),
            ("", "persistentvolumeclaims", "status") => claim_status(node, request),
            ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
            ("coordination.k8s.io", "leases", _) => lease(node, request),
            ("certificates.k8s.io", "podcertificaterequests", _) => {
                return self.pod_certificate(node, request).await;
            }
            ("storage.k8s.io", "csinodes", _) => same_name(node, request, "CSINode"),
            _ => Ok(()),
        };
        refused.map_err(|why| request.forbidden(&why))
    }
}

impl NodeRestriction {
    async fn pod(&self, node: &str, request: &AdmissionRequest<'_>) -> Result<()> {
        match (request.operation, new::<Pod>(request)) {
            (Operation::Create, Some(pod)) => {
                mirror_pod(node, pod).map_err(|why| request.forbidden(&why))?;
                self.owner_exists(node, pod, request).await
            }
            (Operation::Delete, _) => {
                let existing = self.existing(request).await?;
                if runs_on(&existing, node) {
                    return Ok(());
                }
                let why =
                    format!("node {node:?} can only delete pods with spec.nodeName set to itself");
                Err(request.forbidden(&why))
            }
            (operation, _) => {
                let operation = format!("{operation:?}").to_uppercase();
                Err(request.forbidden(&format!(
                    "unexpected operation {operation:?}, node {node:?} can only create and delete \
                     mirror pods"
                )))
            }
        }
    }

    /// The Node that a mirror Pod names as its owner must be the one there is.
    async fn owner_exists(
        &self,
        node: &str,
        pod: &Pod,
        request: &AdmissionRequest<'_>,
    ) -> Result<()> {
        let found = self.0.get::<Node>(None, node).await?;
        let found = found.ok_or_else(|| ApiError::not_found(&Subject::of("", "nodes"), node))?;
        let expected = found.metadata.uid.unwrap_or_default();
        let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
        let named = owners.first().map(|owner| owner.uid.clone()).unwrap_or_default();
        if named == expected {
            return Ok(());
        }
        let why = format!("node {node} UID mismatch: expected {named} got {expected}");
        Err(request.forbidden(&why))
    }

    async fn eviction(&self, node: &str, request: &AdmissionRequest<'_>) -> Result<()> {
        let existing = self.existing(request).await?;
        if runs_on(&existing, node) {
            return Ok(());
        }
        let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
        Err(request.forbidden(&why))
    }

    /// A kubelet asks for certificates of its own Pods as they are now.
    async fn pod_certificate(&self, node: &str, request: &AdmissionRequest<'_>) -> Result<()> {
        let (Operation::Create, Some(asked)) =
            (request.operation, new::<PodCertificateRequest>(request))
        else {
            return Ok(());
        };
        let spec = &asked.spec;
        let found = self.0.get::<Pod>(request.namespace, &spec.pod_name).await?;
        let pod =
            found.ok_or_else(|| ApiError::not_found(&Subject::of("", "pods"), &spec.pod_name))?;
        let pod_uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let is_mirror = pod.metadata.annotations.iter().flatten().any(|(key, _)| key == MIRROR);
        let why = if spec.node_name != node {
            format!(
                "spec.nodeName is {:?}, which is not the requesting node {node:?}",
                spec.node_name
            )
        } else if spec.pod_uid != pod_uid {
            format!("spec.podUID is {:?}, but the pod's UID is {pod_uid:?}", spec.pod_uid)
        } else if !runs_on(&pod, node) {
            format!("pod {:?} is not bound to node {node:?}", spec.pod_name)
        } else if is_mirror {
            format!("pod {:?} is a mirror pod", spec.pod_name)
        } else if account != Some(spec.service_account_name.as_str()) {
            format!(
                "spec.serviceAccountName is {:?}, which is not the pod's",
                spec.service_account_name
            )
        } else {
            return Ok(());
        };
        Err(request.forbidden(&why))
    }

    async fn existing(&self, request: &AdmissionRequest<'_>) -> Result<Pod> {
        let found = self.0.get::<Pod>(request.namespace, request.name).await?;
        found.ok_or_else(|| ApiError::not_found(&Subject::of("", "pods"), request.name))
    }
}

fn new<'a, T: 'static>(request: &'a AdmissionRequest<'_>) -> Option<&'a T> {
    request.object()?.as_any().downcast_ref()
}

fn old<'a, T: 'static>(request: &'a AdmissionRequest<'_>) -> Option<&'a T> {
    request.old?.as_any().downcast_ref()
}

fn runs_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

/// What is wrong with a Pod that a node creates: it must mirror a manifest of the node's own, and
/// refer to nothing.
fn mirror_pod(node: &str, pod: &Pod) -> Result<(), String> {
    let annotations = pod.metadata.annotations.as_ref();
    if !annotations.is_some_and(|annotations| annotations.contains_key(MIRROR)) {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if !runs_on(pod, node) {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod.metadata.owner_references.as_deref().unwrap_or_default() {
        [owner] => owner,
        [] => {
            return Err(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return Err(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node {
        return Err(format!(
            "node {node:?} can only create pods with an owner reference set to itself"
        ));
    }
    if owner.controller != Some(true) {
        return Err(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner.block_owner_deletion == Some(true) {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let Some(spec) = &pod.spec else { return Ok(()) };
    let mut found = References::default();
    found.read("", spec);
    let trusts = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let mut sources = trusts.filter_map(|projected| projected.sources.as_ref()).flatten();
    let what = if !found.service_account.is_empty() {
        "a service account"
    } else if !found.secrets.is_empty() {
        "secrets"
    } else if !found.config_maps.is_empty() {
        "configmaps"
    } else if sources.any(|source| source.cluster_trust_bundle.is_some()) {
        "clustertrustbundles"
    } else if !found.claims.is_empty() {
        "persistentvolumeclaims"
    } else if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        "resourceclaims"
    } else {
        return Ok(());
    };
    Err(format!("node {node:?} can not create pods that reference {what}"))
}

fn pod_status(node: &str, request: &AdmissionRequest<'_>) -> Result<(), String> {
    let (Some(new), Some(old)) = (new::<Pod>(request), old::<Pod>(request)) else {
        return Ok(());
    };
    if !runs_on(old, node) {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if new.metadata.labels != old.metadata.labels {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |pod: &Pod| {
        let claims = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.clone());
        claims.filter(|claims| !claims.is_empty())
    };
    if claims(new) != claims(old) {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

fn claim_status(node: &str, request: &AdmissionRequest<'_>) -> Result<(), String> {
    let (Some(new), Some(old)) =
        (new::<PersistentVolumeClaim>(request), old::<PersistentVolumeClaim>(request))
    else {
        return Ok(());
    };
    let rest = |claim: &PersistentVolumeClaim| {
        let mut claim = claim.clone();
        claim.metadata.resource_version = None;
        claim.metadata.managed_fields = None;
        let status = claim.status.get_or_insert_default();
        status.capacity = None;
        status.conditions = None;
        status.allocated_resource_statuses = None;
        status.allocated_resources = None;
        claim
    };
    if rest(new) == rest(old) {
        return Ok(());
    }
    Err(format!(
        "node {node:?} is not allowed to update fields other than status.capacity and \
         status.conditions"
    ))
}

fn own_node(node: &str, request: &AdmissionRequest<'_>) -> Result<(), String> {
    let meant = match request.object() {
        Some(object) if request.name.is_empty() => {
            object.meta().name.as_deref().unwrap_or_default()
        }
        _ => request.name,
    };
    if meant != node {
        return Err(format!("node {node:?} is not allowed to modify node {meant:?}"));
    }
    let Some(new) = new::<Node>(request) else { return Ok(()) };
    let spec = |node: &Node| node.spec.clone().unwrap_or_default();
    match old::<Node>(request) {
        None => {
            if spec(new).config_source.is_some() {
                return Err(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                ));
            }
            let labels = forbidden_labels(new.metadata.labels.as_ref(), None);
            if !labels.is_empty() {
                return Err(format!(
                    "node {node:?} is not allowed to set the following labels: {labels}"
                ));
            }
        }
        Some(old) => {
            let (after, before) = (spec(new), spec(old));
            if after.config_source.is_some() && after.config_source != before.config_source {
                return Err(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil \
                     configSource"
                ));
            }
            if after.taints.unwrap_or_default() != before.taints.unwrap_or_default() {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            let labels =
                forbidden_labels(new.metadata.labels.as_ref(), old.metadata.labels.as_ref());
            if !labels.is_empty() {
                return Err(format!("is not allowed to modify labels: {labels}"));
            }
            let owners = |node: &Node| node.metadata.owner_references.clone().unwrap_or_default();
            if owners(new) != owners(old) {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
        }
    }
    Ok(())
}

/// Labels that were set, changed or taken away and that are not a node's to change.
fn forbidden_labels(
    new: Option<&BTreeMap<String, String>>,
    old: Option<&BTreeMap<String, String>>,
) -> String {
    let value = |labels: Option<&BTreeMap<String, String>>, key: &str| {
        labels.and_then(|labels| labels.get(key).cloned())
    };
    let keys: BTreeSet<&String> =
        [new, old].into_iter().flatten().flat_map(BTreeMap::keys).collect();
    let forbidden =
        keys.into_iter().filter(|key| value(new, key) != value(old, key)).filter(|key| {
            let domain = key.split_once('/').map_or("", |(domain, _)| domain);
            let within = |parent: &str| {
                domain == parent
                    || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
            };
            let kubernetes = within("kubernetes.io") || within("k8s.io");
            let own = OWN_LABELS.contains(&key.as_str())
                || OWN_PREFIXES.iter().any(|parent| within(parent));
            within("node-restriction.kubernetes.io") || (kubernetes && !own)
        });
    forbidden.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn lease(node: &str, request: &AdmissionRequest<'_>) -> Result<(), String> {
    if request.namespace != Some(LEASES) {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    same_name(node, request, "node lease")
}

fn same_name(node: &str, request: &AdmissionRequest<'_>, what: &str) -> Result<(), String> {
    let named = match (request.operation, request.object()) {
        (Operation::Create, Some(object)) => object.meta().name.as_deref().unwrap_or_default(),
        _ => request.name,
    };
    if named == node {
        return Ok(());
    }
    Err(format!("can only access {what} with the same name as the requesting node"))
}
