//! A range of Pod addresses for each node.
//!
//! # What it promises
//! - Every node gets one range of the cluster's, written to `spec.podCIDR` and `spec.podCIDRs`.
//! - No two nodes have the same; the range of a node that is gone is given out again.
//! - Ranges that nodes have already, from whoever, are kept and not given out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use parking_lot::Mutex;
use rk_api::client::{EventRecorder, EventType, Informer, object_ref};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

/// The ranges of equal size that a larger one is divided into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CidrPool {
    first: u128,
    v4: bool,
    mask: u8,
    count: u64,
}

impl CidrPool {
    /// Divides `cidr` into ranges with a mask of `node_mask` bits.
    pub(crate) fn new(cidr: &str, node_mask: u8) -> Result<Self, Error> {
        let invalid = || {
            Error::Invalid(format!("cluster_cidr {cidr:?} is not a range such as 10.244.0.0/16"))
        };
        let (address, mask) = cidr.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let mask: u8 = mask.parse().map_err(|_| invalid())?;
        let (first, width, v4) = match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32, true),
            IpAddr::V6(v6) => (v6.to_bits(), 128, false),
        };
        if mask > width {
            return Err(invalid());
        }
        if !(mask..=width).contains(&node_mask) || node_mask - mask > 16 {
            return Err(Error::Invalid(format!(
                "the node mask {node_mask} must be {mask} (that of cluster_cidr) to {}",
                width.min(mask + 16)
            )));
        }
        let host_bits = u32::from(width - mask);
        let first = if host_bits >= 128 { 0 } else { first >> host_bits << host_bits };
        Ok(Self { first, v4, mask: node_mask, count: 1 << (node_mask - mask) })
    }

    /// The first range that is not in `used`.
    fn next_free(&self, used: &BTreeSet<String>) -> Option<String> {
        (0..self.count).map(|index| self.range(index)).find(|range| !used.contains(range))
    }

    fn range(&self, index: u64) -> String {
        let width = if self.v4 { 32 } else { 128 };
        let start = self.first + (u128::from(index) << (width - u32::from(self.mask)));
        let address: IpAddr = match u32::try_from(start) {
            Ok(bits) if self.v4 => IpAddr::V4(bits.into()),
            _ => IpAddr::V6(Ipv6Addr::from_bits(start)),
        };
        format!("{address}/{}", self.mask)
    }
}

struct NodeIpam {
    client: Client,
    recorder: EventRecorder,
    nodes: Informer<Node>,
    pool: CidrPool,
    /// Given out, but perhaps not in the cache yet. There is one worker, so nobody else gives out.
    given: Mutex<BTreeMap<String, String>>,
}

#[async_trait]
impl Reconciler for NodeIpam {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(node) = self.nodes.get("", &key.name) else {
            self.given.lock().remove(&key.name);
            return Ok(Action::Wait);
        };
        if !ranges_of(&node).is_empty() || node.metadata.deletion_timestamp.is_some() {
            self.given.lock().remove(&key.name);
            return Ok(Action::Wait);
        }
        let Some(range) = self.choose(&key.name) else {
            let about = object_ref(&*node);
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.event(&about, EventType::Normal, "CIDRNotAvailable", message);
            return Err(Error::NotYet(format!("no range is left for node {}", key.name)));
        };
        let mut with_range = (*node).clone();
        let spec = with_range.spec.get_or_insert_default();
        spec.pod_cidr = Some(range.clone());
        spec.pod_cidrs = Some(vec![range]);
        write::update(&Api::all(self.client.clone()), &*node, &with_range, Part::Main).await?;
        Ok(Action::Wait)
    }
}

impl NodeIpam {
    fn choose(&self, node: &str) -> Option<String> {
        let mut given = self.given.lock();
        if let Some(range) = given.get(node) {
            return Some(range.clone());
        }
        let mut used: BTreeSet<String> = given.values().cloned().collect();
        used.extend(self.nodes.list().iter().flat_map(|node| ranges_of(node)));
        let range = self.pool.next_free(&used)?;
        given.insert(node.to_owned(), range.clone());
        Some(range)
    }
}

fn ranges_of(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let ranges = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    ranges.filter(|range| !range.is_empty()).cloned().collect()
}

/// The controller, wired up. One worker: what is free is decided one node at a time.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let nodes = context.informers.of::<Node>();
    let settings = &context.settings;
    // The manager's builder has checked these; an empty pool gives out nothing.
    let pool = CidrPool::new(&settings.cluster_cidr, settings.node_cidr_mask_size);
    let pool = pool.unwrap_or(CidrPool { first: 0, v4: true, mask: 32, count: 0 });
    let reconciler = NodeIpam {
        client: context.client.clone(),
        recorder: context.recorder("cidrAllocator"),
        nodes: nodes.clone(),
        pool,
        given: Mutex::default(),
    };
    Controller::new(name, reconciler).reconciles(&nodes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_given_out_from_the_first_free_one() {
        let pool = CidrPool::new("10.244.0.0/16", 24).unwrap();
        let mut used = BTreeSet::new();
        for expected in ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"] {
            let range = pool.next_free(&used).unwrap();
            assert_eq!(range, expected);
            used.insert(range);
        }
        used.remove("10.244.1.0/24");
        assert_eq!(pool.next_free(&used).unwrap(), "10.244.1.0/24");
    }

    #[test]
    fn a_pool_ends() {
        let pool = CidrPool::new("10.0.0.0/30", 31).unwrap();
        let used = BTreeSet::from(["10.0.0.0/31".to_owned(), "10.0.0.2/31".to_owned()]);
        assert_eq!(pool.next_free(&used), None);
    }

    #[test]
    fn version_6_ranges_work_alike() {
        let pool = CidrPool::new("fd00:10:244::/56", 64).unwrap();
        assert_eq!(pool.range(1), "fd00:10:244:1::/64");
    }

    #[test]
    fn nonsense_is_refused() {
        for (cidr, mask) in [
            ("10.244.0.0", 24),
            ("x/16", 24),
            ("10.0.0.0/40", 24),
            ("10.0.0.0/16", 8),
            ("10.0.0.0/8", 30),
        ] {
            assert!(CidrPool::new(cidr, mask).is_err(), "{cidr} {mask}");
        }
    }

    proptest! {
        /// Nodes that come and go have ranges of their own, as long as there are any, and no address
        /// is in two of them.
        #[test]
        fn nodes_share_no_address(
            spare in 0..6u8, host in 1..5u8, comings in prop::collection::vec(any::<(bool, u8)>(), 0..100),
        ) {
            let node_mask = 32 - host;
            let pool = CidrPool::new(&format!("10.0.0.0/{}", node_mask - spare), node_mask).unwrap();
            let mut used = BTreeSet::new();
            for (comes, which) in comings {
                if comes {
                    match pool.next_free(&used) {
                        Some(range) => prop_assert!(used.insert(range)),
                        None => prop_assert_eq!(used.len(), 1 << spare),
                    }
                } else if let Some(range) = used.iter().nth(usize::from(which) % used.len().max(1)).cloned() {
                    used.remove(&range);
                }
                let first = |range: &String| {
                    let (address, _) = range.split_once('/').unwrap();
                    address.parse::<std::net::Ipv4Addr>().unwrap().to_bits()
                };
                let mut firsts: Vec<_> = used.iter().map(first).collect();
                firsts.sort_unstable();
                prop_assert!(firsts.windows(2).all(|pair| pair[1] - pair[0] >= 1 << host));
            }
        }
    }
}
