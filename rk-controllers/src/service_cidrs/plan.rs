//! What happens to a range of Service addresses; pure.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::ResourceExt;
use rk_api::meta::names;

/// How long a deletion takes at least.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// Whose addresses hold a range: those that API servers took for Services.
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

/// What happens to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is of use.
    Keep,
    /// It is being deleted, and addresses need it.
    Hold,
    /// It can go after this time.
    RemoveAfter(Duration),
    /// It can go.
    Remove,
}

/// Decides about `range`, one of `all`. `allocated` are the addresses that are taken; it is only
/// asked for if they matter.
pub(super) fn plan(
    range: &ServiceCIDR,
    all: &[Arc<ServiceCIDR>],
    allocated: impl FnOnce() -> Vec<IpAddr>,
    now: Timestamp,
) -> Plan {
    let Some(deleted) = &range.metadata.deletion_timestamp else { return Plan::Keep };
    // Ranges that go too cannot take over. Kubernetes lets them, and two equal ranges that are
    // deleted at once then leave their addresses to nobody.
    let others: Vec<_> = all
        .iter()
        .filter(|other| other.name_any() != range.name_any())
        .filter(|other| other.metadata.deletion_timestamp.is_none())
        .flat_map(|other| prefixes(other))
        .collect();
    let own: Vec<_> = prefixes(range).collect();
    let has_heirs = own.iter().all(|own| others.iter().any(|other| other.covers(*own)));
    let needs_it = |address: &IpAddr| {
        own.iter().any(|own| own.contains(*address))
            && !others.iter().any(|other| other.contains(*address))
    };
    if !has_heirs && allocated().iter().any(needs_it) {
        return Plan::Hold;
    }
    let left = GRACE - now.duration_since(deleted.0);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Plan::RemoveAfter(left),
        _ => Plan::Remove,
    }
}

/// Whether two ranges have an address in common.
pub(super) fn overlap(one: &ServiceCIDR, other: &ServiceCIDR) -> bool {
    prefixes(one).any(|one| prefixes(other).any(|other| one.covers(other) || other.covers(one)))
}

/// Whether an address is of a range.
pub(super) fn contains(range: &ServiceCIDR, address: IpAddr) -> bool {
    prefixes(range).any(|prefix| prefix.contains(address))
}

/// The address of an object that an API server made for a Service.
pub(super) fn is_allocated(object: &IPAddress) -> Option<IpAddr> {
    let managed = object.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1);
    object.name_any().parse().ok().filter(|_| managed)
}

/// A network; IPv4 is apart from IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    address: IpAddr,
    bits: u8,
}

fn prefixes(range: &ServiceCIDR) -> impl Iterator<Item = Prefix> {
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| names::parse_cidr(cidr)).map(|(address, bits)| Prefix { address, bits })
}

impl Prefix {
    fn contains(self, address: IpAddr) -> bool {
        let differing = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        differing >= u32::from(self.bits)
    }

    fn covers(self, other: Prefix) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const DELETED: &str = "2030-01-01T00:00:00Z";

    fn range(name: &str, cidrs: &[&str], deleted: bool) -> Arc<ServiceCIDR> {
        let deleted = deleted.then_some(DELETED);
        let object = json!({
            "metadata": {"name": name, "deletionTimestamp": deleted},
            "spec": {"cidrs": cidrs},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    /// What happens to the first of these, `seconds` after its deletion.
    fn after(seconds: i64, ranges: &[Arc<ServiceCIDR>], taken: &[&str]) -> Plan {
        let now = DELETED.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds);
        let taken = taken.iter().map(|address| address.parse().unwrap()).collect();
        plan(&ranges[0], ranges, || taken, now)
    }

    #[test]
    fn a_range_that_nobody_deletes_stays() {
        assert_eq!(after(60, &[range("a", &["10.0.0.0/24"], false)], &[]), Plan::Keep);
    }

    #[test]
    fn a_range_goes_a_little_after_its_last_address() {
        let gone = [range("a", &["10.0.0.0/24"], true)];
        assert_eq!(after(60, &gone, &["10.0.0.7"]), Plan::Hold);
        assert_eq!(after(60, &gone, &["10.0.1.7"]), Plan::Remove);
        assert_eq!(after(4, &gone, &[]), Plan::RemoveAfter(Duration::from_secs(6)));
        assert_eq!(after(10, &gone, &[]), Plan::Remove);
    }

    #[test]
    fn addresses_of_another_range_too_hold_nothing() {
        let gone = range("a", &["10.0.0.0/24", "fd00::/112"], true);
        let wider = range("b", &["10.0.0.0/16"], false);
        let half = range("c", &["10.0.0.0/25"], false);
        let v6 = range("d", &["fd00::/112"], false);
        let both = [gone.clone(), wider.clone(), v6];
        assert_eq!(after(60, &both, &["10.0.0.7", "fd00::7"]), Plan::Remove);
        assert_eq!(after(60, &[gone.clone(), wider], &["10.0.0.7", "fd00::7"]), Plan::Hold);
        assert_eq!(after(60, &[gone.clone(), half.clone()], &["10.0.0.7"]), Plan::Remove);
        assert_eq!(after(60, &[gone, half], &["10.0.0.200"]), Plan::Hold);
    }

    #[test]
    fn of_two_that_go_none_takes_over_the_others_addresses() {
        let both = [range("a", &["10.0.0.0/24"], true), range("b", &["10.0.0.0/24"], true)];
        assert_eq!(after(60, &both, &["10.0.0.7"]), Plan::Hold);
    }

    #[test]
    fn ranges_overlap_when_one_is_in_the_other() {
        let ranges = |one: &str, other: &str| {
            overlap(&range("a", &[one], false), &range("b", &[other], false))
        };
        assert!(ranges("10.0.0.0/8", "10.3.0.0/16") && ranges("10.3.0.0/16", "10.0.0.0/8"));
        assert!(!ranges("10.0.0.0/24", "10.0.1.0/24") && !ranges("0.0.0.0/0", "::/0"));
    }

    proptest! {
        /// A range that is being deleted goes only when each address taken from it is in another
        /// range that stays.
        #[test]
        fn no_address_is_left_without_a_range(
            ranges in prop::collection::vec((0..16u8, 28..=32u8, any::<bool>()), 1..5),
            taken in prop::collection::vec(0..16u8, 0..4), seconds in 0..20i64,
        ) {
            let ranges: Vec<_> = ranges
                .iter()
                .enumerate()
                .map(|(n, (host, bits, deleted))| {
                    let host = host >> (32 - bits) << (32 - bits);
                    range(&format!("r{n}"), &[&format!("10.0.0.{host}/{bits}")], *deleted)
                })
                .collect();
            let taken: Vec<_> = taken.iter().map(|host| format!("10.0.0.{host}")).collect();
            let texts: Vec<_> = taken.iter().map(String::as_str).collect();
            let planned = after(seconds, &ranges, &texts);
            let is_deleted = |range: &ServiceCIDR| range.metadata.deletion_timestamp.is_some();
            prop_assert_eq!(planned == Plan::Keep, !is_deleted(&ranges[0]));
            let address = |text: &String| text.parse::<IpAddr>().unwrap();
            let abandoned = taken.iter().map(address).any(|address| {
                contains(&ranges[0], address)
                    && !ranges.iter().any(|range| !is_deleted(range) && contains(range, address))
            });
            if is_deleted(&ranges[0]) {
                prop_assert_eq!(planned == Plan::Hold, abandoned);
                prop_assert_eq!(planned == Plan::Remove, !abandoned && seconds >= 10);
            }
        }
    }
}
