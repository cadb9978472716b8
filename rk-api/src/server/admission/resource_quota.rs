//! ResourceQuota: a namespace uses no more than its quotas allow.
//!
//! What a quota allows and what is used are in its status. A controller keeps that; admission adds
//! what it lets in, so that nothing is let in twice. A quota without a status yet allows nothing in
//! particular and forbids nothing. What is [limited] needs a quota.

mod limited;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use k8s_openapi::{api::core::v1::ResourceQuota, jiff::Timestamp};
use rk_store::{Expect, StoreError};
use tokio::sync::Mutex;

pub use self::limited::{LimitedResource, LimitedScope, ResourceQuotaLimits};
use super::{Admission, AdmissionRequest, Operation, first_look::FirstLook};
use crate::{
    clock,
    meta::quantity::Quantity,
    quota::{
        Item,
        pod_resources::{Amounts, add, amounts},
        scopes,
    },
    resources::{Object, Resource},
    server::{
        object::Stored,
        reader::Reader,
        status::{ApiError, Result},
    },
};

/// The name of the plug-in.
pub(super) const NAME: &str = "ResourceQuota";

/// Namespaces share these locks: one request at a time counts in a namespace of this server.
const LOCKS: usize = 64;
/// Tries when another server counts in the same quota.
const TRIES: usize = 16;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ResourceQuotas {
    reader: Reader,
    limits: ResourceQuotaLimits,
    looks: FirstLook,
    locks: Vec<Mutex<()>>,
}

/// A quota as the store has it.
struct Found {
    quota: ResourceQuota,
    managed: Bytes,
    key: String,
    revision: rk_store::Revision,
}

impl ResourceQuotas {
    pub(super) fn new(reader: Reader, limits: ResourceQuotaLimits) -> Self {
        let locks = (0..LOCKS).map(|_| Mutex::default()).collect();
        Self { reader, limits, looks: FirstLook::default(), locks }
    }

