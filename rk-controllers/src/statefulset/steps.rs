//! Taking the steps of a plan, with events that say so.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ObjectReference, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use rk_api::client::{EventRecorder, EventType, object_ref};

use super::{StatefulSets, claims::Ownership, plan::Step};
use crate::{
    error::{self, Error},
    expectations::Expectations,
    key::ObjectKey,
    write::{self, Part},
};

/// Writes on behalf of one set.
pub(super) struct Hand<'a> {
    key: &'a ObjectKey,
    set: ObjectReference,
    pods: Api<Pod>,
    claims: Api<PersistentVolumeClaim>,
    recorder: &'a EventRecorder,
    expectations: &'a Expectations<ObjectKey>,
}

impl StatefulSets {
    /// For the steps of this set.
    pub(super) fn hand<'a>(&'a self, key: &'a ObjectKey, set: &StatefulSet) -> Hand<'a> {
        Hand {
            key,
            set: object_ref(set),
            pods: Api::namespaced(self.client.clone(), &key.namespace),
            claims: Api::namespaced(self.client.clone(), &key.namespace),
            recorder: &self.recorder,
            expectations: &self.expectations,
        }
    }
}

impl Hand<'_> {
    /// Takes one step. What it finds done already is fine.
    pub(super) async fn take(&self, step: Step) -> Result<(), Error> {
        match step {
            Step::Create { pod, claims } => {
                let name = pod.name_any();
                if let Err(refused) = self.create_claims(&name, claims).await {
                    self.pod_event("create", &name, Some(&refused.to_string()));
                    return Err(refused);
                }
                self.create(&pod).await
            }
            Step::Refuse { pod, message } => {
                self.pod_event("create", &pod, Some(&message));
                Err(Error::NotYet(message))
            }
            Step::Claims { pod, claims } => self.create_claims(&pod, claims).await,
            Step::Repair { before, after } => {
                let result = write::update(&self.pods, &before, &after, Part::Main).await;
                let failure = result.as_ref().err().map(error::message);
                self.pod_event("update", &before.name_any(), failure.as_deref());
                result.map(drop).map_err(Into::into)
            }
            Step::Own { claim, ownership } => self.own(&claim, ownership).await,
            Step::Delete(pod) => self.delete(&pod).await,
        }
    }

    async fn create(&self, pod: &Pod) -> Result<(), Error> {
        let name = pod.name_any();
        self.expectations.expect_creation(self.key, &name);
        let result = self.pods.create(&PostParams::default(), pod).await;
        let Err(refused) = result else {
            self.pod_event("create", &name, None);
            return Ok(());
        };
        // Without an answer it may be there all the same; the expectation is looked up in time.
        if error::code(&refused) != 0 {
            self.expectations.creation_observed(self.key, &name);
        }
        if error::is_namespace_terminating(&refused) {
            return Ok(());
        }
        // A Pod of the name is there that the cache does not show, or that is not ours.
        if !error::is_already_exists(&refused) {
            self.pod_event("create", &name, Some(&error::message(&refused)));
        }
        Err(refused.into())
    }

    async fn delete(&self, pod: &Pod) -> Result<(), Error> {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        self.expectations.expect_deletion(self.key, &uid);
        let exactly_this = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(exactly_this), ..Default::default() };
        let Err(refused) = self.pods.delete(&name, &params).await else {
            self.pod_event("delete", &name, None);
            return Ok(());
        };
        self.expectations.deletion_observed(self.key, &uid);
        if error::is_not_found(&refused) || error::is_conflict(&refused) {
            return Ok(());
        }
        self.pod_event("delete", &name, Some(&error::message(&refused)));
        Err(refused.into())
    }

    async fn create_claims(
        &self,
        pod: &str,
        claims: Vec<PersistentVolumeClaim>,
    ) -> Result<(), Error> {
        for claim in claims {
            let name = claim.name_any();
            let event =
                |kind, reason, message| self.recorder.event(&self.set, kind, reason, message);
            let set = self.set.name.as_deref().unwrap_or_default();
            match self.claims.create(&PostParams::default(), &claim).await {
                Ok(_) => event(
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("create Claim {name} Pod {pod} in StatefulSet {set} success"),
                ),
                Err(there) if error::is_already_exists(&there) => {}
                Err(refused) if error::is_namespace_terminating(&refused) => {}
                Err(refused) => {
                    let why = error::message(&refused);
                    let what = format!("create Claim {name} for Pod {pod} in StatefulSet {set}");
                    let message = format!("{what} failed error: {why}");
                    event(EventType::Warning, "FailedCreate", message);
                    return Err(Error::NotYet(format!("failed to create PVC {name}: {why}")));
                }
            }
        }
        Ok(())
    }

    async fn own(&self, claim: &PersistentVolumeClaim, ownership: Ownership) -> Result<(), Error> {
        let name = claim.name_any();
        if ownership.conflict {
            let message = format!(
                "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a \
                 managing controller, the retention policy is ignored for this claim"
            );
            self.recorder.event(&self.set, EventType::Warning, "ConflictingController", message);
        }
        let mut owned = claim.clone();
        let references = ownership.references;
        owned.metadata.owner_references = Some(references).filter(|it| !it.is_empty());
        match write::update(&self.claims, claim, &owned, Part::Main).await {
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            result => result.map(drop).map_err(Into::into),
        }
    }

    fn pod_event(&self, verb: &str, pod: &str, failure: Option<&str>) {
        let set = self.set.name.as_deref().unwrap_or_default();
        let (kind, outcome, end) = match failure {
            None => (EventType::Normal, "Successful", "successful".to_owned()),
            Some(why) => (EventType::Warning, "Failed", format!("failed error: {why}")),
        };
        let what = match verb {
            "create" => "Create",
            "delete" => "Delete",
            _ => "Update",
        };
        let message = format!("{verb} Pod {pod} in StatefulSet {set} {end}");
        self.recorder.event(&self.set, kind, &format!("{outcome}{what}"), message);
    }
}
