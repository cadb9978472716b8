//! The audit policy (audit.k8s.io/v1 `Policy`): at which level a request is recorded.

use k8s_openapi::serde::Deserialize;

use super::event::{Level, Stage};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::names,
    server::{body::yaml_to_json, info::RequestInfo, user::UserInfo},
};

const LEVELS: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];
const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

/// A valid policy: rules of which the first that a request matches says how it is recorded. What
/// matches none is not recorded.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// Why a policy is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It is no YAML or JSON, or not of this form.
    #[error("failed decoding: {0}")]
    Undecodable(String),
    /// It is something else, or of a version that is not known.
    #[error("unknown group version field {0} in policy")]
    UnknownVersion(String),
    /// Some fields are wrong.
    #[error("{}", aggregate(.0))]
    Invalid(ErrorList),
    /// It has no rules.
    #[error("loaded illegal policy with 0 rules")]
    Empty,
}

/// Several errors in Go's form.
fn aggregate(errors: &ErrorList) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// How a request is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct Verdict {
    /// How much of it.
    pub level: Level,
    /// At which stages not.
    omitted: Stages,
    /// Whether objects are recorded without their managed fields.
    pub omit_managed_fields: bool,
}

impl Verdict {
    /// Whether this stage is not recorded.
    pub(super) fn omits(self, stage: Stage) -> bool {
        self.omitted.0 & 1 << stage as u8 != 0
    }
}

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stages(u8);

impl Stages {
    fn of(names: &[String]) -> Self {
        let bit = |name: &String| {
            STAGES.iter().position(|stage| stage == name).map_or(0, |position| 1 << position)
        };
        Self(names.iter().map(bit).fold(0, |all, bit| all | bit))
    }
}

// === the document ===

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, crate = "k8s_openapi::serde")]
struct Document {
    api_version: String,
    kind: String,
    rules: Vec<RuleDocument>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, crate = "k8s_openapi::serde")]
struct RuleDocument {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, crate = "k8s_openapi::serde")]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

#[derive(Clone, Debug)]
struct Rule {
    verdict: Verdict,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
}

impl Policy {
    /// Reads a policy file, YAML or JSON. Fields that it does not know are ignored with a warning in
    /// the log, as kube-apiserver does.
    ///
    /// # Errors
    /// When it cannot be read, or a field is wrong; all such fields are named.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let undecodable =
            |error: &dyn std::fmt::Display| PolicyError::Undecodable(error.to_string());
        let json = yaml_to_json(text.as_bytes()).map_err(|error| undecodable(&error.message))?;
        let mut unknown = Vec::new();
        let mut reader = serde_json::Deserializer::from_slice(&json);
        let document: Document = serde_ignored::deserialize(&mut reader, |path| {
            let path = path.to_string();
            if !path.starts_with("metadata") {
                unknown.push(path);
            }
        })
        .map_err(|error| undecodable(&error))?;
        if !unknown.is_empty() {
            tracing::warn!(fields = ?unknown, "the audit policy has unknown fields");
        }
        Self::build(document)
    }

    fn build(document: Document) -> Result<Self, PolicyError> {
        if (document.api_version.as_str(), document.kind.as_str()) != ("audit.k8s.io/v1", "Policy")
        {
            let Document { api_version, kind, .. } = document;
            return Err(PolicyError::UnknownVersion(format!("{api_version}, Kind={kind}")));
        }
        let errors = validate(&document);
        if !errors.is_empty() {
            return Err(PolicyError::Invalid(errors));
        }
        if document.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        let everywhere = Stages::of(&document.omit_stages);
        let rule = |rule: RuleDocument| {
            let position = LEVELS.iter().position(|level| *level == rule.level);
            let level = match position {
                Some(1) => Level::Metadata,
                Some(2) => Level::Request,
                Some(3) => Level::RequestResponse,
                _ => Level::None,
            };
            let verdict = Verdict {
                level,
                omitted: Stages(everywhere.0 | Stages::of(&rule.omit_stages).0),
                omit_managed_fields: rule
                    .omit_managed_fields
                    .unwrap_or(document.omit_managed_fields),
            };
            Rule {
                verdict,
                users: rule.users,
                user_groups: rule.user_groups,
                verbs: rule.verbs,
                resources: rule.resources,
                namespaces: rule.namespaces,
                paths: rule.non_resource_urls,
            }
        };
        Ok(Self { rules: document.rules.into_iter().map(rule).collect() })
    }

    /// How a request is recorded; `None` when it is not. `user` is `None` when authentication
    /// failed.
    pub(in crate::server) fn evaluate(
        &self,
        user: Option<&UserInfo>,
        info: &RequestInfo,
    ) -> Option<Verdict> {
        let rule = self.rules.iter().find(|rule| rule.matches(user, info))?;
        (rule.verdict.level != Level::None).then_some(rule.verdict)
    }
}

