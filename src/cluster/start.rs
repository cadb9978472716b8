//! From a [`ClusterBuilder`] to a running [`Cluster`], part by part.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use rk_api::{
    client::{Change, Informers},
    server::{
        ApiServer, TokenKey, UserInfo,
        authn::TokenList,
        pki::{self, Credentials, Pki},
    },
};
use rk_controllers::{HostPathProvisioner, Manager};
use rk_cri::agent::Kubelets;
use rk_sched::Scheduler;
use rk_store::{EmbeddedStore, Store, StoreError};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Cluster, ClusterBuilder, ClusterError, Component, dial::ClusterDialer, metrics, node,
    parts::Parts,
};

/// The administrators' group, which may do everything.
const MASTERS: &str = "system:masters";

/// Who the parts of a cluster are.
const SCHEDULER: &str = "system:kube-scheduler";
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

pub(super) async fn start(builder: ClusterBuilder) -> Result<Cluster, ClusterError> {
    let stop = CancellationToken::new();
    // Ends what was already started when a later part fails.
    let guard = stop.clone().drop_guard();
    let mut tasks = JoinSet::new();

    // First, since it is the likeliest to be refused, and before anything is written.
    let listener = match builder.listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let pki = pki(&builder)?;
    let token_key = match &pki {
        Some(pki) => pki.token_key(),
        None => TokenKey::generate().map_err(part("the service-account key"))?,
    };
    let store = store(builder.data_dir.as_deref()).await?;
    let kubelets = Kubelets::default();
    let dialer = ClusterDialer::default();
    let parts = Parts::of(&builder, &stop);
    let server = api_server(&builder, store, &token_key, &kubelets, &dialer, &parts).await?;

    let (mut address, mut kubeconfig) = (None, None);
    if let (Some(listener), Some(pki)) = (listener, &pki) {
        let bound = listener.local_addr().map_err(part("the API server"))?;
        let tls = pki.server_tls(&pki::names_of(bound.ip())).map_err(part("the API server"))?;
        let (serving, stop) = (server.clone(), stop.clone());
        tasks.spawn(async move { serving.serve(listener, tls, stop).await });
        address = Some(bound);
        kubeconfig = Some(admin_kubeconfig(pki, bound, builder.token.as_deref())?);
    }

    // One set of informers: an object is decoded once for all parts of this process. What they
    // write, they write as who they are.
    let informers = Informers::in_process(server.client());
    server.roles_ready().await;
    if let Some(part) = parts.get(Component::Scheduler) {
        let client = server.client_as(UserInfo::new(SCHEDULER, []));
        let scheduler = Scheduler::builder(client).informers(informers.clone()).build();
        part.runs(tasks.spawn(scheduler.run(part.stop.clone())));
    }
    if builder.components.contains(&Component::Metrics) {
        let metrics = Arc::new(metrics::server(&server, &informers));
        dialer.serve_metrics(metrics.clone());
        metrics::install(&server.client()).await.map_err(part("the metrics server"))?;
        let stop = stop.clone();
        tasks.spawn(async move { metrics.run(stop).await });
    }
    let mut controllers = Vec::new();
    if let Some(part) = parts.get(Component::Controllers) {
        let manager = manager(&builder, &server, &informers, pki.as_ref(), token_key)?;
        controllers = manager.names();
        part.runs(tasks.spawn(manager.run(part.stop.clone())));
    }
    let mut native = None;
    if builder.components.contains(&Component::Nodes) {
        let nodes = match &builder.native {
            Some(node) => {
                let running = node::start_native(
                    node, &builder, &server, &informers, &kubelets, &mut tasks, &stop,
                )
                .await?;
                dialer.enter(running.netns());
                native = Some(running);
                1
            }
            None => {
                node::start_simulated(&builder, &server, &informers, &kubelets, &mut tasks, &stop)?
            }
        };
        if let Err(error) = nodes_ready(&informers, nodes).await {
            if let Some(native) = &native {
                native.teardown().await;
            }
            return Err(error);
        }
    }

    guard.disarm();
    Ok(Cluster {
        server,
        address,
        kubeconfig,
        ca_pem: pki.map(|pki| pki.ca_pem().to_owned()),
        controllers,
        native,
        parts,
        tasks: parking_lot::Mutex::new(tasks),
        stop,
    })
}

