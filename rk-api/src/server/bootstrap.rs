//! What every cluster has from the start: its namespaces, the API server's Service, the two
//! priority classes of system components, the default roles and their bindings, an APIService for
//! each version of a group.

pub(super) mod policy;
mod rbac;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Namespace, Service},
        networking::v1::ServiceCIDR,
        scheduling::v1::PriorityClass,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
    jiff::{civil::Date, tz::TimeZone},
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    allocator::{Finding, Repairs},
    cache::Bell,
    registry::Target,
    status::{ApiError, Result},
    user::UserInfo,
    writer::Writer,
};
use crate::{
    clock,
    resources::{Part, Resources},
};

const SYSTEM: &str = "kube-system";
/// The ConfigMap that says since when it is known which tokens in Secrets are used.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Sets right what is there, and creates what is missing.
pub(super) async fn run(server: &Arc<Inner>) -> Result<Repairs> {
    let mut repairs = Repairs::default();
    let findings = server.registry.services.repair(&mut repairs).await?;
    ensure_all(server).await?;
    tell(server, &findings).await;
    Ok(repairs)
}

/// Makes events of what was wrong with Services.
async fn tell(server: &Inner, findings: &[Finding]) {
    for finding in findings {
        let told = match serde_json::to_value(finding.event()) {
            Ok(event) => ensure(server, "", "v1", "events", Some(finding.namespace()), event).await,
            Err(error) => Err(ApiError::internal(error)),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "what is wrong with a Service is not told");
        }
    }
}

async fn ensure_all(server: &Arc<Inner>) -> Result<()> {
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(server, "", "v1", "namespaces", None, json!({ "metadata": { "name": namespace } }))
            .await?;
    }
    let range = ("networking.k8s.io", "v1", "servicecidrs");
    ensure(server, range.0, range.1, range.2, None, service_range(server)).await?;
    range_is_ready(server).await?;
    ensure(server, "", "v1", "services", Some("default"), kubernetes_service(server)).await?;
    legacy_tokens_are_tracked(server).await?;
    for class in priority_classes() {
        ensure(server, "scheduling.k8s.io", "v1", "priorityclasses", None, class).await?;
    }
    // There are many of them, and a durable store takes its time for each.
    let services = local_api_services(server.kinds.builtin()).into_iter().map(|service| {
        ensure(server, "apiregistration.k8s.io", "v1", "apiservices", None, service)
    });
    futures::future::try_join_all(services).await?;
    Ok(())
}

/// Says since when tokens in Secrets are marked when they are used: who cleans up those that are not
/// marked has to wait from then on (KEP-2799).
async fn legacy_tokens_are_tracked(server: &Inner) -> Result<()> {
    let today = || clock::now().to_zoned(TimeZone::UTC).date().to_string();
    let map = json!({ "metadata": { "name": TRACKING }, "data": { "since": today() } });
    ensure(server, "", "v1", "configmaps", Some(SYSTEM), map).await?;
    let found = server.reader.get::<ConfigMap>(Some(SYSTEM), TRACKING).await?;
    let since = found.and_then(|found| found.data?.remove("since")).unwrap_or_default();
    if since.parse::<Date>().is_ok() {
        return Ok(());
    }
    let writer = Writer { server, manager: "kube-apiserver" };
    writer
        .update::<ConfigMap>(Some(SYSTEM), TRACKING, Part::Main, |map| {
            map.data.get_or_insert_default().insert("since".to_owned(), today());
        })
        .await
}

/// Pause before the roles are written again after that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Writes the default roles and bindings, and says so when they are there. As in kube-apiserver
/// this happens while requests are answered already.
pub(super) async fn roles(server: Weak<Inner>, shutdown: CancellationToken) {
    loop {
        let Some(server) = server.upgrade() else { return };
        match rbac::ensure(&server).await {
            Ok(()) => {
                server.roles_ready.send_replace(true);
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot create the default roles"),
        }
        drop(server);
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await.is_none() {
            return;
        }
    }
}

/// How often to look for what was deleted, as in kube-apiserver.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Creates again what somebody deletes, until the server ends.
pub(super) async fn keep(server: Weak<Inner>, shutdown: CancellationToken) {
    let Some(changed) = server.upgrade().map(|server| {
        Bell::of([
            server.reader.table::<Namespace>(),
            server.reader.table::<ServiceCIDR>(),
            server.reader.table::<Service>(),
            server.reader.table::<PriorityClass>(),
            server.reader.table::<APIService>(),
        ])
    }) else {
        return;
    };
    let mut ensured_at = None;
    while shutdown.run_until_cancelled(tokio::time::sleep(AGAIN_AFTER)).await.is_some() {
        let Some(server) = server.upgrade() else { return };
        let changes = changed.count();
        if ensured_at == Some(changes) {
            continue;
        }
        match ensure_all(&server).await {
            Ok(()) => ensured_at = Some(changes),
            Err(error) => tracing::warn!(%error, "cannot create what every cluster has"),
        }
    }
}

/// How often what Services have is set right, as in kube-apiserver.
const REPAIR_AFTER: Duration = Duration::from_secs(180);

/// Sets right what Services have, until the server ends.
pub(super) async fn repair(server: Weak<Inner>, mut repairs: Repairs, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(REPAIR_AFTER)).await.is_some() {
        let Some(server) = server.upgrade() else { return };
        match server.registry.services.repair(&mut repairs).await {
            Ok(findings) => tell(&server, &findings).await,
            Err(error) => tracing::warn!(%error, "what Services have was not looked at"),
        }
    }
}

