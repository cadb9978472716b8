//! PodSecurity: how much a Pod of a namespace may do, by the Pod security standards
//! (`privileged`, `baseline`, `restricted`) that the namespace's labels name.
//!
//! The newest standards count, whatever version a label names. What a namespace only wants to be
//! warned of, or audited, is let through.

mod baseline;
mod restricted;
mod subjects;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec};

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    field::{FieldError, Path},
    server::{
        reader::Reader,
        status::{ApiError, Result, Subject},
    },
};

const LABEL_PREFIX: &str = "pod-security.kubernetes.io/";
const MODES: &[&str] = &["enforce", "audit", "warn"];
const LEVELS: &[&str] = &["privileged", "baseline", "restricted"];

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PodSecurity(pub(super) Reader);

/// What is wrong with a Pod: what it is about, and where.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    reason: &'static str,
    detail: String,
}

#[async_trait]
impl Admission for PodSecurity {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        let is_core = request.resource.group.is_empty();
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let about = match request.resource.plural.as_ref() {
            "pods" => matches!(request.subresource, "" | "ephemeralcontainers"),
            "namespaces" => request.subresource.is_empty(),
            _ => false,
        };
        is_core && writes && about
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        if object.as_any().is::<Namespace>() {
            return check_labels(request);
        }
        let pod = object.as_any().downcast_ref::<Pod>();
        let Some(spec) = pod.and_then(|pod| pod.spec.as_ref()) else { return Ok(()) };
        let old = request.old.and_then(|old| old.as_any().downcast_ref::<Pod>());
        if old.is_some_and(|old| !is_significant(spec, old.spec.as_ref())) {
            return Ok(());
        }
        let name = request.namespace.unwrap_or_default();
        let Some(namespace) = self.0.get::<Namespace>(None, name).await? else { return Ok(()) };
        let labels = namespace.metadata.labels.unwrap_or_default();
        let label = |suffix: &str| labels.get(&format!("{LABEL_PREFIX}enforce{suffix}"));
        let level = label("").map_or("privileged", String::as_str);
        let annotations = pod.and_then(|pod| pod.metadata.annotations.as_ref());
        let wrong = violations(level, spec, annotations);
        if wrong.is_empty() {
            return Ok(());
        }
        let version = label("-version").map_or("latest", String::as_str);
        let wrong: Vec<_> = wrong
            .iter()
            .map(|violation| match violation.detail.as_str() {
                "" => violation.reason.to_owned(),
                detail => format!("{} ({detail})", violation.reason),
            })
            .collect();
        Err(request.forbidden(&format!(
            "violates PodSecurity \"{level}:{version}\": {}",
            wrong.join(", ")
        )))
    }
}

/// A namespace names levels that there are.
fn check_labels(request: &AdmissionRequest<'_>) -> Result<()> {
    let of = |object: &dyn crate::resources::Object| object.meta().labels.clone();
    let new = request.object.as_deref().and_then(of).unwrap_or_default();
    let old = request.old.and_then(of).unwrap_or_default();
    let mut errors = Vec::new();
    for mode in MODES {
        let key = format!("{LABEL_PREFIX}{mode}");
        let Some(level) = new.get(&key).filter(|level| old.get(&key) != Some(*level)) else {
            continue;
        };
        if !LEVELS.contains(&level.as_str()) {
            let at = Path::new("metadata.labels").key(&key);
            let wrong = format!("must be one of {}", LEVELS.join(", "));
            errors.push(FieldError::invalid(&at, level.as_str(), wrong));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&Subject::kind(request.resource), request.name, &errors))
}

/// Whether an update can make a Pod do more than before: other containers or other images.
fn is_significant(new: &PodSpec, old: Option<&PodSpec>) -> bool {
    let images = |spec: &PodSpec| -> Vec<(String, Option<String>)> {
        subjects::containers(spec)
            .map(|container| (container.name.to_owned(), container.image.cloned()))
            .collect()
    };
    old.is_none_or(|old| images(new) != images(old))
}

/// What is wrong with a Pod at a level. A level that there is not is as strict as can be.
fn violations(
    level: &str,
    spec: &PodSpec,
    annotations: subjects::Annotations<'_>,
) -> Vec<Violation> {
    match level {
        "privileged" => Vec::new(),
        "baseline" => {
            let mut wrong = baseline::always(spec, annotations);
            wrong.extend(baseline::loosened(spec));
            wrong
        }
        _ => {
            let mut wrong = baseline::always(spec, annotations);
            wrong.extend(restricted::all(spec));
            wrong
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(level: &str, spec: Value, wrong: &[&str]) {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let found: Vec<_> = violations(level, &spec, None)
            .into_iter()
            .map(|violation| format!("{} ({})", violation.reason, violation.detail))
            .collect();
        assert_eq!(found, wrong);
    }

    #[test]
    fn the_baseline_keeps_pods_off_the_host() {
        let plain = json!({ "containers": [{ "name": "c" }] });
        check("baseline", plain.clone(), &[]);
        let mut host = plain.clone();
        host["hostNetwork"] = json!(true);
        host["hostPID"] = json!(true);
        host["volumes"] = json!([{ "name": "v", "hostPath": { "path": "/" } }]);
        check("privileged", host.clone(), &[]);
        check(
            "baseline",
            host,
            &[
                "host namespaces (hostNetwork=true, hostPID=true)",
                "hostPath volumes (volume \"v\")",
            ],
        );
        let container = json!({
            "name": "c",
            "ports": [{ "containerPort": 80, "hostPort": 80 }],
            "securityContext": {
                "privileged": true,
                "capabilities": { "add": ["CHOWN", "NET_ADMIN"] },
                "procMount": "Unmasked",
            },
        });
        check(
            "baseline",
            json!({ "containers": [container, { "name": "d", "securityContext": { "privileged": true } }] }),
            &[
                "hostPort (container \"c\" uses hostPort 80)",
                "privileged (containers \"c\", \"d\" must not set securityContext.privileged=true)",
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
                "non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in \
                 securityContext.capabilities.add)",
            ],
        );
    }

    #[test]
    fn a_restricted_pod_gives_up_what_it_does_not_need() {
        check(
            "restricted",
            json!({ "containers": [{ "name": "c" }] }),
            &[
                "allowPrivilegeEscalation != false (container \"c\" must set \
                 securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (container \"c\" must set \
                 securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or container \"c\" must set \
                 securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or container \"c\" must set \
                 securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ],
        );
        let container = json!({
            "name": "c",
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
            },
        });
        let context =
            json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
        let good = json!({ "containers": [container], "securityContext": context });
        check("restricted", good.clone(), &[]);
        let mut mounts = good.clone();
        mounts["volumes"] = json!([{ "name": "v", "nfs": { "server": "s", "path": "/" } }]);
        check(
            "restricted",
            mounts,
            &["restricted volume types (volume \"v\" uses restricted volume type \"nfs\")"],
        );
        let mut root = good;
        root["securityContext"]["runAsUser"] = json!(0);
        check("restricted", root, &["runAsUser=0 (pod must not set runAsUser=0)"]);
    }

    #[test]
    fn only_other_images_are_judged_again() {
        let spec = |image: &str| -> PodSpec {
            let container = json!({ "name": "c", "image": image });
            serde_json::from_value(json!({ "containers": [container] })).unwrap()
        };
        assert!(!is_significant(&spec("a"), Some(&spec("a"))));
        assert!(is_significant(&spec("b"), Some(&spec("a"))));
    }
}
