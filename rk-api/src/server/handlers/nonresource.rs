//! Paths that are about the server: discovery, version, health, metrics.

use http::{Method, Response, header};
use serde_json::json;

use super::Call;
use crate::server::{
    body::{self, ResponseBody},
    negotiate,
    status::{ApiError, Result},
};

impl Call<'_> {
    pub(super) fn nonresource(self) -> Result<Response<ResponseBody>> {
        let path = self.context.info().path.as_str();
        if self.context.method != Method::GET {
            return Err(ApiError::method_not_allowed());
        }
        match path {
            "/version" => self.json(&version()),
            "/metrics" => Ok(text(200, self.server.metrics.text(&self.server.registry.cache))),
            _ => Err(ApiError::no_such_path()),
        }
    }

    fn json(self, value: &serde_json::Value) -> Result<Response<ResponseBody>> {
        let format = negotiate::plain_format(&self.context.headers)?;
        Ok(body::answer_value(&self.context.headers, 200, format, value))
    }
}

/// The version of Kubernetes whose API this is.
fn version() -> serde_json::Value {
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

/// A plain text answer.
fn text(status: u16, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(text));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    let value = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}
