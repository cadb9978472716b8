//! Which pods a node has, and who works on them.
//!
//! A pod has no task while nothing is to be done for it. A change of the pod, an event of the
//! runtime, a probe or a timer pokes it; then a task brings it up to date and ends. So an idle pod
//! costs its slot, not a stack.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use parking_lot::Mutex;
use rk_api::client::{EventRecorder, EventType, Informer, object_ref};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    csi::Csi,
    heartbeat::{Alarms, Heartbeat},
    housekeeping::{EndedPods, NodeState},
    images::Pulls,
    kubelet_api::LastTimes,
    probes::ProbeCounts,
    references::References,
    resize::Allocated,
    spec::pod_ref,
    static_pods::Mirrors,
    sync::Memory,
};
use crate::{
    runtime::Runtime,
    timers::{Alarm, Timers},
};

/// The alarm of the node itself; the others are pods' numbers.
pub(super) const HEARTBEAT: u64 = 0;

/// A node's agent: its pods and what they share. The tasks that work on pods hold it.
pub(crate) struct Core {
    pub(super) this: Weak<Core>,
    pub(super) config: Config,
    pub(super) client: kube::Client,
    pub(super) runtime: Arc<dyn Runtime>,
    /// What container ids begin with: the runtime's name.
    pub(super) scheme: String,
    pub(super) recorder: Option<EventRecorder>,
    pub(super) timers: Timers,
    pub(super) nodes: Informer<Node>,
    /// Services for the variables that pods get; none on a simulated node.
    pub(super) services: Option<Informer<Service>>,
    pub(super) heartbeat: tokio::sync::Mutex<Heartbeat>,
    pub(super) alarms: Mutex<Alarms>,
    pub(super) pulls: Pulls,
    /// What of the node its status tells, and changes.
    pub(super) state: Mutex<NodeState>,
    pub(super) ended: Mutex<EndedPods>,
    pub(super) mirrors: Mutex<Mirrors>,
    pub(super) probe_counts: Mutex<ProbeCounts>,
    pub(super) last_times: LastTimes,
    pub(super) csi: Csi,
    pub(super) references: References,
    pub(super) allocated: Allocated,
    /// Ends all work on pods; what runs keeps running.
    pub(super) stopped: CancellationToken,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    by_uid: HashMap<String, Slot>,
    uids: HashMap<u64, String>,
    next: u64,
}

struct Slot {
    number: u64,
    pod: Arc<Pod>,
    /// It is no longer in the API.
    gone: bool,
    /// A task works on it; `memory` is with that task.
    running: bool,
    /// Something changed since that task looked.
    dirty: bool,
    /// What failed is to be tried again at once.
    hasten: bool,
    /// Wakes a task that waits for containers to stop.
    changed: Arc<Notify>,
    memory: Option<Box<Memory>>,
    wake_at: Option<Instant>,
}

/// What a pod's task works on.
pub(super) struct Job {
    pub(super) pod: Arc<Pod>,
    pub(super) gone: bool,
    pub(super) changed: Arc<Notify>,
}

/// What is to be done after a pod was brought up to date.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing until something changes, or this long.
    Wait(Option<Duration>),
    /// It is gone, and so is all it left.
    Forget,
}

#[allow(clippy::too_many_arguments)]
impl Core {
    pub(super) fn new(
        config: Config,
        client: kube::Client,
        runtime: Arc<dyn Runtime>,
        recorder: Option<EventRecorder>,
        timers: Timers,
        nodes: Informer<Node>,
        services: Option<Informer<Service>>,
    ) -> Arc<Self> {
        let version = runtime.version();
        let scheme = version.split("://").next().unwrap_or_default().to_string();
        let pulls = Pulls::new(config.image_pulls_at_once);
        Arc::new_cyclic(|this| Core {
            this: this.clone(),
            config,
            client,
            runtime,
            scheme,
            recorder,
            timers,
            nodes,
            services,
            heartbeat: Default::default(),
            alarms: Mutex::default(),
            pulls,
            state: Mutex::default(),
            ended: Mutex::default(),
            mirrors: Mutex::default(),
            probe_counts: Mutex::default(),
            last_times: LastTimes::default(),
            csi: Csi::default(),
            references: References::default(),
            allocated: Allocated::default(),
            stopped: CancellationToken::new(),
            slots: Mutex::new(Slots { next: HEARTBEAT + 1, ..Slots::default() }),
        })
    }

