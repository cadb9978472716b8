//! Static Pods: those that a node runs from files, and their mirrors in the API.
//!
//! # What it promises
//! - A Pod in a file of the directory runs on this node, without an API server if need be. Its name
//!   ends in the node's; its UID follows from its contents, so a file that changes is another Pod,
//!   which starts when the one before has ended.
//! - The API has a mirror of it, which shows its status. A mirror that is deleted or changed is made
//!   again, and the Pod does not notice.
//! - A Pod whose file is gone ends, and its mirror goes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use k8s_openapi::{
    api::core::v1::{Pod, PodStatus, Toleration},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};
use rk_api::{clock, resources::Resources};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{spec::full_name, worker::Core};

/// Says where a Pod comes from: `file`, or `api`.
const SOURCE: &str = "kubernetes.io/config.source";
/// Identifies the contents of a static Pod.
const HASH: &str = "kubernetes.io/config.hash";
/// When a static Pod was first seen.
const SEEN: &str = "kubernetes.io/config.seen";
/// Of which static Pod this is the mirror, by its hash.
const MIRROR: &str = "kubernetes.io/config.mirror";

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether a Pod is run from a file.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api")
}

/// Whether a Pod only shows one that is run from a file.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// Whether a mirror shows this Pod, and not one that was there before.
pub(crate) fn is_mirror_of(mirror: &Pod, pod: &Pod) -> bool {
    annotation(mirror, MIRROR) == annotation(pod, HASH)
}

type Name = (String, String);

fn name_of(pod: &Pod) -> Name {
    (
        pod.metadata.namespace.clone().unwrap_or_default(),
        pod.metadata.name.clone().unwrap_or_default(),
    )
}

/// The mirrors that the API has, by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Mirrors(HashMap<Name, Arc<Pod>>);

// === reading ===

/// A Pod from the text of a file, with what the node adds to it.
pub(crate) fn parse(text: &str, file: &Path, node: &str) -> Result<Pod, String> {
    static RESOURCES: OnceLock<Resources> = OnceLock::new();
    let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let resources = RESOURCES.get_or_init(Resources::builtin);
    let kind = resources.get("", "v1", "pods").ok_or("there is no kind Pod")?;
    if value["apiVersion"] != "v1" || value["kind"] != "Pod" {
        return Err(format!("it is no v1 Pod, but {} {}", value["apiVersion"], value["kind"]));
    }
    let json = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
    let mut decoded = kind.strategy.decode(&json).map_err(|error| error.to_string())?.object;
    kind.strategy.default(&mut *decoded);
    let pod = decoded.as_any_mut().downcast_mut::<Pod>().ok_or("it is no Pod")?;
    complete(pod, text, file, node);
    let name = pod.metadata.name.clone().unwrap_or_default();
    if let Some(wrong) = kind.strategy.validate_name(&name, false).first() {
        return Err(format!("invalid pod: metadata.name: Invalid value: {name:?}: {wrong}"));
    }
    let wrong = kind.strategy.validate(&*decoded);
    if let Some(first) = wrong.into_iter().next() {
        return Err(format!("invalid pod: {first}"));
    }
    let pod = decoded.as_any().downcast_ref::<Pod>().ok_or("it is no Pod")?;
    Ok(pod.clone())
}

/// Adds what tells a static Pod from others.
fn complete(pod: &mut Pod, text: &str, file: &Path, node: &str) {
    let mut digest = Sha256::new();
    for part in [node.as_bytes(), file.as_os_str().as_encoded_bytes(), text.as_bytes()] {
        digest.update(u64::try_from(part.len()).unwrap_or(0).to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    let hash = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let metadata = &mut pod.metadata;
    metadata.uid = Some(metadata.uid.take().unwrap_or_else(|| hash.clone()));
    metadata.name = metadata.name.take().map(|name| format!("{name}-{}", node.to_lowercase()));
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
    metadata.generate_name = None;
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(SOURCE.to_owned(), "file".to_owned());
    annotations.insert(HASH.to_owned(), hash);
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.to_owned());
    // No taint puts it off its node: nothing would make it anew elsewhere.
    let all = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&all) {
        tolerations.push(all);
    }
    pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
}

