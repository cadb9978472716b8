//! The parts of a cluster that can be ended alone, and how they are.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use rk_api::server::ComponentHealth;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::{ClusterBuilder, Component};

/// Those that a cluster runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts(Vec<Part>);

/// The scheduler or the controllers.
#[derive(Clone, Debug)]
pub(super) struct Part {
    component: Component,
    /// Ends it; it ends with the cluster too.
    pub(super) stop: CancellationToken,
    task: Arc<OnceLock<AbortHandle>>,
}

impl Parts {
    pub(super) fn of(builder: &ClusterBuilder, stop: &CancellationToken) -> Self {
        let with_health = [Component::Scheduler, Component::Controllers];
        let chosen = with_health.into_iter().filter(|it| builder.components.contains(it));
        let part = |component| Part { component, stop: stop.child_token(), task: Arc::default() };
        Self(chosen.map(part).collect())
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Part> {
        self.0.iter()
    }

    /// The part of a component; `None` when the cluster does not run it.
    pub(super) fn get(&self, component: Component) -> Option<&Part> {
        self.0.iter().find(|part| part.component == component)
    }

    /// Ends a component. Whether it ran.
    pub(super) fn stop(&self, component: Component) -> bool {
        let running = self.get(component).filter(|part| part.is_well());
        running.inspect(|part| part.stop.cancel()).is_some()
    }
}

impl Part {
    /// Its task is this one.
    pub(super) fn runs(&self, task: AbortHandle) {
        // It is started once.
        let _ = self.task.set(task);
    }

    /// As `kubectl get componentstatuses` has it.
    pub(super) fn name(&self) -> &'static str {
        match self.component {
            Component::Scheduler => "scheduler",
            _ => "controller-manager",
        }
    }

    fn is_well(&self) -> bool {
        !self.stop.is_cancelled() && self.task.get().is_some_and(|task| !task.is_finished())
    }
}

#[async_trait]
impl ComponentHealth for Part {
    async fn check(&self) -> Result<String, String> {
        if self.is_well() { Ok("ok".to_owned()) } else { Err("it does not run".to_owned()) }
    }
}
