//! Binds a Pod by its `binding` subresource.

use async_trait::async_trait;
use http::Request;
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    PodInfo, Status,
    framework::{Bind, BindContext, Plugin},
    plugins::no_args,
};

/// The plugin's name.
pub const NAME: &str = "DefaultBinder";

/// Posts a `Binding`.
#[derive(Debug, Default)]
pub struct DefaultBinder;

no_args!(DefaultBinder);

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        NAME
    }
    fn as_bind(&self) -> Option<&dyn Bind> {
        Some(self)
    }
}

#[async_trait]
impl Bind for DefaultBinder {
    async fn bind(&self, context: &BindContext, pod: &PodInfo, node: &str) -> Status {
        let meta = &pod.pod.metadata;
        let binding = Binding {
            metadata: ObjectMeta {
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                // The server refuses to bind a successor of the same name.
                uid: meta.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let path = format!("/api/v1/namespaces/{}/pods/{}/binding", pod.namespace(), pod.name());
        let request =
            serde_json::to_vec(&binding).map_err(|error| error.to_string()).and_then(|body| {
                Request::post(path)
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(body)
                    .map_err(|error| error.to_string())
            });
        let request = match request {
            Ok(request) => request,
            Err(error) => return Status::error(error),
        };
        match context.client.request_text(request).await {
            Ok(_) => Status::success(),
            Err(kube::Error::Api(status)) => Status::error(status.message),
            Err(error) => Status::error(error.to_string()),
        }
    }
}
