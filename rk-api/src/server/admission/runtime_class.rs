//! RuntimeClass: a Pod gets the overhead of its runtime class, and runs where the class can.

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{Pod, PodSpec},
    node::v1::RuntimeClass,
};

use super::{Admission, AdmissionRequest, Operation};
use crate::server::{reader::Reader, status::Result};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct RuntimeClasses(pub(super) Reader);

#[async_trait]
impl Admission for RuntimeClasses {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create && request.is_about("pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let Some(spec) = request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut()) else {
            return Ok(());
        };
        let class = match spec.runtime_class_name.clone() {
            None => None,
            Some(name) => {
                let found = self.0.get::<RuntimeClass>(None, &name).await?;
                if found.is_none() {
                    let why = format!("pod rejected: RuntimeClass {name:?} not found");
                    return Err(request.forbidden(&why));
                }
                found
            }
        };
        // Looked up again: the class may have been awaited in between.
        match request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut()) {
            Some(spec) => apply(spec, class.as_ref()).map_err(|why| request.forbidden(&why)),
            None => Ok(()),
        }
    }
}

/// Sets what the class says; an error when the Pod says something else.
fn apply(spec: &mut PodSpec, class: Option<&RuntimeClass>) -> std::result::Result<(), String> {
    let overhead = class.and_then(|class| class.overhead.as_ref());
    let overhead = overhead.and_then(|overhead| overhead.pod_fixed.as_ref());
    match (&spec.overhead, overhead) {
        (Some(found), Some(fixed)) if found != fixed => {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
                    .to_owned(),
            );
        }
        (Some(found), None) if !found.is_empty() => {
            return Err(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined \
                        Overhead"
                    .to_owned(),
            );
        }
        (_, Some(fixed)) => spec.overhead = Some(fixed.clone()),
        (_, None) => {}
    }
    let Some(scheduling) = class.and_then(|class| class.scheduling.as_ref()) else {
        return Ok(());
    };
    for (key, value) in scheduling.node_selector.iter().flatten() {
        let selector = spec.node_selector.get_or_insert_default();
        if let Some(found) = selector.get(key).filter(|found| *found != value) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                 pod.spec.nodeSelector[{key}] = {found}"
            ));
        }
        selector.insert(key.clone(), value.clone());
    }
    for toleration in scheduling.tolerations.iter().flatten() {
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class() -> RuntimeClass {
        serde_json::from_value(json!({
            "handler": "runc",
            "overhead": { "podFixed": { "cpu": "10m" } },
            "scheduling": { "nodeSelector": { "a": "b" }, "tolerations": [{ "key": "k" }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_takes_over_what_its_class_says() {
        let mut spec = PodSpec::default();
        apply(&mut spec, Some(&class())).unwrap();
        assert_eq!(spec.overhead.as_ref().unwrap()["cpu"].0, "10m");
        assert_eq!(spec.node_selector.as_ref().unwrap()["a"], "b");
        assert_eq!(spec.tolerations.as_ref().unwrap().len(), 1);
        let once = spec.clone();
        apply(&mut spec, Some(&class())).unwrap();
        assert_eq!(spec, once);
    }

    #[test]
    fn a_pod_does_not_contradict_its_class() {
        let mut spec: PodSpec =
            serde_json::from_value(json!({ "containers": [], "nodeSelector": { "a": "c" } }))
                .unwrap();
        assert_eq!(
            apply(&mut spec, Some(&class())).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c"
        );
        let mut spec: PodSpec =
            serde_json::from_value(json!({ "containers": [], "overhead": { "cpu": "1" } }))
                .unwrap();
        assert!(apply(&mut spec, Some(&class())).is_err());
        assert!(apply(&mut spec, None).is_err());
    }
}
