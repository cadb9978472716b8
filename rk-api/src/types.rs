//! The API's types, re-exported from `k8s-openapi` so that every crate of a program uses one copy.

pub use k8s_openapi::*;
