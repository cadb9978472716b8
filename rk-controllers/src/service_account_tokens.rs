//! Tokens of ServiceAccounts that are kept in Secrets.
//!
//! # What it promises
//! - A Secret of type `kubernetes.io/service-account-token` that names a ServiceAccount in its
//!   annotation gets `token`, `namespace` and, if the manager knows the certificate authority,
//!   `ca.crt`.
//! - It goes with its ServiceAccount, also when that was made anew under the same name.
//! - With `legacy_token_secrets` every ServiceAccount has one, named `<account>-token-xxxxx` and
//!   listed in its `secrets`, as up to Kubernetes 1.23.
//!
//! Tokens in Secrets never expire. Pods get short-lived ones through the TokenRequest API instead.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ObjectReference, Secret, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use rk_api::{
    client::{Change, Informer},
    rng,
};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Signs tokens that the API server accepts.
#[async_trait]
pub trait TokenSigner: Send + Sync + Debug + 'static {
    /// A token that authenticates as the account for as long as account and Secret exist. An error
    /// is retried with backoff.
    async fn sign(
        &self,
        request: &TokenRequest,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>>;
}

/// For whom a token is, and where it will be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Namespace of the account and the Secret.
    pub namespace: String,
    /// Name of the ServiceAccount.
    pub account: String,
    /// Its UID: a token does not survive its account.
    pub account_uid: String,
    /// Name of the Secret that will hold the token.
    pub secret: String,
}

/// Keys are ServiceAccounts; a Secret belongs to the account that its annotation names.
struct Tokens {
    client: Client,
    signer: Arc<dyn TokenSigner>,
    root_ca: Option<String>,
    legacy: bool,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
}

#[async_trait]
impl Reconciler for Tokens {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let secrets: Vec<_> = self
            .secrets
            .list_in(&key.namespace)
            .into_iter()
            .filter(|secret| account_of(secret).as_ref() == Some(key))
            .collect();
        let Some(account) = self.accounts.get(&key.namespace, &key.name) else {
            return self.account_is_gone(key, secrets).await;
        };
        let account_uid = account.uid().unwrap_or_default();
        let of_another = |secret: &Arc<Secret>| {
            secret.annotations().get(ACCOUNT_UID).is_some_and(|uid| *uid != account_uid)
        };
        let (others, secrets): (Vec<_>, Vec<_>) = secrets.into_iter().partition(of_another);
        for secret in others {
            self.delete(&secret).await?;
        }
        for secret in &secrets {
            self.fill_in(&account, secret).await?;
        }
        if self.legacy && account.metadata.deletion_timestamp.is_none() {
            self.ensure_listed(&account, &secrets).await?;
        }
        Ok(Action::Wait)
    }
}

