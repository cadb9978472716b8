//! Spreading endpoints over slices with as few writes as possible. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::ResourceExt;
use rk_api::rng;

use super::targets::Group;

/// At most so many endpoints in a slice: a change sends a whole slice to every node.
pub(crate) const ENDPOINTS_MAX: usize = 100;

/// Names the Service that a slice belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Names who keeps a slice; others leave it alone.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Marks endpoints of a Service without an address of its own. The value is empty.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// What all slices of one Service have in common.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub namespace: String,
    /// Slices are named this, a dash and five random characters.
    pub base_name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub owner: OwnerReference,
}

/// The writes that bring slices to hold the wanted endpoints.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub create: Vec<EndpointSlice>,
    /// As cached, and as it should be.
    pub update: Vec<(Arc<EndpointSlice>, EndpointSlice)>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Compares `existing` slices (ours, not being deleted) with the wanted `groups`.
///
/// Endpoints stay in the slice that has them. New ones fill slices that are rewritten anyway, then
/// others with room, then new slices. Slices left empty go, except one that shows that there is
/// nothing.
pub(crate) fn plan(common: &Common, groups: Vec<Group>, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut used = BTreeSet::new();
    for group in groups {
        let same: Vec<usize> =
            (0..existing.len()).filter(|slice| fits(&existing[*slice], &group)).collect();
        used.extend(same.iter().copied());
        let same = same.into_iter().map(|slice| existing[slice].clone()).collect();
        pack(common, group, same, &mut plan);
    }
    let unused = (0..existing.len()).filter(|slice| !used.contains(slice));
    plan.delete.extend(unused.map(|slice| existing[slice].clone()));
    plan
}

fn fits(slice: &EndpointSlice, group: &Group) -> bool {
    slice.address_type == group.address_type
        && slice.ports.as_deref().unwrap_or_default() == group.ports
}

fn pack(common: &Common, group: Group, existing: Vec<Arc<EndpointSlice>>, plan: &mut Plan) {
    let Group { address_type, ports, endpoints } = group;
    let is_placeholder = endpoints.is_empty();
    let mut wanted: BTreeMap<Identity, Endpoint> = BTreeMap::new();
    for endpoint in endpoints {
        wanted.insert(identity(&endpoint), endpoint);
    }

    // What each slice keeps, in its order and in its newest state.
    let mut kept: Vec<Vec<Endpoint>> = Vec::with_capacity(existing.len());
    for slice in &existing {
        let known = slice.endpoints.iter().flatten();
        kept.push(known.filter_map(|endpoint| wanted.remove(&identity(endpoint))).collect());
    }
    let touched = |slice: usize, kept: &[Vec<Endpoint>]| {
        existing[slice].endpoints.as_deref().unwrap_or_default() != kept[slice]
    };

    let mut order: Vec<usize> = (0..existing.len()).collect();
    order.sort_by_key(|slice| (!touched(*slice, &kept), std::cmp::Reverse(kept[*slice].len())));
    let mut new = wanted.into_values();
    for slice in order {
        let room = ENDPOINTS_MAX.saturating_sub(kept[slice].len());
        kept[slice].extend(new.by_ref().take(room));
    }
    let rest: Vec<Endpoint> = new.collect();
    for chunk in rest.chunks(ENDPOINTS_MAX) {
        plan.create.push(new_slice(common, &address_type, &ports, chunk.to_vec()));
    }
    if is_placeholder && existing.is_empty() {
        plan.create.push(new_slice(common, &address_type, &ports, Vec::new()));
    }

    let mut placeholder_wanted = is_placeholder;
    for (before, endpoints) in existing.into_iter().zip(kept) {
        if endpoints.is_empty() && !std::mem::take(&mut placeholder_wanted) {
            plan.delete.push(before);
            continue;
        }
        let mut after = (*before).clone();
        if after.endpoints.as_deref().unwrap_or_default() != endpoints {
            after.endpoints = Some(endpoints);
        }
        if after.labels() != &common.labels {
            after.metadata.labels = Some(common.labels.clone());
        }
        if after != *before {
            plan.update.push((before, after));
        }
    }
}

/// What makes an endpoint the same although its conditions change.
type Identity = (Option<String>, Vec<String>);

fn identity(endpoint: &Endpoint) -> Identity {
    let target = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (target, endpoint.addresses.clone())
}

fn new_slice(
    common: &Common,
    address_type: &str,
    ports: &[k8s_openapi::api::discovery::v1::EndpointPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    // The whole name is a DNS subdomain of at most 253 characters; a Service's has at most 63.
    let prefix = format!("{}-", common.base_name);
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}{}", rng::suffix(5))),
            generate_name: Some(prefix),
            namespace: Some(common.namespace.clone()),
            labels: Some(common.labels.clone()),
            annotations: (!common.annotations.is_empty()).then(|| common.annotations.clone()),
            owner_references: Some(vec![common.owner.clone()]),
            ..Default::default()
        },
        address_type: address_type.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}