pub(super) async fn ensure(
    server: &Inner,
    group: &str,
    version: &str,
    plural: &str,
    namespace: Option<&str>,
    object: Value,
) -> Result<()> {
    // A server of a subset of the kinds has nothing to create for the others.
    let Some(resource) = server.kinds.builtin().get(group, version, plural) else { return Ok(()) };
    let json = serde_json::to_vec(&object).map_err(ApiError::internal)?;
    let mut object = resource.strategy.decode(&json).map_err(ApiError::internal)?.object;
    resource.strategy.default(object.as_mut());
    let name = object.meta().name.clone().unwrap_or_default();
    let user = UserInfo::new("system:apiserver", ["system:masters"]);
    let target = Target {
        resource,
        subresource: "",
        namespace,
        name: &name,
        user: &user,
        dry_run: false,
        manager: "kube-apiserver",
        context: None,
    };
    if server.registry.read(&target).await?.is_some() {
        return Ok(());
    }
    match server.registry.create(&target, object).await {
        // Another server of the same store was faster.
        Err(error) if error.reason == "AlreadyExists" => Ok(()),
        result => result.map(drop),
    }
}

/// The ranges of addresses that this server was started with (KEP-1880).
fn service_range(server: &Inner) -> Value {
    let ranges = server.registry.services.ranges().iter();
    json!({
        "metadata": {
            "name": "kubernetes",
            "finalizers": ["networking.k8s.io/service-cidr-finalizer"],
        },
        "spec": { "cidrs": ranges.map(ToString::to_string).collect::<Vec<_>>() },
    })
}

/// The range that the server was started with can be used at once.
async fn range_is_ready(server: &Inner) -> Result<()> {
    let Some(resource) = server.kinds.builtin().get("networking.k8s.io", "v1", "servicecidrs")
    else {
        return Ok(());
    };
    let user = UserInfo::new("system:apiserver", ["system:masters"]);
    let target = Target {
        resource,
        subresource: "status",
        namespace: None,
        name: "kubernetes",
        user: &user,
        dry_run: false,
        manager: "kube-apiserver",
        context: None,
    };
    let modified = server.registry.modify(&target, |object| {
        let Some(range) = object.as_any_mut().downcast_mut::<ServiceCIDR>() else { return Ok(()) };
        let conditions = range.status.get_or_insert_default().conditions.get_or_insert_default();
        if conditions.is_empty() {
            conditions.push(Condition {
                type_: "Ready".to_owned(),
                status: "True".to_owned(),
                message: "Kubernetes default Service CIDR is ready".to_owned(),
                last_transition_time: clock::now_seconds(),
                reason: String::new(),
                observed_generation: None,
            });
        }
        Ok(())
    });
    match modified.await {
        // Somebody has just deleted it: it will be there again.
        Err(error) if error.reason == "NotFound" => Ok(()),
        result => result.map(drop),
    }
}

fn kubernetes_service(server: &Inner) -> Value {
    let address = server.registry.services.kubernetes_address().map(|ip| ip.to_string());
    let port = server.advertised.map_or(6443, |advertised| advertised.port());
    json!({
        "metadata": {
            "name": "kubernetes",
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "sessionAffinity": "None",
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": port }],
        },
    })
}

/// An APIService for each version of a group that this server serves itself.
fn local_api_services(resources: &Resources) -> Vec<Value> {
    // The rank of groups is that of discovery, which the table has them in.
    let mut versions: Vec<(&str, &str)> = Vec::new();
    let mut groups: Vec<&str> = Vec::new();
    for row in resources.iter() {
        let version = (row.group.as_ref(), row.version.as_ref());
        if !versions.contains(&version) {
            versions.push(version);
        }
        if !groups.contains(&version.0) {
            groups.push(version.0);
        }
    }
    let describe = |(group, version): (&str, &str)| {
        let rank = groups.iter().position(|other| *other == group).unwrap_or_default();
        let priority = match crate::discovery::priority(version) {
            (3, major, _) => 15 * major,
            (2, ..) => 9,
            _ => 1,
        };
        json!({
            "metadata": {
                "name": format!("{version}.{group}"),
                "labels": { "kube-aggregator.kubernetes.io/automanaged": "onstart" },
            },
            "spec": {
                "group": group,
                "version": version,
                "groupPriorityMinimum": 18_000_usize.saturating_sub(rank * 50),
                "versionPriority": priority,
            },
        })
    };
    versions.into_iter().map(describe).collect()
}

fn priority_classes() -> [Value; 2] {
    let class = |name: &str, value: i32, description: &str| {
        json!({
            "metadata": { "name": name },
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    [
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}
