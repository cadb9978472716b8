//! Brings one pod up to date: look, decide ([`plan`]), act, tell the API ([`status`]).
//!
//! Each call may be the first after a crash, and may end at any await point: what it needs to know
//! is read from the runtime and from the API, and what is remembered between calls only paces it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Container, Pod, Secret},
        node::v1::RuntimeClass,
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::Api;
use rk_api::{client::EventType, clock};

use super::{
    admission::{Refusal, admit, allow_sysctls},
    allocation::{Allocation, Resize},
    backoff::BackOff,
    csi,
    env::{Facts, Referenced},
    images::Tries,
    observed::Observed,
    plan::{Health, Plan, Remembered, as_container, plan},
    probes::Probes,
    references,
    resize::hold_key,
    spec::{NodeFacts, full_name, sandbox_config, wrong_hostname},
    static_pods::is_static,
    status::{Waiting, is_terminal},
    stop::grace_after,
    volumes,
    worker::{Core, Job, Next},
};
use crate::runtime::{ContainerStatus, RuntimeError};

/// How long to wait after the runtime or the API failed.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How often what a pod's volumes show is brought up to date.
const REFRESH: Duration = Duration::from_secs(60);
/// Actions may lead to further ones at once; a pod that never comes to rest gives way to others.
const ROUNDS_MAX: usize = 16;

/// What is kept of a pod between calls.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) back_offs: BTreeMap<String, BackOff>,
    /// Images that could not be pulled.
    pub(super) images: BTreeMap<String, Tries>,
    /// Nothing is tried before then, by container; the sandbox and the volumes are the empty name.
    pub(super) holds: BTreeMap<String, Timestamp>,
    /// Why containers wait.
    pub(super) waiting: BTreeMap<String, Waiting>,
    pub(super) probes: Probes,
    /// Where the volumes are, and when they were last brought up to date.
    pub(super) volumes: Option<(BTreeMap<String, PathBuf>, Timestamp)>,
    /// The versions of ConfigMaps and Secrets that they show.
    pub(super) shown: references::Versions,
    /// Those of them that a CSI driver has mounted.
    pub(super) csi: BTreeMap<String, csi::Mounted>,
    pub(super) tokens: BTreeMap<(String, String), (String, Timestamp)>,
    /// What is allocated to a pod that was resized.
    pub(super) allocation: Option<Box<Allocation>>,
    /// What an earlier agent wrote of it was looked for.
    pub(super) allocation_read: bool,
    /// The pod was ended from outside: reason and message.
    pub(super) ended: Option<Refusal>,
    admitted: bool,
    /// The node did not take it on.
    pub(super) rejected: bool,
    /// The pod as the API had it after the last write.
    pub(super) written: Option<Arc<Pod>>,
    /// The last write failed.
    pub(super) unwritten: bool,
    /// The final delete was sent.
    pub(super) deleted: bool,
    /// How often the sandbox or the volumes failed in a row.
    failures: u32,
}

/// [`Memory`] as decisions see it.
pub(super) struct View<'a> {
    pub(super) pod: &'a Pod,
    pub(super) memory: &'a Memory,
}

impl Remembered for View<'_> {
    fn back_off(&self, container: &str) -> BackOff {
        self.memory.back_offs.get(container).copied().unwrap_or_default()
    }

    fn health(&self, container: &ContainerStatus) -> Health {
        let name = &container.config.name;
        self.memory.probes.health(find(self.pod, name).as_deref(), name, &container.id)
    }

    fn resize(&self, container: &Container, id: &str) -> Resize {
        let allocation = self.memory.allocation.as_ref();
        allocation.map_or(Resize::Done, |allocation| allocation.step(container, id))
    }
}

/// A container of the pod by name, of whatever kind.
pub(super) fn find<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    match containers.find(|container| container.name == name) {
        Some(container) => Some(Cow::Borrowed(container)),
        None => {
            let mut ephemeral = spec.ephemeral_containers.iter().flatten();
            let found = ephemeral.find(|container| container.name == name)?;
            Some(Cow::Owned(as_container(found)))
        }
    }
}