    /// The pod is on this node, in this state.
    pub(super) fn pod_changed(&self, pod: Arc<Pod>) {
        self.take(pod, false);
    }

    /// The runtime has the pod, but the API does not.
    pub(super) fn pod_orphaned(&self, pod: Arc<Pod>) {
        self.take(pod, true);
    }

    fn take(&self, pod: Arc<Pod>, gone: bool) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let mut slots = self.slots.lock();
        let slots = &mut *slots;
        let slot = slots.by_uid.entry(uid.clone()).or_insert_with(|| {
            let number = slots.next;
            slots.next += 1;
            slots.uids.insert(number, uid.clone());
            Slot {
                number,
                pod: pod.clone(),
                gone: false,
                running: false,
                dirty: false,
                hasten: false,
                changed: Arc::default(),
                memory: Some(Box::default()),
                wake_at: None,
            }
        });
        if slot.pod.metadata.annotations != pod.metadata.annotations {
            let annotations = pod.metadata.annotations.clone().unwrap_or_default();
            self.runtime.pod_annotated(&uid, &annotations);
        }
        slot.pod = pod;
        slot.gone |= gone;
        self.start(slot, &uid);
    }

    /// The pod is no longer in the API, or no longer on this node.
    pub(super) fn pod_gone(&self, pod: &Pod) {
        let Some(uid) = &pod.metadata.uid else { return };
        if let Some(slot) = self.slots.lock().by_uid.get_mut(uid) {
            slot.gone = true;
            self.start(slot, uid);
        }
    }

    /// Something about the pod may have changed.
    pub(super) fn poke(&self, uid: &str) {
        if let Some(slot) = self.slots.lock().by_uid.get_mut(uid) {
            self.start(slot, uid);
        }
    }

    /// What a pod waits for may have come: what failed is tried again without a pause.
    pub(super) fn poke_without_pause(&self, uid: &str) {
        if let Some(slot) = self.slots.lock().by_uid.get_mut(uid) {
            slot.hasten = true;
            self.start(slot, uid);
        }
    }

    /// All pods of the node that are still in the API.
    pub(super) fn pods(&self) -> Vec<Arc<Pod>> {
        let slots = self.slots.lock();
        let mut pods: Vec<_> =
            slots.by_uid.values().filter(|slot| !slot.gone).map(|slot| slot.pod.clone()).collect();
        pods.sort_by(|a, b| {
            let key = |pod: &Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
            key(a).cmp(&key(b))
        });
        pods
    }

    /// All pods that there is anything left of.
    pub(super) fn all_pods(&self) -> Vec<Arc<Pod>> {
        self.slots.lock().by_uid.values().map(|slot| slot.pod.clone()).collect()
    }

    /// The node's pods as they were last written, or else seen. One that is being worked on is as it
    /// was seen.
    pub(super) fn pods_as_written(&self) -> Vec<Arc<Pod>> {
        let slots = self.slots.lock();
        let written = |slot: &Slot| slot.memory.as_ref().and_then(|memory| memory.written.clone());
        let live = slots.by_uid.values().filter(|slot| !slot.gone);
        live.map(|slot| written(slot).unwrap_or_else(|| slot.pod.clone())).collect()
    }

    /// A pod as it was last seen.
    pub(super) fn newest_pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.slots.lock().by_uid.get(uid).map(|slot| slot.pod.clone())
    }

    /// Whether the node has a pod of this UID.
    pub(super) fn knows(&self, uid: &str) -> bool {
        self.slots.lock().by_uid.contains_key(uid)
    }

    fn start(&self, slot: &mut Slot, uid: &str) {
        if slot.running {
            slot.dirty = true;
            slot.changed.notify_one();
            return;
        }
        let Some(core) = self.this.upgrade() else { return };
        slot.running = true;
        slot.dirty = false;
        let (stopped, uid) = (self.stopped.clone(), uid.to_string());
        self.beat_soon();
        tokio::spawn(async move {
            stopped.run_until_cancelled_owned(core.work(uid)).await;
        });
    }

    /// Works on a pod until there is nothing more to do now.
    async fn work(self: Arc<Self>, uid: String) {
        if self.work_on(&uid).await == Next::Forget {
            // What it had is there for others.
            self.look_at_deferred();
        }
    }

    async fn work_on(self: &Arc<Self>, uid: &str) -> Next {
        loop {
            let (job, mut memory) = {
                let mut slots = self.slots.lock();
                let Some(slot) = slots.by_uid.get_mut(uid) else { return Next::Wait(None) };
                let changed = slot.changed.clone();
                let job = Job { pod: slot.pod.clone(), gone: slot.gone, changed };
                let mut memory = slot.memory.take().unwrap_or_default();
                if std::mem::take(&mut slot.hasten) {
                    memory.hasten();
                }
                (job, memory)
            };
            // Boxed, so that a task that only waits its turn is small.
            let next = Box::pin(self.sync(&job, &mut memory)).await;
            let mut slots = self.slots.lock();
            let slots = &mut *slots;
            let Some(slot) = slots.by_uid.get_mut(uid) else { return Next::Wait(None) };
            if next == Next::Forget {
                self.forget_end(uid);
                self.references.forget(uid);
                self.forget_probe_counts(uid);
                self.allocated.forget(uid);
                slots.uids.remove(&slot.number);
                slots.by_uid.remove(uid);
                return next;
            }
            slot.memory = Some(memory);
            if std::mem::take(&mut slot.dirty) {
                continue;
            }
            slot.running = false;
            if let Next::Wait(Some(pause)) = next {
                let at = Instant::now() + pause;
                let now = Instant::now();
                // An alarm that rings earlier will set the later one when it has rung.
                if slot.wake_at.is_none_or(|set| set <= now || at < set) {
                    slot.wake_at = Some(at);
                    self.timers.set(at, self.this.clone(), slot.number);
                }
            }
            return Next::Wait(None);
        }
    }

    // === events ===

    pub(super) fn pod_reference(&self, pod: &Pod) -> ObjectReference {
        object_ref(pod)
    }

    pub(super) fn container_ref(&self, pod: &Pod, name: &str) -> ObjectReference {
        let spec = pod.spec.as_ref();
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_deref());
        let list = if init.iter().any(|container| container.name == name) {
            "initContainers"
        } else if ephemeral.unwrap_or_default().iter().any(|container| container.name == name) {
            "ephemeralContainers"
        } else {
            "containers"
        };
        ObjectReference { field_path: Some(format!("spec.{list}{{{name}}}")), ..object_ref(pod) }
    }

    pub(super) fn event(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: &str,
    ) {
        tracing::debug!(node = self.config.name, pod = about.name, reason, message);
        if let Some(recorder) = &self.recorder {
            recorder.event(about, kind, reason, message);
        }
    }

    // === places ===

    /// A pod's own directory.
    pub(super) fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.config.root_dir.join("pods").join(pod_ref(pod).uid)
    }
}

impl Alarm for Core {
    fn ring(self: Arc<Self>, key: u64) {
        if key == HEARTBEAT {
            self.alarms.lock().ring(Instant::now());
            let stopped = self.stopped.clone();
            tokio::spawn(async move { stopped.run_until_cancelled(self.beat()).await });
            return;
        }
        let mut slots = self.slots.lock();
        let Some(uid) = slots.uids.get(&key).cloned() else { return };
        if let Some(slot) = slots.by_uid.get_mut(&uid) {
            slot.wake_at = None;
            self.start(slot, &uid);
        }
    }
}
