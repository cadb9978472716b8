//! Actions in or against a container: what probes and lifecycle hooks do.

use std::{net::SocketAddr, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{
    api::core::v1::{Container, GRPCAction, HTTPGetAction, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::runtime::{Io, Runtime, RuntimeError};

mod grpc;
mod http;

/// How to connect to an address; an error is what went wrong, in words.
type Dial<'a> = &'a (dyn Fn(SocketAddr) -> BoxFuture<'a, Result<Box<dyn Io>, String>> + Sync);

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
    Grpc(GRPCAction),
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
        } else if let Some(grpc) = &probe.grpc {
            Self::Grpc(grpc.clone())
        } else {
            Self::Unsupported("missing probe handler")
        }
    }

    pub(crate) fn of_hook(hook: &LifecycleHandler) -> Self {
        if let Some(exec) = &hook.exec {
            Self::Exec(exec.command.clone().unwrap_or_default())
        } else if let Some(http) = &hook.http_get {
            Self::Http(Box::new(http.clone()))
        } else if let Some(tcp) = &hook.tcp_socket {
            Self::Tcp { host: tcp.host.clone(), port: tcp.port.clone() }
        } else if let Some(sleep) = &hook.sleep {
            Self::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)))
        } else {
            Self::Unsupported("invalid handler")
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
    let dial = |address: SocketAddr| {
        let failed = move |error| format!("dial tcp {address}: {}", describe(&error));
        async move { runtime.dial(address).await.map_err(failed) }.boxed()
    };
    match action {
        Action::Exec(command) => exec(runtime, command, place, timeout).await,
        Action::Http(get) => http_get(&dial, get, place, timeout).await,
        Action::Tcp { host, port } => {
            let address = match address(host.as_deref(), port, place) {
                Ok(address) => address,
                Err(why) => return Verdict::Unknown(why),
            };
            match tokio::time::timeout(timeout, dial(address)).await {
                Ok(Ok(_)) => Verdict::Success,
                Ok(Err(why)) => Verdict::Failure(why),
                Err(_) => Verdict::Failure(format!("dial tcp {address}: i/o timeout")),
            }
        }
        Action::Grpc(grpc) => {
            let address = match address(None, &IntOrString::Int(grpc.port), place) {
                Ok(address) => address,
                Err(why) => return Verdict::Unknown(why),
            };
            let service = grpc.service.as_deref().unwrap_or_default();
            let check = grpc::check(&dial, address, service);
            tokio::time::timeout(timeout, check).await.unwrap_or_else(|_| {
                let address = address.to_string();
                Verdict::Failure(format!(
                    "timeout: failed to connect service {address:?} within {}s: context deadline exceeded",
                    timeout.as_secs()
                ))
            })
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

async fn http_get(
    dial: Dial<'_>,
    get: &HTTPGetAction,
    place: &Place<'_>,
    timeout: Duration,
) -> Verdict {
    let target = match address(get.host.as_deref(), &get.port, place) {
        Ok(address) => http::Target::new(get, address),
        Err(why) => return Verdict::Unknown(why),
    };
    let shown = target.to_string();
    let failed = |why: &str| Verdict::Failure(format!("Get {shown:?}: {why}"));
    let headers = http::headers(get);
    match tokio::time::timeout(timeout, http::get(dial, target, &headers)).await {
        Ok(Ok(status)) if (200..400).contains(&status.as_u16()) => Verdict::Success,
        Ok(Ok(status)) => {
            Verdict::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
        Ok(Err(why)) => failed(&why),
        Err(_) => {
            failed("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
        }
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
