use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    policy::v1::PodDisruptionBudget,
};
use rk_api::client::{
    Change, EventRecorder, EventType, Informer, Informers, LeaderElectionConfig, LeaderElector,
    Subscription, object_ref,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Backoff, NodeChange, NodeInfo, PodInfo, Profile, Scheduler, SchedulingQueue, Snapshot,
    Unschedulable,
    config::Config,
    framework::{BindContext, ClusterEvent, Nomination, QueuedPod},
    plugins::default_preemption,
    storage::Caches,
};

mod binding;
mod news;
mod status;
mod waiting;

use binding::{Binding, Bound, Outcome};
use news::News;
use status::{Eviction, StatusWriter};
pub use waiting::WaitingPods;

/// How many bindings are under way at once; further Pods wait for one to end.
const BINDINGS_MAX: usize = 512;
/// How many Pods are tried before other tasks and news get their turn.
const BATCH: usize = 64;
/// How long to wait at the start for what Pods can be scheduled without. A server from before their
/// API was final has no disruption budgets to give, and an older role none of the namespaces.
const EXTRAS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long bindings that are under way may take to end at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

impl Scheduler {
    /// Begins a scheduler that works against an API server.
    pub fn builder(client: kube::Client) -> SchedulerBuilder {
        SchedulerBuilder {
            client,
            informers: None,
            profiles: vec![Profile::default()],
            backoff: Backoff::default(),
            leader_election: None,
            waiting: WaitingPods::default(),
        }
    }
}

/// Puts a [`SchedulerRunner`] together.
#[derive(Clone)]
pub struct SchedulerBuilder {
    client: kube::Client,
    informers: Option<Informers>,
    profiles: Vec<Profile>,
    backoff: Backoff,
    leader_election: Option<LeaderElectionConfig>,
    waiting: WaitingPods,
}

impl std::fmt::Debug for SchedulerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerBuilder").field("profiles", &self.profiles).finish_non_exhaustive()
    }
}

impl SchedulerBuilder {
    /// With this profile, in place of one with the same scheduler name. The default profile, for
    /// `default-scheduler`, is there unless [`profiles`](Self::profiles) or [`name`](Self::name)
    /// takes it away.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profiles.retain(|it| it.scheduler_name != profile.scheduler_name);
        self.profiles.push(profile);
        self
    }

    /// With these profiles and no others.
    #[must_use]
    pub fn profiles(mut self, profiles: impl IntoIterator<Item = Profile>) -> Self {
        self.profiles.clear();
        profiles.into_iter().fold(self, Self::profile)
    }

    /// Schedules the Pods of this scheduler name, by the first profile.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        if let Some(first) = self.profiles.first_mut() {
            first.scheduler_name = name.to_owned();
        }
        self
    }

    /// As a configuration file says. Leader election is left to the caller.
    #[must_use]
    pub fn config(self, config: Config) -> Self {
        self.profiles(config.profiles).backoff(config.backoff)
    }

    /// How long Pods rest after a failed try.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Shares these caches with other components of the process.
    #[must_use]
    pub fn informers(mut self, informers: Informers) -> Self {
        self.informers = Some(informers);
        self
    }

    /// Schedules only while it is the leader.
    #[must_use]
    pub fn leader_election(mut self, config: LeaderElectionConfig) -> Self {
        self.leader_election = Some(config);
        self
    }

    /// Where Pods wait that a `Permit` plugin holds: hand a clone to that plugin.
    #[must_use]
    pub fn waiting_pods(mut self, waiting: WaitingPods) -> Self {
        self.waiting = waiting;
        self
    }

    /// The scheduler, ready to run.
    pub fn build(self) -> SchedulerRunner {
        SchedulerRunner(self)
    }
}

/// A scheduler that watches an API server for Pods to place.
#[derive(Debug)]
pub struct SchedulerRunner(SchedulerBuilder);

