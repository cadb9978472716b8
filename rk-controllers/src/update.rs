//! Updates that neither lose what others wrote nor touch what they did not change.
//!
//! What is sent is the difference between the object as it was read and as it should be, a JSON merge
//! patch (RFC 7386) with the `resourceVersion` that was read. So fields that this version of the types
//! does not know survive; a write by somebody else in between is a conflict, upon which the reconcile
//! is repeated; and without a difference nothing is sent at all.
//!
//! ```
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::Api;
//! use rk_controllers::{Error, update};
//!
//! async fn greet(api: &Api<ConfigMap>, read: &ConfigMap) -> Result<ConfigMap, Error> {
//!     let mut wanted = read.clone();
//!     wanted.data.get_or_insert_default().insert("hello".into(), "world".into());
//!     update::object(api, read, &wanted).await
//! }
//! ```

use std::fmt::Debug;

use kube::{Api, Resource};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::Error,
    write::{self, Part},
};

/// Brings metadata and spec from what was `read` to what is `wanted`. Returns the object as it is
/// then.
///
/// # Errors
/// A conflict when somebody wrote the object since it was read.
pub async fn object<K>(api: &Api<K>, read: &K, wanted: &K) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug,
{
    Ok(write::update(api, read, wanted, Part::Main).await?)
}

/// The same for the status, of kinds that have it as a subresource.
///
/// # Errors
/// As [`object`].
pub async fn status<K>(api: &Api<K>, read: &K, wanted: &K) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug,
{
    Ok(write::update(api, read, wanted, Part::Status).await?)
}
