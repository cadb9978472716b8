//! Claims: see the parent.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, Client, ResourceExt, api::ListParams};
use rk_api::{
    client::{Change, Informer},
    volumes::{CLAIM_PROTECTION, claim_of, is_made_for},
};

use super::{Step, add, remove, step};
use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    pods::{self, USED_CLAIM, index_by_claim},
    write::{self, Part},
};

struct Claims {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

#[async_trait]
impl Reconciler for Claims {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else {
            return Ok(Action::Wait);
        };
        let mut wanted = (*claim).clone();
        match step(&claim.metadata, CLAIM_PROTECTION) {
            Step::Nothing => return Ok(Action::Wait),
            Step::Add => add(&mut wanted.metadata, CLAIM_PROTECTION),
            Step::RemoveIfUnused if self.is_used(&claim).await? => return Ok(Action::Wait),
            Step::RemoveIfUnused => remove(&mut wanted.metadata, CLAIM_PROTECTION),
        }
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &key.namespace);
        match write::update(&api, &*claim, &wanted, Part::Main).await {
            Err(gone) if error::is_not_found(&gone) => Ok(Action::Wait),
            result => result.map(|_| Action::Wait).map_err(Into::into),
        }
    }
}

impl Claims {
    /// Whether a Pod on a node uses the claim. The cache may not show the newest Pods, so that a
    /// "no" is asked of the API server once more.
    async fn is_used(&self, claim: &PersistentVolumeClaim) -> Result<bool, Error> {
        let namespace = claim.namespace().unwrap_or_default();
        let known = self.pods.by_index(USED_CLAIM, &format!("{namespace}/{}", claim.name_any()));
        if known.iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        let pods = api.list(&ListParams::default()).await?;
        Ok(pods.items.iter().any(|pod| uses(pod, claim)))
    }
}

/// A Pod without a node does not: no kubelet starts one whose claim is being deleted.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = claim.metadata.name.as_deref();
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    pods::node_name(pod).is_some()
        && volumes().any(|volume| {
            claim_of(pod, volume).as_deref() == name
                && (volume.ephemeral.is_none() || is_made_for(claim, pod))
        })
}

/// A Pod that goes, or that ended up elsewhere than it was, may free its claims.
fn freed(change: &Change<Pod>) -> Vec<ObjectKey> {
    let pod = change.object();
    let namespace = pod.namespace().unwrap_or_default();
    let replaced = matches!(change, Change::Updated { old, new } if old.uid() != new.uid());
    let keys = |pod: &Pod| {
        let claims = rk_api::volumes::claims_of(pod);
        claims.map(|claim| ObjectKey::new(namespace.clone(), claim)).collect::<Vec<_>>()
    };
    match change {
        Change::Deleted(_) => keys(pod),
        Change::Updated { old, .. } if replaced => keys(old),
        _ => Vec::new(),
    }
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let pods = context.informers.of::<Pod>();
    pods.add_index(USED_CLAIM, index_by_claim);
    let reconciler =
        Claims { client: context.client.clone(), claims: claims.clone(), pods: pods.clone() };
    Controller::new(name, reconciler).reconciles(&claims).watches(&pods, freed)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_claim_is_used_by_pods_on_nodes_and_by_the_pod_it_was_made_for() {
        let claim = |owner: &str| {
            from_value(json!({"metadata": {"name": "p-v", "namespace": "n", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}}))
            .unwrap()
        };
        let pod = |node: &str, volume| {
            let spec = json!({"nodeName": node, "containers": [], "volumes": [volume]});
            from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
        };
        let named = || json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-v"}});
        assert!(uses(&pod("node", named()), &claim("x")));
        assert!(!uses(&pod("", named()), &claim("x")), "it has no node");
        let made = || json!({"name": "v", "ephemeral": {}});
        assert!(uses(&pod("node", made()), &claim("u")));
        assert!(!uses(&pod("node", made()), &claim("x")), "somebody else made it");
    }
}
