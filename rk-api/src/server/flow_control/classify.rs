//! Which flow schema a request belongs to, and which flow within it.

use k8s_openapi::api::flowcontrol::v1::{
    NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject,
};

use crate::server::{info::RequestInfo, user::UserInfo};

const ALL: &str = "*";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distinguisher {
    /// Nothing: it is one flow.
    None,
    /// Who asks.
    ByUser,
    /// The namespace.
    ByNamespace,
}

impl Distinguisher {
    /// As a schema says it.
    pub(super) fn of(method: Option<&str>) -> Self {
        match method {
            Some("ByUser") => Self::ByUser,
            Some("ByNamespace") => Self::ByNamespace,
            _ => Self::None,
        }
    }

    /// The name of a request's flow.
    pub(super) fn flow<'a>(self, user: &'a UserInfo, info: &'a RequestInfo) -> &'a str {
        match self {
            Self::None => "",
            Self::ByUser => &user.name,
            Self::ByNamespace => &info.namespace,
        }
    }
}

/// Whether a request is one of those that these rules are about.
pub(super) fn matches(
    rules: &[PolicyRulesWithSubjects],
    user: &UserInfo,
    info: &RequestInfo,
) -> bool {
    rules.iter().any(|rule| {
        let of_subject = rule.subjects.iter().any(|subject| is_subject(subject, user));
        of_subject && {
            if info.is_resource {
                list(&rule.resource_rules).iter().any(|rule| on_resource(rule, info))
            } else {
                list(&rule.non_resource_rules).iter().any(|rule| on_path(rule, info))
            }
        }
    })
}

fn list<T>(items: &Option<Vec<T>>) -> &[T] {
    items.as_deref().unwrap_or_default()
}

fn is_subject(subject: &Subject, user: &UserInfo) -> bool {
    match subject.kind.as_str() {
        "User" => {
            let name = subject.user.as_ref().map(|user| user.name.as_str());
            name.is_some_and(|name| name == ALL || name == user.name)
        }
        "Group" => {
            let group = subject.group.as_ref().map(|group| group.name.as_str());
            group.is_some_and(|group| group == ALL || user.is_in(group))
        }
        "ServiceAccount" => {
            let named = user.name.strip_prefix(SERVICE_ACCOUNT);
            let named = named.and_then(|rest| rest.split_once(':'));
            let (Some((namespace, name)), Some(account)) = (named, &subject.service_account) else {
                return false;
            };
            account.namespace == namespace && (account.name == ALL || account.name == name)
        }
        _ => false,
    }
}

fn on_resource(rule: &ResourcePolicyRule, info: &RequestInfo) -> bool {
    let is_named = |resources: &[String]| {
        let named = |resource: &String| match resource.split_once('/') {
            Some((plural, subresource)) => {
                plural == info.resource && subresource == info.subresource
            }
            None => *resource == info.resource && info.subresource.is_empty(),
        };
        is_all(resources) || resources.iter().any(named)
    };
    has(&rule.verbs, &info.verb)
        && is_named(&rule.resources)
        && has(&rule.api_groups, &info.group)
        && match info.namespace.as_str() {
            "" => rule.cluster_scope == Some(true),
            namespace => has(list(&rule.namespaces), namespace),
        }
}

fn on_path(rule: &NonResourcePolicyRule, info: &RequestInfo) -> bool {
    let path = info.path.as_str();
    let below = |prefix: &str| {
        // `/healthz` and `/healthz/*` both are what is below it.
        let prefix = prefix.strip_suffix('*').unwrap_or(prefix);
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    };
    has(&rule.verbs, &info.verb)
        && rule.non_resource_urls.iter().any(|url| url == ALL || url == path || below(url))
}

fn is_all(list: &[String]) -> bool {
    matches!(list, [only] if only == ALL)
}

fn has(list: &[String], value: &str) -> bool {
    is_all(list) || list.iter().any(|item| item == value)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(rule: Value, user: &str, method: Method, path: &str, expected: bool) {
        let rule: PolicyRulesWithSubjects = serde_json::from_value(rule).unwrap();
        let info = RequestInfo::parse(&method, path, false, None).unwrap();
        let user = UserInfo::new(user, ["devs"]);
        assert_eq!(matches(&[rule], &user, &info), expected, "{} {method} {path}", user.name);
    }

    #[test]
    fn a_rule_is_about_subjects_and_what_they_do() {
        let rule = || {
            json!({
                "subjects": [{ "kind": "Group", "group": { "name": "devs" } }],
                "resourceRules": [{
                    "verbs": ["get", "list"], "apiGroups": [""],
                    "resources": ["pods", "pods/status"], "namespaces": ["a"],
                }],
                "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["/healthz", "/logs/*"] }],
            })
        };
        let get = || Method::GET;
        check(rule(), "u", get(), "/api/v1/namespaces/a/pods/p", true);
        check(rule(), "u", get(), "/api/v1/namespaces/a/pods/p/status", true);
        check(rule(), "u", get(), "/api/v1/namespaces/a/pods/p/log", false);
        check(rule(), "u", get(), "/api/v1/namespaces/b/pods/p", false);
        check(rule(), "u", get(), "/api/v1/pods", false);
        check(rule(), "u", Method::DELETE, "/api/v1/namespaces/a/pods/p", false);
        check(rule(), "u", get(), "/healthz", true);
        check(rule(), "u", get(), "/healthz/etcd", true);
        check(rule(), "u", get(), "/healthzz", false);
        check(rule(), "u", get(), "/logs/x", true);
        let mut other = rule();
        other["subjects"][0]["group"]["name"] = json!("ops");
        check(other, "u", get(), "/healthz", false);
    }

    #[test]
    fn all_service_accounts_of_a_namespace_are_a_subject() {
        let rule = |name: &str| {
            json!({
                "subjects": [{
                    "kind": "ServiceAccount",
                    "serviceAccount": { "namespace": "kube-system", "name": name },
                }],
                "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["*"] }],
            })
        };
        let get = || Method::GET;
        check(rule("*"), "system:serviceaccount:kube-system:x", get(), "/a", true);
        check(rule("x"), "system:serviceaccount:kube-system:x", get(), "/a", true);
        check(rule("y"), "system:serviceaccount:kube-system:x", get(), "/a", false);
        check(rule("*"), "system:serviceaccount:kube-system2:x", get(), "/a", false);
    }
}
