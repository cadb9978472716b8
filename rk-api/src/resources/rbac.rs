//! Role, RoleBinding, ClusterRole and ClusterRoleBinding.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};

use super::{Kind, Resource, row::Row};

/// The rows of the kinds that say who may do what.
pub(super) fn rows() -> [Resource; 4] {
    [
        Row::of::<ClusterRoleBindings>().done(),
        Row::of::<ClusterRoles>().done(),
        Row::of::<RoleBindings>().done(),
        Row::of::<Roles>().done(),
    ]
}

/// How a Role behaves.
#[derive(Debug, Default)]
pub(super) struct Roles;

impl Kind for Roles {
    type Object = Role;
}

/// How a RoleBinding behaves.
#[derive(Debug, Default)]
pub(super) struct RoleBindings;

impl Kind for RoleBindings {
    type Object = RoleBinding;
}

/// How a ClusterRole behaves.
#[derive(Debug, Default)]
pub(super) struct ClusterRoles;

impl Kind for ClusterRoles {
    type Object = ClusterRole;
}

/// How a ClusterRoleBinding behaves.
#[derive(Debug, Default)]
pub(super) struct ClusterRoleBindings;

impl Kind for ClusterRoleBindings {
    type Object = ClusterRoleBinding;
}