/// What tells that a file may have changed.
type Stamp = (Option<SystemTime>, u64);

/// The files of a directory, or the one file, and what was read of them.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    node: String,
    known: BTreeMap<PathBuf, (Stamp, Option<Arc<Pod>>)>,
}

/// What changed since the last look.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) come: Vec<Arc<Pod>>,
    pub(crate) gone: Vec<Arc<Pod>>,
}

impl Source {
    pub(crate) fn new(path: PathBuf, node: &str) -> Self {
        Self { path, node: node.to_owned(), known: BTreeMap::new() }
    }

    /// Reads what has changed. A file that cannot be read as a Pod is left out, with a word in the
    /// log; one that was a Pod before ends it.
    pub(crate) fn look(&mut self) -> Changes {
        let mut changes = Changes::default();
        let Some(files) = self.files() else { return changes };
        let gone: Vec<_> =
            self.known.keys().filter(|file| !files.contains_key(*file)).cloned().collect();
        for file in gone {
            changes.gone.extend(self.known.remove(&file).and_then(|(_, pod)| pod));
        }
        for (file, stamp) in files {
            let before = self.known.get(&file);
            if before.is_some_and(|(known, _)| *known == stamp) {
                continue;
            }
            let before = before.and_then(|(_, pod)| pod.clone());
            let read = std::fs::read_to_string(&file).map_err(|error| error.to_string());
            let pod = match read.and_then(|text| parse(&text, &file, &self.node)) {
                Ok(mut pod) => {
                    let seen = clock::now().to_string();
                    let annotations = pod.metadata.annotations.get_or_insert_default();
                    annotations.insert(SEEN.to_owned(), seen);
                    Some(Arc::new(pod))
                }
                Err(error) => {
                    tracing::warn!(file = %file.display(), error, "a static Pod cannot be read");
                    None
                }
            };
            let uid = |pod: &Option<Arc<Pod>>| pod.as_ref().and_then(|p| p.metadata.uid.clone());
            if uid(&before) == uid(&pod) {
                // Its contents are the same, so it stays the Pod that it is.
                self.known.insert(file, (stamp, before));
                continue;
            }
            changes.gone.extend(before);
            changes.come.extend(pod.clone());
            self.known.insert(file, (stamp, pod));
        }
        changes
    }

    /// The files that may hold Pods; `None` when that cannot be told, which changes nothing.
    fn files(&self) -> Option<BTreeMap<PathBuf, Stamp>> {
        let stamp = |path: &Path| {
            let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.is_file())?;
            Some((metadata.modified().ok(), metadata.len()))
        };
        if self.path.is_file() {
            return Some([(self.path.clone(), stamp(&self.path)?)].into());
        }
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some([].into()),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "static Pods cannot be read");
                return None;
            }
        };
        let paths: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        // Editors and package managers keep theirs behind a dot.
        let hidden = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        };
        let files = paths.into_iter().filter(|path| !hidden(path));
        Some(files.filter_map(|path| Some((path.clone(), stamp(&path)?))).collect())
    }
}

// === mirrors ===

/// The mirror of a static Pod, as it is to be made.
fn mirror_of(pod: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let hash = annotations.get(HASH).cloned().unwrap_or_default();
    annotations.insert(MIRROR.to_owned(), hash);
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.to_owned(),
                uid: node_uid.to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}

/// What is to be done about a static Pod's mirror.
#[derive(Clone, Debug, PartialEq)]
enum Do {
    Nothing,
    Create,
    /// Delete it, and look again when it is gone.
    Delete,
}

fn decide(pod: &Pod, mirror: Option<&Pod>) -> Do {
    let Some(mirror) = mirror else { return Do::Create };
    let stale = !is_mirror_of(mirror, pod);
    if stale || mirror.metadata.deletion_timestamp.is_some() { Do::Delete } else { Do::Nothing }
}

