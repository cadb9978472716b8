//! The cluster as its store's events tell it, with what has to be remembered of its past.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;
use rk_store::{Event, Revision};
use serde_json::Value;

use super::flips::Flips;

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Step {
    /// The revision that made it.
    pub revision: Revision,
    /// When it was seen.
    pub at: Timestamp,
    /// The object's key in the store.
    pub key: Arc<str>,
    /// The object before; `None` when it is new.
    pub before: Option<Arc<Value>>,
    /// The object after; `None` when it is gone.
    pub after: Option<Arc<Value>>,
}

impl Step {
    /// The resource of the object, as keys have it: `pods`, `deployments`, `minions`.
    pub fn resource(&self) -> &str {
        resource(&self.key)
    }
}

/// Everything that invariants look at. It is brought up to date with [`View::apply`] and holds what
/// is true after the last step.
#[derive(Debug, Default)]
pub struct View {
    objects: BTreeMap<Arc<str>, Arc<Value>>,
    /// UIDs to keys.
    uids: BTreeMap<String, Arc<str>>,
    /// The objects that have a controller, by its UID.
    controlled: BTreeMap<String, BTreeSet<Arc<str>>>,
    rollouts: BTreeMap<String, VecDeque<Rollout>>,
    ended: BTreeMap<String, Ended>,
    disturbed: BTreeMap<String, Timestamp>,
    flips: Flips,
}

/// What a generation of a Deployment allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The generation.
    pub generation: i64,
    /// At most so many replicas, all ReplicaSets together.
    pub most: i64,
    /// At least so many.
    pub least: i64,
}

/// The Pods of a Job that are over, by UID.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// Those that succeeded.
    pub succeeded: BTreeSet<String>,
    /// Those that failed, or were deleted before they had ended.
    pub failed: BTreeSet<String>,
}

/// Resources whose objects nothing here looks at, and which change all the time.
const IGNORED: [&str; 2] = ["events", "leases"];

impl View {
    /// Takes in the store's next event. `None` when it is of no interest, or not an object.
    pub fn apply(&mut self, event: &Event, at: Timestamp) -> Option<Step> {
        if IGNORED.contains(&resource(&event.key)) {
            return None;
        }
        let after = match &event.value {
            Some(value) => Some(Arc::new(serde_json::from_slice::<Value>(value).ok()?)),
            None => None,
        };
        let before = match &after {
            Some(after) => self.objects.insert(event.key.clone(), after.clone()),
            None => self.objects.remove(&event.key),
        };
        let (revision, key) = (event.revision, event.key.clone());
        let step = Step { revision, at, key, before, after };
        self.index(&step);
        self.remember(&step);
        Some(step)
    }

    /// The objects of a resource, by key.
    pub fn all<'a>(&'a self, resource: &str) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        let prefix = format!("/registry/{resource}/");
        let from: Arc<str> = prefix.as_str().into();
        let objects = self.objects.range(from..);
        objects.take_while(move |(key, _)| key.starts_with(&prefix)).map(|(_, object)| object)
    }

    /// All objects.
    pub fn objects(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Value>)> {
        self.objects.iter()
    }

    /// The object of this UID.
    pub fn by_uid(&self, uid: &str) -> Option<&Arc<Value>> {
        self.objects.get(self.uids.get(uid)?)
    }

    /// The objects of a resource that the object of this UID controls.
    pub fn controlled<'a>(
        &'a self,
        uid: &str,
        kind: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        let keys = self.controlled.get(uid).into_iter().flatten();
        keys.filter(move |key| resource(key) == kind).filter_map(|key| self.objects.get(key))
    }

    /// What the generations of a Deployment allow that its controller may be acting on: the one
    /// that it has observed, and all after it.
    pub fn rollouts(&self, uid: &str) -> impl Iterator<Item = &Rollout> {
        self.rollouts.get(uid).into_iter().flatten()
    }

    /// The Pods of a Job that are over, those that are gone included.
    pub fn ended(&self, job: &str) -> Option<&Ended> {
        self.ended.get(job)
    }

    /// When a Pod of this namespace was last lost or became unready without having been asked to go.
    pub fn disturbed(&self, namespace: &str) -> Option<Timestamp> {
        self.disturbed.get(namespace).copied()
    }

    /// How often objects were written back and forth.
    pub fn flips(&self) -> &Flips {
        &self.flips
    }

    fn index(&mut self, step: &Step) {
        if let Some(before) = &step.before {
            self.uids.remove(text(before, "/metadata/uid"));
            if let Some(owner) = controller(before)
                && let Some(keys) = self.controlled.get_mut(owner)
            {
                keys.remove(&step.key);
                if keys.is_empty() {
                    self.controlled.remove(owner);
                }
            }
        }
        if let Some(after) = &step.after {
            self.uids.insert(text(after, "/metadata/uid").to_owned(), step.key.clone());
            if let Some(owner) = controller(after) {
                self.controlled.entry(owner.to_owned()).or_default().insert(step.key.clone());
            }
        }
    }

    fn remember(&mut self, step: &Step) {
        self.flips.note(step);
        match step.resource() {
            "deployments" => self.remember_rollout(step),
            "pods" => {
                self.remember_end(step);
                self.remember_loss(step);
            }
            _ => {}
        }
    }

    fn remember_rollout(&mut self, step: &Step) {
        let Some(after) = &step.after else {
            if let Some(before) = &step.before {
                self.rollouts.remove(text(before, "/metadata/uid"));
            }
            return;
        };
        let rollouts = self.rollouts.entry(text(after, "/metadata/uid").to_owned()).or_default();
        let rollout = rollout(after);
        if rollouts.back().is_none_or(|last| last.generation < rollout.generation) {
            rollouts.push_back(rollout);
        }
        let observed = number(after, "/status/observedGeneration").unwrap_or(0);
        while rollouts.get(1).is_some_and(|next| next.generation <= observed) {
            rollouts.pop_front();
        }
    }

    fn remember_end(&mut self, step: &Step) {
        let Some(pod) = step.after.as_ref().or(step.before.as_ref()) else { return };
        let Some(job) = controller_of_kind(pod, "Job") else { return };
        let ended = self.ended.entry(job.to_owned()).or_default();
        let uid = text(pod, "/metadata/uid");
        match text(pod, "/status/phase") {
            "Succeeded" => drop(ended.succeeded.insert(uid.to_owned())),
            "Failed" => drop(ended.failed.insert(uid.to_owned())),
            _ if step.after.is_none() || is_going(pod) => drop(ended.failed.insert(uid.to_owned())),
            _ => {}
        }
    }

    /// A Pod that was ready and is not any more, or is gone without having been asked to go.
    fn remember_loss(&mut self, step: &Step) {
        let Some(before) = step.before.as_ref().filter(|pod| is_ready(pod) && !is_going(pod))
        else {
            return;
        };
        let lost = step.after.as_ref().is_none_or(|after| !is_ready(after));
        if lost {
            let namespace = text(before, "/metadata/namespace").to_owned();
            self.disturbed.insert(namespace, step.at);
        }
    }
}