impl Memory {
    /// The pod as decisions are to see it: the newer of the informer's and our own last write.
    pub(super) fn newest(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        let version = |pod: &Pod| pod.metadata.resource_version.as_ref()?.parse::<u64>().ok();
        match &self.written {
            Some(written) if version(written) > version(pod) => written.clone(),
            // What runs from a file has its status nowhere else.
            Some(written) if is_static(pod) => written.clone(),
            _ => {
                self.written = None;
                pod.clone()
            }
        }
    }

    /// The pod with what is allocated to it.
    pub(super) fn allocated(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        self.allocation.as_ref().map_or_else(|| pod.clone(), |allocation| allocation.apply(pod))
    }

    pub(super) fn hold(&mut self, name: &str, pause: Duration, now: Timestamp) {
        let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
        self.holds.insert(name.to_string(), now.saturating_add(pause).unwrap_or(Timestamp::MAX));
    }

    /// Forgets the pause after the sandbox or the volumes failed.
    pub(super) fn hasten(&mut self) {
        self.holds.remove("");
        self.failures = 0;
    }

    fn held(&self, name: &str, now: Timestamp) -> bool {
        self.holds.get(name).is_some_and(|until| *until > now)
    }

    /// How long until the first hold ends.
    fn next_hold(&self, now: Timestamp) -> Option<Duration> {
        self.holds
            .values()
            .filter(|until| **until > now)
            .map(|until| until.duration_since(now).unsigned_abs())
            .min()
    }
}

