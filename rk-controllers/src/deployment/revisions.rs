//! Revision numbers, the annotations that `kubectl rollout history` and `undo` read, and how many
//! old ReplicaSets are kept.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::{
    model::{
        self, DESIRED_REPLICAS, MAX_REPLICAS, REVISION, REVISION_HISTORY, ROLLBACK_TO, desired,
        fenceposts, size,
    },
    plan::Rollout,
};

/// At most so many characters of earlier revisions are kept on a ReplicaSet.
const REVISION_HISTORY_MAX_CHARS: usize = 2000;

/// Annotations of a Deployment that are its own and not its ReplicaSets'.
pub(super) const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    ROLLBACK_TO,
];

impl Rollout<'_> {
    /// Copies annotations and minReadySeconds, and if the set was not the newest (a roll-back),
    /// makes it so: its revision becomes the highest, the one it had goes to its history.
    pub(super) fn annotate_existing(&mut self, new: usize) {
        let next = self.next_revision();
        self.copy_annotations(new);
        let set = &mut self.sets[new];
        let current = model::revision(set);
        if current < next {
            let annotations = set.metadata.annotations.get_or_insert_default();
            if let Some(previous) = annotations.insert(REVISION.into(), next.to_string()) {
                append_to_history(annotations, previous);
            }
        }
        let min_ready_seconds = self.deployment.spec.min_ready_seconds;
        let spec = &mut self.sets[new].spec;
        if spec.min_ready_seconds.unwrap_or(0) != min_ready_seconds.unwrap_or(0) {
            spec.min_ready_seconds = Some(min_ready_seconds.unwrap_or(0));
        }
        self.found_new(new);
    }

    /// Annotates a set that is about to be created.
    pub(super) fn annotate_created(&mut self, new: usize) {
        let next = self.next_revision();
        self.copy_annotations(new);
        self.sets[new]
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(REVISION.into(), next.to_string());
        self.annotate_size(new);
        self.created_new(new);
    }

    /// Notes for which Deployment size a set was sized.
    pub(super) fn annotate_size(&mut self, set: usize) {
        let desired = desired(self.deployment);
        let most = desired.saturating_add(fenceposts(self.deployment).surge);
        let annotations = self.sets[set].metadata.annotations.get_or_insert_default();
        annotations.insert(DESIRED_REPLICAS.into(), desired.to_string());
        annotations.insert(MAX_REPLICAS.into(), most.to_string());
    }

    fn next_revision(&self) -> i64 {
        self.old().into_iter().map(|set| model::revision(&self.sets[set])).max().unwrap_or(0) + 1
    }

    fn copy_annotations(&mut self, set: usize) {
        let source = self
            .deployment
            .annotations()
            .iter()
            .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
        let mut source = source.peekable();
        if source.peek().is_some() {
            let target = self.sets[set].metadata.annotations.get_or_insert_default();
            target.extend(source.map(|(key, value)| (key.clone(), value.clone())));
        }
    }

    /// Dooms the oldest revisions beyond `revisionHistoryLimit` that have no Pods left.
    pub(super) fn clean_up_history(&mut self) {
        let limit = self.deployment.spec.revision_history_limit;
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old: Vec<usize> = self.old();
        old.retain(|set| self.sets[*set].metadata.deletion_timestamp.is_none());
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| model::revision(&self.sets[*set]));
        for set in old.into_iter().take(surplus) {
            let candidate = &self.sets[set];
            let observed = candidate
                .status
                .as_ref()
                .and_then(|status| status.observed_generation)
                .unwrap_or(0);
            let settled = candidate.metadata.generation.unwrap_or(0) <= observed;
            if size(candidate) == 0 && model::actual(candidate) == 0 && settled {
                self.doomed.push(set);
            }
        }
    }
}

fn append_to_history(annotations: &mut BTreeMap<String, String>, previous: String) {
    let mut history = match annotations.get(REVISION_HISTORY) {
        Some(history) if !history.is_empty() => format!("{history},{previous}"),
        _ => previous,
    };
    while history.len() > REVISION_HISTORY_MAX_CHARS {
        let Some((_, rest)) = history.split_once(',') else { break };
        history = rest.to_owned();
    }
    annotations.insert(REVISION_HISTORY.into(), history);
}
