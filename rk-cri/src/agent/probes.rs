//! Liveness, readiness and startup probes: a task for each, as long as its container runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Probe};
use rk_api::{client::EventType, clock};
use tokio::sync::watch;

use super::{
    handler::{self, Action, Place, Verdict},
    observed::Observed,
    plan::Health,
    sync::find,
    worker::Core,
};
use crate::runtime::ContainerState;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// A probe's result so far, shared between its task, the pod's worker, and the probes that wait for
/// it: `None` until enough results agree.
#[derive(Clone, Debug)]
struct Outcome(watch::Sender<Option<bool>>);

impl Default for Outcome {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Outcome {
    fn get(&self) -> Option<bool> {
        *self.0.borrow()
    }

    /// Whether it changed.
    fn set(&self, to: bool) -> bool {
        self.0.send_replace(Some(to)) != Some(to)
    }

    /// Waits until it is a success.
    async fn succeeded(&self) {
        // The sender is ours, so it cannot be gone.
        self.0.subscribe().wait_for(|outcome| *outcome == Some(true)).await.ok();
    }
}

#[derive(Debug)]
struct Prober {
    container_id: String,
    outcome: Outcome,
    task: tokio::task::JoinHandle<Option<()>>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The probes of a pod.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    probers: BTreeMap<(String, Kind), Prober>,
}

impl Probes {
    /// Starts probes of containers that run, and ends those of containers that do not.
    pub(crate) fn follow(&mut self, core: &Arc<Core>, pod: &Arc<Pod>, observed: &Observed) {
        let Some(spec) = &pod.spec else { return };
        if self.probers.is_empty()
            && !spec.containers.iter().any(has_probes)
            && spec.init_containers.is_none()
        {
            return;
        }
        let running = |name: &str, id: &str| {
            observed.latest(name).is_some_and(|c| c.id == id && c.state == ContainerState::Running)
        };
        self.probers.retain(|(name, _), prober| running(name, &prober.container_id));
        let pod_ip = observed.sandbox().and_then(|sandbox| sandbox.ips.first().copied());
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let Some(latest) = observed.latest(&container.name) else { continue };
            if latest.state != ContainerState::Running || !has_probes(container) {
                continue;
            }
            let pod_ip = if spec.host_network == Some(true) {
                core.config.node_ips.first().copied()
            } else {
                pod_ip
            };
            let started = container.startup_probe.as_ref().map(|_| {
                let key = (container.name.clone(), Kind::Startup);
                self.probers.get(&key).map(|prober| prober.outcome.clone()).unwrap_or_default()
            });
            for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
                let Some(probe) = kind.of(container) else { continue };
                let key = (container.name.clone(), kind);
                if self.probers.contains_key(&key) {
                    continue;
                }
                let outcome = match (&started, kind) {
                    (Some(started), Kind::Startup) => started.clone(),
                    _ => Outcome::default(),
                };
                let gate = if kind == Kind::Startup { None } else { started.clone() };
                let subject = Subject {
                    core: core.clone(),
                    pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
                    container: container.name.clone(),
                    container_id: latest.id.clone(),
                    pod_ip,
                    started_at: latest.started_at.unwrap_or_else(clock::now),
                    kind,
                    pace: Pace::of(probe),
                    outcome: outcome.clone(),
                    gate,
                };
                let stopped = core.stopped.clone();
                // Not within another future: each would have room for the whole of it once more.
                let task = tokio::spawn(stopped.run_until_cancelled_owned(subject.run()));
                let container_id = latest.id.clone();
                self.probers.insert(key, Prober { container_id, outcome, task });
            }
        }
    }

    /// Ends all.
    pub(crate) fn clear(&mut self) {
        self.probers.clear();
    }

    /// What the probes say of a container. Nothing said yet is: alive, not started, not ready.
    pub(crate) fn health(&self, container: Option<&Container>, name: &str, id: &str) -> Health {
        let Some(container) = container.filter(|container| has_probes(container)) else {
            return Health::GOOD;
        };
        let outcome = |kind: Kind| {
            kind.of(container)?;
            let prober = self.probers.get(&(name.to_string(), kind));
            Some(
                prober
                    .filter(|prober| prober.container_id == id)
                    .and_then(|prober| prober.outcome.get()),
            )
        };
        let (startup, liveness) = (outcome(Kind::Startup), outcome(Kind::Liveness));
        let failed = match (startup, liveness) {
            (Some(Some(false)), _) => Some("startup"),
            (_, Some(Some(false))) => Some("liveness"),
            _ => None,
        };
        Health {
            ready: outcome(Kind::Readiness).is_none_or(|outcome| outcome == Some(true)),
            started: startup.is_none_or(|outcome| outcome == Some(true)),
            failed,
        }
    }
}

fn has_probes(container: &Container) -> bool {
    container.startup_probe.is_some()
        || container.liveness_probe.is_some()
        || container.readiness_probe.is_some()
}

/// Counts results until they change what is believed (`failureThreshold`, `successThreshold`).
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    last: Option<bool>,
    run: i32,
}

