use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use proptest::prelude::*;

use super::{
    index::Index,
    rules::{describe, missing},
};
use crate::server::{info::RequestInfo, user::UserInfo};

fn words(words: &str) -> Vec<String> {
    words.split_whitespace().map(|word| word.replace("core", "")).collect()
}

fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> PolicyRule {
    PolicyRule {
        verbs: words(verbs),
        api_groups: Some(words(groups)),
        resources: Some(words(resources)),
        resource_names: Some(words(names)).filter(|names| !names.is_empty()),
        non_resource_urls: None,
    }
}

fn urls(verbs: &str, urls: &str) -> PolicyRule {
    PolicyRule {
        verbs: words(verbs),
        non_resource_urls: Some(words(urls)),
        ..PolicyRule::default()
    }
}

fn about(verb: &str, group: &str, namespace: &str, resource: &str, name: &str) -> RequestInfo {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    RequestInfo {
        is_resource: true,
        verb: verb.to_owned().into(),
        group: group.to_owned(),
        namespace: namespace.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    }
}

fn path(verb: &str, path: &str) -> RequestInfo {
    RequestInfo { verb: verb.to_owned().into(), path: path.to_owned(), ..RequestInfo::default() }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: None, kind: kind.to_owned(), name: name.to_owned() }
}

fn subject(kind: &str, name: &str, namespace: Option<&str>) -> Subject {
    Subject {
        api_group: None,
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: namespace.map(ToOwned::to_owned),
    }
}

fn at(namespace: &str, name: &str) -> (String, String) {
    (namespace.to_owned(), name.to_owned())
}

/// An index in which `ann` has one rule everywhere.
fn ann_with(rule: PolicyRule) -> Index {
    let mut index = Index::default();
    index.set_role(at("", "r"), Some(vec![rule]));
    let ann = subject("User", "ann", None);
    index.set_binding(at("", "b"), Some((role_ref("ClusterRole", "r"), vec![ann])));
    index
}

#[track_caller]
fn check(rule: PolicyRule, request: RequestInfo, allowed: bool) {
    let ann = UserInfo::new("ann", []);
    assert_eq!(ann_with(rule).allows(&ann, &request), allowed, "{request:?}");
}

#[test]
fn rules_name_verbs_groups_resources_and_names() {
    let pods = || rule("get list", "core", "pods", "");
    check(pods(), about("get", "", "a", "pods", "x"), true);
    check(pods(), about("list", "", "", "pods", ""), true);
    check(pods(), about("delete", "", "a", "pods", "x"), false);
    check(pods(), about("get", "apps", "a", "pods", "x"), false);
    check(pods(), about("get", "", "a", "pods/log", "x"), false);
    check(pods(), path("get", "/pods"), false);
    check(rule("get", "core", "pods/log", ""), about("get", "", "a", "pods/log", "x"), true);
    check(rule("get", "core", "pods/log", ""), about("get", "", "a", "pods", "x"), false);
    check(
        rule("get", "*", "*/scale", ""),
        about("get", "apps", "a", "deployments/scale", "x"),
        true,
    );
    check(
        rule("get", "*", "*/scale", ""),
        about("get", "apps", "a", "deployments/upscale", "x"),
        false,
    );
    check(rule("*", "*", "*", ""), about("approve", "x", "a", "signers", "y"), true);
    check(rule("approve", "core", "signers", "y"), about("approve", "", "", "signers", "y"), true);
    check(rule("approve", "core", "signers", "y"), about("sign", "", "", "signers", "y"), false);
    check(rule("get", "core", "pods", "x y"), about("get", "", "a", "pods", "y"), true);
    check(rule("get", "core", "pods", "x y"), about("get", "", "a", "pods", ""), false);
}

#[test]
fn rules_name_paths_with_a_star_at_their_end() {
    check(urls("get", "/healthz /api/*"), path("get", "/healthz"), true);
    check(urls("get", "/healthz /api/*"), path("get", "/healthz/etcd"), false);
    check(urls("get", "/healthz /api/*"), path("get", "/api/v1"), true);
    check(urls("get", "/healthz /api/*"), path("get", "/api"), false);
    check(urls("*", "*"), path("post", "/anything"), true);
    check(rule("*", "*", "*", ""), path("get", "/healthz"), false);
}

#[test]
fn a_binding_of_a_namespace_gives_nothing_elsewhere() {
    let mut index = Index::default();
    index.set_role(at("", "view"), Some(vec![rule("get", "core", "pods", ""), urls("get", "*")]));
    let account = subject("ServiceAccount", "robot", None);
    index.set_binding(at("a", "b"), Some((role_ref("ClusterRole", "view"), vec![account])));
    let robot = UserInfo::service_account("a", "robot");
    assert!(index.allows(&robot, &about("get", "", "a", "pods", "x")));
    assert!(!index.allows(&robot, &about("get", "", "b", "pods", "x")));
    assert!(!index.allows(&robot, &about("get", "", "", "pods", "")));
    assert!(!index.allows(&robot, &path("get", "/metrics")));
    assert!(
        !index
            .allows(&UserInfo::service_account("b", "robot"), &about("get", "", "a", "pods", "x"))
    );
    assert_eq!(
        index.reason(&robot, &about("get", "", "a", "pods", "x")).unwrap(),
        "RoleBinding \"b/a\" of ClusterRole \"view\" to ServiceAccount \"robot\""
    );
}

