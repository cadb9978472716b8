//! Paths that are about the server: discovery, OpenAPI, version, health, metrics.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json};

use super::Call;
use crate::{
    discovery,
    openapi::{self, Document},
    server::{
        body::{self, ResponseBody},
        health, negotiate,
        status::{ApiError, Result},
    },
};

/// Health endpoints.
const HEALTH: [&str; 3] = ["/healthz", "/livez", "/readyz"];

impl Call<'_> {
    pub(super) async fn nonresource(self) -> Result<Response<ResponseBody>> {
        let path = self.context.info().path.as_str();
        if ![Method::GET, Method::HEAD].contains(&self.context.method) {
            return Err(ApiError::method_not_allowed());
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            [""] => self.json(&json!({ "paths": self.paths() })),
            // As kube-apiserver writes it, for people.
            ["version"] => Ok(body::answer(
                &self.context.headers,
                200,
                negotiate::Format::Json,
                serde_json::to_vec_pretty(&version()).map_err(ApiError::internal)?,
            )),
            ["metrics"] => Ok(text(200, self.server.metrics.text(&self.server.registry.cache))),
            ["api"] => self.discovery(
                |call| call.kinds.aggregated_core().clone(),
                |call| Some(discovery::api_versions(call.host())),
            ),
            ["apis"] => self.discovery(
                |call| call.server.aggregator.aggregated(call.kinds),
                |call| Some(call.server.aggregator.groups(&call.kinds.resources)),
            ),
            ["api", version] => {
                self.document(discovery::api_resource_list(&self.kinds.resources, "", version))
            }
            ["apis", group] => {
                self.document(self.server.aggregator.group(&self.kinds.resources, group))
            }
            ["apis", group, version] => {
                self.document(discovery::api_resource_list(&self.kinds.resources, group, version))
            }
            ["openapi", "v2"] => self.openapi_v2(),
            ["openapi", "v3"] => self.openapi_v3(None),
            ["openapi", "v3", ..] => self.openapi_v3(Some(path.trim_start_matches("/openapi/v3/"))),
            ["debug", "api_priority_and_fairness", what] => {
                let flow_control = self.server.flow_control.as_ref();
                match flow_control.and_then(|it| it.dump(what, self.context.query())) {
                    Some(dump) => Ok(text(200, dump)),
                    None => Ok(self.unknown()),
                }
            }
            [".well-known", "openid-configuration"] => {
                let keys = format!("https://{}/openid/v1/jwks", self.host());
                self.public(&self.server.token_key.discovery(&keys), "application/json")
            }
            ["openid", "v1", "jwks"] => {
                self.public(&self.server.token_key.jwks(), "application/jwk-set+json")
            }
            [first, ..] if HEALTH.iter().any(|endpoint| endpoint[1..] == **first) => {
                match health::check(self.server, path, self.context.query()).await {
                    Some(health) => Ok(text(health.code, health.text)),
                    None => Ok(self.unknown()),
                }
            }
            _ => Ok(self.unknown()),
        }
    }

    /// Aggregated discovery for those who ask for it, else the classic document.
    fn discovery(
        self,
        aggregated: impl FnOnce(Self) -> Document,
        classic: impl FnOnce(Self) -> Option<Value>,
    ) -> Result<Response<ResponseBody>> {
        let clauses = negotiate::accepted(&self.context.headers);
        let wants = clauses
            .iter()
            .find(|clause| {
                let kind = clause.parameter("as");
                clause.media_type == "application/json"
                    && (kind.is_none()
                        || (kind == Some("APIGroupDiscoveryList")
                            && clause.parameter("g") == Some("apidiscovery.k8s.io")
                            && clause.parameter("v") == Some("v2")))
            })
            .is_some_and(|clause| clause.parameter("as").is_some());
        if !wants {
            return self.document(classic(self));
        }
        let document = aggregated(self);
        let mut response = self.cached(document.body.clone(), &document.etag());
        let headers = response.headers_mut();
        let media_type = HeaderValue::from_static(discovery::AGGREGATED_MEDIA_TYPE);
        headers.insert(header::CONTENT_TYPE, media_type);
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        Ok(response)
    }

    fn openapi_v2(self) -> Result<Response<ResponseBody>> {
        let documents = &self.kinds.documents;
        let clauses = negotiate::accepted(&self.context.headers);
        let first = clauses.first().map(|clause| clause.media_type);
        let protobuf = first.is_some_and(|first| openapi::V2_PROTOBUF_ACCEPTED.contains(&first));
        if protobuf {
            let mut response = self.openapi(&self.server.aggregator.openapi_v2_protobuf(documents));
            let media_type = HeaderValue::from_static(openapi::V2_PROTOBUF_CONTENT_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, media_type);
            return Ok(response);
        }
        Ok(self.openapi(&self.server.aggregator.openapi_v2(documents)))
    }

    fn openapi_v3(self, path: Option<&str>) -> Result<Response<ResponseBody>> {
        let documents = &self.kinds.documents;
        let document = match path {
            None => self.server.aggregator.openapi_v3(documents),
            Some(path) => documents.v3(path).ok_or_else(ApiError::no_such_path)?.clone(),
        };
        let mut response = self.openapi(&document);
        // The hash in the URL names this very document: a client may keep it for good.
        if path.is_some() && self.context.query().get("hash") == Some(document.hash.as_str()) {
            let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
            response.headers_mut().insert(header::CACHE_CONTROL, forever);
        }
        Ok(response)
    }

    fn openapi(self, document: &Document) -> Response<ResponseBody> {
        self.cached(document.body.clone(), &document.etag())
    }

    /// An answer that the client may already have.
    fn cached(self, body: Bytes, etag: &str) -> Response<ResponseBody> {
        let known = self.context.headers.get(header::IF_NONE_MATCH);
        let mut response = if known.is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            body::answer(&self.context.headers, 200, negotiate::Format::Json, body)
        };
        if let Ok(value) = HeaderValue::from_str(etag) {
            response.headers_mut().insert(header::ETAG, value);
        }
        response
    }

    /// A document that may be kept for an hour, as in kube-apiserver.
    fn public(self, value: &Value, media_type: &'static str) -> Result<Response<ResponseBody>> {
        let json = serde_json::to_vec(value).map_err(ApiError::internal)?;
        let format = negotiate::Format::Json;
        let mut response = body::answer(&self.context.headers, 200, format, json);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        let kept = HeaderValue::from_static("public, max-age=3600");
        headers.insert(header::CACHE_CONTROL, kept);
        Ok(response)
    }

    fn document(self, value: Option<Value>) -> Result<Response<ResponseBody>> {
        self.json(&value.ok_or_else(ApiError::no_such_path)?)
    }

    fn json(self, value: &Value) -> Result<Response<ResponseBody>> {
        let format = negotiate::plain_format(&self.context.headers)?;
        Ok(body::answer_value(&self.context.headers, 200, format, value))
    }

    /// A path that does not exist: kube-apiserver tells which ones do.
    fn unknown(self) -> Response<ResponseBody> {
        let paths = json!({ "paths": self.paths() });
        body::answer_value(&self.context.headers, 404, negotiate::Format::Json, &paths)
    }

    fn paths(self) -> Vec<String> {
        let mut paths: Vec<String> =
            ["/.well-known/openid-configuration", "/api", "/apis", "/metrics", "/openapi/v2"]
                .into_iter()
                .chain(["/openapi/v3", "/openid/v1/jwks", "/version"])
                .chain(HEALTH)
                .map(ToOwned::to_owned)
                .collect();
        for resource in self.kinds.resources.iter() {
            paths.push(match resource.group.as_ref() {
                "" => format!("/api/{}", resource.version),
                group => format!("/apis/{group}/{}", resource.version),
            });
            if !resource.group.is_empty() {
                paths.push(format!("/apis/{}", resource.group));
            }
        }
        paths.sort();
        paths.dedup();
        paths
    }

    /// Where the client reached the server.
    fn host(&self) -> &str {
        let host = self.context.headers.get(header::HOST).and_then(|value| value.to_str().ok());
        host.unwrap_or_default()
    }
}

/// The version of Kubernetes whose API this is.
fn version() -> Value {
    json!({
        "major": "1",
        "minor": "37",
        "gitVersion": "v1.37.0",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_architecture()),
    })
}

/// The architecture as Go names it, which clients know.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What Go's servers answer where there is nothing.
pub(super) fn page_not_found() -> Response<ResponseBody> {
    text(404, "404 page not found\n".to_owned())
}

/// A plain text answer.
fn text(status: u16, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