impl Tally {
    /// Notes a result; says what to believe once enough agree.
    fn note(
        &mut self,
        success: bool,
        success_threshold: i32,
        failure_threshold: i32,
    ) -> Option<bool> {
        if self.last == Some(success) {
            self.run += 1;
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let threshold = if success { success_threshold } else { failure_threshold };
        (self.run >= threshold).then_some(success)
    }
}

/// How often, how long and how many times.
#[derive(Clone, Copy, Debug)]
struct Pace {
    delay: Duration,
    period: Duration,
    timeout: Duration,
    success_threshold: i32,
    failure_threshold: i32,
}

impl Pace {
    fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: i32, least: i32| {
            Duration::from_secs(u64::try_from(value.unwrap_or(default).max(least)).unwrap_or(1))
        };
        Self {
            delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 10, 1),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }
}

/// What a probe's task keeps while it waits, which it does nearly always and for every container:
/// what it asks and of whom is read from the pod each time.
struct Subject {
    core: Arc<Core>,
    pod_uid: String,
    container: String,
    container_id: String,
    pod_ip: Option<std::net::IpAddr>,
    started_at: k8s_openapi::jiff::Timestamp,
    kind: Kind,
    pace: Pace,
    outcome: Outcome,
    /// The startup probe, for the others to wait for.
    gate: Option<Outcome>,
}

impl Subject {
    async fn run(self) {
        let age = clock::now().duration_since(self.started_at).unsigned_abs();
        tokio::time::sleep(self.pace.delay.saturating_sub(age)).await;
        if let Some(started) = &self.gate {
            Box::pin(started.succeeded()).await;
        }
        let mut ticks = tokio::time::interval(self.pace.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tally = Tally::default();
        loop {
            ticks.tick().await;
            // Boxed: a request under way is many times as large as the wait for the next.
            let Some(verdict) = Box::pin(self.ask()).await else { return };
            let success = match verdict {
                Verdict::Success => {
                    self.count("successful");
                    true
                }
                Verdict::Failure(why) => {
                    self.count("failed");
                    self.event(&format!("{} probe failed: {why}", self.kind.name()));
                    false
                }
                Verdict::Unknown(why) => {
                    self.count("unknown");
                    self.event(&format!(
                        "{} probe errored and resulted in unknown state: {why}",
                        self.kind.name()
                    ));
                    continue;
                }
            };
            let Pace { success_threshold, failure_threshold, .. } = self.pace;
            let Some(believed) = tally.note(success, success_threshold, failure_threshold) else {
                continue;
            };
            if self.outcome.set(believed) {
                self.core.poke(&self.pod_uid);
            }
            // Done for this container: it is started for good, or about to be killed.
            match (self.kind, believed) {
                (Kind::Startup, _) | (Kind::Liveness, false) => return,
                _ => {}
            }
        }
    }

    /// Notes a result for the metrics of probes.
    fn count(&self, result: &'static str) {
        let counted = (self.pod_uid.clone(), self.container.clone(), self.kind.name(), result);
        self.core.count_probe(counted);
    }

    /// Asks once; `None` when there is nobody left to ask.
    async fn ask(&self) -> Option<Verdict> {
        let pod = self.core.newest_pod(&self.pod_uid)?;
        let container = find(&pod, &self.container)?;
        let action = Action::of_probe(self.kind.of(&container)?);
        let place =
            Place { container: &container, container_id: &self.container_id, pod_ip: self.pod_ip };
        Some(handler::run(&*self.core.runtime, &action, &place, self.pace.timeout).await)
    }

    fn event(&self, message: &str) {
        let Some(pod) = self.core.newest_pod(&self.pod_uid) else { return };
        let about: ObjectReference = self.core.container_ref(&pod, &self.container);
        self.core.event(&about, EventType::Warning, "Unhealthy", message);
    }
}

/// Whose probe, of which kind, with which result.
type Counted = (String, String, &'static str, &'static str);

/// How often probes had which result.
#[derive(Debug, Default)]
pub(crate) struct ProbeCounts(BTreeMap<Counted, u64>);

/// One of these numbers.
#[derive(Clone, Debug)]
pub(crate) struct ProbeCount {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) container: String,
    pub(crate) kind: &'static str,
    pub(crate) result: &'static str,
    pub(crate) count: u64,
}

impl Core {
    /// Counts only where somebody is served the numbers.
    fn count_probe(&self, counted: Counted) {
        if self.config.settings.configuration.is_some() {
            *self.probe_counts.lock().0.entry(counted).or_default() += 1;
        }
    }

    pub(super) fn forget_probe_counts(&self, uid: &str) {
        self.probe_counts.lock().0.retain(|(pod, ..), _| pod != uid);
    }

    pub(super) fn probe_counts(&self) -> Vec<ProbeCount> {
        let counts: Vec<_> = {
            let counts = self.probe_counts.lock();
            counts.0.iter().map(|(key, count)| (key.clone(), *count)).collect()
        };
        let named = counts.into_iter().filter_map(|((uid, container, kind, result), count)| {
            let pod = self.newest_pod(&uid)?;
            let (namespace, pod) = (pod.metadata.namespace.clone()?, pod.metadata.name.clone()?);
            Some(ProbeCount { namespace, pod, uid, container, kind, result, count })
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_belief_changes_after_enough_results_in_a_row() {
        let mut tally = Tally::default();
        let results = [false, false, true, false, false, false, true, true];
        let beliefs: Vec<_> =
            results.into_iter().map(|success| tally.note(success, 2, 3)).collect();
        assert_eq!(beliefs, [None, None, None, None, None, Some(false), None, Some(true)]);
    }

    #[test]
    fn a_probe_that_waits_is_small() {
        fn size<F>(_: fn(Subject) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(Subject::run);
        assert!(bytes < 1536, "{bytes} bytes");
    }
}
