//! What listens: the kubelet's API over HTTPS, and its health on loopback.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rk::{
    api::server::{Identity, Pki, ServerCertificate, ServerTls, TlsVersion},
    cri::agent::{
        Access, Agent,
        certificates::{NodeCertificate, Purpose},
    },
    kube::Client,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    connect::Connection,
    files::{File, Pair, read_pair},
    options::Options,
};

/// Begins to listen, so that a port in use or a wrong file ends the start.
pub(crate) async fn listen(
    options: &Options,
    connection: &Connection,
    agent: &Agent,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let configuration = &options.configuration;
    if configuration.healthz_port != 0 {
        let at = SocketAddr::new(configuration.healthz_bind_address, configuration.healthz_port);
        let listener = bind(at, "healthzPort").await?;
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            shutdown.run_until_cancelled(health(listener)).await;
        });
    }
    if !configuration.enable_server {
        return Ok(());
    }
    let client = connection.client();
    let certificate = certificate(options, &client, tasks, shutdown)?;
    let file = &configuration.authentication.x509.client_ca_file;
    let authority = match file.as_str() {
        "" => None,
        file => Some(
            std::fs::read_to_string(file)
                .map_err(|error| format!("authentication.x509.clientCAFile: {file}: {error}"))?,
        ),
    };
    let version = match configuration.tls_min_version.as_str() {
        "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => TlsVersion::Tls12,
        "VersionTLS13" => TlsVersion::Tls13,
        other => return Err(format!("tlsMinVersion: {other} is unknown")),
    };
    let tls = ServerTls::rotating(version, certificate, authority.as_deref())
        .map_err(|error| format!("authentication.x509.clientCAFile: {file}: {error}"))?;
    let at = SocketAddr::new(configuration.address, configuration.port);
    let listener = bind(at, "port").await?;
    let access = Access::new(&options.node, configuration, &client);
    tasks.spawn(agent.kubelet_api().serve_https(listener, tls, access, shutdown.clone()));
    Ok(())
}

async fn bind(at: SocketAddr, field: &str) -> Result<TcpListener, String> {
    TcpListener::bind(at).await.map_err(|error| format!("{field}: {at}: {error}"))
}

/// The certificate that is shown: a file's, one that the cluster signs, or one of nobody's.
fn certificate(
    options: &Options,
    client: &Client,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Result<Arc<ServerCertificate>, String> {
    let configuration = &options.configuration;
    let use_it = |identity: &Identity| {
        ServerCertificate::new(identity)
            .map(Arc::new)
            .map_err(|error| format!("tlsCertFile: {error}"))
    };
    if !configuration.tls_cert_file.is_empty() {
        let file = |flag, path: &String| File { flag, path: path.into() };
        return use_it(&read_pair(&Pair {
            certificate: file("tls-cert-file", &configuration.tls_cert_file),
            key: file("tls-private-key-file", &configuration.tls_private_key_file),
        })?);
    }
    let purpose =
        Purpose::Serving { names: vec![options.node.clone()], addresses: options.node_ips.clone() };
    let kept = NodeCertificate::new(&options.node, &options.certificates, purpose);
    let known = kept.load().filter(|_| configuration.server_tls_bootstrap);
    let first = match &known {
        Some(known) => known.clone(),
        None => {
            let mut names = vec![options.node.clone()];
            names.extend(options.node_ips.iter().map(ToString::to_string));
            let made = Pki::generate().and_then(|pki| pki.server(&options.node, &names));
            made.map_err(|error| error.to_string())?
        }
    };
    let shown = use_it(&first)?;
    if configuration.server_tls_bootstrap {
        let (shown, client, shutdown) = (shown.clone(), client.clone(), shutdown.clone());
        let renew = async move {
            let mut current = known;
            loop {
                let renewed = kept.renewed(current.as_ref(), &client).await;
                match shown.replace(&renewed) {
                    Ok(()) => {
                        tracing::info!("the certificate of the kubelet's API is the cluster's")
                    }
                    Err(error) => tracing::error!(%error, "a certificate is of no use"),
                }
                current = Some(renewed);
            }
        };
        tasks.spawn(async move {
            shutdown.run_until_cancelled_owned(renew).await;
        });
    }
    Ok(shown)
}

/// Answers `ok` to whoever asks for its health.
async fn health(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let answer = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
            let known = matches!(request.uri().path(), "/healthz" | "/healthz/ping");
            let body = if known { "ok" } else { "404 page not found\n" };
            let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
            if !known {
                *response.status_mut() = StatusCode::NOT_FOUND;
            }
            Ok::<_, Infallible>(response)
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}
