//! How the parts of a cluster begin their lives: the first one, and those after a crash.

use std::{future::Future, sync::Arc};

use kube::Client;
use rk_api::{
    client::Informers,
    server::{ApiServer, Pki, TokenKey, UserInfo},
};
use rk_controllers::{HostPathProvisioner, Manager};
use rk_cri::{
    agent::{Agent, AgentBuilder, Fleet, Kubelets},
    sim::SimRuntime,
};
use rk_sched::Scheduler;
use tokio_util::sync::CancellationToken;
use tower::Layer;

use super::{ClusterBuilder, ClusterError, Component, dial::ClusterDialer, node, start::part};
use crate::faults::Faults;

/// Who the parts of a cluster are.
const SCHEDULER: &str = "system:kube-scheduler";
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// What faults call the parts.
const SCHEDULER_LINK: &str = "scheduler";
const CONTROLLERS_LINK: &str = "controllers";
pub(super) const METRICS_LINK: &str = "metrics";

/// What faults call a component that can be killed.
pub(super) fn link(component: Component) -> Option<&'static str> {
    match component {
        Component::Scheduler => Some(SCHEDULER_LINK),
        Component::Controllers => Some(CONTROLLERS_LINK),
        Component::Nodes | Component::Metrics | Component::Dns => None,
    }
}

/// Makes the parts of a cluster, as often as they are needed.
#[derive(Debug)]
pub(super) struct Launcher {
    pub(super) builder: ClusterBuilder,
    pub(super) server: ApiServer,
    pub(super) pki: Option<Pki>,
    pub(super) token_key: TokenKey,
    pub(super) kubelets: Kubelets,
    pub(super) dialer: ClusterDialer,
    /// One set for all parts of this process: an object is decoded once. With faults between them
    /// each part has one of its own.
    pub(super) informers: Informers,
}

impl Launcher {
    /// A client of a part.
    pub(super) fn client(&self, link: &str, user: UserInfo) -> Client {
        client(&self.server, self.builder.faults.as_ref(), link, user)
    }

    /// The informers of a part.
    pub(super) fn informers(&self, link: &str) -> Informers {
        match &self.builder.faults {
            None => self.informers.clone(),
            Some(_) => Informers::new(self.client(link, UserInfo::admin())),
        }
    }

    pub(super) fn scheduler(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let client = self.client(SCHEDULER_LINK, UserInfo::new(SCHEDULER, []));
        let informers = self.informers(SCHEDULER_LINK);
        Scheduler::builder(client).informers(informers).build().run(stop)
    }

    pub(super) fn controllers(&self) -> Result<Manager, ClusterError> {
        let (cidr, mask) = node::cluster_cidr(self.builder.nodes);
        let (server, faults) = (self.server.clone(), self.builder.faults.clone());
        let (volumes, administrator) =
            (self.volumes(), self.client(CONTROLLERS_LINK, UserInfo::admin()));
        let user = UserInfo::new(CONTROLLER_MANAGER, []);
        let mut manager = Manager::builder(self.client(CONTROLLERS_LINK, user))
            .credentials(move |name| {
                let user = UserInfo::service_account("kube-system", name);
                client(&server, faults.as_ref(), CONTROLLERS_LINK, user)
            })
            .informers(self.informers(CONTROLLERS_LINK))
            // As kubeadm has it.
            .controllers("*,bootstrapsigner,tokencleaner")
            .cluster_cidr(cidr, mask)
            .legacy_token_secrets(self.builder.legacy_token_secrets)
            .token_signer(Arc::new(node::Signer(self.token_key.clone())))
            .with(move |context| {
                let mut context = context.clone();
                context.client = administrator;
                volumes.controller(&context)
            })
            // Where nobody listens there is no certificate to trust, but Pods mount the ConfigMap.
            .root_ca(self.pki.as_ref().map_or("", Pki::ca_pem));
        if let Some(pki) = &self.pki {
            manager = manager.certificate_signer(Arc::new(node::Issuer(pki.clone())));
        }
        manager.build().map_err(part("the controllers"))
    }

    /// Makes volumes beside what else is kept; nodes that run nothing need no directories.
    fn volumes(&self) -> HostPathProvisioner {
        match &self.builder.native {
            Some(node) => HostPathProvisioner::new(node.directory().join("volumes")),
            None => HostPathProvisioner::new("/var/lib/rk/volumes").objects_only(),
        }
    }

    /// A fleet for all simulated nodes, still without any.
    pub(super) fn fleet(&self) -> Fleet {
        let fleet = Fleet::new(&self.informers);
        if self.builder.shared_node_lease { fleet.shared_lease() } else { fleet }
    }

    /// The agent of one simulated node, with informers of its own.
    pub(super) fn agent(&self, index: usize, runtime: SimRuntime) -> Result<Agent, ClusterError> {
        let name = node::node_name(index);
        // What reads is not the node's user: its own may not list all that it needs.
        let informers = Informers::new(self.client(&name, UserInfo::admin()));
        let agent = self.agent_of(index, runtime).informers(&informers);
        let agent = agent.build().map_err(part("a simulated node"))?;
        self.kubelets.add(&name, agent.kubelet_api());
        Ok(agent)
    }

    /// Options of the agent of one simulated node.
    pub(super) fn agent_of(&self, index: usize, runtime: SimRuntime) -> AgentBuilder {
        let name = node::node_name(index);
        let client = self.client(&name, UserInfo::node(&name));
        Agent::builder(client, Arc::new(runtime))
            .node_name(name)
            .node_ips([node::node_ip(index)])
            .pod_cidr(node::pod_range(self.builder.nodes, index))
    }
}

/// A client of the API server, with faults in between if there are to be any.
fn client(server: &ApiServer, faults: Option<&Faults>, link: &str, user: UserInfo) -> Client {
    match faults {
        None => server.client_as(user),
        Some(faults) => {
            let transport = faults.layer(link).layer(server.transport_as(user));
            Client::new(transport, "default")
        }
    }
}
