//! The ServiceAccount `default`, which every Pod that names none runs as.
//!
//! # What it promises
//! Every namespace that is not being deleted has it; deleted, it comes back.

use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use rk_api::client::{Change, Informer};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    namespace::is_active,
};

const NAME: &str = "default";

struct DefaultAccounts {
    client: Client,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

#[async_trait]
impl Reconciler for DefaultAccounts {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let namespace = &key.name;
        let active =
            self.namespaces.get("", namespace).is_some_and(|namespace| is_active(&namespace));
        if !active || self.accounts.get(namespace, NAME).is_some() {
            return Ok(Action::Wait);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(namespace.clone()),
                ..Default::default()
            },
            ..Default::default()
        };
        match Api::namespaced(self.client.clone(), namespace)
            .create(&PostParams::default(), &account)
            .await
        {
            Err(there) if error::is_already_exists(&there) => {}
            Err(going)
                if error::is_namespace_terminating(&going) || error::is_not_found(&going) => {}
            result => drop(result?),
        }
        Ok(Action::Wait)
    }
}

/// The controller, wired up. Its keys are namespaces.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let namespaces = context.informers.of::<Namespace>();
    let accounts = context.informers.of::<ServiceAccount>();
    let reconciler = DefaultAccounts {
        client: context.client.clone(),
        namespaces: namespaces.clone(),
        accounts: accounts.clone(),
    };
    Controller::new(name, reconciler).reconciles(&namespaces).watches(&accounts, |change| {
        match change {
            Change::Deleted(account) if account.name_any() == NAME => {
                vec![ObjectKey::cluster(account.namespace().unwrap_or_default())]
            }
            _ => Vec::new(),
        }
    })
}
