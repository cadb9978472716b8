//! Stops containers: their hooks, their order, and the time they have.
//!
//! All hooks begin at once. App containers are stopped after their hooks; a sidecar only when all
//! that ran beside it has ended: the app containers, then the sidecars that were started after it
//! (KEP-753). When the time is over nobody waits for anybody.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use rk_api::client::EventType;
use tokio::{sync::watch, time::Instant};

use super::{
    handler::{self, Action, Place, Verdict, describe},
    observed::Observed,
    plan::is_sidecar,
    sync::find,
    worker::{Core, Job},
};
use crate::runtime::ContainerStatus;

/// A container gets at least this long to stop, whatever its hook took.
pub(super) const STOP_LEAST: Duration = Duration::from_secs(2);

/// How long a pod has to stop.
pub(super) fn grace(pod: &Pod) -> Duration {
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let seconds = pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

/// How long a container has to stop whose probe failed: the probe may say so itself.
pub(super) fn grace_after(
    pod: &Pod,
    container: &ContainerStatus,
    failed: Option<&'static str>,
) -> Duration {
    let definition = find(pod, &container.config.name);
    let probe = definition.as_deref().and_then(|definition| match failed? {
        "startup" => definition.startup_probe.as_ref(),
        _ => definition.liveness_probe.as_ref(),
    });
    match probe.and_then(|probe| probe.termination_grace_period_seconds) {
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)),
        None => grace(pod),
    }
}

/// When containers are stopped: the groups one after the other. `None` is with the first, but
/// nobody waits for it.
fn turn(pod: &Pod, name: &str) -> Option<usize> {
    let spec = pod.spec.as_ref()?;
    if spec.containers.iter().any(|container| container.name == name) {
        return Some(0);
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let at = init.iter().position(|container| container.name == name)?;
    // What comes first stops last.
    Some(if is_sidecar(&init[at]) { init.len() - at } else { 0 })
}

/// How many containers of each group have not ended.
#[derive(Debug)]
struct Turns(watch::Sender<Vec<usize>>);

impl Turns {
    fn new(turns: &[Option<usize>]) -> Self {
        let mut counts = vec![0; turns.iter().flatten().max().map_or(0, |last| last + 1)];
        turns.iter().flatten().for_each(|turn| counts[*turn] += 1);
        Self(watch::Sender::new(counts))
    }

    /// Waits until all earlier groups have ended.
    async fn wait(&self, turn: Option<usize>) {
        let turn = turn.unwrap_or(0);
        let come = |counts: &Vec<usize>| counts[..turn.min(counts.len())].iter().all(|n| *n == 0);
        // The sender is ours, so it cannot be gone.
        self.0.subscribe().wait_for(come).await.ok();
    }

    fn ended(&self, turn: Option<usize>) {
        if let Some(turn) = turn {
            self.0.send_modify(|counts| counts[turn] = counts[turn].saturating_sub(1));
        }
    }
}

/// When containers have to have ended. It can come nearer.
type Deadline = watch::Receiver<Instant>;

async fn passed(mut deadline: Deadline) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! { biased;
            Ok(()) = deadline.changed() => {}
            () = tokio::time::sleep_until(at) => return,
        }
    }
}

