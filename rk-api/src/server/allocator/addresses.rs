//! Cluster addresses: each that is taken is an IPAddress object (KEP-1880).
//!
//! The object's name is the address, so of two servers that want the same one, one creates it. It
//! names the Service that it belongs to. What a crash leaves behind is set right by
//! [`Addresses::repair`].

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::Service,
        networking::v1::{IPAddress, IPAddressSpec, ParentReference},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use rk_store::{Expect, Revision, StoreError};

use super::{
    cidr::{Cidr, Family},
    families::chosen,
    findings::{Finding, named},
};
use crate::{
    clock,
    resources::{Resource, Resources},
    rng,
    server::{
        cache::{Cache, Table},
        filter::Filter,
        object::Stored,
        status::{ApiError, Result},
    },
};

/// Who made an IPAddress; others are not touched.
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// An address whose Service does not exist is free when it is older than this, as in kube-apiserver:
/// the Service may be about to be created.
const ORPHANED_AFTER: Duration = Duration::from_secs(60);

/// Of a large range, so many addresses are looked at before it counts as full.
const LOOKS_MAX: u64 = 1 << 16;

/// The Service that an address is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub namespace: String,
    pub name: String,
}

/// The addresses of all Services.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    cache: Arc<Cache>,
    resource: Arc<Resource>,
}

impl Addresses {
    /// `None` on a server that does not serve IPAddresses, which then keeps no account of them.
    pub(super) fn new(cache: Arc<Cache>, resources: &Resources) -> Option<Self> {
        let resource = resources.get("networking.k8s.io", "v1", "ipaddresses")?.clone();
        Some(Self { cache, resource })
    }

    fn key(&self, address: IpAddr) -> String {
        self.resource.key(None, &address.to_string())
    }

    fn table(&self) -> Result<Arc<Table>> {
        self.cache.table(&self.resource)
    }

    /// Whether an address is known to be taken.
    pub(super) fn is_taken(&self, address: IpAddr) -> Result<bool> {
        Ok(self.table()?.get(&self.key(address)).is_some())
    }

    /// Takes this address; `false` when somebody else has it.
    pub(super) async fn take(&self, address: IpAddr, owner: &Owner) -> Result<bool> {
        let key = self.key(address);
        let mut object = object(address, owner);
        let stored = Stored::encode(&mut object, &[])?;
        let facts = Cache::facts(&self.resource, &object);
        self.cache.announce(&key, &stored, facts);
        match self.cache.store().put(&key, stored.bytes().clone(), Expect::Absent, None).await {
            Ok(_) => {
                self.cache.catch_up();
                Ok(true)
            }
            Err(error) => {
                self.cache.withdraw(&key);
                match error {
                    StoreError::Conflict { .. } => Ok(false),
                    error => Err(error.into()),
                }
            }
        }
    }

    /// A random address that is free, as far as is known, and not `reserved`; `None` when there is
    /// none. Those that are left to be chosen are given last.
    pub(super) fn free(&self, range: &Cidr, reserved: Option<IpAddr>) -> Result<Option<IpAddr>> {
        let table = self.table()?;
        let (first, last) = (range.left_to_choose().min(range.usable() - 1), range.usable());
        let band = |from: u64, count: u64| {
            let start = rng::below(count.max(1));
            (0..count.min(LOOKS_MAX)).map(move |step| {
                let at = (u128::from(start) + u128::from(step)) % u128::from(count);
                range.address(from + at as u64)
            })
        };
        let mut tried = band(first + 1, last - first).chain(band(1, first));
        Ok(tried
            .find(|address| Some(*address) != reserved && table.get(&self.key(*address)).is_none()))
    }

    /// Gives an address back, if it is this Service's.
    pub(super) async fn give_back(&self, address: IpAddr, owner: &Owner) -> Result<()> {
        let key = self.key(address);
        let store = self.cache.store();
        while let Some(found) = store.get(&key).await? {
            let object: Option<IPAddress> = crate::json::from_slice(&found.value).ok();
            if object.is_none_or(|object| owner_of(&object).as_ref() != Some(owner)) {
                break;
            }
            if self.remove(&key, found.modified).await? {
                break;
            }
        }
        Ok(())
    }

