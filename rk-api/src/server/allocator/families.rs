//! Which families of addresses a Service gets (KEP-563).

use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::json;

use super::cidr::Family;
use crate::field::{FieldError, Path};

/// Fills in `spec.ipFamilyPolicy` and `spec.ipFamilies`, for a cluster that has ranges of the
/// families `served`, the preferred one first. `old` is the spec that an update replaces.
pub(super) fn decide(
    spec: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    served: &[Family],
) -> Result<(), FieldError> {
    let Some(&preferred) = served.first() else { return Ok(()) };
    let mut families: Vec<String> = spec.ip_families.clone().unwrap_or_default();
    let chosen = chosen(spec);
    // What addresses say need not be said again.
    for address in chosen.iter().skip(families.len()) {
        families.push(if address.contains(':') { "IPv6" } else { "IPv4" }.to_owned());
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let any_family = headless && spec.selector.as_ref().is_none_or(|selector| selector.is_empty());
    if any_family {
        // It is about addresses of somebody else, whatever this cluster has.
        let policy = spec.ip_family_policy.get_or_insert_with(|| "RequireDualStack".to_owned());
        let dual = policy != "SingleStack";
        fill(&mut families, &[preferred, other(preferred)], dual);
        spec.ip_families = Some(families);
        return Ok(());
    }
    let path = Path::new("spec");
    if spec.ip_family_policy.is_none() && families.len() > 1 {
        return Err(FieldError::invalid(
            &path.child("ipFamilyPolicy"),
            json!(spec.ip_family_policy),
            "must be RequireDualStack or PreferDualStack when multiple `ipFamilies` are specified",
        ));
    }
    let policy = spec.ip_family_policy.get_or_insert_with(|| "SingleStack".to_owned()).clone();
    if policy == "RequireDualStack" && served.len() < 2 {
        return Err(FieldError::invalid(
            &path.child("ipFamilyPolicy"),
            policy,
            "this cluster is not configured for dual-stack services",
        ));
    }
    for (index, family) in families.iter().enumerate() {
        if !served.iter().any(|served| served.as_str() == family) {
            return Err(FieldError::invalid(
                &path.child("ipFamilies").index(index),
                family.as_str(),
                "not configured on this cluster",
            ));
        }
    }
    // A cluster that has got a second family does not change the Services which it has.
    let same = |old: &ServiceSpec| {
        old.ip_family_policy.as_deref() == Some("PreferDualStack")
            && policy == "PreferDualStack"
            && old.ip_families.as_deref() == Some(&families)
    };
    if !old.is_some_and(same) {
        fill(&mut families, served, policy != "SingleStack");
    }
    if policy == "SingleStack" && families.len() > 1 && old.is_some() {
        families.truncate(1);
        spec.cluster_ips.iter_mut().for_each(|addresses| addresses.truncate(1));
    }
    spec.ip_families = Some(families);
    Ok(())
}

/// The addresses that a spec names.
pub(super) fn chosen(spec: &ServiceSpec) -> Vec<String> {
    let mut chosen = spec.cluster_ips.clone().unwrap_or_default();
    if chosen.is_empty() {
        chosen.extend(spec.cluster_ip.clone());
    }
    chosen.retain(|address| !address.is_empty() && address != "None");
    chosen
}

/// Adds the first family, or all of them.
fn fill(families: &mut Vec<String>, served: &[Family], all: bool) {
    for family in served.iter().map(|family| family.as_str()) {
        if (families.is_empty() || all) && !families.iter().any(|there| there == family) {
            families.push(family.to_owned());
        }
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const ONE: &[Family] = &[Family::V4];
    const BOTH: &[Family] = &[Family::V4, Family::V6];

    fn spec(spec: &Value) -> ServiceSpec {
        let mut spec: ServiceSpec = serde_json::from_value(spec.clone()).unwrap();
        spec.selector.get_or_insert_default().insert("a".into(), "b".into());
        spec
    }

    #[track_caller]
    fn check(served: &[Family], given: Value, policy: &str, families: &[&str]) {
        let mut spec = spec(&given);
        decide(&mut spec, None, served).unwrap();
        assert_eq!(spec.ip_family_policy.as_deref(), Some(policy));
        assert_eq!(spec.ip_families.unwrap(), families);
    }

    #[test]
    fn a_service_gets_the_families_that_it_asks_for() {
        check(ONE, json!({}), "SingleStack", &["IPv4"]);
        check(BOTH, json!({}), "SingleStack", &["IPv4"]);
        check(&[Family::V6], json!({}), "SingleStack", &["IPv6"]);
        let prefer = json!({ "ipFamilyPolicy": "PreferDualStack" });
        check(ONE, prefer.clone(), "PreferDualStack", &["IPv4"]);
        check(BOTH, prefer, "PreferDualStack", &["IPv4", "IPv6"]);
        let six_first = json!({ "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"] });
        check(BOTH, six_first, "RequireDualStack", &["IPv6", "IPv4"]);
        check(BOTH, json!({ "clusterIP": "fd00::5" }), "SingleStack", &["IPv6"]);
        check(BOTH, json!({ "clusterIP": "None" }), "SingleStack", &["IPv4"]);
    }

    #[test]
    fn what_the_cluster_does_not_have_is_refused() {
        for (given, field) in [
            (json!({ "ipFamilyPolicy": "RequireDualStack" }), "spec.ipFamilyPolicy"),
            (json!({ "ipFamilies": ["IPv6"] }), "spec.ipFamilies[0]"),
            (json!({ "ipFamilies": ["IPv4", "IPv6"] }), "spec.ipFamilyPolicy"),
        ] {
            let error = decide(&mut spec(&given), None, ONE).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_headless_service_without_selector_is_of_any_family() {
        let mut spec: ServiceSpec = serde_json::from_value(json!({ "clusterIP": "None" })).unwrap();
        decide(&mut spec, None, ONE).unwrap();
        assert_eq!(spec.ip_family_policy.as_deref(), Some("RequireDualStack"));
        assert_eq!(spec.ip_families.unwrap(), ["IPv4", "IPv6"]);
    }

    #[test]
    fn the_second_family_can_be_given_up() {
        let old = spec(&json!({
            "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5", "fd00::5"],
        }));
        let mut new = old.clone();
        new.ip_family_policy = Some("SingleStack".into());
        decide(&mut new, Some(&old), BOTH).unwrap();
        assert_eq!(new.ip_families.unwrap(), ["IPv4"]);
        assert_eq!(new.cluster_ips.unwrap(), ["10.0.0.5"]);
    }
}
