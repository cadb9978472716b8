//! Nodes that stop giving signs of life.
//!
//! # What it promises
//! - A node whose Lease and status have not changed for 40 s gets its conditions set to Unknown,
//!   and its Pods are marked not ready, so that Services drop them.
//! - The conditions are turned into taints: NoSchedule at once, and for a node that is not ready or
//!   unreachable also NoExecute, which makes [`taint_eviction`](crate::taint_eviction) remove Pods.
//!   Both go when the node is back.
//! - Nodes are tainted NoExecute at most one in 10 s and zone, slower or not at all where most of a
//!   zone is down, and not at all where every node is: then it is this controller that is cut off.
//!
//! Time is measured here, from when a sign of life was seen: the nodes' clocks are not trusted.

use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client};
use rk_api::{client::Informer, clock};
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    key::ObjectKey,
    manager::Context,
    time::whole_seconds,
    write::{self, Part},
};

mod health;
mod monitor;
mod zones;

use monitor::Monitor;

/// Works until `shutdown`.
pub(crate) async fn run(name: &'static str, context: Context, shutdown: CancellationToken) {
    let nodes = context.informers.of::<Node>();
    let tainter = Tainter { client: context.client.clone(), nodes: nodes.clone() };
    let tainting = Controller::new(name, tainter)
        .reconciles(&nodes)
        .metrics(&context.metrics)
        .workers(context.settings.workers)
        .run(shutdown.clone());

    let monitoring = Monitor::new(&context).run();
    tokio::join!(tainting, shutdown.run_until_cancelled(monitoring));
}

/// Keeps NoSchedule taints in line with conditions and `spec.unschedulable`.
struct Tainter {
    client: Client,
    nodes: Informer<Node>,
}

#[async_trait]
impl Reconciler for Tainter {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(Action::Wait) };
        let wanted = health::no_schedule_taints(&node);
        let ours = |taint: &Taint| {
            taint.effect == "NoSchedule" && health::NO_SCHEDULE_KEYS.contains(&taint.key.as_str())
        };
        replace_taints(&self.client, &node, ours, &wanted).await?;
        Ok(Action::Wait)
    }
}

/// Replaces those taints that are `ours` by the wanted ones, keeping when each was added.
async fn replace_taints(
    client: &Client,
    node: &Node,
    ours: impl Fn(&Taint) -> bool,
    wanted: &[(&str, &str)],
) -> Result<(), Error> {
    let mut tainted = node.clone();
    let taints = tainted.spec.get_or_insert_default().taints.get_or_insert_default();
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    taints.retain(|taint| !ours(taint) || is_wanted(taint));
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            let time_added = Some(Time(whole_seconds(clock::now())));
            taints.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added,
                value: None,
            });
        }
    }
    if taints.is_empty() {
        tainted.spec.get_or_insert_default().taints = None;
    }
    let before = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let after = tainted.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    if before != after {
        write::update(&Api::all(client.clone()), node, &tainted, Part::Main).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