impl Tokens {
    async fn account_is_gone(
        &self,
        key: &ObjectKey,
        secrets: Vec<Arc<Secret>>,
    ) -> Result<Action, Error> {
        if secrets.is_empty() {
            return Ok(Action::Wait);
        }
        // The cache may be behind a Secret that was made together with its account.
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.namespace);
        if accounts.get_metadata_opt(&key.name).await?.is_some() {
            return Err(Error::NotYet(format!("ServiceAccount {key} is not in the cache yet")));
        }
        for secret in secrets {
            self.delete(&secret).await?;
        }
        Ok(Action::Wait)
    }

    async fn fill_in(&self, account: &ServiceAccount, secret: &Secret) -> Result<(), Error> {
        let namespace = account.namespace().unwrap_or_default();
        let account_uid = account.uid().unwrap_or_default();
        let mut wanted = secret.clone();
        wanted
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(ACCOUNT_UID.into(), account_uid.clone());
        let data = wanted.data.get_or_insert_default();
        let mut put = |key: &str, value: &str| {
            data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()))
        };
        if let Some(root_ca) = &self.root_ca {
            put("ca.crt", root_ca);
        }
        put("namespace", &namespace);
        if data.get("token").is_none_or(|token| token.0.is_empty()) {
            let request = TokenRequest {
                namespace: namespace.clone(),
                account: account.name_any(),
                account_uid,
                secret: secret.name_any(),
            };
            let token = self
                .signer
                .sign(&request)
                .await
                .map_err(|error| Error::NotYet(error.to_string()))?;
            data.insert("token".into(), ByteString(token.into_bytes()));
        }
        let api = Api::namespaced(self.client.clone(), &namespace);
        write::update(&api, secret, &wanted, Part::Main).await?;
        Ok(())
    }

    /// The account lists a token Secret that exists.
    async fn ensure_listed(
        &self,
        account: &ServiceAccount,
        secrets: &[Arc<Secret>],
    ) -> Result<(), Error> {
        let namespace = account.namespace().unwrap_or_default();
        let prefix = format!("{}-token-", account.name_any());
        let listed: Vec<&str> = account
            .secrets
            .iter()
            .flatten()
            .filter_map(|reference| reference.name.as_deref())
            .collect();
        if secrets.iter().any(|secret| listed.contains(&secret.name_any().as_str())) {
            return Ok(());
        }
        // One that was made but not listed before a crash is taken; else the name is one that the
        // account lists already, so that a repeat with a stale cache makes no second Secret.
        let unlisted =
            secrets.iter().map(|secret| secret.name_any()).find(|name| name.starts_with(&prefix));
        let name = match unlisted {
            Some(name) => name,
            None => match listed.iter().find(|name| name.starts_with(&prefix)) {
                Some(name) => {
                    self.create(account, name).await?;
                    return Ok(());
                }
                None => format!("{prefix}{}", rng::suffix(5)),
            },
        };
        let mut wanted = account.clone();
        wanted
            .secrets
            .get_or_insert_default()
            .push(ObjectReference { name: Some(name.clone()), ..Default::default() });
        // Listed first: the write is conditional, so only one of two racing tries makes a Secret.
        let api = Api::namespaced(self.client.clone(), &namespace);
        write::update(&api, account, &wanted, Part::Main).await?;
        self.create(account, &name).await
    }

    async fn create(&self, account: &ServiceAccount, name: &str) -> Result<(), Error> {
        let namespace = account.namespace().unwrap_or_default();
        let annotations = BTreeMap::from([
            (ACCOUNT_NAME.to_owned(), account.name_any()),
            (ACCOUNT_UID.to_owned(), account.uid().unwrap_or_default()),
        ]);
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.clone()),
                annotations: Some(annotations),
                ..Default::default()
            },
            type_: Some(TYPE.into()),
            ..Default::default()
        };
        match Api::namespaced(self.client.clone(), &namespace)
            .create(&PostParams::default(), &secret)
            .await
        {
            Err(there) if error::is_already_exists(&there) => Ok(()),
            Err(going) if error::is_namespace_terminating(&going) => Ok(()),
            result => result.map(drop).map_err(Into::into),
        }
    }

    async fn delete(&self, secret: &Secret) -> Result<(), Error> {
        let api =
            Api::<Secret>::namespaced(self.client.clone(), &secret.namespace().unwrap_or_default());
        write::delete(&api, secret).await.map_err(Into::into)
    }
}

fn account_of(secret: &Secret) -> Option<ObjectKey> {
    let account =
        secret.annotations().get(ACCOUNT_NAME).filter(|_| secret.type_.as_deref() == Some(TYPE))?;
    Some(ObjectKey::new(secret.namespace().unwrap_or_default(), account.clone()))
}

/// The controller, wired up, if there is somebody to sign.
pub(crate) fn controller(name: &'static str, context: &Context) -> Option<Controller> {
    let signer = context.settings.token_signer.clone()?;
    let accounts = context.informers.of::<ServiceAccount>();
    let secrets = context.informers.selected::<Secret>(None, Some(&format!("type={TYPE}")));
    let reconciler = Tokens {
        client: context.client.clone(),
        signer,
        root_ca: context.settings.root_ca.clone(),
        legacy: context.settings.legacy_token_secrets,
        accounts: accounts.clone(),
        secrets: secrets.clone(),
    };
    let controller =
        Controller::new(name, reconciler).reconciles(&accounts).watches(&secrets, |change| {
            let old = match change {
                Change::Updated { old, .. } => account_of(old),
                _ => None,
            };
            old.into_iter().chain(account_of(change.object())).collect()
        });
    Some(controller.workers(context.settings.workers))
}
