//! Finalizers: an object stays until a controller has cleaned up what it made outside the cluster.
//!
//! The order is what makes it safe. [`add`] before anything is made outside; what was made is removed
//! while the object [`is_deleting`], again and again until that succeeds; then [`remove`], after which
//! the object is gone. All three steps may be repeated.
//!
//! ```
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::Api;
//! use rk_controllers::{Action, Error, finalizers};
//!
//! const FINALIZER: &str = "example.com/bucket";
//!
//! async fn reconcile(api: &Api<ConfigMap>, object: &ConfigMap) -> Result<Action, Error> {
//!     if finalizers::is_deleting(object) {
//!         if finalizers::has(object, FINALIZER) {
//!             // … delete the bucket; an error ends the reconcile here, and it is repeated …
//!             finalizers::remove(api, object, FINALIZER).await?;
//!         }
//!         return Ok(Action::Wait);
//!     }
//!     let object = finalizers::add(api, object, FINALIZER).await?;
//!     // … make the bucket …
//!     # drop(object);
//!     Ok(Action::Wait)
//! }
//! ```

use std::fmt::Debug;

use kube::{Api, Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{self, Error},
    update,
};

/// Whether the object is on its way out.
pub fn is_deleting<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// Whether the object has a finalizer.
pub fn has<K: Resource>(object: &K, finalizer: &str) -> bool {
    object.finalizers().iter().any(|it| it == finalizer)
}

/// The object with a finalizer, which is written if it is missing. To an object that is being
/// deleted nothing is added: the API server would refuse it.
///
/// # Errors
/// A conflict when somebody wrote the object since it was read: the reconcile is repeated.
pub async fn add<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug,
{
    let mut with = object.clone();
    if !has(object, finalizer) && !is_deleting(object) {
        with.finalizers_mut().push(finalizer.to_owned());
    }
    update::object(api, object, &with).await
}

/// Takes a finalizer off. An object that is gone is fine.
///
/// # Errors
/// As [`add`].
pub async fn remove<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug,
{
    if !has(object, finalizer) {
        return Ok(());
    }
    let mut without = object.clone();
    without.finalizers_mut().retain(|it| it != finalizer);
    match update::object(api, object, &without).await {
        Err(Error::Api(gone)) if error::is_not_found(&gone) => Ok(()),
        result => result.map(drop),
    }
}
