//! The request path under arbitrary input.

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