    fn lock(&self, namespace: &str) -> Option<&Mutex<()>> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        self.locks.get((hasher.finish() % LOCKS as u64) as usize)
    }

    /// The quota as the store has it; `None` when it is gone.
    async fn fetch(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Found>> {
        let key = resource.key(Some(namespace), name);
        let Some(value) = self.reader.cache.store().get(&key).await? else { return Ok(None) };
        let decoded = resource.strategy.decode(&value.value);
        let decoded = decoded.map_err(|error| ApiError::internal(format!("{key}: {error}")))?;
        let quota = decoded.object.as_any().downcast_ref::<ResourceQuota>().cloned();
        let managed = Stored::new(value.value).map(|stored| stored.managed()).unwrap_or_default();
        Ok(quota.map(|quota| Found { quota, managed, key, revision: value.modified }))
    }

    /// Counts what is used now. `false` when another server was faster.
    async fn charge(&self, found: Found, used: Amounts) -> Result<bool> {
        let mut quota = found.quota;
        let status = quota.status.get_or_insert_default();
        status.used = Some(used.into_iter().map(|(name, used)| (name, used.into())).collect());
        let object: &mut dyn Object = &mut quota;
        let stored = Stored::encode(object, &found.managed)?;
        let expect = Expect::Revision(found.revision);
        match self.reader.cache.store().put(&found.key, stored.bytes().clone(), expect, None).await
        {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the item is let in by all of these quotas, which are those of the namespace.
    fn ask(
        &self,
        request: &AdmissionRequest<'_>,
        item: &Item<'_>,
        old: Option<&Item<'_>>,
        quotas: &[ResourceQuota],
    ) -> Result<()> {
        let now = clock::now();
        let forbidden = |why: String| request.forbidden(&why);
        for quota in quotas {
            restricted(quota, item).map_err(forbidden)?;
        }
        let uses_more = !more(item, old, now).values().all(Quantity::is_zero);
        if uses_more && let Some(wrong) = self.limits.uncovered(request.resource, item, quotas, now)
        {
            return Err(wrong.refusal(|why| request.forbidden(why)));
        }
        for quota in quotas {
            decide(quota, item, old, is_told(request), now).map_err(forbidden)?;
        }
        Ok(())
    }

    /// Checks one quota, and counts in it.
    async fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        resource: &Resource,
        name: &str,
        item: &Item<'_>,
        old: Option<&Item<'_>>,
    ) -> Result<()> {
        let namespace = request.namespace.unwrap_or_default();
        for _ in 0..TRIES {
            let Some(found) = self.fetch(resource, namespace, name).await? else { return Ok(()) };
            let used = decide(&found.quota, item, old, is_told(request), clock::now());
            let used = used.map_err(|why| request.forbidden(&why))?;
            let Some(used) = used.filter(|_| !request.dry_run) else { return Ok(()) };
            if self.charge(found, used).await? {
                return Ok(());
            }
        }
        let quotas = crate::server::status::Subject::plural(resource);
        Err(ApiError::modified(&quotas, name))
    }
}

#[async_trait]
impl Admission for ResourceQuotas {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        if request.namespace.is_none() {
            return false;
        }
        match request.operation {
            // What is not kept takes no place.
            Operation::Create => {
                request.subresource.is_empty()
                    && !["bindings", "localsubjectaccessreviews"]
                        .contains(&request.resource.plural.as_ref())
            }
            // Of what exists already only these can use more than before.
            Operation::Update => {
                let is_claim = request.resource.group.is_empty()
                    && request.resource.plural == "persistentvolumeclaims";
                request.is_about("services")
                    // What a volume is given, and its class, are in its claim's status.
                    || is_claim && ["", "status"].contains(&request.subresource)
                    || (request.subresource == "resize" && request.resource.kind == "Pod")
            }
            Operation::Delete | Operation::Connect => false,
        }
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let (Some(namespace), Some(object)) = (request.namespace, request.object()) else {
            return Ok(());
        };
        let Some(resource) = self.reader.resource::<ResourceQuota>().map(Arc::clone) else {
            return Ok(());
        };
        // Most namespaces have none, so this looks at the cache and takes no lock.
        let quotas = self.looks.list::<ResourceQuota>(&self.reader, namespace).await?;
        if quotas.is_empty() && !self.limits.are_about(request.resource) {
            return Ok(());
        }
        let item = Item::new(request.resource, object);
        let old = request.old.map(|old| Item::new(request.resource, old));
        let Some(lock) = self.lock(namespace) else { return Ok(()) };
        let _counting = lock.lock().await;
        let mut found = Vec::with_capacity(quotas.len());
        for quota in &quotas {
            let name = quota.metadata.name.as_deref().unwrap_or_default();
            found.extend(self.fetch(&resource, namespace, name).await?.map(|found| found.quota));
        }
        // First all are asked, so that none counts what another one refuses.
        self.ask(request, &item, old.as_ref(), &found)?;
        for quota in &quotas {
            let name = quota.metadata.name.as_deref().unwrap_or_default();
            self.admit(request, &resource, name, &item, old.as_ref()).await?;
        }
        Ok(())
    }
}

/// Whether a request tells what is so already: it counts, but is not refused.
fn is_told(request: &AdmissionRequest<'_>) -> bool {
    request.subresource == "status"
}

/// Which resources of the quota an item uses that the quota is about; none of another item.
fn covered<'a>(quota: &'a ResourceQuota, item: &Item<'_>) -> Vec<&'a String> {
    if !scopes(quota).iter().all(|scope| item.is_in(scope)) {
        return Vec::new();
    }
    let hard = quota.status.as_ref().and_then(|status| status.hard.as_ref());
    hard.into_iter().flat_map(BTreeMap::keys).filter(|resource| item.knows(resource)).collect()
}

/// The same, or why the quota cannot tell whether the item fits.
fn restricted<'a>(
    quota: &'a ResourceQuota,
    item: &Item<'_>,
) -> std::result::Result<Vec<&'a String>, String> {
    let restricted = covered(quota, item);
    if restricted.is_empty() {
        return Ok(restricted);
    }
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    item.check_specified(&restricted).map_err(|why| format!("failed quota: {name}: {why}"))?;
    let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
    let is_counted = |resource: &&String| used.is_some_and(|used| used.contains_key(*resource));
    if !restricted.iter().all(is_counted) {
        let names: Vec<&str> = restricted.iter().map(|resource| resource.as_str()).collect();
        return Err(format!("status unknown for quota: {name}, resources: {}", names.join(",")));
    }
    Ok(restricted)
}

