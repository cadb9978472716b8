//! From options to a server: reads the files that they name.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
};

use rk::{
    api::{
        resources::Resources,
        server::{
            ApiServer, Builder, ExtensionAuthentication, Pki, ServerTls, TlsNodes, TokenKey,
            audit::{AuditConfig, AuditWebhook, Policy},
            authn::{Oidc, TokenList, WebhookTokens},
            authz::{AlwaysAllow, AlwaysDeny, AuthorizationMode, WebhookAuthorizer},
            pki::Identity,
        },
    },
    store::EmbeddedStore,
};

use crate::{
    files::{File, read, read_pair, wrong},
    options::{Accounts, Audit, Mode, Options, Store},
};

/// The address that others are told.
pub(crate) fn advertised(options: &Options) -> IpAddr {
    match options.advertise {
        Some(address) => address,
        None if !options.bind.is_unspecified() => options.bind,
        None => own_address().unwrap_or(Ipv4Addr::LOCALHOST.into()),
    }
}

/// The address that this machine would speak to others from. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address for documentation, RFC 5737.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// TLS of the server.
pub(crate) fn tls(options: &Options) -> Result<ServerTls, String> {
    let identity = match &options.tls {
        Some(pair) => read_pair(pair)?,
        None => self_signed(&options.cert_dir, options)?,
    };
    let client_ca = options.client_ca.as_ref().map(read).transpose()?;
    let tls = ServerTls::from_version(options.tls_version, &identity, client_ca.as_deref())
        .map_err(|error| {
            format!("--tls-cert-file, --tls-private-key-file, --client-ca-file: {error}")
        })?;
    match &options.proxies {
        Some((file, _)) => tls.with_proxies(&read(file)?).map_err(|error| wrong(file, &error)),
        None => Ok(tls),
    }
}

