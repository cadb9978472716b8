//! The documents of this server and its backends, made when they are asked for and kept until
//! something in them changes.

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::{
    Aggregator, Known,
    merge::{self, Remote},
};
use crate::{
    discovery,
    openapi::{Document, Documents},
    resources::Resources,
    server::kinds::Snapshot,
};

/// A document, and what it was made of: a generation of backends, and a document of this server.
#[derive(Debug)]
pub(super) struct Merged {
    generation: u64,
    local: String,
    document: Document,
}

impl Known {
    fn remotes(&self) -> Vec<Remote> {
        let remote = |backend: &std::sync::Arc<super::Backend>| {
            let documents = backend.documents();
            Remote {
                group: backend.group.clone(),
                version: backend.version.clone(),
                discovery: documents.discovery,
                stale: documents.stale || !backend.is_available(),
            }
        };
        self.backends.iter().map(remote).collect()
    }
}

impl Aggregator {
    /// `/apis`.
    pub(in crate::server) fn groups(&self, resources: &Resources) -> Value {
        let (known, local) = (self.known.load(), discovery::api_group_list(resources));
        match known.backends.is_empty() {
            true => local,
            false => merge::groups(local, &known.remotes(), &known.ranks),
        }
    }

    /// `/apis/{group}`.
    pub(in crate::server) fn group(&self, resources: &Resources, name: &str) -> Option<Value> {
        let (known, local) = (self.known.load(), discovery::api_group(resources, name));
        match known.backends.is_empty() {
            true => local,
            false => merge::group(local, name, &known.remotes(), &known.ranks),
        }
    }

    /// `/apis` in the aggregated form.
    pub(in crate::server) fn aggregated(&self, kinds: &Snapshot) -> Document {
        self.merged("aggregated", kinds.aggregated_groups(), |known, local| {
            Document::json(&merge::aggregated(local, &known.remotes(), &known.ranks))
        })
    }

    /// `/openapi/v3`.
    pub(in crate::server) fn openapi_v3(&self, documents: &Documents) -> Document {
        self.merged("v3", documents.v3_index(), |known, local| {
            let of = |backend: &std::sync::Arc<super::Backend>| {
                Some((backend.path(), backend.documents().v3_url?))
            };
            let remotes: Vec<_> = known.backends.iter().filter_map(of).collect();
            Document::json(&merge::openapi_v3(local, &remotes))
        })
    }

    /// `/openapi/v2` as JSON.
    pub(in crate::server) fn openapi_v2(&self, documents: &Documents) -> Document {
        self.merged("v2", documents.v2_json(), |known, local| {
            Document::json(&swagger(known, local))
        })
    }

    /// `/openapi/v2` as protobuf.
    pub(in crate::server) fn openapi_v2_protobuf(&self, documents: &Documents) -> Document {
        if self.known.load().backends.is_empty() {
            return documents.v2_protobuf().clone();
        }
        self.merged("v2-protobuf", documents.v2_json(), |known, local| {
            Document::swagger_protobuf(&swagger(known, local))
        })
    }

    fn merged(
        &self,
        name: &'static str,
        local: &Document,
        merge: impl FnOnce(&Known, Value) -> Document,
    ) -> Document {
        let generation = self.generation.load(Ordering::Acquire);
        let known = self.known.load();
        if known.backends.is_empty() {
            return local.clone();
        }
        if let Some(found) = self.merged.lock().get(name)
            && (found.generation, &found.local) == (generation, &local.hash)
        {
            return found.document.clone();
        }
        let tree = serde_json::from_slice(&local.body).unwrap_or_default();
        let document = merge(&known, tree);
        let merged = Merged { generation, local: local.hash.clone(), document: document.clone() };
        self.merged.lock().insert(name, merged);
        document
    }
}

fn swagger(known: &Known, local: Value) -> Value {
    known.backends.iter().fold(local, |document, backend| match backend.documents().v2 {
        Some((_, remote)) => merge::openapi_v2(document, &remote, &backend.path()),
        None => document,
    })
}
