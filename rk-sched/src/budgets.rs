//! What preemption knows of disruption budgets.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use parking_lot::RwLock;
use rk_api::client::Informer;

/// Where preemption looks up PodDisruptionBudgets. Clones see the same.
///
/// It is empty until the scheduler that the plugin belongs to runs. Without it no budget is known,
/// and any Pod of lower priority may go.
#[derive(Clone, Debug, Default)]
pub struct Budgets(Arc<RwLock<Option<Arc<dyn BudgetView>>>>);

/// The budgets of a cluster at some moment.
pub trait BudgetView: Debug + Send + Sync {
    /// The budgets of a namespace.
    fn budgets(&self, namespace: &str) -> Vec<Arc<PodDisruptionBudget>>;
}

impl Budgets {
    /// Looks them up there from now on.
    pub fn connect(&self, view: Arc<dyn BudgetView>) {
        *self.0.write() = Some(view);
    }

    /// Where to look them up, if that is known.
    pub fn view(&self) -> Option<Arc<dyn BudgetView>> {
        self.0.read().clone()
    }
}

impl BudgetView for Informer<PodDisruptionBudget> {
    fn budgets(&self, namespace: &str) -> Vec<Arc<PodDisruptionBudget>> {
        self.list_in(namespace)
    }
}
