//! OpenAPI documents, from which clients learn the schemas of kinds.
//!
//! | path | document |
//! |---|---|
//! | `/openapi/v3` | [`v3_index`]: where the documents are |
//! | `/openapi/v3/api/v1`, `/openapi/v3/apis/{group}/{version}` | [`v3`]: one group version |
//! | `/openapi/v2` | [`v2`]: everything, in the older dialect |
//!
//! kubectl reads them to explain kinds, to see whether the server validates fields and takes dry
//! runs (it looks for those parameters in a kind's PATCH operation), and to learn how lists merge.
//!
//! Documents are made from the table of resources and the types, and are the same each time. They
//! take milliseconds to make and megabytes to hold, so [`Documents`] makes each when it is first
//! asked for and keeps its bytes.

mod operations;
mod parameters;
mod protobuf;
mod schemas;
mod v2;
mod v3;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    discovery,
    resources::{Resource, Resources},
};
use schemas::Dialect;

/// The media types by which clients ask for [`Documents::v2_protobuf`] in `Accept`, the one that
/// they do use first. It is no valid media type, so answer with [`V2_PROTOBUF_CONTENT_TYPE`]:
/// client-go refuses the other.
pub const V2_PROTOBUF_ACCEPTED: &[&str] =
    &["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", V2_PROTOBUF_CONTENT_TYPE];

/// The `Content-Type` of [`Documents::v2_protobuf`].
pub const V2_PROTOBUF_CONTENT_TYPE: &str =
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The index of OpenAPI 3 documents: the path of each below `/openapi/v3/`, and its URL with the
/// hash of its content, so that clients can cache it for good.
///
/// This makes all documents, so prefer [`Documents::v3_index`], which keeps them.
pub fn v3_index(resources: &Resources) -> Value {
    Documents::new(resources.clone()).index()
}

/// The OpenAPI 3 document of a group version; `None` if nothing is served there.
pub fn v3(resources: &Resources, group: &str, version: &str) -> Option<Value> {
    let is_served = resources.iter().any(|row| row.group == group && row.version == version);
    is_served.then(|| {
        let operations = operations::of_version(resources, group, version);
        let schemas = schemas::of_operations(resources, &operations, Dialect::V3);
        v3::document(&operations, schemas)
    })
}

/// The Swagger 2.0 document of everything.
pub fn v2(resources: &Resources) -> Value {
    let (operations, definitions) = everything(resources);
    v2::document(&operations, definitions)
}

fn everything(resources: &Resources) -> (Vec<operations::Operation>, Map<String, Value>) {
    let operations: Vec<_> = group_versions(resources)
        .into_values()
        .flat_map(|(group, version)| operations::of_version(resources, &group, &version))
        .collect();
    let definitions = schemas::of_operations(resources, &operations, Dialect::V2);
    (operations, definitions)
}

/// All documents of a server, each made once.
///
/// Where kinds come and go, [`Documents::of`] makes the next documents from these: they share what
/// is about group versions that did not change.
#[derive(Debug)]
pub struct Documents {
    resources: Resources,
    /// What these documents began with, by its Swagger document.
    base: Arc<Base>,
    versions: BTreeMap<String, Arc<GroupVersion>>,
    v3_index: OnceLock<Document>,
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
}

/// The kinds that are always there.
#[derive(Debug)]
struct Base {
    resources: Resources,
    v2: OnceLock<v2::Fragment>,
}

/// A document and what it is known by.
#[derive(Clone, Debug)]
pub struct Document {
    /// The body.
    pub body: Bytes,
    /// Its SHA-256 in upper-case hexadecimal digits.
    pub hash: String,
}

/// What documents say of one group version.
#[derive(Debug)]
struct GroupVersion {
    group: String,
    version: String,
    rows: Vec<Arc<Resource>>,
    v3: OnceLock<Document>,
    /// Its part of the Swagger document, if it is not of the [`Base`].
    v2: OnceLock<v2::Fragment>,
}

// === impl Documents ===

impl Documents {
    /// The documents of these resources. This makes none of them yet.
    pub fn new(resources: Resources) -> Self {
        let base = Arc::new(Base { resources: resources.clone(), v2: OnceLock::new() });
        Self::build(resources, base, &BTreeMap::new())
    }

    /// The documents of other resources, which share with these what is the same. The kinds that
    /// [`Documents::new`] was given must be among them.
    #[must_use]
    pub fn of(&self, resources: Resources) -> Self {
        Self::build(resources, self.base.clone(), &self.versions)
    }

    fn build(
        resources: Resources,
        base: Arc<Base>,
        known: &BTreeMap<String, Arc<GroupVersion>>,
    ) -> Self {
        let mut rows: BTreeMap<(&str, &str), Vec<Arc<Resource>>> = BTreeMap::new();
        for row in resources.iter() {
            rows.entry((&row.group, &row.version)).or_default().push(row.clone());
        }
        let versions = rows.into_iter().map(|((group, version), rows)| {
            let path = path(group, version);
            let same = known.get(&path).filter(|known| {
                known.rows.len() == rows.len()
                    && known.rows.iter().zip(&rows).all(|(a, b)| Arc::ptr_eq(a, b))
            });
            let shared = same.cloned().unwrap_or_else(|| {
                Arc::new(GroupVersion {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    rows,
                    v3: OnceLock::new(),
                    v2: OnceLock::new(),
                })
            });
            (path, shared)
        });
        let versions = versions.collect();
        Self {
            resources,
            base,
            versions,
            v3_index: OnceLock::new(),
            v2: OnceLock::new(),
            v2_protobuf: OnceLock::new(),
        }
    }

