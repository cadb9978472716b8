//! PodSecurity: how much a Pod of a namespace may do, by the Pod security standards
//! (`privileged`, `baseline`, `restricted`) that the namespace's labels name (KEP-2579).
//!
//! What a namespace enforces is refused. What it only wants to be warned of, or audited, is let
//! through with a warning or an audit annotation; so are the objects that Pods are made from.

mod baseline;
mod policy;
mod restricted;
mod subjects;

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Namespace, Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController},
};

pub use self::policy::{PodSecurityDefaults, PodSecurityExemptions};
use self::{
    policy::{Level, Policy, Standard, Version},
    subjects::Annotations,
};
use super::{Admission, AdmissionRequest, Operation};
use crate::{
    resources::Object,
    server::{
        reader::Reader,
        status::{ApiError, Result, Subject},
    },
};

/// The most Pods of a namespace that are looked at when it becomes stricter.
const PODS_MAX: usize = 3000;

/// What audit annotations begin with.
const ANNOTATIONS: &str = "pod-security.kubernetes.io/";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PodSecurity {
    reader: Reader,
    defaults: Policy,
    exemptions: PodSecurityExemptions,
}

/// What is wrong with a Pod: what it is about, and where.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    reason: &'static str,
    detail: String,
}

#[async_trait]
impl Admission for PodSecurity {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        let is_pod = request.resource.group.is_empty() && request.resource.plural == "pods";
        let about = match request.subresource {
            "" => true,
            sub => is_pod && matches!(sub, "ephemeralcontainers" | "resize"),
        };
        about && request.is_write()
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let Some(object) = request.object() else { return Ok(()) };
        if object.as_any().is::<Namespace>() {
            return self.namespace(request, object);
        }
        if let Some(pod) = object.as_any().downcast_ref::<Pod>() {
            return self.pod(request, pod).await;
        }
        match template(object) {
            Some(template) => self.template(request, template).await,
            None => Ok(()),
        }
    }
}

impl PodSecurity {
    /// # Errors
    /// What of the defaults makes no sense.
    pub(super) fn check(defaults: &PodSecurityDefaults) -> std::result::Result<(), String> {
        defaults.policy().map(drop)
    }

    /// # Errors
    /// What of the defaults makes no sense.
    pub(super) fn new(
        reader: Reader,
        defaults: &PodSecurityDefaults,
        exemptions: PodSecurityExemptions,
    ) -> std::result::Result<Self, String> {
        Ok(Self { reader, defaults: defaults.policy()?, exemptions })
    }

    /// What the request's namespace asks for; `None` when that is nothing, or nothing of this
    /// request.
    async fn policy(&self, request: &AdmissionRequest<'_>) -> Result<Option<Policy>> {
        let name = request.namespace.unwrap_or_default();
        let has = |list: &[String], name: &str| list.iter().any(|found| found == name);
        let exempt = match () {
            () if has(&self.exemptions.namespaces, name) => Some("namespace"),
            () if has(&self.exemptions.usernames, &request.user.name) => Some("user"),
            () => None,
        };
        if let Some(exempt) = exempt {
            request.annotate(&format!("{ANNOTATIONS}exempt"), exempt);
            return Ok(None);
        }
        let Some(namespace) = self.reader.find::<Namespace>(None, name).await? else {
            return Ok(None);
        };
        let (policy, _) = Policy::of(Some(&namespace.facts.labels), &self.defaults);
        Ok((!policy.is_privileged()).then_some(policy))
    }

    fn is_exempt_class(&self, request: &AdmissionRequest<'_>, spec: &PodSpec) -> bool {
        let class = spec.runtime_class_name.as_ref();
        let exempt = class.is_some_and(|class| self.exemptions.runtime_classes.contains(class));
        if exempt {
            request.annotate(&format!("{ANNOTATIONS}exempt"), "runtimeClass");
        }
        exempt
    }

