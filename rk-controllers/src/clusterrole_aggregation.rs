//! ClusterRoles that are the sum of others: `admin`, `edit` and `view`, and those of users.
//!
//! # What it promises
//! The rules of a ClusterRole with an `aggregationRule` are those of all other ClusterRoles that
//! its selectors match, in the order of their names, each rule once.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::{Api, Client, ResourceExt};
use rk_api::{client::Informer, meta::selectors::LabelQuery};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::Error,
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

struct Aggregator {
    client: Client,
    roles: Informer<ClusterRole>,
}

#[async_trait]
impl Reconciler for Aggregator {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(role) = self.roles.get("", &key.name) else { return Ok(Action::Wait) };
        let Some(rules) = aggregate(&role, &self.roles.list()) else { return Ok(Action::Wait) };
        let wanted = ClusterRole { rules: Some(rules), ..(*role).clone() };
        write::update(&Api::all(self.client.clone()), &*role, &wanted, Part::Main).await?;
        Ok(Action::Wait)
    }
}

/// The rules that `role` should have; `None` when it has them, or is no sum of others.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let name = role.metadata.name.as_deref();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        let query = LabelQuery::from_selector(selector);
        let labels = |other: &ClusterRole| other.metadata.labels.clone().unwrap_or_default();
        // They come sorted by name.
        let chosen = all.iter().filter(|other| {
            other.metadata.name.as_deref() != name && query.matches(&labels(other))
        });
        for rule in chosen.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules.as_slice()).then_some(rules)
}

/// The controller, wired up. A change of any role may be one of any sum.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let roles = context.informers.of::<ClusterRole>();
    let reconciler = Aggregator { client: context.client.clone(), roles: roles.clone() };
    let sums = roles.clone();
    Controller::new(name, reconciler).reconciles(&roles).watches(&roles, move |_| {
        let all = sums.list();
        let sums = all.iter().filter(|role| role.aggregation_rule.is_some());
        sums.map(|role| ObjectKey::cluster(role.name_any())).collect()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use serde_json::json;

    fn role(name: &str, label: Option<&str>, resources: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<_> = resources
            .iter()
            .map(|resource| json!({ "apiGroups": [""], "resources": [resource], "verbs": ["get"] }))
            .collect();
        let mut role = json!({ "metadata": { "name": name }, "rules": rules });
        if let Some(label) = label {
            role["metadata"]["labels"] = json!({ label: "true" });
        }
        Arc::new(serde_json::from_value(role).unwrap())
    }

    fn sum(label: &str, resources: &[&str]) -> Arc<ClusterRole> {
        let mut sum = (*role("sum", None, resources)).clone();
        sum.aggregation_rule = serde_json::from_value(
            json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] }),
        )
        .unwrap();
        Arc::new(sum)
    }

    fn resources(rules: &[PolicyRule]) -> String {
        let resources = rules.iter().flat_map(|rule| rule.resources.clone().unwrap());
        resources.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_sum_has_the_rules_of_those_it_selects_each_once() {
        let all = [
            role("a", Some("x"), &["pods", "services"]),
            role("b", Some("x"), &["services", "secrets"]),
            role("c", Some("y"), &["nodes"]),
        ];
        let rules = aggregate(&sum("x", &["nodes"]), &all).unwrap();
        assert_eq!(resources(&rules), "pods services secrets");
        assert_eq!(aggregate(&sum("x", &["pods", "services", "secrets"]), &all), None);
    }

    #[test]
    fn other_roles_are_left_alone() {
        assert_eq!(
            aggregate(&role("a", None, &["pods"]), &[role("b", Some("x"), &["nodes"])]),
            None
        );
    }

    proptest! {
        /// A sum has each rule of those it selects once and no other, and is then left alone.
        #[test]
        fn a_sum_is_the_union(
            roles in prop::collection::vec((0..3u8, prop::collection::vec("[a-d]", 0..4)), 0..6),
            before in prop::collection::vec("[a-e]", 0..3),
        ) {
            let label = |which: u8| [None, Some("x"), Some("y")][usize::from(which)];
            let all: Vec<_> = roles
                .iter()
                .enumerate()
                .map(|(n, (which, rules))| {
                    let rules: Vec<_> = rules.iter().map(String::as_str).collect();
                    role(&format!("r{n}"), label(*which), &rules)
                })
                .collect();
            let before: Vec<_> = before.iter().map(String::as_str).collect();
            let mut sum = (*sum("x", &before)).clone();
            if let Some(rules) = aggregate(&sum, &all) {
                sum.rules = Some(rules);
            }
            prop_assert_eq!(aggregate(&sum, &all), None);
            let found = resources(sum.rules.as_deref().unwrap_or_default());
            let mut found: Vec<_> = found.split_whitespace().collect();
            found.sort_unstable();
            let chosen = roles.iter().filter(|(which, _)| label(*which) == Some("x"));
            let mut expected: Vec<_> =
                chosen.flat_map(|(_, rules)| rules.iter().map(String::as_str)).collect();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(found, expected);
        }
    }
}
