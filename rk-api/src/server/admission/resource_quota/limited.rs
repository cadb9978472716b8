//! What is limited where no quota is: resources that a namespace has none of, and scopes that it is
//! not let into, unless a quota there gives it some.

use k8s_openapi::{
    api::core::v1::{ResourceQuota, ScopedResourceSelectorRequirement},
    jiff::Timestamp,
};
use serde::Deserialize;

use super::covered;
use crate::{
    meta::quantity::Quantity,
    quota::{Item, scopes},
    resources::Resource,
    server::{admission::PluginError, status::ApiError},
};

/// What the plug-in ResourceQuota is told (`apiserver.config.k8s.io/v1`,
/// ResourceQuotaConfiguration).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResourceQuotaLimits {
    /// What is limited.
    pub limited_resources: Vec<LimitedResource>,
}

/// A kind of which a namespace gets nothing that none of its quotas is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LimitedResource {
    /// The group of the kind; empty is the core group.
    pub api_group: String,
    /// The kind, as paths name it: `pods`.
    pub resource: String,
    /// What such an object uses is limited when its name contains one of these: `requests.cpu`,
    /// `.storageclass.storage.k8s.io/requests.storage`.
    pub match_contains: Vec<String>,
    /// Objects in one of these scopes are limited.
    pub match_scopes: Vec<LimitedScope>,
}

/// A scope, as a quota's `scopeSelector` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LimitedScope {
    /// Which: `PriorityClass`, `BestEffort`.
    pub scope_name: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// What `In` and `NotIn` compare with.
    pub values: Vec<String>,
}

impl LimitedScope {
    fn requirement(&self) -> ScopedResourceSelectorRequirement {
        ScopedResourceSelectorRequirement {
            scope_name: self.scope_name.clone(),
            operator: self.operator.clone(),
            values: Some(self.values.clone()),
        }
    }

    /// As Go prints it.
    fn shown(&self) -> String {
        format!("{{{} {} [{}]}}", self.scope_name, self.operator, self.values.join(" "))
    }
}

impl ResourceQuotaLimits {
    /// # Errors
    /// When a limit is about no kind.
    pub(in crate::server::admission) fn validate(&self) -> Result<(), PluginError> {
        let nameless =
            self.limited_resources.iter().position(|limited| limited.resource.is_empty());
        nameless.map_or(Ok(()), |index| {
            let why = format!("limitedResources[{index}].resource: Required value");
            Err(PluginError::Misconfigured { plugin: super::NAME, why })
        })
    }

    fn of(&self, resource: &Resource) -> impl Iterator<Item = &LimitedResource> {
        self.limited_resources.iter().filter(|limited| {
            limited.api_group == resource.group && limited.resource == resource.plural
        })
    }

    /// Whether objects of the kind are limited.
    pub(super) fn are_about(&self, resource: &Resource) -> bool {
        self.of(resource).next().is_some()
    }

    /// What of the object these quotas, all of its namespace, do not cover.
    pub(super) fn uncovered(
        &self,
        resource: &Resource,
        item: &Item<'_>,
        quotas: &[ResourceQuota],
        now: Timestamp,
    ) -> Option<Uncovered> {
        let is_limited = |name: &str| {
            let is_in = |part: &String| name.contains(part.as_str());
            self.of(resource).any(|limited| limited.match_contains.iter().any(is_in))
        };
        let covers = |quota: &ResourceQuota, name: &String| covered(quota, item).contains(&name);
        let usage = item.usage(now);
        let lacking = usage.iter().filter(|(name, amount)| {
            **amount > Quantity::ZERO
                && is_limited(name)
                && !quotas.iter().any(|quota| covers(quota, name))
        });
        let lacking: Vec<String> = lacking.map(|(name, _)| name.clone()).collect();
        if !lacking.is_empty() {
            return Some(Uncovered::Resources(lacking));
        }
        // A quota that is about the object in this scope lets it in, whatever its other scopes are.
        let own: Vec<_> = quotas.iter().flat_map(scopes).filter(|own| item.is_in(own)).collect();
        let limited = self.of(resource).flat_map(|limited| &limited.match_scopes);
        let closed = limited.filter(|scope| {
            item.is_in(&scope.requirement())
                && !own.iter().any(|own| own.scope_name == scope.scope_name)
        });
        let closed: Vec<String> = closed.map(LimitedScope::shown).collect();
        (!closed.is_empty()).then_some(Uncovered::Scopes(closed))
    }
}

