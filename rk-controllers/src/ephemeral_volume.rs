//! Generic ephemeral volumes (KEP-1698): a claim for each `ephemeral` volume of a Pod.
//!
//! # What it promises
//! - The claim `<pod>-<volume>` is made from the volume's template. The Pod owns it, so that the
//!   garbage collector takes it away after the Pod.
//! - A claim of that name that belongs to somebody else is left alone, and the Pod is told.

use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod, Volume},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use rk_api::{
    client::{Change, EventRecorder, EventType, Informer, object_ref},
    volumes::{claim_of, is_made_for},
};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    owners::controller_ref,
    pods::{self, USED_CLAIM, index_by_claim},
};

struct Ephemeral {
    client: Client,
    recorder: EventRecorder,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

#[async_trait]
impl Reconciler for Ephemeral {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(Action::Wait) };
        if pods::is_deleting(&pod) {
            return Ok(Action::Wait);
        }
        let mut failed = None;
        for volume in volumes(&pod) {
            if let Err(error) = self.provide(&pod, volume).await {
                let why = match &error {
                    Error::Api(error) => error::message(error),
                    other => other.to_string(),
                };
                let message = format!("ephemeral volume {}: {why}", volume.name);
                let about = object_ref(&*pod);
                self.recorder.event(&about, EventType::Warning, "FailedBinding", message);
                failed = Some(error);
            }
        }
        failed.map_or(Ok(Action::Wait), Err)
    }
}

impl Ephemeral {
    /// Sees to it that the claim of a volume is there, and the Pod's.
    async fn provide(&self, pod: &Pod, volume: &Volume) -> Result<(), Error> {
        let Some(wanted) = claim(pod, volume) else { return Ok(()) };
        let (namespace, name) = (pod.namespace().unwrap_or_default(), wanted.name_any());
        let known = match self.claims.get(&namespace, &name) {
            Some(known) => Some(known),
            None => {
                let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &namespace);
                match api.create(&PostParams::default(), &wanted).await {
                    // Just made by an earlier reconcile, or by somebody else.
                    Err(there) if error::is_already_exists(&there) => {
                        api.get_opt(&name).await?.map(std::sync::Arc::new)
                    }
                    Err(ending) if error::is_namespace_terminating(&ending) => None,
                    result => result.map(|_| None)?,
                }
            }
        };
        match known {
            Some(known) if !is_made_for(&known, pod) => Err(Error::NotYet(format!(
                "PVC {name:?} was not created for pod {:?} (pod is not owner)",
                pod.name_any()
            ))),
            _ => Ok(()),
        }
    }
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

/// The claim of an ephemeral volume.
fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let metadata = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: claim_of(pod, volume),
            namespace: pod.namespace(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: Some(vec![controller_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

/// Pods have their ephemeral volumes from the beginning: only new ones need claims.
fn is_concerned(change: &Change<Pod>) -> bool {
    matches!(change, Change::Added(_)) && volumes(change.object()).next().is_some()
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    pods.add_index(USED_CLAIM, index_by_claim);
    let reconciler = Ephemeral {
        client: context.client.clone(),
        recorder: context.recorder(name),
        pods: pods.clone(),
        claims: claims.clone(),
    };
    Controller::new(name, reconciler)
        .reconciles_if(&pods, is_concerned)
        .watches(&claims, move |change| {
            // A claim that goes while its Pod lives is made again.
            let Change::Deleted(claim) = change else { return Vec::new() };
            let users = pods.by_index(USED_CLAIM, &ObjectKey::of(&**claim).to_string());
            let made = users.iter().filter(|pod| is_made_for(claim, pod));
            made.map(|pod| ObjectKey::of(&**pod)).collect()
        })
        .workers(context.settings.workers)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_claim_is_named_after_pod_and_volume_and_owned_by_the_pod() {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"storageClassName": "x"}});
        let pod: Pod = from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "plain", "emptyDir": {}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]},
        }))
        .unwrap();
        let claims: Vec<_> = volumes(&pod).filter_map(|volume| claim(&pod, volume)).collect();
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0].name_any(), "web-scratch");
        assert_eq!(claims[0].labels()["a"], "b");
        assert_eq!(rk_api::volumes::claim_class(&claims[0]), Some("x"));
        assert!(is_made_for(&claims[0], &pod));
        let owner = &claims[0].owner_references()[0];
        assert_eq!(owner.block_owner_deletion, Some(true));
    }
}
