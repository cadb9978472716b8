//! ServiceAccount.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{Kind, Resource, row::Row};

/// The row of ServiceAccount.
pub(super) fn row() -> Resource {
    Row::of::<ServiceAccounts>()
        .short(&["sa"])
        .sub_in("token", ("authentication.k8s.io", "v1", "TokenRequest"), &["create"])
        .done()
}

/// How a ServiceAccount behaves.
#[derive(Debug, Default)]
pub(super) struct ServiceAccounts;

impl Kind for ServiceAccounts {
    type Object = ServiceAccount;
}
