//! What single rules allow, and whether some rules cover others. Nothing here reads or waits.

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::server::info::RequestInfo;

/// Verbs that a rule's mask has a bit for: those of requests, most often asked for.
const VERBS: [&str; 10] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "proxy",
];

/// A rule, with its verbs as bits: most rules that do not apply are passed over by that alone.
#[derive(Clone, Debug)]
pub(in crate::server) struct Rule {
    verbs: u16,
    rule: PolicyRule,
}

/// A verb, looked up once for all rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verb<'a> {
    bit: u16,
    name: &'a str,
}

impl<'a> Verb<'a> {
    /// Looks a verb up.
    pub(super) fn new(name: &'a str) -> Self {
        let bit = VERBS.iter().position(|known| *known == name).map_or(0, |at| 1 << at);
        Self { bit, name }
    }
}

impl Rule {
    /// Prepares a rule.
    pub(in crate::server) fn new(rule: PolicyRule) -> Self {
        let verbs = match rule.verbs.iter().any(|verb| verb == "*") {
            true => u16::MAX,
            false => rule.verbs.iter().fold(0, |mask, verb| mask | Verb::new(verb).bit),
        };
        Self { verbs, rule }
    }

    /// The rule as it was written.
    pub(in crate::server) fn policy(&self) -> &PolicyRule {
        &self.rule
    }

    /// Whether the rule allows a request, whose verb has been looked up.
    pub(super) fn allows(&self, verb: Verb<'_>, request: &RequestInfo) -> bool {
        let allowed = match verb.bit {
            0 => self.verbs == u16::MAX || self.rule.verbs.iter().any(|found| found == verb.name),
            bit => self.verbs & bit != 0,
        };
        if !allowed {
            return false;
        }
        if !request.is_resource {
            return list(&self.rule.non_resource_urls)
                .iter()
                .any(|url| matches_url(url, &request.path));
        }
        let names = list(&self.rule.resource_names);
        list(&self.rule.api_groups).iter().any(|group| group == "*" || *group == request.group)
            && list(&self.rule.resources).iter().any(|pattern| matches_resource(pattern, request))
            && (names.is_empty() || names.contains(&request.name))
    }
}

/// Whether any rule of a fixed list allows a request.
pub(in crate::server) fn any_allows(rules: &[Rule], request: &RequestInfo) -> bool {
    let verb = Verb::new(&request.verb);
    rules.iter().any(|rule| rule.allows(verb, request))
}

fn list(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

/// `*`, `pods`, `pods/log`, or `*/scale`.
fn matches_resource(pattern: &str, request: &RequestInfo) -> bool {
    let (resource, subresource) = (request.resource.as_str(), request.subresource.as_str());
    if pattern == "*" {
        return true;
    }
    if subresource.is_empty() {
        return pattern == resource;
    }
    pattern
        .strip_suffix(subresource)
        .and_then(|rest| rest.strip_suffix('/'))
        .is_some_and(|rest| rest == resource || rest == "*")
}

fn matches_url(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || (pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*')))
}

/// The parts of `wanted` that nothing in `held` covers, each of a single verb on a single thing.
pub(in crate::server) fn missing(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = wanted.iter().flat_map(parts);
    parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// A rule as rules of one verb, and one URL or one group and resource and at most one name.
fn parts(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| Some(vec![text.clone()]);
    let mut parts = Vec::new();
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for verb in &rule.verbs {
                let part = PolicyRule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: vec![verb.clone()],
                    ..PolicyRule::default()
                };
                match list(&rule.resource_names) {
                    [] => parts.push(part),
                    names => parts.extend(
                        names
                            .iter()
                            .map(|name| PolicyRule { resource_names: one(name), ..part.clone() }),
                    ),
                }
            }
        }
    }
    for url in list(&rule.non_resource_urls) {
        parts.extend(rule.verbs.iter().map(|verb| PolicyRule {
            non_resource_urls: one(url),
            verbs: vec![verb.clone()],
            ..PolicyRule::default()
        }));
    }
    parts
}

/// Whether somebody with the rule `held` may do all of `part`.
fn covers(held: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |held: &[String], part: &[String]| {
        held.iter().any(|text| text == "*") || part.iter().all(|text| held.contains(text))
    };
    let resource = |held: &[String], part: &[String]| {
        all(held, part)
            || part.iter().all(|wanted| {
                held.contains(wanted)
                    || wanted
                        .split_once('/')
                        .is_some_and(|(_, sub)| held.contains(&format!("*/{sub}")))
            })
    };
    let url = |wanted: &String| {
        list(&held.non_resource_urls).iter().any(|pattern| matches_url(pattern, wanted))
    };
    let names = list(&held.resource_names);
    let wanted_names = list(&part.resource_names);
    all(&held.verbs, &part.verbs)
        && all(list(&held.api_groups), list(&part.api_groups))
        && resource(list(&held.resources), list(&part.resources))
        && (names.is_empty() || (!wanted_names.is_empty() && all_in(names, wanted_names)))
        && list(&part.non_resource_urls).iter().all(url)
}

fn all_in(held: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|text| held.contains(text))
}

/// Rules in few lines: verbs on the same thing become one rule. One line for each, sorted.
pub(in crate::server) fn describe(rules: &[PolicyRule]) -> String {
    let mut compact: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let same = |other: &&mut PolicyRule| {
            other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && other.resource_names == rule.resource_names
                && rule.non_resource_urls.is_none()
                && other.non_resource_urls.is_none()
        };
        match compact.iter_mut().find(same) {
            Some(other) => {
                for verb in &rule.verbs {
                    if !other.verbs.contains(verb) {
                        other.verbs.push(verb.clone());
                    }
                }
            }
            None => compact.push(rule.clone()),
        }
    }
    let mut lines: Vec<String> = compact.iter().map(line).collect();
    lines.sort();
    lines.dedup();
    lines.join("\n")
}

/// A rule as messages show it: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
fn line(rule: &PolicyRule) -> String {
    let fields = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", rule.verbs.as_slice()),
    ];
    let shown: Vec<String> = fields
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}:{}", quoted(values)))
        .collect();
    format!("{{{}}}", shown.join(", "))
}

/// Texts as Go's `%q` shows a list of them.
pub(in crate::server) fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}
