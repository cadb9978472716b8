//! Bootstrap tokens that have expired.
//!
//! # What it promises
//! A Secret of type `bootstrap.kubernetes.io/token` in kube-system is deleted when the time of its
//! `expiration` has come, or when that is no time; one without it stays.

use std::{collections::BTreeMap, pin::pin};

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use rk_api::{client::Backoff, clock};
use tokio_util::sync::CancellationToken;

use crate::{error, manager::Context};

pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const TYPE: &str = "bootstrap.kubernetes.io/token";
const EXPIRATION: &str = "expiration";

/// Pause before a Secret that could not be deleted is tried again.
const AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// Works until `shutdown`.
pub(crate) async fn run(context: Context, shutdown: CancellationToken) {
    // Its role is of the one namespace: an informer would list all.
    let api = Api::<Secret>::namespaced(context.client, NAMESPACE);
    shutdown.run_until_cancelled(clean(api)).await;
}

/// A Secret that will expire.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    uid: Option<String>,
    expires: Timestamp,
}

async fn clean(api: Api<Secret>) {
    let config = watcher::Config::default().fields(&format!("type={TYPE}"));
    let mut events = pin!(watcher(api.clone(), config).backoff(Backoff::for_watches()));
    let mut tokens: BTreeMap<String, Token> = BTreeMap::new();
    loop {
        let next = tokens.values().map(|token| token.expires).min();
        tokio::select! {
            biased;
            event = events.next() => match event {
                Some(Ok(event)) => note(&mut tokens, event),
                Some(Err(error)) => tracing::debug!(%error, "bootstrap tokens are not watched"),
                None => return,
            },
            () = until(next) => {
                let now = clock::now();
                for (name, token) in &mut tokens {
                    if token.expires <= now && !delete(&api, name, token).await {
                        token.expires = now.saturating_add(AGAIN_AFTER).unwrap_or(now);
                    }
                }
                tokens.retain(|_, token| token.expires > now);
            }
        }
    }
}

/// Keeps in mind what a change says.
fn note(tokens: &mut BTreeMap<String, Token>, event: Event<Secret>) {
    match event {
        Event::Init => tokens.clear(),
        Event::InitDone => {}
        Event::Delete(secret) => drop(tokens.remove(&secret.name_any())),
        Event::Apply(secret) | Event::InitApply(secret) => match expiry(&secret) {
            Some(expires) => {
                let token = Token { uid: secret.uid(), expires };
                tokens.insert(secret.name_any(), token);
            }
            None => drop(tokens.remove(&secret.name_any())),
        },
    }
}

/// When a token expires; long ago when what it says is no time, never when it says nothing.
pub(crate) fn expiry(secret: &Secret) -> Option<Timestamp> {
    let text = &secret.data.as_ref()?.get(EXPIRATION)?.0;
    if text.is_empty() {
        return None;
    }
    let text = std::str::from_utf8(text).unwrap_or_default();
    Some(text.parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Waits for a time; for ever when there is none.
async fn until(time: Option<Timestamp>) {
    match time {
        Some(time) => {
            let left = time.duration_since(clock::now());
            tokio::time::sleep(left.try_into().unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

/// Deletes a Secret, if it is still the same one. Whether it is gone.
async fn delete(api: &Api<Secret>, name: &str, token: &Token) -> bool {
    let preconditions = Preconditions { uid: token.uid.clone(), resource_version: None };
    let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(name, &options).await {
        Ok(_) => true,
        Err(gone) if error::is_not_found(&gone) || error::is_conflict(&gone) => true,
        Err(error) => {
            tracing::warn!(name, %error, "an expired bootstrap token was not deleted");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(name: &str, expiration: Option<&str>) -> Secret {
        let data = expiration.map(|text| (EXPIRATION.to_owned(), ByteString(text.into())));
        let mut secret = Secret { data: Some(data.into_iter().collect()), ..Secret::default() };
        secret.metadata.name = Some(name.to_owned());
        secret
    }

    #[test]
    fn a_token_expires_when_it_says_and_at_once_when_it_says_nonsense() {
        let at = "2030-01-01T00:00:00Z";
        assert_eq!(expiry(&secret("a", Some(at))), Some(at.parse().unwrap()));
        assert_eq!(expiry(&secret("a", Some("soon"))), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(expiry(&secret("a", Some(""))), None);
        assert_eq!(expiry(&secret("a", None)), None);
    }

    #[test]
    fn a_token_that_is_prolonged_deleted_or_listed_no_more_is_not_in_mind() {
        let mut tokens = BTreeMap::new();
        note(&mut tokens, Event::Apply(secret("a", Some("2030-01-01T00:00:00Z"))));
        note(&mut tokens, Event::Apply(secret("b", Some("2031-01-01T00:00:00Z"))));
        note(&mut tokens, Event::Apply(secret("a", None)));
        assert_eq!(tokens.keys().collect::<Vec<_>>(), ["b"]);
        note(&mut tokens, Event::Init);
        assert!(tokens.is_empty());
    }
}