/// The shorter of two pauses, where none is for ever.
fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl Core {
    /// Brings a pod up to date, as far as that goes now.
    pub(super) async fn sync(self: &Arc<Self>, job: &Job, memory: &mut Memory) -> Next {
        if job.gone {
            return self.clean_up(job, memory).await;
        }
        if is_static(&job.pod) {
            if self.replaces_another(&job.pod) {
                return Next::Wait(Some(RETRY));
            }
            let mirrored = self.keep_mirror(&job.pod).await;
            let next = self.sync_live(job, memory).await;
            return match next {
                Next::Wait(wake) if !mirrored => Next::Wait(sooner(wake, Some(RETRY))),
                next => next,
            };
        }
        self.sync_live(job, memory).await
    }

    async fn sync_live(self: &Arc<Self>, job: &Job, memory: &mut Memory) -> Next {
        let pod = memory.newest(&job.pod);
        let observed = match self.observe(&pod).await {
            Ok(observed) => observed,
            Err(error) => return self.runtime_failed(&pod, &error),
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return self.terminate(job, &pod, observed, memory).await;
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase.is_some_and(is_terminal) {
            return self.stop_finished(job, &pod, &observed, memory).await;
        }
        if let Some(ended) =
            self.ended_from_outside(pod.metadata.uid.as_deref().unwrap_or_default())
        {
            memory.ended = Some(ended.refusal);
        } else if let Err(refusal) = self.admitted(&pod, &observed, memory) {
            memory.ended = Some(refusal);
        }
        let deadline = self.check_deadline(&pod, memory);
        if memory.ended.is_some() {
            return self.end(job, &pod, observed, memory).await;
        }
        self.run(job, pod, observed, memory, deadline).await
    }

    /// The pod as the runtime has it.
    pub(super) async fn observe(&self, pod: &Pod) -> Result<Observed, RuntimeError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut observed = Observed::new(self.runtime.pod_status(uid).await?);
        if !self.runtime.simulated() {
            self.read_termination_messages(pod, &mut observed).await;
        }
        Ok(observed)
    }

    pub(super) fn runtime_failed(&self, pod: &Pod, error: &RuntimeError) -> Next {
        tracing::warn!(
            pod = full_name(pod),
            error = super::handler::describe(error),
            "runtime failed"
        );
        Next::Wait(Some(RETRY))
    }

    // === pods that are to run ===

    /// Looks, decides and acts until there is nothing more to do now.
    async fn run(
        self: &Arc<Self>,
        job: &Job,
        mut pod: Arc<Pod>,
        mut observed: Observed,
        memory: &mut Memory,
        deadline: Option<Duration>,
    ) -> Next {
        let mut wake = deadline;
        let mut finished = false;
        self.allocate(&pod, memory).await;
        for _ in 0..ROUNDS_MAX {
            memory.probes.follow(self, &pod, &observed);
            let now = clock::now();
            let mut next = plan(&pod, &observed, &View { pod: &pod, memory }, now);
            self.hold_back(&pod, &mut next, memory, now);
            if next.is_idle() {
                wake = sooner(wake, next.backing_off.values().min().copied());
                break;
            }
            if next.create_sandbox.is_some() && !self.runtime.simulated() {
                // Slow things come now: let everybody see that the pod has been taken on.
                pod = self.report(&pod, &observed, memory, false).await;
            }
            self.act(job, &pod, &observed, &next, memory).await;
            observed = match self.observe(&pod).await {
                Ok(observed) => observed,
                Err(error) => return self.runtime_failed(&pod, &error),
            };
            if next.finished {
                finished = true;
                break;
            }
        }
        memory.probes.follow(self, &pod, &observed);
        self.finish_resize(&pod, &observed, memory).await;
        self.report(&pod, &observed, memory, finished).await;

        let now = clock::now();
        wake = sooner(wake, memory.next_hold(now));
        if memory.unwritten {
            wake = sooner(wake, Some(RETRY));
        }
        if !self.runtime.simulated() && observed.sandbox().is_some() {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            // After a restart of the agent: they are mounted, and may have to be refreshed.
            let recovered = memory.volumes.is_none() && self.csi.serves(uid);
            if volumes::have_contents(&pod) || recovered {
                wake = sooner(wake, self.refresh_volumes(&pod, &observed, memory).await);
            }
            wake = sooner(wake, self.refresh_csi(&pod, &mut memory.csi).await);
        }
        Next::Wait(wake)
    }

    /// Takes out of a plan what is not to be tried yet, and says why containers wait.
    fn hold_back(&self, pod: &Pod, plan: &mut Plan, memory: &mut Memory, now: Timestamp) {
        if memory.held("", now) {
            plan.create_sandbox = None;
        }
        plan.start.retain(|name| !memory.held(name, now));
        plan.update.retain(|(_, name)| !memory.held(&hold_key(name), now));
        for name in plan.backing_off.keys() {
            let pause = super::backoff::go_duration(
                memory.back_offs.get(name).copied().unwrap_or_default().pause(),
            );
            let pod_name = full_name(pod);
            let waiting = Waiting {
                reason: "CrashLoopBackOff".into(),
                message: Some(format!(
                    "back-off {pause} restarting failed container={name} pod={pod_name}"
                )),
            };
            if memory.waiting.get(name) != Some(&waiting) {
                let message =
                    format!("Back-off restarting failed container {name} in pod {pod_name}");
                self.event(&self.container_ref(pod, name), EventType::Warning, "BackOff", &message);
                memory.waiting.insert(name.clone(), waiting);
            }
        }
    }

    /// Does what a plan says, as far as it can be done.
    async fn act(
        self: &Arc<Self>,
        job: &Job,
        pod: &Arc<Pod>,
        observed: &Observed,
        plan: &Plan,
        memory: &mut Memory,
    ) {
        if plan.stop_all {
            if plan.create_sandbox.is_some() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                self.event(&self.pod_reference(pod), EventType::Normal, "SandboxChanged", message);
            }
            self.stop_pod(job, pod, observed).await;
        }
        for (id, why) in &plan.stop {
            let Some(container) = observed.all().find(|container| container.id == *id) else {
                continue;
            };
            self.event(
                &self.container_ref(pod, &container.config.name),
                EventType::Normal,
                "Killing",
                why,
            );
            let view = View { pod, memory };
            let failed = view.health(container).failed;
            self.stop_container(pod, container, observed, grace_after(pod, container, failed))
                .await;
        }
        if let Some(attempt) = plan.create_sandbox {
            self.create_sandbox(pod, observed, attempt, memory).await;
        }
        // What runs gets what is allocated, and not what is only asked for.
        let pod = &memory.allocated(pod);
        for (id, name) in &plan.update {
            let status = observed.all().find(|container| container.id == *id);
            if let (Some(container), Some(status)) = (find(pod, name), status) {
                self.update_limits(pod, &container, status, memory).await;
            }
        }
        for name in &plan.start {
            if let Some(container) = find(pod, name) {
                self.start_container(pod, &container, memory).await;
            }
        }
    }

    /// What a Pod's RuntimeClass calls the runtime's handler; empty without one.
    async fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        let named = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        let Some(name) = named.filter(|name| !name.is_empty()) else { return Ok(String::new()) };
        let api = Api::<RuntimeClass>::all(self.client.clone());
        match api.get_opt(name).await {
            Ok(Some(class)) => Ok(class.handler),
            Ok(None) => Err(format!("runtimeclass.node.k8s.io {name:?} not found")),
            Err(error) => Err(format!("failed to lookup RuntimeClass {name}: {error}")),
        }
    }

    async fn create_sandbox(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        observed: &Observed,
        attempt: u32,
        memory: &mut Memory,
    ) {
        let failed = |memory: &mut Memory| {
            memory.failures += 1;
            // Half a second, doubled up to half a minute.
            let pause = Duration::from_millis(500 << memory.failures.min(6));
            memory.hold("", pause, clock::now());
        };
        if let Err((volume, why)) = self.set_up_volumes(pod, &[], memory).await {
            let message = format!("MountVolume.SetUp failed for volume {volume:?} : {why}");
            self.event(&self.pod_reference(pod), EventType::Warning, "FailedMount", &message);
            return failed(memory);
        }
        let facts = NodeFacts {
            name: &self.config.name,
            log_root: &self.config.log_root,
            dns: &self.config.cluster_dns,
            node_dns: &self.config.node_dns,
        };
        let mut config = sandbox_config(pod, attempt, &facts);
        let handler = self.runtime_handler(pod).await.map(|name| config.runtime_handler = name);
        if let Some(why) = handler.err().or_else(|| wrong_hostname(&config.hostname)) {
            let message = format!("Failed to create pod sandbox: {why}");
            let about = self.pod_reference(pod);
            self.event(&about, EventType::Warning, "FailedCreatePodSandBox", &message);
            return failed(memory);
        }
        if !self.runtime.simulated() {
            // The runtime may want to put files there.
            let directory = config.log_directory.clone();
            let made =
                tokio::task::spawn_blocking(move || std::fs::create_dir_all(directory)).await;
            if let Ok(Err(error)) = made {
                tracing::warn!(pod = full_name(pod), %error, "no directory for logs");
            }
        }
        match self.runtime.run_pod_sandbox(config).await {
            Ok(_) => memory.failures = 0,
            Err(error) => {
                let message =
                    format!("Failed to create pod sandbox: {}", super::handler::describe(&error));
                self.event(
                    &self.pod_reference(pod),
                    EventType::Warning,
                    "FailedCreatePodSandBox",
                    &message,
                );
                failed(memory);
            }
        }
        // The one before is kept with its containers, which tell of the last run; older ones go.
        for old in observed.sandboxes.iter().skip(1) {
            self.runtime.remove_pod_sandbox(&old.id).await.ok();
        }
    }

    // === ends ===

    /// Whether this node takes the pod on. One that it already runs is not asked again.
    fn admitted(&self, pod: &Pod, observed: &Observed, memory: &mut Memory) -> Result<(), Refusal> {
        if memory.admitted || !observed.sandboxes.is_empty() {
            memory.admitted = true;
            return Ok(());
        }
        let Some(node) = self.nodes.get("", &self.config.name) else {
            // Before the node is known nothing can be said against it.
            return Ok(());
        };
        let mine = pod.metadata.uid.as_ref();
        let others = self.allocated.view(self.pods());
        // In the order of creation, so that of two that collide the older one stays.
        let born = |pod: &Pod| {
            (pod.metadata.creation_timestamp.clone().map(|t| t.0), pod.metadata.uid.clone())
        };
        let others: Vec<&Pod> = others
            .iter()
            .map(|other| &**other)
            .filter(|other| other.metadata.uid.as_ref() != mine)
            .filter(|other| {
                let status = other.status.as_ref();
                let over =
                    status.and_then(|status| status.phase.as_deref()).is_some_and(is_terminal);
                let taken_on = status.is_some_and(|status| status.start_time.is_some());
                !over && (taken_on || born(other) < born(pod))
            })
            .collect();
        let verdict = self
            .takes_on(pod)
            .and_then(|()| admit(pod, &others, &node))
            .and_then(|()| allow_sysctls(pod, &self.config.settings.allowed_unsafe_sysctls));
        match &verdict {
            Ok(()) => memory.admitted = true,
            Err((reason, message)) => {
                memory.rejected = true;
                self.event(&self.pod_reference(pod), EventType::Warning, reason, message);
            }
        }
        verdict
    }

    /// Ends a pod whose time is up; else says how long it has.
    fn check_deadline(&self, pod: &Pod, memory: &mut Memory) -> Option<Duration> {
        let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
        let started = pod.status.as_ref()?.start_time.as_ref()?.0;
        let deadline = started.saturating_add(SignedDuration::from_secs(seconds)).ok()?;
        let now = clock::now();
        if now < deadline {
            return Some(deadline.duration_since(now).unsigned_abs());
        }
        let message = "Pod was active on the node longer than the specified deadline";
        if memory.ended.is_none() {
            self.event(&self.pod_reference(pod), EventType::Normal, "DeadlineExceeded", message);
            memory.ended = Some(("DeadlineExceeded".into(), message.into()));
        }
        None
    }

    // === what pods refer to ===

    pub(super) fn facts<'a>(&'a self, pod: &'a Pod, pod_ips: &'a [IpAddr]) -> Facts<'a> {
        let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        Facts {
            pod,
            node_name: &self.config.name,
            host_ips: &self.config.node_ips,
            pod_ips: if host_network { &self.config.node_ips } else { pod_ips },
            allocatable: self.config.allocatable,
        }
    }

    /// Reads ConfigMaps and Secrets; those that do not exist are left out.
    pub(super) async fn fetch(
        &self,
        namespace: &str,
        config_maps: BTreeSet<&str>,
        secrets: BTreeSet<&str>,
    ) -> Result<Referenced, String> {
        let mut referenced = Referenced::default();
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        for name in config_maps {
            let found = api.get_opt(name).await.map_err(|error| error.to_string())?;
            referenced.config_maps.extend(found.map(|map| (name.to_string(), Arc::new(map))));
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        for name in secrets {
            let found = api.get_opt(name).await.map_err(|error| error.to_string())?;
            referenced.secrets.extend(found.map(|secret| (name.to_string(), Arc::new(secret))));
        }
        Ok(referenced)
    }

    /// Brings what volumes show up to date if it is time to; how long until the next time.
    async fn refresh_volumes(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        observed: &Observed,
        memory: &mut Memory,
    ) -> Option<Duration> {
        let age =
            memory.volumes.as_ref().map(|(_, at)| clock::now().duration_since(*at).unsigned_abs());
        let left = age.and_then(|age| REFRESH.checked_sub(age)).filter(|left| !left.is_zero());
        if left.is_some() && !self.references.differ_from(&memory.shown) {
            return left;
        }
        let ips = observed.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        if let Err((volume, why)) = self.set_up_volumes(pod, &ips, memory).await {
            let message = format!("MountVolume.SetUp failed for volume {volume:?} : {why}");
            self.event(&self.pod_reference(pod), EventType::Warning, "FailedMount", &message);
        }
        // What was read may be older than what is followed.
        let behind = self.references.differ_from(&memory.shown);
        Some(if behind { RETRY } else { REFRESH })
    }
}
