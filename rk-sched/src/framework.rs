//! The extension points, in the order in which a Pod meets them.
//!
//! ```text
//! queue   PreEnqueue, QueueSort              may it be tried, and in which order
//! cycle   PreFilter, Filter                  which nodes are possible
//!         PostFilter                         none is: make room for a later try
//!         PreScore, Score                    which of the possible nodes is best
//!         Reserve, Permit                    the node is chosen; last word before binding
//! binding (wait on Permit), PreBind, Bind, PostBind
//! ```
//!
//! A plugin is a value that implements [`Plugin`] and some of these traits, and tells which by the
//! `as_…` methods. Cycles run one after the other; bindings run beside them, many at once.

use std::{
    any::{Any, TypeId},
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    Budgets, Diagnosis, Namespaces, NodeChange, NodeInfo, PodInfo, Snapshot, Status, Storage,
    cycle::Filters,
};

/// The best score that a plugin gives, after normalization. The worst is 0.
pub const MAX_NODE_SCORE: i64 = 100;

/// A plugin: a name, and the extension points that it takes part in.
pub trait Plugin: Debug + Send + Sync + 'static {
    /// Its name in configurations and diagnoses.
    fn name(&self) -> &'static str;

    /// Writes to `signature` all that this plugin's `Filter` and `Score` read of a Pod, and returns
    /// true: Pods of equal signature then share one evaluation of each node, which is repeated only
    /// when that node changes.
    ///
    /// A plugin may do so only if its verdict and its score for a node depend on nothing but the
    /// signature and that node with its Pods, and its `PreFilter` and `PreScore` on nothing but the
    /// signature. It returns false (the default) for a Pod for which this does not hold, and that
    /// Pod gets a cycle of its own. This is upstream's `SignPlugin`.
    fn sign(&self, _pod: &PodInfo, _snapshot: &Snapshot, _signature: &mut Vec<u8>) -> bool {
        false
    }

    /// Where this plugin looks up volumes and claims. A running scheduler connects it to its caches
    /// before the first cycle.
    fn storage(&self) -> Option<&Storage> {
        None
    }

    /// Where this plugin looks up disruption budgets. A running scheduler connects it as well.
    fn budgets(&self) -> Option<&Budgets> {
        None
    }

    /// Where this plugin looks up namespaces. A running scheduler connects it as well.
    fn namespaces(&self) -> Option<&Namespaces> {
        None
    }

    /// This plugin at PreEnqueue.
    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        None
    }
    /// This plugin at QueueSort.
    fn as_queue_sort(&self) -> Option<&dyn QueueSort> {
        None
    }
    /// What wakes Pods that this plugin rejected.
    fn as_enqueue_extensions(&self) -> Option<&dyn EnqueueExtensions> {
        None
    }
    /// This plugin at PreFilter.
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        None
    }
    /// This plugin at Filter.
    fn as_filter(&self) -> Option<&dyn Filter> {
        None
    }
    /// This plugin at PostFilter.
    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        None
    }
    /// This plugin at PreScore.
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        None
    }
    /// This plugin at Score.
    fn as_score(&self) -> Option<&dyn Score> {
        None
    }
    /// This plugin at Reserve.
    fn as_reserve(&self) -> Option<&dyn Reserve> {
        None
    }
    /// This plugin at Permit.
    fn as_permit(&self) -> Option<&dyn Permit> {
        None
    }
    /// This plugin at PreBind.
    fn as_pre_bind(&self) -> Option<&dyn PreBind> {
        None
    }
    /// This plugin at Bind.
    fn as_bind(&self) -> Option<&dyn Bind> {
        None
    }
    /// This plugin at PostBind.
    fn as_post_bind(&self) -> Option<&dyn PostBind> {
        None
    }
}

/// What plugins keep from one extension point to the next within a cycle, by its type: a plugin
/// keeps a value of a type of its own, and no other plugin can reach it by accident.
#[derive(Debug, Default)]
pub struct CycleState(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl CycleState {
    /// Keeps a value, in place of an earlier one of the same type.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// The value of this type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// The value of this type, to change.
    pub fn get_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.0.get_mut(&TypeId::of::<T>())?.downcast_mut()
    }
}

/// Decides whether a Pod may enter the queue of Pods to try at all.
///
/// It is called when the Pod appears and whenever it changes. It must be quick and do no I/O. A
/// Pod that is turned down gets no event and no condition; it is *gated*.
pub trait PreEnqueue {
    /// Success lets the Pod in.
    fn pre_enqueue(&self, pod: &PodInfo) -> Status;
}

