//! Without `--allow-privileged`, no container may be privileged, nor one of a template.

use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    field::{ErrorList, FieldError, Path},
    server::status::{ApiError, Result, Subject},
};

/// Where kinds have the spec of their Pods.
const PODS: &[(&str, &[&str])] = &[
    ("pods", &["spec"]),
    ("podtemplates", &["template", "spec"]),
    ("replicationcontrollers", &["spec", "template", "spec"]),
    ("replicasets", &["spec", "template", "spec"]),
    ("deployments", &["spec", "template", "spec"]),
    ("daemonsets", &["spec", "template", "spec"]),
    ("statefulsets", &["spec", "template", "spec"]),
    ("jobs", &["spec", "template", "spec"]),
    ("cronjobs", &["spec", "jobTemplate", "spec", "template", "spec"]),
];

const LISTS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Unprivileged;

fn steps(plural: &str) -> Option<&'static [&'static str]> {
    PODS.iter().find(|(name, _)| *name == plural).map(|(_, steps)| *steps)
}

#[async_trait]
impl Admission for Unprivileged {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
            && matches!(request.subresource, "" | "ephemeralcontainers")
            && steps(&request.resource.plural).is_some()
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let (Some(object), Some(steps)) =
            (request.object.as_deref(), steps(&request.resource.plural))
        else {
            return Ok(());
        };
        let object = object.to_value().map_err(ApiError::internal)?;
        let errors = privileged(&object, steps);
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(&Subject::kind(request.resource), request.name, &errors))
    }
}

/// The privileged containers of an object.
fn privileged(object: &Value, steps: &[&'static str]) -> ErrorList {
    let path = steps.iter().fold(Path::root(), |path, step| path.child(step));
    let spec = steps.iter().try_fold(object, |value, step| value.get(step));
    let mut errors = ErrorList::new();
    for list in LISTS {
        let containers = spec.and_then(|spec| spec.get(list)).and_then(Value::as_array);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            if container.pointer("/securityContext/privileged") == Some(&Value::Bool(true)) {
                let at = path.child(list).index(index).child("securityContext.privileged");
                errors.push(FieldError::forbidden(&at, "disallowed by cluster policy"));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn privileged_containers_are_found_wherever_they_are() {
        let containers = json!({
            "initContainers": [{ "securityContext": { "privileged": true } }],
            "containers": [{}, { "securityContext": { "privileged": true } }],
        });
        let job = json!({ "spec": { "template": { "spec": containers } } });
        let errors = privileged(&job, steps("jobs").unwrap());
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let expected = [
            "spec.template.spec.initContainers[0].securityContext.privileged: Forbidden: disallowed by cluster policy",
            "spec.template.spec.containers[1].securityContext.privileged: Forbidden: disallowed by cluster policy",
        ];
        assert_eq!(errors, expected);
        assert!(privileged(&json!({ "spec": { "containers": [{}] } }), &["spec"]).is_empty());
    }
}