#[test]
fn a_role_counts_from_when_it_is_there_and_is_named_while_it_is_not() {
    let mut index = ann_with(rule("get", "core", "pods", ""));
    let (ann, request) = (UserInfo::new("ann", []), about("get", "", "a", "pods", "x"));
    index.set_role(at("", "r"), None);
    assert!(!index.allows(&ann, &request));
    assert_eq!(
        index.dangling(&ann, "a"),
        ["clusterrole.rbac.authorization.k8s.io \"r\" not found"]
    );
    index.set_role(at("", "r"), Some(vec![rule("get", "core", "pods", "")]));
    assert!(index.allows(&ann, &request));
    index.set_binding(at("", "b"), None);
    assert!(!index.allows(&ann, &request));
}

#[test]
fn what_is_not_held_is_missing() {
    let held = [
        rule("get list", "core", "pods", ""),
        rule("*", "apps", "*/scale", ""),
        urls("get", "/a/*"),
    ];
    let lacks = |wanted: PolicyRule| describe(&missing(&held, &[wanted]));
    assert_eq!(lacks(rule("get", "core", "pods", "x")), "");
    assert_eq!(lacks(rule("patch", "apps", "deployments/scale", "")), "");
    assert_eq!(lacks(urls("get", "/a/b")), "");
    assert_eq!(
        lacks(rule("get delete watch", "core", "pods", "")),
        "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"watch\"]}"
    );
    assert_eq!(
        lacks(rule("*", "core", "secrets", "a")),
        "{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"a\"], Verbs:[\"*\"]}"
    );
    assert_eq!(lacks(urls("get", "/b")), "{NonResourceURLs:[\"/b\"], Verbs:[\"get\"]}");
    let named = [rule("get", "core", "pods", "x")];
    assert!(!missing(&named, &[rule("get", "core", "pods", "")]).is_empty());
}

// === against a model ===

/// Roles and bindings as lists, evaluated as their documentation reads.
#[derive(Clone, Debug, Default)]
struct Model {
    roles: Vec<((String, String), Vec<PolicyRule>)>,
    bindings: Vec<((String, String), RoleRef, Vec<Subject>)>,
}

impl Model {
    fn allows(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        self.bindings.iter().any(|((namespace, _), role, subjects)| {
            let here =
                namespace.is_empty() || (request.is_resource && *namespace == request.namespace);
            let meant = subjects.iter().any(|subject| match subject.kind.as_str() {
                "User" => subject.name == user.name,
                "Group" => user.groups.contains(&subject.name),
                _ => {
                    let own = subject.namespace.clone().unwrap_or(namespace.clone());
                    !own.is_empty()
                        && user.name == format!("system:serviceaccount:{own}:{}", subject.name)
                }
            });
            let role_namespace = if role.kind == "ClusterRole" { "" } else { namespace };
            let rules = self
                .roles
                .iter()
                .filter(|((namespace, name), _)| namespace == role_namespace && *name == role.name);
            here && meant
                && rules.flat_map(|(_, rules)| rules).any(|rule| model_rule(rule, request))
        })
    }
}

fn model_rule(rule: &PolicyRule, request: &RequestInfo) -> bool {
    let has = |list: &Option<Vec<String>>, text: &str| {
        list.iter().flatten().any(|found| found == "*" || found == text)
    };
    let verb = rule.verbs.iter().any(|verb| verb == "*" || *verb == request.verb);
    if !request.is_resource {
        return verb
            && rule.non_resource_urls.iter().flatten().any(|url| {
                *url == request.path
                    || url.strip_suffix('*').is_some_and(|start| request.path.starts_with(start))
            });
    }
    let resource = request.resource_and_subresource();
    let any_of = format!("*/{}", request.subresource);
    let names = rule.resource_names.clone().unwrap_or_default();
    verb && has(&rule.api_groups, &request.group)
        && (has(&rule.resources, &resource)
            || (!request.subresource.is_empty() && has(&rule.resources, &any_of)))
        && (names.is_empty() || names.contains(&request.name))
}

#[derive(Clone, Debug)]
enum Change {
    Role((String, String), Option<Vec<PolicyRule>>),
    Binding((String, String), Option<(RoleRef, Vec<Subject>)>),
}

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::select(words).prop_map(ToOwned::to_owned)
}

fn some_of(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(one_of(words), 1..3)
}

