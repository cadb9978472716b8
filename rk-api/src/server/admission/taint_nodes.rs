//! TaintNodesByCondition: a new node takes no Pods until it is known to be ready.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Taint};

use super::{Admission, AdmissionRequest, Operation};
use crate::server::status::Result;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create && request.is_about("nodes")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        if let Some(node) = request.object_as::<Node>() {
            let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
            if !taints.iter().any(|taint| taint.key == NOT_READY && taint.effect == "NoSchedule") {
                taints.push(Taint {
                    key: NOT_READY.to_owned(),
                    effect: "NoSchedule".to_owned(),
                    ..Taint::default()
                });
            }
        }
        Ok(())
    }
}
