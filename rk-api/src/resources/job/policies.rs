//! The limits and policies of a Job's spec: what goes together, and what rules may say.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement as ExitCodes, PodFailurePolicyRule,
    SuccessPolicyRule,
};
use serde_json::json;

use super::{
    super::check::{Errors, list, text},
    indexes::intervals,
};
use crate::{
    field::{FieldError, Path},
    meta::names,
};

/// Most Pods at the same time, and indexes that may fail, of an Indexed Job.
const INDEXED_MAX: i32 = 100_000;
/// With more completions than [`INDEXED_MAX`] and a limit for each index, fewer of both.
const LARGE_MAX: i32 = 10_000;
const RULES_MAX: usize = 20;
const CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
/// Of the text of succeededIndexes.
const INDEXES_MAX_BYTES: usize = 64 * 1024;

/// Checks all of it.
pub(super) fn validate(errors: &mut Errors, spec: &JobSpec, path: &Path) {
    limits(errors, spec, path);
    if let Some(manager) = &spec.managed_by {
        let at = path.child("managedBy");
        errors.form(&at, manager.as_str(), names::domain_prefixed_path(manager));
        if manager.len() > 63 {
            errors.push(FieldError::too_long(&at, 63));
        }
    }
    if let Some(policy) = &spec.pod_failure_policy {
        let at = path.child("podFailurePolicy.rules");
        if policy.rules.len() > RULES_MAX {
            errors.push(FieldError::too_many(&at, policy.rules.len(), RULES_MAX));
        }
        for (number, rule) in policy.rules.iter().enumerate() {
            failure_rule(errors, spec, rule, &at.index(number));
        }
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let at = path.child("podReplacementPolicy");
        let supported: &[&str] = match spec.pod_failure_policy {
            Some(_) => &["Failed"],
            None => &["Failed", "TerminatingOrFailed"],
        };
        errors.one_of(&at, policy, supported);
    }
    if let Some(policy) = &spec.success_policy {
        let at = path.child("successPolicy");
        if !is_indexed(spec) {
            errors.invalid(&at, json!(policy), "requires indexed completion mode");
        }
        let at = at.child("rules");
        if policy.rules.is_empty() {
            let wrong = "at least one rules must be specified when the successPolicy is specified";
            errors.required(&at, wrong);
        } else if policy.rules.len() > RULES_MAX {
            errors.push(FieldError::too_many(&at, policy.rules.len(), RULES_MAX));
        }
        for (number, rule) in policy.rules.iter().enumerate() {
            success_rule(errors, spec, rule, &at.index(number));
        }
    }
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn limits(errors: &mut Errors, spec: &JobSpec, path: &Path) {
    let most_failed = path.child("maxFailedIndexes");
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        let at = path.child("backoffLimitPerIndex");
        errors.required(&at, "when maxFailedIndexes is specified");
    }
    if let Some(limit) = spec.backoff_limit_per_index.filter(|_| !is_indexed(spec)) {
        let at = path.child("backoffLimitPerIndex");
        errors.invalid(&at, limit, "requires indexed completion mode");
    }
    if !is_indexed(spec) {
        return;
    }
    let at_most = |what: i32| format!("must be less than or equal to {what}");
    if let Some(parallelism) = spec.parallelism.filter(|count| *count > INDEXED_MAX) {
        let wrong = format!("{} when completion mode is Indexed", at_most(INDEXED_MAX));
        errors.invalid(&path.child("parallelism"), parallelism, wrong);
    }
    let completions = spec.completions.unwrap_or(0);
    if let Some(failed) = spec.max_failed_indexes {
        if failed > completions {
            let wrong = "must be less than or equal to completions when specified";
            errors.invalid(&most_failed, failed, wrong);
        }
        if failed > INDEXED_MAX {
            errors.invalid(&most_failed, failed, at_most(INDEXED_MAX));
        }
    }
    if spec.backoff_limit_per_index.is_none() || completions <= INDEXED_MAX {
        return;
    }
    let when =
        format!("when completions are above {INDEXED_MAX} and used with backoffLimitPerIndex");
    match spec.max_failed_indexes {
        None => {
            errors.required(
                &most_failed,
                &format!("must be specified when completions is above {INDEXED_MAX}"),
            );
        }
        Some(failed) if failed > LARGE_MAX => {
            errors.invalid(&most_failed, failed, format!("{} {when}", at_most(LARGE_MAX)));
        }
        Some(_) => {}
    }
    if let Some(parallelism) = spec.parallelism.filter(|count| *count > LARGE_MAX) {
        let wrong = format!("{} {when}", at_most(LARGE_MAX));
        errors.invalid(&path.child("parallelism"), parallelism, wrong);
    }
}

