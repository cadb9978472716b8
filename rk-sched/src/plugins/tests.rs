//! Tables for one plugin at a time. Only these functions know the framework's API.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaimVolumeSource, Pod, Volume};

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{CycleState, Plugin, PreFiltered},
};

/// The plugin alone decides as expected about the Pod on an empty node.
#[track_caller]
pub(super) fn check_filter(
    plugin: &dyn Plugin,
    name: &str,
    node: impl Into<Node>,
    pod: impl Into<Pod>,
    expected: Result<(), Status>,
) {
    check_filter_with::<Pod>(plugin, name, node, [], pod, expected);
}

/// The same on a node with Pods.
#[track_caller]
pub(super) fn check_filter_with<P: Into<Pod>>(
    plugin: &dyn Plugin,
    name: &str,
    node: impl Into<Node>,
    there: impl IntoIterator<Item = P>,
    pod: impl Into<Pod>,
    expected: Result<(), Status>,
) {
    let snapshot = Snapshot::with_pods([node.into()], there);
    let pod = PodInfo::new(Arc::new(pod.into()));
    let status = filter(plugin, &snapshot, &pod, &snapshot.nodes()[0]);
    let found = if status.is_success() { Ok(()) } else { Err(status) };
    assert_eq!(found, expected, "{name}");
}

fn filter(plugin: &dyn Plugin, snapshot: &Snapshot, pod: &PodInfo, node: &NodeInfo) -> Status {
    let mut state = CycleState::default();
    if let Some(pre_filter) = plugin.as_pre_filter() {
        match pre_filter.pre_filter(&mut state, pod, snapshot) {
            PreFiltered::All => {}
            // The framework does not ask for other nodes, yet the filter must agree.
            PreFiltered::Only(_) => {}
            PreFiltered::Skip => return Status::success(),
            PreFiltered::Rejected(status) => return status,
        }
    }
    plugin.as_filter().unwrap().filter(&state, pod, node)
}

/// The plugin alone gives the nodes these scores, normalized.
#[track_caller]
pub(super) fn check_scores<N: Into<Node>>(
    plugin: &dyn Plugin,
    name: &str,
    nodes: impl IntoIterator<Item = N>,
    pod: impl Into<Pod>,
    expected: &[i64],
) {
    let snapshot: Snapshot = nodes.into_iter().collect();
    let pod = PodInfo::new(Arc::new(pod.into()));
    let nodes: Vec<_> = snapshot.nodes().iter().collect();
    let mut state = CycleState::default();
    if let Some(pre_filter) = plugin.as_pre_filter() {
        pre_filter.pre_filter(&mut state, &pod, &snapshot);
    }
    let skipped = plugin
        .as_pre_score()
        .is_some_and(|it| !it.pre_score(&mut state, &pod, &nodes).is_success());
    let score = plugin.as_score().unwrap();
    let mut scores: Vec<_> = nodes.iter().map(|node| score.score(&state, &pod, node)).collect();
    if skipped {
        scores.fill(0);
    } else {
        score.normalize_score(&state, &pod, &nodes, &mut scores);
    }
    assert_eq!(scores, expected, "{name}");
}

/// The Pod with a volume of this claim.
pub(super) fn with_claim(pod: impl Into<Pod>, claim: &str) -> Pod {
    let mut pod = pod.into();
    pod.metadata.namespace = Some("default".to_owned());
    pod.spec.get_or_insert_default().volumes = Some(vec![Volume {
        name: "v".to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    }]);
    pod
}