/// What no quota covers, in kube-apiserver's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Uncovered {
    /// Resources that the object uses.
    #[error("insufficient quota to consume: {}", .0.join(","))]
    Resources(Vec<String>),
    /// Scopes that it is in.
    #[error("insufficient quota to match these scopes: [{}]", .0.join(" "))]
    Scopes(Vec<String>),
}

impl Uncovered {
    /// What the client is told. kube-apiserver gives no reason for a scope that is closed, and
    /// controllers show its message as it is, so it is the same here.
    pub(super) fn refusal(&self, forbidden: impl FnOnce(&str) -> ApiError) -> ApiError {
        match self {
            Self::Resources(_) => forbidden(&self.to_string()),
            Self::Scopes(_) => ApiError::new(500, "", self.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::resources::Resources;

    fn limits(limited: Value) -> ResourceQuotaLimits {
        serde_json::from_value(json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "ResourceQuotaConfiguration",
            "limitedResources": [limited],
        }))
        .unwrap()
    }

    /// Asks for a Pod of the class `high` with a CPU and no memory.
    #[track_caller]
    fn check(limited: &Value, quotas: &[Value], wrong: Option<&str>) {
        let quota = |spec: &Value| -> ResourceQuota {
            let status = json!({ "hard": spec["hard"], "used": spec["hard"] });
            serde_json::from_value(json!({ "spec": spec, "status": status })).unwrap()
        };
        let quotas: Vec<_> = quotas.iter().map(quota).collect();
        let requests = json!({ "cpu": "1", "memory": "0" });
        let container = json!({ "name": "c", "resources": { "requests": requests } });
        let spec = json!({ "priorityClassName": "high", "containers": [container] });
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let resources = Resources::builtin();
        let row = resources.get("", "v1", "pods").unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let found = limits(limited.clone()).uncovered(row, &Item::new(row, &pod), &quotas, now);
        assert_eq!(found.map(|wrong| wrong.to_string()).as_deref(), wrong);
    }

    #[test]
    fn what_is_limited_is_used_only_where_a_quota_is_about_it() {
        let limited = json!({ "resource": "pods", "matchContains": ["cpu", "memory"] });
        let all = Some("insufficient quota to consume: cpu,requests.cpu");
        check(&limited, &[], all);
        check(&limited, &[json!({ "hard": { "pods": "1" } })], all);
        let half = json!({ "hard": { "cpu": "1" } });
        let other = Some("insufficient quota to consume: requests.cpu");
        check(&limited, std::slice::from_ref(&half), other);
        check(&limited, &[half, json!({ "hard": { "requests.cpu": "1" } })], None);
        let best = json!({
            "hard": { "cpu": "1", "requests.cpu": "1" }, "scopes": ["BestEffort"],
        });
        check(&limited, &[best], all);
        check(&json!({ "resource": "services", "matchContains": ["cpu"] }), &[], None);
        let apps = json!({ "apiGroup": "apps", "resource": "pods", "matchContains": ["cpu"] });
        check(&apps, &[], None);
    }

    #[test]
    fn a_limited_scope_is_entered_only_by_a_quota_for_it() {
        let scope = |values: &[&str]| json!({ "scopeName": "PriorityClass", "operator": "In", "values": values });
        let limited =
            |values: &[&str]| json!({ "resource": "pods", "matchScopes": [scope(values)] });
        let quota = |values: &[&str]| {
            let selector = json!({ "matchExpressions": [scope(values)] });
            json!({ "hard": { "pods": "1" }, "scopeSelector": selector })
        };
        let closed =
            Some("insufficient quota to match these scopes: [{PriorityClass In [high higher]}]");
        check(&limited(&["high", "higher"]), &[], closed);
        check(&limited(&["high", "higher"]), &[quota(&["low"])], closed);
        check(&limited(&["high", "higher"]), &[quota(&["high"])], None);
        check(&limited(&["low"]), &[], None);
    }

    #[test]
    fn a_limit_names_its_kind() {
        assert!(limits(json!({ "resource": "pods" })).validate().is_ok());
        assert_eq!(
            limits(json!({ "apiGroup": "apps" })).validate().unwrap_err().to_string(),
            "couldn't init admission plugin \"ResourceQuota\": limitedResources[0].resource: \
             Required value"
        );
    }
}
