//! The health of the control plane's parts, as `kubectl get componentstatuses` asks for it.
//!
//! A server knows of its store. The scheduler and the controllers are clients like any other and
//! say themselves how they are.

use std::sync::Arc;

use http::Response;
use k8s_openapi::{
    api::core::v1::{ComponentCondition, ComponentStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::Call;
use crate::{
    resources::Resource,
    server::{
        body::{self, ResponseBody},
        cache::Cache,
        filter::Filter,
        object::{CachedObject, Stored},
        query::ListOptions,
        shape::ListMeta,
        status::Result,
    },
};

const DEPRECATED: &str = "v1 ComponentStatus is deprecated in v1.19+";

impl<'a> Call<'a> {
    /// One component, or all of them.
    pub(super) async fn components(
        self,
        resource: &'a Arc<Resource>,
    ) -> Result<Response<ResponseBody>> {
        self.context.warnings.add(DEPRECATED);
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let store = Arc::new(self.as_cached(resource, self.store_health().await)?);
        if self.context.info().verb == "get" {
            let target = self.target(resource, false);
            if store.key.as_ref() != target.key() {
                return Err(target.not_found());
            }
            return self.shaped(200, output, &shaper, &store).await;
        }
        let options = ListOptions::read(self.context.query(), false)?;
        let filter = Filter::read(resource, None, None, &options)?;
        let items: Vec<_> = [store].into_iter().filter(|item| filter.matches(item)).collect();
        let meta = ListMeta { revision: 0, continue_token: String::new(), remaining: None };
        let json = shaper.list(&items, &meta);
        Ok(body::answer(&self.context.headers, 200, output.format, json))
    }

    async fn store_health(self) -> ComponentStatus {
        let answer = self.server.registry.cache.store().revision().await;
        let mut condition = ComponentCondition {
            type_: "Healthy".to_owned(),
            status: "True".to_owned(),
            message: Some("ok".to_owned()),
            error: None,
        };
        if let Err(error) = answer {
            condition.status = "False".to_owned();
            condition.message = Some(error.to_string());
        }
        ComponentStatus {
            metadata: ObjectMeta { name: Some("etcd-0".to_owned()), ..ObjectMeta::default() },
            conditions: Some(vec![condition]),
        }
    }

    /// As if it had been stored, which gives it its shapes.
    fn as_cached(self, resource: &Resource, mut status: ComponentStatus) -> Result<CachedObject> {
        let key = resource.key(None, status.metadata.name.as_deref().unwrap_or_default());
        let facts = Cache::facts(resource, &status);
        let stored = Stored::encode(&mut status, &[])?;
        Ok(self.table(resource)?.object(key.into(), stored, 0, facts))
    }
}
