//! Signs of life of one node, and what conditions mean for taints. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use rk_api::meta::RENEWED_WITH;

use crate::time::whole_seconds;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
const DISK_PRESSURE: &str = "node.kubernetes.io/disk-pressure";
const PID_PRESSURE: &str = "node.kubernetes.io/pid-pressure";
const NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";

/// NoSchedule taints with these keys are made from conditions; no others are touched.
pub(super) const NO_SCHEDULE_KEYS: [&str; 7] = [
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    MEMORY_PRESSURE,
    DISK_PRESSURE,
    PID_PRESSURE,
    NETWORK_UNAVAILABLE,
];

/// Conditions that a kubelet reports and that nobody knows once it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What the condition Ready says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// True.
    Ready,
    /// False, or never reported.
    NotReady,
    /// Unknown: the node is silent.
    Unreachable,
}

/// What is remembered of a node between checks.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// When the last sign of life was seen here.
    last_sign: Timestamp,
    heartbeat: Option<Timestamp>,
    renewed: Option<Timestamp>,
    reported: Option<String>,
    /// The Lease that the node's own is renewed with.
    renewed_with: Option<String>,
    /// Its silence is known: nothing more is to be said of it.
    pub(super) told_silent: bool,
    /// It is not ready, or has a NoExecute taint because it was not.
    pub(super) troubled: bool,
    pub(super) readiness: Readiness,
    /// Whether Pods of a node that is not ready are still to be marked.
    pub(super) pods_to_mark: bool,
}

impl Health {
    /// A node that was not known before: it has a whole grace period from now.
    pub(super) fn first_seen(node: &Node, now: Timestamp) -> Self {
        let readiness = readiness(node);
        Self {
            last_sign: now,
            heartbeat: None,
            renewed: None,
            reported: None,
            renewed_with: None,
            told_silent: false,
            troubled: readiness != Readiness::Ready,
            readiness,
            // A restarted controller cannot know whether its predecessor got to marking them.
            pods_to_mark: readiness == Readiness::Unreachable,
        }
    }

    /// Takes notice of a heartbeat or a change of Ready by the node.
    pub(super) fn observe(&mut self, node: &Node, now: Timestamp) {
        let ready = condition(node, "Ready");
        let heartbeat =
            ready.and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
        // Unknown is what this controller writes itself: no sign of life.
        let reported = ready.map(|ready| ready.status.clone()).filter(|status| status != "Unknown");
        let spoke = heartbeat > self.heartbeat || (reported.is_some() && reported != self.reported);
        if spoke {
            self.sign(now);
        }
        self.heartbeat = heartbeat;
        if reported.is_some() {
            self.reported = reported;
        }
    }

    /// Takes notice of the node's Lease.
    pub(super) fn lease(&mut self, lease: &Lease, now: Timestamp) {
        self.renewed_with = lease.annotations().get(RENEWED_WITH).cloned();
        self.renewed(renewed(lease), now);
    }

    /// Whether the node's Lease is renewed whenever another one of this name is.
    pub(super) fn is_renewed_with(&self, lease: &str) -> bool {
        self.renewed_with.as_deref() == Some(lease)
    }

    /// Takes notice of the time at which a Lease was renewed.
    pub(super) fn renewed(&mut self, at: Option<Timestamp>, now: Timestamp) {
        if at > self.renewed {
            self.renewed = at;
            self.sign(now);
        }
    }

    fn sign(&mut self, now: Timestamp) {
        self.last_sign = now;
        self.told_silent = false;
    }

    /// The end of its grace period.
    pub(super) fn silent_from(&self, grace: Duration) -> Timestamp {
        self.last_sign.saturating_add(grace).unwrap_or(Timestamp::MAX)
    }

    /// Whether its grace period has ended.
    pub(super) fn is_past(&self, grace: Duration, now: Timestamp) -> bool {
        now > self.silent_from(grace)
    }

    /// The node with its conditions set to Unknown, if it has been silent for too long and they
    /// are not so already.
    pub(super) fn silent(&self, node: &Node, grace: Duration, now: Timestamp) -> Option<Node> {
        if !self.is_past(grace, now) {
            return None;
        }
        let mut marked = node.clone();
        let created = node.creation_timestamp();
        let conditions = marked.status.get_or_insert_default().conditions.get_or_insert_default();
        let now = Time(whole_seconds(now));
        for kind in REPORTED {
            match conditions.iter_mut().find(|condition| condition.type_ == kind) {
                None => conditions.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: created.clone(),
                    last_transition_time: Some(now.clone()),
                }),
                Some(condition) if condition.status != "Unknown" => {
                    condition.status = "Unknown".into();
                    condition.reason = Some("NodeStatusUnknown".into());
                    condition.message = Some("Kubelet stopped posting node status.".into());
                    condition.last_transition_time = Some(now.clone());
                }
                Some(_) => {}
            }
        }
        (marked != *node).then_some(marked)
    }
}

/// When a Lease was last renewed.
pub(super) fn renewed(lease: &Lease) -> Option<Timestamp> {
    Some(lease.spec.as_ref()?.renew_time.as_ref()?.0)
}

pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

pub(super) fn readiness(node: &Node) -> Readiness {
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("Unknown") => Readiness::Unreachable,
        _ => Readiness::NotReady,
    }
}

/// The NoSchedule taints that a node's conditions and `spec.unschedulable` stand for.
pub(super) fn no_schedule_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let is = |kind: &str, value: &str| {
        condition(node, kind).is_some_and(|condition| condition.status == value)
    };
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    [
        (NOT_READY, is("Ready", "False")),
        (UNREACHABLE, is("Ready", "Unknown")),
        (MEMORY_PRESSURE, is("MemoryPressure", "True")),
        (DISK_PRESSURE, is("DiskPressure", "True")),
        (PID_PRESSURE, is("PIDPressure", "True")),
        (NETWORK_UNAVAILABLE, is("NetworkUnavailable", "True")),
        (UNSCHEDULABLE, unschedulable),
    ]
    .into_iter()
    .filter(|(_, wanted)| *wanted)
    .map(|(key, _)| (key, "NoSchedule"))
    .collect()
}
