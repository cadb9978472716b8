//! ServiceCIDR: a range of addresses for Services.

use k8s_openapi::{
    api::networking::v1::{ServiceCIDR, ServiceCIDRSpec, ServiceCIDRStatus},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of ServiceCIDR.
pub(super) fn row() -> Resource {
    Row::of::<ServiceCidrs>().status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("CIDRs", "string", "The ranges, one for each family of addresses."),
    Column::AGE,
];

/// How a ServiceCIDR behaves.
#[derive(Debug, Default)]
pub(super) struct ServiceCidrs;

impl Kind for ServiceCidrs {
    type Object = ServiceCIDR;

    fn default(range: &mut ServiceCIDR) {
        range.spec.get_or_insert_default();
        range.status.get_or_insert_default();
    }

    fn prepare_create(range: &mut ServiceCIDR) {
        range.status = Some(ServiceCIDRStatus::default());
    }

    fn prepare_update(new: &mut ServiceCIDR, old: &ServiceCIDR, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate(range: &ServiceCIDR) -> ErrorList {
        let mut errors = Errors::default();
        let path = Path::new("spec.cidrs");
        let cidrs = cidrs(range);
        match cidrs {
            [] => errors.required(&path, "at least one CIDR required"),
            [_, _, _, ..] => {
                errors.invalid(&path, json!(range.spec), "may only hold up to 2 values");
                return errors.0;
            }
            [first, second] => {
                let is_v4 = |cidr: &str| names::parse_cidr(cidr).map(|(ip, _)| ip.is_ipv4());
                match (is_v4(first), is_v4(second)) {
                    (Some(one), Some(other)) if one != other => {}
                    _ => errors.invalid(
                        &path,
                        json!(range.spec),
                        "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 \
                         and 2001:db8::/64",
                    ),
                }
            }
            [_] => {}
        }
        for (i, cidr) in cidrs.iter().enumerate() {
            let wrong = names::cidr(cidr);
            if wrong.is_empty()
                && let Some(canonical) = canonical(cidr)
                && canonical != *cidr
            {
                let wrong = format!("must be in canonical form (\"{canonical}\")");
                errors.invalid(&path.index(i), cidr.as_str(), wrong);
            }
            errors.form(&path.index(i), cidr.as_str(), wrong);
        }
        errors.0
    }

    fn validate_update(new: &ServiceCIDR, old: &ServiceCIDR, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            return errors.0;
        }
        // What Services have their addresses from stays; a second family may come.
        let path = Path::new("spec.cidrs");
        let (new, old) = (cidrs(new), cidrs(old));
        if new.len() == old.len() || (old.len() == 1 && new.len() == 2) {
            for (i, (new, old)) in new.iter().zip(old).enumerate() {
                errors.immutable(&path.index(i), new, old);
            }
        } else {
            errors.immutable(&path, &new, &old);
        }
        errors.0
    }

    fn cells(range: &ServiceCIDR, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&range.metadata)),
            json!(cidrs(range).join(",")),
            json!(age(&range.metadata, now)),
        ]
    }
}

fn cidrs(range: &ServiceCIDR) -> &[String] {
    range.spec.as_ref().map_or(&[], |spec: &ServiceCIDRSpec| list(&spec.cidrs))
}

/// The range as it is best written: the address without the bits that are not the network's.
fn canonical(cidr: &str) -> Option<String> {
    use std::net::IpAddr::{V4, V6};
    let (address, prefix_len) = names::parse_cidr(cidr)?;
    let prefix = u32::from(prefix_len);
    let network = match address {
        V4(ip) => V4((ip.to_bits() & u32::MAX.checked_shl(32 - prefix).unwrap_or(0)).into()),
        V6(ip) => V6((ip.to_bits() & u128::MAX.checked_shl(128 - prefix).unwrap_or(0)).into()),
    };
    Some(format!("{network}/{prefix_len}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cidrs: &[&str]) -> ServiceCIDR {
        let cidrs = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect();
        ServiceCIDR { spec: Some(ServiceCIDRSpec { cidrs: Some(cidrs) }), ..ServiceCIDR::default() }
    }

    #[track_caller]
    fn check(cidrs: &[&str], wrong: usize) {
        let errors = ServiceCidrs::validate(&range(cidrs));
        assert_eq!(errors.len(), wrong, "{errors:?}");
    }

    #[test]
    fn one_canonical_range_for_each_family() {
        check(&["10.0.0.0/24"], 0);
        check(&["10.0.0.0/24", "2001:db8::/64"], 0);
        check(&["0.0.0.0/0"], 0);
        check(&[], 1);
        check(&["10.0.0.0/24", "10.1.0.0/24"], 1);
        check(&["10.0.0.1/24"], 1);
        check(&["2001:db8:0::/64"], 1);
        check(&["x"], 1);
    }

    #[test]
    fn a_second_family_may_come_and_nothing_else_changes() {
        let update = |old: &[&str], new: &[&str]| {
            ServiceCidrs::validate_update(&range(new), &range(old), Part::Main).len()
        };
        assert_eq!(update(&["10.0.0.0/24"], &["10.0.0.0/24", "2001:db8::/64"]), 0);
        assert_eq!(update(&["10.0.0.0/24"], &["10.1.0.0/24"]), 1);
        assert_eq!(update(&["10.0.0.0/24", "2001:db8::/64"], &["10.0.0.0/24"]), 1);
    }
}
