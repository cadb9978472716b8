//! `portForward`: connections to a pod's ports, over SPDY or over a WebSocket.

use http::{Request, Response, StatusCode};

use super::{KubeletApi, KubeletBody, Query, Refusal, spdy, websocket};
use crate::runtime::Io;

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
        let refuse = |why: &str| Err((StatusCode::BAD_REQUEST, why.to_string()));
        let pod = self.pod(namespace, pod)?;
        let observed = self.observe(&pod).await?;
        let Some(sandbox) = observed.sandbox().map(|sandbox| sandbox.id.clone()) else {
            return Err((StatusCode::NOT_FOUND, "the pod has no sandbox".into()));
        };
        if spdy::is_asked(request) {
            return spdy::upgrade(request, over_spdy::PROTOCOLS, move |connection, _| {
                over_spdy::carry(self, connection, sandbox)
            });
        }
        let ports = query.all("port").chain(query.all("ports")).flat_map(|ports| ports.split(','));
        let ports: Result<Vec<u16>, _> = ports.map(str::parse).collect();
        let Ok(ports) = ports else { return refuse("a port is not a number from 1 to 65535") };
        if ports.is_empty() || ports.len() > PORTS_MAX {
            return refuse("query parameter \"port\" is required");
        }
        websocket::upgrade(request, move |socket, _| {
            over_websocket::carry(self, socket, sandbox, ports)
        })
    }

    /// Connects to a port of a pod; an error is what the client is told.
    async fn connect_to(&self, sandbox: &str, port: u16) -> Result<Box<dyn Io>, String> {
        self.core.runtime.port_forward(sandbox, port).await.map_err(|error| {
            let why = crate::agent::handler::describe(&error);
            format!("error forwarding port {port} to pod {sandbox}: {why}")
        })
    }
}
