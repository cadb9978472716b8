//! What holds up the end of a namespace, in Kubernetes' words. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{NamespaceCondition, NamespaceStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::time::whole_seconds;

/// What one attempt to empty a namespace found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// API versions whose kinds could not be read.
    pub undiscovered: Vec<String>,
    /// Errors of deletions.
    pub failures: Vec<String>,
    /// What is still there, by kind.
    pub remaining: Vec<Remaining>,
    /// The longest grace period of a Pod that is ending.
    pub grace_seconds: u64,
}

/// Objects of one kind that are still there.
#[derive(Debug, Default)]
pub(super) struct Remaining {
    pub plural: String,
    pub group: String,
    pub count: usize,
    /// How many objects wait for each finalizer.
    pub finalizers: BTreeMap<String, usize>,
    pub grace_seconds: u64,
}

impl Findings {
    /// Nothing is left, as far as one can know.
    pub fn is_empty(&self) -> bool {
        self.undiscovered.is_empty() && self.failures.is_empty() && self.remaining.is_empty()
    }
}

/// Sets all conditions of a namespace that is being deleted.
pub(super) fn set(status: &mut NamespaceStatus, findings: &Findings, now: Timestamp) {
    let undiscovered = &findings.undiscovered;
    put(
        status,
        "NamespaceDeletionDiscoveryFailure",
        (!undiscovered.is_empty()).then(|| {
            let groups = undiscovered.join(", ");
            (
                "DiscoveryFailed",
                format!(
                    "Discovery failed for some groups, {} failing: {groups}",
                    undiscovered.len()
                ),
            )
        }),
        ("ResourcesDiscovered", "All resources successfully discovered"),
        now,
    );
    put(
        status,
        "NamespaceDeletionGroupVersionParsingFailure",
        None,
        ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        now,
    );
    let failures = &findings.failures;
    put(
        status,
        "NamespaceDeletionContentFailure",
        (!failures.is_empty()).then(|| {
            let errors = failures.join(", ");
            (
                "ContentDeletionFailed",
                format!(
                    "Failed to delete all resource types, {} remaining: {errors}",
                    failures.len()
                ),
            )
        }),
        ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        now,
    );
    let remaining: Vec<String> = findings
        .remaining
        .iter()
        .map(|kind| format!("{}.{} has {} resource instances", kind.plural, kind.group, kind.count))
        .collect();
    put(
        status,
        "NamespaceContentRemaining",
        (!remaining.is_empty()).then(|| {
            (
                "SomeResourcesRemain",
                format!("Some resources are remaining: {}", remaining.join(", ")),
            )
        }),
        ("ContentRemoved", "All content successfully removed"),
        now,
    );
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in findings.remaining.iter().flat_map(|kind| &kind.finalizers) {
        *finalizers.entry(finalizer).or_default() += count;
    }
    let finalizers: Vec<String> = finalizers
        .into_iter()
        .map(|(name, count)| format!("{name} in {count} resource instances"))
        .collect();
    put(
        status,
        "NamespaceFinalizersRemaining",
        (!finalizers.is_empty()).then(|| {
            let list = finalizers.join(", ");
            (
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {list}"),
            )
        }),
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        now,
    );
}

/// Sets a condition to True with what is wrong, or to False with the words for all is well.
fn put(
    status: &mut NamespaceStatus,
    kind: &str,
    wrong: Option<(&str, String)>,
    fine: (&str, &str),
    now: Timestamp,
) {
    let value = if wrong.is_some() { "True" } else { "False" };
    let (reason, message) = wrong.unwrap_or_else(|| (fine.0, fine.1.to_owned()));
    let conditions = status.conditions.get_or_insert_default();
    let current = conditions.iter_mut().find(|condition| condition.type_ == kind);
    let transition = match &current {
        Some(current) if current.status == value => current.last_transition_time.clone(),
        _ => Some(Time(whole_seconds(now))),
    };
    let wanted = NamespaceCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: transition,
    };
    match current {
        Some(current) => *current = wanted,
        None => conditions.push(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_told_in_kubernetes_words() {
        let mut status = NamespaceStatus::default();
        let findings = Findings {
            remaining: vec![Remaining {
                plural: "pods".into(),
                count: 2,
                finalizers: BTreeMap::from([("example.com/wait".into(), 1)]),
                ..Default::default()
            }],
            ..Default::default()
        };
        set(&mut status, &findings, Timestamp::UNIX_EPOCH);

        let found: Vec<_> = status
            .conditions
            .as_ref()
            .unwrap()
            .iter()
            .map(|condition| {
                (
                    condition.type_.as_str(),
                    condition.status.as_str(),
                    condition.message.as_deref().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (
                    "NamespaceDeletionDiscoveryFailure",
                    "False",
                    "All resources successfully discovered"
                ),
                (
                    "NamespaceDeletionGroupVersionParsingFailure",
                    "False",
                    "All legacy kube types successfully parsed"
                ),
                (
                    "NamespaceDeletionContentFailure",
                    "False",
                    "All content successfully deleted, may be waiting on finalization"
                ),
                (
                    "NamespaceContentRemaining",
                    "True",
                    "Some resources are remaining: pods. has 2 resource instances"
                ),
                (
                    "NamespaceFinalizersRemaining",
                    "True",
                    "Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances"
                ),
            ]
        );

        set(&mut status, &Findings::default(), Timestamp::UNIX_EPOCH);
        assert!(status.conditions.unwrap().iter().all(|condition| condition.status == "False"));
    }
}
