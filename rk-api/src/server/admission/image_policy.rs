//! ImagePolicyWebhook: a service of somebody else says which images may run
//! (`imagepolicy.k8s.io/v1alpha1`, ImageReview).

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::{Admission, AdmissionRequest};
use crate::server::{
    status::Result,
    webhook::{Answers, Patience, Webhook, WebhookError},
};

/// The name of the plug-in.
pub(super) const NAME: &str = "ImagePolicyWebhook";

/// What audit annotations begin with.
const AUDIT_PREFIX: &str = "imagepolicywebhook.image-policy.k8s.io/";

/// The annotations of Pods that the service is told have this in their keys.
const TOLD: &str = ".image-policy.k8s.io/";

/// How often the service is asked before it is given up, and how the pauses grow.
const TRIES: u32 = 5;
const PAUSE_FACTOR: f64 = 1.5;
const PAUSE_JITTER: f64 = 0.2;

/// What the plug-in ImagePolicyWebhook is told.
#[derive(Clone, Debug)]
pub struct ImagePolicy {
    /// The service and how to reach it: the text of a kubeconfig.
    pub kubeconfig: String,
    /// How long what it allowed is remembered; 5 minutes by default.
    pub allow_ttl: Duration,
    /// How long what it refused is remembered; 30 seconds by default.
    pub deny_ttl: Duration,
    /// The first pause before it is asked again when it does not answer; half a second by default.
    pub retry_backoff: Duration,
    /// Whether Pods are let in while it does not answer; not so by default.
    pub default_allow: bool,
}

impl ImagePolicy {
    /// The service of a kubeconfig with the defaults of everything else.
    pub fn new(kubeconfig: impl Into<String>) -> Self {
        Self {
            kubeconfig: kubeconfig.into(),
            allow_ttl: Duration::from_secs(300),
            deny_ttl: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(500),
            default_allow: false,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::server) struct ImagePolicyWebhook {
    config: ImagePolicy,
    hook: Webhook,
    answers: Answers<Status>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Image>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Image {
    image: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    allowed: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<String, String>,
}

impl ImagePolicyWebhook {
    /// # Errors
    /// When the kubeconfig is not usable.
    pub(in crate::server) async fn new(
        config: ImagePolicy,
    ) -> std::result::Result<Self, WebhookError> {
        let hook = Webhook::new(&config.kubeconfig).await?;
        Ok(Self { config, hook, answers: Answers::default() })
    }

    /// What the service says, or has said lately.
    async fn status(&self, spec: Spec) -> std::result::Result<Status, String> {
        let key = serde_json::to_vec(&spec).map_err(|error| error.to_string())?;
        if let Some(known) = self.answers.get(&key) {
            return Ok(known);
        }
        let question = Review {
            api_version: "imagepolicy.k8s.io/v1alpha1".to_owned(),
            kind: "ImageReview".to_owned(),
            spec,
            status: Status::default(),
        };
        let patience = Patience {
            tries: TRIES,
            pause: self.config.retry_backoff,
            factor: PAUSE_FACTOR,
            jitter: PAUSE_JITTER,
        };
        let status = self.hook.ask_with(&question, patience).await?.status;
        let good_for = if status.allowed { self.config.allow_ttl } else { self.config.deny_ttl };
        self.answers.keep(key, status.clone(), good_for);
        Ok(status)
    }
}

#[async_trait]
impl Admission for ImagePolicyWebhook {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        let is_pod = request.resource.group.is_empty() && request.resource.plural == "pods";
        is_pod && request.is_write() && matches!(request.subresource, "" | "ephemeralcontainers")
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let Some(pod) = request.new_as::<Pod>() else { return Ok(()) };
        let spec = spec(pod, request.subresource, request.namespace.unwrap_or_default());
        let status = match self.status(spec).await {
            Ok(status) => status,
            Err(why) if self.config.default_allow => {
                tracing::warn!(why, "the image policy webhook failed, failing open");
                request.annotate(&format!("{AUDIT_PREFIX}failed-open"), "true");
                return Ok(());
            }
            Err(why) => return Err(request.forbidden(&why)),
        };
        for (key, value) in &status.audit_annotations {
            request.annotate(&format!("{AUDIT_PREFIX}{key}"), value.as_str());
        }
        match (status.allowed, status.reason.as_str()) {
            (true, _) => Ok(()),
            (false, "") => Err(request.forbidden("one or more images rejected by webhook backend")),
            (false, reason) => Err(request.forbidden(&format!(
                "image policy webhook backend denied one or more images: {reason}"
            ))),
        }
    }
}

/// What the service is asked about a Pod: all images, or those that `ephemeralcontainers` adds.
fn spec(pod: &Pod, subresource: &str, namespace: &str) -> Spec {
    let spec = pod.spec.as_ref();
    let plain = spec
        .into_iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let plain = plain.filter(|_| subresource.is_empty()).map(|container| &container.image);
    let brief = spec.into_iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    let images = plain.chain(brief.map(|container| &container.image));
    let annotations = pod.metadata.annotations.iter().flatten();
    Spec {
        containers: images
            .map(|image| Image { image: image.clone().unwrap_or_default() })
            .collect(),
        annotations: annotations
            .filter(|(key, _)| key.contains(TOLD))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        namespace: namespace.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_service_is_told_of_images_and_of_annotations_that_are_for_it() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "annotations": { "my.image-policy.k8s.io/ticket": "7", "other": "x" } },
            "spec": {
                "containers": [{ "name": "a", "image": "a:1" }],
                "initContainers": [{ "name": "b", "image": "b:1" }],
                "ephemeralContainers": [{ "name": "c", "image": "c:1" }],
            },
        }))
        .unwrap();
        let asked = |subresource| serde_json::to_value(spec(&pod, subresource, "ns")).unwrap();
        let annotations = json!({ "my.image-policy.k8s.io/ticket": "7" });
        let all = json!([{ "image": "a:1" }, { "image": "b:1" }, { "image": "c:1" }]);
        assert_eq!(
            asked(""),
            json!({ "containers": all, "annotations": annotations, "namespace": "ns" })
        );
        assert_eq!(asked("ephemeralcontainers")["containers"], json!([{ "image": "c:1" }]));
    }
}