impl Core {
    /// The API has this mirror.
    pub(super) fn mirror_changed(&self, mirror: Arc<Pod>) {
        self.mirrors.lock().0.insert(name_of(&mirror), mirror.clone());
        match self.static_pod_named(&mirror) {
            Some(uid) => self.poke(&uid),
            None => self.delete_orphan(mirror),
        }
    }

    /// The API has it no more.
    pub(super) fn mirror_gone(&self, mirror: &Pod) {
        {
            let mut mirrors = self.mirrors.lock();
            let name = name_of(mirror);
            if mirrors.0.get(&name).is_some_and(|m| m.metadata.uid == mirror.metadata.uid) {
                mirrors.0.remove(&name);
            }
        }
        if let Some(uid) = self.static_pod_named(mirror) {
            self.poke(&uid);
        }
    }

    /// The mirror as it is after a write, unless a newer one is known.
    pub(super) fn mirror_written(&self, mirror: Pod) {
        let version = |pod: &Pod| pod.metadata.resource_version.as_ref()?.parse::<u64>().ok();
        let mut mirrors = self.mirrors.lock();
        if let Some(known) = mirrors.0.get_mut(&name_of(&mirror))
            && known.metadata.uid == mirror.metadata.uid
            && version(known) < version(&mirror)
        {
            *known = Arc::new(mirror);
        }
    }

    pub(super) fn mirror(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.mirrors.lock().0.get(&name_of(pod)).cloned()
    }

    fn static_pod_named(&self, mirror: &Pod) -> Option<String> {
        let name = name_of(mirror);
        let pods = self.pods();
        let found = pods.iter().find(|pod| is_static(pod) && name_of(pod) == name)?;
        found.metadata.uid.clone()
    }

    /// Deletes a mirror of nothing.
    fn delete_orphan(&self, mirror: Arc<Pod>) {
        let Some(core) = self.this.upgrade() else { return };
        let stopped = self.stopped.clone();
        tokio::spawn(async move {
            let work = async {
                if let Err(error) = core.delete_mirror(&mirror).await {
                    tracing::warn!(pod = full_name(&mirror), %error, "a mirror of nothing stays");
                }
            };
            stopped.run_until_cancelled(work).await;
        });
    }

