//! Server-side apply: who manages which fields of an object, and how configurations meet.
//!
//! An object is a JSON tree here, its type comes from a [`Schema`], and nothing is read or written.
//! The words are those of [KEP-555] and of Kubernetes' structured merge and diff.
//!
//! - [`FieldSet`]: a set of fields, with its algebra and its JSON form, fieldsV1.
//! - [`Schema`]: what must be known of types. [`builtin`] has those of the API; a custom resource's
//!   comes from its OpenAPI schema.
//! - [`Managers`]: the entries of `metadata.managedFields`.
//! - [`apply()`]: one application.
//! - [`owned_by_creator`]: what a create owns, written while the object is walked.
//!
//! ```
//! use rk_api::apply::{Filter, Managers, OneVersion, Write, apply, builtin};
//! use serde_json::json;
//!
//! let schema = builtin();
//! let kind = schema.get("io.k8s.api.core.v1.ConfigMap").unwrap();
//! let versions = OneVersion { api_version: "v1", schema, kind };
//! let filter = Filter::default();
//! let write = Write {
//!     manager: "me", api_version: "v1", subresource: "", filter: &filter, now: "2026-01-01T00:00:00Z",
//! };
//! let live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
//! let mine = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}});
//!
//! let applied = apply(&versions, &write, &live, &mine, &Managers::default(), false)?;
//! assert_eq!(applied.object.unwrap()["data"], json!({"a": "1"}));
//! assert_eq!(applied.managers.entries()[0].fields.to_json(), r#"{"f:data":{"f:a":{}}}"#);
//! # Ok::<(), rk_api::apply::ApplyError>(())
//! ```
//!
//! [KEP-555]: https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/555-server-side-apply

mod applier;
mod atomics;
mod bytes;
mod compare;
mod creator;
mod fields_v1;
mod managers;
mod merge;
mod path;
mod remove;
mod schema;
mod set;
mod typed;

pub use applier::{
    Applied, ApplyError, Conflict, LAST_APPLIED, OneVersion, Versions, apply, reconcile,
};
pub use bytes::compare_bytes;
pub use compare::Comparison;
pub use creator::owned_by_creator;
pub use managers::{Entry, Filter, ManagerId, Managers, Operation, Write};
pub use path::PathElement;
pub use schema::{Schema, TypeRef, builtin};
pub use set::FieldSet;
pub use typed::TypeError;

#[cfg(test)]
mod tests;
