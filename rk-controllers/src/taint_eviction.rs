//! Pods on nodes with NoExecute taints.
//!
//! # What it promises
//! - A Pod that does not tolerate a NoExecute taint of its node is deleted; one that tolerates it
//!   for some time is deleted when the shortest such time is over; one that tolerates it without
//!   limit stays.
//! - The time counts from when the taint was added, so a restart does not start it again. For a
//!   taint that does not say when, it counts from when this controller first saw it on the node.
//! - When the taint goes in time, the Pod stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodCondition, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use rk_api::{
    client::{Change, EventRecorder, EventType, Informer, object_ref},
    clock,
};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    pods,
    time::{plus_seconds, until, whole_seconds},
    write::{self, Part},
};

/// Index of Pods by the node they are bound to.
const BY_NODE: &str = "node-name";

/// What to do about a Pod because of the taints of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It tolerates them all, for ever.
    Stay,
    /// Delete it at this time.
    Evict(Timestamp),
}

struct TaintEviction {
    client: Client,
    recorder: EventRecorder,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// First sight of taints that do not say when they were added, by node and taint.
    seen: Mutex<BTreeMap<(String, String), Timestamp>>,
    /// Pods with an eviction ahead, so that its end without a deletion can be told.
    waiting: Mutex<BTreeSet<ObjectKey>>,
}

#[async_trait]
impl Reconciler for TaintEviction {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let found = self.pods.get(&key.namespace, &key.name).filter(|pod| !pods::is_deleting(pod));
        let Some(pod) = found else {
            self.waiting.lock().remove(key);
            return Ok(Action::Wait);
        };
        let Some(node) = pods::node_name(&pod).and_then(|name| self.nodes.get("", name)) else {
            return Ok(Action::Wait);
        };
        let now = clock::now();
        let taints = self.no_execute_taints(&node, now);
        let tolerations =
            pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        match verdict(&taints, tolerations) {
            Verdict::Stay => {
                if self.waiting.lock().remove(key) {
                    let message =
                        format!("Cancelling deletion of Pod {}/{}", key.namespace, key.name);
                    self.recorder.event(
                        &object_ref(&*pod),
                        EventType::Normal,
                        "TaintManagerEviction",
                        message,
                    );
                }
                Ok(Action::Wait)
            }
            Verdict::Evict(time) if time > now => {
                self.waiting.lock().insert(key.clone());
                Ok(Action::RequeueAfter(until(time, now) + Duration::from_millis(1)))
            }
            Verdict::Evict(_) => {
                self.evict(&pod, now).await?;
                self.waiting.lock().remove(key);
                Ok(Action::Wait)
            }
        }
    }
}

impl TaintEviction {
    /// The taints that evict, each with the time from which it counts.
    fn no_execute_taints(&self, node: &Node, now: Timestamp) -> Vec<(Taint, Timestamp)> {
        let name = node.name_any();
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let taints: Vec<Taint> =
            taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect();
        let identity =
            |taint: &Taint| format!("{}={}", taint.key, taint.value.as_deref().unwrap_or_default());
        let mut seen = self.seen.lock();
        seen.retain(|(node, taint), _| {
            *node != name || taints.iter().any(|present| identity(present) == *taint)
        });
        let since = |taint: &Taint| match &taint.time_added {
            Some(time) => time.0,
            None => *seen.entry((name.clone(), identity(taint))).or_insert(now),
        };
        let since: Vec<Timestamp> = taints.iter().map(since).collect();
        taints.into_iter().zip(since).collect()
    }

    async fn evict(&self, pod: &Pod, now: Timestamp) -> Result<(), Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let name = pod.name_any();
        let message = format!("Marking for deletion Pod {namespace}/{name}");
        self.recorder.event(&object_ref(pod), EventType::Normal, "TaintManagerEviction", message);

        let api = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        match write::update(&api, pod, &disrupted(pod, now), Part::Status).await {
            Err(gone) if error::is_not_found(&gone) => return Ok(()),
            result => drop(result?),
        }
        write::delete(&api, pod).await.map_err(Into::into)
    }
}

/// When a Pod with these tolerations has to leave: at once for a taint that it does not tolerate,
/// else when the first toleration with a time runs out. A toleration without a time has no say,
/// also where another of the same taint has one: that is how `tolerationSeconds` is undone.
fn verdict(taints: &[(Taint, Timestamp)], tolerations: &[Toleration]) -> Verdict {
    let mut leave: Option<Timestamp> = None;
    for (taint, since) in taints {
        let matching: Vec<&Toleration> =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Verdict::Evict(*since);
        }
        let seconds = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min();
        if let Some(seconds) = seconds {
            let end = plus_seconds(*since, seconds.max(0));
            leave = Some(leave.map_or(end, |other| other.min(end)));
        }
    }
    leave.map_or(Verdict::Stay, Verdict::Evict)
}

/// Whether a toleration covers a taint: same key and effect, empty for any; and for the operator
/// Equal the same value.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let value = text(&toleration.value);
    let taint_value = text(&taint.value);
    match text(&toleration.operator).as_str() {
        "" | "Equal" => !key.is_empty() && value == taint_value,
        "Exists" => true,
        "Lt" => compare(&taint_value, &value).is_some_and(|order| order.is_lt()),
        "Gt" => compare(&taint_value, &value).is_some_and(|order| order.is_gt()),
        _ => false,
    }
}