impl Core {
    /// Stops all containers of a pod, then its sandboxes.
    pub(super) async fn stop_pod(&self, job: &Job, pod: &Pod, observed: &Observed) {
        let running: Vec<&ContainerStatus> = observed.running().collect();
        for container in &running {
            let name = &container.config.name;
            let message = format!("Stopping container {name}");
            self.event(&self.container_ref(pod, name), EventType::Normal, "Killing", &message);
        }
        let order: Vec<_> = running.iter().map(|c| turn(pod, &c.config.name)).collect();
        let turns = Turns::new(&order);
        let begun = Instant::now();
        let deadline = watch::Sender::new(begun + self.current_grace(job));
        let stops = running.iter().zip(&order).map(|(container, turn)| {
            let (turns, deadline) = (&turns, deadline.subscribe());
            async move {
                let hooked = self.pre_stop(pod, container, observed, deadline.clone()).await;
                tokio::select! { biased;
                    () = turns.wait(*turn) => {}
                    () = passed(deadline.clone()) => {}
                }
                self.stop_by(container, deadline, begun, hooked).await;
                turns.ended(*turn);
            }
        });
        let hurry = async {
            loop {
                job.changed.notified().await;
                let nearer = begun + self.current_grace(job);
                deadline.send_if_modified(|at| {
                    let sooner = nearer < *at;
                    *at = nearer.min(*at);
                    sooner
                });
            }
        };
        tokio::select! { biased;
            _ = join_all(stops) => {}
            () = hurry => {}
        }
        for sandbox in observed.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            if let Err(error) = self.runtime.stop_pod_sandbox(&sandbox.id).await {
                let message = format!("error killing pod: {}", describe(&error));
                self.event(&self.pod_reference(pod), EventType::Warning, "FailedKillPod", &message);
            }
        }
    }

    fn current_grace(&self, job: &Job) -> Duration {
        let uid = job.pod.metadata.uid.as_deref().unwrap_or_default();
        let grace = grace(&self.newest_pod(uid).unwrap_or_else(|| Arc::clone(&job.pod)));
        match self.ended_from_outside(uid) {
            // The node may not have the time that the pod asks for.
            Some(ended) => grace.min(ended.grace.max(Duration::from_secs(1))),
            None => grace,
        }
    }

    /// Stops one container of a pod that goes on.
    pub(super) async fn stop_container(
        &self,
        pod: &Pod,
        container: &ContainerStatus,
        observed: &Observed,
        grace: Duration,
    ) {
        let begun = Instant::now();
        let deadline = watch::Sender::new(begun + grace);
        let hooked = self.pre_stop(pod, container, observed, deadline.subscribe()).await;
        self.stop_by(container, deadline.subscribe(), begun, hooked).await;
    }

    /// Runs a container's `preStop` hook, as long as there is time; whether it has one.
    async fn pre_stop(
        &self,
        pod: &Pod,
        status: &ContainerStatus,
        observed: &Observed,
        deadline: Deadline,
    ) -> bool {
        let Some(container) = find(pod, &status.config.name) else { return false };
        let lifecycle = container.lifecycle.as_ref();
        let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
            return false;
        };
        let pod_ip = observed.sandbox().and_then(|sandbox| sandbox.ips.first().copied());
        let place = Place { container: &container, container_id: &status.id, pod_ip };
        let left = deadline.borrow().saturating_duration_since(Instant::now());
        let action = Action::of_hook(hook);
        let run = handler::run(&*self.runtime, &action, &place, left);
        let verdict = tokio::select! { biased;
            verdict = run => verdict,
            () = passed(deadline) => return true,
        };
        if let Verdict::Failure(why) | Verdict::Unknown(why) = verdict {
            let about = self.container_ref(pod, &container.name);
            let message = format!("PreStopHook failed: {why}");
            self.event(&about, EventType::Warning, "FailedPreStopHook", &message);
        }
        true
    }

    /// Stops a container by a deadline; one that had to wait for something gets a little time even
    /// when that is over.
    async fn stop_by(
        &self,
        container: &ContainerStatus,
        mut deadline: Deadline,
        begun: Instant,
        hooked: bool,
    ) {
        loop {
            let now = Instant::now();
            let left = deadline.borrow_and_update().saturating_duration_since(now);
            let waited = hooked || now > begun;
            let left = if waited { left.max(STOP_LEAST) } else { left };
            tokio::select! { biased;
                stopped = self.runtime.stop_container(&container.id, left) => {
                    if let Err(error) = stopped {
                        tracing::warn!(container = container.id, error = describe(&error), "unable to stop");
                    }
                    return;
                }
                Ok(()) = deadline.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sidecars_stop_after_the_others_the_first_one_last() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "initContainers": [
                {"name": "logs", "restartPolicy": "Always"}, {"name": "once"},
                {"name": "proxy", "restartPolicy": "Always"}],
            "containers": [{"name": "app"}]}}))
        .unwrap();
        let order = ["app", "once", "proxy", "logs", "debugger"].map(|name| turn(&pod, name));
        assert_eq!(order, [Some(0), Some(0), Some(1), Some(3), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_comes_when_the_earlier_ones_have_ended() {
        let turns = Turns::new(&[Some(0), Some(0), Some(2), None]);
        turns.wait(Some(0)).await;
        turns.wait(None).await;
        let soon = Duration::from_millis(1);
        turns.ended(Some(0));
        assert!(tokio::time::timeout(soon, turns.wait(Some(2))).await.is_err());
        turns.ended(Some(0));
        turns.wait(Some(2)).await;
    }
}