    async fn pod(&self, request: &AdmissionRequest<'_>, pod: &Pod) -> Result<()> {
        let Some(spec) = pod.spec.as_ref() else { return Ok(()) };
        let old = request.old_as::<Pod>();
        if old.is_some_and(|old| !is_significant(pod, old)) {
            return Ok(());
        }
        let Some(policy) = self.policy(request).await? else { return Ok(()) };
        if self.is_exempt_class(request, spec) {
            return Ok(());
        }
        let annotations = pod.metadata.annotations.as_ref();
        request.annotate(&format!("{ANNOTATIONS}enforce-policy"), policy.enforce.to_string());
        note(request, &policy, spec, annotations);
        let wrong = violations(policy.enforce, spec, annotations);
        if wrong.is_empty() {
            warn(request, &policy, spec, annotations);
            return Ok(());
        }
        let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, described(&wrong));
        Err(request.forbidden(&why))
    }

    /// What Pods are made from is never refused: the Pods will be.
    async fn template(
        &self,
        request: &AdmissionRequest<'_>,
        template: &PodTemplateSpec,
    ) -> Result<()> {
        let Some(spec) = template.spec.as_ref() else { return Ok(()) };
        let Some(policy) = self.policy(request).await? else { return Ok(()) };
        if self.is_exempt_class(request, spec) {
            return Ok(());
        }
        let annotations = template.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
        note(request, &policy, spec, annotations);
        warn(request, &policy, spec, annotations);
        Ok(())
    }

    /// A namespace names levels that there are, and is told which of its Pods a new one would not
    /// let in.
    fn namespace(&self, request: &AdmissionRequest<'_>, object: &dyn Object) -> Result<()> {
        let (new, errors) = Policy::of(object.meta().labels.as_ref(), &self.defaults);
        let old = request.old.and_then(|old| old.meta().labels.as_ref());
        let (old, old_errors) = Policy::of(old, &self.defaults);
        if !errors.is_empty() && (request.operation == Operation::Create || errors != old_errors) {
            return Err(ApiError::invalid(&Subject::kind(request.resource), request.name, &errors));
        }
        let relaxed =
            new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
        let exempt = self.exemptions.namespaces.iter().any(|name| name == request.name);
        if request.operation == Operation::Create || relaxed || exempt {
            return Ok(());
        }
        if new.enforce.level == Level::Privileged {
            return Ok(());
        }
        let pods = self.reader.list::<Pod>(Some(request.name))?;
        for warning in existing(request.name, new.enforce, &pods) {
            request.warn(warning);
        }
        Ok(())
    }
}

/// What to say of the Pods that a namespace has and would not let in any more.
fn existing(namespace: &str, standard: Standard, pods: &[Pod]) -> Vec<String> {
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(PODS_MAX) {
        let Some(spec) = pod.spec.as_ref() else { continue };
        let wrong = violations(standard, spec, pod.metadata.annotations.as_ref());
        if !wrong.is_empty() {
            let reasons: Vec<_> = wrong.iter().map(|violation| violation.reason).collect();
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            found.entry(reasons.join(", ")).or_default().push(name);
        }
    }
    if found.is_empty() {
        return Vec::new();
    }
    let mut warnings: Vec<String> = found
        .into_iter()
        .map(|(reasons, names)| {
            let first = names.first().copied().unwrap_or_default();
            match names.len() - 1 {
                0 => format!("{first}: {reasons}"),
                1 => format!("{first} (and 1 other pod): {reasons}"),
                others => format!("{first} (and {others} other pods): {reasons}"),
            }
        })
        .collect();
    warnings.sort();
    let mut head = vec![format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \
         \"{standard}\""
    )];
    if pods.len() > PODS_MAX {
        head.push(format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing \
             pods",
            pods.len()
        ));
    }
    head.append(&mut warnings);
    head
}

/// The Pods that an object makes.
fn template(object: &dyn Object) -> Option<&PodTemplateSpec> {
    let any = object.as_any();
    if let Some(deployment) = any.downcast_ref::<Deployment>() {
        Some(&deployment.spec.template)
    } else if let Some(set) = any.downcast_ref::<ReplicaSet>() {
        set.spec.template.as_ref()
    } else if let Some(set) = any.downcast_ref::<StatefulSet>() {
        Some(&set.spec.template)
    } else if let Some(set) = any.downcast_ref::<DaemonSet>() {
        Some(&set.spec.template)
    } else if let Some(job) = any.downcast_ref::<Job>() {
        Some(&job.spec.as_ref()?.template)
    } else if let Some(job) = any.downcast_ref::<CronJob>() {
        Some(&job.spec.job_template.spec.as_ref()?.template)
    } else if let Some(controller) = any.downcast_ref::<ReplicationController>() {
        controller.spec.as_ref()?.template.as_ref()
    } else {
        any.downcast_ref::<PodTemplate>()?.template.as_ref()
    }
}

/// Notes in the audit event what a Pod would violate.
fn note(
    request: &AdmissionRequest<'_>,
    policy: &Policy,
    spec: &PodSpec,
    annotations: Annotations<'_>,
) {
    let wrong = violations(policy.audit, spec, annotations);
    if !wrong.is_empty() {
        let text = format!("would violate PodSecurity \"{}\": {}", policy.audit, described(&wrong));
        request.annotate(&format!("{ANNOTATIONS}audit-violations"), text);
    }
}

/// Warns of what a Pod would violate.
fn warn(
    request: &AdmissionRequest<'_>,
    policy: &Policy,
    spec: &PodSpec,
    annotations: Annotations<'_>,
) {
    let wrong = violations(policy.warn, spec, annotations);
    if !wrong.is_empty() {
        request.warn(format!(
            "would violate PodSecurity \"{}\": {}",
            policy.warn,
            described(&wrong)
        ));
    }
}

fn described(violations: &[Violation]) -> String {
    let texts: Vec<_> = violations
        .iter()
        .map(|violation| match violation.detail.as_str() {
            "" => violation.reason.to_owned(),
            detail => format!("{} ({detail})", violation.reason),
        })
        .collect();
    texts.join(", ")
}

