//! Signatures of `kube-public/cluster-info`, by which a machine that knows a bootstrap token knows
//! that it is told of the right cluster.
//!
//! # What it promises
//! The ConfigMap has, for each bootstrap token in kube-system that has not expired and may be used
//! for signing, `jws-kubeconfig-<id>`: the detached signature (RFC 7515, appendix F) of what
//! `kubeconfig` says, made with the token's secret. Signatures of other tokens go. Where there is no
//! such ConfigMap, or it has no `kubeconfig`, nothing is signed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt, api::PostParams};
use ring::hmac;
use rk_api::{
    client::{Change, Informer},
    clock,
};
use serde_json::json;

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    token_cleaner::{NAMESPACE as TOKENS, TYPE, expiry},
};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";
const SECRET_NAME: &str = "bootstrap-token-";

struct Signer {
    client: Client,
    infos: Informer<ConfigMap>,
    secrets: Informer<Secret>,
}

#[async_trait]
impl Reconciler for Signer {
    async fn reconcile(&self, _: &ObjectKey) -> Result<Action, Error> {
        let Some(info) = self.infos.get(NAMESPACE, NAME) else { return Ok(Action::Wait) };
        let now = clock::now();
        let tokens = Tokens::of(&self.secrets.list_in(TOKENS), now);
        if let Some(data) = signed(info.data.as_ref(), &tokens.secrets) {
            let mut info = (*info).clone();
            info.data = Some(data);
            let api = Api::<ConfigMap>::namespaced(self.client.clone(), NAMESPACE);
            match api.replace(NAME, &PostParams::default(), &info).await {
                Err(gone) if error::is_not_found(&gone) => {}
                result => drop(result?),
            }
        }
        let until =
            |end: Timestamp| Duration::try_from(end.duration_since(now)).unwrap_or_default();
        Ok(Action::after(tokens.next_expiry.map(until)))
    }
}

/// The tokens to sign with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tokens {
    /// Secrets by id.
    secrets: BTreeMap<String, Vec<u8>>,
    /// When the first of them expires.
    next_expiry: Option<Timestamp>,
}

impl Tokens {
    fn of(secrets: &[Arc<Secret>], now: Timestamp) -> Self {
        let mut tokens = Self::default();
        for secret in secrets {
            let Some((id, value)) = token(secret) else { continue };
            let expires = expiry(secret);
            if expires.is_some_and(|expires| expires <= now) {
                continue;
            }
            tokens.next_expiry = tokens.next_expiry.into_iter().chain(expires).min();
            tokens.secrets.insert(id, value);
        }
        tokens
    }
}

/// Id and secret of a token that may sign.
fn token(secret: &Secret) -> Option<(String, Vec<u8>)> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| Some(data.get(key)?.0.as_slice()).filter(|text| !text.is_empty());
    let id = std::str::from_utf8(text("token-id")?).ok()?;
    let named = secret.metadata.name.as_deref()?.strip_prefix(SECRET_NAME)?;
    let usable = secret.type_.as_deref() == Some(TYPE)
        && named == id
        && text("usage-bootstrap-signing")? == b"true";
    usable.then_some((id.to_owned(), text("token-secret")?.to_vec()))
}

/// The data with the signatures that it should have; `None` when it has them.
fn signed(
    data: Option<&BTreeMap<String, String>>,
    tokens: &BTreeMap<String, Vec<u8>>,
) -> Option<BTreeMap<String, String>> {
    let data = data?;
    let content = data.get(KUBECONFIG)?;
    let kept = data.iter().filter(|(key, _)| !key.starts_with(SIGNATURE));
    let mut wanted: BTreeMap<_, _> = kept.map(|(key, text)| (key.clone(), text.clone())).collect();
    for (id, secret) in tokens {
        wanted.insert(format!("{SIGNATURE}{id}"), signature(content, id, secret));
    }
    (wanted != *data).then_some(wanted)
}

/// A compact JWS with HS256 whose payload is left out.
fn signature(content: &str, id: &str, secret: &[u8]) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let payload = URL_SAFE_NO_PAD.encode(content);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, format!("{header}.{payload}").as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The controller, wired up. Its only key is the ConfigMap's.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let infos = context.informers.selected(None, Some(&format!("metadata.name={NAME}")));
    let secrets = context.informers.selected(None, Some(&format!("type={TYPE}")));
    let reconciler =
        Signer { client: context.client.clone(), infos: infos.clone(), secrets: secrets.clone() };
    let of = |change: &Change<ConfigMap>| change.object().namespace().as_deref() == Some(NAMESPACE);
    Controller::new(name, reconciler).reconciles_if(&infos, of).watches(&secrets, |change| {
        let ours = change.object().namespace().as_deref() == Some(TOKENS);
        if ours { vec![ObjectKey::new(NAMESPACE, NAME)] } else { Vec::new() }
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(name: &str, data: &[(&str, &str)]) -> Arc<Secret> {
        let data = data.iter().map(|(key, text)| ((*key).to_owned(), ByteString((*text).into())));
        let mut secret = Secret {
            type_: Some(TYPE.to_owned()),
            data: Some(data.collect()),
            ..Secret::default()
        };
        secret.metadata.name = Some(name.to_owned());
        Arc::new(secret)
    }

    const SIGNS: (&str, &str) = ("usage-bootstrap-signing", "true");

    #[test]
    fn a_signature_is_a_jws_without_its_payload() {
        // Computed by another implementation of RFC 7515.
        assert_eq!(
            signature("kind: Config\n", "abcdef", b"0123456789abcdef"),
            "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..3ZR7IfHD4V0NLYjj9trDyCFIZSwMzkyMpnxx9vCiSPI"
        );
    }

    #[test]
    fn only_tokens_for_signing_that_last_sign() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let of = |id, more: &[(&'static str, &'static str)]| {
            let mut data = vec![("token-id", id), ("token-secret", "s")];
            data.extend(more);
            secret(&format!("bootstrap-token-{id}"), &data)
        };
        let late = ("expiration", "2030-01-01T00:00:09Z");
        let tokens = Tokens::of(
            &[
                of("signs0", &[SIGNS]),
                of("signs1", &[SIGNS, late]),
                of("other0", &[("usage-bootstrap-authentication", "true")]),
                of("gone00", &[SIGNS, ("expiration", "2029-01-01T00:00:00Z")]),
                secret("bootstrap-token-a", &[("token-id", "b"), ("token-secret", "s"), SIGNS]),
                secret("bootstrap-token-empty0", &[("token-id", "empty0"), SIGNS]),
            ],
            now,
        );
        assert_eq!(tokens.secrets.keys().collect::<Vec<_>>(), ["signs0", "signs1"]);
        assert_eq!(tokens.next_expiry, Some(late.1.parse().unwrap()));
    }

    #[test]
    fn signatures_of_others_go_and_what_is_right_is_not_written() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
        };
        let tokens = BTreeMap::from([("a".to_owned(), b"s".to_vec())]);
        let before = map(&[("kubeconfig", "x"), ("jws-kubeconfig-b", "old"), ("more", "y")]);
        let after = signed(Some(&before), &tokens).unwrap();
        assert_eq!(after.keys().collect::<Vec<_>>(), ["jws-kubeconfig-a", "kubeconfig", "more"]);
        assert_eq!(signed(Some(&after), &tokens), None);
        assert_ne!(signed(Some(&after), &BTreeMap::new()), None);
        assert_eq!(signed(Some(&map(&[("jws-kubeconfig-b", "old")])), &tokens), None);
        assert_eq!(signed(None, &tokens), None);
    }
}
