//! ServiceAccount.

use k8s_openapi::{api::core::v1::ServiceAccount, jiff::Timestamp};
use serde_json::{Value, json};

use super::{Column, Kind, Resource, check::list, row::Row};
use crate::meta::table::{age, name};

/// The row of ServiceAccount.
pub(super) fn row() -> Resource {
    Row::of::<ServiceAccounts>()
        .short(&["sa"])
        .sub_in("token", ("authentication.k8s.io", "v1", "TokenRequest"), &["create"])
        .columns(COLUMNS)
        .done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Secrets", "string", "How many Secrets its Pods may use."),
    Column::AGE,
];

/// How a ServiceAccount behaves.
#[derive(Debug, Default)]
pub(super) struct ServiceAccounts;

impl Kind for ServiceAccounts {
    type Object = ServiceAccount;

    fn cells(account: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&account.metadata)),
            json!(list(&account.secrets).len()),
            json!(age(&account.metadata, now)),
        ]
    }
}