fn compare(a: &str, b: &str) -> Option<std::cmp::Ordering> {
    Some(a.parse::<i64>().ok()?.cmp(&b.parse().ok()?))
}

fn disrupted(pod: &Pod, now: Timestamp) -> Pod {
    let mut marked = pod.clone();
    let conditions = marked.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByTaintManager".into()),
        message: Some("Taint manager: deleting due to NoExecute taint".into()),
        last_transition_time: Some(Time(whole_seconds(now))),
        ..Default::default()
    });
    marked
}

fn index_by_node(pod: &Pod) -> Vec<String> {
    pods::node_name(pod).map(str::to_owned).into_iter().collect()
}

/// The Pods of a node whose taints changed.
fn pods_of(change: &Change<Node>, pods: &Informer<Pod>) -> Vec<ObjectKey> {
    let taints =
        |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let changed = match change {
        Change::Added(node) => !taints(node).is_empty(),
        Change::Updated { old, new } => taints(old) != taints(new),
        Change::Deleted(_) => false,
    };
    if !changed {
        return Vec::new();
    }
    pods.by_index(BY_NODE, &change.object().name_any())
        .iter()
        .map(|pod| ObjectKey::of(&**pod))
        .collect()
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    pods.add_index(BY_NODE, index_by_node);
    let reconciler = TaintEviction {
        client: context.client.clone(),
        recorder: context.recorder(name),
        pods: pods.clone(),
        nodes: nodes.clone(),
        seen: Mutex::default(),
        waiting: Mutex::default(),
    };
    let by_node = pods.clone();
    Controller::new(name, reconciler)
        .reconciles_if(&pods, |change| match change {
            Change::Updated { old, new } => {
                let tolerations =
                    |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
                pods::node_name(old) != pods::node_name(new) || tolerations(old) != tolerations(new)
            }
            _ => true,
        })
        .watches(&nodes, move |change| pods_of(change, &by_node))
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn taint(key: &str) -> Taint {
        Taint { key: key.into(), effect: "NoExecute".into(), ..Default::default() }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_leaves_when_its_toleration_runs_out() {
        let unreachable = [(taint("unreachable"), at(1000))];
        assert_eq!(verdict(&[], &[]), Verdict::Stay);
        assert_eq!(verdict(&unreachable, &[]), Verdict::Evict(at(1000)));
        assert_eq!(
            verdict(&unreachable, &[toleration("unreachable", Some(300))]),
            Verdict::Evict(at(1300))
        );
        assert_eq!(verdict(&unreachable, &[toleration("unreachable", None)]), Verdict::Stay);
        assert_eq!(verdict(&unreachable, &[toleration("other", None)]), Verdict::Evict(at(1000)));
        assert_eq!(verdict(&unreachable, &[toleration("", None)]), Verdict::Stay);
    }

    #[test]
    fn of_several_taints_the_first_to_run_out_decides() {
        let taints = [(taint("a"), at(1000)), (taint("b"), at(1100))];
        let tolerations = [toleration("a", Some(500)), toleration("b", Some(60))];
        assert_eq!(verdict(&taints, &tolerations), Verdict::Evict(at(1160)));
        assert_eq!(verdict(&taints, &tolerations[..1]), Verdict::Evict(at(1100)));
    }

    #[test]
    fn equal_compares_values() {
        let tainted = Taint { value: Some("x".into()), ..taint("k") };
        let equal = |value: &str| Toleration {
            key: Some("k".into()),
            value: Some(value.into()),
            ..Default::default()
        };
        assert!(tolerates(&equal("x"), &tainted));
        assert!(!tolerates(&equal("y"), &tainted));
    }

    proptest! {
        /// Second by second: a Pod stays as long as each taint is tolerated by something whose time
        /// is not over.
        #[test]
        fn a_pod_leaves_in_the_first_second_that_is_not_tolerated(
            taints in prop::collection::btree_map("[a-c]", 0..10i64, 0..3),
            tolerations in prop::collection::vec(("[a-c]", prop::option::of(0..10i64)), 0..5),
        ) {
            let taints: Vec<_> = taints.iter().map(|(key, since)| (taint(key), at(*since))).collect();
            let all: Vec<_> = tolerations.iter().map(|(key, time)| toleration(key, *time)).collect();
            let stays_in = |second: i64| {
                taints.iter().filter(|(_, since)| since.as_second() <= second).all(|(taint, since)| {
                    let of_it = || tolerations.iter().filter(|(key, _)| *key == taint.key);
                    let passed = second - since.as_second();
                    of_it().next().is_some() && of_it().all(|(_, time)| time.is_none_or(|time| passed < time))
                })
            };
            let expected = (0..30).find(|second| !stays_in(*second));
            match verdict(&taints, &all) {
                Verdict::Stay => prop_assert_eq!(expected, None),
                Verdict::Evict(time) => {
                    // An untolerated taint is found before one whose time is over earlier.
                    let untolerated = taints.iter().any(|(taint, _)| {
                        !tolerations.iter().any(|(key, _)| *key == taint.key)
                    });
                    prop_assert!(expected.is_some());
                    prop_assert!(untolerated || Some(time.as_second()) == expected);
                }
            }
        }
    }
}