const VERBS: &[&str] = &["get", "list", "bind", "*"];
const GROUPS: &[&str] = &["", "apps", "*"];
const RESOURCES: &[&str] = &["pods", "pods/log", "*/log", "*"];
const NAMES: &[&str] = &["x", "y"];
const PATHS: &[&str] = &["/a", "/a/*", "*"];
const SPACES: &[&str] = &["", "a", "b"];

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    let resource =
        (some_of(VERBS), some_of(GROUPS), some_of(RESOURCES), proptest::option::of(some_of(NAMES)))
            .prop_map(|(verbs, groups, resources, names)| PolicyRule {
                verbs,
                api_groups: Some(groups),
                resources: Some(resources),
                resource_names: names,
                non_resource_urls: None,
            });
    let path = (some_of(VERBS), some_of(PATHS)).prop_map(|(verbs, urls)| PolicyRule {
        verbs,
        non_resource_urls: Some(urls),
        ..PolicyRule::default()
    });
    prop_oneof![3 => resource, 1 => path]
}

fn any_subject() -> impl Strategy<Value = Subject> {
    (
        one_of(&["User", "Group", "ServiceAccount"]),
        one_of(&["ann", "devs"]),
        proptest::option::of(one_of(&["a", "b"])),
    )
        .prop_map(|(kind, name, namespace)| {
            let namespace = namespace.filter(|_| kind == "ServiceAccount");
            subject(&kind, &name, namespace.as_deref())
        })
}

fn any_change() -> impl Strategy<Value = Change> {
    let place = || (one_of(SPACES), one_of(NAMES));
    let role =
        (place(), proptest::option::weighted(0.8, proptest::collection::vec(any_rule(), 0..3)))
            .prop_map(|(place, rules)| Change::Role(place, rules));
    let given = (
        one_of(&["ClusterRole", "Role"]),
        one_of(NAMES),
        proptest::collection::vec(any_subject(), 0..3),
    );
    let binding = (place(), proptest::option::weighted(0.8, given)).prop_map(|(place, given)| {
        let given = given.map(|(kind, name, subjects)| {
            // Only a namespace has Roles.
            let kind = if place.0.is_empty() { "ClusterRole".to_owned() } else { kind };
            (role_ref(&kind, &name), subjects)
        });
        Change::Binding(place, given)
    });
    prop_oneof![role, binding]
}

fn any_request() -> impl Strategy<Value = RequestInfo> {
    let resource = (
        one_of(&["get", "list", "bind", "delete"]),
        one_of(&["", "apps", "other"]),
        one_of(SPACES),
        one_of(&["pods", "pods/log", "nodes", "nodes/log"]),
        one_of(&["", "x", "z"]),
    )
        .prop_map(|(verb, group, namespace, resource, name)| {
            about(&verb, &group, &namespace, &resource, &name)
        });
    let nonresource = (one_of(&["get", "list"]), one_of(&["/a", "/a/b", "/b"]))
        .prop_map(|(verb, at)| path(&verb, &at));
    prop_oneof![3 => resource, 1 => nonresource]
}

fn any_user() -> impl Strategy<Value = UserInfo> {
    prop_oneof![
        Just(UserInfo::new("ann", ["devs"])),
        Just(UserInfo::new("bob", ["devs", "ann"])),
        Just(UserInfo::service_account("a", "ann")),
        Just(UserInfo::service_account("b", "devs")),
        Just(UserInfo::anonymous()),
    ]
}

proptest! {
    #[test]
    fn the_index_decides_as_the_model_after_any_changes(
        changes in proptest::collection::vec(any_change(), 0..24),
        questions in proptest::collection::vec((any_user(), any_request()), 16),
    ) {
        let (mut index, mut model) = (Index::default(), Model::default());
        for change in changes {
            match change {
                Change::Role(place, rules) => {
                    model.roles.retain(|(found, _)| *found != place);
                    model.roles.extend(rules.clone().map(|rules| (place.clone(), rules)));
                    index.set_role(place, rules);
                }
                Change::Binding(place, given) => {
                    model.bindings.retain(|(found, _, _)| *found != place);
                    let new = given.clone().map(|(role, subjects)| (place.clone(), role, subjects));
                    model.bindings.extend(new);
                    index.set_binding(place, given);
                }
            }
            for (user, request) in &questions {
                let expected = model.allows(user, request);
                prop_assert_eq!(index.allows(user, request), expected, "{:?} {:?}", user, request);
                prop_assert_eq!(index.reason(user, request).is_some(), expected);
            }
        }
    }

    #[test]
    fn who_covers_a_rule_may_do_all_that_it_allows(
        held in proptest::collection::vec(any_rule(), 0..4),
        wanted in any_rule(),
        request in any_request(),
    ) {
        let covered = missing(&held, std::slice::from_ref(&wanted)).is_empty();
        if covered && model_rule(&wanted, &request) {
            prop_assert!(held.iter().any(|rule| model_rule(rule, &request)));
        }
    }
}