/// How much more the item uses than before.
fn more(item: &Item<'_>, old: Option<&Item<'_>>, now: Timestamp) -> Amounts {
    let mut more = item.usage(now);
    let before = old.map(|old| old.usage(now)).unwrap_or_default();
    for (name, amount) in &mut more {
        let before = before.get(name).copied().unwrap_or(Quantity::ZERO);
        *amount = amount.minus(&before).max(Quantity::ZERO);
    }
    more
}

/// What is used of a quota once the item is let in: `None` when the quota is not about it or
/// nothing more is used. An error says why it is not let in; what `is_told` is never too much.
fn decide(
    quota: &ResourceQuota,
    item: &Item<'_>,
    old: Option<&Item<'_>>,
    is_told: bool,
    now: Timestamp,
) -> std::result::Result<Option<Amounts>, String> {
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let status = quota.status.clone().unwrap_or_default();
    let hard = amounts(status.hard.as_ref());
    let used = amounts(status.used.as_ref());
    if restricted(quota, item)?.is_empty() {
        return Ok(None);
    }

    let usage = item.usage(now);
    let negative = usage.iter().filter(|(_, amount)| amount.signum() < 0);
    let negative: Vec<&str> = negative.map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        let negative = negative.join(",");
        return Err(format!("quota usage is negative for resource(s): {negative}"));
    }
    // What was in none of the scopes is new to the quota.
    let old = old.filter(|old| scopes(quota).iter().all(|scope| old.is_in(scope)));
    let mut more = more(item, old, now);
    if more.values().all(Quantity::is_zero) {
        return Ok(None);
    }
    more.retain(|resource, _| hard.contains_key(resource));

    let mut after = used.clone();
    add(&mut after, &more);
    let over = |resource: &&String| after.get(*resource) > hard.get(*resource);
    let exceeded: Vec<&String> = more.keys().filter(over).collect();
    if exceeded.is_empty() || is_told {
        return Ok(Some(after));
    }
    let shown = |all: &Amounts| {
        let of = |name: &&String| Some(format!("{name}={}", all.get(*name)?));
        exceeded.iter().filter_map(of).collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        shown(&more),
        shown(&used),
        shown(&hard)
    ))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
    use serde_json::{Value, json};

    use super::*;
    use crate::resources::Resources;

    fn quota(hard: Value, used: Value, scopes: &[&str]) -> ResourceQuota {
        serde_json::from_value(json!({
            "metadata": { "name": "q" },
            "spec": { "hard": hard, "scopes": scopes },
            "status": { "hard": hard, "used": used },
        }))
        .unwrap()
    }

    fn pod(limit: Option<&str>) -> Pod {
        let resources = limit.map(|cpu| json!({ "limits": { "cpu": cpu } }));
        let container = json!({ "name": "c", "resources": resources });
        serde_json::from_value(json!({ "spec": { "containers": [container] } })).unwrap()
    }

    #[track_caller]
    fn check(quota: &ResourceQuota, pod: &Pod, result: std::result::Result<Option<&str>, &str>) {
        let resources = Resources::builtin();
        let row = resources.get("", "v1", "pods").unwrap();
        let found = decide(quota, &Item::new(row, pod), None, false, Timestamp::UNIX_EPOCH);
        let found = found.map(|used| {
            used.map(|used| {
                let each = used.iter().map(|(name, amount)| format!("{name}={amount}"));
                each.collect::<Vec<_>>().join(",")
            })
        });
        let wanted = result.map(|used| used.map(ToOwned::to_owned)).map_err(ToOwned::to_owned);
        assert_eq!(found, wanted);
    }

    #[test]
    fn what_fits_is_counted_and_what_does_not_is_refused() {
        let limits = quota(json!({ "limits.cpu": "1" }), json!({ "limits.cpu": "300m" }), &[]);
        check(&limits, &pod(Some("700m")), Ok(Some("limits.cpu=1")));
        check(
            &limits,
            &pod(Some("2")),
            Err("exceeded quota: q, requested: limits.cpu=2, used: limits.cpu=300m, limited: \
                 limits.cpu=1"),
        );
        check(&limits, &pod(None), Err("failed quota: q: must specify limits.cpu for: c"));
        let unknown = quota(json!({ "pods": "1" }), json!({}), &[]);
        check(&unknown, &pod(None), Err("status unknown for quota: q, resources: pods"));
        let other = quota(json!({ "services": "0" }), json!({ "services": "0" }), &[]);
        check(&other, &pod(None), Ok(None));
    }

    #[test]
    fn a_scope_leaves_out_what_is_not_in_it() {
        let best_effort = quota(json!({ "pods": "0" }), json!({ "pods": "0" }), &["BestEffort"]);
        check(&best_effort, &pod(Some("1")), Ok(None));
        check(
            &best_effort,
            &pod(None),
            Err("exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"),
        );
        let ends = quota(json!({ "pods": "0" }), json!({ "pods": "0" }), &["Terminating"]);
        check(&ends, &pod(None), Ok(None));
    }

    #[test]
    fn a_claim_that_comes_into_a_scope_counts_whole() {
        let claim = |class: &str, current: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({
                "spec": {
                    "volumeAttributesClassName": class,
                    "resources": { "requests": { "storage": "1Gi" } },
                },
                "status": { "currentVolumeAttributesClassName": current },
            }))
            .unwrap()
        };
        let hard = json!({ "persistentvolumeclaims": "1", "requests.storage": "1Gi" });
        let quota = |used: i64| -> ResourceQuota {
            let used = json!({
                "persistentvolumeclaims": used.to_string(), "requests.storage": format!("{used}Gi"),
            });
            let gold = json!({
                "scopeName": "VolumeAttributesClass", "operator": "In", "values": ["gold"],
            });
            serde_json::from_value(json!({
                "metadata": { "name": "q" },
                "spec": { "hard": hard, "scopeSelector": { "matchExpressions": [gold] } },
                "status": { "hard": hard, "used": used },
            }))
            .unwrap()
        };
        let resources = Resources::builtin();
        let row = resources.get("", "v1", "persistentvolumeclaims").unwrap();
        let decide = |used: i64, new: &PersistentVolumeClaim, old: &PersistentVolumeClaim, told| {
            let (new, old) = (Item::new(row, new), Item::new(row, old));
            let after = decide(&quota(used), &new, Some(&old), told, Timestamp::UNIX_EPOCH);
            after.map(|after| after.map(|after| after["requests.storage"].to_string()))
        };
        let (slow, asked, given) =
            (claim("slow", ""), claim("gold", "slow"), claim("gold", "gold"));
        assert_eq!(decide(0, &asked, &slow, false), Ok(Some("1Gi".to_owned())));
        assert_eq!(decide(1, &given, &asked, true), Ok(None));
        assert!(decide(1, &asked, &slow, false).unwrap_err().starts_with("exceeded quota: q"));
        // The status says what is so.
        assert_eq!(decide(1, &asked, &slow, true), Ok(Some("2Gi".to_owned())));
    }

    #[test]
    fn an_update_counts_what_it_adds() {
        let service = |ports: usize| -> Service {
            let ports: Vec<_> = (0..ports).map(|port| json!({ "port": port + 1 })).collect();
            let spec = json!({ "type": "NodePort", "ports": ports });
            serde_json::from_value(json!({ "spec": spec })).unwrap()
        };
        let resources = Resources::builtin();
        let row = resources.get("", "v1", "services").unwrap();
        let quota = quota(
            json!({ "services": "1", "services.nodeports": "2" }),
            json!({ "services": "1", "services.nodeports": "1" }),
            &[],
        );
        let (one, two, three) = (service(1), service(2), service(3));
        let old = Item::new(row, &one);
        let after = |new: &Service| {
            decide(&quota, &Item::new(row, new), Some(&old), false, Timestamp::UNIX_EPOCH)
        };
        assert_eq!(after(&one), Ok(None));
        assert_eq!(after(&two).unwrap().unwrap()["services.nodeports"].to_string(), "2");
        assert!(after(&three).unwrap_err().contains("requested: services.nodeports=2"));
    }
}
