//! The user of a history: does what a scenario says, with a client of an administrator.
//!
//! Whatever is refused is not done: who wants to scale what is not there gets nothing.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Node, Pod, ResourceQuota},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::scenario::What;

/// Where everything of a history is.
const NAMESPACE: &str = "default";

/// How long somebody who drains a node tries to evict its Pods.
const DRAIN_WITHIN: Duration = Duration::from_secs(120);

/// A namespaced kind, as its clients need it.
trait Kind:
    kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
{
}
impl<K> Kind for K where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

/// Does what concerns objects; what concerns components is not for a user to do.
pub(super) async fn act(client: &Client, what: &What, turn: usize) {
    match what {
        What::Deploy { name, replicas, surge, unavailable, budget } => {
            let strategy = json!({
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
            });
            create::<Deployment>(
                client,
                json!({
                    "metadata": {"name": name},
                    "spec": {
                        "replicas": replicas, "strategy": strategy, "selector": selector(name),
                        "template": template(name, json!({})),
                    },
                }),
            )
            .await;
            if *budget {
                create::<PodDisruptionBudget>(
                    client,
                    json!({
                        "metadata": {"name": name},
                        "spec": {"maxUnavailable": 1, "selector": selector(name)},
                    }),
                )
                .await;
            }
        }
        What::CreateSet { name, replicas, parallel } => {
            let policy = if *parallel { "Parallel" } else { "OrderedReady" };
            create::<StatefulSet>(
                client,
                json!({
                    "metadata": {"name": name},
                    "spec": {
                        "replicas": replicas, "serviceName": name, "podManagementPolicy": policy,
                        "selector": selector(name), "template": template(name, json!({})),
                    },
                }),
            )
            .await;
        }
        What::CreateJob { name, completions, parallelism, seconds, fails } => {
            create::<Job>(
                client,
                json!({
                    "metadata": {"name": name},
                    "spec": {
                        "completions": completions, "parallelism": parallelism, "backoffLimit": 2,
                        "ttlSecondsAfterFinished": 3600,
                        "template": ending(name, *seconds, *fails),
                    },
                }),
            )
            .await;
        }
        What::CreateCronJob { name, minutes, seconds } => {
            create::<CronJob>(
                client,
                json!({
                    "metadata": {"name": name},
                    "spec": {
                        "schedule": format!("*/{minutes} * * * *"), "concurrencyPolicy": "Forbid",
                        "jobTemplate": {"spec": {"template": ending(name, *seconds, false)}},
                    },
                }),
            )
            .await;
        }
        What::CreateQuota { pods } => {
            create::<ResourceQuota>(
                client,
                json!({
                    "metadata": {"name": "pods"}, "spec": {"hard": {"pods": pods.to_string()}},
                }),
            )
            .await;
        }
        What::Scale { name, replicas } => {
            patch::<Deployment>(client, name, json!({"spec": {"replicas": replicas}})).await;
        }
        What::ScaleSet { name, replicas } => {
            patch::<StatefulSet>(client, name, json!({"spec": {"replicas": replicas}})).await;
        }
        What::Roll { name } => patch::<Deployment>(client, name, turned(turn)).await,
        What::RollSet { name } => patch::<StatefulSet>(client, name, turned(turn)).await,
        What::Delete { name } => {
            refused(
                Api::<Deployment>::namespaced(client.clone(), NAMESPACE)
                    .delete(name, &DeleteParams::background())
                    .await,
            );
            refused(
                Api::<PodDisruptionBudget>::namespaced(client.clone(), NAMESPACE)
                    .delete(name, &DeleteParams::background())
                    .await,
            );
        }
        What::DeletePod { app } => {
            let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
            let found = pods.list(&ListParams::default().labels(&format!("app={app}"))).await;
            let first = found.ok().and_then(|list| list.items.into_iter().next());
            if let Some(name) = first.and_then(|pod| pod.metadata.name) {
                refused(pods.delete(&name, &DeleteParams::default()).await);
            }
        }
        What::Drain { node, .. } => drain(client, node).await,
        _ => {}
    }
}

/// Takes Pods again on a node that was drained.
pub(super) async fn uncordon(client: &Client, node: &str) {
    cordon(client, node, false).await;
}

/// Takes away what would keep a cluster from coming to rest: limits, and nodes that were drained.
pub(super) async fn clear_up(client: &Client, nodes: usize) {
    let quotas = Api::<ResourceQuota>::namespaced(client.clone(), NAMESPACE);
    refused(quotas.delete("pods", &DeleteParams::default()).await);
    for number in 1..=nodes {
        cordon(client, &format!("node-{number}"), false).await;
    }
}

async fn cordon(client: &Client, node: &str, off: bool) {
    let nodes = Api::<Node>::all(client.clone());
    let change = Patch::Merge(json!({"spec": {"unschedulable": off}}));
    refused(nodes.patch(node, &PatchParams::default(), &change).await);
}

/// Evicts the Pods of a node, again and again while a budget does not spare them.
async fn drain(client: &Client, node: &str) {
    cordon(client, node, true).await;
    let evicting = async {
        let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
        let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
        while let Ok(list) = pods.list(&here).await {
            let staying = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
            let names: Vec<_> = list
                .items
                .iter()
                .filter(staying)
                .filter_map(|pod| pod.metadata.name.clone())
                .collect();
            if names.is_empty() {
                return;
            }
            for name in names {
                refused(pods.evict(&name, &EvictParams::default()).await);
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    if tokio::time::timeout(DRAIN_WITHIN, evicting).await.is_err() {
        tracing::debug!(node, "some Pods could not be evicted");
    }
}

async fn create<K: Kind>(client: &Client, object: Value) {
    match rk_api::json::from_value::<K>(&object) {
        Ok(object) => {
            let api = Api::<K>::namespaced(client.clone(), NAMESPACE);
            refused(api.create(&PostParams::default(), &object).await);
        }
        Err(error) => tracing::error!(%error, "an object of a scenario"),
    }
}

async fn patch<K: Kind>(client: &Client, name: &str, change: Value) {
    let api = Api::<K>::namespaced(client.clone(), NAMESPACE);
    refused(api.patch(name, &PatchParams::default(), &Patch::Merge(change)).await);
}

fn refused<T>(result: kube::Result<T>) {
    if let Err(error) = result {
        tracing::debug!(%error, "the user is refused something");
    }
}

fn selector(app: &str) -> Value {
    json!({"matchLabels": {"app": app}})
}

/// A change of a template that makes no difference but for a new revision.
fn turned(turn: usize) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"turn": turn.to_string()}}}}})
}

fn template(app: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"labels": {"app": app}, "annotations": annotations},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "main", "image": "registry.example/app:1"}],
        },
    })
}

fn ending(app: &str, seconds: u64, fails: bool) -> Value {
    let code = if fails { "1" } else { "0" };
    let mut template = template(
        app,
        json!({
            "sim.rk.dev/exit-after": format!("{seconds}s"), "sim.rk.dev/exit-code": code,
        }),
    );
    template["spec"]["restartPolicy"] = "Never".into();
    template
}
