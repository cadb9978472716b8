//! A server behind this one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    discovery,
    server::{
        outbound::{Endpoint, Outbound, Trust},
        pki::Identity,
        user::UserInfo,
    },
};

/// How long a backend may take for a document about itself, and how long that may be.
const DISCOVERED_WITHIN: Duration = Duration::from_secs(5);
const DOCUMENT_WITHIN: Duration = Duration::from_secs(60);
const DOCUMENT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a backend is sent of the user.
const REMOTE: &str = "x-remote-";

/// The port of a Service that an APIService names without one.
const DEFAULT_PORT: u16 = 443;

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::server) struct Backend {
    /// The name of its APIService.
    pub name: String,
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The namespace, name and port of its Service.
    pub service: (String, String, u16),
    spec: APIServiceSpec,
    uid: Option<String>,
    endpoint: Endpoint,
    /// The same, whoever answers: whether somebody does is all that is asked there.
    probe: Endpoint,
    available: AtomicBool,
    documents: Mutex<Documents>,
}

/// What a backend says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Documents {
    /// Its version, as aggregated discovery shows it.
    pub discovery: Option<Value>,
    /// Whether that is what it said when it last answered, and it does not answer now.
    pub stale: bool,
    /// The URL of its OpenAPI 3 document.
    pub v3_url: Option<String>,
    /// Its Swagger document, with its entity tag.
    pub v2: Option<(String, Arc<Value>)>,
}

impl Backend {
    /// The backend of an APIService; `None` when this server serves it.
    pub(super) fn of(service: &APIService, identity: Option<&Arc<Identity>>) -> Option<Self> {
        let spec = service.spec.clone()?;
        let reference = spec.service.clone()?;
        let namespace = reference.namespace.unwrap_or_default();
        let name = reference.name.unwrap_or_default();
        let port = reference.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT);
        let endpoint = |trust: Trust| {
            let endpoint = Endpoint::service(&namespace, &name, port, "/").trusting(trust);
            match identity {
                Some(identity) => endpoint.with_identity(identity.clone()),
                None => endpoint,
            }
        };
        let trust = match (&spec.ca_bundle, spec.insecure_skip_tls_verify) {
            (_, Some(true)) => Trust::Anybody,
            (Some(bundle), _) if !bundle.0.is_empty() => Trust::Authorities(bundle.0.clone()),
            _ => Trust::System,
        };
        Some(Self {
            name: service.metadata.name.clone()?,
            group: spec.group.clone().unwrap_or_default(),
            version: spec.version.clone().unwrap_or_default(),
            endpoint: endpoint(trust),
            probe: endpoint(Trust::Anybody),
            service: (namespace, name, port),
            uid: service.metadata.uid.clone(),
            spec,
            available: AtomicBool::new(false),
            documents: Mutex::default(),
        })
    }

    /// Whether this is the backend of an APIService, as that is now.
    pub(super) fn is_of(&self, service: &APIService) -> bool {
        service.metadata.name.as_deref() == Some(self.name.as_str())
            && service.metadata.uid == self.uid
            && service.spec.as_ref() == Some(&self.spec)
    }

    /// Whether requests are passed on.
    pub(super) fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Says whether they are.
    pub(super) fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Relaxed);
    }

    /// Where requests are passed on to.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The host in links of its.
    pub(super) fn host(&self) -> String {
        let (namespace, name, port) = &self.service;
        format!("{name}.{namespace}.svc:{port}")
    }

    /// `apis/group/version`.
    pub(super) fn path(&self) -> String {
        format!("apis/{}/{}", self.group, self.version)
    }

    /// Whether it has an OpenAPI 3 document.
    pub(super) fn has_v3(&self) -> bool {
        self.documents.lock().v3_url.is_some()
    }

    /// What it says of itself.
    pub(super) fn documents(&self) -> Documents {
        self.documents.lock().clone()
    }

    /// Asks whether it serves what it should; the error says why not.
    pub(super) async fn check(&self, outbound: &Outbound) -> Result<(), String> {
        let (namespace, name, port) = &self.service;
        let url = format!("https://{name}.{namespace}.svc:{port}/{}", self.path());
        let asked = self.ask(outbound, &self.probe, &self.path(), &[], DISCOVERED_WITHIN).await;
        let missing = |why: String| format!("failing or missing response from {url}: {why}");
        match asked {
            Ok((status, ..)) if status.is_success() || status.is_redirection() => Ok(()),
            Ok((status, ..)) => Err(missing(format!("bad status from {url}: {}", status.as_u16()))),
            Err(why) => Err(missing(why)),
        }
    }

    /// Asks it which kinds it serves, and returns whether it answered. What it does not say stays as
    /// it was.
    pub(super) async fn refresh_discovery(&self, outbound: &Outbound) -> bool {
        let discovery = self.discover(outbound).await;
        let mut documents = self.documents.lock();
        let answered = discovery.is_some();
        documents.stale = !answered;
        if answered {
            documents.discovery = discovery;
        }
        answered
    }

    /// Asks it for the schemas of its kinds.
    pub(super) async fn refresh_openapi(&self, outbound: &Outbound) {
        let v3_url = self.v3(outbound).await;
        let known = self.documents.lock().v2.clone();
        let v2 = self.v2(outbound, known).await;
        let mut documents = self.documents.lock();
        documents.v3_url = v3_url;
        documents.v2 = v2;
    }

    /// Says that what it said may no longer be so.
    pub(super) fn set_stale(&self) {
        self.documents.lock().stale = true;
    }

    async fn discover(&self, outbound: &Outbound) -> Option<Value> {
        let accepted = format!("{},application/json", discovery::AGGREGATED_MEDIA_TYPE);
        let headers = [(header::ACCEPT, accepted.as_str())];
        let ask = self.ask(outbound, &self.endpoint, "apis", &headers, DISCOVERED_WITHIN);
        if let Ok((StatusCode::OK, _, body)) = ask.await {
            let list: Value = serde_json::from_slice(&body).ok()?;
            let found = super::merge::version_in(&list, &self.group, &self.version);
            if found.is_some() {
                return found;
            }
        }
        let path = self.path();
        let ask = self.ask(outbound, &self.endpoint, &path, &[], DISCOVERED_WITHIN);
        let (status, _, body) = ask.await.ok()?;
        let list: Value = serde_json::from_slice(&body).ok().filter(|_| status.is_success())?;
        Some(super::merge::from_classic(&list, &self.group, &self.version))
    }

    async fn v3(&self, outbound: &Outbound) -> Option<String> {
        let ask = self.ask(outbound, &self.endpoint, "openapi/v3", &[], DOCUMENT_WITHIN);
        let (status, _, body) = ask.await.ok()?;
        let index: Value = serde_json::from_slice(&body).ok().filter(|_| status.is_success())?;
        let url = &index["paths"][self.path()]["serverRelativeURL"];
        url.as_str().map(ToOwned::to_owned)
    }

    async fn v2(
        &self,
        outbound: &Outbound,
        known: Option<(String, Arc<Value>)>,
    ) -> Option<(String, Arc<Value>)> {
        let tag = known.as_ref().map(|(tag, _)| tag.clone()).unwrap_or_default();
        let mut headers = vec![(header::ACCEPT, "application/json")];
        if !tag.is_empty() {
            headers.push((header::IF_NONE_MATCH, &tag));
        }
        let asked =
            self.ask(outbound, &self.endpoint, "openapi/v2", &headers, DOCUMENT_WITHIN).await;
        match asked {
            Ok((StatusCode::NOT_MODIFIED, ..)) => known,
            Ok((StatusCode::OK, headers, body)) => {
                let document = serde_json::from_slice(&body).ok()?;
                let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
                Some((tag.unwrap_or_default().to_owned(), Arc::new(document)))
            }
            _ => None,
        }
    }

    /// Asks for a document, as this server itself.
    async fn ask(
        &self,
        outbound: &Outbound,
        endpoint: &Endpoint,
        path: &str,
        headers: &[(HeaderName, &str)],
        within: Duration,
    ) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let mut request = Request::get(format!("/{path}"));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let mut request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let user = UserInfo::new("system:kube-aggregator", ["system:masters"]);
        set_user(request.headers_mut(), &user);
        let asked = async {
            let answer = outbound.request(endpoint, request).await;
            let (parts, body) = answer.map_err(|error| error.to_string())?.into_parts();
            let read = Limited::new(body, DOCUMENT_BYTES_MAX).collect().await;
            let body = read.map_err(|error| error.to_string())?.to_bytes();
            Ok((parts.status, parts.headers, body))
        };
        tokio::time::timeout(within, asked).await.unwrap_or_else(|_| {
            Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into())
        })
    }
}

