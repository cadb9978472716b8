//! Objects that the server itself needs to look at, by their type.

use std::sync::Arc;

use super::{
    cache::{Cache, Table},
    filter::Filter,
    object::CachedObject,
    status::{ApiError, Result},
};
use crate::resources::{BuiltIn, Resource, Resources};

/// Reads objects of the server's own cache and store. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(super) cache: Arc<Cache>,
    pub(super) resources: Resources,
}

impl Reader {
    /// The row of a type, if it is served.
    pub(super) fn resource<T: k8s_openapi::Resource>(&self) -> Option<&Arc<Resource>> {
        self.resources.by_kind(T::GROUP, T::VERSION, T::KIND)
    }

    /// The table of a type, if it is served.
    pub(super) fn table<T: k8s_openapi::Resource>(&self) -> Option<Arc<Table>> {
        self.cache.table(self.resource::<T>()?).ok()
    }

    /// The object as the cache has it; the store is asked when the cache does not know it (yet).
    pub(super) async fn find<T: k8s_openapi::Resource>(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Arc<CachedObject>>> {
        let Some(table) = self.table::<T>() else { return Ok(None) };
        let key = table.resource.key(namespace, name);
        if let Some(found) = table.get(&key) {
            return Ok(Some(found));
        }
        let found = self.cache.store().get(&key).await?;
        Ok(found.and_then(|value| Cache::cached(&table, &value)).map(Arc::new))
    }

    /// The object as the cache has it, decoded.
    pub(super) async fn get<T: BuiltIn + k8s_openapi::Resource>(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<T>> {
        self.find::<T>(namespace, name).await?.map(|object| decode(&object)).transpose()
    }

    /// All objects of a type that the cache has, decoded.
    pub(super) fn list<T: BuiltIn + k8s_openapi::Resource>(
        &self,
        namespace: Option<&str>,
    ) -> Result<Vec<T>> {
        let Some(table) = self.table::<T>() else { return Ok(Vec::new()) };
        let filter = namespace.map(Filter::namespace).unwrap_or_default();
        let page = table.list(&filter, None, 0, 0);
        page.items.iter().map(|object| decode(object)).collect()
    }
}

fn decode<T: BuiltIn>(object: &CachedObject) -> Result<T> {
    let mut decoded: T = crate::json::from_slice(&object.stored.plain())
        .map_err(|error| ApiError::internal(format!("{}: {error}", object.key)))?;
    k8s_openapi::Metadata::metadata_mut(&mut decoded).resource_version =
        Some(object.revision.to_string());
    Ok(decoded)
}
