//! An extension API server: a group of its own, `wardle.example.com`, behind a cluster's API server.
//!
//! It believes the cluster's front proxy who a user is, as the ConfigMap
//! `extension-apiserver-authentication` of kube-system says how, and asks the cluster by
//! SubjectAccessReview what that user may do. Its objects are its own, in memory.
//!
//! ```sh
//! cargo run --example extension -- --kubeconfig wardle.conf --secure-port 7443 \
//!     --tls-cert-file wardle.pem --tls-private-key-file wardle-key.pem
//! ```
//!
//! The user of the kubeconfig needs the Role `extension-apiserver-authentication-reader` and the
//! ClusterRole `system:auth-delegator`. An APIService then says where the group is served.

use std::{fs, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use k8s_openapi::{
    api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use rk::{
    api::{
        resources::Resources,
        server::{
            ApiServer, Identity, ServerTls, TlsVersion,
            authn::RequestHeaders,
            authz::{AuthorizationMode, WebhookAuthorizer},
        },
    },
    store::EmbeddedStore,
};
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tokio_util::sync::CancellationToken;

/// Where the cluster is asked what a user may do.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

#[derive(Debug, Parser)]
struct Options {
    /// How to reach the cluster, and as whom.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1")]
    bind_address: std::net::IpAddr,
    /// The port, with HTTPS; 0 for a free one.
    #[arg(long, default_value_t = 7443)]
    secure_port: u16,
    /// The server's certificate in PEM, for the name `<service>.<namespace>.svc`.
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Its key in PEM.
    #[arg(long)]
    tls_private_key_file: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let kubeconfig = Kubeconfig::read_from(&options.kubeconfig)?;
    let config =
        Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
    let proxies = Proxies::of(&Client::try_from(config)?).await?;

    let identity = Identity {
        certificate_pem: fs::read_to_string(&options.tls_cert_file)?,
        key_pem: fs::read_to_string(&options.tls_private_key_file)?,
    };
    let tls = ServerTls::from_version(TlsVersion::default(), &identity, None)?
        .with_proxies(&proxies.ca_pem)?;
    let address = SocketAddr::new(options.bind_address, options.secure_port);
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving");

    let cluster = WebhookAuthorizer::new(&delegated(kubeconfig)?).await?;
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .resources(resources())
        // The namespaces are the cluster's.
        .admission_plugins(&[], &["NamespaceLifecycle"])
        .request_headers(proxies.headers)
        .authorization_modes(vec![AuthorizationMode::Other(Arc::new(cluster))])
        .start()
        .await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client());
    definitions.create(&PostParams::default(), &flunders()?).await?;

    let shutdown = CancellationToken::new();
    let serving = tokio::spawn({
        let (server, shutdown) = (server.clone(), shutdown.clone());
        async move { server.serve(listener, tls, shutdown).await }
    });
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    server.shutdown().await;
    shutdown.cancel();
    Ok(serving.await?)
}

/// Whom to believe who a user is.
struct Proxies {
    ca_pem: String,
    headers: RequestHeaders,
}

impl Proxies {
    /// What the cluster tells extension servers of its front proxy.
    async fn of(client: &Client) -> Result<Self, Box<dyn std::error::Error>> {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
        let told = maps.get("extension-apiserver-authentication").await?.data.unwrap_or_default();
        let text = |key: &str| told.get(key).cloned().ok_or(format!("it lacks {key}"));
        let list = |key: &str| -> Result<Vec<String>, Box<dyn std::error::Error>> {
            Ok(serde_json::from_str(&text(key)?)?)
        };
        Ok(Self {
            ca_pem: text("requestheader-client-ca-file")?,
            headers: RequestHeaders {
                allowed_names: list("requestheader-allowed-names")?,
                user_headers: list("requestheader-username-headers")?,
                group_headers: list("requestheader-group-headers")?,
                // Kubernetes has them since 1.32.
                uid_headers: list("requestheader-uid-headers").unwrap_or_default(),
                extra_prefixes: list("requestheader-extra-headers-prefix")?,
            },
        })
    }
}

/// The kubeconfig of what is asked what a user may do: the cluster's reviews.
fn delegated(mut kubeconfig: Kubeconfig) -> Result<String, serde_json::Error> {
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        if let Some(server) = &mut cluster.server {
            *server = format!("{}{REVIEWS}", server.trim_end_matches('/'));
        }
    }
    // JSON is YAML.
    serde_json::to_string(&kubeconfig)
}

/// What the server needs besides its own kind: definitions of kinds.
fn resources() -> Resources {
    const GROUPS: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];
    let all = Resources::builtin();
    let needed = all.iter().filter(|row| GROUPS.contains(&row.group.as_ref()));
    needed.map(|row| row.as_ref().clone()).collect()
}

/// The server's own kind.
fn flunders() -> Result<CustomResourceDefinition, serde_json::Error> {
    let reference = serde_json::json!({ "type": "string" });
    let spec = serde_json::json!({
        "type": "object",
        "properties": { "flunderReference": reference, "referenceType": reference },
    });
    let schema = serde_json::json!({ "type": "object", "properties": {
        "spec": spec, "status": { "type": "object" },
    }});
    serde_json::from_value(serde_json::json!({
        "metadata": { "name": "flunders.wardle.example.com" },
        "spec": {
            "group": "wardle.example.com",
            "scope": "Namespaced",
            "names": { "plural": "flunders", "singular": "flunder", "kind": "Flunder" },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": schema },
                "subresources": { "status": {} },
            }],
        },
    }))
}