impl Rule {
    fn matches(&self, user: Option<&UserInfo>, info: &RequestInfo) -> bool {
        let any_or = |list: &[String], value: &str| list.is_empty() || has(list, value);
        if !self.users.is_empty() && !user.is_some_and(|user| has(&self.users, &user.name)) {
            return false;
        }
        let in_group = |user: &UserInfo| user.groups.iter().any(|g| has(&self.user_groups, g));
        if !self.user_groups.is_empty() && !user.is_some_and(in_group) {
            return false;
        }
        if !any_or(&self.verbs, &info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && any_or(&self.namespaces, &info.namespace)
                && (self.resources.is_empty()
                    || self.resources.iter().any(|resources| resources.matches(info)));
        }
        if !self.paths.is_empty() {
            return !info.is_resource && self.paths.iter().any(|spec| on_path(spec, &info.path));
        }
        true
    }
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != info.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !has(&self.resource_names, &info.name) {
            return false;
        }
        self.resources.iter().any(|pattern| {
            let (resource, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
            let is_all = pattern == "*";
            is_all
                || (resource == info.resource && subresource == info.subresource)
                || (resource == info.resource && subresource == "*")
                || (resource == "*"
                    && subresource == info.subresource
                    && !info.subresource.is_empty())
        })
    }
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|item| item == value)
}

/// Whether a path is the one of a rule: itself, `*`, or what begins as it does up to its `*`.
fn on_path(spec: &str, path: &str) -> bool {
    spec == "*"
        || spec == path
        || (spec.ends_with('*') && path.starts_with(spec.trim_end_matches('*')))
}

// === validation ===

fn validate(policy: &Document) -> ErrorList {
    let mut errors = ErrorList::new();
    stages(&mut errors, &policy.omit_stages, &Path::new("omitStages"));
    for (i, rule) in policy.rules.iter().enumerate() {
        validate_rule(&mut errors, rule, &Path::new("rules").index(i));
    }
    errors
}

fn validate_rule(errors: &mut ErrorList, rule: &RuleDocument, path: &Path<'_>) {
    let at = path.child("level");
    if rule.level.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if !LEVELS.contains(&rule.level.as_str()) {
        errors.push(FieldError::not_supported(&at, rule.level.as_str(), &LEVELS));
    }
    let at = path.child("nonResourceURLs");
    for (i, url) in rule.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
        if !url.starts_with('/') {
            let wrong = "non-resource URL rules must begin with a '/' character";
            errors.push(FieldError::invalid(&at.index(i), url.as_str(), wrong));
        }
        let mut before_last = url.chars();
        before_last.next_back();
        if before_last.any(|c| c == '*') {
            let wrong = "non-resource URL wildcards '*' must be the final character of the rule";
            errors.push(FieldError::invalid(&at.index(i), url.as_str(), wrong));
        }
    }
    let on_resources = path.child("resources");
    for resources in &rule.resources {
        let group = resources.group.as_str();
        if !group.is_empty() && group != "*" {
            let wrong = names::dns_subdomain(group, false);
            if !wrong.is_empty() {
                let at = on_resources.child("group");
                errors.push(FieldError::invalid(&at, group, wrong.join(",")));
            }
        }
        if !resources.resource_names.is_empty() && resources.resources.is_empty() {
            let at = on_resources.child("resourceNames");
            let names = serde_json::json!(resources.resource_names);
            let wrong = "using resourceNames requires at least one resource";
            errors.push(FieldError::invalid(&at, names, wrong));
        }
    }
    stages(errors, &rule.omit_stages, &path.child("omitStages"));
    let on_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
    if on_resources && !rule.non_resource_urls.is_empty() {
        let urls = serde_json::json!(rule.non_resource_urls);
        let wrong = "rules cannot apply to both regular resources and non-resource URLs";
        errors.push(FieldError::invalid(&at, urls, wrong));
    }
}

