//! Custom resources: what a CustomResourceDefinition says, as code that does it.
//!
//! Nothing here does I/O. A definition that is served becomes [`rows`] of the resource table, whose
//! strategy works on JSON trees ([`object`]) by a compiled [`schema`]:
//!
//! ```text
//! body -> tree -> prune -> default -> validate -> store
//! ```
//!
//! - [`definition`]: CustomResourceDefinition itself, its rules and its status.
//! - [`schema`]: a structural schema (KEP-1693), and what is done by it: [`prune`], [`defaults`],
//!   [`validate`], [`lists`], [`embedded`].
//! - [`json_path`]: printer columns, selectable fields and scales find their values by it.
//! - [`rules`]: `x-kubernetes-validations`, asked when all else is right.
//! - [`conversion`]: what a conversion webhook is asked, and what it may answer.
//! - [`publish`]: the schema as OpenAPI documents show it.
//!
//! # Invariants
//! - An object in memory is in the version that the request is about; [`Object::encode`] gives the
//!   stored one, as far as no webhook is needed for that.
//! - An object that is handed out was pruned and defaulted by the schema of its version.
//!
//! [`Object::encode`]: super::Object::encode

pub(crate) mod conversion;
mod defaults;
pub(crate) mod definition;
mod embedded;
mod formats;
mod json_path;
mod lists;
mod object;
mod prune;
mod publish;
mod rows;
mod rules;
mod scale;
mod schema;
mod strategy;
mod validate;

pub(crate) use self::{
    object::Custom,
    publish::{OBJECT_META, type_members},
    rows::{Family, Version, fingerprints},
};

#[cfg(test)]
mod tests;
