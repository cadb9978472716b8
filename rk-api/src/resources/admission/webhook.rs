//! ValidatingWebhookConfiguration and MutatingWebhookConfiguration.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations,
        ServiceReference, ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    super::{
        Column, Kind, Part, Resource,
        check::{Errors, default_text, list, text},
        row::Row,
        workload,
    },
    rules,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The rows of MutatingWebhookConfiguration and ValidatingWebhookConfiguration.
pub(super) fn rows() -> [Resource; 2] {
    [
        Row::of::<MutatingWebhooks>().columns(COLUMNS).done(),
        Row::of::<ValidatingWebhooks>().columns(COLUMNS).done(),
    ]
}

const COLUMNS: &[Column] =
    &[Column::NAME, Column::new("Webhooks", "integer", "How many webhooks it has."), Column::AGE];

/// Versions of AdmissionReview that this server speaks.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
/// What a webhook may do besides answering, so that dry runs are possible.
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];

/// What both kinds of webhooks have.
struct Webhook<'a> {
    name: &'a str,
    client: &'a WebhookClientConfig,
    review_versions: &'a [String],
    rules: &'a [RuleWithOperations],
    failure_policy: Option<&'a str>,
    match_policy: Option<&'a str>,
    reinvocation_policy: Option<&'a str>,
    namespace_selector: Option<&'a LabelSelector>,
    object_selector: Option<&'a LabelSelector>,
    side_effects: &'a str,
    timeout_seconds: Option<i32>,
    match_conditions: &'a [MatchCondition],
}

impl<'a> From<&'a MutatingWebhook> for Webhook<'a> {
    fn from(hook: &'a MutatingWebhook) -> Self {
        Self {
            name: &hook.name,
            client: &hook.client_config,
            review_versions: &hook.admission_review_versions,
            rules: list(&hook.rules),
            failure_policy: hook.failure_policy.as_deref(),
            match_policy: hook.match_policy.as_deref(),
            reinvocation_policy: hook.reinvocation_policy.as_deref(),
            namespace_selector: hook.namespace_selector.as_ref(),
            object_selector: hook.object_selector.as_ref(),
            side_effects: &hook.side_effects,
            timeout_seconds: hook.timeout_seconds,
            match_conditions: list(&hook.match_conditions),
        }
    }
}

impl<'a> From<&'a ValidatingWebhook> for Webhook<'a> {
    fn from(hook: &'a ValidatingWebhook) -> Self {
        Self {
            name: &hook.name,
            client: &hook.client_config,
            review_versions: &hook.admission_review_versions,
            rules: list(&hook.rules),
            failure_policy: hook.failure_policy.as_deref(),
            match_policy: hook.match_policy.as_deref(),
            reinvocation_policy: None,
            namespace_selector: hook.namespace_selector.as_ref(),
            object_selector: hook.object_selector.as_ref(),
            side_effects: &hook.side_effects,
            timeout_seconds: hook.timeout_seconds,
            match_conditions: list(&hook.match_conditions),
        }
    }
}

/// How a MutatingWebhookConfiguration behaves.
#[derive(Debug, Default)]
pub(super) struct MutatingWebhooks;

impl Kind for MutatingWebhooks {
    type Object = MutatingWebhookConfiguration;

    fn default(object: &mut MutatingWebhookConfiguration) {
        for hook in object.webhooks.iter_mut().flatten() {
            default_text(&mut hook.failure_policy, "Fail");
            default_text(&mut hook.reinvocation_policy, "Never");
            hook.timeout_seconds.get_or_insert(10);
            rules::default_selectors(
                &mut hook.match_policy,
                &mut hook.namespace_selector,
                &mut hook.object_selector,
            );
            hook.rules.iter_mut().flatten().for_each(rules::default_rule);
            default_client(&mut hook.client_config);
        }
    }

    fn prepare_create(object: &mut MutatingWebhookConfiguration) {
        workload::first_generation(&mut object.metadata);
    }