/// A Pod as it waits to be tried.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    /// The Pod.
    pub info: std::sync::Arc<PodInfo>,
    /// When it entered the queue, this time.
    pub since: Instant,
    /// How often it was tried.
    pub attempts: u32,
    /// How often in a row that ended in an error that was not the Pod's fault.
    pub errors: u32,
    /// The plugins that turned it down last.
    pub rejected_by: BTreeSet<&'static str>,
}

/// Decides which of two waiting Pods is tried first. A profile has exactly one such plugin, and
/// profiles that share a queue must have the same.
pub trait QueueSort {
    /// `Less` if `a` goes first. It must be a total order that does not change while Pods wait.
    fn compare(&self, a: &QueuedPod, b: &QueuedPod) -> Ordering;
}

/// Something that happened in the cluster, for [`EnqueueExtensions`].
#[derive(Debug)]
pub enum ClusterEvent<'a> {
    /// A node appeared.
    NodeAdded(&'a NodeInfo),
    /// A node changed.
    NodeUpdated {
        /// As it was.
        old: &'a NodeInfo,
        /// As it is.
        new: &'a NodeInfo,
        /// What changed.
        change: NodeChange,
    },
    /// A Pod was bound to a node.
    AssignedPodAdded(&'a PodInfo),
    /// A bound Pod's labels or requests changed.
    AssignedPodUpdated {
        /// As it was.
        old: &'a PodInfo,
        /// As it is.
        new: &'a PodInfo,
    },
    /// A bound Pod ended or was deleted, or a binding failed.
    AssignedPodDeleted(&'a PodInfo),
    /// A volume, a claim, a class or what a CSI driver says of a node changed.
    StorageChanged,
    /// A namespace appeared, or its labels changed.
    NamespaceChanged,
    /// The waiting Pod itself changed.
    PodUpdated {
        /// As it was.
        old: &'a PodInfo,
        /// As it is.
        new: &'a PodInfo,
    },
}

/// Whether a rejected Pod is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// It may fit now.
    Queue,
    /// It will not.
    Skip,
}

/// Tells which events make a Pod that the plugin rejected worth another try.
///
/// A plugin that rejects Pods and does not implement this has its Pods tried again after every
/// event. When in doubt the answer is [`Hint::Queue`]: a needless try costs little, a missed one
/// leaves the Pod waiting for up to five minutes.
pub trait EnqueueExtensions {
    /// Judges one event for one Pod that this plugin rejected. It must be quick.
    fn hint(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> Hint;
}

/// What a `PreFilter` found.
#[derive(Debug)]
pub enum PreFiltered {
    /// All nodes are to be filtered.
    All,
    /// Only these nodes can be possible; they need not exist.
    Only(BTreeSet<String>),
    /// The plugin's `Filter` need not run.
    Skip,
    /// The Pod fits nowhere, or the plugin failed.
    Rejected(Status),
}

/// Looks at a Pod once before nodes are filtered: prepares what `Filter` needs, narrows down the
/// nodes, or rejects the Pod.
pub trait PreFilter {
    /// Called once per cycle.
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot)
    -> PreFiltered;

    /// Adjusts what `pre_filter` prepared as if `added` were on `node` too. Called in dry runs,
    /// for Pods that are to come.
    fn add_pod(
        &self,
        _state: &mut CycleState,
        _pod: &PodInfo,
        _added: &PodInfo,
        _node: &NodeInfo,
    ) -> Status {
        Status::success()
    }

    /// Adjusts what `pre_filter` prepared as if `removed` were not on `node`. Called in dry runs
    /// of preemption.
    fn remove_pod(
        &self,
        _state: &mut CycleState,
        _pod: &PodInfo,
        _removed: &PodInfo,
        _node: &NodeInfo,
    ) -> Status {
        Status::success()
    }
}

/// What a verdict is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The node alone: its labels, taints, spec.
    Node,
    /// The node and the Pods on it.
    NodeAndPods,
}

/// Decides whether a Pod can run on a node.
///
/// It judges the node that it is handed, which in a dry run of preemption is not the snapshot's.
/// Filters run in the order of the profile and the first that rejects a node ends its filtering.
pub trait Filter {
    /// Success if the Pod can run there.
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status;

    /// What a verdict depends on, so that a Pod added to a node does not repeat all of them.
    fn reads(&self) -> Reads {
        Reads::NodeAndPods
    }
}

/// What becomes of the node that is kept for a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nomination {
    /// It stays as it is.
    #[default]
    Unchanged,
    /// None is kept any more.
    Withdrawn,
    /// This one is kept.
    Node(String),
}

impl Nomination {
    /// The node that is kept from now on.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Node(name) => Some(name),
            Self::Unchanged | Self::Withdrawn => None,
        }
    }
}

