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

use std::{collections::BTreeMap, sync::OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{discovery, resources::Resources};
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
    let operations: Vec<_> = group_versions(resources)
        .into_values()
        .flat_map(|(group, version)| operations::of_version(resources, &group, &version))
        .collect();
    let definitions = schemas::of_operations(resources, &operations, Dialect::V2);
    v2::document(&operations, definitions)
}

/// All documents of a server, each made once.
#[derive(Debug)]
pub struct Documents {
    resources: Resources,
    v3: BTreeMap<String, Lazy>,
    v3_index: OnceLock<Document>,
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
}

/// A document and what it is known by.
#[derive(Clone, Debug)]
pub struct Document {
    /// The body.
    pub body: Bytes,
    /// Its SHA-256 in upper-case hexadecimal digits.
    pub hash: String,
}

#[derive(Debug)]
struct Lazy {
    group: String,
    version: String,
    document: OnceLock<Document>,
}

// === impl Documents ===

impl Documents {
    /// The documents of these resources. This makes none of them yet.
    pub fn new(resources: Resources) -> Self {
        let v3 = group_versions(&resources)
            .into_iter()
            .map(|(path, (group, version))| {
                (path, Lazy { group, version, document: OnceLock::new() })
            })
            .collect();
        Self {
            resources,
            v3,
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
        self.v3.get(path).map(|lazy| self.make(lazy))
    }

    /// `/openapi/v2`, as JSON.
    pub fn v2_json(&self) -> &Document {
        self.v2.get_or_init(|| Document::json(&v2(&self.resources)))
    }

    /// `/openapi/v2`, as protobuf: see [`V2_PROTOBUF_ACCEPTED`].
    pub fn v2_protobuf(&self) -> &Document {
        self.v2_protobuf.get_or_init(|| Document::new(protobuf::encode(&v2(&self.resources))))
    }

    fn index(&self) -> Value {
        let entry = |(path, lazy): (&String, &Lazy)| {
            let url = format!("/openapi/v3/{path}?hash={}", self.make(lazy).hash);
            (path.clone(), json!({"serverRelativeURL": url}))
        };
        let paths: serde_json::Map<_, _> = self.v3.iter().map(entry).collect();
        json!({"paths": paths})
    }

    fn make<'a>(&self, lazy: &'a Lazy) -> &'a Document {
        lazy.document.get_or_init(|| {
            let document = v3(&self.resources, &lazy.group, &lazy.version);
            Document::json(&document.unwrap_or_default())
        })
    }
}

// === impl Document ===

impl Document {
    fn new(body: Vec<u8>) -> Self {
        Self { hash: discovery::hash(&body), body: body.into() }
    }

    fn json(document: &Value) -> Self {
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
            let root = operations::root(&row.group, &row.version);
            let path = root.trim_start_matches('/').to_owned();
            (path, (row.group.to_string(), row.version.to_string()))
        })
        .collect()
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
