//! The simulated nodes of a cluster: one fleet, or, with faults, an agent each.

use std::sync::Arc;

use parking_lot::Mutex;
use rk_cri::{agent::FleetHandle, sim::SimRuntime, timers::Timers};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{ClusterError, launch::Launcher, node, start::part};

/// The simulated nodes, which can be ended one by one.
#[derive(Debug, Default)]
pub(super) struct SimNodes {
    nodes: Vec<Arc<SimNode>>,
    fleet: Option<FleetHandle>,
}

#[derive(Debug)]
struct SimNode {
    index: usize,
    name: String,
    machine: Mutex<Machine>,
}

#[derive(Debug)]
struct Machine {
    /// What its containers are in.
    runtime: SimRuntime,
    agent: Life,
}

/// Whether a node's agent lives, and where.
#[derive(Debug)]
enum Life {
    Ended,
    Apart(AbortHandle),
    InFleet,
}

impl SimNodes {
    /// Starts all nodes of a cluster.
    pub(super) fn start(
        launcher: &Launcher,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Result<Self, ClusterError> {
        let mut nodes = Vec::new();
        let mut add = |index, runtime, agent| {
            let machine = Mutex::new(Machine { runtime, agent });
            nodes.push(Arc::new(SimNode { index, name: node::node_name(index), machine }));
        };
        if launcher.builder.nodes == 0 {
            return Ok(Self::default());
        }
        if launcher.builder.faults.is_some() {
            for index in 0..launcher.builder.nodes {
                let runtime = node::sim_runtime(&launcher.builder, index, &Timers::new())?;
                let agent = launcher.agent(index, runtime.clone())?;
                let task = tasks.spawn(agent.run(stop.clone()));
                add(index, runtime, Life::Apart(task));
            }
            return Ok(Self { nodes, fleet: None });
        }
        let mut fleet = launcher.fleet();
        for index in 0..launcher.builder.nodes {
            let runtime = node::sim_runtime(&launcher.builder, index, fleet.timers())?;
            let agent = launcher.agent_of(index, runtime.clone());
            fleet.add(agent).map_err(part("a simulated node"))?;
            add(index, runtime, Life::InFleet);
        }
        for (name, api) in fleet.kubelet_apis() {
            launcher.kubelets.add(name, api);
        }
        let handle = fleet.handle();
        tasks.spawn(fleet.run(stop.clone()));
        Ok(Self { nodes, fleet: Some(handle) })
    }

    fn get(&self, name: &str) -> Option<&SimNode> {
        self.nodes.iter().map(Arc::as_ref).find(|node| node.name == name)
    }

    /// Ends a node's agent. Whether it lived.
    pub(super) fn kill(&self, launcher: &Launcher, name: &str) -> bool {
        let Some(node) = self.get(name) else { return false };
        launcher.kubelets.remove(name);
        if let Some(faults) = &launcher.builder.faults {
            faults.disconnect(name);
        }
        let agent = std::mem::replace(&mut node.machine.lock().agent, Life::Ended);
        match (agent, &self.fleet) {
            (Life::Apart(task), _) => task.abort(),
            (Life::InFleet, Some(fleet)) => fleet.kill(name),
            (Life::Ended | Life::InFleet, _) => return false,
        }
        true
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
            let timers =
                self.fleet.as_ref().map_or_else(Timers::new, |fleet| fleet.timers().clone());
            machine.runtime = node::sim_runtime(&launcher.builder, node.index, &timers)?;
        }
        let runtime = machine.runtime.clone();
        machine.agent = match &self.fleet {
            Some(fleet) => {
                let agent = launcher.agent_of(node.index, runtime);
                let kubelet = fleet.start(agent).map_err(part("a simulated node"))?;
                launcher.kubelets.add(name, kubelet);
                Life::InFleet
            }
            None => {
                let agent = launcher.agent(node.index, runtime)?;
                Life::Apart(tasks.spawn(agent.run(stop.clone())))
            }
        };
        Ok(true)
    }
}
