//! For tests of what uses this crate: a backend that only remembers, and builders of objects.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parking_lot::Mutex;

use crate::{Applied, Changes, How, ProxyError, Rules, ServiceProxy, plan::SERVICE_NAME_LABEL};

/// A [`ServiceProxy`] that keeps the rules it was given. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    rules: Option<Rules>,
    applied: Vec<Applied>,
    failures: Vec<ProxyError>,
}

impl Recorder {
    /// One that was given nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The rules in force; none at all are empty rules.
    pub fn rules(&self) -> Rules {
        self.0.lock().rules.clone().unwrap_or_default()
    }

    /// What each `apply` that succeeded did, oldest first.
    pub fn applied(&self) -> Vec<Applied> {
        self.0.lock().applied.clone()
    }

    /// Lets the next `apply` fail with `error`. Several errors are used up in order.
    pub fn fail_next(&self, error: ProxyError) {
        self.0.lock().failures.push(error);
    }
}

#[async_trait]
impl ServiceProxy for Recorder {
    async fn apply(&self, rules: &Rules) -> Result<Applied, ProxyError> {
        let mut recorded = self.0.lock();
        if !recorded.failures.is_empty() {
            return Err(recorded.failures.remove(0));
        }
        let applied = match &recorded.rules {
            None => Applied { how: How::Full, changed: rules.len() },
            Some(was) => {
                let changes = Changes::between(was, rules);
                let how = if changes.is_empty() { How::Unchanged } else { How::Incremental };
                Applied { how, changed: changes.len() }
            }
        };
        recorded.rules = Some(rules.clone());
        recorded.applied.push(applied);
        Ok(applied)
    }

    async fn teardown(&self) -> Result<(), ProxyError> {
        self.0.lock().rules = None;
        Ok(())
    }
}

macro_rules! builder {
    ($builder:ident, $object:ident, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Debug)]
        pub struct $builder($object);

        impl std::ops::Deref for $builder {
            type Target = $object;
            fn deref(&self) -> &$object {
                &self.0
            }
        }

        impl $builder {
            /// The object.
            pub fn build(self) -> $object {
                self.0
            }

            /// Changed further by `f`.
            pub fn with(mut self, f: impl FnOnce(&mut $object)) -> Self {
                f(&mut self.0);
                self
            }

            /// In this namespace instead of `default`.
            pub fn namespace(mut self, namespace: &str) -> Self {
                self.0.metadata.namespace = Some(namespace.to_owned());
                self
            }
        }
    };
}

builder!(ServiceBuilder, Service, "Builds a Service.");
builder!(SliceBuilder, EndpointSlice, "Builds an EndpointSlice.");

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        ..ObjectMeta::default()
    }
}

/// A Service without address and ports, of type ClusterIP.
pub fn service(name: &str) -> ServiceBuilder {
    ServiceBuilder(Service { metadata: metadata(name), ..Service::default() })
}

impl ServiceBuilder {
    /// With a further field of the spec.
    pub fn spec(mut self, f: impl FnOnce(&mut ServiceSpec)) -> Self {
        f(self.0.spec.get_or_insert_default());
        self
    }

    /// With this cluster IP, or `None`.
    pub fn cluster_ip(self, address: &str) -> Self {
        self.spec(|spec| {
            spec.cluster_ip.get_or_insert_with(|| address.to_owned());
            spec.cluster_ips.get_or_insert_default().push(address.to_owned());
        })
    }

    /// With an unnamed TCP port, served at the same port of the endpoints.
    pub fn port(self, port: u16) -> Self {
        self.named_port("", port, "TCP")
    }

    /// With a further port.
    pub fn named_port(self, name: &str, port: u16, protocol: &str) -> Self {
        self.spec(|spec| {
            spec.ports.get_or_insert_default().push(ServicePort {
                name: (!name.is_empty()).then(|| name.to_owned()),
                port: port.into(),
                protocol: Some(protocol.to_owned()),
                ..ServicePort::default()
            });
        })
    }

    /// The port added last is also a node port; the type becomes NodePort.
    pub fn node_port(self, node_port: u16) -> Self {
        self.spec(|spec| {
            spec.type_ = Some("NodePort".to_owned());
            if let Some(port) = spec.ports.as_mut().and_then(|ports| ports.last_mut()) {
                port.node_port = Some(node_port.into());
            }
        })
    }

    /// With ClientIP session affinity.
    pub fn affinity(self, seconds: i32) -> Self {
        use k8s_openapi::api::core::v1::{ClientIPConfig, SessionAffinityConfig};
        self.spec(|spec| {
            spec.session_affinity = Some("ClientIP".to_owned());
            spec.session_affinity_config = Some(SessionAffinityConfig {
                client_ip: Some(ClientIPConfig { timeout_seconds: Some(seconds) }),
            });
        })
    }
}

/// A slice of the Service `service`, of the same name, for IPv4, without ports and endpoints.
pub fn endpoint_slice(service: &str) -> SliceBuilder {
    let labels = [(SERVICE_NAME_LABEL.to_owned(), service.to_owned())];
    SliceBuilder(EndpointSlice {
        address_type: "IPv4".to_owned(),
        metadata: ObjectMeta { labels: Some(labels.into()), ..metadata(service) },
        ..EndpointSlice::default()
    })
}

impl SliceBuilder {
    /// With an unnamed TCP port.
    pub fn port(self, port: u16) -> Self {
        self.named_port("", port, "TCP")
    }

    /// With a further port.
    pub fn named_port(mut self, name: &str, port: u16, protocol: &str) -> Self {
        self.0.ports.get_or_insert_default().push(EndpointPort {
            name: Some(name.to_owned()),
            port: Some(port.into()),
            protocol: Some(protocol.to_owned()),
            ..EndpointPort::default()
        });
        self
    }

    /// With a ready endpoint.
    pub fn ready(self, address: &str) -> Self {
        self.endpoint(address, true, true, false)
    }

    /// With an endpoint in these conditions.
    pub fn endpoint(mut self, address: &str, ready: bool, serving: bool, leaving: bool) -> Self {
        self.0.endpoints.get_or_insert_default().push(Endpoint {
            addresses: vec![address.to_owned()],
            conditions: Some(EndpointConditions {
                ready: Some(ready),
                serving: Some(serving),
                terminating: Some(leaving),
            }),
            ..Endpoint::default()
        });
        self
    }

    /// The endpoint added last is on this node.
    pub fn on(mut self, node: &str) -> Self {
        let endpoints = self.0.endpoints.as_mut();
        if let Some(endpoint) = endpoints.and_then(|endpoints| endpoints.last_mut()) {
            endpoint.node_name = Some(node.to_owned());
        }
        self
    }
}
