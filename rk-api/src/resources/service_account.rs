//! ServiceAccount.

use k8s_openapi::{
    api::core::v1::{ObjectReference, ServiceAccount},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{Column, Kind, Part, Resource, check::list, row::Row};
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

    fn prepare_create(account: &mut ServiceAccount) {
        name_secrets(account);
    }

    fn prepare_update(new: &mut ServiceAccount, _: &ServiceAccount, _: Part) {
        name_secrets(new);
    }

    fn cells(account: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&account.metadata)),
            json!(list(&account.secrets).len()),
            json!(age(&account.metadata, now)),
        ]
    }
}

/// Secrets are those of the account's namespace: only their names count.
fn name_secrets(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference { name: secret.name.take(), ..ObjectReference::default() };
    }
}