/// Makes the error of a part out of what the part says.
pub(super) fn part<E: std::fmt::Display>(part: &'static str) -> impl FnOnce(E) -> ClusterError {
    move |error| ClusterError::Part { part, reason: error.to_string() }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ClusterError> {
    TcpListener::bind(address).await.map_err(|source| ClusterError::Listen { address, source })
}

/// Keys and certificates, where they are of use: to whoever listens, and for tokens that outlive
/// the process.
fn pki(builder: &ClusterBuilder) -> Result<Option<Pki>, ClusterError> {
    match (&builder.data_dir, builder.listen) {
        (Some(directory), _) => {
            Pki::load_or_create(&directory.join("pki")).map(Some).map_err(|error| {
                ClusterError::DataDir { directory: directory.clone(), reason: error.to_string() }
            })
        }
        (None, Some(_)) => Pki::generate().map(Some).map_err(part("the certificate authority")),
        (None, None) => Ok(None),
    }
}

async fn store(directory: Option<&Path>) -> Result<Arc<dyn Store>, ClusterError> {
    let Some(directory) = directory else { return Ok(Arc::new(EmbeddedStore::in_memory())) };
    let store = EmbeddedStore::open(directory.join("store"), rk_store::Options::default());
    let store = store.await.map_err(|error: StoreError| ClusterError::DataDir {
        directory: directory.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Arc::new(store))
}

async fn api_server(
    builder: &ClusterBuilder,
    store: Arc<dyn Store>,
    token_key: &TokenKey,
    kubelets: &Kubelets,
    dialer: &ClusterDialer,
    parts: &Parts,
) -> Result<ApiServer, ClusterError> {
    let controllers = builder.components.contains(&Component::Controllers);
    let mut server = ApiServer::builder(store)
        .node_connector(Arc::new(kubelets.clone()))
        .dialer(Arc::new(dialer.clone()))
        // Nobody makes service accounts where no controllers run.
        .require_service_accounts(controllers);
    for part in parts.iter().rev() {
        server = server.component(part.name(), Arc::new(part.clone()));
    }
    if let Some(resources) = &builder.resources {
        server = server.resources(resources.clone());
    }
    if builder.pod_presets {
        server = server.pod_presets();
    }
    server = server.token_key(token_key.clone());
    if let Some(token) = &builder.token {
        let admin = UserInfo::new("admin", [MASTERS]);
        server = server.authenticator(Arc::new(TokenList::default().with(token, admin)));
    }
    server.start().await.map_err(|error| ClusterError::Server(Arc::new(error)))
}

fn admin_kubeconfig(
    pki: &Pki,
    address: SocketAddr,
    token: Option<&str>,
) -> Result<String, ClusterError> {
    let credentials = match token {
        Some(token) => Credentials::Token(token),
        None => Credentials::Certificate { user: "kubernetes-admin", groups: &[MASTERS] },
    };
    pki.kubeconfig(&format!("https://{address}"), &credentials).map_err(part("the kubeconfig"))
}

fn manager(
    builder: &ClusterBuilder,
    server: &ApiServer,
    informers: &Informers,
    pki: Option<&Pki>,
    token_key: TokenKey,
) -> Result<Manager, ClusterError> {
    let (cidr, mask) = node::cluster_cidr(builder.nodes);
    let accounts = server.clone();
    let (volumes, administrator) = (host_path_provisioner(builder), server.client());
    let mut manager = Manager::builder(server.client_as(UserInfo::new(CONTROLLER_MANAGER, [])))
        .credentials(move |name| accounts.client_as(UserInfo::service_account("kube-system", name)))
        .informers(informers.clone())
        // As kubeadm has it.
        .controllers("*,bootstrapsigner,tokencleaner")
        .cluster_cidr(cidr, mask)
        .legacy_token_secrets(builder.legacy_token_secrets)
        .token_signer(Arc::new(node::Signer(token_key)))
        .with(move |context| {
            let mut context = context.clone();
            context.client = administrator;
            volumes.controller(&context)
        })
        // Where nobody listens there is no certificate to trust, but Pods mount the ConfigMap.
        .root_ca(pki.map_or("", Pki::ca_pem));
    if let Some(pki) = pki {
        manager = manager.certificate_signer(Arc::new(node::Issuer(pki.clone())));
    }
    manager.build().map_err(part("the controllers"))
}

/// Makes volumes beside what else is kept; nodes that run nothing need no directories.
fn host_path_provisioner(builder: &ClusterBuilder) -> HostPathProvisioner {
    match &builder.native {
        Some(node) => HostPathProvisioner::new(node.directory().join("volumes")),
        None => HostPathProvisioner::new("/var/lib/rk/volumes").objects_only(),
    }
}

/// Waits until this many nodes are Ready.
async fn nodes_ready(informers: &Informers, wanted: usize) -> Result<(), ClusterError> {
    // A node registers within milliseconds; thousands of them share two cores.
    let patience = Duration::from_secs(15) + Duration::from_millis(20) * wanted as u32;
    let mut changes = informers.of::<Node>().subscribe();
    let mut ready = std::collections::HashSet::new();
    let waiting = async {
        while ready.len() < wanted {
            let Some(change) = changes.next().await else { return };
            let (node, present) = match &change {
                Change::Added(node) | Change::Updated { new: node, .. } => (node, true),
                Change::Deleted(node) => (node, false),
            };
            let Some(name) = &node.metadata.name else { continue };
            if present && node::is_ready(node) {
                ready.insert(name.clone());
            } else {
                ready.remove(name);
            }
        }
    };
    tokio::time::timeout(patience, waiting).await.map_err(|_| ClusterError::NodesNotReady(patience))
}
