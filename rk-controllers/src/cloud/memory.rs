//! A cloud that is only remembered: machines, load balancers and routes for tests to look at, and
//! calls that fail or take time when a test wants them to.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServicePort,
};
use kube::ResourceExt;
use parking_lot::Mutex;

use super::{CloudError, CloudProvider, InstanceMetadata, Instances, LoadBalancers, Route, Routes};

/// How many calls are remembered.
const CALLS_MAX: usize = 1000;

/// A machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// What it is.
    pub metadata: InstanceMetadata,
    /// Whether it is off.
    pub shut_down: bool,
}

/// A load balancer.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancer {
    /// Its address, of 203.0.113.0/24 (RFC 5737).
    pub address: String,
    /// What it listens on, and where that goes on the nodes.
    pub ports: Vec<ServicePort>,
    /// The nodes it is in front of, by name.
    pub nodes: Vec<String>,
    /// The Service's `externalTrafficPolicy`.
    pub traffic_policy: Option<String>,
}

/// See the module's documentation. Clones are the same cloud.
#[derive(Clone, Default)]
pub struct MemoryCloud(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    machines: BTreeMap<String, Machine>,
    balancers: BTreeMap<String, Balancer>,
    addresses_given: u8,
    routes: Vec<Route>,
    faults: BTreeMap<&'static str, Fault>,
    calls: VecDeque<String>,
}

/// What a kind of call meets.
#[derive(Clone, Debug, Default)]
struct Fault {
    error: Option<String>,
    delay: Duration,
}

impl fmt::Debug for MemoryCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("MemoryCloud")
            .field("machines", &state.machines)
            .field("balancers", &state.balancers)
            .field("routes", &state.routes)
            .finish()
    }
}

impl MemoryCloud {
    /// Without anything in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the machine of a node, or replaces it. Without a provider id it gets `memory://NAME`.
    pub fn add_machine(&self, node: &str, mut metadata: InstanceMetadata) {
        if metadata.provider_id.is_empty() {
            metadata.provider_id = format!("memory://{node}");
        }
        let machine = Machine { metadata, shut_down: false };
        self.0.lock().machines.insert(node.to_owned(), machine);
    }

    /// The machine of a node.
    pub fn machine(&self, node: &str) -> Option<Machine> {
        self.0.lock().machines.get(node).cloned()
    }

    /// Turns a machine off, or on again.
    pub fn shut_down(&self, node: &str, off: bool) {
        if let Some(machine) = self.0.lock().machines.get_mut(node) {
            machine.shut_down = off;
        }
    }

    /// Takes a machine away.
    pub fn remove_machine(&self, node: &str) {
        self.0.lock().machines.remove(node);
    }

    /// The load balancer of a Service.
    pub fn balancer(&self, namespace: &str, service: &str) -> Option<Balancer> {
        self.0.lock().balancers.get(&format!("{namespace}/{service}")).cloned()
    }

    /// All routes, in the order in which they were made.
    pub fn all_routes(&self) -> Vec<Route> {
        self.0.lock().routes.clone()
    }

    /// Adds a route that no controller made.
    pub fn add_route(&self, route: Route) {
        self.0.lock().routes.push(route);
    }

    /// Lets all calls of a kind fail with this message, or succeed again. Kinds are the verbs of
    /// the traits with the part before them: `instances.metadata`, `load_balancers.ensure`,
    /// `routes.create`.
    pub fn fail(&self, call: &'static str, message: Option<&str>) {
        self.0.lock().faults.entry(call).or_default().error = message.map(ToOwned::to_owned);
    }

    /// Lets all calls of a kind take this long.
    pub fn delay(&self, call: &'static str, delay: Duration) {
        self.0.lock().faults.entry(call).or_default().delay = delay;
    }

    /// The calls that were made, oldest first: the kind and what it was about. At most the last
    /// thousand.
    pub fn calls(&self) -> Vec<String> {
        self.0.lock().calls.iter().cloned().collect()
    }

    /// Notes a call, and lets it meet what it is to meet.
    async fn call(&self, kind: &'static str, about: &str) -> Result<(), CloudError> {
        let fault = {
            let mut state = self.0.lock();
            if state.calls.len() == CALLS_MAX {
                state.calls.pop_front();
            }
            state.calls.push_back(format!("{kind} {about}"));
            state.faults.get(kind).cloned().unwrap_or_default()
        };
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        fault.error.map_or(Ok(()), |message| Err(CloudError::Failed(message)))
    }

