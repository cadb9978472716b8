//! CPU and memory that simulated containers use: what their pod's annotations say.

use std::{collections::BTreeMap, time::Duration};

use rk_api::{clock, meta::quantity::Quantity};
use tokio::time::Instant;

use super::{Container, Life, Node, Sandbox, SimContainer};
use crate::runtime::{ContainerStats, NodeStats};

/// What a container uses that does not say: little, but not nothing, as a real one.
const CPU_MILLIS: i64 = 1;
const MEMORY_BYTES: i64 = 8 * 1024 * 1024;

/// What a node uses beside its containers.
const NODE_CPU_MILLIS: i64 = 20;
const NODE_MEMORY_BYTES: u64 = 128 * 1024 * 1024;

/// CPU time that is used at a rate which may change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    cpu_time: Duration,
    /// Up to when it is counted.
    until: Instant,
}

impl Usage {
    /// Nothing yet.
    pub(super) fn begin() -> Self {
        Self { cpu_time: Duration::ZERO, until: Instant::now() }
    }

    /// The CPU time used until `now`, if it was at this rate since it was counted last.
    fn at(&self, now: Instant, millis: i64) -> Duration {
        let rate = f64::from(i32::try_from(millis.max(0)).unwrap_or(i32::MAX)) / 1000.0;
        self.cpu_time + now.saturating_duration_since(self.until).mul_f64(rate)
    }

    fn count(&mut self, now: Instant, millis: i64) {
        *self = Self { cpu_time: self.at(now, millis), until: now };
    }
}

impl SimContainer<'_> {
    fn cpu_millis(&self) -> i64 {
        self.amount("cpu").map_or(CPU_MILLIS, |amount| amount.millis())
    }

    fn memory_bytes(&self) -> u64 {
        let bytes = self.amount("memory").map_or(MEMORY_BYTES, |amount| amount.value());
        u64::try_from(bytes).unwrap_or(0)
    }

    fn amount(&self, name: &str) -> Option<Quantity> {
        Quantity::parse(self.annotation(name)?.trim()).ok()
    }
}

impl Node {
    /// A pod's annotations are these from now on.
    pub(super) fn annotate(&self, uid: &str, annotations: &BTreeMap<String, String>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let of_pod = |sandbox: &Sandbox| sandbox.config.pod.uid == uid;
        for (number, sandbox) in state.sandboxes.iter_mut().filter(|(_, s)| of_pod(s)) {
            for container in state.containers.values_mut().filter(|c| c.sandbox == *number) {
                let subject = SimContainer { sandbox: &sandbox.config, config: &container.config };
                let millis = subject.cpu_millis();
                if let Life::Running(run) = &mut container.life {
                    run.used.count(Instant::now(), millis);
                }
            }
            sandbox.config.annotations.clone_from(annotations);
        }
    }

    /// What the running containers have used.
    pub(super) fn container_stats(&self) -> Vec<ContainerStats> {
        let state = self.state.lock();
        // One time for all, right beside the one that is shown: a rate is read from both.
        let (now, at) = (Instant::now(), clock::now());
        let stats = |container: &Container| {
            let Life::Running(run) = &container.life else { return None };
            let sandbox = &state.sandboxes.get(&container.sandbox)?.config;
            let subject = SimContainer { sandbox, config: &container.config };
            Some(ContainerStats {
                pod: sandbox.pod.clone(),
                name: container.config.name.clone(),
                started_at: run.started_at,
                at,
                cpu_time: run.used.at(now, subject.cpu_millis()),
                memory_working_set_bytes: subject.memory_bytes(),
            })
        };
        state.containers.values().filter_map(stats).collect()
    }

    /// What the node has used: what its containers use now, for all the time since it was asked
    /// last, and some more.
    pub(super) fn node_stats(&self) -> NodeStats {
        let mut state = self.state.lock();
        let state = &mut *state;
        let (mut millis, mut memory) = (NODE_CPU_MILLIS, NODE_MEMORY_BYTES);
        for container in state.containers.values() {
            let running = matches!(container.life, Life::Running(_));
            if let Some(sandbox) = state.sandboxes.get(&container.sandbox).filter(|_| running) {
                let subject = SimContainer { sandbox: &sandbox.config, config: &container.config };
                millis = millis.saturating_add(subject.cpu_millis());
                memory = memory.saturating_add(subject.memory_bytes());
            }
        }
        let (now, at) = (Instant::now(), clock::now());
        state.used.count(now, millis);
        NodeStats { at, cpu_time: state.used.cpu_time, memory_working_set_bytes: memory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        runtime::{ContainerConfig, PodRef, Runtime, SandboxConfig},
        sim::SimRuntime,
    };

    fn annotations(cpu: &str) -> BTreeMap<String, String> {
        [("sim.rk.dev/cpu", cpu), ("sim.rk.dev/memory.side", "32Mi")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[tokio::test(start_paused = true)]
    async fn cpu_time_grows_at_the_rate_that_the_annotations_say_now() {
        let runtime = SimRuntime::new();
        let pod = PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        let sandbox =
            SandboxConfig { pod, annotations: annotations("500m"), ..SandboxConfig::default() };
        let sandbox = runtime.run_pod_sandbox(sandbox).await.unwrap();
        runtime.pull_image("nginx".into()).await.unwrap();
        for name in ["web", "side"] {
            let image = "nginx".to_owned();
            let config = ContainerConfig { name: name.into(), image, ..ContainerConfig::default() };
            let id = runtime.create_container(&sandbox, config).await.unwrap();
            runtime.start_container(&id).await.unwrap();
        }
        let used = async || {
            let stats = runtime.list_container_stats().await.unwrap();
            let node = runtime.node_stats().await.unwrap().unwrap();
            (stats, node)
        };

        tokio::time::sleep(Duration::from_secs(10)).await;
        let (stats, node) = used().await;
        assert_eq!(stats[0].cpu_time, Duration::from_secs(5));
        assert_eq!(
            stats.iter().map(|stats| stats.memory_working_set_bytes >> 20).collect::<Vec<_>>(),
            [8, 32]
        );
        assert_eq!(node.memory_working_set_bytes >> 20, 128 + 8 + 32);
        assert!(node.cpu_time >= Duration::from_secs(10), "both containers, and the node itself");

        runtime.pod_annotated("u", &annotations("2"));
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (stats, later) = used().await;
        assert_eq!(stats[0].cpu_time, Duration::from_secs(25));
        assert!(later.cpu_time > node.cpu_time);
    }
}