/// What a Deployment's spec allows.
fn rollout(deployment: &Value) -> Rollout {
    let generation = number(deployment, "/metadata/generation").unwrap_or(0);
    let replicas = number(deployment, "/spec/replicas").unwrap_or(1);
    if text(deployment, "/spec/strategy/type") == "Recreate" {
        return Rollout { generation, most: replicas, least: 0 };
    }
    let part = |name: &str, up: bool| {
        let pointer = format!("/spec/strategy/rollingUpdate/{name}");
        share(deployment.pointer(&pointer), replicas, up)
    };
    let (surge, unavailable) = (part("maxSurge", true), part("maxUnavailable", false));
    // Neither way out of a rollout would be open: one Pod may be missing.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Rollout { generation, most: replicas + surge, least: (replicas - unavailable).max(0) }
}

/// A number, or a percentage of `whole`; a quarter when nothing is said.
pub(super) fn share(amount: Option<&Value>, whole: i64, up: bool) -> i64 {
    let percent = match amount {
        Some(Value::Number(number)) => return number.as_i64().unwrap_or(0),
        Some(Value::String(text)) => text.trim_end_matches('%').parse().unwrap_or(0),
        _ => 25,
    };
    let hundredths = whole * percent;
    if up { (hundredths + 99) / 100 } else { hundredths / 100 }
}

/// The resource in a key: its part after `/registry/`, and after the group where there is one.
pub(super) fn resource(key: &str) -> &str {
    let mut parts = key.split('/').skip(2);
    let first = parts.next().unwrap_or_default();
    if first.contains('.') { parts.next().unwrap_or_default() } else { first }
}

/// A text in an object; empty when there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number in an object.
pub(super) fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// A list in an object; empty when there is none.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The UID of an object's controller.
pub(super) fn controller(object: &Value) -> Option<&str> {
    let owners = list(object, "/metadata/ownerReferences").iter();
    let mut controllers = owners.filter(|owner| owner["controller"] == true);
    controllers.next().and_then(|owner| owner["uid"].as_str())
}

/// The UID of an object's controller, if it is of this kind.
pub(super) fn controller_of_kind<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let owners = list(object, "/metadata/ownerReferences").iter();
    let mut owners = owners.filter(|owner| owner["controller"] == true && owner["kind"] == kind);
    owners.next().and_then(|owner| owner["uid"].as_str())
}

/// Whether an object is being deleted.
pub(super) fn is_going(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// Whether a condition of an object is true.
pub(super) fn condition(object: &Value, kind: &str) -> bool {
    let mut conditions = list(object, "/status/conditions").iter();
    conditions.any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// Whether a Pod is ready.
pub(super) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")
}

/// Whether a Pod has ended.
pub(super) fn is_over(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// `namespace/name`, or the name alone.
pub(super) fn full_name(object: &Value) -> String {
    match text(object, "/metadata/namespace") {
        "" => text(object, "/metadata/name").to_owned(),
        namespace => format!("{namespace}/{}", text(object, "/metadata/name")),
    }
}
