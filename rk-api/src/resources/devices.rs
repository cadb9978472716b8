//! What is asked for and offered of devices: `resource.k8s.io`.

mod allocation;
mod claim;
mod class;
mod device;
mod forms;
mod slice;
mod taint_rule;

use super::{Column, Resource};

/// The rows of `resource.k8s.io`.
pub(super) fn rows() -> [Resource; 5] {
    let [claims, templates] = claim::rows();
    [class::row(), taint_rule::row(), claims, templates, slice::row()]
}