fn failure_rule(errors: &mut Errors, spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path) {
    let at = path.child("action");
    let actions = &["Count", "FailIndex", "FailJob", "Ignore"];
    errors.required_one_of(&at, &rule.action, actions);
    if rule.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
        errors.invalid(&at, "FailIndex", "requires the backoffLimitPerIndex to be set");
    }
    let patterns = list(&rule.on_pod_conditions);
    if let Some(codes) = &rule.on_exit_codes {
        exit_codes(errors, spec, codes, &path.child("onExitCodes"));
    }
    let at = path.child("onPodConditions");
    if patterns.len() > PATTERNS_MAX {
        errors.push(FieldError::too_many(&at, patterns.len(), PATTERNS_MAX));
    }
    for (number, pattern) in patterns.iter().enumerate() {
        let at = at.index(number);
        let wrong = names::qualified_name(&pattern.type_);
        errors.form(&at.child("type"), pattern.type_.as_str(), wrong);
        let status = text(&pattern.status);
        errors.required_one_of(&at.child("status"), status, &["False", "True", "Unknown"]);
    }
    match (rule.on_exit_codes.is_some(), !patterns.is_empty()) {
        (true, true) => {
            let wrong = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.invalid(path, json!(rule), wrong);
        }
        (false, false) => {
            let wrong = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.invalid(path, json!(rule), wrong);
        }
        _ => {}
    }
}