/// The certificate in a folder, which is made if it is not there.
fn self_signed(directory: &Path, options: &Options) -> Result<Identity, String> {
    let (certificate, key) = (directory.join("apiserver.crt"), directory.join("apiserver.key"));
    let failed = |path: &Path, error: &dyn std::fmt::Display| {
        format!("--cert-dir={}: {}: {error}", directory.display(), path.display())
    };
    if certificate.exists() && key.exists() {
        let text = |path: &Path| fs::read_to_string(path).map_err(|error| failed(path, &error));
        return Ok(Identity { certificate_pem: text(&certificate)?, key_pem: text(&key)? });
    }
    let mut names = vec![advertised(options).to_string(), "127.0.0.1".into(), "localhost".into()];
    names.extend((!options.bind.is_unspecified()).then(|| options.bind.to_string()));
    names.extend(options.host_name.clone());
    for name in ["", ".default", ".default.svc", ".default.svc.cluster.local"] {
        names.push(format!("kubernetes{name}"));
    }
    let pki = Pki::generate().map_err(|error| error.to_string())?;
    let identity = pki.server("kube-apiserver", &names).map_err(|error| error.to_string())?;
    // The authority goes with it: that is what clients are given.
    let chain = format!("{}{}", identity.certificate_pem, pki.ca_pem());
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    write_private(&key, &identity.key_pem).map_err(|error| failed(&key, &error))?;
    fs::write(&certificate, &chain).map_err(|error| failed(&certificate, &error))?;
    Ok(Identity { certificate_pem: chain, key_pem: identity.key_pem })
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

/// The store.
pub(crate) async fn store(options: &Options) -> Result<Arc<dyn rk::store::Store>, String> {
    match &options.store {
        Store::Directory(directory) => {
            let opened = EmbeddedStore::open(directory, Default::default()).await;
            let store =
                opened.map_err(|error| format!("--data-dir={}: {error}", directory.display()))?;
            Ok(Arc::new(store))
        }
        Store::Etcd(etcd) => {
            let store = etcd_store(etcd).await?;
            store.revision().await.map_err(|error| format!("--etcd-servers: {error}"))?;
            Ok(store)
        }
    }
}

#[cfg(feature = "etcd")]
async fn etcd_store(etcd: &crate::options::Etcd) -> Result<Arc<dyn rk::store::Store>, String> {
    use rk::store::{EtcdOptions, EtcdStore, EtcdTls, Keyspace};
    let ca = etcd.ca.as_ref().map(read).transpose()?.unwrap_or_default();
    let identity = etcd.identity.as_ref().map(read_pair).transpose()?;
    let identity =
        identity.map(|pair| (pair.certificate_pem.into_bytes(), pair.key_pem.into_bytes()));
    let options = EtcdOptions {
        endpoints: etcd.servers.clone(),
        tls: Some(EtcdTls { ca: ca.into_bytes(), identity }),
        keyspace: Keyspace::moved("/registry/", format!("{}/", etcd.prefix)),
        compact_every: etcd.compact_every,
        ..EtcdOptions::default()
    };
    let store = EtcdStore::open(options).await;
    Ok(Arc::new(store.map_err(|error| format!("--etcd-servers: {error}"))?))
}

#[cfg(not(feature = "etcd"))]
async fn etcd_store(etcd: &crate::options::Etcd) -> Result<Arc<dyn rk::store::Store>, String> {
    let _ = (&etcd.servers, &etcd.ca, &etcd.identity, &etcd.prefix, &etcd.compact_every);
    Err("--etcd-servers: this program was built without etcd; build it with --features etcd".into())
}

/// The server, but for its store and its port.
pub(crate) async fn builder(
    options: &Options,
    store: Arc<dyn rk::store::Store>,
    port: u16,
) -> Result<Builder, String> {
    let mut builder = ApiServer::builder(store)
        // The ports of a control plane on one machine.
        .component_at("controller-manager", "https://127.0.0.1:10257/healthz")
        .component_at("scheduler", "https://127.0.0.1:10259/healthz")
        .resources(resources(options))
        .event_ttl(options.event_ttl)
        .anonymous(options.anonymous)
        .bootstrap_tokens(options.bootstrap_tokens)
        .service_cidr(&options.service_range)
        .node_port_range(options.node_ports.clone())
        .allow_privileged(options.privileged)
        .route_to_endpoints(options.route_to_endpoints)
        .priority_and_fairness(options.fairness)
        .max_in_flight(options.in_flight.0, options.in_flight.1)
        .require_service_accounts(!options.disabled_plugins.iter().any(|p| p == "ServiceAccount"))
        .admission_plugins(&names(&options.enabled_plugins), &names(&options.disabled_plugins))
        .audit(audit(&options.audit)?);
    if let Some(pair) = &options.aggregator {
        builder = builder.proxy_client(read_pair(pair)?);
    }
    let text = |file: Option<&File>| file.map(read).transpose().map(Option::unwrap_or_default);
    builder = builder.extension_authentication(ExtensionAuthentication {
        client_ca_pem: text(options.client_ca.as_ref())?,
        request_header_ca_pem: text(options.proxies.as_ref().map(|(file, _)| file))?,
    });
    if let Some(file) = &options.plugin_config {
        let beside = |path: &Path| {
            let path = file.path.parent().unwrap_or(Path::new("")).join(path);
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let told = crate::plugins::told(&read(file)?, beside);
        let told = told.map_err(|error| wrong(file, &error))?;
        let (defaults, exemptions) = told.pod_security;
        builder = builder.pod_security_defaults(defaults).pod_security_exemptions(exemptions);
        builder = builder.resource_quota_limits(told.resource_quota_limits);
        if let Some(limits) = told.event_rate_limits {
            builder = builder.event_rate_limits(limits);
        }
        if let Some(policy) = told.image_policy {
            builder = builder.image_policy(policy);
        }
    }
    let own = advertised(options);
    if options.among_endpoints && own.is_loopback() {
        tracing::info!("{own} is of no use to others: the Service kubernetes has no endpoint here");
    } else if options.among_endpoints {
        builder = builder.advertise(SocketAddr::new(own, port));
    }
    builder = authentication(options, builder).await?;
    let mut modes = Vec::new();
    for mode in &options.modes {
        modes.push(match mode {
            Mode::Node => AuthorizationMode::Node,
            Mode::Rbac => AuthorizationMode::Rbac,
            Mode::AlwaysAllow => AuthorizationMode::Other(Arc::new(AlwaysAllow)),
            Mode::AlwaysDeny => AuthorizationMode::Other(Arc::new(AlwaysDeny)),
            Mode::Webhook(file) => {
                let asked = WebhookAuthorizer::new(&read(file)?).await;
                AuthorizationMode::Other(Arc::new(asked.map_err(|error| wrong(file, &error))?))
            }
        });
    }
    builder = builder.authorization_modes(modes);
    if let Some(kubelets) = &options.kubelets {
        let identity = read_pair(&kubelets.identity)?;
        let nodes = match &kubelets.ca {
            Some(file) => TlsNodes::new(&identity, &read(file)?),
            None => TlsNodes::trusting_anybody(&identity),
        };
        let mut nodes = nodes.map_err(|error| wrong(&kubelets.identity.certificate, &error))?;
        if !kubelets.addresses.is_empty() {
            nodes = nodes.with_preferred_addresses(kubelets.addresses.clone());
        }
        builder = builder.node_connector(Arc::new(nodes));
    }
    Ok(builder)
}

fn names(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// The kinds of the versions that are served.
fn resources(options: &Options) -> Resources {
    let all = Resources::builtin().with_pod_presets();
    let served = all.iter().filter(|row| options.versions.serves(&row.group, &row.version));
    served.map(|row| row.as_ref().clone()).collect()
}

async fn authentication(options: &Options, mut builder: Builder) -> Result<Builder, String> {
    if let Some(file) = &options.tokens {
        let tokens = TokenList::parse(&read(file)?).map_err(|error| wrong(file, &error))?;
        builder = builder.authenticator(Arc::new(tokens));
    }
    if let Some((config, ca)) = &options.oidc {
        let mut config = config.clone();
        config.ca_pem = ca.as_ref().map(read).transpose()?;
        let oidc = Oidc::new(config).map_err(|error| format!("--oidc-issuer-url: {error}"))?;
        builder = builder.authenticator(Arc::new(oidc));
    }
    if let Some(file) = &options.token_webhook {
        let asked = WebhookTokens::new(&read(file)?).await.map_err(|error| wrong(file, &error))?;
        builder = builder.authenticator(Arc::new(asked));
    }
    if let Some((_, headers)) = &options.proxies {
        builder = builder.request_headers(headers.clone());
    }
    Ok(match token_key(&options.accounts)? {
        Some(key) => builder.token_key(key),
        None => builder,
    })
}

/// The key of service-account tokens; `None` when one is to be made.
fn token_key(accounts: &Accounts) -> Result<Option<TokenKey>, String> {
    let mut key = match &accounts.signing_key {
        Some(file) => TokenKey::from_pem(&read(file)?).map_err(|error| wrong(file, &error))?,
        None => {
            tracing::warn!("no --service-account-signing-key-file: tokens end with this server");
            TokenKey::generate().map_err(|error| error.to_string())?
        }
    };
    if let Some((first, others)) = accounts.issuers.split_first() {
        key = key.with_issuer(first);
        key = others.iter().fold(key, |key, issuer| key.also_issued_by(issuer));
    }
    if !accounts.keys.is_empty() {
        let mut pems = Vec::new();
        for file in &accounts.keys {
            let pem = read(file)?;
            // Alone, so that an error names the file.
            key.clone().also_verifying(&pem).map_err(|error| wrong(file, &error))?;
            pems.push(pem);
        }
        let listed = key.only_verifying(pems.iter().map(String::as_str));
        key = listed.map_err(|error| format!("--service-account-key-file: {error}"))?;
    }
    if let Some(uri) = &accounts.jwks_uri {
        key = key.with_jwks_uri(uri);
    }
    if let Some(longest) = accounts.longest {
        key = key.with_max_expiration(longest);
    }
    key = key.extending_expiration(accounts.extends);
    Ok(Some(key.with_audiences(accounts.audiences.clone())))
}

fn audit(audit: &Audit) -> Result<AuditConfig, String> {
    let mut config = AuditConfig { log: audit.log.clone(), ..AuditConfig::default() };
    if let Some(file) = &audit.policy {
        let policy = Policy::parse(&read(file)?).map_err(|error| wrong(file, &error))?;
        config.policy = Some(policy);
    }
    if let Some((file, mode, backoff)) = &audit.webhook {
        let mut webhook = AuditWebhook::new(read(file)?);
        webhook.mode = mode.unwrap_or(webhook.mode);
        webhook.initial_backoff = backoff.unwrap_or(webhook.initial_backoff);
        config.webhook = Some(webhook);
    }
    Ok(config)
}
