//! The certificate authority of the API server, as ConfigMap `kube-root-ca.crt` in every namespace,
//! for Pods that talk to the API.
//!
//! # What it promises
//! Every namespace that is not being deleted has it with the right content; edited or deleted, it
//! is put right.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use rk_api::client::{Informer, Informers};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    namespace::is_active,
    write::{self, Part},
};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

struct Publisher {
    client: Client,
    root_ca: String,
    namespaces: Informer<Namespace>,
    published: Informer<ConfigMap>,
}

#[async_trait]
impl Reconciler for Publisher {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let namespace = &key.name;
        if !self.namespaces.get("", namespace).is_some_and(|namespace| is_active(&namespace)) {
            return Ok(Action::Wait);
        }
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let current = self.published.get(namespace, NAME);
        let mut wanted = current.as_deref().cloned().unwrap_or_else(|| ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(namespace.clone()),
                ..Default::default()
            },
            ..Default::default()
        });
        let (key, text) = DESCRIPTION;
        wanted.metadata.annotations.get_or_insert_default().insert(key.into(), text.into());
        wanted.data = Some(BTreeMap::from([("ca.crt".into(), self.root_ca.clone())]));
        let result = match current {
            Some(current) => write::update(&api, &current, &wanted, Part::Main).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match result {
            Err(there) if error::is_already_exists(&there) => {}
            Err(going)
                if error::is_namespace_terminating(&going) || error::is_not_found(&going) => {}
            result => drop(result?),
        }
        Ok(Action::Wait)
    }
}

/// The controller, wired up, if there is a certificate authority to publish. Its keys are
/// namespaces.
pub(crate) fn controller(name: &'static str, context: &Context) -> Option<Controller> {
    let root_ca = context.settings.root_ca.clone()?;
    let namespaces = context.informers.of::<Namespace>();
    let published = published(&context.informers);
    let reconciler = Publisher {
        client: context.client.clone(),
        root_ca,
        namespaces: namespaces.clone(),
        published: published.clone(),
    };
    let controller =
        Controller::new(name, reconciler).reconciles(&namespaces).watches(&published, |change| {
            vec![ObjectKey::cluster(change.object().namespace().unwrap_or_default())]
        });
    Some(controller)
}

/// Only the ConfigMaps of this name: caching all of them would cost memory for nothing.
fn published(informers: &Informers) -> Informer<ConfigMap> {
    informers.selected(None, Some(&format!("metadata.name={NAME}")))
}
