//! Which version of its objects a controller wrote last.
//!
//! A status that counts or lists things must not be decided from an older one. The server refuses a
//! write that starts from it, but creating children is not refused. So a controller leaves an object
//! alone whose cached version is older than its own last write.

use std::collections::HashMap;

use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

use crate::key::ObjectKey;

/// The versions that one's own writes made, by object. May be lost at any time: a cache that is
/// filled after a restart is at least as new as what was written before.
#[derive(Debug, Default)]
pub(crate) struct LastWrites {
    /// UID and version.
    versions: Mutex<HashMap<ObjectKey, (String, u64)>>,
}

impl LastWrites {
    /// This is what a write made of the object.
    pub(crate) fn wrote<K: Resource>(&self, key: &ObjectKey, object: &K) {
        if let (Some(uid), Some(version)) = (object.uid(), version(object)) {
            self.versions.lock().insert(key.clone(), (uid, version));
        }
    }

    /// Whether `object` is older than the last write.
    pub(crate) fn is_outdated<K: Resource>(&self, key: &ObjectKey, object: &K) -> bool {
        self.versions.lock().get(key).is_some_and(|(uid, written)| {
            object.uid().as_deref() == Some(uid.as_str())
                && version(object).is_some_and(|version| version < *written)
        })
    }

    /// The object is gone, or will not be written any more.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.versions.lock().remove(key);
    }
}

/// Resource versions of one kind can be compared as numbers (KEP-5504). One that is no number says
/// nothing.
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use rk_api::testing::pod;

    use super::*;

    #[test]
    fn only_an_older_version_of_the_same_object_is_outdated() {
        let at = |uid: &str, version: &str| {
            pod("p")
                .uid(uid)
                .with(|pod| pod.metadata.resource_version = Some(version.into()))
                .build()
        };
        let (writes, key) = (LastWrites::default(), ObjectKey::new("default", "p"));
        assert!(!writes.is_outdated(&key, &at("a", "1")));
        writes.wrote(&key, &at("a", "10"));
        assert!(writes.is_outdated(&key, &at("a", "9")));
        assert!(!writes.is_outdated(&key, &at("a", "10")));
        assert!(!writes.is_outdated(&key, &at("another", "9")));
        assert!(!writes.is_outdated(&key, &at("a", "opaque")));
        writes.forget(&key);
        assert!(!writes.is_outdated(&key, &at("a", "9")));
    }
}
