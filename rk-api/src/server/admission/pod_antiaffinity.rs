//! LimitPodHardAntiAffinityTopology: a Pod may demand a node without certain others, not a whole
//! zone.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;

use super::{Admission, AdmissionRequest};
use crate::server::status::Result;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct HardAntiAffinityTopology;

#[async_trait]
impl Admission for HardAntiAffinityTopology {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.is_write() && request.is_about("pods")
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let spec = request.new_as::<Pod>().and_then(|pod| pod.spec.as_ref());
        let affinity = spec.and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
        let required = affinity
            .and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref());
        for term in required.unwrap_or_default() {
            if term.topology_key != HOSTNAME {
                return Err(request.forbidden(&format!(
                    "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {} but only \
                     key {HOSTNAME} is allowed",
                    term.topology_key
                )));
            }
        }
        Ok(())
    }
}
