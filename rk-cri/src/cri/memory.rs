//! What is kept with sandboxes and containers, so that a process that begins anew finds it.
//!
//! CRI's statuses tell less than what was asked for, and a container can only be made with all that
//! its sandbox was made from. So the rest travels in an annotation, and comes out of it again.
//!
//! Labels that tell the pod are added, as the kubelet adds them: runtimes and their tools look for
//! them, and lists are chosen by them. They are taken off again unless the maker had them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::runtime::{ContainerConfig, PodRef, SandboxConfig};

/// The annotation.
const ANNOTATION: &str = "rk.dev/made-from";

/// The label with a pod's UID.
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

type Strings = BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
struct Memory<T> {
    config: T,
    /// Labels that were added.
    added: Vec<String>,
}

/// The pod that labels tell of.
pub(super) fn pod_of(labels: &Strings) -> PodRef {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    PodRef { namespace: label(POD_NAMESPACE), name: label(POD_NAME), uid: label(POD_UID) }
}

/// The labels and annotations to make a sandbox with.
pub(super) fn keep_sandbox(config: &SandboxConfig) -> (Strings, Strings) {
    let small =
        SandboxConfig { labels: Strings::new(), annotations: Strings::new(), ..config.clone() };
    keep(small, &pod_labels(&config.pod), config.labels.clone(), config.annotations.clone())
}

/// The labels and annotations to make a container with. Its environment and mounts are left out:
/// they may be long, and hold what others should not read.
pub(super) fn keep_container(config: &ContainerConfig, pod: &PodRef) -> (Strings, Strings) {
    let small = ContainerConfig {
        env: Vec::new(),
        mounts: Vec::new(),
        labels: Strings::new(),
        annotations: Strings::new(),
        ..config.clone()
    };
    let mut labels = pod_labels(pod);
    labels.push((CONTAINER_NAME, &config.name));
    keep(small, &labels, config.labels.clone(), config.annotations.clone())
}

fn pod_labels(pod: &PodRef) -> Vec<(&'static str, &str)> {
    vec![(POD_NAME, &pod.name), (POD_NAMESPACE, &pod.namespace), (POD_UID, &pod.uid)]
}

fn keep<T: Serialize>(
    config: T,
    more: &[(&str, &str)],
    mut labels: Strings,
    mut annotations: Strings,
) -> (Strings, Strings) {
    let mut added = Vec::new();
    for (name, value) in more {
        if !labels.contains_key(*name) {
            labels.insert((*name).to_owned(), (*value).to_owned());
            added.push((*name).to_owned());
        }
    }
    // These types have nothing that JSON cannot hold; a path that is no text would be the exception.
    if let Ok(text) = serde_json::to_string(&Memory { config, added }) {
        annotations.insert(ANNOTATION.to_owned(), text);
    }
    (labels, annotations)
}

/// What a sandbox was made from, without what its status tells in other fields.
pub(super) fn recall_sandbox(labels: Strings, annotations: Strings) -> SandboxConfig {
    let (config, labels, annotations) = recall(labels, annotations);
    SandboxConfig { labels, annotations, ..config }
}

/// What a container was made from, without what its status tells in other fields.
pub(super) fn recall_container(labels: Strings, annotations: Strings) -> ContainerConfig {
    let (config, labels, annotations) = recall(labels, annotations);
    ContainerConfig { labels, annotations, ..config }
}

fn recall<T: DeserializeOwned + Default>(
    mut labels: Strings,
    mut annotations: Strings,
) -> (T, Strings, Strings) {
    let memory = annotations.remove(ANNOTATION);
    let memory = memory.and_then(|text| serde_json::from_str::<Memory<T>>(&text).ok());
    let Some(Memory { config, added }) = memory else {
        return (T::default(), labels, annotations);
    };
    for name in &added {
        labels.remove(name);
    }
    (config, labels, annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_without_what_was_added() {
        let pod = PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() };
        let config = ContainerConfig {
            name: "main".into(),
            tty: true,
            stop_signal: "SIGUSR1".into(),
            labels: [(POD_UID.to_owned(), "its own".to_owned())].into(),
            ..Default::default()
        };
        let (labels, annotations) = keep_container(&config, &pod);
        assert_eq!((&*labels[POD_NAME], &*labels[CONTAINER_NAME]), ("p", "main"));
        assert_eq!(labels[POD_UID], "its own");
        assert_eq!(recall_container(labels, annotations), config);
    }

    #[test]
    fn environment_and_mounts_are_not_shown_to_others() {
        let config = ContainerConfig {
            env: vec![("PASSWORD".into(), "secret".into())],
            ..Default::default()
        };
        let (_, annotations) = keep_container(&config, &PodRef::default());
        assert!(!annotations[ANNOTATION].contains("secret"));
    }

    #[test]
    fn a_damaged_annotation_is_as_none() {
        let annotations = [(ANNOTATION.to_owned(), "{".to_owned())].into();
        assert_eq!(recall_sandbox(Strings::new(), annotations), SandboxConfig::default());
    }
}