impl SchedulerRunner {
    /// Schedules until `shutdown` is cancelled or, with leader election, leadership is lost. Then
    /// bindings that are under way get a few seconds to end.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut builder = self.0;
        match builder.leader_election.take() {
            Some(config) => {
                let elector = LeaderElector::new(builder.client.clone(), config);
                elector.run(shutdown, |token| Core::run(builder, token)).await;
            }
            None => Core::run(builder, shutdown).await,
        }
    }
}

/// Lets plugins look up volumes and claims, disruption budgets, and namespaces.
fn connect(
    profiles: &[Arc<Profile>],
    storage: &Caches,
    budgets: &Informer<PodDisruptionBudget>,
    namespaces: &Informer<Namespace>,
) {
    for plugin in profiles.iter().flat_map(|profile| &profile.all) {
        if let Some(connected) = plugin.storage() {
            connected.connect(Arc::new(storage.clone()));
        }
        if let Some(connected) = plugin.budgets() {
            connected.connect(Arc::new(budgets.clone()));
        }
        if let Some(connected) = plugin.namespaces() {
            connected.connect(Arc::new(namespaces.clone()));
        }
    }
}

/// Something that ran beside the cycles and ended.
enum Done {
    Binding(Outcome),
    /// All victims of this Pod were asked to go, or that failed for one.
    Preemption {
        uid: Arc<str>,
        failed: bool,
    },
}

/// The state of a running scheduler.
struct Core {
    queue: SchedulingQueue,
    snapshot: Snapshot,
    schedulers: HashMap<String, Scheduler>,
    pods: Informer<Pod>,
    /// Pods that are in the snapshot although the API does not show them bound yet.
    assumed: BTreeSet<Arc<str>>,
    context: BindContext,
    recorder: EventRecorder,
    status: StatusWriter,
    waiting: WaitingPods,
    done: mpsc::UnboundedSender<Done>,
    /// How many bindings are under way.
    binding: usize,
}

impl Core {
    async fn run(builder: SchedulerBuilder, shutdown: CancellationToken) {
        let client = builder.client;
        // With caches of its own it leaves out Pods that have ended: they take nothing of a node.
        let (informers, pods) = match builder.informers {
            Some(shared) => (shared.clone(), shared.of::<Pod>()),
            None => {
                let own = Informers::new(client.clone());
                let selector = "status.phase!=Succeeded,status.phase!=Failed";
                let pods = own.selected::<Pod>(None, Some(selector));
                (own, pods)
            }
        };
        let (nodes, storage) = (informers.of::<Node>(), Caches::new(&informers));
        let budgets = informers.of::<PodDisruptionBudget>();
        let namespaces = informers.of::<Namespace>();
        if shutdown
            .run_until_cancelled(async {
                let extras = async { tokio::join!(budgets.synced(), namespaces.synced()) };
                let extras = tokio::time::timeout(EXTRAS_TIMEOUT, extras);
                tokio::join!(nodes.synced(), pods.synced(), storage.synced(), extras)
            })
            .await
            .is_none()
        {
            return;
        }

        let component = builder.profiles.first().map_or("", |it| it.scheduler_name.as_str());
        let recorder = EventRecorder::new(client.clone(), component);
        let schedulers: HashMap<_, _> = builder
            .profiles
            .into_iter()
            .map(|profile| (profile.scheduler_name.clone(), Scheduler::new(profile)))
            .collect();
        let mut profiles: Vec<_> = schedulers.values().map(|it| it.profile().clone()).collect();
        profiles.sort_by(|a, b| a.scheduler_name.cmp(&b.scheduler_name));
        if profiles.is_empty() {
            tracing::warn!("a scheduler without profiles has nothing to do");
            return;
        }
        connect(&profiles, &storage, &budgets, &namespaces);
        let news = [News::of_storage(&storage), News::of_namespaces(&namespaces)];
        let (done, mut results) = mpsc::unbounded_channel();
        let mut core = Self {
            queue: SchedulingQueue::new(profiles, builder.backoff),
            snapshot: Snapshot::new(),
            schedulers,
            assumed: BTreeSet::new(),
            status: StatusWriter::new(client.clone(), recorder.clone()),
            context: BindContext { client },
            recorder,
            waiting: builder.waiting,
            done,
            binding: 0,
            pods: pods.clone(),
        };
        core.serve(nodes.subscribe(), pods.subscribe(), &news, &mut results, &shutdown).await;

        let drain = async {
            while core.binding > 0
                && let Some(done) = results.recv().await
            {
                core.ended(done);
            }
        };
        let _ = tokio::time::timeout(SHUTDOWN_GRACE, drain).await;
    }

