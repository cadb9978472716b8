//! Routes to the Pods of each node.
//!
//! # What it promises
//! - Each range of Pods of a node has a route to it; routes within the cluster's range that lead to
//!   no node's range, or nowhere, are deleted. Others are not touched.
//! - The condition `NetworkUnavailable` of a node is False once it has all its routes, and True
//!   while one is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::{Api, Client, ResourceExt};
use rk_api::{
    client::{EventRecorder, EventType, Informer, object_ref},
    clock,
};
use tokio_util::sync::CancellationToken;

use super::{CloudError, CloudProvider, Route, Routes};
use crate::{
    manager::Context,
    write::{self, Part},
};

/// How often routes are looked at (`--route-reconciliation-period`).
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How many calls to the cloud are made at the same time.
const AT_ONCE: usize = 200;

const UNAVAILABLE: &str = "NetworkUnavailable";

struct Router {
    client: Client,
    recorder: EventRecorder,
    nodes: Informer<Node>,
    cloud: Arc<dyn CloudProvider>,
    cluster: Option<Range>,
}

/// Works until `shutdown`, if there are routes to make.
pub(crate) async fn run(context: Context, shutdown: CancellationToken) {
    let Some(cloud) = context.settings.cloud.clone() else { return };
    let router = Router {
        client: context.client.clone(),
        recorder: context.recorder("route_controller"),
        nodes: context.informers.of(),
        cloud,
        cluster: Range::parse(&context.settings.cluster_cidr),
    };
    let work = async {
        router.nodes.synced().await;
        let Some(routes) = router.cloud.routes() else { return };
        loop {
            if let Err(error) = router.look(routes).await {
                tracing::warn!(%error, "the cloud does not list its routes");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

/// What is to be done about routes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    delete: Vec<Route>,
    create: Vec<Route>,
}

/// Pure.
fn plan(nodes: &[Arc<Node>], routes: &[Route], cluster: Option<Range>) -> Plan {
    let wanted: BTreeMap<String, &[String]> =
        nodes.iter().map(|node| (node.name_any(), ranges(node))).collect();
    let is_wanted = |route: &Route| {
        let ranges = wanted.get(&route.node).copied().unwrap_or_default();
        !route.blackhole && ranges.contains(&route.destination)
    };
    let is_ours = |route: &Route| match (cluster, Range::parse(&route.destination)) {
        (Some(cluster), Some(destination)) => cluster.overlaps(destination),
        _ => false,
    };
    let delete = routes.iter().filter(|route| is_ours(route) && !is_wanted(route)).cloned();
    let there: BTreeSet<(&str, &str)> = routes
        .iter()
        .filter(|route| !route.blackhole)
        .map(|route| (route.node.as_str(), route.destination.as_str()))
        .collect();
    let create = wanted.iter().flat_map(|(node, ranges)| {
        let missing =
            ranges.iter().filter(|range| !there.contains(&(node.as_str(), range.as_str())));
        missing.map(|range| Route {
            node: node.clone(),
            destination: range.clone(),
            ..Route::default()
        })
    });
    Plan { delete: delete.collect(), create: create.collect() }
}

fn ranges(node: &Node) -> &[String] {
    node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default()
}

impl Router {
    async fn look(&self, routes: &dyn Routes) -> Result<(), CloudError> {
        let known = routes.list().await?;
        let nodes = self.nodes.list();
        let plan = plan(&nodes, &known, self.cluster);
        // One after the other: a range may go from one node to another.
        let deletions = plan.delete.into_iter().map(|route| async move {
            if let Err(error) = routes.delete(&route).await {
                tracing::warn!(route = route.name, %error, "a route is not deleted");
            }
        });
        all(deletions.map(FutureExt::boxed).collect()).await;
        let creations = plan.create.into_iter().map(|route| self.create(routes, &nodes, route));
        let failed = all(creations.map(FutureExt::boxed).collect()).await;
        let failed: BTreeSet<String> = failed.into_iter().flatten().collect();
        for node in nodes {
            let has_all = !ranges(&node).is_empty() && !failed.contains(&node.name_any());
            self.say(&node, has_all).await;
        }
        Ok(())
    }

    /// Makes a route, and returns its node if that fails.
    async fn create(
        &self,
        routes: &dyn Routes,
        nodes: &[Arc<Node>],
        route: Route,
    ) -> Option<String> {
        let node = nodes.iter().find(|node| node.name_any() == route.node)?;
        let hint = node.uid().unwrap_or_default();
        let error = routes.create(&hint, &route).await.err()?;
        let (destination, name) = (&route.destination, &route.node);
        let message =
            format!("Could not create route {hint} {destination} for node {name}: {error}");
        self.recorder.event(
            &object_ref(&**node),
            EventType::Warning,
            "FailedToCreateRoute",
            message,
        );
        Some(route.node)
    }

    /// A node without a range of Pods has no routes, and so no network. A write that fails is made
    /// again at the next look.
    async fn say(&self, node: &Node, has_all: bool) {
        let (status, reason, message) = match has_all {
            true => ("False", "RouteCreated", "RouteController created a route"),
            false => ("True", "NoRouteCreated", "RouteController failed to create a route"),
        };
        let mut after = node.clone();
        let conditions = after.status.get_or_insert_default().conditions.get_or_insert_default();
        let said = conditions.iter().position(|condition| condition.type_ == UNAVAILABLE);
        if said.is_some_and(|said| conditions[said].status == status) {
            return;
        }
        let now = Some(clock::now_seconds());
        let condition = NodeCondition {
            type_: UNAVAILABLE.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: now.clone(),
            last_transition_time: now,
        };
        match said {
            Some(said) => conditions[said] = condition,
            None => conditions.push(condition),
        }
        let api = Api::<Node>::all(self.client.clone());
        if let Err(error) = write::update(&api, node, &after, Part::Status).await {
            tracing::debug!(node = node.name_any(), %error, "a condition is not written");
        }
    }
}

/// Waits for all of these calls, with so many under way at the same time.
async fn all<T>(calls: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    futures::stream::iter(calls).buffer_unordered(AT_ONCE).collect().await
}

/// A range of addresses: the first and the last, of 128 bits either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    v4: bool,
    first: u128,
    last: u128,
}

impl Range {
    fn parse(cidr: &str) -> Option<Self> {
        let (address, mask) = cidr.split_once('/')?;
        let (bits, width, v4) = match address.parse().ok()? {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32, true),
            IpAddr::V6(address) => (address.to_bits(), 128, false),
        };
        let free =
            32_u32.max(width).checked_sub(mask.parse().ok()?).filter(|free| *free <= width)?;
        let below = u128::MAX.checked_shr(128 - free).unwrap_or(0);
        Some(Self { v4, first: bits & !below, last: bits | below })
    }

    fn overlaps(self, other: Self) -> bool {
        self.v4 == other.v4 && self.first <= other.last && other.first <= self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node(name: &str, ranges: &[&str]) -> Arc<Node> {
        let node = json!({"metadata": {"name": name}, "spec": {"podCIDRs": ranges}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn route(node: &str, destination: &str) -> Route {
        Route { node: node.into(), destination: destination.into(), ..Route::default() }
    }

    #[test]
    fn every_range_of_a_node_has_its_route_and_no_other_has() {
        let nodes = [
            node("a", &["10.244.0.0/24", "fd00::/64"]),
            node("b", &["10.244.1.0/24"]),
            node("new", &[]),
        ];
        let blackhole = Route { blackhole: true, ..route("b", "10.244.1.0/24") };
        let foreign = route("gateway", "192.168.0.0/16");
        let known = [
            route("a", "10.244.0.0/24"),
            route("gone", "10.244.7.0/24"),
            blackhole.clone(),
            foreign,
        ];
        let plan = plan(&nodes, &known, Range::parse("10.244.0.0/16"));
        assert_eq!(plan.delete, [route("gone", "10.244.7.0/24"), blackhole]);
        assert_eq!(plan.create, [route("a", "fd00::/64"), route("b", "10.244.1.0/24")]);
    }

    #[test]
    fn ranges_overlap_within_their_family() {
        let range = |cidr| Range::parse(cidr).unwrap();
        assert!(range("10.0.0.0/8").overlaps(range("10.244.3.0/24")));
        assert!(range("10.244.3.0/24").overlaps(range("10.0.0.0/8")));
        assert!(!range("10.244.3.0/24").overlaps(range("10.244.4.0/24")));
        assert!(!range("0.0.0.0/0").overlaps(range("::/0")));
        assert!(range("0.0.0.0/0").overlaps(range("255.255.255.255/32")));
        for wrong in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert_eq!(Range::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        /// A plan leads to just the routes that the nodes need, besides those of others, which it
        /// never touches; and then there is nothing left to do.
        #[test]
        fn a_plan_leads_to_the_routes_of_the_nodes(
            nodes in prop::collection::btree_map("[a-d]", prop::collection::btree_set(0..6u8, 0..3), 0..4),
            known in prop::collection::btree_set(("[a-e]", 0..8u8, any::<bool>(), any::<bool>()), 0..8),
        ) {
            let range = |n: u8| format!("10.244.{n}.0/24");
            let nodes: Vec<_> = nodes
                .iter()
                .map(|(name, ranges)| {
                    let ranges: Vec<_> = ranges.iter().map(|n| range(*n)).collect();
                    let ranges: Vec<_> = ranges.iter().map(String::as_str).collect();
                    node(name, &ranges)
                })
                .collect();
            let known: Vec<_> = known
                .into_iter()
                .map(|(node, n, blackhole, foreign)| {
                    let destination = if foreign { format!("192.168.{n}.0/24") } else { range(n) };
                    Route { blackhole, ..route(&node, &destination) }
                })
                .collect();
            let cluster = Range::parse("10.244.0.0/16");
            let planned = plan(&nodes, &known, cluster);
            let is_foreign = |route: &Route| route.destination.starts_with("192.168.");
            prop_assert!(!planned.delete.iter().any(is_foreign));

            let mut after = known;
            after.retain(|route| !planned.delete.contains(route));
            after.extend(planned.create);
            prop_assert_eq!(plan(&nodes, &after, cluster), Plan::default());
            let ends = |route: &Route| (route.node.clone(), route.destination.clone());
            let found: BTreeSet<_> =
                after.iter().filter(|route| !is_foreign(route)).map(ends).collect();
            let needed = nodes.iter().flat_map(|node| {
                ranges(node).iter().map(|range| (node.name_any(), range.clone())).collect::<Vec<_>>()
            });
            prop_assert_eq!(found, needed.collect::<BTreeSet<_>>());
            prop_assert!(after.iter().all(|route| is_foreign(route) || !route.blackhole));
        }
    }
}