    /// Whether it was removed; not when it has changed meanwhile.
    async fn remove(&self, key: &str, revision: Revision) -> Result<bool> {
        match self.cache.store().delete(key, Expect::Revision(revision)).await {
            Ok(_) => {
                self.cache.catch_up();
                Ok(true)
            }
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the objects fit the Services: those that are missing or somebody else's are made anew,
    /// those that are nobody's are removed. Says what was wrong.
    pub(super) async fn repair(
        &self,
        services: &[Service],
        known: &[Cidr],
    ) -> Result<Vec<Finding>> {
        let mut found: BTreeMap<IpAddr, (IPAddress, String, u64)> = BTreeMap::new();
        for item in self.table()?.list(&Filter::default(), None, 0, 0).items {
            let object: IPAddress =
                crate::json::from_slice(&item.stored.plain()).map_err(ApiError::internal)?;
            if let Ok(address) = item.name().parse() {
                found.insert(address, (object, item.key.to_string(), item.revision));
            }
        }
        let mut findings = Vec::new();
        let mut used: BTreeMap<IpAddr, Owner> = BTreeMap::new();
        for service in services {
            let own = owner(service);
            for address in addresses(service) {
                let object = found.get(&address).map(|(object, ..)| object);
                let holder = used.get(&address).cloned().or_else(|| {
                    let holder = object.and_then(owner_of)?;
                    let has_it =
                        |it: &Service| owner(it) == holder && addresses(it).contains(&address);
                    services.iter().any(has_it).then_some(holder)
                });
                let verdict = verdict(&own, object, holder.as_ref(), known, address);
                if let Some(wrong) = verdict.finding(&own, address) {
                    let (reason, note) = wrong;
                    tracing::warn!(%address, service = ?own, "{note}");
                    findings.push(Finding::address(service, reason, note));
                }
                match verdict {
                    Verdict::Twice => continue,
                    Verdict::Right | Verdict::OutOfRange => {}
                    Verdict::Missing => {
                        self.take(address, &own).await?;
                    }
                    Verdict::Wrong => {
                        if let Some((_, key, revision)) = found.remove(&address)
                            && self.remove(&key, Revision(revision)).await?
                        {
                            self.take(address, &own).await?;
                        }
                    }
                }
                used.insert(address, own.clone());
            }
        }
        let now = clock::now().as_second();
        for (address, (object, key, revision)) in found {
            let Some(owner) = owner_of(&object) else { continue };
            let created = object.metadata.creation_timestamp.map_or(0, |time| time.0.as_second());
            let is_old = now - created >= ORPHANED_AFTER.as_secs() as i64;
            if used.get(&address) != Some(&owner) && is_old {
                tracing::warn!(%address, ?owner, "an address was nobody's");
                self.remove(&key, Revision(revision)).await?;
            }
        }
        Ok(findings)
    }
}

/// How it is with an address of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Its object is there and names the Service.
    Right,
    /// It has no object.
    Missing,
    /// Its object names somebody who does not have it.
    Wrong,
    /// Another Service has it too.
    Twice,
    /// No range has it.
    OutOfRange,
}

/// `holder` is a Service that has the address and is named by its object, or was seen before.
fn verdict(
    own: &Owner,
    object: Option<&IPAddress>,
    holder: Option<&Owner>,
    known: &[Cidr],
    address: IpAddr,
) -> Verdict {
    match (object, holder) {
        (_, Some(holder)) if holder != own => Verdict::Twice,
        _ if !known.iter().any(|range| range.contains(address)) => Verdict::OutOfRange,
        (None, _) => Verdict::Missing,
        (Some(object), _) if owner_of(object).as_ref() == Some(own) => Verdict::Right,
        (Some(_), _) => Verdict::Wrong,
    }
}

impl Verdict {
    /// What is told of it.
    fn finding(self, own: &Owner, address: IpAddr) -> Option<(&'static str, String)> {
        let named = named(address);
        Some(match self {
            Verdict::Right => return None,
            Verdict::Missing => {
                ("ClusterIPNotAllocated", format!("Cluster IP {named} is not allocated; repairing"))
            }
            Verdict::Wrong => (
                "ClusterIPNotAllocated",
                format!(
                    "the ClusterIP {named} for Service {}/{} has a wrong reference; repairing",
                    own.namespace, own.name
                ),
            ),
            Verdict::Twice => (
                "ClusterIPAlreadyAllocated",
                format!(
                    "Cluster IP {named} was assigned to multiple services; please recreate service"
                ),
            ),
            Verdict::OutOfRange => (
                "ClusterIPOutOfRange",
                format!(
                    "Cluster IP {named} is not within any configured Service CIDR; please recreate service"
                ),
            ),
        })
    }
}

fn object(address: IpAddr, owner: &Owner) -> IPAddress {
    let labels = [
        (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
        (FAMILY.to_owned(), Family::of(address).as_str().to_owned()),
    ];
    IPAddress {
        metadata: ObjectMeta {
            name: Some(address.to_string()),
            uid: Some(rng::uuid()),
            creation_timestamp: Some(clock::now_seconds()),
            generation: Some(1),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: None,
                resource: "services".to_owned(),
                namespace: Some(owner.namespace.clone()),
                name: owner.name.clone(),
            },
        },
    }
}

/// The Service that an IPAddress of ours is for.
fn owner_of(object: &IPAddress) -> Option<Owner> {
    let labels = object.metadata.labels.as_ref()?;
    let parent = &object.spec.parent_ref;
    let ours = labels.get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1)
        && parent.resource == "services";
    ours.then(|| Owner {
        namespace: parent.namespace.clone().unwrap_or_default(),
        name: parent.name.clone(),
    })
}

pub(super) fn owner(service: &Service) -> Owner {
    Owner {
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        name: service.metadata.name.clone().unwrap_or_default(),
    }
}

/// The addresses that a Service has.
pub(super) fn addresses(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.iter().filter(|spec| spec.type_.as_deref() != Some("ExternalName"));
    spec.flat_map(chosen).filter_map(|address| address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named_service(name: &str) -> Owner {
        Owner { namespace: "default".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn an_address_is_right_when_its_object_names_who_has_it() {
        let address: IpAddr = "10.0.0.7".parse().unwrap();
        let known = [Cidr::parse("10.0.0.0/24").unwrap()];
        let (a, b) = (named_service("a"), named_service("b"));
        let (of_a, of_b) = (object(address, &a), object(address, &b));
        let mut users = object(address, &a);
        users.metadata.labels = None;
        let check = |object: Option<&IPAddress>, holder: Option<&Owner>, expected: Verdict| {
            assert_eq!(verdict(&a, object, holder, &known, address), expected);
        };
        check(Some(&of_a), Some(&a), Verdict::Right);
        check(None, None, Verdict::Missing);
        check(Some(&of_b), None, Verdict::Wrong);
        check(Some(&users), None, Verdict::Wrong);
        check(Some(&of_b), Some(&b), Verdict::Twice);
        assert_eq!(verdict(&a, Some(&of_a), Some(&a), &[], address), Verdict::OutOfRange);
    }
}
