//! What every cluster has from the start: its namespaces, the API server's Service, the two
//! priority classes of system components, the default roles and their bindings, an APIService for
//! each version of a group.

pub(super) mod policy;
mod rbac;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    registry::Target,
    status::{ApiError, Result},
    user::UserInfo,
};
use crate::resources::Resources;
use k8s_openapi::api::core::v1::Service;

/// Notes what is there, and creates what is missing.
pub(super) async fn run(server: &Arc<Inner>) -> Result<()> {
    observe_services(server).await?;
    ensure_all(server).await
}

async fn ensure_all(server: &Arc<Inner>) -> Result<()> {
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(server, "", "v1", "namespaces", None, json!({ "metadata": { "name": namespace } }))
            .await?;
    }
    ensure(server, "", "v1", "services", Some("default"), kubernetes_service(server)).await?;
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
    while shutdown.run_until_cancelled(tokio::time::sleep(AGAIN_AFTER)).await.is_some() {
        let Some(server) = server.upgrade() else { return };
        // Not `run`: a Service that is deleted meanwhile must not be noted again.
        if let Err(error) = ensure_all(&server).await {
            tracing::warn!(%error, "cannot create what every cluster has");
        }
    }
}

/// Notes the addresses and ports of the Services that are there already.
async fn observe_services(server: &Inner) -> Result<()> {
    let kinds = server.kinds.builtin();
    let Some(resource) = kinds.get("", "v1", "services") else { return Ok(()) };
    let cache = &server.registry.cache;
    let page = cache.table(resource)?.list(&Default::default(), None, 0, 0);
    for item in page.items {
        let decoded = resource.strategy.decode(item.stored.bytes());
        let decoded =
            decoded.map_err(|error| ApiError::internal(format!("{}: {error}", item.key)))?;
        if let Some(service) = decoded.object.as_any().downcast_ref::<Service>() {
            server.registry.services.observe(service);
        }
    }
    Ok(())
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

fn kubernetes_service(server: &Inner) -> Value {
    let address = server.registry.services.kubernetes_address().to_string();
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
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": 6443 }],
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
