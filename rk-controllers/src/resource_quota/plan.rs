//! What a quota's status should say.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ResourceQuota, ResourceQuotaStatus, ScopedResourceSelectorRequirement,
};
use rk_api::{
    meta::quantity::Quantity,
    quota::{
        Tracked,
        pod_resources::{Amounts, amounts},
    },
};

/// What the spec allows.
pub(super) fn hard(quota: &ResourceQuota) -> Amounts {
    amounts(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()))
}

/// What the status says is allowed.
pub(super) fn status_hard(quota: &ResourceQuota) -> Amounts {
    amounts(quota.status.as_ref().and_then(|status| status.hard.as_ref()))
}

fn used(quota: &ResourceQuota) -> Amounts {
    amounts(quota.status.as_ref().and_then(|status| status.used.as_ref()))
}

/// The kinds that a quota counts.
pub(super) fn tracked(quota: &ResourceQuota) -> BTreeSet<Tracked> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.into_iter().flatten().filter_map(|(name, _)| Tracked::by(name)).collect()
}

/// Whether a quota counts objects of this kind.
pub(super) fn tracks(quota: &ResourceQuota, kind: &Tracked) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.into_iter().flatten().any(|(name, _)| Tracked::by(name).as_ref() == Some(kind))
}

/// Whether the status has no number for something that can be used.
pub(super) fn lacks_usage(quota: &ResourceQuota) -> bool {
    let used = used(quota);
    hard(quota).keys().any(|name| Tracked::by(name).is_some() && !used.contains_key(name))
}

/// What objects of a kind use of which only the number counts. Such objects are in no scope.
pub(super) fn of_others(
    hard: &Amounts,
    scopes: &[ScopedResourceSelectorRequirement],
    kind: &Tracked,
    number: Option<i64>,
) -> Amounts {
    let Some(number) = number else { return Amounts::new() };
    let number = Quantity::new(if scopes.is_empty() { number } else { 0 }, 0);
    let names = hard.keys().filter(|name| Tracked::by(name).as_ref() == Some(kind));
    names.map(|name| (name.clone(), number)).collect()
}

/// The status that a quota should have, given what was counted; `None` when it has it. What could
/// not be counted stays as it is.
pub(super) fn new_status(quota: &ResourceQuota, counted: Amounts) -> Option<ResourceQuotaStatus> {
    let hard = hard(quota);
    let before = used(quota);
    let mut after = before.clone();
    after.extend(counted);
    after.retain(|name, _| hard.contains_key(name));
    if quota.status.as_ref().is_some_and(|status| status.hard.is_some() && status.used.is_some())
        && before == after
        && status_hard(quota) == hard
    {
        return None;
    }
    let list = |amounts: Amounts| {
        Some(amounts.into_iter().map(|(name, amount)| (name, amount.into())).collect())
    };
    Some(ResourceQuotaStatus { hard: list(hard), used: list(after) })
}

/// Whether a status says that less is used of something than the quota said before.
pub(super) fn is_lower(quota: &ResourceQuota, status: &ResourceQuotaStatus) -> bool {
    let after = amounts(status.used.as_ref());
    used(quota).iter().any(|(name, before)| after.get(name).is_some_and(|after| after < before))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn quota(hard: serde_json::Value, status: serde_json::Value) -> ResourceQuota {
        serde_json::from_value(json!({ "spec": { "hard": hard }, "status": status })).unwrap()
    }

    fn counted(some: &[(&str, i64)]) -> Amounts {
        some.iter().map(|(name, number)| ((*name).to_owned(), Quantity::new(*number, 0))).collect()
    }

    #[test]
    fn a_new_quota_gets_its_status() {
        let new = quota(json!({ "pods": "5", "unknown.example.com/x": "1" }), json!({}));
        let status = new_status(&new, counted(&[("pods", 0)])).unwrap();
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            json!({ "hard": { "pods": "5", "unknown.example.com/x": "1" }, "used": { "pods": "0" } })
        );
        assert!(lacks_usage(&new));
    }

    #[test]
    fn an_empty_quota_gets_an_empty_status_once() {
        let mut empty = quota(json!({}), json!({}));
        empty.status = new_status(&empty, Amounts::new());
        assert!(empty.status.is_some());
        assert_eq!(new_status(&empty, Amounts::new()), None);
    }

    #[test]
    fn what_is_no_longer_limited_is_no_longer_counted() {
        let status = json!({ "hard": { "pods": "5", "secrets": "1" }, "used": { "pods": "2", "secrets": "1" } });
        let changed = quota(json!({ "pods": "5000m" }), status);
        let status = new_status(&changed, counted(&[("pods", 2)])).unwrap();
        assert_eq!(status.used.unwrap().len(), 1);
    }

    #[test]
    fn what_could_not_be_counted_stays() {
        let status = json!({ "hard": { "count/a.example.com": "5" }, "used": { "count/a.example.com": "2" } });
        let quota = quota(json!({ "count/a.example.com": "5" }), status);
        assert_eq!(new_status(&quota, Amounts::new()), None);
        assert!(!lacks_usage(&quota));
    }

    #[test]
    fn others_are_in_no_scope() {
        let hard = counted(&[("count/deployments.apps", 5), ("pods", 3)]);
        let kind = Tracked::by("count/deployments.apps").unwrap();
        let scope = ScopedResourceSelectorRequirement {
            scope_name: "BestEffort".into(),
            operator: "Exists".into(),
            values: None,
        };
        assert_eq!(
            of_others(&hard, &[], &kind, Some(4)),
            counted(&[("count/deployments.apps", 4)])
        );
        let scoped = of_others(&hard, &[scope], &kind, Some(4));
        assert_eq!(scoped, counted(&[("count/deployments.apps", 0)]));
        assert!(of_others(&hard, &[], &kind, None).is_empty());
    }

    proptest! {
        #[test]
        fn a_status_that_is_right_is_left_alone(
            hard in proptest::collection::btree_map("[a-c]", 0_i64..5, 0..3),
            old in proptest::collection::btree_map("[a-d]", 0_i64..5, 0..3),
            counts in proptest::collection::btree_map("[a-d]", 0_i64..5, 0..3),
        ) {
            let list = |some: &std::collections::BTreeMap<String, i64>| {
                some.iter().map(|(name, n)| (name.clone(), json!(n.to_string()))).collect::<serde_json::Map<_, _>>()
            };
            let counts: Amounts =
                counts.iter().map(|(name, n)| (name.clone(), Quantity::new(*n, 0))).collect();
            let mut quota = quota(json!(list(&hard)), json!({ "used": list(&old) }));
            quota.status = new_status(&quota, counts.clone()).or(quota.status);
            let now_used = used(&quota);
            prop_assert_eq!(status_hard(&quota), super::hard(&quota));
            prop_assert!(now_used.keys().all(|name| hard.contains_key(name)));
            for (name, amount) in counts.iter().filter(|(name, _)| hard.contains_key(*name)) {
                prop_assert_eq!(now_used.get(name), Some(amount));
            }
            prop_assert_eq!(new_status(&quota, counts), None);
        }
    }
}
