//! NodeDeclaredFeatureValidator: a Pod on a node changes only in ways that the node says it can
//! follow, in its `status.declaredFeatures` (KEP-5328).

use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{Container, Node, Pod, PodSpec, ResourceRequirements, Volume},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

use super::{Admission, AdmissionRequest, Operation, pod_resize::bound_to};
use crate::{
    meta::quantity::Quantity,
    server::{reader::Reader, status::Result},
};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DeclaredFeatures(pub(super) Reader);

#[async_trait]
impl Admission for DeclaredFeatures {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Update
            && request.resource.group.is_empty()
            && request.resource.plural == "pods"
            && matches!(request.subresource, "" | "resize")
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let (Some(new), Some(old)) = (request.new_as::<Pod>(), request.old_as::<Pod>()) else {
            return Ok(());
        };
        let Some(name) = bound_to(new) else { return Ok(()) };
        let needed = needed(new, old);
        if needed.is_empty() {
            return Ok(());
        }
        let Some(node) = self.0.get::<Node>(None, name).await? else {
            return Err(request.forbidden(&format!("node {name:?} not found")));
        };
        let declared = node.status.and_then(|status| status.declared_features).unwrap_or_default();
        let lacking: Vec<_> = needed
            .into_iter()
            .filter(|feature| !declared.iter().any(|found| found == feature))
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(request.forbidden(&format!(
            "pod update requires features {} which are not available on node {name:?}",
            lacking.join(", ")
        )))
    }
}

/// The features that a change of a Pod needs of its node, sorted.
fn needed(new: &Pod, old: &Pod) -> Vec<&'static str> {
    let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return Vec::new() };
    let class = old.status.as_ref().and_then(|status| status.qos_class.as_deref());
    let guaranteed = class.is_none_or(|class| class == "Guaranteed");
    let checks = [
        ("GuaranteedQoSPodCPUResize", guaranteed && changes_cpu(new_spec, old_spec)),
        ("InPlacePodLevelResourcesVerticalScaling", new_spec.resources != old_spec.resources),
        ("InPlacePodVerticalScalingInitContainers", changes_init(new_spec, old_spec)),
        ("InPlacePodVerticalScalingMemoryBackedVolumes", changes_memory(new_spec, old_spec)),
    ];
    checks.into_iter().filter(|(_, needed)| *needed).map(|(name, _)| name).collect()
}

fn quantity(amount: Option<&ApiQuantity>) -> Option<Quantity> {
    amount.and_then(|amount| Quantity::try_from(amount).ok())
}

fn changes_cpu(new: &PodSpec, old: &PodSpec) -> bool {
    let cpu = |container: &Container| {
        let requests = container.resources.as_ref().and_then(|it| it.requests.as_ref());
        quantity(requests.and_then(|requests| requests.get("cpu")))
    };
    new.containers.iter().zip(&old.containers).any(|(new, old)| {
        cpu(new).map(|cpu| cpu.millis()).unwrap_or(0)
            != cpu(old).map(|cpu| cpu.millis()).unwrap_or(0)
    })
}

/// Whether an init container that is no sidecar has other resources.
fn changes_init(new: &PodSpec, old: &PodSpec) -> bool {
    let resources = |container: &Container| -> ResourceRequirements {
        container.resources.clone().unwrap_or_default()
    };
    let pairs = new.init_containers.iter().flatten().zip(old.init_containers.iter().flatten());
    pairs
        .filter(|(_, old)| old.restart_policy.as_deref() != Some("Always"))
        .any(|(new, old)| resources(new) != resources(old))
}

/// Whether a volume in memory has another size.
fn changes_memory(new: &PodSpec, old: &PodSpec) -> bool {
    let size = |volume: &Volume| {
        let memory = volume.empty_dir.as_ref()?;
        (memory.medium.as_deref() == Some("Memory"))
            .then(|| quantity(memory.size_limit.as_ref()).map(|size| size.value()))
    };
    let pairs = new.volumes.iter().flatten().zip(old.volumes.iter().flatten());
    pairs
        .filter(|(new, old)| new.name == old.name)
        .any(|(new, old)| matches!((size(new), size(old)), (Some(new), Some(old)) if new != old))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(cpu: &str, qos: &str, more: Value) -> Pod {
        let container = json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } });
        let mut pod = json!({
            "spec": { "containers": [container], "nodeName": "n" },
            "status": { "qosClass": qos },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn resizing_needs_what_is_resized() {
        let needed = |new: &Pod, old: &Pod| super::needed(new, old).join(", ");
        let plain = |cpu, qos| pod(cpu, qos, Value::Null);
        assert_eq!(
            needed(&plain("2", "Guaranteed"), &plain("1", "Guaranteed")),
            "GuaranteedQoSPodCPUResize"
        );
        assert_eq!(needed(&plain("1000m", "Guaranteed"), &plain("1", "Guaranteed")), "");
        assert_eq!(needed(&plain("2", "Burstable"), &plain("1", "Burstable")), "");

        let sized = |size: &str, medium: &str| {
            let volume =
                json!({ "name": "v", "emptyDir": { "medium": medium, "sizeLimit": size } });
            pod("1", "Burstable", json!({ "volumes": [volume] }))
        };
        assert_eq!(
            needed(&sized("2Gi", "Memory"), &sized("1Gi", "Memory")),
            "InPlacePodVerticalScalingMemoryBackedVolumes"
        );
        assert_eq!(needed(&sized("2Gi", ""), &sized("1Gi", "")), "");

        let whole = |cpu: &str| {
            pod("1", "Burstable", json!({ "resources": { "requests": { "cpu": cpu } } }))
        };
        assert_eq!(needed(&whole("2"), &whole("1")), "InPlacePodLevelResourcesVerticalScaling");
        let init = |policy: Value| {
            move |cpu: &str| {
                let resources = json!({ "requests": { "cpu": cpu } });
                let init = json!({ "name": "i", "restartPolicy": policy, "resources": resources });
                pod("1", "Burstable", json!({ "initContainers": [init] }))
            }
        };
        let (plain, sidecar) = (init(Value::Null), init(json!("Always")));
        assert_eq!(needed(&plain("2"), &plain("1")), "InPlacePodVerticalScalingInitContainers");
        assert_eq!(needed(&sidecar("2"), &sidecar("1")), "");
    }
}
