//! Actions in or against a container: what probes and lifecycle hooks do.

use std::{net::SocketAddr, time::Duration};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::runtime::{Runtime, RuntimeError};

/// How an action went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Success,
    /// It ran and says no.
    Failure(String),
    /// It could not be run: says nothing about the container.
    Unknown(String),
}

/// What to do.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Exec(Vec<String>),
    Http(Box<HTTPGetAction>),
    Tcp { host: Option<String>, port: IntOrString },
    Sleep(Duration),
    Unsupported(&'static str),
}

impl Action {
    pub(crate) fn of_probe(probe: &Probe) -> Self {
        if let Some(exec) = &probe.exec {
            Self::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(http) = &probe.http_get {
            Self::Http(Box::new(http.clone()))
        } else if let Some(tcp) = &probe.tcp_socket {
            Self::Tcp { host: tcp.host.clone(), port: tcp.port.clone() }
        } else {
            Self::Unsupported("gRPC probes are not supported")
        }
    }

    pub(crate) fn of_hook(hook: &LifecycleHandler) -> Self {
        if let Some(exec) = &hook.exec {
            Self::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(http) = &hook.http_get {
            Self::Http(Box::new(http.clone()))
        } else if let Some(sleep) = &hook.sleep {
            Self::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)))
        } else {
            Self::Unsupported("this kind of hook is not supported")
        }
    }
}

/// Where an action is done.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) container: &'a Container,
    pub(crate) container_id: &'a str,
    pub(crate) pod_ip: Option<std::net::IpAddr>,
}

/// Does it; an answer that does not come within `timeout` is a failure.
pub(crate) async fn run(
    runtime: &dyn Runtime,
    action: &Action,
    place: &Place<'_>,
    timeout: Duration,
) -> Verdict {
    match action {
        Action::Exec(command) => exec(runtime, command, place, timeout).await,
        Action::Http(get) => http(runtime, get, place, timeout).await,
        Action::Tcp { host, port } => {
            let address = match address(host.as_deref(), port, place) {
                Ok(address) => address,
                Err(why) => return Verdict::Unknown(why),
            };
            match tokio::time::timeout(timeout, runtime.dial(address)).await {
                Ok(Ok(_)) => Verdict::Success,
                Ok(Err(error)) => {
                    Verdict::Failure(format!("dial tcp {address}: {}", describe(&error)))
                }
                Err(_) => Verdict::Failure(format!("dial tcp {address}: i/o timeout")),
            }
        }
        Action::Sleep(duration) => {
            tokio::time::sleep(*duration).await;
            Verdict::Success
        }
        Action::Unsupported(why) => Verdict::Unknown((*why).to_string()),
    }
}

async fn exec(
    runtime: &dyn Runtime,
    command: &[String],
    place: &Place<'_>,
    timeout: Duration,
) -> Verdict {
    match runtime.exec_sync(place.container_id, command.to_vec(), timeout).await {
        Ok(output) if output.exit_code == 0 => Verdict::Success,
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            Verdict::Failure(text)
        }
        Err(RuntimeError::Timeout(_)) => {
            let line = command.join(" ");
            Verdict::Failure(format!(
                "command timed out: {line:?} timed out after {}s",
                timeout.as_secs()
            ))
        }
        Err(RuntimeError::Start(why)) => Verdict::Failure(why),
        Err(error) => Verdict::Unknown(describe(&error)),
    }
}

async fn http(
    runtime: &dyn Runtime,
    get: &HTTPGetAction,
    place: &Place<'_>,
    timeout: Duration,
) -> Verdict {
    if get.scheme.as_deref() == Some("HTTPS") {
        return Verdict::Unknown("HTTPS probes are not supported".into());
    }
    let address = match address(get.host.as_deref(), &get.port, place) {
        Ok(address) => address,
        Err(why) => return Verdict::Unknown(why),
    };
    let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    let failed = |why: String| Verdict::Failure(format!("Get \"http://{address}{path}\": {why}"));

    let ask = status_of(runtime, address, &path, get);
    match tokio::time::timeout(timeout, ask).await {
        Ok(Ok(200..=399)) => Verdict::Success,
        Ok(Ok(status)) => Verdict::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(why)) => failed(why),
        Err(_) => failed(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into(),
        ),
    }
}

/// The status code of one GET.
async fn status_of(
    runtime: &dyn Runtime,
    address: SocketAddr,
    path: &str,
    get: &HTTPGetAction,
) -> Result<u16, String> {
    let stream = runtime
        .dial(address)
        .await
        .map_err(|error| format!("dial tcp {address}: {}", describe(&error)))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut request = http::Request::get(path)
        .header("host", address.to_string())
        .header("user-agent", "kube-probe/1.37")
        .header("accept", "*/*")
        .header("connection", "close");
    if let Some(headers) = request.headers_mut() {
        for header in get.http_headers.iter().flatten() {
            let name = http::HeaderName::try_from(header.name.to_lowercase());
            if let (Ok(name), Ok(value)) = (name, http::HeaderValue::try_from(&header.value)) {
                headers.insert(name, value);
            }
        }
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| error.to_string())?;
    // The connection is driven here, so that it ends with the probe.
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let response = tokio::select! { biased;
        response = &mut answer => response,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    match response {
        Ok(response) => Ok(response.status().as_u16()),
        Err(error) if error.is_incomplete_message() => Err("EOF".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The address that an action goes to: the pod's unless a host is given.
fn address(
    host: Option<&str>,
    port: &IntOrString,
    place: &Place<'_>,
) -> Result<SocketAddr, String> {
    let ip = match host.filter(|host| !host.is_empty()) {
        Some(host) => host.parse().map_err(|_| format!("host {host:?} is not an address"))?,
        None => place.pod_ip.ok_or("the pod has no address")?,
    };
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = place.container.ports.iter().flatten();
            let named = ports.into_iter().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    Ok(SocketAddr::new(ip, number.ok_or_else(|| format!("invalid port: {port:?}"))?))
}

/// An error with what caused it.
pub(crate) fn describe(error: &RuntimeError) -> String {
    use std::error::Error;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