    /// `/openapi/v3`, as JSON. The first call makes all OpenAPI 3 documents.
    pub fn v3_index(&self) -> &Document {
        self.v3_index.get_or_init(|| Document::json(&self.index()))
    }

    /// The OpenAPI 3 document at `path`, which is what follows `/openapi/v3/` in the URL: `api/v1`
    /// or `apis/{group}/{version}`. As JSON.
    pub fn v3(&self, path: &str) -> Option<&Document> {
        self.versions.get(path).map(|version| self.make(version))
    }

    /// `/openapi/v2`, as JSON.
    pub fn v2_json(&self) -> &Document {
        self.v2.get_or_init(|| {
            let base = &self.base.resources;
            let fragment = self.base.v2.get_or_init(|| {
                let (operations, definitions) = everything(base);
                v2::Fragment::of(&operations, definitions)
            });
            let is_new =
                |version: &&Arc<GroupVersion>| version.rows.iter().any(|row| !is_row_of(base, row));
            let more = self.versions.values().filter(is_new).map(|version| self.fragment(version));
            Document::new(v2::assemble([fragment].into_iter().chain(more)))
        })
    }

    /// `/openapi/v2`, as protobuf: see [`V2_PROTOBUF_ACCEPTED`].
    pub fn v2_protobuf(&self) -> &Document {
        self.v2_protobuf.get_or_init(|| {
            let document = serde_json::from_slice(&self.v2_json().body);
            Document::new(protobuf::encode(&document.unwrap_or_default()))
        })
    }

    fn index(&self) -> Value {
        let entry = |(path, version): (&String, &Arc<GroupVersion>)| {
            let url = format!("/openapi/v3/{path}?hash={}", self.make(version).hash);
            (path.clone(), json!({"serverRelativeURL": url}))
        };
        let paths: serde_json::Map<_, _> = self.versions.iter().map(entry).collect();
        json!({"paths": paths})
    }

    fn make<'a>(&self, version: &'a GroupVersion) -> &'a Document {
        version.v3.get_or_init(|| {
            let document = v3(&self.resources, &version.group, &version.version);
            Document::json(&document.unwrap_or_default())
        })
    }

    /// What a group version adds to the Swagger document of the base.
    fn fragment<'a>(&self, version: &'a GroupVersion) -> &'a v2::Fragment {
        version.v2.get_or_init(|| {
            let base = &self.base.resources;
            let resources = &self.resources;
            let operations = operations::of_version(resources, &version.group, &version.version);
            let own: Vec<_> = version.rows.iter().filter(|row| !is_row_of(base, row)).collect();
            let is_own = |name: &str| {
                own.iter().any(|row| {
                    name.strip_prefix(row.schema.as_ref())
                        .is_some_and(|rest| matches!(rest, "" | "List"))
                })
            };
            let mut definitions = schemas::of_operations(resources, &operations, Dialect::V2);
            definitions.retain(|name, _| is_own(name));
            let plurals =
                |row: &&&Arc<Resource>, path: &str| path.split('/').any(|part| part == row.plural);
            // A version that has rows of the base, too, is there already but for what is new.
            let new = operations.into_iter().filter(|operation| {
                own.len() == version.rows.len()
                    || own.iter().any(|row| plurals(&row, &operation.path))
            });
            v2::Fragment::of(&new.collect::<Vec<_>>(), definitions)
        })
    }
}

/// Whether this very row is in the table.
fn is_row_of(resources: &Resources, row: &Arc<Resource>) -> bool {
    let found = resources.get(&row.group, &row.version, &row.plural);
    found.is_some_and(|found| Arc::ptr_eq(found, row))
}

// === impl Document ===

impl Document {
    fn new(body: Vec<u8>) -> Self {
        Self { hash: discovery::hash(&body), body: body.into() }
    }

    /// A Swagger document as protobuf.
    pub(crate) fn swagger_protobuf(document: &Value) -> Self {
        Self::new(protobuf::encode(document))
    }

    /// A document of JSON.
    pub(crate) fn json(document: &Value) -> Self {
        Self::new(document.to_string().into_bytes())
    }

    /// A strong entity tag.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.hash)
    }
}

/// Every group version by its path: `api/v1`, `apis/apps/v1`.
fn group_versions(resources: &Resources) -> BTreeMap<String, (String, String)> {
    resources
        .iter()
        .map(|row| {
            let path = path(&row.group, &row.version);
            (path, (row.group.to_string(), row.version.to_string()))
        })
        .collect()
}

/// What a group version's document is found by: `api/v1`, `apis/apps/v1`.
fn path(group: &str, version: &str) -> String {
    operations::root(group, version).trim_start_matches('/').to_owned()
}

fn status_text(code: u16) -> &'static str {
    match code {
        201 => "Created",
        202 => "Accepted",
        _ => "OK",
    }
}

#[cfg(test)]
mod tests;