    fn find(&self, node: &Node) -> Option<Machine> {
        let id = node.spec.as_ref().and_then(|spec| spec.provider_id.clone()).unwrap_or_default();
        let state = self.0.lock();
        let by_id = || state.machines.values().find(|machine| machine.metadata.provider_id == id);
        if id.is_empty() { state.machines.get(&node.name_any()) } else { by_id() }.cloned()
    }
}

impl CloudProvider for MemoryCloud {
    fn name(&self) -> &str {
        "memory"
    }

    fn instances(&self) -> Option<&dyn Instances> {
        Some(self)
    }

    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        Some(self)
    }

    fn routes(&self) -> Option<&dyn Routes> {
        Some(self)
    }
}

#[async_trait]
impl Instances for MemoryCloud {
    async fn exists(&self, node: &Node) -> Result<bool, CloudError> {
        self.call("instances.exists", &node.name_any()).await?;
        Ok(self.find(node).is_some())
    }

    async fn is_shut_down(&self, node: &Node) -> Result<bool, CloudError> {
        self.call("instances.is_shut_down", &node.name_any()).await?;
        Ok(self.find(node).is_some_and(|machine| machine.shut_down))
    }

    async fn metadata(&self, node: &Node) -> Result<InstanceMetadata, CloudError> {
        self.call("instances.metadata", &node.name_any()).await?;
        self.find(node).map(|machine| machine.metadata).ok_or(CloudError::InstanceNotFound)
    }
}

fn key(service: &Service) -> String {
    format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any())
}

fn names(nodes: &[Arc<Node>]) -> Vec<String> {
    nodes.iter().map(|node| node.name_any()).collect()
}

fn status(balancer: &Balancer) -> LoadBalancerStatus {
    let ingress = LoadBalancerIngress {
        ip: Some(balancer.address.clone()),
        ..LoadBalancerIngress::default()
    };
    LoadBalancerStatus { ingress: Some(vec![ingress]) }
}

#[async_trait]
impl LoadBalancers for MemoryCloud {
    async fn get(&self, service: &Service) -> Result<Option<LoadBalancerStatus>, CloudError> {
        self.call("load_balancers.get", &key(service)).await?;
        Ok(self.0.lock().balancers.get(&key(service)).map(status))
    }

    async fn ensure(
        &self,
        service: &Service,
        nodes: &[Arc<Node>],
    ) -> Result<LoadBalancerStatus, CloudError> {
        self.call("load_balancers.ensure", &key(service)).await?;
        let spec = service.spec.clone().unwrap_or_default();
        let mut state = self.0.lock();
        let address = match state.balancers.get(&key(service)) {
            Some(balancer) => balancer.address.clone(),
            None => {
                state.addresses_given = state.addresses_given.checked_add(1).ok_or_else(|| {
                    CloudError::Failed("no address is left in 203.0.113.0/24".to_owned())
                })?;
                format!("203.0.113.{}", state.addresses_given)
            }
        };
        let wanted = spec.load_balancer_ip.filter(|wanted| !wanted.is_empty());
        let balancer = Balancer {
            address: wanted.unwrap_or(address),
            ports: spec.ports.unwrap_or_default(),
            nodes: names(nodes),
            traffic_policy: spec.external_traffic_policy,
        };
        let status = status(&balancer);
        state.balancers.insert(key(service), balancer);
        Ok(status)
    }

    async fn update(&self, service: &Service, nodes: &[Arc<Node>]) -> Result<(), CloudError> {
        self.call("load_balancers.update", &key(service)).await?;
        if let Some(balancer) = self.0.lock().balancers.get_mut(&key(service)) {
            balancer.nodes = names(nodes);
        }
        Ok(())
    }

    async fn delete(&self, service: &Service) -> Result<(), CloudError> {
        self.call("load_balancers.delete", &key(service)).await?;
        self.0.lock().balancers.remove(&key(service));
        Ok(())
    }
}

#[async_trait]
impl Routes for MemoryCloud {
    async fn list(&self) -> Result<Vec<Route>, CloudError> {
        self.call("routes.list", "").await?;
        Ok(self.all_routes())
    }

    async fn create(&self, hint: &str, route: &Route) -> Result<(), CloudError> {
        self.call("routes.create", &route.node).await?;
        let mut state = self.0.lock();
        let same =
            |known: &Route| (&known.node, &known.destination) == (&route.node, &route.destination);
        if !state.routes.iter().any(same) {
            let name = format!("{hint}-{}", route.destination);
            state.routes.push(Route { name, ..route.clone() });
        }
        Ok(())
    }

    async fn delete(&self, route: &Route) -> Result<(), CloudError> {
        self.call("routes.delete", &route.node).await?;
        self.0.lock().routes.retain(|known| known != route);
        Ok(())
    }
}