    async fn serve(
        &mut self,
        mut nodes: Subscription<Node>,
        mut pods: Subscription<Pod>,
        [storage, namespaces]: &[News; 2],
        results: &mut mpsc::UnboundedReceiver<Done>,
        shutdown: &CancellationToken,
    ) {
        while !shutdown.is_cancelled() {
            // All that is known comes in before anything is decided.
            while let Ok(done) = results.try_recv() {
                self.ended(done);
            }
            while let Some(change) = nodes.try_next() {
                self.node_changed(change);
            }
            while let Some(change) = pods.try_next() {
                self.pod_changed(change);
            }

            let mut tried = 0;
            while tried < BATCH
                && self.binding < BINDINGS_MAX
                && let Some(pod) = self.queue.pop(Instant::now())
            {
                self.schedule(pod);
                tried += 1;
            }
            if tried > 0 {
                tokio::task::yield_now().await;
                continue;
            }

            // With all bindings taken, Pods that are active wait for one to end, not for a timer.
            let full = self.binding >= BINDINGS_MAX;
            let timer = self.queue.next_timer().filter(|_| !full);
            let sleep = async {
                match timer {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                Some(done) = results.recv() => self.ended(done),
                change = nodes.next_change() => self.node_changed(change),
                change = pods.next_change() => self.pod_changed(change),
                () = storage.heard() => {
                    self.queue.on_event(&ClusterEvent::StorageChanged, Instant::now());
                }
                () = namespaces.heard() => {
                    self.queue.on_event(&ClusterEvent::NamespaceChanged, Instant::now());
                }
                () = sleep => {}
            }
        }
    }

    fn node_changed(&mut self, change: Change<Node>) {
        let now = Instant::now();
        match change {
            Change::Added(node) | Change::Updated { new: node, .. } => {
                let name = node.metadata.name.clone().unwrap_or_default();
                let old = self.snapshot.node(&name).map(|row| row.node.clone());
                let change = self.snapshot.set_node(node).unwrap_or(NodeChange::ALL);
                if !change.any() {
                    return;
                }
                let Some(new) = self.snapshot.node(&name) else { return };
                // Hints look at the node itself, so the old one needs no Pods.
                let old = old.map(NodeInfo::new);
                let event = match &old {
                    Some(old) => ClusterEvent::NodeUpdated { old, new, change },
                    None => ClusterEvent::NodeAdded(new),
                };
                self.queue.on_event(&event, now);
            }
            Change::Deleted(node) => {
                self.snapshot.remove_node(node.metadata.name.as_deref().unwrap_or_default());
            }
        }
    }

    fn pod_changed(&mut self, change: Change<Pod>) {
        match change {
            Change::Added(pod) | Change::Updated { new: pod, .. } => {
                let info = Arc::new(PodInfo::new(pod));
                if info.is_finished() {
                    self.pod_gone(&info);
                } else if info.node_name().is_some() {
                    self.pod_assigned(info);
                } else {
                    self.pod_unassigned(info);
                }
            }
            Change::Deleted(pod) => self.pod_gone(&PodInfo::new(pod)),
        }
    }

    fn pod_unassigned(&mut self, info: Arc<PodInfo>) {
        // An update that was on its way when the Pod was assumed.
        if self.assumed.contains(&info.uid) {
            return;
        }
        if info.is_terminating() {
            self.queue.remove(&info.uid);
            self.snapshot.clear_nomination(&info.uid);
        } else if self.schedulers.contains_key(info.scheduler_name()) {
            match info.nominated_node().map(str::to_owned) {
                Some(node) => self.snapshot.nominate(info.clone(), &node),
                None => self.snapshot.clear_nomination(&info.uid),
            }
            self.queue.add(info, Instant::now());
        }
    }

    fn pod_assigned(&mut self, info: Arc<PodInfo>) {
        let now = Instant::now();
        self.queue.remove(&info.uid);
        self.snapshot.clear_nomination(&info.uid);
        let was_assumed = self.assumed.remove(&info.uid);
        let old = self.snapshot.node_of(&info.uid).and_then(|node| {
            let node = self.snapshot.node(node)?;
            node.pods.iter().find(|pod| pod.uid == info.uid).cloned()
        });
        self.snapshot.add_pod(info.clone());
        match old {
            Some(old) if !was_assumed => {
                if old.requests != info.requests
                    || old.pod.metadata.labels != info.pod.metadata.labels
                {
                    let event = ClusterEvent::AssignedPodUpdated { old: &old, new: &info };
                    self.queue.on_event(&event, now);
                }
            }
            _ => {
                self.queue.on_event(&ClusterEvent::AssignedPodAdded(&info), now);
            }
        }
    }

    fn pod_gone(&mut self, info: &PodInfo) {
        self.queue.remove(&info.uid);
        self.snapshot.clear_nomination(&info.uid);
        self.assumed.remove(&info.uid);
        self.waiting.gone(&info.uid);
        if let Some(gone) = self.snapshot.remove_pod(&info.uid) {
            self.queue.on_event(&ClusterEvent::AssignedPodDeleted(&gone), Instant::now());
        }
    }

    /// One cycle, from the queue to the start of the binding.
    fn schedule(&mut self, pod: QueuedPod) {
        let info = pod.info;
        let Some(scheduler) = self.schedulers.get_mut(info.scheduler_name()) else {
            self.queue.remove(&info.uid);
            return;
        };
        match scheduler.schedule_info(&self.snapshot, &info) {
            Ok(placement) => {
                let profile = scheduler.profile().clone();
                self.assume(&profile, info, placement.node);
            }
            Err(error) => self.unschedulable(&info, error),
        }
    }

    /// Counts the Pod in on its node, asks `Reserve` and `Permit`, and starts the binding.
    fn assume(&mut self, profile: &Arc<Profile>, info: Arc<PodInfo>, node: String) {
        self.snapshot.assume(info.clone(), &node);
        self.assumed.insert(info.uid.clone());
        self.snapshot.clear_nomination(&info.uid);

        let binding =
            Binding { profile: profile.clone(), context: self.context.clone(), info, node };
        self.binding += 1;
        match binding.reserve_and_permit(&self.waiting) {
            Ok(wait) => {
                let done = self.done.clone();
                tokio::spawn(async move {
                    let outcome = binding.bind(wait).await;
                    let _ = done.send(Done::Binding(outcome));
                });
            }
            Err(rejected) => self.binding_ended(binding.rejected(rejected)),
        }
    }

    fn ended(&mut self, done: Done) {
        match done {
            Done::Binding(outcome) => self.binding_ended(outcome),
            Done::Preemption { uid, failed } => self.queue.release(&uid, failed, Instant::now()),
        }
    }

    fn binding_ended(&mut self, outcome: Outcome) {
        self.binding -= 1;
        let Outcome { info, node, result } = outcome;
        let (plugin, status) = match result {
            Bound::Yes => {
                let message =
                    format!("Successfully assigned {}/{} to {node}", info.namespace(), info.name());
                let about = object_ref(&*info.pod);
                self.recorder.event(&about, EventType::Normal, "Scheduled", message);
                // The watch will show it bound; it may have done so already.
                return;
            }
            Bound::No { plugin, status } => (plugin, status),
        };

        // Unless the watch has shown it bound, or gone, in the meantime.
        if self.assumed.remove(&info.uid)
            && let Some(gone) = self.snapshot.remove_pod(&info.uid)
        {
            self.queue.on_event(&ClusterEvent::AssignedPodDeleted(&gone), Instant::now());
        }
        let current = self.pods.get(info.namespace(), info.name());
        let Some(current) = current.map(PodInfo::new).filter(|it| it.uid == info.uid) else {
            self.queue.remove(&info.uid);
            return;
        };
        if current.node_name().is_some() {
            return;
        }
        if status.is_rejected() {
            let message = format!("0/1 nodes are available: 1 {}.", status.message());
            let rejected_by = [plugin].into();
            let withdrawn = Nomination::Withdrawn;
            self.turn_down(&info, "Unschedulable", message, rejected_by, withdrawn);
        } else {
            let message =
                format!("binding rejected: running plugin {plugin:?}: {}", status.message());
            let withdrawn = Nomination::Withdrawn;
            self.turn_down(&info, "SchedulerError", message, BTreeSet::new(), withdrawn);
        }
    }

    fn unschedulable(&mut self, info: &Arc<PodInfo>, error: Unschedulable) {
        let (message, reason) = (error.to_string(), error.reason());
        let rejected_by = error.rejected_by();
        let nominated = match error {
            Unschedulable::Unfit(error) => {
                if let Nomination::Node(node) = &error.nominated {
                    self.preempt(info, node, error.victims);
                }
                error.nominated
            }
            Unschedulable::NoNodes | Unschedulable::Failed { .. } => Nomination::Withdrawn,
        };
        self.turn_down(info, reason, message, rejected_by, nominated);
    }

    /// Puts a Pod back into the queue and says why, in an event and in its status.
    fn turn_down(
        &mut self,
        info: &Arc<PodInfo>,
        reason: &'static str,
        message: String,
        rejected_by: BTreeSet<&'static str>,
        nominated: Nomination,
    ) {
        match &nominated {
            Nomination::Node(node) => self.snapshot.nominate(info.clone(), node),
            Nomination::Withdrawn => self.snapshot.clear_nomination(&info.uid),
            Nomination::Unchanged => {}
        }
        let error = reason == "SchedulerError";
        self.queue.reject(&info.uid, rejected_by, error, Instant::now());
        let about = object_ref(&*info.pod);
        self.recorder.event(&about, EventType::Warning, "FailedScheduling", message.clone());
        // What the condition says now is in the cache rather than in the Pod that was tried.
        let current = self.pods.get(info.namespace(), info.name());
        let current = current.unwrap_or_else(|| info.pod.clone());
        self.status.write(&current, reason, &message, &nominated);
    }

    /// Has the victims go, beside the cycles: see KEP-4832. Until all were asked to, the Pod is not
    /// tried again, lest it choose others as well.
    fn preempt(&mut self, info: &Arc<PodInfo>, node: &str, victims: Vec<Arc<PodInfo>>) {
        // Lesser Pods that were promised room there may find none now.
        let nominated = self.snapshot.nominated().iter();
        let lesser: Vec<_> = nominated
            .filter(|(other, on)| **on == *node && other.priority < info.priority)
            .map(|(other, _)| other.clone())
            .collect();
        for other in lesser {
            self.snapshot.clear_nomination(&other.uid);
            self.status.withdraw(&other.pod);
        }

        let mut evictions = Vec::new();
        for victim in victims.into_iter().filter(|victim| !victim.is_terminating()) {
            let eviction = Eviction { victim, by: info.clone(), node: node.to_owned() };
            // One that still waits for its permit never started, so it need not be deleted.
            let waiting = &eviction.victim.uid;
            match self.waiting.reject(waiting, default_preemption::NAME, "preempted") {
                true => self.status.preempted(&eviction),
                false => evictions.push(eviction),
            }
        }
        if !evictions.is_empty() {
            self.queue.hold(&info.uid);
            let (uid, done) = (info.uid.clone(), self.done.clone());
            self.status.evict(evictions, move |failed| {
                let _ = done.send(Done::Preemption { uid, failed });
            });
        }
    }
}