/// Whether an update can make a Pod do more than before: other containers, other images, or other
/// profiles in its annotations.
fn is_significant(new: &Pod, old: &Pod) -> bool {
    const PROFILES: [&str; 2] = [
        "container.apparmor.security.beta.kubernetes.io/",
        "container.seccomp.security.alpha.kubernetes.io/",
    ];
    let images = |pod: &Pod| -> Vec<(String, Option<String>)> {
        let containers = pod.spec.iter().flat_map(subjects::containers);
        containers.map(|container| (container.name.to_owned(), container.image.cloned())).collect()
    };
    let profiles = |pod: &Pod| -> Vec<(String, String)> {
        let all = pod.metadata.annotations.iter().flatten();
        let is_profile = |key: &str| PROFILES.iter().any(|prefix| key.starts_with(prefix));
        all.filter(|(key, _)| is_profile(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    images(new) != images(old) || profiles(new) != profiles(old)
}

/// What is wrong with a Pod by a standard.
fn violations(standard: Standard, spec: &PodSpec, annotations: Annotations<'_>) -> Vec<Violation> {
    let version = standard.version;
    let mut wrong = match standard.level {
        Level::Privileged => return Vec::new(),
        _ => baseline::always(spec, annotations, version),
    };
    match standard.level {
        Level::Restricted => wrong.extend(restricted::all(spec, version)),
        _ => wrong.extend(baseline::loosened(spec, version)),
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(level: Level, spec: Value, wrong: &[&str]) {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let standard = Standard { level, ..Standard::default() };
        let found: Vec<_> = violations(standard, &spec, None)
            .into_iter()
            .map(|violation| format!("{} ({})", violation.reason, violation.detail))
            .collect();
        assert_eq!(found, wrong);
    }

    #[test]
    fn the_baseline_keeps_pods_off_the_host() {
        let plain = json!({ "containers": [{ "name": "c" }] });
        check(Level::Baseline, plain.clone(), &[]);
        let mut host = plain.clone();
        host["hostNetwork"] = json!(true);
        host["hostPID"] = json!(true);
        host["volumes"] = json!([{ "name": "v", "hostPath": { "path": "/" } }]);
        check(Level::Privileged, host.clone(), &[]);
        check(
            Level::Baseline,
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
            Level::Baseline,
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
            Level::Restricted,
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
        check(Level::Restricted, good.clone(), &[]);
        let mut mounts = good.clone();
        mounts["volumes"] = json!([{ "name": "v", "nfs": { "server": "s", "path": "/" } }]);
        check(
            Level::Restricted,
            mounts,
            &["restricted volume types (volume \"v\" uses restricted volume type \"nfs\")"],
        );
        let mut root = good;
        root["securityContext"]["runAsUser"] = json!(0);
        check(Level::Restricted, root, &["runAsUser=0 (pod must not set runAsUser=0)"]);
    }

    #[test]
    fn only_other_images_are_judged_again() {
        let pod = |image: &str| -> Pod {
            let container = json!({ "name": "c", "image": image });
            serde_json::from_value(json!({ "spec": { "containers": [container] } })).unwrap()
        };
        assert!(!is_significant(&pod("a"), &pod("a")));
        assert!(is_significant(&pod("b"), &pod("a")));
        let mut profiled = pod("a");
        let key = "container.apparmor.security.beta.kubernetes.io/c".to_owned();
        profiled.metadata.annotations = Some([(key, "unconfined".to_owned())].into());
        assert!(is_significant(&profiled, &pod("a")));
    }

    #[test]
    fn an_older_version_asks_for_less() {
        let spec = json!({ "containers": [{ "name": "c" }] });
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let labels = |version: &str| {
            let prefix = "pod-security.kubernetes.io/enforce";
            let level = (prefix.to_owned(), "restricted".to_owned());
            let version = (format!("{prefix}-version"), version.to_owned());
            Policy::of(Some(&[level, version].into()), &Policy::default()).0.enforce
        };
        let reasons = |version: &str| -> Vec<&str> {
            violations(labels(version), &spec, None).iter().map(|it| it.reason).collect()
        };
        assert_eq!(reasons("v1.7"), ["runAsNonRoot != true"]);
        assert_eq!(
            reasons("v1.19"),
            ["allowPrivilegeEscalation != false", "runAsNonRoot != true", "seccompProfile"]
        );
        assert_eq!(reasons("latest").len(), 4);
    }

    #[test]
    fn pods_that_a_stricter_level_would_refuse_are_counted_by_what_is_wrong() {
        let pod = |name: &str, host: bool| -> Pod {
            let container = json!({ "name": "c" });
            serde_json::from_value(json!({
                "metadata": { "name": name },
                "spec": { "hostNetwork": host, "containers": [container] },
            }))
            .unwrap()
        };
        let baseline = Standard { level: Level::Baseline, ..Standard::default() };
        let pods = [pod("a", true), pod("b", false), pod("c", true)];
        assert_eq!(
            existing("ns", baseline, &pods),
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \
                 \"baseline:latest\"",
                "a (and 1 other pod): host namespaces",
            ]
        );
        assert!(existing("ns", baseline, &pods[1..2]).is_empty());
    }
}
