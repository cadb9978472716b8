//! What a Job's `podFailurePolicy` says about a failed Pod (KEP-3329). Pure.

use k8s_openapi::api::{
    batch::v1::{
        PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement as ExitCodes,
        PodFailurePolicyOnPodConditionsPattern as Pattern,
    },
    core::v1::{ContainerStatus, Pod, PodCondition},
};
use kube::ResourceExt;

/// What follows from a Pod's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It counts towards the limits.
    Count,
    /// It happened through no fault of the Pod: it is replaced and does not count.
    Ignore,
    /// It counts, and its index is not tried again.
    FailIndex,
    /// It counts, and the Job fails with this message.
    FailJob(String),
}

impl Judgement {
    /// Whether the failure counts towards the limits.
    pub(super) fn counts(&self) -> bool {
        *self != Judgement::Ignore
    }
}

/// The action of the first rule that matches; without one a failure counts.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Judgement {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let found = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => failed_container(pod, codes)
                .map(|(container, code)| Matched::Container(container, code)),
            (None, Some(patterns)) => matching_condition(pod, patterns).map(Matched::Condition),
            (None, None) => None,
        };
        let Some(found) = found else { continue };
        match rule.action.as_str() {
            "Ignore" => return Judgement::Ignore,
            "Count" => return Judgement::Count,
            "FailIndex" => return Judgement::FailIndex,
            "FailJob" => return Judgement::FailJob(found.message(pod, at)),
            // An action of a later version: as if the rule were not there.
            _ => {}
        }
    }
    Judgement::Count
}

enum Matched<'a> {
    Container(&'a ContainerStatus, i32),
    Condition(&'a PodCondition),
}

impl Matched<'_> {
    fn message(&self, pod: &Pod, rule: usize) -> String {
        let pod = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        match self {
            Matched::Container(container, code) => format!(
                "Container {} for pod {pod} failed with exit code {code} matching FailJob rule at \
                 index {rule}",
                container.name
            ),
            Matched::Condition(condition) => format!(
                "Pod {pod} has condition {} matching FailJob rule at index {rule}",
                condition.type_
            ),
        }
    }
}

/// The first container that ended with a code that is asked for, main containers before others.
fn failed_container<'a>(pod: &'a Pod, asked: &ExitCodes) -> Option<(&'a ContainerStatus, i32)> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    let all = containers.chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find_map(|container| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let named = asked.container_name.as_ref().is_none_or(|name| *name == container.name);
        let listed = asked.values.contains(&code);
        let matches = match asked.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        // Success is never a reason, not even for NotIn.
        (code != 0 && named && matches).then_some((container, code))
    })
}

fn matching_condition<'a>(pod: &'a Pod, patterns: &[Pattern]) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| {
        patterns.iter().any(|pattern| {
            let status = pattern.status.as_deref().unwrap_or("True");
            pattern.type_ == condition.type_ && status == condition.status
        })
    })
}

#[cfg(test)]
mod tests {
    use rk_api::testing::pod;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(why: &str, pod: &Pod, rules: serde_json::Value, expected: Judgement) {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
        assert_eq!(judge(Some(&policy), pod), expected, "{why}");
    }

    fn exited(container: &str, code: i32) -> Pod {
        pod("p")
            .phase("Failed")
            .with(|pod| {
                pod.status.as_mut().unwrap().container_statuses = serde_json::from_value(json!([
                    {"name": container, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                     "state": {"terminated": {"exitCode": code}}}
                ]))
                .unwrap();
            })
            .build()
    }

    fn on_codes(action: &str, operator: &str, values: &[i32]) -> serde_json::Value {
        json!({"action": action, "onExitCodes": {"operator": operator, "values": values}})
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        use Judgement::*;
        let pod = exited("main", 42);
        let fail_job = FailJob(
            "Container main for pod default/p failed with exit code 42 matching FailJob rule at \
             index 1"
                .into(),
        );
        check("no rule", &pod, json!([]), Count);
        check("a code", &pod, json!([on_codes("Ignore", "In", &[1, 42])]), Ignore);
        check("another code", &pod, json!([on_codes("Ignore", "In", &[1])]), Count);
        check("all but", &pod, json!([on_codes("FailIndex", "NotIn", &[1])]), FailIndex);
        check(
            "the later one",
            &pod,
            json!([on_codes("Ignore", "In", &[1]), on_codes("FailJob", "In", &[42])]),
            fail_job,
        );
        check(
            "the earlier one",
            &pod,
            json!([on_codes("Count", "In", &[42]), on_codes("FailJob", "In", &[42])]),
            Count,
        );
        check(
            "of a later version",
            &pod,
            json!([on_codes("Dance", "In", &[42]), on_codes("Ignore", "In", &[42])]),
            Ignore,
        );
    }

    #[test]
    fn a_container_can_be_named_and_success_is_no_failure() {
        let named = |name: &str| json!([{"action": "Ignore", "onExitCodes": {"containerName": name, "operator": "NotIn", "values": [1]}}]);
        check("named", &exited("main", 42), named("main"), Judgement::Ignore);
        check("another", &exited("main", 42), named("side"), Judgement::Count);
        check("success", &exited("main", 0), named("main"), Judgement::Count);
    }

    #[test]
    fn conditions_match_by_type_and_status() {
        let disrupted = pod("p").phase("Failed").condition("DisruptionTarget", "True").build();
        let rule = |status: &str| json!([{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": status}]}]);
        let message =
            "Pod default/p has condition DisruptionTarget matching FailJob rule at index 0";
        check("true", &disrupted, rule("True"), Judgement::FailJob(message.into()));
        check("false", &disrupted, rule("False"), Judgement::Count);
    }
}