fn stages(errors: &mut ErrorList, stages: &[String], path: &Path<'_>) {
    for (i, stage) in stages.iter().enumerate() {
        if !STAGES.contains(&stage.as_str()) {
            let wrong = format!("allowed stages are {}", STAGES.join(","));
            errors.push(FieldError::invalid(&path.index(i), stage.as_str(), wrong));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn policy(rules: &str) -> Policy {
        Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}"))
            .unwrap()
    }

    #[track_caller]
    fn check(policy: &Policy, user: &UserInfo, method: Method, path: &str, level: Level) {
        let info = RequestInfo::parse(&method, path, false, None).unwrap();
        let found = policy.evaluate(Some(user), &info).map_or(Level::None, |found| found.level);
        assert_eq!(found, level, "{method} {path}");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(
            "- {level: None, users: [\"system:kube-proxy\"], verbs: [watch]}\n\
             - {level: None, userGroups: [\"system:authenticated\"], nonResourceURLs: [\"/api*\", /version]}\n\
             - {level: Request, resources: [{resources: [configmaps], resourceNames: [lock]}], namespaces: [kube-system]}\n\
             - {level: Metadata, resources: [{resources: [\"pods/*\"]}, {group: \"\", resources: [secrets]}]}\n\
             - {level: RequestResponse, resources: [{group: apps}, {group: batch, resources: [\"*/status\"]}]}",
        );
        let user = UserInfo::new("ann", []);
        let get = || Method::GET;
        check(&policy, &user, get(), "/api", Level::None);
        check(&policy, &user, get(), "/version", Level::None);
        check(&policy, &user, get(), "/healthz", Level::None);
        let lock = "/api/v1/namespaces/kube-system/configmaps/lock";
        check(&policy, &user, get(), lock, Level::Request);
        check(&policy, &user, get(), "/api/v1/namespaces/x/configmaps/lock", Level::None);
        check(&policy, &user, get(), "/api/v1/namespaces/x/pods/p/log", Level::Metadata);
        check(&policy, &user, get(), "/api/v1/namespaces/x/pods/p", Level::Metadata);
        check(&policy, &user, get(), "/api/v1/namespaces/x/secrets", Level::Metadata);
        check(&policy, &user, get(), "/apis/apps/v1/deployments", Level::RequestResponse);
        let status = "/apis/batch/v1/namespaces/x/jobs/j/status";
        check(&policy, &user, Method::PUT, status, Level::RequestResponse);
        check(&policy, &user, get(), "/apis/batch/v1/namespaces/x/jobs/j", Level::None);
    }

    #[test]
    fn stages_are_left_out_by_the_policy_and_by_the_rule() {
        let policy = Policy::parse(
            "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], \
             omitManagedFields: true, rules: [{level: Metadata, omitStages: [Panic]}]}",
        )
        .unwrap();
        let verdict = policy.evaluate(None, &RequestInfo::default()).unwrap();
        assert!(verdict.omits(Stage::RequestReceived) && verdict.omits(Stage::Panic));
        assert!(!verdict.omits(Stage::ResponseComplete) && verdict.omit_managed_fields);
    }

    #[test]
    fn everything_wrong_with_a_policy_is_named() {
        #[track_caller]
        fn check(rules: &str, message: &str) {
            let text = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, {rules}}}");
            assert_eq!(Policy::parse(&text).unwrap_err().to_string(), message);
        }
        check("rules: []", "loaded illegal policy with 0 rules");
        check("rules: [{}]", "rules[0].level: Required value");
        check(
            "rules: [{level: Some}]",
            "rules[0].level: Unsupported value: \"Some\": supported values: \"None\", \
             \"Metadata\", \"Request\", \"RequestResponse\"",
        );
        check(
            "rules: [{level: None, nonResourceURLs: [a, '/*/b'], namespaces: [x]}]",
            "[rules[0].nonResourceURLs[0]: Invalid value: \"a\": non-resource URL rules must begin \
             with a '/' character, rules[0].nonResourceURLs[1]: Invalid value: \"/*/b\": \
             non-resource URL wildcards '*' must be the final character of the rule, \
             rules[0].nonResourceURLs: Invalid value: [\"a\",\"/*/b\"]: rules cannot apply to both \
             regular resources and non-resource URLs]",
        );
        check(
            "omitStages: [Sent], rules: [{level: None, resources: [{resourceNames: [x]}]}]",
            "[omitStages[0]: Invalid value: \"Sent\": allowed stages are \
             RequestReceived,ResponseStarted,ResponseComplete,Panic, rules[0].resources.resourceNames: \
             Invalid value: [\"x\"]: using resourceNames requires at least one resource]",
        );
        let other = Policy::parse("{apiVersion: audit.k8s.io/v1beta1, kind: Policy}");
        assert!(matches!(other, Err(PolicyError::UnknownVersion(_))));
    }
}
