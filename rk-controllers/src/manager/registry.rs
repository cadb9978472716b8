//! The built-in controllers by name.

use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use tokio_util::sync::CancellationToken;

use super::{Context, ManagerError, Task};
use crate::{
    attach_detach, bootstrap_signer, certificates, cloud, clusterrole_aggregation,
    controller::Controller, cronjob, daemonset, deployment, disruption, endpoints, endpointslice,
    endpointslice_mirroring, ephemeral_volume, garbage_collector, job, legacy_token_cleaner,
    namespace, node_ipam, node_lifecycle, persistent_volume, pod_gc, podautoscaler, protection,
    replicaset, resource_quota, root_ca, service_account, service_account_tokens, service_cidrs,
    statefulset, taint_eviction, token_cleaner, ttl_after_finished, volume_expand,
};

/// A controller that a manager can start.
pub(super) struct Entry {
    pub name: &'static str,
    /// Its name in the flags of Kubernetes up to 1.28, still accepted.
    pub short_name: &'static str,
    /// Kinds it cannot do without: API version and plural.
    pub needs: &'static [(&'static str, &'static str)],
    pub start: fn(&'static str, &Context, CancellationToken) -> Task,
}

const SIGNING_REQUESTS: &[(&str, &str)] =
    &[("certificates.k8s.io/v1", "certificatesigningrequests")];

/// Those that `*` does not choose: they are for clusters that machines join with bootstrap tokens.
const OFF_BY_DEFAULT: &[&str] = &["bootstrap-signer-controller", "token-cleaner-controller"];

/// Alphabetical by name.
pub(super) const REGISTRY: &[Entry] = &[
    entry(
        "bootstrap-signer-controller",
        "bootstrapsigner",
        &[("v1", "configmaps"), ("v1", "secrets")],
        |name, context, token| run(bootstrap_signer::controller(name, context), context, token),
    ),
    entry(
        "certificatesigningrequest-approving-controller",
        "csrapproving",
        SIGNING_REQUESTS,
        |name, context, token| run(certificates::approver(name, context), context, token),
    ),
    entry(
        "certificatesigningrequest-cleaner-controller",
        "csrcleaner",
        SIGNING_REQUESTS,
        |name, context, token| run(certificates::cleaner(name, context), context, token),
    ),
    entry(
        "certificatesigningrequest-signing-controller",
        "csrsigning",
        SIGNING_REQUESTS,
        |name, context, token| match certificates::signer(name, context) {
            Some(controller) => run(controller, context, token),
            None => Box::pin(async {}),
        },
    ),
    entry("cloud-node-controller", "cloud-node", &[("v1", "nodes")], |name, context, token| {
        run_if(cloud::node::controller(name, context), context, token)
    }),
    entry(
        "cloud-node-lifecycle-controller",
        "cloud-node-lifecycle",
        &[("v1", "nodes")],
        |_, context, token| Box::pin(cloud::node_lifecycle::run(context.clone(), token)),
    ),
    entry(
        "clusterrole-aggregation-controller",
        "clusterrole-aggregation",
        &[("rbac.authorization.k8s.io/v1", "clusterroles")],
        |name, context, token| {
            run(clusterrole_aggregation::controller(name, context), context, token)
        },
    ),
    entry(
        "cronjob-controller",
        "cronjob",
        &[("batch/v1", "cronjobs"), ("batch/v1", "jobs")],
        |name, context, token| run(cronjob::controller(name, context), context, token),
    ),
    entry(
        "daemonset-controller",
        "daemonset",
        &[("apps/v1", "daemonsets"), ("apps/v1", "controllerrevisions")],
        |name, context, token| run(daemonset::controller(name, context), context, token),
    ),
    entry(
        "deployment-controller",
        "deployment",
        &[("apps/v1", "deployments"), ("apps/v1", "replicasets")],
        |name, context, token| run(deployment::controller(name, context), context, token),
    ),
    entry(
        "disruption-controller",
        "disruption",
        &[("policy/v1", "poddisruptionbudgets")],
        |name, context, token| {
            let stale = disruption::stale_target_controller(name, context);
            let stale = run(stale, context, token.clone());
            let budgets = run(disruption::controller(name, context), context, token);
            Box::pin(async move {
                futures::join!(budgets, stale);
            })
        },
    ),
    entry("endpoints-controller", "endpoint", &[("v1", "endpoints")], |name, context, token| {
        run(endpoints::controller(name, context), context, token)
    }),
    entry(
        "endpointslice-controller",
        "endpointslice",
        &[("discovery.k8s.io/v1", "endpointslices")],
        |name, context, token| run(endpointslice::controller(name, context), context, token),
    ),
    entry(
        "endpointslice-mirroring-controller",
        "endpointslicemirroring",
        &[("discovery.k8s.io/v1", "endpointslices"), ("v1", "endpoints")],
        |name, context, token| {
            run(endpointslice_mirroring::controller(name, context), context, token)
        },
    ),
    entry(
        "ephemeral-volume-controller",
        "ephemeral-volume",
        &[("v1", "pods"), ("v1", "persistentvolumeclaims")],
        |name, context, token| run(ephemeral_volume::controller(name, context), context, token),
    ),
    entry("garbage-collector-controller", "garbagecollector", &[], |name, context, token| {
        Box::pin(garbage_collector::run(name, context.clone(), token))
    }),
    entry(
        "horizontal-pod-autoscaler-controller",
        "horizontalpodautoscaling",
        &[("autoscaling/v2", "horizontalpodautoscalers")],
        |name, context, token| run(podautoscaler::controller(name, context), context, token),
    ),
    entry(
        "job-controller",
        "job",
        &[("batch/v1", "jobs"), ("v1", "pods")],
        |name, context, token| {
            let orphans = run(job::orphan_controller(name, context), context, token.clone());
            let jobs = run(job::controller(name, context), context, token);
            Box::pin(async move {
                futures::join!(jobs, orphans);
            })
        },
    ),
    entry(
        "legacy-serviceaccount-token-cleaner-controller",
        "legacy-service-account-token-cleaner",
        &[("v1", "secrets"), ("v1", "serviceaccounts")],
        |_, context, token| Box::pin(legacy_token_cleaner::run(context.clone(), token)),
    ),
    entry("namespace-controller", "namespace", &[("v1", "namespaces")], |name, context, token| {
        run(namespace::controller(name, context), context, token)
    }),
    entry("node-ipam-controller", "nodeipam", &[("v1", "nodes")], |name, context, token| {
        run(node_ipam::controller(name, context), context, token)
    }),
    entry(
        "node-lifecycle-controller",
        "nodelifecycle",
        &[("v1", "nodes"), ("coordination.k8s.io/v1", "leases")],
        |name, context, token| Box::pin(node_lifecycle::run(name, context.clone(), token)),
    ),
    entry("node-route-controller", "route", &[("v1", "nodes")], |_, context, token| {
        Box::pin(cloud::route::run(context.clone(), token))
    }),
    entry(
        "persistentvolume-attach-detach-controller",
        "attachdetach",
        &[("v1", "persistentvolumes"), ("storage.k8s.io/v1", "volumeattachments")],
        |name, context, token| run(attach_detach::controller(name, context), context, token),
    ),
    entry(
        "persistentvolume-binder-controller",
        "persistentvolume-binder",
        &[("v1", "persistentvolumes"), ("v1", "persistentvolumeclaims")],
        |name, context, token| run(persistent_volume::controller(name, context), context, token),
    ),
    entry(
        "persistentvolume-expander-controller",
        "persistentvolume-expander",
        &[("v1", "persistentvolumes"), ("v1", "persistentvolumeclaims")],
        |name, context, token| run(volume_expand::controller(name, context), context, token),
    ),
    entry(
        "persistentvolume-protection-controller",
        "pv-protection",
        &[("v1", "persistentvolumes")],
        |name, context, token| run(protection::volumes(name, context), context, token),
    ),
    entry(
        "persistentvolumeclaim-protection-controller",
        "pvc-protection",
        &[("v1", "persistentvolumeclaims")],
        |name, context, token| run(protection::claims(name, context), context, token),
    ),
    entry(
        "pod-garbage-collector-controller",
        "podgc",
        &[("v1", "pods"), ("v1", "nodes")],
        |_, context, token| Box::pin(pod_gc::run(context.clone(), token)),
    ),
    entry(
        "replicaset-controller",
        "replicaset",
        &[("apps/v1", "replicasets")],
        |name, context, token| {
            run(replicaset::controller::<ReplicaSet>(name, context), context, token)
        },
    ),
    entry(
        "replicationcontroller-controller",
        "replicationcontroller",
        &[("v1", "replicationcontrollers")],
        |name, context, token| {
            run(replicaset::controller::<ReplicationController>(name, context), context, token)
        },
    ),
    entry(
        "resourcequota-controller",
        "resourcequota",
        &[("v1", "resourcequotas")],
        |name, context, token| Box::pin(resource_quota::run(name, context.clone(), token)),
    ),
    entry(
        "root-ca-certificate-publisher-controller",
        "root-ca-cert-publisher",
        &[("v1", "configmaps")],
        |name, context, token| run_if(root_ca::controller(name, context), context, token),
    ),
    entry(
        "service-cidr-controller",
        "servicecidr",
        &[("networking.k8s.io/v1", "servicecidrs"), ("networking.k8s.io/v1", "ipaddresses")],
        |name, context, token| run(service_cidrs::controller(name, context), context, token),
    ),
    entry(
        "service-lb-controller",
        "service",
        &[("v1", "services"), ("v1", "nodes")],
        |name, context, token| run_if(cloud::service::controller(name, context), context, token),
    ),
    entry(
        "serviceaccount-controller",
        "serviceaccount",
        &[("v1", "serviceaccounts")],
        |name, context, token| run(service_account::controller(name, context), context, token),
    ),
    entry(
        "serviceaccount-token-controller",
        "serviceaccount-token",
        &[("v1", "secrets"), ("v1", "serviceaccounts")],
        |name, context, token| {
            run_if(service_account_tokens::controller(name, context), context, token)
        },
    ),
    entry(
        "statefulset-controller",
        "statefulset",
        &[("apps/v1", "statefulsets"), ("apps/v1", "controllerrevisions")],
        |name, context, token| run(statefulset::controller(name, context), context, token),
    ),
    entry(
        "taint-eviction-controller",
        "taint-eviction",
        &[("v1", "nodes"), ("v1", "pods")],
        |name, context, token| run(taint_eviction::controller(name, context), context, token),
    ),
    entry("token-cleaner-controller", "tokencleaner", &[("v1", "secrets")], |_, context, token| {
        Box::pin(token_cleaner::run(context.clone(), token))
    }),
    entry(
        "ttl-after-finished-controller",
        "ttl-after-finished",
        &[("batch/v1", "jobs")],
        |name, context, token| run(ttl_after_finished::controller(name, context), context, token),
    ),
    entry(
        "volumeattributesclass-protection-controller",
        "volumeattributesclass-protection",
        &[("storage.k8s.io/v1", "volumeattributesclasses")],
        |name, context, token| run(protection::attributes_classes(name, context), context, token),
    ),
];

/// The service account in kube-system whose role lets a controller do its work; `None` for those
/// that work with the manager's own rights.
pub(super) fn account(name: &str) -> Option<&str> {
    Some(match name {
        "bootstrap-signer-controller" => "bootstrap-signer",
        "certificatesigningrequest-approving-controller"
        | "certificatesigningrequest-cleaner-controller"
        | "certificatesigningrequest-signing-controller" => "certificate-controller",
        "daemonset-controller" => "daemon-set-controller",
        "endpoints-controller" => "endpoint-controller",
        "endpointslice-mirroring-controller" => "endpointslicemirroring-controller",
        "garbage-collector-controller" => "generic-garbage-collector",
        "horizontal-pod-autoscaler-controller" => "horizontal-pod-autoscaler",
        "legacy-serviceaccount-token-cleaner-controller" => "legacy-service-account-token-cleaner",
        "node-route-controller" => "route-controller",
        "service-lb-controller" => "service-controller",
        "cloud-node-controller"
        | "cloud-node-lifecycle-controller"
        | "node-ipam-controller"
        | "node-lifecycle-controller"
        | "taint-eviction-controller" => "node-controller",
        "persistentvolume-attach-detach-controller" => "attachdetach-controller",
        "persistentvolume-expander-controller" => "expand-controller",
        "persistentvolume-binder-controller" => "persistent-volume-binder",
        "persistentvolume-protection-controller" => "pv-protection-controller",
        "persistentvolumeclaim-protection-controller" => "pvc-protection-controller",
        "pod-garbage-collector-controller" => "pod-garbage-collector",
        "replicationcontroller-controller" => "replication-controller",
        "root-ca-certificate-publisher-controller" => "root-ca-cert-publisher",
        "service-cidr-controller" => "service-cidrs-controller",
        "serviceaccount-controller" => "service-account-controller",
        "serviceaccount-token-controller" => return None,
        "token-cleaner-controller" => "token-cleaner",
        same => same,
    })
}

const fn entry(
    name: &'static str,
    short_name: &'static str,
    needs: &'static [(&'static str, &'static str)],
    start: fn(&'static str, &Context, CancellationToken) -> Task,
) -> Entry {
    Entry { name, short_name, needs, start }
}

fn run(mut controller: Controller, context: &Context, shutdown: CancellationToken) -> Task {
    if let Some(workers) = context.settings.workers_of.get(controller.name()) {
        controller = controller.workers(*workers);
    }
    Box::pin(controller.metrics(&context.metrics).run(shutdown))
}

/// Runs a controller that may have nothing to work with.
fn run_if(controller: Option<Controller>, context: &Context, shutdown: CancellationToken) -> Task {
    match controller {
        Some(controller) => run(controller, context, shutdown),
        None => Box::pin(async {}),
    }
}

/// The name of a controller that is called so, now or up to Kubernetes 1.28.
pub(super) fn full_name(name: &str) -> Option<&'static str> {
    let entry = REGISTRY.iter().find(|entry| [entry.name, entry.short_name].contains(&name))?;
    Some(entry.name)
}

/// The error that says which names there are.
pub(super) fn unknown(name: &str) -> ManagerError {
    let known: Vec<&str> = REGISTRY.iter().map(|entry| entry.name).collect();
    ManagerError::UnknownController { name: name.to_owned(), known: known.join(", ") }
}

/// The entries that a list of `*`, `name` and `-name` chooses. A name wins over `*`, and `-name`
/// over `name`. A name that nobody has is an error: a typo must not leave a controller running.
pub(super) fn select<'a>(
    registry: &'a [Entry],
    selection: &str,
) -> Result<Vec<&'a Entry>, ManagerError> {
    let words: Vec<&str> =
        selection.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let named = |entry: &Entry, word: &str| word == entry.name || word == entry.short_name;
    for word in &words {
        let name = word.strip_prefix('-').unwrap_or(word);
        if name != "*" && !registry.iter().any(|entry| named(entry, name)) {
            return Err(unknown(name));
        }
    }
    let enabled = |entry: &&Entry| {
        let off =
            words.iter().any(|word| word.strip_prefix('-').is_some_and(|name| named(entry, name)));
        let by_default = !OFF_BY_DEFAULT.contains(&entry.name);
        !off && words.iter().any(|word| (*word == "*" && by_default) || named(entry, word))
    };
    Ok(registry.iter().filter(enabled).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(selection: &str) -> Vec<&'static str> {
        select(REGISTRY, selection).unwrap().iter().map(|entry| entry.short_name).collect()
    }

    #[test]
    fn a_selection_reads_like_the_flag_of_kube_controller_manager() {
        let default = REGISTRY.len() - OFF_BY_DEFAULT.len();
        assert_eq!(names("*").len(), default);
        assert_eq!(names("*,bootstrapsigner,tokencleaner").len(), REGISTRY.len());
        assert_eq!(names("deployment, replicaset-controller"), ["deployment", "replicaset"]);
        assert_eq!(names("*,-nodeipam").len(), default - 1);
        assert_eq!(names("-namespace,namespace,podgc"), ["podgc"]);
        assert!(names("").is_empty());
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let error = select(REGISTRY, "*,-deploymnet").err().unwrap().to_string();
        assert!(error.starts_with("there is no controller \"deploymnet\"; known are "), "{error}");
        assert!(error.contains("deployment-controller, "), "{error}");
    }
}
