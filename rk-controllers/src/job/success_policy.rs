//! Whether the indexes that succeeded are enough (KEP-3998). Pure.

use k8s_openapi::api::batch::v1::{SuccessPolicy, SuccessPolicyRule};

use super::indexes::Indexes;

/// The message of the first rule that `succeeded` meets.
pub(super) fn met(policy: &SuccessPolicy, completions: i32, succeeded: &Indexes) -> Option<String> {
    let meets = |rule: &SuccessPolicyRule| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(wanted), count) => {
            let wanted = Indexes::parse(wanted, completions);
            let shared = wanted.shared_with(succeeded);
            !wanted.is_empty()
                && (shared == wanted.len() || count.is_some_and(|count| shared >= count))
        }
        (None, Some(count)) => succeeded.len() >= count,
        (None, None) => false,
    };
    if succeeded.is_empty() {
        return None;
    }
    let rule = policy.rules.iter().position(meets)?;
    Some(format!("Matched rules at index {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rules: &[(Option<&str>, Option<i32>)], succeeded: &str, expected: Option<usize>) {
        let rule = |(indexes, count): &(Option<&str>, Option<i32>)| SuccessPolicyRule {
            succeeded_indexes: indexes.map(str::to_owned),
            succeeded_count: *count,
        };
        let policy = SuccessPolicy { rules: rules.iter().map(rule).collect() };
        let expected = expected.map(|rule| format!("Matched rules at index {rule}"));
        assert_eq!(met(&policy, 10, &Indexes::parse(succeeded, 10)), expected);
    }

    #[test]
    fn the_first_rule_that_is_met_is_named() {
        check(&[(None, Some(2))], "1", None);
        check(&[(None, Some(2))], "1,5", Some(0));
        check(&[(Some("0-2"), None)], "0,1", None);
        check(&[(Some("0-2"), None), (Some("1"), None)], "0,1", Some(1));
        check(&[(Some("0-2"), Some(2))], "0,2,9", Some(0));
        check(&[(Some("0-2"), Some(2))], "0,8,9", None);
        check(&[(Some("20-30"), None), (None, Some(0))], "", None);
    }
}
