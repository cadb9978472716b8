//! `portForward`: connections to a pod's ports, over SPDY or over a WebSocket.

use std::{io, sync::Arc};

use http::{Request, Response, StatusCode};

use super::{KubeletApi, KubeletBody, Query, Refusal, spdy, websocket};
use crate::runtime::{Io, Runtime};

mod over_spdy;
mod over_websocket;

/// How many ports one WebSocket carries.
const PORTS_MAX: usize = 64;

impl KubeletApi {
    pub(super) async fn port_forward<B>(
        self,
        namespace: &str,
        pod: &str,
        query: &Query,
        request: &mut Request<B>,
    ) -> Result<Response<KubeletBody>, Refusal> {
        let pod = self.pod(namespace, pod)?;
        let observed = self.observe(&pod).await?;
        let Some(sandbox) = observed.sandbox().map(|sandbox| sandbox.id.clone()) else {
            return Err((StatusCode::NOT_FOUND, "the pod has no sandbox".into()));
        };
        let runtime = self.core.runtime.clone();
        answer(request, query.all("port").chain(query.all("ports")), runtime, sandbox)
    }
}

/// Answers an upgrade request: connections to `ports` (SPDY names them with its streams) are made by
/// `runtime` once the connection is upgraded.
pub(crate) fn answer<'a, B>(
    request: &mut Request<B>,
    ports: impl Iterator<Item = &'a str>,
    runtime: Arc<dyn Runtime>,
    sandbox: String,
) -> Result<Response<KubeletBody>, Refusal> {
    let refuse = |why: &str| Err((StatusCode::BAD_REQUEST, why.to_string()));
    let pod = Pod { runtime, sandbox };
    if spdy::is_asked(request) {
        return spdy::upgrade(request, over_spdy::PROTOCOLS, move |connection, _| {
            over_spdy::carry(pod, connection)
        });
    }
    let ports: Result<Vec<u16>, _> =
        ports.flat_map(|ports| ports.split(',')).map(str::parse).collect();
    let Ok(ports) = ports else { return refuse("a port is not a number from 1 to 65535") };
    if ports.is_empty() || ports.len() > PORTS_MAX {
        return refuse("query parameter \"port\" is required");
    }
    websocket::upgrade(request, move |socket, _| over_websocket::carry(pod, socket, ports))
}

/// Whose ports are meant.
#[derive(Clone)]
struct Pod {
    runtime: Arc<dyn Runtime>,
    sandbox: String,
}

impl Pod {
    /// Connects to a port; an error is what the client is told.
    async fn connect_to(&self, port: u16) -> Result<Box<dyn Io>, String> {
        let connection = self.runtime.port_forward(&self.sandbox, port).await;
        connection.map_err(|error| self.failed(port, &crate::agent::handler::describe(&error)))
    }

    fn failed(&self, port: u16, why: &str) -> String {
        format!("error forwarding port {port} to pod {}: {why}", self.sandbox)
    }

    /// What the client is told when nobody turns out to listen, which a runtime behind a socket says
    /// only when it is asked for data. Of other errors on the way nothing: a client would give up all
    /// its connections for one that a server has broken.
    fn refused(&self, port: u16, error: &io::Error) -> Option<String> {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        refused.then(|| self.failed(port, &error.to_string()))
    }
}
