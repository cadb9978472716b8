//! ExtendedResourceToleration: a Pod that asks for an extended resource, such as a GPU, tolerates
//! the taint that keeps other Pods off the nodes that have it.

use std::collections::BTreeSet;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};

use super::{Admission, AdmissionRequest};
use crate::server::status::Result;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ExtendedResourceToleration;

#[async_trait]
impl Admission for ExtendedResourceToleration {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.is_write() && request.is_about("pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        if let Some(spec) = request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut()) {
            tolerate(spec);
        }
        Ok(())
    }
}

fn tolerate(spec: &mut PodSpec) {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let requests = containers.filter_map(|it| it.resources.as_ref()?.requests.as_ref());
    let names = requests.flat_map(|requests| requests.keys());
    let wanted: BTreeSet<String> = names.filter(|name| is_extended(name)).cloned().collect();
    for key in wanted {
        let toleration = Toleration {
            key: Some(key),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        };
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

/// Whether a resource is one that somebody else added: it has a domain that is not Kubernetes'.
fn is_extended(name: &str) -> bool {
    match name.split_once('/') {
        None => false,
        Some((domain, _)) => !domain.contains("kubernetes.io") && !name.starts_with("requests."),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_asks_for_it_tolerates() {
        let requests = json!({ "cpu": "1", "example.com/gpu": "1", "kubernetes.io/x": "1" });
        let mut spec: PodSpec = serde_json::from_value(json!({
            "containers": [{ "name": "c", "resources": { "requests": requests } }],
        }))
        .unwrap();
        tolerate(&mut spec);
        tolerate(&mut spec);
        let tolerations = serde_json::to_value(spec.tolerations).unwrap();
        assert_eq!(
            tolerations,
            json!([{ "key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule" }])
        );
    }
}
