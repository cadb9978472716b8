//! Writing slices. Shared by the controllers for Services and for mirrored Endpoints.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use rk_api::client::Change;

use super::plan::{Plan, SERVICE_NAME};
use crate::{
    error::{self, Error},
    expectations::Expectations,
    key::ObjectKey,
    write::{self, Part},
};

/// Carries out `plan` for the slices of `key`. Creations come first: an address moves from one
/// slice to another rather than vanishing for a moment.
pub(crate) async fn apply(
    client: &Client,
    key: &ObjectKey,
    plan: Plan,
    expectations: &Expectations<ObjectKey>,
) -> Result<(), Error> {
    let api = Api::<EndpointSlice>::namespaced(client.clone(), &key.namespace);
    for slice in plan.create {
        let name = slice.name_any();
        let params = PostParams::default();
        let creation = api.create(&params, &slice);
        if let Err(error) = expectations.creating(key, &name, creation).await {
            if error::is_namespace_terminating(&error) {
                return Ok(());
            }
            return Err(error.into());
        }
    }
    for (before, after) in plan.update {
        write::update(&api, &before, &after, Part::Main).await?;
    }
    for slice in plan.delete {
        let unchanged =
            Preconditions { uid: slice.uid(), resource_version: slice.resource_version() };
        let params = DeleteParams { preconditions: Some(unchanged), ..Default::default() };
        match api.delete(&slice.name_any(), &params).await {
            Err(gone) if error::is_not_found(&gone) => {}
            result => drop(result?),
        }
    }
    Ok(())
}

/// The key that the slice's Service label names; expectations that the change meets are struck out.
pub(crate) fn wake(
    change: &Change<EndpointSlice>,
    manager: &str,
    expectations: &Expectations<ObjectKey>,
) -> Vec<ObjectKey> {
    let key = |slice: &EndpointSlice| {
        let ours =
            slice.labels().get(super::plan::MANAGED_BY).is_some_and(|value| value == manager);
        let service = slice.labels().get(SERVICE_NAME).filter(|_| ours)?;
        Some(ObjectKey::new(slice.namespace().unwrap_or_default(), service.clone()))
    };
    let slice = change.object();
    let mut keys: Vec<ObjectKey> = key(slice).into_iter().collect();
    for key in &keys {
        expectations.creation_observed(key, &slice.name_any());
    }
    if let Change::Updated { old, .. } = change {
        keys.extend(key(old).filter(|old| !keys.contains(old)));
    }
    keys
}
