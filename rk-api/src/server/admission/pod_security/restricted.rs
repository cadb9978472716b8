//! The restricted standard: a Pod gives up what it does not need.

use k8s_openapi::api::core::v1::{PodSpec, Volume};
use serde_json::{Value, json};

use super::{
    Version, Violation,
    baseline::bad_seccomp,
    subjects::{containers, insert, named, plural, quoted, setters},
};

/// Sources of volumes that reach nothing of the host.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// What the standard asks for besides the baseline.
pub(super) fn all(spec: &PodSpec, version: Version) -> Vec<Violation> {
    // These are settings of Linux.
    let named_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    let is_windows = named_windows && version.has(25);
    type Check = fn(&PodSpec) -> Option<Violation>;
    let since = |minor: u32, check: Check| if version.has(minor) { check(spec) } else { None };
    let on_linux = |minor: u32, check: Check| if is_windows { None } else { since(minor, check) };
    [
        on_linux(8, privilege_escalation),
        on_linux(22, capabilities),
        volumes(spec),
        run_as_non_root(spec),
        since(23, run_as_user),
        on_linux(19, seccomp),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn privilege_escalation(spec: &PodSpec) -> Option<Violation> {
    let bad = containers(spec).filter(|container| {
        container.context.and_then(|context| context.allow_privilege_escalation) != Some(false)
    });
    let names: Vec<_> = bad.map(|container| container.name).collect();
    (!names.is_empty()).then(|| Violation {
        reason: "allowPrivilegeEscalation != false",
        detail: format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            named(&names)
        ),
    })
}

fn capabilities(spec: &PodSpec) -> Option<Violation> {
    let (mut keep, mut gain, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for container in containers(spec) {
        let capabilities = container.context.and_then(|context| context.capabilities.as_ref());
        let drop = capabilities.into_iter().flat_map(|all| all.drop.iter().flatten());
        if !drop.into_iter().any(|name| name == "ALL") {
            keep.push(container.name);
        }
        let add = capabilities.into_iter().flat_map(|all| all.add.iter().flatten());
        let bad: Vec<_> = add.filter(|name| *name != "NET_BIND_SERVICE").collect();
        if !bad.is_empty() {
            gain.push(container.name);
            bad.into_iter().for_each(|name| insert(&mut added, name.as_str()));
        }
    }
    let mut details = Vec::new();
    if !keep.is_empty() {
        let names = named(&keep);
        details.push(format!("{names} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !gain.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&gain),
            quoted(&added)
        ));
    }
    (!details.is_empty())
        .then(|| Violation { reason: "unrestricted capabilities", detail: details.join("; ") })
}

/// The field that says where a volume's contents come from.
fn source(volume: &Volume) -> Option<String> {
    let Value::Object(fields) = json!(volume) else { return None };
    fields.into_iter().map(|(field, _)| field).find(|field| field != "name")
}

fn volumes(spec: &PodSpec) -> Option<Violation> {
    let (mut names, mut types) = (Vec::new(), Vec::new());
    for volume in spec.volumes.iter().flatten() {
        let source = source(volume).unwrap_or_else(|| "unknown".to_owned());
        if !VOLUMES.contains(&source.as_str()) {
            names.push(volume.name.as_str());
            insert(&mut types, source);
        }
    }
    (!names.is_empty()).then(|| Violation {
        reason: "restricted volume types",
        detail: format!(
            "{} {} {} {} {}",
            plural(&names, "volume", "volumes"),
            quoted(&names),
            plural(&names, "uses", "use"),
            plural(&types, "restricted volume type", "restricted volume types"),
            quoted(&types)
        ),
    })
}

fn run_as_non_root(spec: &PodSpec) -> Option<Violation> {
    let context = spec.security_context.as_ref();
    let pod = context.and_then(|context| context.run_as_non_root);
    let (mut refusing, mut silent) = (Vec::new(), Vec::new());
    for container in containers(spec) {
        match container.context.and_then(|context| context.run_as_non_root) {
            Some(true) => {}
            Some(false) => refusing.push(container.name),
            None if pod != Some(true) => silent.push(container.name),
            None => {}
        }
    }
    let mut details = Vec::new();
    // What the Pod says matters only where a container says nothing itself.
    if pod == Some(false) && !silent.is_empty() {
        details.push("pod must not set securityContext.runAsNonRoot=false".to_owned());
    }
    if !refusing.is_empty() {
        let names = named(&refusing);
        details.push(format!("{names} must not set securityContext.runAsNonRoot=false"));
    }
    if pod.is_none() && !silent.is_empty() {
        let setters = setters(true, &silent, "or");
        details.push(format!("{setters} must set securityContext.runAsNonRoot=true"));
    }
    (!details.is_empty())
        .then(|| Violation { reason: "runAsNonRoot != true", detail: details.join("; ") })
}

fn run_as_user(spec: &PodSpec) -> Option<Violation> {
    let context = spec.security_context.as_ref();
    let pod = context.and_then(|context| context.run_as_user) == Some(0);
    let bad = containers(spec)
        .filter(|container| container.context.and_then(|context| context.run_as_user) == Some(0));
    let names: Vec<_> = bad.map(|container| container.name).collect();
    (pod || !names.is_empty()).then(|| Violation {
        reason: "runAsUser=0",
        detail: format!("{} must not set runAsUser=0", setters(pod, &names, "and")),
    })
}

fn seccomp(spec: &PodSpec) -> Option<Violation> {
    let (pod, names, types) = bad_seccomp(spec);
    if pod || !names.is_empty() {
        let setters = setters(pod, &names, "and");
        let types = quoted(&types);
        let detail =
            format!("{setters} must not set securityContext.seccompProfile.type to {types}");
        return Some(Violation { reason: "seccompProfile", detail });
    }
    let context = spec.security_context.as_ref();
    if context.is_some_and(|context| context.seccomp_profile.is_some()) {
        return None;
    }
    let silent = containers(spec).filter(|container| {
        container.context.is_none_or(|context| context.seccomp_profile.is_none())
    });
    let names: Vec<_> = silent.map(|container| container.name).collect();
    (!names.is_empty()).then(|| Violation {
        reason: "seccompProfile",
        detail: format!(
            "{} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            setters(true, &names, "or")
        ),
    })
}
