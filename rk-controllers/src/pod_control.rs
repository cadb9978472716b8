//! Creating and deleting the Pods of a controller, with events that say so.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use rk_api::{
    client::{EventRecorder, EventType},
    rng,
};

use crate::error;

/// Length of the random end of a generated name, as the API server makes it.
const SUFFIX: usize = 5;
/// Longest base of a generated name: a Pod's name is a label value too, of at most 63 characters.
const BASE_MAX: usize = 63 - SUFFIX;

/// A Pod from a template, owned by the controller that `reference` names.
///
/// The name is chosen here as the API server would from `generateName`. A name that is known
/// before the request is sent can be expected in the cache, and makes a repeated request harmless.
pub fn pod_from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    reference: &OwnerReference,
) -> Pod {
    let prefix = format!("{}-", reference.name);
    let base = &prefix[..prefix.floor_char_boundary(BASE_MAX)];
    let template_meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{base}{}", rng::suffix(SUFFIX))),
            generate_name: Some(prefix.clone()),
            namespace: Some(namespace.to_owned()),
            labels: template_meta.labels.filter(|labels| !labels.is_empty()),
            annotations: template_meta
                .annotations
                .filter(|annotations: &BTreeMap<_, _>| !annotations.is_empty()),
            finalizers: template_meta.finalizers,
            owner_references: Some(vec![reference.clone()]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Writes Pods on behalf of one owner.
#[derive(Clone, Debug)]
pub struct PodControl {
    pods: Api<Pod>,
    recorder: EventRecorder,
    owner: ObjectReference,
}

impl PodControl {
    /// For the Pods of `owner`, in its namespace.
    pub fn new(client: Client, recorder: EventRecorder, owner: ObjectReference) -> Self {
        let pods = Api::namespaced(client, owner.namespace.as_deref().unwrap_or_default());
        Self { pods, recorder, owner }
    }

    /// Creates `pod`. An answer that was lost on the way is looked up, so an error means that the
    /// Pod is not there.
    pub async fn create(&self, pod: &Pod) -> Result<Pod, kube::Error> {
        let name = pod.name_any();
        let result = match self.pods.create(&PostParams::default(), pod).await {
            Err(unanswered) if error::code(&unanswered) == 0 => {
                match self.pods.get_opt(&name).await {
                    Ok(Some(created))
                        if created.metadata.owner_references == pod.metadata.owner_references =>
                    {
                        Ok(created)
                    }
                    _ => Err(unanswered),
                }
            }
            result => result,
        };
        match &result {
            Ok(created) => {
                self.event(
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("Created pod: {}", created.name_any()),
                );
            }
            // The whole namespace goes; an event could not be stored either.
            Err(refused) if error::is_namespace_terminating(refused) => {}
            Err(refused) => {
                let message = format!("Error creating: {}", error::message(refused));
                self.event(EventType::Warning, "FailedCreate", message);
            }
        }
        result
    }

    /// Deletes exactly this Pod, not another that has its name by now. One that is gone is fine.
    pub async fn delete(&self, pod: &Pod) -> Result<(), kube::Error> {
        let name = pod.name_any();
        let exactly_this = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(exactly_this), ..Default::default() };
        match self.pods.delete(&name, &params).await {
            Ok(_) => {
                self.event(EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(gone) if error::is_not_found(&gone) || error::is_conflict(&gone) => Err(gone),
            Err(refused) => {
                let message = format!("Error deleting: {}", error::message(&refused));
                self.event(EventType::Warning, "FailedDelete", message);
                Err(refused)
            }
        }
    }

    fn event(&self, kind: EventType, reason: &str, message: String) {
        self.recorder.event(&self.owner, kind, reason, message);
    }
}
