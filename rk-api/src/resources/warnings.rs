//! What clients are warned of: it is allowed, and hardly meant, or will not be allowed for ever.

use k8s_openapi::{
    api::core::v1::{NodeSelectorTerm, PersistentVolumeClaimSpec, PodTemplateSpec},
    apimachinery::pkg::{api::resource::Quantity as ApiQuantity, apis::meta::v1::ObjectMeta},
};

use super::{
    check::{list, text},
    pod,
};
use crate::{
    field::Path,
    meta::{names, quantity::Quantity},
};

/// Where volumes and claims named their class before there was a field for it.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// What takes the place of a label that nodes had under another name.
pub(super) fn node_label(label: &str) -> Option<&'static str> {
    Some(match label {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        _ => return None,
    })
}

/// Old labels in a term that selects nodes.
pub(super) fn node_term(warnings: &mut Vec<String>, term: &NodeSelectorTerm, path: &Path) {
    for (i, wanted) in list(&term.match_expressions).iter().enumerate() {
        if let Some(why) = node_label(&wanted.key) {
            let at = path.child("matchExpressions").index(i).child("key");
            warnings.push(format!("{at}: {} is {why}", wanted.key));
        }
    }
}

/// Bytes are whole.
pub(super) fn fraction(warnings: &mut Vec<String>, amount: Option<&ApiQuantity>, path: &Path) {
    let Some(Ok(amount)) = amount.map(Quantity::try_from) else { return };
    if amount.millis() % 1000 != 0 {
        warnings.push(format!(
            "{path}: fractional byte value {:?} is invalid, must be an integer",
            amount.to_string()
        ));
    }
}

/// The name of a workload begins those of its Pods.
pub(super) fn workload_name(warnings: &mut Vec<String>, meta: &ObjectMeta) {
    let wrong = names::dns_label(text(&meta.name), false);
    if !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in \
             surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

/// What is odd about a workload with a template: its name when it is new, and the template
/// whenever the spec changes.
pub(super) fn workload(
    meta: &ObjectMeta,
    old: Option<&ObjectMeta>,
    names_pods: bool,
    template: Option<&PodTemplateSpec>,
    path: &Path,
) -> Vec<String> {
    let mut warnings = Vec::new();
    match old {
        Some(old) if old.generation == meta.generation => return warnings,
        None if names_pods => workload_name(&mut warnings, meta),
        _ => {}
    }
    if let Some(template) = template {
        warnings.extend(pod::template_warnings(template, path));
    }
    warnings
}

/// What is odd about what a claim asks for.
pub(super) fn claim(warnings: &mut Vec<String>, spec: &PersistentVolumeClaimSpec, path: &Path) {
    let Some(resources) = &spec.resources else { return };
    for (field, amounts) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        let amount = amounts.as_ref().and_then(|amounts| amounts.get("storage"));
        fraction(warnings, amount, &path.child("resources").child(field).key("storage"));
    }
}

/// The class of a volume or claim has a field.
pub(super) fn class_annotation(warnings: &mut Vec<String>, meta: &ObjectMeta) {
    if meta.annotations.as_ref().is_some_and(|all| all.contains_key(OLD_CLASS)) {
        warnings.push(format!(
            "{}: deprecated since v1.8; use \"storageClassName\" attribute instead",
            Path::new("metadata.annotations").key(OLD_CLASS)
        ));
    }
}
