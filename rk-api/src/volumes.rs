//! What the API says of persistent volumes and claims: the annotations of the binding protocol,
//! classes, and which volume suits a claim.
//!
//! Both who binds claims at once (the PersistentVolume controller) and who binds them when a Pod
//! gets its node (the scheduler) decide by these functions, so that they cannot disagree.

use std::{cmp::Ordering, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{api::resource, apis::meta::v1::ObjectMeta},
};

use crate::meta::{quantity::Quantity, selectors::LabelQuery};

/// On a claim: its binding is complete. Such a claim is never bound again.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a volume or a claim: the reference to the other side was written by the controller, not by a
/// person, and may be taken back.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: the provisioner that made it, and has to delete it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: the provisioner that is to make a volume for it.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The name of [`STORAGE_PROVISIONER`] before Kubernetes 1.23, which is still written.
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a claim that waits for its first consumer: the node that the scheduler chose.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes are only made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Keeps a volume until no claim is bound to it.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Keeps a claim until no Pod uses it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a VolumeAttributesClass until no claim and no volume names it.
pub const ATTRIBUTES_CLASS_PROTECTION: &str = "kubernetes.io/vac-protection";

/// Where objects named their class before there was a field for it.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The claim behind a volume of a Pod: the one it names, or the one that is made for it.
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume.ephemeral.as_ref()?;
    Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name))
}

/// The names of all claims behind the volumes of a Pod.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_of(pod, volume))
}

/// Whether a claim was made for a volume of this Pod.
pub fn is_made_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| {
        owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref()
    })
}

/// An annotation of an object.
pub fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The class that a claim asks for: `Some("")` asks for a volume without one, `None` for the
/// default class once there is one.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, OLD_CLASS)
        .or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

/// The class of a volume, empty for none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    annotation(&volume.metadata, OLD_CLASS)
        .or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref())
        .unwrap_or_default()
}

/// The volume that a claim names, by its own wish or since it was bound.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether the binding of a claim is complete.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// Whether a volume is kept for this very claim: it names the claim, and if it says which object of
/// that name it means, this is the one.
pub fn is_reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(claimant) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return false;
    };
    let uid = claimant.uid.as_deref().unwrap_or_default();
    claimant.name == claim.metadata.name
        && claimant.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// The size of a volume.
pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    parse(volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?)
}

/// The size that a claim asks for; nothing is a request of zero.
pub fn request(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    parse(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?)
}

fn parse(quantity: &resource::Quantity) -> Option<Quantity> {
    Quantity::parse(&quantity.0).ok()
}

/// Whether a class is a default one, in today's or the old way of saying so.
pub fn is_default_class(class: &ObjectMeta) -> bool {
    [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| annotation(class, key) == Some("true"))
}

/// Whether claims of the class wait for the scheduler to choose a node first.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// A volume is a file system unless it says otherwise.
fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

/// Whether volume and claim agree on being a file system or a raw device.
pub fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    mode(volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
        == mode(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
}

fn large_enough(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    match (capacity(volume), request(claim)) {
        (_, None) => true,
        (None, Some(request)) => request.is_zero(),
        (Some(capacity), Some(request)) => capacity >= request,
    }
}

fn has_access_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
    let asked = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
    let offered = offered.unwrap_or_default();
    asked.unwrap_or_default().iter().all(|mode| offered.contains(mode))
}

fn same_attributes_class(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    of_volume.unwrap_or_default() == of_claim.unwrap_or_default()
}

/// Whether a claim may be bound to the volume that it names.
///
/// # Errors
/// Why not, in Kubernetes' words.
pub fn satisfies(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Result<(), &'static str> {
    if !large_enough(volume, claim) {
        Err("requested PV is too small")
    } else if volume_class(volume) != claim_class(claim).unwrap_or_default() {
        Err("storageClassName does not match")
    } else if !same_attributes_class(volume, claim) {
        Err("VolumeAttributesClassName does not match")
    } else if !same_mode(volume, claim) {
        Err("incompatible volumeMode")
    } else if !has_access_modes(volume, claim) {
        Err("incompatible accessMode")
    } else {
        Ok(())
    }
}

/// Whether a volume could be bound to a claim that has to be found one: it is kept for the claim
/// and large enough, or it is free and has all that the claim asks for.
pub fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let possible = volume.metadata.deletion_timestamp.is_none()
        && large_enough(volume, claim)
        && same_mode(volume, claim);
    possible && (is_reserved_for(volume, claim) || is_free_for(volume, claim))
}

