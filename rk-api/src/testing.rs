//! Builders of objects for tests, short enough to read as a sentence:
//! `pod("web").cpu("2").tolerates("gpu")`, `node("n").cpu("8").taint("gpu=:NoSchedule")`.
//!
//! A builder dereferences to the object it builds, so it goes wherever a reference to the object
//! does; `build()` gives the object itself. Every object is in the namespace `default` unless it
//! is cluster-scoped. A malformed argument panics: it is a mistake in the test.

mod arbitrary;
mod nodes;
mod pods;
mod workloads;

pub use arbitrary::arbitrary;
pub use nodes::{NodeBuilder, node};
pub use pods::{PodBuilder, pod};
pub use workloads::{DeploymentBuilder, ReplicaSetBuilder, deployment, replica_set};

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Methods that builders of all kinds have: they set metadata.
macro_rules! metadata_methods {
    ($builder:ident, $object:ident) => {
        impl std::ops::Deref for $builder {
            type Target = $object;
            fn deref(&self) -> &$object {
                &self.0
            }
        }

        impl From<$builder> for $object {
            fn from(builder: $builder) -> $object {
                builder.0
            }
        }

        impl $builder {
            /// The object.
            pub fn build(self) -> $object {
                self.0
            }

            /// With this label.
            pub fn label(mut self, key: &str, value: &str) -> Self {
                crate::testing::insert(&mut self.0.metadata.labels, key, value);
                self
            }

            /// With this annotation.
            pub fn annotation(mut self, key: &str, value: &str) -> Self {
                crate::testing::insert(&mut self.0.metadata.annotations, key, value);
                self
            }

            /// With this UID; by default it is `uid-` and the name.
            pub fn uid(mut self, uid: &str) -> Self {
                self.0.metadata.uid = Some(uid.to_owned());
                self
            }

            /// Created this many seconds after the epoch.
            pub fn created(mut self, second: i64) -> Self {
                let time = k8s_openapi::jiff::Timestamp::from_second(second);
                let time = time.expect("a time that jiff can represent");
                self.0.metadata.creation_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
                self
            }

            /// Being deleted, since just now.
            pub fn deleting(mut self) -> Self {
                self.0.metadata.deletion_timestamp = Some(crate::clock::now_seconds());
                self
            }

            /// Changed further by `f`.
            pub fn with(mut self, f: impl FnOnce(&mut $object)) -> Self {
                f(&mut self.0);
                self
            }
        }
    };
}
use metadata_methods;

fn insert(map: &mut Option<BTreeMap<String, String>>, key: &str, value: &str) {
    map.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

fn metadata(namespace: Option<&str>, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        uid: Some(format!("uid-{name}")),
        ..ObjectMeta::default()
    }
}

fn quantity(text: &str) -> k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned())
}