    async fn delete_mirror(&self, mirror: &Pod) -> kube::Result<()> {
        let (namespace, name) = name_of(mirror);
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: mirror.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match Api::<Pod>::namespaced(self.client.clone(), &namespace)
            .delete(&name, &parameters)
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sees to it that the API has a mirror; whether that succeeded, or has to wait for a watch.
    pub(super) async fn keep_mirror(&self, pod: &Pod) -> bool {
        let mirror = self.mirror(pod);
        let done = match decide(pod, mirror.as_deref()) {
            Do::Nothing => return true,
            Do::Delete => match &mirror {
                Some(mirror) => self.delete_mirror(mirror).await,
                None => return true,
            },
            Do::Create => {
                let node = self.nodes.get("", &self.config.name);
                let Some(uid) = node.and_then(|node| node.metadata.uid.clone()) else {
                    return false;
                };
                let mirror = mirror_of(pod, &self.config.name, &uid);
                let namespace = mirror.metadata.namespace.clone().unwrap_or_default();
                let api = Api::<Pod>::namespaced(self.client.clone(), &namespace);
                match api.create(&PostParams::default(), &mirror).await {
                    Ok(made) => {
                        self.mirrors.lock().0.insert(name_of(&made), Arc::new(made));
                        Ok(())
                    }
                    // The watch will tell of it.
                    Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
                    Err(error) => Err(error),
                }
            }
        };
        if let Err(error) = &done {
            tracing::debug!(pod = full_name(pod), %error, "the mirror is not as it should be yet");
        }
        done.is_ok()
    }

    /// The mirror of a Pod that is gone goes too, unless it is another one's by now.
    pub(super) async fn drop_mirror(&self, pod: &Pod) -> kube::Result<()> {
        match self.mirror(pod) {
            Some(mirror) if is_mirror_of(&mirror, pod) => self.delete_mirror(&mirror).await,
            _ => Ok(()),
        }
    }

    /// Whether the Pod that a changed one replaces still has something on the node.
    pub(super) fn replaces_another(&self, pod: &Pod) -> bool {
        let name = name_of(pod);
        self.all_pods()
            .iter()
            .any(|other| name_of(other) == name && other.metadata.uid != pod.metadata.uid)
    }

    /// Follows the files; ends with its future.
    pub(super) async fn follow_static_pods(&self, mut source: Source) {
        loop {
            // A directory is quick to look at: what is written there runs at once.
            let every = self.config.settings.look_for_static_pods_every;
            tokio::time::sleep(every.min(std::time::Duration::from_secs(1))).await;
            let looked = tokio::task::spawn_blocking(move || {
                let changes = source.look();
                (source, changes)
            });
            let Ok((back, changes)) = looked.await else { return };
            source = back;
            self.take_static(changes);
        }
    }

    pub(super) fn take_static(&self, changes: Changes) {
        for pod in &changes.gone {
            self.pod_gone(pod);
        }
        for pod in changes.come {
            self.pod_changed(pod);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  \
                        - {name: c, image: 'app:v1'}\n";

    fn read(text: &str) -> Result<Pod, String> {
        parse(text, Path::new("/manifests/web.yaml"), "n1")
    }

    #[test]
    fn a_static_pod_is_named_after_its_node_and_its_contents() {
        let pod = read(TEXT).unwrap();
        assert!(is_static(&pod) && !is_mirror(&pod));
        assert_eq!(name_of(&pod), ("default".to_owned(), "web-n1".to_owned()));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("n1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"), "it has defaults");
        assert_eq!(spec.tolerations.as_ref().unwrap().len(), 1);
        let uid = |text: &str| read(text).unwrap().metadata.uid;
        assert_eq!(uid(TEXT), pod.metadata.uid);
        assert_ne!(uid(&TEXT.replace("v1'", "v2'")), pod.metadata.uid);
        let elsewhere = parse(TEXT, Path::new("/manifests/web.yaml"), "n2").unwrap();
        assert_ne!(elsewhere.metadata.uid, pod.metadata.uid);
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        for (text, expected) in [
            ("a: [", ""),
            ("apiVersion: v1\nkind: Service\n", "it is no v1 Pod"),
            (&TEXT.replace("web", "Web!") as &str, "metadata.name"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n",
                "spec.containers",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_mirror_is_made_kept_and_replaced() {
        let pod = read(TEXT).unwrap();
        let mut mirror = mirror_of(&pod, "n1", "uid");
        assert!(is_mirror(&mirror));
        assert_eq!(decide(&pod, None), Do::Create);
        assert_eq!(decide(&pod, Some(&mirror)), Do::Nothing);
        let changed = read(&TEXT.replace("v1'", "v2'")).unwrap();
        assert_eq!(decide(&changed, Some(&mirror)), Do::Delete);
        mirror.metadata.deletion_timestamp = Some(clock::now_seconds());
        assert_eq!(decide(&pod, Some(&mirror)), Do::Delete);
    }

    #[test]
    fn files_that_come_change_and_go_are_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("web.yaml");
        let mut source = Source::new(directory.path().to_owned(), "n1");
        let mut look = || {
            let changes = source.look();
            (changes.come.len(), changes.gone.len())
        };
        assert_eq!(look(), (0, 0));
        std::fs::write(&file, TEXT).unwrap();
        std::fs::write(directory.path().join(".web.yaml.swp"), TEXT).unwrap();
        assert_eq!(look(), (1, 0));
        assert_eq!(look(), (0, 0));
        std::fs::write(&file, TEXT.replace("v1'", "v10'")).unwrap();
        assert_eq!(look(), (1, 1));
        std::fs::write(&file, "nonsense").unwrap();
        assert_eq!(look(), (0, 1));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(look(), (0, 0));
    }
}
