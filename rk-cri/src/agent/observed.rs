//! A pod as the runtime has it, in the order in which decisions look at it.

use std::collections::BTreeMap;

use crate::runtime::{ContainerState, ContainerStatus, PodRuntimeStatus, SandboxStatus};

/// A pod's sandboxes and containers, the newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<SandboxStatus>,
    containers: BTreeMap<String, Vec<ContainerStatus>>,
}

impl Observed {
    pub(crate) fn new(status: PodRuntimeStatus) -> Self {
        let mut sandboxes = status.sandboxes;
        sandboxes.sort_by(|a, b| {
            (b.config.attempt, b.created_at).cmp(&(a.config.attempt, a.created_at))
        });
        let mut containers: BTreeMap<String, Vec<ContainerStatus>> = BTreeMap::new();
        for container in status.containers {
            containers.entry(container.config.name.clone()).or_default().push(container);
        }
        for attempts in containers.values_mut() {
            attempts.sort_by(|a, b| {
                (b.config.attempt, b.created_at).cmp(&(a.config.attempt, a.created_at))
            });
        }
        Self { sandboxes, containers }
    }

    /// The sandbox that containers can run in: the newest, if it is ready.
    pub(crate) fn sandbox(&self) -> Option<&SandboxStatus> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// All containers of a name, the newest first.
    pub(crate) fn attempts(&self, name: &str) -> &[ContainerStatus] {
        self.containers.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The newest container of a name, in whatever sandbox.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.attempts(name).first()
    }

    /// The newest container of a name in the sandbox that is in use.
    pub(crate) fn current(&self, name: &str) -> Option<&ContainerStatus> {
        let sandbox = self.sandbox()?;
        self.latest(name).filter(|container| container.sandbox_id == sandbox.id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.values().flatten()
    }

    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut ContainerStatus> {
        self.containers.values_mut().flatten()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.all().filter(|container| container.state == ContainerState::Running)
    }
}