/// Tells a backend who asks, and lets nobody else tell it.
pub(super) fn set_user(headers: &mut HeaderMap, user: &UserInfo) {
    let told: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with(REMOTE)).cloned().collect();
    for name in told {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(format!("{REMOTE}{name}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    };
    add("user", &user.name);
    if !user.uid.is_empty() {
        add("uid", &user.uid);
    }
    for group in &user.groups {
        add("group", group);
    }
    for (key, values) in &user.extra {
        let key = format!("extra-{}", escaped(key));
        for value in values {
            add(&key, value);
        }
    }
}

/// A key as part of a header's name: what cannot be in one is percent-encoded, and so is `%`.
fn escaped(key: &str) -> String {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match is_token(byte) {
            true => out.push(char::from(byte.to_ascii_lowercase())),
            false => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}

/// A plain text answer, as Go's `http.Error` writes it.
pub(super) fn plain_error(status: StatusCode, text: &str) -> Response<crate::server::ResponseBody> {
    let body = crate::server::ResponseBody::full(format!("{text}\n"));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, plain);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_says_who_asks() {
        let mut headers = HeaderMap::new();
        headers.append("x-remote-user", HeaderValue::from_static("root"));
        headers.append("x-remote-extra-a", HeaderValue::from_static("b"));
        let mut user = UserInfo::new("ann", ["devs"]);
        user.extra.insert("Example.com/Scopes".to_owned(), vec!["1".to_owned(), "2".to_owned()]);
        set_user(&mut headers, &user);
        let mut told: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        told.sort();
        assert_eq!(
            told,
            [
                "x-remote-extra-example.com%2fscopes: 1",
                "x-remote-extra-example.com%2fscopes: 2",
                "x-remote-group: devs",
                "x-remote-group: system:authenticated",
                "x-remote-user: ann",
            ]
        );
    }
}