fn exit_codes(errors: &mut Errors, spec: &JobSpec, codes: &ExitCodes, path: &Path) {
    errors.required_one_of(&path.child("operator"), &codes.operator, &["In", "NotIn"]);
    if let Some(name) = &codes.container_name {
        let pod = spec.template.spec.as_ref();
        let init = pod.into_iter().flat_map(|pod| pod.init_containers.iter().flatten());
        let mut all = init.chain(pod.into_iter().flat_map(|pod| &pod.containers));
        if !all.any(|container| container.name == *name) {
            let wrong = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&path.child("containerName"), name.as_str(), wrong);
        }
    }
    let at = path.child("values");
    if codes.values.is_empty() {
        errors.invalid(&at, json!(codes.values), "at least one value is required");
    } else if codes.values.len() > CODES_MAX {
        errors.push(FieldError::too_many(&at, codes.values.len(), CODES_MAX));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (number, code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && *code == 0 {
            errors.invalid(&at.index(number), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            errors.push(FieldError::duplicate(&at.index(number), *code));
        }
    }
    if !codes.values.is_sorted() {
        errors.invalid(&at, json!(codes.values), "must be ordered");
    }
}

fn success_rule(errors: &mut Errors, spec: &JobSpec, rule: &SuccessPolicyRule, path: &Path) {
    let count_at = path.child("succeededCount");
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let wrong = "at least one of succeededCount or succeededIndexes must be specified";
        errors.required(path, wrong);
    }
    let completions = spec.completions.unwrap_or(0);
    let mut named = None;
    if let Some(indexes) = &rule.succeeded_indexes {
        let at = path.child("succeededIndexes");
        if indexes.len() > INDEXES_MAX_BYTES {
            errors.push(FieldError::too_long(&at, INDEXES_MAX_BYTES));
        }
        match count_of(indexes, completions) {
            Ok(count) => named = Some(count),
            Err(wrong) => {
                let wrong = format!("error parsing succeededIndexes: {wrong}");
                errors.invalid(&at, indexes.as_str(), wrong);
            }
        }
    }
    let Some(count) = rule.succeeded_count else { return };
    errors.not_negative(&count_at, count);
    if count > completions {
        let wrong = format!(
            "must be less than or equal to {completions} (the number of specified completions)"
        );
        errors.invalid(&count_at, count, wrong);
    }
    if let Some(named) = named.filter(|named| count > *named) {
        let wrong = format!(
            "must be less than or equal to {named} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.invalid(&count_at, count, wrong);
    }
}

/// How many indexes a text such as `0-3,5` names, in order and below `completions`.
fn count_of(indexes: &str, completions: i32) -> Result<i32, String> {
    let found = intervals(indexes, completions)?;
    Ok(found.iter().fold(0, |count: i32, (first, last)| count.saturating_add(last - first + 1)))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn spec(more: Value) -> JobSpec {
        let mut all = json!({"parallelism": 1, "completions": 4, "completionMode": "Indexed", "template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c"}],
        }}});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[track_caller]
    fn check(more: Value, expected: &[&str]) {
        let mut errors = Errors::default();
        validate(&mut errors, &spec(more), &Path::new("spec"));
        let found: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn limits_go_with_indexes() {
        check(json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 4}), &[]);
        check(
            json!({"maxFailedIndexes": 5}),
            &[
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.maxFailedIndexes: Invalid value: 5: must be less than or equal to completions when specified",
            ],
        );
        check(
            json!({"completionMode": "NonIndexed", "backoffLimitPerIndex": 1}),
            &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
        );
        check(
            json!({"completions": 100_001, "backoffLimitPerIndex": 1, "parallelism": 10_001}),
            &[
                "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
                "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000 and used with backoffLimitPerIndex",
            ],
        );
    }

    #[test]
    fn rules_of_failure_say_one_thing_each() {
        let rule = |rule: Value| json!({"podFailurePolicy": {"rules": [rule]}});
        let codes = |values: Value| json!({"operator": "In", "values": values});
        check(rule(json!({"action": "Ignore", "onExitCodes": codes(json!([1, 2]))})), &[]);
        check(
            rule(json!({"action": "FailIndex", "onExitCodes": codes(json!([3, 0, 3]))})),
            &[
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 3",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0,3]: must be ordered",
            ],
        );
        let both = json!({"action": "Count", "onExitCodes": codes(json!([1])), "onPodConditions": [{"type": "X", "status": "True"}]});
        let mut errors = Errors::default();
        validate(&mut errors, &spec(rule(both)), &Path::new("spec"));
        let text = errors.0[0].to_string();
        assert!(
            text.ends_with("specifying both OnExitCodes and OnPodConditions is not supported"),
            "{text}"
        );
    }

    #[test]
    fn rules_of_success_stay_within_the_completions() {
        let rule = |rule: Value| json!({"successPolicy": {"rules": [rule]}});
        check(rule(json!({"succeededIndexes": "0-1,3", "succeededCount": 2})), &[]);
        check(
            rule(json!({"succeededIndexes": "0-1", "succeededCount": 3})),
            &[
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
            ],
        );
        check(
            rule(json!({"succeededIndexes": "1,0"})),
            &[
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"1,0\": error parsing succeededIndexes: non-increasing order, previous: 1, current: 0",
            ],
        );
        check(
            rule(json!({"succeededIndexes": "0-4"})),
            &[
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0-4\": error parsing succeededIndexes: too large index: \"4\"",
            ],
        );
        check(
            rule(json!({})),
            &[
                "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            ],
        );
    }
}
