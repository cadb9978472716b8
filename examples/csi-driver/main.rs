//! A CSI driver whose volumes are folders of this machine, for a cluster whose nodes share them.
//!
//! ```sh
//! cargo run --example csi-driver -- --volumes /srv/volumes --node-id n1 --root-dir /var/lib/kubelet \
//!     --controller --kubeconfig admin.conf
//! kubectl apply -f - <<EOF
//! apiVersion: storage.k8s.io/v1
//! kind: StorageClass
//! metadata: {name: folders}
//! provisioner: folders.csi.example.com
//! allowVolumeExpansion: true
//! EOF
//! ```
//!
//! One runs on each node; one of them has `--controller` as well. `folders.rs` is the driver: what
//! CSI's calls mean for folders, which `mounts.rs` puts where they are wanted. `provisioner.rs` and
//! `attacher.rs` are what external-provisioner, external-resizer and external-attacher are for other
//! drivers: they follow the API and call the driver, over its socket.
//!
//! To write a driver of your own, replace `folders.rs`.

mod attacher;
mod folders;
mod mounts;
mod provisioner;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rk::{
    api::client::Informers,
    cri::csi::{self, Driver},
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::folders::Folders;

#[derive(Debug, Parser)]
struct Options {
    /// The driver's name.
    #[arg(long, default_value = "folders.csi.example.com")]
    name: String,
    /// Where the volumes are.
    #[arg(long)]
    volumes: PathBuf,
    /// What the driver calls this node.
    #[arg(long)]
    node_id: String,
    /// The directory of the node's agent, or of its kubelet.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// Makes, attaches, grows and deletes volumes as well.
    #[arg(long)]
    controller: bool,
    /// How to reach the cluster, for that; by default as a Pod does, or with the user's own
    /// kubeconfig.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Failure> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let folders = Folders::new(&options.name, &options.node_id, &options.volumes)?;
    let driver: Arc<dyn Driver> = Arc::new(folders);
    let socket = options.root_dir.join("plugins").join(&options.name).join("csi.sock");
    let registration =
        options.root_dir.join("plugins_registry").join(format!("{}-reg.sock", options.name));

    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    // Whoever hears of it can use it: so it is served before it is announced.
    tasks.spawn(csi::serve(driver, listen(&socket)?, stop.clone()));
    let announced = listen(&registration)?;
    let (name, endpoint, token) = (options.name.clone(), socket.clone(), stop.clone());
    tasks.spawn(async move { csi::announce(&name, endpoint, announced, token).await });
    if options.controller {
        let client = connect(options.kubeconfig.as_deref()).await?;
        let informers = Informers::new(client.clone());
        let driver = csi::Client::new(&socket);
        let provisioner =
            provisioner::controller(&options.name, &client, &informers, driver.clone());
        let attacher = attacher::controller(&options.name, &client, &informers, driver);
        for controller in [provisioner, attacher] {
            let token = stop.clone();
            tasks.spawn(async move {
                controller.run(token).await;
                Ok(())
            });
        }
    }
    let result = tokio::select! {
        Some(ended) = tasks.join_next() => ended?.map_err(Failure::from),
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    // The node must not ask a driver that has gone.
    std::fs::remove_file(&registration).ok();
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    std::fs::remove_file(&socket).ok();
    result
}

/// Listens at a path where an earlier run may have left a socket.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

async fn connect(kubeconfig: Option<&Path>) -> Result<Client, Failure> {
    let config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    Ok(Client::try_from(config)?)
}