fn is_free_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let free = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
        && volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available");
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    free && satisfies(volume, claim).is_ok()
        && selector.is_none_or(|selector| {
            LabelQuery::from_selector(selector).matches_optional(volume.metadata.labels.as_ref())
        })
}

/// Of these volumes the one to bind to a claim: one that is kept for it before all others, then
/// those that offer the fewest access modes beyond what is asked, of these the smallest, and of
/// equal ones the first by name. So the same volume is chosen however often it is asked, and a
/// binding that broke off is taken up where it was.
///
/// ```
/// # use std::sync::Arc;
/// # use serde_json::{from_value, json};
/// # use rk_api::volumes::best_match;
/// let volume = |name: &str, size: &str| Arc::new(from_value(json!({
///     "metadata": {"name": name}, "status": {"phase": "Available"},
///     "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]},
/// })).unwrap());
/// let claim = from_value(json!({
///     "metadata": {"name": "data", "namespace": "default"},
///     "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}}},
/// })).unwrap();
/// let volumes = [volume("large", "10Gi"), volume("right", "5Gi"), volume("small", "1Gi")];
/// let found = best_match(&claim, &volumes).unwrap();
/// assert_eq!(found.metadata.name.as_deref(), Some("right"));
/// ```
pub fn best_match<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a Arc<PersistentVolume>>,
) -> Option<&'a Arc<PersistentVolume>> {
    let suitable = volumes.into_iter().filter(|volume| suits(volume, claim));
    suitable.min_by(|a, b| preference(claim, a, b))
}

fn preference(
    claim: &PersistentVolumeClaim,
    a: &PersistentVolume,
    b: &PersistentVolume,
) -> Ordering {
    let modes = |volume: &PersistentVolume| {
        volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()).map_or(0, Vec::len)
    };
    is_reserved_for(b, claim)
        .cmp(&is_reserved_for(a, claim))
        .then_with(|| modes(a).cmp(&modes(b)))
        .then_with(|| capacity(a).cmp(&capacity(b)))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn volume(name: &str, spec: Value) -> Arc<PersistentVolume> {
        let mut spec = spec;
        spec["capacity"] = spec.get("capacity").cloned().unwrap_or(json!({"storage": "1Gi"}));
        let object =
            json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}});
        Arc::new(from_value(object).unwrap())
    }

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let metadata = json!({"name": "c", "namespace": "ns", "uid": "u"});
        let mut spec = spec;
        spec["resources"] = json!({"requests": {"storage": "1Gi"}});
        from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[track_caller]
    fn check(what: &str, claim: Value, volumes: &[Arc<PersistentVolume>], wanted: Option<&str>) {
        let found = best_match(&self::claim(claim), volumes);
        assert_eq!(found.and_then(|found| found.metadata.name.as_deref()), wanted, "{what}");
    }

    #[test]
    fn a_claim_gets_the_volume_that_suits_it_best() {
        let plain = || volume("a", json!({"accessModes": ["ReadWriteOnce"]}));
        let both = || volume("b", json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}));
        let once = json!({"accessModes": ["ReadWriteOnce"]});
        check("fewest modes", once.clone(), &[both(), plain()], Some("a"));
        check("a mode it lacks", json!({"accessModes": ["ReadWriteMany"]}), &[plain()], None);
        let fast = volume("f", json!({"storageClassName": "fast"}));
        check("another class", json!({}), std::slice::from_ref(&fast), None);
        check("its class", json!({"storageClassName": "fast"}), &[fast, plain()], Some("f"));
        let block = volume("r", json!({"volumeMode": "Block"}));
        check("a device", json!({}), std::slice::from_ref(&block), None);
        check("as a device", json!({"volumeMode": "Block"}), &[block, plain()], Some("r"));
        let selector = json!({"selector": {"matchLabels": {"disk": "ssd"}}});
        check("labels", selector, &[plain()], None);
    }

    #[test]
    fn a_volume_that_is_kept_for_a_claim_goes_to_it_alone() {
        let kept = |uid: &str| {
            let claimant = json!({"name": "c", "namespace": "ns", "uid": uid});
            volume("z", json!({"claimRef": claimant, "capacity": {"storage": "9Gi"}}))
        };
        let other = || volume("a", json!({}));
        check("before a smaller one", json!({}), &[other(), kept("")], Some("z"));
        check("by its UID", json!({}), &[other(), kept("u")], Some("z"));
        check("an older claim's", json!({}), &[other(), kept("old")], Some("a"));
        let small =
            json!({"claimRef": {"name": "c", "namespace": "ns"}, "capacity": {"storage": "1Mi"}});
        check("not if it is too small", json!({}), &[volume("s", small)], None);
    }
}