/// What a `PostFilter` found.
#[derive(Debug)]
pub struct PostFiltered {
    /// Success if the Pod may fit on `nominated` soon; a rejection says why nothing can be done.
    pub status: Status,
    /// The node that is kept for the Pod. A rejection may withdraw it.
    pub nominated: Nomination,
    /// Pods to delete from that node.
    pub victims: Vec<std::sync::Arc<PodInfo>>,
}

/// Called when no node is possible, to make the Pod fit in a later try, as preemption does. The
/// first plugin that succeeds ends the round. It only decides: the caller deletes the victims.
pub trait PostFilter {
    /// Looks for a way to make the Pod fit. `filters` tries the profile's filters on nodes that
    /// the plugin made up.
    fn post_filter(
        &self,
        filters: &Filters<'_>,
        pod: &PodInfo,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
    ) -> PostFiltered;
}

/// Looks at the possible nodes once before they are scored.
pub trait PreScore {
    /// Success; or `Skip` if the plugin's `Score` need not run, because all nodes are alike to it.
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, nodes: &[&NodeInfo]) -> Status;
}

/// How scores of one plugin are brought to the range of 0 to [`MAX_NODE_SCORE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// They are in that range.
    No,
    /// The largest becomes 100, others in proportion.
    ToMax,
    /// The largest becomes 0, others in proportion; 0 becomes 100.
    ToMaxReversed,
    /// By [`Score::normalize_score`]. Pods that are scored so share no work.
    Custom,
}

/// Ranks a node that is possible: higher is better. After normalization a score is from 0 to
/// [`MAX_NODE_SCORE`]; what lies outside counts as the nearer end.
pub trait Score {
    /// The score of one node.
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64;

    /// How the scores are normalized.
    fn normalization(&self) -> Normalize {
        Normalize::No
    }

    /// What a score depends on, so that a Pod added to a node does not repeat all of them.
    fn reads(&self) -> Reads {
        Reads::NodeAndPods
    }

    /// Normalizes the scores of all possible nodes; `nodes` and `scores` go together.
    fn normalize_score(
        &self,
        _state: &CycleState,
        _pod: &PodInfo,
        _nodes: &[&NodeInfo],
        scores: &mut [i64],
    ) {
        normalize(self.normalization(), scores);
    }
}

/// Normalizes scores in one of the common ways; does nothing for [`Normalize::Custom`].
pub fn normalize(how: Normalize, scores: &mut [i64]) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = normalized(how, *score, max);
    }
}

/// One score normalized, when `max` is the largest of all.
pub(crate) fn normalized(how: Normalize, score: i64, max: i64) -> i64 {
    match how {
        Normalize::No | Normalize::Custom => score,
        Normalize::ToMax if max == 0 => score,
        Normalize::ToMax => score * MAX_NODE_SCORE / max,
        Normalize::ToMaxReversed if max == 0 => MAX_NODE_SCORE,
        Normalize::ToMaxReversed => MAX_NODE_SCORE - score * MAX_NODE_SCORE / max,
    }
}

/// Keeps book of what a Pod takes besides what the snapshot counts.
pub trait Reserve {
    /// The Pod is about to go to `node`. Anything but success ends the cycle, and `unreserve` of
    /// all plugins is called.
    fn reserve(&self, pod: &PodInfo, node: &str) -> Status;

    /// The Pod does not go to `node` after all. It must be idempotent, cannot fail, and may come
    /// without a `reserve` before it. Plugins are called in the opposite order.
    fn unreserve(&self, pod: &PodInfo, node: &str);
}

/// Has the last word before a Pod is bound.
pub trait Permit {
    /// Success, a rejection, or `Wait`: the Pod then waits, at most for the duration, until
    /// somebody allows or rejects it through [`WaitingPods`](crate::WaitingPods).
    fn permit(&self, pod: &PodInfo, node: &str) -> (Status, Duration);
}

/// What a binding has at hand.
#[derive(Clone)]
pub struct BindContext {
    /// The API.
    pub client: kube::Client,
}

impl Debug for BindContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BindContext").finish_non_exhaustive()
    }
}

/// Does what must be done before a Pod is bound, such as attaching a volume.
#[async_trait]
pub trait PreBind: Sync {
    /// Anything but success gives up this binding; the Pod is tried again.
    async fn pre_bind(&self, context: &BindContext, pod: &PodInfo, node: &str) -> Status;
}

/// Binds a Pod to a node.
#[async_trait]
pub trait Bind: Sync {
    /// `Skip` leaves it to the next plugin.
    async fn bind(&self, context: &BindContext, pod: &PodInfo, node: &str) -> Status;
}

/// Told of every Pod that was bound.
#[async_trait]
pub trait PostBind: Sync {
    /// For information only.
    async fn post_bind(&self, pod: &PodInfo, node: &str);
}