    fn prepare_update(
        new: &mut MutatingWebhookConfiguration,
        old: &MutatingWebhookConfiguration,
        _: Part,
    ) {
        let changed = new.webhooks != old.webhooks;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate_create(object: &MutatingWebhookConfiguration) -> ErrorList {
        validate(&webhooks(&object.webhooks), &[])
    }

    fn validate_update(
        new: &MutatingWebhookConfiguration,
        old: &MutatingWebhookConfiguration,
        _: Part,
    ) -> ErrorList {
        validate(&webhooks(&new.webhooks), &webhooks(&old.webhooks))
    }

    fn cells(object: &MutatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        cells(&object.metadata, list(&object.webhooks).len(), now)
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// How a ValidatingWebhookConfiguration behaves.
#[derive(Debug, Default)]
pub(super) struct ValidatingWebhooks;

impl Kind for ValidatingWebhooks {
    type Object = ValidatingWebhookConfiguration;

    fn default(object: &mut ValidatingWebhookConfiguration) {
        for hook in object.webhooks.iter_mut().flatten() {
            default_text(&mut hook.failure_policy, "Fail");
            hook.timeout_seconds.get_or_insert(10);
            rules::default_selectors(
                &mut hook.match_policy,
                &mut hook.namespace_selector,
                &mut hook.object_selector,
            );
            hook.rules.iter_mut().flatten().for_each(rules::default_rule);
            default_client(&mut hook.client_config);
        }
    }

    fn prepare_create(object: &mut ValidatingWebhookConfiguration) {
        workload::first_generation(&mut object.metadata);
    }

    fn prepare_update(
        new: &mut ValidatingWebhookConfiguration,
        old: &ValidatingWebhookConfiguration,
        _: Part,
    ) {
        let changed = new.webhooks != old.webhooks;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate_create(object: &ValidatingWebhookConfiguration) -> ErrorList {
        validate(&webhooks(&object.webhooks), &[])
    }

    fn validate_update(
        new: &ValidatingWebhookConfiguration,
        old: &ValidatingWebhookConfiguration,
        _: Part,
    ) -> ErrorList {
        validate(&webhooks(&new.webhooks), &webhooks(&old.webhooks))
    }

    fn cells(object: &ValidatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        cells(&object.metadata, list(&object.webhooks).len(), now)
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

fn webhooks<'a, W>(hooks: &'a Option<Vec<W>>) -> Vec<Webhook<'a>>
where
    Webhook<'a>: From<&'a W>,
{
    list(hooks).iter().map(Webhook::from).collect()
}

fn cells(meta: &ObjectMeta, webhooks: usize, now: Timestamp) -> Vec<Value> {
    vec![json!(name(meta)), json!(webhooks), json!(age(meta, now))]
}

fn default_client(client: &mut WebhookClientConfig) {
    if let Some(service) = &mut client.service {
        service.port.get_or_insert(443);
    }
}

/// What is wrong with the webhooks. Rules that came late bind only those who kept them so far.
fn validate(hooks: &[Webhook<'_>], old: &[Webhook<'_>]) -> ErrorList {
    let mut errors = Errors::default();
    let knows_review = |hook: &Webhook<'_>| {
        hook.review_versions.iter().any(|version| REVIEW_VERSIONS.contains(&version.as_str()))
    };
    let require_review =
        old.iter().all(|hook| hook.review_versions.is_empty() || knows_review(hook));
    let require_harmless = old.iter().all(|hook| NO_SIDE_EFFECTS.contains(&hook.side_effects));
    let old_names: BTreeSet<_> = old.iter().map(|hook| hook.name).collect();
    let require_unique = old_names.len() == old.len();

    let same =
        |(new, old): (&Webhook<'_>, &Webhook<'_>)| new.match_conditions == old.match_conditions;
    let keeps_conditions = hooks.len() == old.len() && hooks.iter().zip(old).all(same);

    let mut known = BTreeSet::new();
    for (i, hook) in hooks.iter().enumerate() {
        let at = Path::new("webhooks").index(i);
        let side_effects = if require_harmless { NO_SIDE_EFFECTS } else { SIDE_EFFECTS };
        webhook(&mut errors, hook, side_effects, &at);
        if !keeps_conditions {
            let at = at.child("matchConditions");
            rules::conditions(&mut errors, hook.match_conditions, false, &at);
        }
        let versions_at = at.child("admissionReviewVersions");
        review_versions(&mut errors, hook.review_versions, &versions_at);
        if require_review && !hook.review_versions.is_empty() && !knows_review(hook) {
            let wrong = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
            errors.invalid(&versions_at, json!(hook.review_versions), wrong);
        }
        if require_unique && !hook.name.is_empty() && !known.insert(hook.name) {
            errors.push(FieldError::duplicate(&at.child("name"), hook.name));
        }
    }
    errors.0
}

fn webhook(errors: &mut Errors, hook: &Webhook<'_>, side_effects: &[&str], path: &Path) {
    let at = path.child("name");
    if hook.name.is_empty() {
        errors.required(&at, "");
    } else {
        errors.form(&at, hook.name, names::fully_qualified_name(hook.name));
    }
    for (i, rule) in hook.rules.iter().enumerate() {
        rules::rule(errors, rule, &path.child("rules").index(i));
    }
    if let Some(policy) = hook.failure_policy {
        errors.one_of(&path.child("failurePolicy"), policy, rules::FAILURE_POLICIES);
    }
    if let Some(policy) = hook.match_policy {
        errors.one_of(&path.child("matchPolicy"), policy, rules::MATCH_POLICIES);
    }
    let at = path.child("sideEffects");
    if hook.side_effects.is_empty() {
        errors.required(&at, &format!("must specify one of {}", side_effects.join(", ")));
    } else {
        errors.one_of(&at, hook.side_effects, side_effects);
    }
    if let Some(seconds) = hook.timeout_seconds.filter(|seconds| !(1..=30).contains(seconds)) {
        let wrong = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, wrong);
    }
    for (field, selector) in
        [("namespaceSelector", hook.namespace_selector), ("objectSelector", hook.object_selector)]
    {
        if let Some(selector) = selector {
            errors.selector(&path.child(field), selector);
        }
    }
    if let Some(policy) = hook.reinvocation_policy {
        errors.one_of(&path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
    }
    client(errors, hook.client, &path.child("clientConfig"));
}

fn review_versions(errors: &mut Errors, versions: &[String], path: &Path) {
    if versions.is_empty() {
        let wrong = format!("must specify one of {}", REVIEW_VERSIONS.join(", "));
        return errors.required(path, &wrong);
    }
    for (i, version) in versions.iter().enumerate() {
        let at = path.index(i);
        if versions[..i].contains(version) {
            errors.invalid(&at, version.as_str(), "duplicate version");
            continue;
        }
        errors.form(&at, version.as_str(), names::dns1035_label(version, false));
    }
}

fn client(errors: &mut Errors, client: &WebhookClientConfig, path: &Path) {
    match (&client.url, &client.service) {
        (Some(url), None) => self::url(errors, url, &path.child("url")),
        (None, Some(service)) => self::service(errors, service, &path.child("service")),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

/// A webhook by its URL: HTTPS, to a host, without what a request would add.
/// Where a webhook can be: an `https` URL of a host and a path.
pub(in crate::resources) fn url(errors: &mut Errors, url: &str, path: &Path) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    // Without a scheme there is no host either: all of it is a path.
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or("") };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        errors.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        errors.invalid(path, host, format!("host must be specified{FORM}"));
    }
    for (part, what) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.invalid(path, part, what);
        }
    }
}

/// A webhook by its Service.
/// A Service by which a webhook is reached.
pub(in crate::resources) fn service(errors: &mut Errors, service: &ServiceReference, path: &Path) {
    if service.name.is_empty() {
        errors.required(&path.child("name"), "service name is required");
    }
    if service.namespace.is_empty() {
        errors.required(&path.child("namespace"), "service namespace is required");
    }
    let port = service.port.unwrap_or(0);
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let wrong = format!("port is not valid: {}", wrong.join(","));
        errors.invalid(&path.child("port"), port, wrong);
    }
    let (at, url_path) = (path.child("path"), text(&service.path));
    match url_path {
        "" | "/" => return,
        "//" => return errors.invalid(&at, url_path, "segment[0] may not be empty"),
        _ if !url_path.starts_with('/') => {
            errors.invalid(&at, url_path, "must start with a '/'");
        }
        _ => {}
    }
    let segments = url_path.strip_prefix('/').unwrap_or(url_path);
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    for (i, segment) in segments.split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(&at, url_path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for wrong in names::dns_subdomain(segment, false) {
            errors.invalid(&at, url_path, format!("segment[{i}]: {wrong}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(side_effects: &str) -> ValidatingWebhookConfiguration {
        let mut config = ValidatingWebhookConfiguration {
            webhooks: Some(vec![ValidatingWebhook {
                name: "w.example.com".to_owned(),
                admission_review_versions: vec!["v1".to_owned()],
                client_config: WebhookClientConfig {
                    url: Some("https://192.0.2.1/".to_owned()),
                    ..WebhookClientConfig::default()
                },
                side_effects: side_effects.to_owned(),
                ..ValidatingWebhook::default()
            }]),
            ..ValidatingWebhookConfiguration::default()
        };
        <ValidatingWebhooks as Kind>::default(&mut config);
        config
    }

    #[test]
    fn who_had_side_effects_may_keep_them() {
        let (harmless, other) = (config("None"), config("Some"));
        assert_eq!(ValidatingWebhooks::validate_create(&harmless), []);
        assert_eq!(ValidatingWebhooks::validate_create(&other).len(), 1);
        let update = |new, old| ValidatingWebhooks::validate_update(new, old, Part::Main).len();
        assert_eq!((update(&other, &other), update(&other, &harmless)), (0, 1));
    }

    #[test]
    fn a_condition_that_was_let_in_once_may_stay() {
        let with = |condition: &str| {
            let mut config = config("None");
            let condition =
                MatchCondition { name: "c".to_owned(), expression: condition.to_owned() };
            for hook in config.webhooks.iter_mut().flatten() {
                hook.match_conditions = Some(vec![condition.clone()]);
            }
            config
        };
        let (good, bad, worse) = (with("true"), with("1 +"), with("nothing.like.it"));
        assert_eq!(ValidatingWebhooks::validate_create(&bad).len(), 1);
        let update = |new, old| ValidatingWebhooks::validate_update(new, old, Part::Main).len();
        assert_eq!((update(&bad, &bad), update(&good, &bad), update(&worse, &bad)), (0, 0, 1));
    }

    #[test]
    fn a_url_is_https_to_a_host_and_nothing_more() {
        #[track_caller]
        fn check(text: &str, wrong: usize) {
            let mut errors = Errors::default();
            url(&mut errors, text, &Path::new("url"));
            assert_eq!(errors.0.len(), wrong, "{text}: {:?}", errors.0);
        }
        check("https://example.com", 0);
        check("https://example.com:8443/a/b", 0);
        check("http://example.com", 1);
        check("https://", 1);
        check("example.com", 2);
        check("https://u@example.com/?a=b#c", 3);
    }

    #[test]
    fn a_service_path_has_no_empty_segments() {
        #[track_caller]
        fn check(path: &str, wrong: usize) {
            let reference = ServiceReference {
                name: "s".to_owned(),
                namespace: "n".to_owned(),
                path: Some(path.to_owned()),
                port: Some(443),
            };
            let mut errors = Errors::default();
            service(&mut errors, &reference, &Path::new("service"));
            assert_eq!(errors.0.len(), wrong, "{path}: {:?}", errors.0);
        }
        check("/", 0);
        check("/a/b/", 0);
        check("a", 1);
        check("//", 1);
        check("/a//b", 1);
        check("/A", 1);
    }
}
