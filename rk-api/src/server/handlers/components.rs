//! The health of the control plane's parts, as `kubectl get componentstatuses` asks for it.
//!
//! A server knows of its store. The scheduler and the controllers are clients like any other; they
//! are asked if the server was told how ([`Builder::component`](crate::server::Builder::component)).

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

/// The store's name among the components.
const STORE: &str = "etcd-0";

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
        if self.context.info().verb == "get" {
            let target = self.target(resource, false);
            let Some(status) = self.health_of(target.name).await else {
                return Err(target.not_found());
            };
            let status = Arc::new(self.as_cached(resource, status)?);
            return self.shaped(200, output, &shaper, &status).await;
        }
        let options = ListOptions::read(self.context.query(), false)?;
        let filter = Filter::read(resource, None, None, &options)?;
        let names = self.server.components.iter().map(|component| component.name.as_str());
        let asked = names.chain([STORE]).map(|name| self.health_of(name));
        let mut items = Vec::new();
        for status in futures::future::join_all(asked).await.into_iter().flatten() {
            items.push(Arc::new(self.as_cached(resource, status)?));
        }
        items.retain(|item| filter.matches(item));
        let meta = ListMeta { revision: 0, continue_token: String::new(), remaining: None };
        let json = shaper.list(&items, &meta);
        Ok(body::answer(&self.context.headers, 200, output.format, json))
    }

    /// How a component is; `None` when there is none of this name.
    async fn health_of(self, name: &str) -> Option<ComponentStatus> {
        let health = if name == STORE {
            let answer = self.server.registry.cache.store().revision().await;
            answer.map(|_| "ok".to_owned()).map_err(|error| error.to_string())
        } else {
            let component = self.server.components.iter().find(|it| it.name == name)?;
            component.check(&self.server.outbound).await
        };
        let (status, message) = match health {
            Ok(message) => ("True", message),
            Err(message) => ("False", message),
        };
        let condition = ComponentCondition {
            type_: "Healthy".to_owned(),
            status: status.to_owned(),
            message: Some(message),
            error: None,
        };
        Some(ComponentStatus {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            conditions: Some(vec![condition]),
        })
    }

    /// As if it had been stored, which gives it its shapes.
    fn as_cached(self, resource: &Resource, mut status: ComponentStatus) -> Result<CachedObject> {
        let key = resource.key(None, status.metadata.name.as_deref().unwrap_or_default());
        let facts = Cache::facts(resource, &status);
        let stored = Stored::encode(&mut status, &[])?;
        Ok(self.table(resource)?.object(key.into(), stored, 0, facts))
    }
}
