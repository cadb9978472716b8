//! DefaultTolerationSeconds: a Pod stays for five minutes on a node that is gone or not ready,
//! unless it says otherwise.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Toleration};

use super::{Admission, AdmissionRequest, Operation};
use crate::server::status::Result;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
            && request.is_about("pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        if let Some(spec) = request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut()) {
            let tolerations = spec.tolerations.get_or_insert_default();
            for taint in TAINTS {
                if !tolerations.iter().any(|toleration| tolerates(toleration, taint)) {
                    tolerations.push(Toleration {
                        key: Some(taint.to_owned()),
                        operator: Some("Exists".to_owned()),
                        effect: Some("NoExecute".to_owned()),
                        toleration_seconds: Some(SECONDS),
                        value: None,
                    });
                }
            }
        }
        Ok(())
    }
}

fn tolerates(toleration: &Toleration, taint: &str) -> bool {
    let empty_or = |text: &Option<String>, wanted: &str| {
        text.as_deref().is_none_or(|text| text.is_empty() || text == wanted)
    };
    empty_or(&toleration.key, taint) && empty_or(&toleration.effect, "NoExecute")
}
