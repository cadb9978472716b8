//! From a [`ClusterBuilder`] to a running [`Cluster`], part by part.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use rk_api::{
    client::{Change, Informers},
    clock,
    server::{
        ApiServer, TokenKey, UserInfo,
        authn::TokenList,
        pki::{self, Credentials, Pki},
    },
};
use rk_cri::agent::Kubelets;
use rk_store::{EmbeddedStore, Store, StoreError};
use tokio::{
    net::TcpListener,
    runtime::{Handle, RuntimeFlavor},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Cluster, ClusterBuilder, ClusterError, Component,
    dial::ClusterDialer,
    launch::{Launcher, METRICS_LINK},
    metrics, node,
    parts::Parts,
    sim_nodes::SimNodes,
};
use crate::simulation;

/// The administrators' group, which may do everything.
const MASTERS: &str = "system:masters";

pub(super) async fn start(builder: ClusterBuilder) -> Result<Cluster, ClusterError> {
    if let Some(seed) = builder.virtual_time {
        begin(&builder, seed)?;
    }
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
    let store = store(&builder).await?;
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

    let informers = Informers::in_process(server.client());
    let launcher = Arc::new(Launcher {
        builder,
        server: server.clone(),
        pki,
        token_key,
        kubelets,
        dialer: dialer.clone(),
        informers: informers.clone(),
    });
    server.roles_ready().await;
    if let Some(part) = parts.get(Component::Scheduler) {
        part.begin(|stop| tasks.spawn(launcher.scheduler(stop)));
    }
    if launcher.builder.components.contains(&Component::Metrics) {
        let client = launcher.client(METRICS_LINK, metrics::user());
        let metrics = Arc::new(metrics::server(client, &launcher.informers(METRICS_LINK)));
        dialer.serve_metrics(metrics.clone());
        metrics::install(&server.client()).await.map_err(part("the metrics server"))?;
        let stop = stop.clone();
        tasks.spawn(async move { metrics.run(stop).await });
    }
    let mut controllers = Vec::new();
    if let Some(part) = parts.get(Component::Controllers) {
        let manager = launcher.controllers()?;
        controllers = manager.names();
        part.begin(|stop| tasks.spawn(manager.run(stop)));
    }
    let (mut native, mut nodes) = (None, SimNodes::default());
    if launcher.builder.components.contains(&Component::Nodes) {
        let wanted = match &launcher.builder.native {
            Some(node) => {
                let running = node::start_native(node, &launcher, &mut tasks, &stop).await?;
                dialer.enter(running.netns());
                native = Some(running);
                1
            }
            None => {
                nodes = SimNodes::start(&launcher, &mut tasks, &stop)?;
                launcher.builder.nodes
            }
        };
        if let Err(error) = nodes_ready(&informers, wanted).await {
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
        controllers,
        native,
        nodes,
        parts,
        launcher,
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

/// Lets virtual time begin, where it can.
fn begin(builder: &ClusterBuilder, seed: u64) -> Result<(), ClusterError> {
    let why_not = if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread
        || !clock::is_paused()
    {
        "it needs a current-thread runtime with a paused clock: use rk::simulation::block_on"
    } else if builder.native.is_some() || builder.listen.is_some() || builder.data_dir.is_some() {
        "files, sockets and real containers have a time of their own: leave them out"
    } else {
        simulation::begin(seed);
        return Ok(());
    };
    Err(part("virtual time")(why_not))
}

async fn store(builder: &ClusterBuilder) -> Result<Arc<dyn Store>, ClusterError> {
    let store = open_store(builder).await?;
    Ok(match &builder.faults {
        Some(faults) => faults.store(store),
        None => store,
    })
}

async fn open_store(builder: &ClusterBuilder) -> Result<Arc<dyn Store>, ClusterError> {
    if let Some(store) = &builder.store {
        return Ok(store.clone());
    }
    let Some(directory) = builder.data_dir.as_deref() else {
        return Ok(Arc::new(EmbeddedStore::in_memory()));
    };
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
