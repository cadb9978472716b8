//! From options to a manager: reads the files that they name.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use rk::{
    api::server::{Pki, TokenKey},
    controllers::{
        AccountClients, CertificateRequest, CertificateSigner, Manager, TokenRequest, TokenSigner,
    },
    kube::{
        Client, Config,
        config::{KubeConfigOptions, Kubeconfig},
    },
};

use crate::{
    files::{File, read, read_pair, wrong},
    options::{Options, Signing},
    throttle::limited,
};

/// How to reach the API server.
pub(crate) async fn config(options: &Options) -> Result<Config, String> {
    let mut config = match &options.kubeconfig {
        Some(file) => of_file(file).await?,
        None => Config::incluster()
            .map_err(|error| format!("without --kubeconfig this has to run in a Pod: {error}"))?,
    };
    if let Some(url) = &options.master {
        config.cluster_url = url.parse().map_err(|_| format!("--master={url} is not a URL"))?;
    }
    Ok(config)
}

/// What a kubeconfig says.
async fn of_file(file: &File) -> Result<Config, String> {
    let kubeconfig = Kubeconfig::read_from(&file.path).map_err(|error| wrong(file, &error))?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| wrong(file, &error))
}

/// A client with a kubeconfig.
pub(crate) async fn client_of(file: &File) -> Result<Client, String> {
    Client::try_from(of_file(file).await?).map_err(|error| wrong(file, &error))
}

/// The manager, and the authority that the API server's clients trust.
pub(crate) fn manager(options: &Options, config: Config) -> Result<Manager, String> {
    let limit = |client| match options.limit {
        Some(limit) => limited(client, limit),
        None => client,
    };
    let usable = |error| format!("--kubeconfig: {error}");
    let client = limit(Client::try_from(config.clone()).map_err(usable)?);
    let mut manager = Manager::builder(client.clone())
        .controllers(&options.controllers)
        .autoscaler(options.autoscaler.clone());
    for (controller, workers) in &options.workers {
        manager = manager.workers_of(controller, *workers).map_err(|error| error.to_string())?;
    }
    if options.own_accounts {
        let accounts = AccountClients::new(config, client).map_err(usable)?;
        let rate = options.limit;
        manager = manager.credentials(move |name| {
            let client = accounts.client(name);
            rate.map_or(client.clone(), |rate| limited(client, rate))
        });
    }
    if let Some(election) = &options.election {
        manager = manager.leader_election(election.clone());
    }
    if let Some((range, mask)) = &options.node_ranges {
        manager = manager.cluster_cidr(range, *mask);
    }
    if let Some(period) = options.legacy_tokens {
        manager = manager.legacy_token_clean_up_period(period);
    }
    if let Some(period) = options.node_monitor_period {
        manager = manager.node_monitor_period(period);
    }
    if let Some(period) = options.node_monitor_grace_period {
        manager = manager.node_monitor_grace_period(period);
    }
    if let Some(threshold) = options.ended_pods {
        manager = manager.terminated_pod_gc_threshold(threshold);
    }
    if let Some(file) = &options.root_ca {
        manager = manager.root_ca(read(file)?);
    }
    if let Some(file) = &options.token_key {
        let key = TokenKey::from_pem(&read(file)?).map_err(|error| wrong(file, &error))?;
        manager = manager.token_signer(Arc::new(Tokens(key)));
    }
    if let Some(duration) = options.signing.duration {
        manager = manager.certificate_duration(duration);
    }
    if let Some(issuers) = issuers(&options.signing)? {
        manager = manager.certificate_signer(Arc::new(issuers));
    }
    manager.build().map_err(|error| format!("--controllers and others: {error}"))
}

/// Signs tokens that are kept in Secrets.
#[derive(Debug)]
struct Tokens(TokenKey);

type SignError = Box<dyn std::error::Error + Send + Sync>;

#[async_trait]
impl TokenSigner for Tokens {
    async fn sign(&self, request: &TokenRequest) -> Result<String, SignError> {
        let account = (request.account.as_str(), request.account_uid.as_str());
        self.0
            .sign_for_secret(&request.namespace, account, &request.secret)
            .ok_or_else(|| "the system has no randomness to sign a token with".into())
    }
}

/// Authorities by the signers that they are; the one of no name is all of them.
#[derive(Debug)]
struct Issuers(BTreeMap<&'static str, Pki>);

fn issuers(signing: &Signing) -> Result<Option<Issuers>, String> {
    let mut issuers = BTreeMap::new();
    for (signer, pair) in &signing.authorities {
        let identity = read_pair(pair)?;
        let authority = Pki::from_pem(&identity.certificate_pem, &identity.key_pem);
        let authority = authority.map_err(|error| {
            format!("{}, and {}", wrong(&pair.certificate, &error), pair.key.path.display())
        })?;
        issuers.insert(*signer, authority);
    }
    Ok((!issuers.is_empty()).then_some(Issuers(issuers)))
}

#[async_trait]
impl CertificateSigner for Issuers {
    async fn sign(&self, request: &CertificateRequest) -> Result<String, SignError> {
        let authority = self.0.get(request.signer_name.as_str()).or_else(|| self.0.get(""));
        let authority =
            authority.ok_or_else(|| format!("{} has no authority here", request.signer_name))?;
        Ok(authority.sign_request(&request.pem, &request.usages, request.lifetime)?)
    }
}
