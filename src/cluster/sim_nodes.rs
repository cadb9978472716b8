//! The simulated nodes of a cluster: one fleet, or, with faults, an agent each.

use std::sync::Arc;

use parking_lot::Mutex;
use rk_cri::{sim::SimRuntime, timers::Timers};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{ClusterError, launch::Launcher, node};

/// The nodes that can be ended one by one; none where they are a fleet.
#[derive(Debug, Default)]
pub(super) struct SimNodes(Vec<Arc<SimNode>>);

#[derive(Debug)]
struct SimNode {
    index: usize,
    name: String,
    /// What its containers are in, and its agent as long as it lives.
    machine: Mutex<(SimRuntime, Option<AbortHandle>)>,
}

impl SimNodes {
    /// Starts all nodes of a cluster.
    pub(super) fn start(
        launcher: &Launcher,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Result<Self, ClusterError> {
        if launcher.builder.nodes == 0 {
            return Ok(Self::default());
        }
        if launcher.builder.faults.is_none() {
            tasks.spawn(launcher.fleet()?.run(stop.clone()));
            return Ok(Self::default());
        }
        let mut nodes = Vec::new();
        for index in 0..launcher.builder.nodes {
            let runtime = node::sim_runtime(&launcher.builder, index, &Timers::new())?;
            let agent = launcher.agent(index, runtime.clone())?;
            let task = tasks.spawn(agent.run(stop.clone()));
            let machine = Mutex::new((runtime, Some(task)));
            nodes.push(Arc::new(SimNode { index, name: node::node_name(index), machine }));
        }
        Ok(Self(nodes))
    }

    fn get(&self, name: &str) -> Option<&SimNode> {
        self.0.iter().map(Arc::as_ref).find(|node| node.name == name)
    }

    /// Ends a node's agent. Whether it lived.
    pub(super) fn kill(&self, launcher: &Launcher, name: &str) -> bool {
        let Some(node) = self.get(name) else { return false };
        launcher.kubelets.remove(name);
        if let Some(faults) = &launcher.builder.faults {
            faults.disconnect(name);
        }
        let agent = node.machine.lock().1.take();
        agent.inspect(AbortHandle::abort).is_some()
    }

    /// Starts a node's agent anew. Whether there is such a node.
    pub(super) fn restart(
        &self,
        launcher: &Launcher,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
        name: &str,
        wiped: bool,
    ) -> Result<bool, ClusterError> {
        let Some(node) = self.get(name) else { return Ok(false) };
        self.kill(launcher, name);
        let mut machine = node.machine.lock();
        if wiped {
            machine.0 = node::sim_runtime(&launcher.builder, node.index, &Timers::new())?;
        }
        let agent = launcher.agent(node.index, machine.0.clone())?;
        machine.1 = Some(tasks.spawn(agent.run(stop.clone())));
        Ok(true)
    }
}
