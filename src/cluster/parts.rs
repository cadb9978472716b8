//! The parts of a cluster that can be ended alone, and how they are.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
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
    pub(super) component: Component,
    /// Of the cluster.
    stop: CancellationToken,
    life: Arc<Mutex<Option<Life>>>,
}

/// From a start of a part to its end.
#[derive(Debug)]
struct Life {
    /// Ends it in order; it ends with the cluster too.
    stop: CancellationToken,
    task: AbortHandle,
}

impl Parts {
    pub(super) fn of(builder: &ClusterBuilder, stop: &CancellationToken) -> Self {
        let with_health = [Component::Scheduler, Component::Controllers];
        let chosen = with_health.into_iter().filter(|it| builder.components.contains(it));
        let part = |component| Part { component, stop: stop.clone(), life: Arc::default() };
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
        let part = self.get(component);
        let life = part.map(|part| part.life.lock());
        let running = life.as_ref().and_then(|life| life.as_ref()).filter(|life| life.is_well());
        running.inspect(|life| life.stop.cancel()).is_some()
    }
}

impl Life {
    fn is_well(&self) -> bool {
        !self.stop.is_cancelled() && !self.task.is_finished()
    }
}

impl Part {
    /// It begins a life: `start` gives it a task that ends when the token says so.
    pub(super) fn begin(&self, start: impl FnOnce(CancellationToken) -> AbortHandle) {
        let stop = self.stop.child_token();
        let task = start(stop.clone());
        *self.life.lock() = Some(Life { stop, task });
    }

    /// Ends its life where it stands, as a crash does. Whether it lived.
    pub(super) fn kill(&self) -> bool {
        let life = self.life.lock().take();
        life.is_some_and(|life| {
            let well = life.is_well();
            life.task.abort();
            life.stop.cancel();
            well
        })
    }

    /// As `kubectl get componentstatuses` has it.
    pub(super) fn name(&self) -> &'static str {
        match self.component {
            Component::Scheduler => "scheduler",
            _ => "controller-manager",
        }
    }

    fn is_well(&self) -> bool {
        self.life.lock().as_ref().is_some_and(Life::is_well)
    }
}

#[async_trait]
impl ComponentHealth for Part {
    async fn check(&self) -> Result<String, String> {
        if self.is_well() { Ok("ok".to_owned()) } else { Err("it does not run".to_owned()) }
    }
}
