//! The metadata of objects of any kind, of which nothing else is decoded and nothing is kept.

use std::{borrow::Cow, sync::Arc};

use k8s_openapi::{ClusterResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::core::ApiResource;
use serde::Deserialize;

use super::{
    Informers,
    reflector::{self, Sink, Source},
};

/// What takes in the metadata of all objects of a kind ([`Informers::follow_metadata`]).
pub trait MetadataSink: Send + Sync + 'static {
    /// All objects there are, at the beginning and after the watch has lost track: what was there
    /// before and is not among them is gone.
    fn replace(&self, all: Vec<ObjectMeta>);

    /// An object came or changed.
    fn put(&self, object: ObjectMeta);

    /// An object is gone; this was its last state.
    fn remove(&self, object: ObjectMeta);
}

impl Informers {
    /// Lists and watches the metadata of all objects of a kind through `client`, until the future
    /// is dropped. It is for kinds that nobody of the process needs as a whole: where there is an
    /// [`Informer`](super::Informer) of a kind anyway, subscribe to that.
    pub fn follow_metadata<S: MetadataSink>(
        &self,
        client: kube::Client,
        kind: &ApiResource,
        sink: S,
    ) -> impl Future<Output = ()> + Send + use<S> {
        let source = Source::metadata(client, self.0.in_process, kind);
        reflector::run(source, Arc::new(Plain(sink)))
    }
}

/// An object of any kind; what kind, its source knows.
#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    #[serde(default)]
    metadata: ObjectMeta,
}

impl kube::Resource for Metadata {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "PartialObjectMetadata".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "meta.k8s.io".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "partialobjectmetadata".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

struct Plain<S>(S);

impl<S: MetadataSink> Sink<Metadata> for Plain<S> {
    fn replace(&self, items: Vec<Metadata>) {
        self.0.replace(items.into_iter().map(|item| item.metadata).collect());
    }

    fn put(&self, object: Metadata) {
        self.0.put(object.metadata);
    }

    fn remove(&self, object: Metadata) {
        self.0.remove(object.metadata);
    }
}
