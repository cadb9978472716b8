//! PodTolerationRestriction: the tolerations that a namespace gives to its Pods, and those that it
//! allows, as its annotations say.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Pod, Toleration};

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    resources::qos_class,
    server::{
        reader::Reader,
        status::{ApiError, Result, Subject},
    },
};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PodTolerationRestriction(pub(super) Reader);

impl PodTolerationRestriction {
    /// The tolerations in an annotation of the namespace.
    async fn listed(&self, request: &AdmissionRequest<'_>, key: &str) -> Result<Vec<Toleration>> {
        let name = request.namespace.unwrap_or_default();
        let found = self.0.get::<Namespace>(None, name).await?;
        let missing = || ApiError::not_found(&Subject::of("", "namespaces"), name);
        let annotations = found.ok_or_else(missing)?.metadata.annotations.unwrap_or_default();
        match annotations.get(key).map(String::as_str) {
            None | Some("") => Ok(Vec::new()),
            Some(list) => {
                serde_json::from_str(list).map_err(|error| ApiError::plain(error.to_string()))
            }
        }
    }
}

#[async_trait]
impl Admission for PodTolerationRestriction {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.is_write() && request.is_about("pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let defaults = match request.operation {
            Operation::Create => self.listed(request, DEFAULTS).await?,
            _ => Vec::new(),
        };
        let Some(pod) = request.object_as::<Pod>() else { return Ok(()) };
        let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
        let best_effort = qos_class(spec) == "BestEffort";
        let own = spec.tolerations.take().unwrap_or_default();
        if own.iter().any(|own| defaults.iter().any(|default| conflict(own, default))) {
            return Err(ApiError::plain("namespace tolerations and pod tolerations conflict"));
        }
        let mut merged = merge(defaults, own);
        if !best_effort {
            let pressure = Toleration {
                key: Some(MEMORY_PRESSURE.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoSchedule".to_owned()),
                ..Toleration::default()
            };
            merged = merge(merged, vec![pressure]);
        }
        spec.tolerations = (!merged.is_empty()).then_some(merged);
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let allowed = self.listed(request, ALLOWED).await?;
        let spec = request.new_as::<Pod>().and_then(|pod| pod.spec.as_ref());
        let found = spec.and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        let is_allowed = |it: &Toleration| allowed.iter().any(|allowed| covers(allowed, it));
        if allowed.is_empty() || found.iter().all(is_allowed) {
            return Ok(());
        }
        Err(ApiError::plain(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with \
             its namespace whitelist",
        ))
    }
}

fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

fn operator(toleration: &Toleration) -> &str {
    match text(&toleration.operator) {
        "" => "Equal",
        operator => operator,
    }
}

/// Whether both are about the same taint.
fn same_taint(a: &Toleration, b: &Toleration) -> bool {
    let of = |it: &Toleration| (text(&it.key).to_owned(), text(&it.effect).to_owned());
    of(a) == of(b)
}

/// Whether they say different things of the same taint.
fn conflict(a: &Toleration, b: &Toleration) -> bool {
    same_taint(a, b)
        && (operator(a) != operator(b)
            || text(&a.value) != text(&b.value)
            || a.toleration_seconds != b.toleration_seconds)
}

/// Whether `allowed` tolerates all that `other` does (upstream's `isSuperset`).
fn covers(allowed: &Toleration, other: &Toleration) -> bool {
    let everything = text(&allowed.key).is_empty() && operator(allowed) == "Exists";
    if !everything && text(&allowed.key) != text(&other.key) {
        return false;
    }
    if !["", text(&other.effect)].contains(&text(&allowed.effect)) {
        return false;
    }
    if text(&allowed.effect) == "NoExecute" {
        match (allowed.toleration_seconds, other.toleration_seconds) {
            (Some(_), None) => return false,
            (Some(allowed), Some(other)) if other > allowed => return false,
            _ => {}
        }
    }
    operator(allowed) == "Exists"
        || operator(other) == "Equal" && text(&allowed.value) == text(&other.value)
}

/// All of both, without those that another one covers.
fn merge(first: Vec<Toleration>, second: Vec<Toleration>) -> Vec<Toleration> {
    let all: Vec<Toleration> = first.into_iter().chain(second).collect();
    let mut merged: Vec<Toleration> = Vec::with_capacity(all.len());
    for (at, toleration) in all.iter().enumerate() {
        let is_covered = merged.iter().any(|kept| covers(kept, toleration))
            || all[at + 1..]
                .iter()
                .any(|later| covers(later, toleration) && !covers(toleration, later));
        if !is_covered {
            merged.push(toleration.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn toleration(value: serde_json::Value) -> Toleration {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_wider_toleration_covers_a_narrower_one() {
        let all = toleration(json!({ "operator": "Exists" }));
        let key = toleration(json!({ "key": "a", "operator": "Exists" }));
        let value = toleration(json!({ "key": "a", "value": "v", "effect": "NoSchedule" }));
        assert!(covers(&all, &key) && covers(&key, &value) && covers(&all, &value));
        assert!(!covers(&key, &all) && !covers(&value, &key));
        let minute = toleration(
            json!({ "key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60 }),
        );
        let forever =
            toleration(json!({ "key": "a", "operator": "Exists", "effect": "NoExecute" }));
        assert!(covers(&forever, &minute) && !covers(&minute, &forever));
    }

    #[test]
    fn merging_keeps_the_widest() {
        let key = toleration(json!({ "key": "a", "operator": "Exists" }));
        let value = toleration(json!({ "key": "a", "value": "v" }));
        let other = toleration(json!({ "key": "b", "operator": "Exists" }));
        let merged = merge(vec![value, other.clone()], vec![key.clone(), other.clone()]);
        assert_eq!(merged, [other, key]);
    }
}
