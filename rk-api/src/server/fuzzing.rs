//! The request path, and server-side apply, under arbitrary input.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use rk_store::EmbeddedStore;
use tower::ServiceExt;

use super::{ApiServer, UserInfo, context::Identity};

/// A request made of arbitrary bytes: the first choose the method and the length of the path, then
/// follow the path with its query, headers as lines up to an empty one, and the body.
///
/// `None` when they cannot be a request: HTTP itself would refuse them.
pub fn request(bytes: &[u8]) -> Option<Request<Full<Bytes>>> {
    let (&[method, length], rest) = bytes.split_first_chunk()?;
    let (path, rest) = rest.split_at_checked(usize::from(length))?;
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ];
    let path = std::str::from_utf8(path).ok()?;
    let uri: Uri = format!("/{}", path.trim_start_matches('/')).parse().ok()?;
    let mut request =
        Request::builder().method(&methods[usize::from(method) % methods.len()]).uri(uri);
    let mut body = rest;
    while let Some(end) = body.iter().position(|byte| *byte == b'\n') {
        let line = &body[..end];
        body = &body[end + 1..];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::copy_from_slice(body))).ok()
}

/// A server to try requests on.
pub async fn server() -> Option<ApiServer> {
    ApiServer::builder(Arc::new(EmbeddedStore::in_memory())).start().await.ok()
}

/// Sends one request as an administrator and reads what comes at once of the answer. Returns its
/// status code.
///
/// # Panics
/// When an answer is not what any answer must be: a known status, JSON where it says so.
pub async fn run(server: &ApiServer, mut request: Request<Full<Bytes>>) -> u16 {
    request.extensions_mut().insert(Identity(Arc::new(UserInfo::admin())));
    let line = format!("{} {}", request.method(), request.uri());
    let Ok(response) = server.clone().oneshot(request).await;
    let code = response.status().as_u16();
    let panicked = "caused apiserver to panic";
    let is_json = response.headers().get("content-type").is_some_and(|v| v == "application/json");
    let mut body = response.into_body().into_data_stream();
    let mut text = Vec::new();
    // A watch has no end: what is there now is enough.
    while let Ok(Some(Ok(chunk))) =
        tokio::time::timeout(std::time::Duration::from_millis(1), body.next()).await
    {
        text.extend_from_slice(&chunk);
    }
    assert!(!String::from_utf8_lossy(&text).contains(panicked), "{line}");
    if is_json && code >= 400 {
        let status: Result<serde_json::Value, _> = serde_json::from_slice(&text);
        assert!(status.is_ok_and(|status| status.is_object()), "{line}");
    }
    code
}

/// Applies configurations made of arbitrary bytes, in turn, to one object: each line is one, its
/// first byte chooses the manager and whether it is forced or an update. Returns how many were
/// taken.
///
/// # Panics
/// When what always holds does not: applying again changes nothing, and entries are read as they
/// were written.
pub fn apply(bytes: &[u8]) -> usize {
    use crate::apply::{self, Filter, Managers, OneVersion, Write};
    use serde_json::{Map, Value};

    let schema = apply::builtin();
    let Some((&choice, lines)) = bytes.split_first() else { return 0 };
    let kinds = ["core.v1.Pod", "core.v1.Service", "apps.v1.Deployment", "core.v1.ConfigMap"];
    let name = format!("io.k8s.api.{}", kinds[usize::from(choice) % kinds.len()]);
    let Some(kind) = schema.get(&name) else { return 0 };
    let versions = OneVersion { api_version: "v1", schema, kind };
    let filter = Filter::default();
    let (mut object, mut managers) = (Value::Object(Map::new()), Managers::default());
    let mut taken = 0;
    for line in lines.split(|byte| *byte == b'\n') {
        let Some((&choice, json)) = line.split_first() else { continue };
        let Ok(configuration) = serde_json::from_slice::<Value>(json) else { continue };
        if !configuration.is_object() || schema.validate(kind, &configuration).is_err() {
            continue;
        }
        let manager = ["a", "b", "c"][usize::from(choice >> 2) % 3];
        let now = "2026-01-01T00:00:00Z";
        let write = Write { manager, api_version: "v1", subresource: "", filter: &filter, now };
        if choice & 2 != 0 {
            let Ok(comparison) = schema.compare(kind, &object, &configuration) else { continue };
            managers.record_update(&write, |_| Some(std::borrow::Cow::Borrowed(&comparison)));
            object = configuration;
        } else {
            let force = choice & 1 != 0;
            let applied =
                apply::apply(&versions, &write, &object, &configuration, &managers, force);
            let Ok(applied) = applied else { continue };
            object = applied.object.unwrap_or(object);
            managers = applied.managers;
            let again = apply::apply(&versions, &write, &object, &configuration, &managers, false);
            assert!(again.is_ok_and(|again| again.object.is_none()), "{configuration}");
        }
        let json = managers.to_json();
        if !json.is_empty() {
            assert_eq!(Managers::from_json(json.as_bytes()).as_ref(), Ok(&managers));
        }
        taken += 1;
    }
    taken
}
