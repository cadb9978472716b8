//! The way to the API server: a kubeconfig, or a certificate that is asked for with another one, and
//! kept up to date.

use rk::{
    cri::agent::certificates::{ClientSlot, NodeCertificate, Purpose},
    kube::{
        Client, Config,
        config::{AuthInfo, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedContext},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    files::{File, wrong},
    options::Options,
};

/// The name of what a bootstrap writes into the kubeconfig.
const NAME: &str = "default-auth";
const CONTEXT: &str = "default-context";

/// A client that has a certificate of its own sooner or later.
pub(crate) struct Connection {
    slot: ClientSlot,
    kubeconfig: Kubeconfig,
    file: File,
    /// The certificate that is renewed, if one is.
    certificate: Option<NodeCertificate>,
}

/// Finds the way, and waits for a certificate where one is missing.
pub(crate) async fn connect(options: &Options) -> Result<Connection, String> {
    let certificate = NodeCertificate::new(&options.node, &options.certificates, Purpose::Client);
    let file = options.kubeconfig.clone();
    let usable = match file.path.exists() {
        true => Some(read(&file)?).filter(|found| !names_lost_file(found)),
        false => None,
    };
    let kubeconfig = match (usable, &options.bootstrap) {
        (Some(kubeconfig), _) => kubeconfig,
        (None, Some(bootstrap)) => bootstrapped(bootstrap, &file, &certificate).await?,
        (None, None) => {
            let why = "there is no such file, and no --bootstrap-kubeconfig to ask for one with";
            return Err(wrong(&file, &why));
        }
    };
    let rotated = options.configuration.rotate_certificates.then_some(certificate);
    let kept = rotated.as_ref().filter(|certificate| certificate.load().is_some());
    let now = match kept {
        // Renewed by an earlier run.
        Some(certificate) => with_certificate(&kubeconfig, certificate),
        None => kubeconfig.clone(),
    };
    let slot = ClientSlot::new(client(now, &file).await?);
    Ok(Connection { slot, kubeconfig, file, certificate: rotated })
}

impl Connection {
    pub(crate) fn client(&self) -> Client {
        self.slot.client()
    }

    /// Renews the client's certificate again and again, until `shutdown`.
    pub(crate) async fn keep_certificate(self, shutdown: CancellationToken) {
        let Some(certificate) = &self.certificate else { return };
        let renew = async {
            loop {
                let current = certificate.load();
                certificate.renewed(current.as_ref(), &self.client()).await;
                let renewed = with_certificate(&self.kubeconfig, certificate);
                match client(renewed, &self.file).await {
                    Ok(client) => {
                        tracing::info!("the client's certificate is renewed");
                        self.slot.replace(client);
                    }
                    Err(error) => tracing::error!("the renewed certificate is of no use: {error}"),
                }
            }
        };
        shutdown.run_until_cancelled(renew).await;
    }
}

fn read(file: &File) -> Result<Kubeconfig, String> {
    Kubeconfig::read_from(&file.path).map_err(|error| wrong(file, &error))
}

/// Whether a kubeconfig is for a certificate that is no longer there.
fn names_lost_file(kubeconfig: &Kubeconfig) -> bool {
    kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()).any(|user| {
        let file = user.client_certificate.as_ref();
        file.is_some_and(|file| !std::path::Path::new(file).exists())
    })
}

async fn client(kubeconfig: Kubeconfig, file: &File) -> Result<Client, String> {
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let config = config.map_err(|error| wrong(file, &error))?;
    Client::try_from(config).map_err(|error| wrong(file, &error))
}

/// Asks for a certificate with the kubeconfig of a bootstrap, and writes one with it.
async fn bootstrapped(
    bootstrap: &File,
    file: &File,
    certificate: &NodeCertificate,
) -> Result<Kubeconfig, String> {
    let first = read(bootstrap)?;
    if certificate.load().is_none() {
        tracing::info!("asking for a certificate");
        let client = client(first.clone(), bootstrap).await?;
        certificate.renewed(None, &client).await;
    }
    let mut kubeconfig = with_certificate(&first, certificate);
    // Nothing of the bootstrap's own credentials is left.
    kubeconfig.auth_infos.retain(|named| named.name == NAME);
    kubeconfig.contexts.retain(|named| named.name == CONTEXT);
    let text = serde_json::to_string_pretty(&kubeconfig).map_err(|error| wrong(file, &error))?;
    if let Some(parent) = file.path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| wrong(file, &error))?;
    }
    let unfinished = file.path.with_extension("tmp");
    std::fs::write(&unfinished, text)
        .and_then(|()| std::fs::rename(&unfinished, &file.path))
        .map_err(|error| wrong(file, &error))?;
    Ok(kubeconfig)
}

/// The same way to the same server, with this certificate.
fn with_certificate(kubeconfig: &Kubeconfig, certificate: &NodeCertificate) -> Kubeconfig {
    let mut changed = kubeconfig.clone();
    let path = certificate.path().display().to_string();
    let current = changed.current_context.clone().unwrap_or_default();
    let before = changed.contexts.iter().find(|named| named.name == current);
    let cluster = before
        .and_then(|named| Some(named.context.as_ref()?.cluster.clone()))
        .or_else(|| changed.clusters.first().map(|cluster| cluster.name.clone()))
        .unwrap_or_default();
    changed.auth_infos.retain(|named| named.name != NAME);
    changed.auth_infos.push(NamedAuthInfo {
        name: NAME.to_owned(),
        auth_info: Some(AuthInfo {
            client_certificate: Some(path.clone()),
            client_key: Some(path),
            ..AuthInfo::default()
        }),
        other: Default::default(),
    });
    changed.contexts.retain(|named| named.name != CONTEXT);
    changed.contexts.push(NamedContext {
        name: CONTEXT.to_owned(),
        context: Some(Context { cluster, user: Some(NAME.to_owned()), ..Context::default() }),
        other: Default::default(),
    });
    changed.current_context = Some(CONTEXT.to_owned());
    changed
}
