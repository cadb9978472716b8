//! Logs, exec, attach, port-forward: the server finds the Pod's node and connects the client with
//! the agent there.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, Node, Pod};

use self::{reader::Reader, tunnel::Tunnel};
use super::Call;
use crate::{
    field::{ErrorList, FieldError, Path},
    resources::Resource,
    server::{
        audit,
        body::{BoxError, ResponseBody},
        proxy::splice,
        query::Query,
        status::{ApiError, Result, Subject},
    },
};

mod reader;
mod tunnel;

/// How much of an agent's error text is passed on.
const ERROR_BYTES_MAX: usize = 50_000;

impl<'a> Call<'a> {
    /// `pods/x/log`.
    pub(super) async fn log(
        self,
        resource: &'a Arc<Resource>,
        mut extensions: http::Extensions,
    ) -> Result<Response<ResponseBody>> {
        let query = self.context.query();
        let name = self.context.info().name.as_str();
        let errors = validate_log_options(query);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&Subject::of("", "PodLogOptions"), name, &errors));
        }
        let reader = Reader::asked(&self.context.headers)?;
        let pod = self.pod(resource).await?;
        let container = container(&pod, query.get("container").unwrap_or_default())?;
        let Some(node) = self.node(&pod).await? else {
            // There is nothing to tell of a Pod that is nowhere.
            return Ok(Response::new(ResponseBody::empty()));
        };
        let passed = ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];
        let flags = ["follow", "previous", "timestamps"];
        let mut parameters = Vec::new();
        for key in passed {
            parameters.extend(query.get(key).filter(|value| !value.is_empty()).map(|v| (key, v)));
        }
        parameters.extend(flags.into_iter().filter(|key| query.flag(key)).map(|key| (key, "true")));
        let namespace = &self.context.info().namespace;
        let path = ["containerLogs", namespace, name, &container];
        let request = Request::get(uri(&path, &parameters));
        let request = request.body(ResponseBody::empty()).map_err(ApiError::internal)?;
        let response = self.send_to_agent(&node, request).await?;
        if !response.status().is_success() {
            return Err(agent_error(response, resource, name).await);
        }
        if let (Some(reader), Some(upgrade)) = (reader, extensions.remove::<OnUpgrade>()) {
            let answer = reader.answer();
            tokio::spawn(audit::hold(reader.carry(upgrade, response.into_body())));
            return Ok(answer);
        }
        let mut answer = Response::new(());
        let media_type = response.headers().get(header::CONTENT_TYPE).cloned();
        let plain = http::HeaderValue::from_static("text/plain");
        answer.headers_mut().insert(header::CONTENT_TYPE, media_type.unwrap_or(plain));
        Ok(answer.map(|()| ResponseBody::stream(response.into_body())))
    }

    /// `pods/x/exec`, `pods/x/attach`, `pods/x/portforward`.
    pub(super) async fn connect(
        self,
        resource: &'a Arc<Resource>,
        mut extensions: http::Extensions,
    ) -> Result<Response<ResponseBody>> {
        let info = self.context.info();
        let query = self.context.query();
        self.admit_connection(resource).await?;
        let pod = self.pod(resource).await?;
        let (namespace, name) = (info.namespace.as_str(), info.name.as_str());
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        let flag = |key: &str, agent_key: &'static str| query.flag(key).then_some((agent_key, "1"));
        let path = match info.subresource.as_str() {
            "portforward" => {
                // PodPortForwardOptions calls them ports, the kubelet port.
                let ports = query.all("port").chain(query.all("ports"));
                parameters.extend(ports.map(|port| ("port", port)));
                vec!["portForward".to_owned(), namespace.to_owned(), name.to_owned()]
            }
            verb => {
                let container = container(&pod, query.get("container").unwrap_or_default())?;
                let streams =
                    [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
                parameters.extend(streams.into_iter().filter_map(|(key, agent)| flag(key, agent)));
                if verb == "exec" {
                    parameters.extend(query.all("command").map(|word| ("command", word)));
                }
                vec![verb.to_owned(), namespace.to_owned(), name.to_owned(), container]
            }
        };
        let node = self.node(&pod).await?.ok_or_else(|| {
            ApiError::bad_request(format!("pod {name} does not have a host assigned"))
        })?;
        let upgrade = extensions.remove::<OnUpgrade>();
        let Some(upgrade) = upgrade.filter(|_| self.context.headers.contains_key(header::UPGRADE))
        else {
            return Err(ApiError::bad_request("Upgrade request required"));
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let tunnel = Tunnel::asked(&self.context.headers)?;
        let mut request = Request::builder()
            .method(if tunnel.is_some() { Method::POST } else { self.context.method.clone() })
            .uri(uri(&path, &parameters))
            .body(ResponseBody::empty())
            .map_err(ApiError::internal)?;
        *request.headers_mut() = match &tunnel {
            Some(tunnel) => tunnel.agent_headers(),
            None => upgrade_headers(&self.context.headers),
        };
        let mut response = self.send_to_agent(&node, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(agent_error(response, resource, name).await);
        }
        let upgraded = hyper::upgrade::on(&mut response);
        let mut answer = Response::new(ResponseBody::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        match tunnel {
            Some(tunnel) => {
                *answer.headers_mut() = tunnel.client_headers(response.headers());
                tokio::spawn(audit::hold(tunnel::carry(upgrade, upgraded)));
            }
            None => {
                *answer.headers_mut() = std::mem::take(response.headers_mut());
                tokio::spawn(audit::hold(splice(upgrade, upgraded)));
            }
        }
        Ok(answer)
    }

    async fn pod(self, resource: &'a Arc<Resource>) -> Result<Pod> {
        let info = self.context.info();
        self.server.registry.cache.fresh().await?;
        let found = self.server.reader.get::<Pod>(Some(&info.namespace), &info.name).await?;
        found.ok_or_else(|| ApiError::not_found(&Subject::plural(resource), &info.name))
    }

    /// The node that a Pod runs on; `None` while it has none.
    async fn node(self, pod: &Pod) -> Result<Option<Node>> {
        let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.server.reader.get::<Node>(None, name).await?;
        found.map(Some).ok_or_else(|| ApiError::not_found(&Subject::of("", "nodes"), name))
    }

    /// Sends a request to a node's agent.
    pub(super) async fn send_to_agent<B>(
        self,
        node: &Node,
        mut request: Request<B>,
    ) -> Result<Response<Incoming>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let failed = |error: &dyn std::fmt::Display| {
            ApiError::internal(format!("error dialing backend: {error}"))
        };
        let stream = self.server.nodes.connect(node).await.map_err(|error| failed(&error))?;
        let request_body = |request: Request<B>| request.map(ResponseBody::stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        // It ends when both the request and its answer have.
        tokio::spawn(connection.with_upgrades());
        let host = node.metadata.name.clone().unwrap_or_default();
        let host = http::HeaderValue::from_str(&host).map_err(ApiError::internal)?;
        request.headers_mut().insert(header::HOST, host);
        sender.send_request(request_body(request)).await.map_err(|error| failed(&error))
    }
}

/// The headers that make up an upgrade, and those that its protocols define.
fn upgrade_headers(headers: &HeaderMap) -> HeaderMap {
    let passed = |name: &HeaderName| {
        [header::CONNECTION, header::UPGRADE].contains(name)
            || name.as_str().starts_with("sec-websocket-")
            || name.as_str().starts_with("x-stream-")
    };
    headers.iter().filter(|(name, _)| passed(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// What an agent's refusal means to the client.
async fn agent_error(response: Response<Incoming>, resource: &Resource, name: &str) -> ApiError {
    let code = response.status().as_u16();
    let body = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    let text = text.unwrap_or_default().trim().to_owned();
    match code {
        400 => ApiError::bad_request(text),
        403 => ApiError::forbidden(&Subject::plural(resource), name, &text),
        404 => {
            let mut error = ApiError::not_found(&Subject::plural(resource), name);
            error.message = format!("the server could not find the requested resource ({text})");
            error
        }
        _ => ApiError::internal(text),
    }
}

/// The container that is meant: the one named, or the only one.
fn container(pod: &Pod, named: &str) -> Result<String> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
    if named.is_empty() {
        return match containers {
            [only] => Ok(only.name.clone()),
            _ => Err(ApiError::bad_request(choose(pod_name, containers, init))),
        };
    }
    let known = containers.iter().chain(init).any(|container| container.name == named)
        || ephemeral.iter().any(|container| container.name == named);
    if known {
        Ok(named.to_owned())
    } else {
        Err(ApiError::bad_request(format!("container {named} is not valid for pod {pod_name}")))
    }
}

fn choose(pod: &str, containers: &[Container], init: &[Container]) -> String {
    let names = |containers: &[Container]| {
        containers.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    let mut text = format!(
        "a container name must be specified for pod {pod}, choose one of: [{}]",
        names(containers)
    );
    if !init.is_empty() {
        text.push_str(&format!(" or one of the init containers: [{}]", names(init)));
    }
    text
}

fn validate_log_options(query: &Query) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut at_least =
        |key: &str, least: i64, why: &str| match query.get(key).map(str::parse::<i64>) {
            Some(Ok(number)) if number < least => {
                errors.push(FieldError::invalid(&Path::new(key), number, why));
            }
            Some(Err(error)) => {
                errors.push(FieldError::invalid(&Path::new(key), 0, error.to_string()));
            }
            _ => {}
        };
    at_least("tailLines", 0, "must be greater than or equal to 0");
    at_least("limitBytes", 1, "must be greater than 0");
    at_least("sinceSeconds", 1, "must be greater than 0");
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::new("[]"), why));
    }
    errors
}

/// A path with a query, escaped.
fn uri(path: &[&str], parameters: &[(&str, &str)]) -> String {
    let mut uri = String::new();
    for part in path {
        uri.push('/');
        escape(part, &mut uri);
    }
    if path.is_empty() {
        uri.push('/');
    }
    for (at, (key, value)) in parameters.iter().enumerate() {
        uri.push(if at == 0 { '?' } else { '&' });
        escape(key, &mut uri);
        uri.push('=');
        escape(value, &mut uri);
    }
    uri
}

/// Writes text with everything but unreserved characters percent-encoded (RFC 3986).
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_the_one_named_or_the_only_one() {
        let pod = |containers: &[&str]| {
            let containers: Vec<_> =
                containers.iter().map(|name| serde_json::json!({ "name": name })).collect();
            let pod = serde_json::json!({ "metadata": { "name": "x" }, "spec": { "containers": containers } });
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        assert_eq!(container(&pod(&["c"]), "").unwrap(), "c");
        assert_eq!(
            container(&pod(&["c", "d"]), "").unwrap_err().message,
            "a container name must be specified for pod x, choose one of: [c d]"
        );
        assert_eq!(
            container(&pod(&["c"]), "nope").unwrap_err().message,
            "container nope is not valid for pod x"
        );
    }

    #[test]
    fn what_goes_to_the_agent_is_escaped() {
        let uri = uri(&["exec", "a", "b"], &[("command", "echo a&b=c/ü")]);
        assert_eq!(uri, "/exec/a/b?command=echo%20a%26b%3Dc%2F%C3%BC");
    }
}
