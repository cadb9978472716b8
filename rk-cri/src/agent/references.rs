//! Follows the ConfigMaps and Secrets that volumes show, so that their files change as soon as they
//! do. Each is followed by a watch of its own, once for all Pods of the node that show it, since a
//! node may see no others. One that is immutable is not followed any further.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
};

use futures::StreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Pod, Secret},
};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{env::Referenced, spec::pod_ref, volumes, worker::Core};

/// A ConfigMap or Secret: its kind, namespace and name.
pub(super) type Reference = (Kind, String, String);

/// What can be referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

/// The versions of what was read; `None` is of what is not there.
pub(super) type Versions = BTreeMap<Reference, Option<String>>;

/// All that is followed.
#[derive(Debug, Default)]
pub(super) struct References(Mutex<HashMap<Reference, Followed>>);

#[derive(Debug)]
struct Followed {
    /// UIDs of the Pods that show it.
    users: HashSet<String>,
    /// Its version; `None` until it was seen.
    version: Option<Option<String>>,
    _stop: DropGuard,
}

impl References {
    /// Whether any of these has another version by now.
    pub(super) fn differ_from(&self, seen: &Versions) -> bool {
        let followed = self.0.lock();
        seen.iter().any(|(reference, version)| {
            let newest = followed.get(reference).and_then(|known| known.version.as_ref());
            newest.is_some_and(|newest| newest != version)
        })
    }

    /// A Pod shows nothing any more.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().retain(|_, known| {
            known.users.remove(uid);
            !known.users.is_empty()
        });
    }

    /// Takes in a version; the Pods to tell.
    fn seen(&self, reference: &Reference, version: Option<String>) -> Vec<String> {
        let mut followed = self.0.lock();
        let Some(known) = followed.get_mut(reference) else { return Vec::new() };
        let version = Some(version);
        if known.version == version {
            return Vec::new();
        }
        known.version = version;
        known.users.iter().cloned().collect()
    }
}

/// What a Pod's volumes show.
fn references(pod: &Pod) -> impl Iterator<Item = Reference> {
    let namespace = pod_ref(pod).namespace;
    let (config_maps, secrets) = volumes::references(pod);
    let config_maps = config_maps.into_iter().map(|name| (Kind::ConfigMap, name));
    let secrets = secrets.into_iter().map(|name| (Kind::Secret, name));
    let all = config_maps.chain(secrets);
    all.map(|(kind, name)| (kind, namespace.clone(), name.to_owned()))
        .collect::<Vec<_>>()
        .into_iter()
}

/// The versions of what was read for a Pod's volumes.
pub(super) fn versions(pod: &Pod, read: &Referenced) -> Versions {
    let version = |reference: &Reference| match reference.0 {
        Kind::ConfigMap => read.config_maps.get(&reference.2)?.metadata.resource_version.clone(),
        Kind::Secret => read.secrets.get(&reference.2)?.metadata.resource_version.clone(),
    };
    references(pod).map(|reference| (reference.clone(), version(&reference))).collect()
}

impl Core {
    /// Begins to follow what a Pod's volumes show, as far as nobody does yet.
    pub(super) fn follow_references(&self, pod: &Pod) {
        let uid = pod_ref(pod).uid;
        for reference in references(pod) {
            let mut followed = self.references.0.lock();
            if let Some(known) = followed.get_mut(&reference) {
                known.users.insert(uid.clone());
                continue;
            }
            let stop = CancellationToken::new();
            let known = Followed {
                users: [uid.clone()].into(),
                version: None,
                _stop: stop.clone().drop_guard(),
            };
            followed.insert(reference.clone(), known);
            drop(followed);
            match reference.0 {
                Kind::ConfigMap => self.follow(reference, stop, |map: &ConfigMap| map.immutable),
                Kind::Secret => self.follow(reference, stop, |secret: &Secret| secret.immutable),
            }
        }
    }

    fn follow<K>(
        &self,
        reference: Reference,
        stop: CancellationToken,
        immutable: fn(&K) -> Option<bool>,
    ) where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &reference.1);
        let only = watcher::Config::default().fields(&format!("metadata.name={}", reference.2));
        let this = self.this.clone();
        let follow = async move {
            let mut events = watcher(api, only).default_backoff().boxed();
            let mut listed = None;
            while let Some(event) = events.next().await {
                let found: Option<K> = match event {
                    Ok(watcher::Event::Apply(object)) => Some(object),
                    Ok(watcher::Event::Delete(_)) => None,
                    Ok(watcher::Event::Init) => {
                        listed = None;
                        continue;
                    }
                    Ok(watcher::Event::InitApply(object)) => {
                        listed = Some(object);
                        continue;
                    }
                    Ok(watcher::Event::InitDone) => listed.take(),
                    Err(error) => {
                        tracing::debug!(?reference, %error, "unable to follow, will try again");
                        continue;
                    }
                };
                let version = found.as_ref().and_then(|it| it.meta().resource_version.clone());
                let Some(core) = this.upgrade() else { return };
                for uid in core.references.seen(&reference, version) {
                    // It may be what a Pod waits for.
                    core.poke_without_pause(&uid);
                }
                if found.as_ref().and_then(immutable) == Some(true) {
                    return;
                }
            }
        };
        let ended = self.stopped.clone();
        tokio::spawn(async move {
            tokio::select! { biased;
                () = stop.cancelled() => {}
                () = ended.cancelled() => {}
                () = follow => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(users: &[&str]) -> Followed {
        Followed {
            users: users.iter().map(|uid| (*uid).to_owned()).collect(),
            version: None,
            _stop: CancellationToken::new().drop_guard(),
        }
    }

    #[test]
    fn those_who_show_another_version_are_told_once() {
        let (all, one) =
            (References::default(), (Kind::ConfigMap, "ns".to_owned(), "m".to_owned()));
        all.0.lock().insert(one.clone(), followed(&["a", "b"]));
        let shown = |version: Option<&str>| -> Versions {
            [(one.clone(), version.map(str::to_owned))].into()
        };
        assert!(!all.differ_from(&shown(Some("1"))), "nothing is known yet");
        assert_eq!(all.seen(&one, Some("1".into())).len(), 2);
        assert!(all.seen(&one, Some("1".into())).is_empty());
        assert!(!all.differ_from(&shown(Some("1"))));
        assert!(all.differ_from(&shown(None)), "it has come");
        assert_eq!(all.seen(&one, None).len(), 2);
        assert!(all.differ_from(&shown(Some("1"))), "it has gone");

        all.forget("a");
        assert_eq!(all.seen(&one, Some("2".into())), ["b"]);
        all.forget("b");
        assert!(all.0.lock().is_empty());
    }
}
