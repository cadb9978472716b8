//! Namespaces on their way out.
//!
//! # What it promises
//! - A namespace that was deleted loses everything in it: Pods first, and only when they have
//!   ended the rest, so that no Pod runs on after its ServiceAccount, Secrets or NetworkPolicies
//!   are gone. What is there is asked of the API server, so custom resources go too.
//! - Conditions tell what holds it up: failed discovery, failed deletions, what remains, and which
//!   finalizers that waits for.
//! - Only when nothing is left is the finalizer `kubernetes` taken away, and with it the namespace.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, PostParams, PropagationPolicy},
};
use rk_api::{
    client::{Change, Informer},
    clock,
};

use crate::{
    controller::{Action, Controller, Reconciler},
    discovery::{Served, ServedKind},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

mod conditions;

use conditions::{Findings, Remaining};

/// The finalizer that keeps a namespace until this controller is done with it.
const FINALIZER: &str = "kubernetes";
/// Page size of lists: how much of a namespace is in memory at a time.
const PAGE: u32 = 500;
/// How soon to look again where objects have finalizers, which end without our being told.
const FINALIZERS_CHECK: Duration = Duration::from_secs(5);

/// Whether a namespace takes new objects.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

struct Namespaces {
    client: Client,
    namespaces: Informer<Namespace>,
}

#[async_trait]
impl Reconciler for Namespaces {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(namespace) = self.namespaces.get("", &key.name) else { return Ok(Action::Wait) };
        if namespace.metadata.deletion_timestamp.is_none() || !has_finalizer(&namespace) {
            return Ok(Action::Wait);
        }
        let findings = self.delete_content(&key.name).await?;
        let namespace = self.report(namespace, &findings).await?;
        if findings.is_empty() {
            self.finalize(&namespace).await?;
            return Ok(Action::Wait);
        }
        if !findings.failures.is_empty() || !findings.undiscovered.is_empty() {
            return Err(Error::NotYet(format!("namespace {} still has content", key.name)));
        }
        Ok(Action::RequeueAfter(look_again(&findings)))
    }
}

/// Pods are seen to go, so their grace period is only waited for in case an event is lost.
fn look_again(findings: &Findings) -> Duration {
    match findings.grace_seconds {
        0 => FINALIZERS_CHECK,
        seconds => Duration::from_secs(seconds / 2 + 1),
    }
}

impl Namespaces {
    /// Deletes what there is, and says what is left.
    async fn delete_content(&self, namespace: &str) -> Result<Findings, Error> {
        let served = Served::read(&self.client).await?;
        let mut findings =
            Findings { undiscovered: served.unreadable.clone(), ..Default::default() };
        let deletable = |kind: &&ServedKind| kind.namespaced && kind.can(&["list", "delete"]);
        let kinds: Vec<&ServedKind> = served.preferred().iter().filter(deletable).collect();

        let (pods, others): (Vec<&ServedKind>, Vec<&ServedKind>) =
            kinds.into_iter().partition(|kind| kind.group.is_empty() && kind.plural == "pods");
        for kind in pods {
            self.delete_kind(namespace, kind, &mut findings).await;
        }
        if findings.remaining.is_empty() && findings.failures.is_empty() {
            for kind in others {
                self.delete_kind(namespace, kind, &mut findings).await;
            }
        }
        Ok(findings)
    }

    async fn delete_kind(&self, namespace: &str, kind: &ServedKind, findings: &mut Findings) {
        let api = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            namespace,
            &kind.api_resource(),
        );
        match delete_all(&api, kind).await {
            Ok(None) => {}
            Ok(Some(remaining)) => {
                if kind.plural == "pods" && kind.group.is_empty() {
                    findings.grace_seconds = findings.grace_seconds.max(remaining.grace_seconds);
                }
                findings.remaining.push(remaining);
            }
            // Its kind was served a moment ago; a CRD that went takes its objects along.
            Err(gone) if error::is_not_found(&gone) || error::code(&gone) == 405 => {}
            Err(failure) => findings.failures.push(error::message(&failure)),
        }
    }

    async fn report(
        &self,
        namespace: Arc<Namespace>,
        findings: &Findings,
    ) -> Result<Namespace, Error> {
        let mut reported = (*namespace).clone();
        let status = reported.status.get_or_insert_default();
        status.phase = Some("Terminating".into());
        conditions::set(status, findings, clock::now());
        let api = Api::all(self.client.clone());
        Ok(write::update(&api, &*namespace, &reported, Part::Status).await?)
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let mut finalized = namespace.clone();
        if let Some(finalizers) = finalized.spec.as_mut().and_then(|spec| spec.finalizers.as_mut())
        {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let api = Api::<Namespace>::all(self.client.clone());
        match api
            .replace_subresource(
                "finalize",
                &namespace.name_any(),
                &PostParams::default(),
                &finalized,
            )
            .await
        {
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            result => result.map(drop).map_err(Into::into),
        }
    }
}

/// Deletes all objects of a kind; what is left of them then.
async fn delete_all(
    api: &Api<DynamicObject>,
    kind: &ServedKind,
) -> Result<Option<Remaining>, kube::Error> {
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..Default::default()
    };
    if kind.can(&["deletecollection"]) {
        let deleted = api.delete_collection(&params, &ListParams::default()).await;
        deleted
            .map(drop)
            .or_else(|error| if error::is_not_found(&error) { Ok(()) } else { Err(error) })?;
    } else {
        for name in list(api).await?.into_iter().map(|object| object.name_any()) {
            match api.delete(&name, &params).await {
                Err(gone) if error::is_not_found(&gone) => {}
                result => drop(result?),
            }
        }
    }
    let left = list(api).await?;
    if left.is_empty() {
        return Ok(None);
    }
    let mut remaining = Remaining {
        plural: kind.plural.clone(),
        group: kind.group.clone(),
        count: left.len(),
        ..Default::default()
    };
    for object in left {
        for finalizer in object.finalizers() {
            *remaining.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        let grace = object.metadata.deletion_grace_period_seconds.unwrap_or(0);
        remaining.grace_seconds = remaining.grace_seconds.max(u64::try_from(grace).unwrap_or(0));
    }
    Ok(Some(remaining))
}

async fn list(
    api: &Api<DynamicObject>,
) -> Result<Vec<kube::core::PartialObjectMeta<DynamicObject>>, kube::Error> {
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list_metadata(&params).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

fn has_finalizer(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref());
    finalizers.unwrap_or_default().iter().any(|finalizer| finalizer == FINALIZER)
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let namespaces = context.informers.of::<Namespace>();
    let pods = context.informers.of::<Pod>();
    let reconciler = Namespaces { client: context.client.clone(), namespaces: namespaces.clone() };
    let known = namespaces.clone();
    Controller::new(name, reconciler)
        .reconciles_if(&namespaces, |change| change.object().metadata.deletion_timestamp.is_some())
        .watches(&pods, move |change| match change {
            Change::Deleted(pod) => {
                let namespace = pod.namespace().unwrap_or_default();
                let going =
                    known.get("", &namespace).is_some_and(|namespace| !is_active(&namespace));
                if going { vec![ObjectKey::cluster(namespace)] } else { Vec::new() }
            }
            _ => Vec::new(),
        })
        .workers(context.settings.workers)
}
