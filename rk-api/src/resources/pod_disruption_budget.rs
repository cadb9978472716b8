//! PodDisruptionBudget.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::{Kind, Resource, row::Row};

/// The row of PodDisruptionBudget.
pub(super) fn row() -> Resource {
    Row::of::<PodDisruptionBudgets>().short(&["pdb"]).status().done()
}

/// How a PodDisruptionBudget behaves.
#[derive(Debug, Default)]
pub(super) struct PodDisruptionBudgets;

impl Kind for PodDisruptionBudgets {
    type Object = PodDisruptionBudget;
}
