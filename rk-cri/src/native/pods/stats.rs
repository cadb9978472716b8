//! What containers and the machine use, by the kernel's accounts.

use std::path::Path;

use rk_api::clock;

use super::Inner;
use crate::{
    machine,
    runtime::{ContainerState, ContainerStats, NodeStats},
};

impl Inner {
    /// What the running containers have used. One whose cgroup cannot be read, since it just ended,
    /// is left out.
    pub(in crate::native) fn container_stats(&self) -> Vec<ContainerStats> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let (pods, containers) = (&state.pods, &mut state.containers);
        let stats = containers.values_mut().filter_map(|known| {
            let status = self.status(known);
            if status.state != ContainerState::Running {
                return None;
            }
            Some(ContainerStats {
                pod: pods.get(&status.sandbox_id)?.record.config.pod.clone(),
                name: status.config.name,
                started_at: status.started_at?,
                at: clock::now(),
                cpu_time: known.record.cgroup.cpu_time()?,
                memory_working_set_bytes: known.record.cgroup.working_set_bytes()?,
            })
        });
        stats.collect()
    }

    /// What the machine has used, as its root cgroup or else `/proc` says.
    pub(in crate::native) fn node_stats(&self) -> Option<NodeStats> {
        let all = self.hierarchies.at(Path::new("/"));
        let cpu_time = all.cpu_time().or_else(machine::cpu_time)?;
        let memory_working_set_bytes = all.working_set_bytes().or_else(machine::memory_bytes)?;
        Some(NodeStats { at: clock::now(), cpu_time, memory_working_set_bytes })
    }
}
